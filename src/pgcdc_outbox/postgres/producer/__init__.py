"""Enqueueing: in the caller's transaction, or in one of its own."""
