"""The partitions of the outbox: made ahead, filled, dropped when settled."""
