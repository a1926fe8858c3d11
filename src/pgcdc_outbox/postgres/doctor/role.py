"""What the role may do that we are connected as. A consumer should ask as itself."""

from collections.abc import Iterator

from pgcdc_outbox.postgres.doctor.finding import Finding, note, ok, problem
from pgcdc_outbox.postgres.doctor.look import Look, spelled


def grants(look: Look) -> Iterator[Finding]:
    """It has the rights of a consumer on every table."""
    role = spelled(look.server.role)
    rights = look.row("doctor_schema_rights", schema=look.schema)
    pairs = [
        (table, privilege)
        for table, privileges in look.expected.grants.items()
        for privilege in privileges
    ]
    lacking = look.rows(
        "doctor_grants",
        schema=look.schema,
        tables=[table for table, _ in pairs],
        privileges=[privilege for _, privilege in pairs],
    )
    if rights["may_use"] and not lacking:
        yield ok(f"role {role} has the rights of a consumer")
        return

    if not rights["may_use"]:
        yield problem(
            f"role {role} may not use schema {look.schema}",
            f"grant usage on schema {look.server.schema} to {role};",
        )

    for row in lacking:
        privileges = ", ".join(row["privileges"]).lower()
        yield problem(
            f"role {role} lacks {privileges} on {row['name']}",
            f"grant {privileges} on {look.spelled(row['name'])} to {role};",
            detail="A consumer needs it. sql/roles.sql makes a role that has it all; "
            "doctor speaks of the role that it is connected as.",
        )


def ownership(look: Look) -> Iterator[Finding]:
    """It may make and drop partitions."""
    role = spelled(look.server.role)
    rights = look.row("doctor_schema_rights", schema=look.schema)
    if not rights["is_owner"]:
        yield note(
            f"role {role} cannot keep the partitions: they belong to {rights['owner']}",
            f"grant {rights['owner']} to {role};",
            detail="Or run `pgcdc-outbox maintain` elsewhere, as the owner, "
            "and the consumer with --no-maintain.",
        )
    elif not rights["may_create"]:
        yield note(
            f"role {role} cannot make partitions",
            f"grant create on schema {look.server.schema} to {rights['owner']};",
        )
    else:
        yield ok(f"role {role} can keep the partitions")


CHECKS = (grants, ownership)
