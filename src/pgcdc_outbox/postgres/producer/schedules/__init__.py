"""Schedules in the database: jobs that are enqueued again and again."""
