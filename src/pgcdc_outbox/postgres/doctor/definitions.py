"""Constraints, indexes, functions and views that are not as the migrations made them."""

from collections.abc import Iterator
from typing import Final

from pgcdc_outbox.postgres.doctor.expected import Definition
from pgcdc_outbox.postgres.doctor.finding import Finding, note, ok, problem, warning
from pgcdc_outbox.postgres.doctor.look import Look, spelled

_DISABLED: Final = " (disabled)"
_NOT_VALID: Final = " NOT VALID"


def constraints(look: Look) -> Iterator[Finding]:
    """Every constraint is there, says what it should, and holds."""
    yield from _compared(look, "constraint", "every constraint is as the migrations made it")


def indexes(look: Look) -> Iterator[Finding]:
    """Every index is there and can be used."""
    yield from _compared(look, "index", "every index is as the migrations made it")


def sequences(look: Look) -> Iterator[Finding]:
    """The sequence that gives the ids is there."""
    yield from _compared(look, "sequence", "the sequence of the ids is as the migrations made it")


def functions(look: Look) -> Iterator[Finding]:
    """The functions do what they did."""
    yield from _compared(look, "function", "every function is as the migrations made it")


def views(look: Look) -> Iterator[Finding]:
    """The views show what they showed."""
    yield from _compared(look, "view", "every view is as the migrations made it")


def triggers(look: Look) -> Iterator[Finding]:
    """Triggers of ours are there, and those of others are known."""
    yield from _compared(look, "trigger", "no trigger interferes")


def _compared(look: Look, kind: str, fine: str) -> Iterator[Finding]:
    tables = {column.table for column in look.columns} & look.expected.tables
    wanted = _of_kind(look.expected.definitions, kind)
    found = {
        key: each
        for key, each in _of_kind(look.definitions, kind).items()
        if not each.table or each.table in tables
    }
    missing = [
        each
        for key, each in wanted.items()
        if key not in found and (not each.table or each.table in tables)
    ]
    unknown = [each for key, each in found.items() if key not in wanted and each.table]
    changed = [
        (each, found[key])
        for key, each in wanted.items()
        if key in found and found[key].text != each.text
    ]
    if not (missing or unknown or changed):
        yield ok(fine)

    for definition in missing:
        former = next((each for each in unknown if _is_renamed(definition, each)), None)
        if former is not None:
            unknown.remove(former)
            yield _renamed(look, definition, former)
        else:
            yield _broken(definition, "is missing", *_create(look, definition))

    for definition, other in changed:
        yield _altered(look, definition, other)

    for definition in unknown:
        yield _foreign(look, definition)


def _of_kind(
    definitions: tuple[Definition, ...], kind: str
) -> dict[tuple[str, str, str], Definition]:
    return {each.key: each for each in definitions if each.kind == kind}


def _broken(definition: Definition, how: str, *remedy: str, detail: str = "") -> Finding:
    title = f"{_title(definition)} {how}"
    match definition.kind:
        case "index":
            detail = detail or "What looks for rows reads the whole table. " + _BUILDING
            return warning(title, *remedy, detail=detail)
        case "view":
            # Nothing of ours reads it: it is for people.
            return warning(title, *remedy, detail=detail)
        case "constraint":
            return problem(title, *remedy, detail=detail or "Rows that break it have to go first.")
        case _:
            return problem(title, *remedy, detail=detail)


_BUILDING: Final = "Producers wait while it is built."


def _altered(look: Look, wanted: Definition, found: Definition) -> Finding:
    if wanted.kind == "constraint" and found.text == wanted.text + _NOT_VALID:
        return _broken(
            wanted,
            "was never checked",
            f"alter table {look.spelled(wanted.table)} validate constraint {spelled(wanted.name)};",
        )

    if wanted.kind == "trigger" and found.text == wanted.text + _DISABLED:
        return _broken(
            wanted,
            "is disabled",
            f"alter table {look.spelled(wanted.table)} enable trigger {spelled(wanted.name)};",
        )

    if wanted.kind == "index" and found.text == wanted.text + " (invalid)":
        return _broken(wanted, "is invalid", *_replace(look, wanted))

    detail = f"It reads: {_one_line(found.text)}" if wanted.kind != "function" else ""
    return _broken(wanted, "was changed", *_replace(look, wanted), detail=detail)


