"""The demonstration: orders on a server of its own, and a count of what became of them."""
