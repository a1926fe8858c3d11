"""Ready-made observers of events."""
