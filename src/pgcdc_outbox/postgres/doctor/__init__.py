"""What a person would check before trusting an outbox, and how to mend what is wrong."""
