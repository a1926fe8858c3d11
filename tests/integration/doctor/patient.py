"""An outbox that a test breaks, and mends again by doing what the doctor says."""

import shlex
from typing import Any

import psycopg
from click.testing import CliRunner

from pgcdc_outbox.cli.main import cli
from pgcdc_outbox.postgres.doctor.doctor import Examination, examine
from pgcdc_outbox.postgres.doctor.finding import Finding, Result
from pgcdc_outbox.postgres.names import publication_name, slot_name

# What the settings of the tests' servers deserve, and what no test of an outbox breaks.
SURROUNDINGS = ("server", "settings", "transactions")

_STEPS = 30


class Patient:
    """An outbox, seen by the doctor."""

    def __init__(self, dsn: str, schema: str = "outbox", **options: Any) -> None:
        self.dsn = dsn
        self.schema = schema
        self._options = options

    def break_(self, *statements: str) -> None:
        """Run statements, each by itself."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def examine(self, **options: Any) -> Examination:
        return examine(self.dsn, schema=self.schema, **(self._options | options))

    def findings(self, check: str, **options: Any) -> list[Finding]:
        """What one check says."""
        return [each for each in self.examine(**options).findings if each.check == check]

    def only(self, check: str, **options: Any) -> Finding:
        """The only thing that a check says."""
        (finding,) = self.findings(check, **options)
        return finding

    def trouble(self, **options: Any) -> list[Finding]:
        """What is wrong with the outbox, whatever is around it."""
        return [
            each
            for each in self.examine(**options).findings
            if each.result in (Result.WARNING, Result.PROBLEM) and each.group not in SURROUNDINGS
        ]

    def publication(self) -> str:
        return publication_name(self.schema)

    def titles(self, **options: Any) -> list[str]:
        return [each.title for each in self.trouble(**options)]

    def mend(self, **options: Any) -> None:
        """Do what the first finding says, and look again, until nothing is wrong."""
        for _ in range(_STEPS):
            if not (trouble := self.trouble(**options)):
                return

            self.apply(trouble[0])

        raise AssertionError(f"still wrong: {self.titles(**options)}")

    def apply(self, finding: Finding) -> None:
        """Do what a finding says, as a person would who pastes it."""
        remedy = [each for each in finding.remedy if not each.startswith(("--", "#"))]
        assert remedy, f"nothing mends {finding.title!r}"
        for each in remedy:
            if each.startswith("pgcdc-outbox "):
                self.shell(*shlex.split(each)[1:])
            else:
                self.break_(each)

    def shell(self, *arguments: str) -> None:
        if arguments[0] == "maintain":
            # What a busy machine does not do in time would be delayed, and fail here.
            arguments = (*arguments, "--lock-timeout", "30s")

        done = CliRunner().invoke(
            cli, ["--dsn", self.dsn, "--schema", self.schema, *arguments], catch_exceptions=False
        )
        assert done.exit_code == 0, done.output


def slot_of(connection, name="default", schema="outbox"):
    ((oid,),) = connection.execute(
        "select oid::bigint from pg_database where datname = current_database()"
    ).fetchall()
    return slot_name(schema, name, oid)


def register(connection, name="default", *, slot=True, plugin="pgoutput"):
    """A consumer that has run and is away, as far as the tables tell."""
    there = slot_of(connection, name)
    connection.execute("insert into outbox.consumer (name, slot) values (%s, %s)", [name, there])
    connection.execute(
        "insert into outbox.checkpoint (consumer, system_id, timeline, snapshot, lsn, flushed)"
        " select %s, system_identifier, 1, pg_current_snapshot(), '0/1', '0/1'"
        " from pg_control_system()",
        [name],
    )
    if slot:
        connection.execute("select pg_create_logical_replication_slot(%s, %s)", [there, plugin])

    return there


def drop_slot(connection, name):
    connection.execute("select pg_drop_replication_slot(%s)", [name])
