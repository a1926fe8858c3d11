"""Columns that are not as the migrations made them, and the statements that mend them."""

from collections.abc import Iterator

from pgcdc_outbox.postgres.doctor.expected import Column
from pgcdc_outbox.postgres.doctor.finding import Finding, note, ok, problem
from pgcdc_outbox.postgres.doctor.look import Look, spelled


def columns(look: Look) -> Iterator[Finding]:
    """Every column has its name, its type, its default, and may be null or not."""
    there = {column.table for column in look.columns}
    wrong = [
        finding
        for table in sorted(look.expected.tables & there)
        for finding in _of_table(look, table)
    ]
    yield from wrong or [ok("every column is as the migrations made it")]


def create_table(look: Look, table: str) -> str:
    """The statement that makes a table, without its constraints and indexes."""
    (kind,) = (each for each in look.expected.definitions if each.key == ("table", "", table))
    columns = ", ".join(_written(each) for each in look.expected.columns if each.table == table)
    return f"create table {look.spelled(table)} ({columns}) {kind.text}".rstrip() + ";"


def _of_table(look: Look, table: str) -> Iterator[Finding]:
    wanted = {each.name: each for each in look.expected.columns if each.table == table}
    found = {each.name: each for each in look.columns if each.table == table}
    missing = [column for name, column in wanted.items() if name not in found]
    unknown = [column for name, column in found.items() if name not in wanted]
    for column in missing:
        former = [each for each in unknown if _is_renamed(column, each)]
        if len(former) == 1:
            unknown.remove(former[0])

        yield _missing(look, column, former[0] if len(former) == 1 else None)

    for column in unknown:
        yield _unknown(look, column)

    for name, column in wanted.items():
        if name in found:
            yield from _changed(look, column, found[name])


def _missing(look: Look, column: Column, former: Column | None) -> Finding:
    title = f"column {column.table}.{column.name} is missing"
    table = look.spelled(column.table)
    if former is not None:
        return problem(
            f"{title}; there is {former.name} in its place",
            f"alter table {table} rename column {spelled(former.name)} to {spelled(column.name)};",
        )

    detail = ""
    if column.required and column.default is None:
        detail = "Where the table has rows, it has to be filled before it can be not null."

    return problem(title, f"alter table {table} add column {_written(column)};", detail=detail)


def _unknown(look: Look, column: Column) -> Finding:
    title = f"column {column.table}.{column.name} is not one of ours"
    if not column.required or column.default is not None:
        return note(title, detail="It is left alone. A later migration may want its name.")

    return problem(
        f"{title}, and has to be given",
        f"alter table {look.spelled(column.table)} "
        f"alter column {spelled(column.name)} drop not null;",
        detail="It is not null and has no default, so every insert of the library fails.",
    )


def _changed(look: Look, wanted: Column, found: Column) -> Iterator[Finding]:
    name = f"column {wanted.table}.{wanted.name}"
    alter = f"alter table {look.spelled(wanted.table)} alter column {spelled(wanted.name)}"
    if found.type != wanted.type:
        yield problem(
            f"{name} is of type {found.type} instead of {wanted.type}",
            # A default of the old type may not fit the new one; it is set again.
            *([f"{alter} drop default;"] if found.default is not None else []),
            f"{alter} type {wanted.type} using {spelled(wanted.name)}::{wanted.type};",
            *([f"{alter} set default {wanted.default};"] if wanted.default is not None else []),
            detail="This writes the table again, and others wait until it is done. What stands on "
            "the column, such as the view job, has to be dropped before; it is named afterwards.",
        )
    elif found.default != wanted.default:
        yield problem(
            f"{name} has the default {found.default or 'null'} "
            f"instead of {wanted.default or 'null'}",
            f"{alter} drop default;"
            if wanted.default is None
            else f"{alter} set default {wanted.default};",
        )

    if found.required and not wanted.required:
        yield problem(f"{name} must be given, and may be null", f"{alter} drop not null;")
    elif wanted.required and not found.required:
        yield problem(f"{name} may be null, and must not be", f"{alter} set not null;")


def _is_renamed(wanted: Column, found: Column) -> bool:
    return (wanted.type, wanted.required, wanted.default) == (
        found.type,
        found.required,
        found.default,
    )


def _written(column: Column) -> str:
    words = [spelled(column.name), column.type]
    if column.default is not None:
        words.append(f"default {column.default}")

    if column.required:
        words.append("not null")

    return " ".join(words)
