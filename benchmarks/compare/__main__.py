"""`python -m benchmarks.compare`: other libraries beside ours. Needs a package index."""

from typing import Any

import click

from benchmarks.command import harness_options, measure_all
from benchmarks.compare.case import PEERS, Peers
from benchmarks.compare.peer import NoInterpreter, Peer


@click.command()
@click.argument("peers", nargs=-1, metavar="[PEER]...", type=click.Choice(PEERS))
@harness_options
def main(peers: tuple[str, ...], **options: Any) -> None:
    """Drain jobs with other libraries, ours, and a replication cursor of psycopg2.

    Each library is installed into an environment of its own, the first time. If none is named,
    those are left out that need a newer Python than there is.
    """
    Peers.chosen = tuple(name for name in peers or PEERS if _can_run(name, wanted=bool(peers)))
    measure_all([Peers], **options)


def _can_run(name: str, *, wanted: bool) -> bool:
    try:
        Peer(name)
    except NoInterpreter as error:
        if wanted:
            raise click.ClickException(str(error)) from error

        click.echo(f"left out: {error}", err=True)
        return False

    return True


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.compare")
