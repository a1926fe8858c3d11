"""Where outcomes are kept: failures, dead letters, and their way back."""
