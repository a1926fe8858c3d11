"""Handle, record, then acknowledge: the orchestration, over ports."""
