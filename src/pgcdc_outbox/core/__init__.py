"""Decisions: pure, without a clock, chance or I/O of their own."""
