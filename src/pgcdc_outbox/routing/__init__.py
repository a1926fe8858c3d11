"""Handlers by topic: a `Router` is itself one handler, and calls functions with typed arguments.

It knows the consumer's ports, and nothing of PostgreSQL.
"""
