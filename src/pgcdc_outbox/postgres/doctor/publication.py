"""The publication: it brings the inserts of one table, all of them, and nothing else."""

from collections.abc import Iterator

from pgcdc_outbox.postgres.connection import Row
from pgcdc_outbox.postgres.doctor.finding import Finding, note, ok, problem, warning
from pgcdc_outbox.postgres.doctor.look import Look, spelled
from pgcdc_outbox.postgres.names import publication_name


def publication(look: Look) -> Iterator[Finding]:
    """There is one, and it publishes what it should."""
    name = publication_name(look.schema)
    found = look.rows("doctor_publication", publication=name)
    if not found:
        yield problem(
            f"publication {name} does not exist",
            f"create publication {spelled(name)} for table {_table(look)} {_OPTIONS};",
            detail="A consumer ends with PublicationMissing. "
            "Its next start reads from the table what was left out.",
        )
        return

    wrong = [*_flags(name, found[0]), *_contents(look, name, found[0])]
    yield from wrong or [ok(f"publication {name} publishes the inserts of the jobs")]


_OPTIONS = "with (publish = 'insert', publish_via_partition_root = true)"


def _flags(name: str, found: Row) -> Iterator[Finding]:
    mended = f"alter publication {spelled(name)} set {_OPTIONS.removeprefix('with ')};"
    if not found["pubinsert"]:
        yield problem(f"publication {name} does not publish inserts", mended)

    if not found["pubviaroot"]:
        yield problem(
            f"publication {name} publishes partitions under their own names",
            mended,
            detail="A consumer expects every job to come from the root.",
        )

    changes = [word for word in ("update", "delete") if found[f"pub{word}"]]
    if changes:
        yield problem(
            f"publication {name} publishes {' and '.join(f'{word}s' for word in changes)}",
            mended,
            detail="The table has no replica identity, so that nothing can be moved out of the "
            "default partition any more.",
        )

    if found["pubtruncate"]:
        yield warning(
            f"publication {name} publishes truncates",
            mended,
            detail="Maintenance truncates what it drops, and no consumer needs to know.",
        )


def _contents(look: Look, name: str, found: Row) -> Iterator[Finding]:
    reset = f"alter publication {spelled(name)} set table {_table(look)};"
    if found["puballtables"]:
        yield note(
            f"publication {name} is for all tables",
            detail="The server decodes and sends every insert of the database. To change that, "
            "stop producers and consumers, drop it, and run doctor again.",
        )
        return

    rows = look.rows("doctor_published", publication=name)
    (listed,) = look.rows("doctor_listed", publication=name, schema=look.schema)
    direct = listed["direct"]
    ours = [row for row in rows if (row["schema"], row["table"]) == (look.schema, "immediate")]
    if not direct:
        yield problem(
            f"publication {name} does not have the table immediate",
            reset,
            detail="By itself, not only through its schema.",
        )

    for row in ours if direct else ():
        yield from _part(look, name, row, reset)

    others = [
        f"{row['schema']}.{row['table']}"
        for row in rows
        # Without the root, its partitions are shown instead.
        if row["schema"] != look.schema or not row["table"].startswith("immediate")
    ]
    if others:
        yield warning(
            f"publication {name} publishes {', '.join(others)} too",
            reset,
            detail="The server sends their rows, and the consumer throws them away.",
        )


def _part(look: Look, name: str, row: Row, reset: str) -> Iterator[Finding]:
    if row["filter"] is not None:
        yield problem(
            f"publication {name} filters jobs: {row['filter']}",
            reset,
            detail="What it leaves out reaches no consumer.",
        )

    if row["columns"] is None or look.server.major < 15:
        return

    if missing := [each for each in look.published if each not in row["columns"]]:
        yield problem(f"publication {name} leaves out {', '.join(missing)}", reset)

    if unneeded := [each for each in row["columns"] if each not in look.published]:
        yield note(f"publication {name} sends {', '.join(unneeded)}, which nobody needs", reset)


def _table(look: Look) -> str:
    table = look.spelled("immediate")
    if look.server.major < 15:
        return table

    return f"{table} ({', '.join(map(spelled, look.published))})"


CHECKS = (publication,)
