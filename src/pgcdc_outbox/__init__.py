"""A transactional outbox for PostgreSQL: jobs committed with your rows, read from the log."""
