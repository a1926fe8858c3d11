"""PostgreSQL: the stream, the tables, and what keeps them."""
