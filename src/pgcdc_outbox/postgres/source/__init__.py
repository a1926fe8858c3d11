"""The source of jobs: the slot, the log, and the table behind them."""
