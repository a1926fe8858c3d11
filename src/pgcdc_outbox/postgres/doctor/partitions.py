"""The partitions: there is one for every job, and enough of them ahead."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from pgcdc_outbox.postgres.doctor.finding import Finding, note, ok, problem, warning
from pgcdc_outbox.postgres.doctor.look import Look
from pgcdc_outbox.postgres.partition import partitions
from pgcdc_outbox.postgres.partition.partitions import Partition

_COUNTED: Final = 100_000
_MAINTAIN: Final = "pgcdc-outbox maintain --once"


def default_partition(look: Look) -> Iterator[Finding]:
    """There is one for rows that find no other, and it is empty."""
    default = next((each for each in _partitions(look) if each.is_default), None)
    if default is None:
        root = look.spelled("immediate")
        yield problem(
            "there is no default partition",
            f"create table {look.spelled('immediate_default')} partition of {root} default;",
            detail="A producer whose job finds no partition fails, and its transaction with it.",
        )
        return

    rows = look.row("default_rows", partition=default.name, limit=_COUNTED)["rows"]
    if rows == 0:
        yield ok("the default partition is empty")
        return

    count = f"{rows}" if rows < _COUNTED else f"at least {rows}"
    yield warning(
        f"the default partition has {count} row{'s' if rows != 1 else ''}",
        _MAINTAIN,
        detail="They found no partition of their own. They are delivered, but cannot be dropped.",
    )


def look_ahead(look: Look) -> Iterator[Finding]:
    """Partitions are made before they are needed."""
    now = partitions.server_now(look.connection)
    found = _partitions(look)
    if all(each.is_default for each in found):
        yield _none_yet(look)
        return

    current = next((each for each in found if _holds(each, now)), None)
    if current is None:
        yield warning(
            "there is no partition for now",
            _MAINTAIN,
            detail="Jobs go to the default partition. Maintenance does not run, or cannot.",
        )
        return

    end = _covered_until(found, now)
    if end is None:
        yield ok("there are partitions for ever")
        return

    interval = _length(current)
    if interval is not None and end - now < interval:
        yield warning(
            f"there are partitions for no more than {_hours(end - now)}",
            _MAINTAIN,
            detail="That is less than one interval. Maintenance does not run, or cannot.",
        )
    else:
        yield ok(f"there are partitions for {_hours(end - now)}")


def stray_tables(look: Look) -> Iterator[Finding]:
    """No table looks like a partition and is none."""
    found = look.rows("stray_tables", schema=look.schema, parent_name="immediate")
    if not found:
        yield ok("no table looks like a partition and is none")

    for row in found:
        table = look.spelled(row["name"])
        if look.row("has_rows", partition=row["name"])["present"]:
            yield warning(
                f"table {row['name']} is no partition, and has rows",
                detail="A person detached it, or maintenance was interrupted. Its jobs are not "
                f"re-read when a slot is lost. Look at them, then: drop table {table};",
            )
        else:
            yield note(f"table {row['name']} is no partition", f"drop table {table};")


def _none_yet(look: Look) -> Finding:
    title = "there are no partitions yet"
    if any(each.registered for each in look.consumers):
        return warning(
            title, _MAINTAIN, detail="A consumer makes them, if its role owns the tables."
        )

    return note(title, _MAINTAIN, detail="The first consumer makes them.")


def _partitions(look: Look) -> list[Partition]:
    return partitions.read(look.connection, look.schema)


def _holds(partition: Partition, moment: datetime) -> bool:
    if partition.is_default:
        return False

    return (partition.lower is None or partition.lower <= moment) and (
        partition.upper is None or moment < partition.upper
    )


def _covered_until(found: list[Partition], moment: datetime) -> datetime | None:
    """From this moment on there is no gap until then; None for ever."""
    while (partition := next((each for each in found if _holds(each, moment)), None)) is not None:
        if partition.upper is None:
            return None

        moment = partition.upper

    return moment


def _length(partition: Partition) -> timedelta | None:
    if partition.lower is None or partition.upper is None:
        return None

    return partition.upper - partition.lower


def _hours(length: timedelta) -> str:
    hours = length / timedelta(hours=1)
    return f"{hours:.0f} hours" if hours < 72 else f"{hours / 24:.0f} days"


CHECKS = (default_partition, look_ahead, stray_tables)
