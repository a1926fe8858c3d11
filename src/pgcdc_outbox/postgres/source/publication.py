"""The publication: what it has to be, and the proof that it was so all the time.

The server looks the publication up as it was at each place of the log. If it did
not publish the outbox there, rows are left out: with an error up to version 17 if
there was no publication, with a warning in 18, and without a word on any version if
it was altered. The position moves on over them.

So a checkpoint, a snapshot S and a place L, may be saved only if the publication
was right, without a break, from where the slot begins up to L. That is proved by
looking at two rows of the catalog:

- they are right, and the same ones (`state`: oid and xmin) as when the slot was
  found good, so nobody who is visible has changed them;
- nobody is changing them (`unsettled`). One who does so has marked the old rows
  before its commit reaches the log. So if L was taken *before* we looked, a commit
  that lies before L shows, even if it waits for a standby and nobody sees it yet.

Between holds the snapshot is the proof: a row that was written by a transaction
older than everything that ran at S is the row of S. If there is another
(`changed`), the slot is not believed. A slot is made only while the publication
stays the same, and waits for every transaction that was open before.

Where the proof fails nothing is lost: jobs that were left out committed after the
last checkpoint, and are read from the table.
"""

import anyio
from msgspec import Struct

from pgcdc_outbox.errors import PublicationChanged, PublicationMissing
from pgcdc_outbox.pgoutput import commands
from pgcdc_outbox.postgres.names import publication_name
from pgcdc_outbox.postgres.source.leadership import Leadership
from pgcdc_outbox.postgres.source.rows import COLUMNS

_UNSETTLED_SECONDS = 0.2


class Publication(Struct, frozen=True, kw_only=True):
    """A publication that brings every job."""

    name: str
    state: str
    """Names its rows in the catalog; any change of it is another state."""
    unsettled: bool
    """Somebody may be changing it."""
    changed: bool
    """It is not known to be the one that it was at the snapshot asked for."""


async def require_publication(leadership: Leadership, *, since: str) -> Publication:
    """Look at the publication. Raises `PublicationMissing` if it would not bring the jobs."""
    name = publication_name(leadership.schema)
    rows = await leadership.rows(
        "find_publication",
        {
            "publication": name,
            "schema": leadership.schema,
            "columns": list(COLUMNS),
            "since": since,
        },
        doing="check the publication",
    )
    quoted = commands.quote_identifier(name)
    table = f"{commands.quote_identifier(leadership.schema)}.immediate"
    if not rows:
        raise PublicationMissing(
            f"publication {name} does not exist",
            hint=f"create publication {quoted} for table {table} "
            "with (publish = 'insert', publish_via_partition_root = true);",
        )

    inserts, via_root, listed, filtered, narrowed, state, changed, unsettled = rows[0]
    problems: list[str] = []
    remedies: list[str] = []
    if not (inserts and via_root):
        problems.append("inserts" if not inserts else "them via the root of the partitions")
        remedies.append("set (publish = 'insert', publish_via_partition_root = true)")

    if not listed:
        problems.append("the table")
        remedies.append(f"add table {table}")
    elif filtered or narrowed:
        problems.append("every row" if filtered else "every column")
        remedies.append(f"set table {table}")

    if problems:
        raise PublicationMissing(
            f"publication {name} of {leadership.schema}.immediate does not publish "
            f"{' and '.join(problems)}",
            hint=" ".join(f"alter publication {quoted} {remedy};" for remedy in remedies),
        )

    return Publication(name=name, state=state, changed=changed, unsettled=unsettled)


async def prove_unchanged(leadership: Leadership, publication: Publication, *, since: str) -> None:
    """Return once it is certain that the publication was this one up to now.

    Waits while somebody is changing it. Raises `PublicationChanged` if it is
    another.
    """
    while True:
        try:
            now = await require_publication(leadership, since=since)
        except PublicationMissing as error:
            raise PublicationChanged(str(error), hint=error.hint) from error

        if now.state != publication.state:
            raise PublicationChanged(f"publication {publication.name} was changed")

        if not now.unsettled:
            return

        await anyio.sleep(_UNSETTLED_SECONDS)
