"""Measurements on a real server: ratios first, because machines differ."""
