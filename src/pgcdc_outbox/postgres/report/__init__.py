"""What a person or a monitor wants to know."""
