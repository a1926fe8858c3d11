"""Single jobs: where they are, what became of them, taken back, and put in line again."""
