"""`python -m pgcdc_outbox`."""

from pgcdc_outbox.cli.main import main

main()
