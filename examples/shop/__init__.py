"""A shop: what a service with an outbox looks like, in five small files."""
