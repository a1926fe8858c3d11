"""Measuring an outbox on the user's own database, with its disk and its network."""