def _renamed(look: Look, wanted: Definition, found: Definition) -> Finding:
    new, old = spelled(wanted.name), spelled(found.name)
    match wanted.kind:
        case "index":
            remedy = f"alter index {look.spelled(found.name)} rename to {new};"
        case kind:
            remedy = f"alter {'table' if kind == 'constraint' else kind} "
            remedy += (
                f"{look.spelled(wanted.table)} rename constraint {old} to {new};"
                if kind == "constraint"
                else f"{old} on {look.spelled(wanted.table)} rename to {new};"
            )

    return _broken(wanted, f"is called {found.name}", remedy, detail="Only its name is wrong.")


def _foreign(look: Look, found: Definition) -> Finding:
    what = {
        "index": "Each index costs every insert.",
        "constraint": "A job that breaks it fails its producer, and a failure that breaks it "
        "cannot be recorded.",
        "trigger": "It runs in the transactions of producers and consumers.",
    }[found.kind]
    return note(
        f"{_title(found)} is not one of ours",
        *_drop(look, found),
        detail=f"{what} Drop it if nobody needs it.",
    )


def _create(look: Look, wanted: Definition) -> tuple[str, ...]:
    match wanted.kind:
        case "constraint":
            table, name = look.spelled(wanted.table), spelled(wanted.name)
            return (f"alter table {table} add constraint {name} {wanted.text};",)
        case "index":
            # ONLY would leave out the partitions, and the index would not be valid.
            return (wanted.text.replace(" ON ONLY ", " ON ", 1) + ";",)
        case "sequence":
            return _create_sequence(look, wanted)
        case "view":
            text = wanted.text.strip().rstrip(";")
            return (f"create or replace view {look.spelled(wanted.name)} as\n{text};",)
        case _:
            return (wanted.text.rstrip() + ";",)


def _create_sequence(look: Look, wanted: Definition) -> tuple[str, ...]:
    """With every default that asks it, and beyond every id that was given."""
    name = look.spelled(wanted.name)
    taken = ", ".join(
        f"(select max(id) from {look.spelled(each.table)})"
        for each in look.columns
        if each.name == "id" and each.table in look.expected.tables
    )
    return (
        f"create sequence {name} {wanted.text};",
        f"select setval('{name.replace(chr(39), chr(39) * 2)}', greatest(1, {taken}));",
    )


def _replace(look: Look, wanted: Definition) -> tuple[str, ...]:
    match wanted.kind:
        case "function":
            return _create(look, wanted)
        case "sequence":
            return (f"alter sequence {look.spelled(wanted.name)} {wanted.text};",)
        case "view":
            return (
                *_drop(look, wanted),
                *_create(look, wanted),
                "-- what was granted on it is gone: run sql/roles.sql again",
            )
        case _:
            return (*_drop(look, wanted), *_create(look, wanted))


def _drop(look: Look, found: Definition) -> tuple[str, ...]:
    match found.kind:
        case "constraint":
            return (
                f"alter table {look.spelled(found.table)} drop constraint {spelled(found.name)};",
            )
        case "trigger":
            return (f"drop trigger {spelled(found.name)} on {look.spelled(found.table)};",)
        case _:
            return (f"drop {found.kind} {look.spelled(found.name)};",)


def _is_renamed(wanted: Definition, found: Definition) -> bool:
    same_place = (wanted.kind, wanted.table) == (found.kind, found.table)
    return same_place and found.text.replace(found.name, wanted.name, 1) == wanted.text


def _title(definition: Definition) -> str:
    of = f" of {definition.table}" if definition.table else ""
    return f"{definition.kind} {definition.name}{of}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
