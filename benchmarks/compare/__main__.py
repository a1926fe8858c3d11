"""`python -m benchmarks.compare`: other libraries beside ours. Needs a package index."""

from typing import Any

import click

from benchmarks.command import harness_options, measure_all
from benchmarks.compare.case import PEERS, Peers


@click.command()
@click.argument("peers", nargs=-1, metavar="[PEER]...", type=click.Choice(PEERS))
@harness_options
def main(peers: tuple[str, ...], **options: Any) -> None:
    """Drain jobs with other libraries, ours, and a replication cursor of psycopg2.

    Each library is installed into an environment of its own, the first time.
    """
    Peers.chosen = peers or PEERS
    measure_all([Peers], **options)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.compare")
