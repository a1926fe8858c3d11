"""Jobs with a dedup key: what is asked of the server, whoever asks. Pure.

The steps are generators: they yield a statement with its arguments, and get the
row that it gave. So every kind of handle takes the same ones.
"""

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from typing import Any, Final, TypeVar

from pgcdc_outbox.errors import JobDuplicate
from pgcdc_outbox.postgres.producer.enqueue import Row
from pgcdc_outbox.postgres.producer.handles.statements import Statement, Statements

T = TypeVar("T")
Request = tuple[Statement, Mapping[str, Any]]
Found = Sequence[Any] | None
Steps = Generator[Request, Found, T]
Ask = Callable[[Statement, Mapping[str, Any]], Found]
AsyncAsk = Callable[[Statement, Mapping[str, Any]], Awaitable[Found]]

_BEFORE: Final = Statement("savepoint pgcdc_outbox_once", ())
_BACK: Final = Statement("rollback to savepoint pgcdc_outbox_once", ())
_AFTER: Final = Statement("release savepoint pgcdc_outbox_once", ())


def insert_once(row: Row, statements: Statements, ask: Ask) -> int:
    """Insert a row unless its key is taken; the id of the job that has the key then."""
    return _drive(_once(row, statements), ask)


async def insert_once_async(row: Row, statements: Statements, ask: AsyncAsk) -> int:
    """The same, awaited."""
    return await _drive_async(_once(row, statements), ask)


def has_keys(rows: Sequence[Row]) -> bool:
    """Whether some rows are to be inserted once."""
    return any(row.once is not None for row in rows)


def insert_mixed(
    rows: Sequence[Row],
    statements: Statements,
    ask: Ask,
    insert_plain: Callable[[Sequence[Row]], list[int]],
) -> list[int]:
    """Insert some rows, of which some have keys: those first; their ids, in the order given."""
    keyed, plain = _divided(rows)
    ids = dict(zip(keyed, _drive(_all_once(_chosen(rows, keyed), statements), ask), strict=True))
    if plain:
        ids.update(zip(plain, insert_plain(_chosen(rows, plain)), strict=True))

    return [ids[place] for place in range(len(rows))]


async def insert_mixed_async(
    rows: Sequence[Row],
    statements: Statements,
    ask: AsyncAsk,
    insert_plain: Callable[[Sequence[Row]], Awaitable[list[int]]],
) -> list[int]:
    """The same, awaited."""
    keyed, plain = _divided(rows)
    found = await _drive_async(_all_once(_chosen(rows, keyed), statements), ask)
    ids = dict(zip(keyed, found, strict=True))
    if plain:
        ids.update(zip(plain, await insert_plain(_chosen(rows, plain)), strict=True))

    return [ids[place] for place in range(len(rows))]


def _once(row: Row, statements: Statements) -> Steps[int]:
    assert row.once is not None
    arguments = {
        "sequence": statements.sequence,
        "dedup_key": row.once.key,
        "dedup_for": row.once.seconds,
        **{name: getattr(row, name) for name in statements.once.names if hasattr(row, name)},
    }
    found = yield statements.once, arguments
    assert found is not None, "a select without a table gives a row"
    id_, fresh = found
    if fresh:
        return int(id_)

    match row.once.on_duplicate:
        case "ignore":
            return int(id_)
        case "error":
            raise JobDuplicate(
                f"dedup_key: {row.once.key!r} of topic {row.topic!r} has job {id_}", id=id_
            )
        case "replace":
            # Only a second statement sees what was committed while the first one waited.
            found = yield statements.replace, {**arguments, "earlier": id_}
            assert found is not None, "a select without a table gives a row"
            return int(found[0])


def _all_once(rows: Sequence[Row], statements: Statements) -> Steps[list[int]]:
    """All of them, or none if one is refused, although the transaction may go on."""
    ids: dict[int, int] = {}
    yield _BEFORE, {}
    try:
        # In one order for everybody, so that two lists do not wait for each other.
        for place in sorted(range(len(rows)), key=lambda place: _identity(rows[place])):
            ids[place] = yield from _once(rows[place], statements)
    except JobDuplicate:
        yield _BACK, {}
        raise

    yield _AFTER, {}
    return [ids[place] for place in range(len(rows))]


def _identity(row: Row) -> tuple[str, str]:
    assert row.once is not None
    return row.topic, row.once.key


def _divided(rows: Sequence[Row]) -> tuple[list[int], list[int]]:
    """The places of those with a key, and of those without."""
    keyed = [place for place, row in enumerate(rows) if row.once is not None]
    return keyed, [place for place, row in enumerate(rows) if row.once is None]


def _chosen(rows: Sequence[Row], places: Sequence[int]) -> list[Row]:
    return [rows[place] for place in places]


def _drive(steps: Steps[T], ask: Ask) -> T:
    try:
        request = next(steps)
        while True:
            request = steps.send(ask(*request))
    except StopIteration as end:
        result: T = end.value
        return result


async def _drive_async(steps: Steps[T], ask: AsyncAsk) -> T:
    try:
        request = next(steps)
        while True:
            request = steps.send(await ask(*request))
    except StopIteration as end:
        result: T = end.value
        return result
