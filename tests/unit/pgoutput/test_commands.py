"""The commands of a replication connection, and above all their quoting."""

from __future__ import annotations

from typing import Any

import pytest

from pgcdc_outbox.pgoutput import commands


def test_commands_without_choices():
    assert commands.identify_system() == "IDENTIFY_SYSTEM"
    assert commands.show("wal_sender_timeout") == 'SHOW "wal_sender_timeout"'
    assert commands.show("my.setting") == 'SHOW "my"."setting"'
    assert commands.read_replication_slot("s") == 'READ_REPLICATION_SLOT "s"'
    assert commands.drop_replication_slot("s") == 'DROP_REPLICATION_SLOT "s"'
    assert commands.drop_replication_slot("s", wait=True) == 'DROP_REPLICATION_SLOT "s" WAIT'


@pytest.mark.parametrize(
    ("version", "options", "expected"),
    [
        (140023, {}, 'LOGICAL "pgoutput" NOEXPORT_SNAPSHOT'),
        (149999, {"snapshot": "export"}, 'LOGICAL "pgoutput" EXPORT_SNAPSHOT'),
        (140023, {"snapshot": "use", "temporary": True},
         'TEMPORARY LOGICAL "pgoutput" USE_SNAPSHOT'),
        (150000, {}, "LOGICAL \"pgoutput\" (SNAPSHOT 'nothing')"),
        (180004, {"snapshot": "export", "temporary": True},
         "TEMPORARY LOGICAL \"pgoutput\" (SNAPSHOT 'export')"),
        (170010, {"snapshot": "use", "two_phase": True, "failover": True},
         "LOGICAL \"pgoutput\" (SNAPSHOT 'use', TWO_PHASE true, FAILOVER true)"),
        (180004, {"plugin": "test_decoding"}, "LOGICAL \"test_decoding\" (SNAPSHOT 'nothing')"),
    ],
)  # fmt: skip
def test_creating_a_slot(version: int, options: dict[str, Any], expected: str):
    command = commands.create_replication_slot("s", server_version=version, **options)
    assert command == f'CREATE_REPLICATION_SLOT "s" {expected}'


def test_two_phase_needs_15():
    with pytest.raises(ValueError, match="PostgreSQL 15"):
        commands.create_replication_slot("s", server_version=140023, two_phase=True)


def test_failover_needs_17():
    with pytest.raises(ValueError, match="PostgreSQL 17"):
        commands.create_replication_slot("s", server_version=160014, failover=True)


def test_a_snapshot_is_one_of_three():
    with pytest.raises(ValueError, match="export, use or nothing"):
        commands.create_replication_slot("s", server_version=180004, snapshot="a'b")  # type: ignore[arg-type]


def test_altering_a_slot():
    alter = commands.alter_replication_slot
    assert alter("s", failover=True) == 'ALTER_REPLICATION_SLOT "s" (FAILOVER true)'
    assert (
        alter("s", failover=False, two_phase=False)
        == 'ALTER_REPLICATION_SLOT "s" (FAILOVER false, TWO_PHASE false)'
    )
    with pytest.raises(ValueError, match="nothing to change"):
        alter("s")


def test_starting_with_the_least():
    assert commands.start_replication("s", publications=["p"]) == (
        "START_REPLICATION SLOT \"s\" LOGICAL 0/0 (proto_version '1', publication_names '\"p\"')"
    )


def test_starting_with_everything():
    command = commands.start_replication(
        "s",
        publications=("one", "two"),
        start_lsn=0x16_B374D848,
        proto_version=4,
        binary=True,
        messages=False,
        streaming="parallel",
        two_phase=True,
        origin="none",
    )
    assert command == (
        "START_REPLICATION SLOT \"s\" LOGICAL 16/B374D848 (proto_version '4',"
        " publication_names '\"one\",\"two\"', binary 'true', messages 'false',"
        " streaming 'parallel', two_phase 'true', origin 'none')"
    )


def test_publications_are_quoted_twice():
    command = commands.start_replication("s", publications=["a\"b'c,d", "Größe"])
    assert """publication_names '"a""b''c,d","Größe"')""" in command


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"publications": []}, "at least one publication"),
        ({"publications": "pub"}, "not one string"),
        ({"publications": [""]}, "cannot be empty"),
        ({"publications": ["a\0b"]}, "NUL"),
        ({"publications": ["x" * 64]}, "at most 63 bytes"),
        ({"publications": ["é" * 32]}, "at most 63 bytes"),
        ({"proto_version": 0}, "versions 1 to 4"),
        ({"proto_version": 5}, "versions 1 to 4"),
        ({"streaming": "on"}, "needs protocol version 2"),
        ({"streaming": "parallel", "proto_version": 3}, "needs protocol version 4"),
        ({"streaming": "'", "proto_version": 4}, "off, on or parallel"),
        ({"two_phase": True, "proto_version": 2}, "needs protocol version 3"),
        ({"origin": "local"}, "any or none"),
        ({"start_lsn": -1}, "64 bits"),
    ],
)
def test_what_cannot_be_started(options: dict[str, Any], problem: str):
    with pytest.raises(ValueError, match=problem):
        commands.start_replication("s", **{"publications": ["p"], **options})


def test_the_longest_names_are_allowed():
    assert "x" * 63 in commands.start_replication("s" * 63, publications=["x" * 63])


def test_streaming_off_needs_no_later_version():
    command = commands.start_replication("s", publications=["p"], streaming="off")
    assert "streaming 'off'" in command


@pytest.mark.parametrize(
    "name",
    ["", "s" * 64, "Upper", "a-b", "a b", 'a"b', "a'b", "a\0", "a\n", "é", "\u0663", "a;b"],
)
def test_what_is_not_the_name_of_a_slot(name: str):
    for command in (
        lambda: commands.start_replication(name, publications=["p"]),
        lambda: commands.create_replication_slot(name, server_version=180004),
        lambda: commands.alter_replication_slot(name, failover=True),
        lambda: commands.drop_replication_slot(name),
        lambda: commands.read_replication_slot(name),
    ):
        with pytest.raises(ValueError, match="a slot's name has 1 to 63 of"):
            command()


@pytest.mark.parametrize(
    ("text", "literal"), [("", "''"), ("a'b", "'a''b'"), ("a\\b", "'a\\b'"), ("''", "''''''")]
)
def test_literals(text: str, literal: str):
    assert commands.quote_literal(text) == literal


def test_nothing_ends_a_command_early():
    for quote in (commands.quote_literal, commands.quote_identifier, commands.show):
        with pytest.raises(ValueError, match="NUL"):
            quote("a\0b")
