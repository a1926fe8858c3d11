"""Record what a real server sends, for the tests of the parser.

    python tests/recordings/record.py --dsn "host=/tmp user=postgres" --out tests/recordings/pg18

writes ``pg18.bin``, the CopyData frames one after the other, each preceded by
its length in four bytes, and ``pg18.json``, which says where each scenario
begins and what the workload knew without the parser: the values as a query
returns them, the rows that survive, the kinds of messages that must occur.

The server must be for nothing else: it needs ``wal_level = logical``, some
``max_prepared_transactions`` and a superuser. Run it for every version.
"""

from __future__ import annotations

import argparse
import json
import select
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from pgcdc_outbox.pgoutput import StandbyStatusUpdate, commands, parse_lsn

# A name that goes wrong if the quoting does.
PUBLICATION = 'naïve, "pub" o\'clock'
SLOT = "recording"
# Both sides of the comparison must print alike.
SETTINGS = (
    "-c timezone=UTC -c datestyle=ISO -c intervalstyle=postgres -c extra_float_digits=3"
    " -c bytea_output=hex -c client_encoding=UTF8 -c logical_decoding_work_mem=64kB"
)
# Enough small rows to exceed logical_decoding_work_mem.
MANY = 480
FEW = 20

SETUP = """
drop publication if exists {publication};
drop schema if exists recording, "схема" cascade;
create schema recording;
create schema "схема";
create type recording.mood as enum ('sad', 'happy');
create domain recording.percentage as int check (value between 0 and 100);
create table recording.types (
    id bigint primary key, words text, data bytea, document jsonb, moment timestamptz,
    yes boolean, ident uuid, transaction xid8, amount numeric(20, 4), numbers int[],
    mood recording.mood, moods recording.mood[], share recording.percentage, label varchar(40)
);
create table recording.large (id bigint primary key, body text, touched int);
alter table recording.large alter body set storage external;
create table recording.emptied (id bigint generated always as identity);
create table recording.parent (id bigint, place int) partition by list (place);
create table recording.leaf_1 partition of recording.parent for values in (1);
create table recording.leaf_2 partition of recording.parent for values in (2);
create table "схема"."таблица" ("ключ" bigint primary key, "настроение" recording.mood);
create table recording.unpublished (id bigint);
create publication {publication} for table recording.types, recording.large, recording.emptied,
    recording.parent, "схема"."таблица" with (publish_via_partition_root = true);
"""


@dataclass
class Recorder:
    """A replication connection that keeps every frame it is sent."""

    dsn: str
    wire: pq.PGconn
    sql: psycopg.Connection[Any]
    frames: list[bytes] = field(default_factory=list)

    def command(self, text: str, *, expect: pq.ExecStatus) -> None:
        result = self.wire.exec_(text.encode())
        if result.status != expect:
            raise RuntimeError(f"{text}: {result.error_message.decode()}")

    def catch_up(self) -> None:
        """Read until the server has sent all there is so far."""
        # A checkpoint flushes what is not committed, and only that is decoded.
        self.sql.execute("checkpoint")
        row = self.sql.execute("select pg_current_wal_insert_lsn()").fetchone()
        assert row is not None
        target, deadline, asked = parse_lsn(row[0]), time.monotonic() + 20, 0.0
        while time.monotonic() < deadline:
            size, data = self.wire.get_copy_data(1)
            if size > 0:
                frame = bytes(data)
                self.frames.append(frame)
                if frame[:1] == b"k" and int.from_bytes(frame[1:9], "big") >= target:
                    return

            elif size < 0:
                raise RuntimeError(self.wire.get_error_message())
            else:
                if time.monotonic() - asked > 0.2:
                    self.ask()
                    asked = time.monotonic()

                select.select([self.wire.socket], [], [], 0.1)
                self.wire.consume_input()

        raise TimeoutError("the server does not catch up")

    def ask(self) -> None:
        """Ask for a keepalive, acknowledging nothing."""
        self.wire.put_copy_data(StandbyStatusUpdate(0, 0, 0, 0, reply_requested=True).encode())
        self.wire.flush()

    @contextmanager
    def session(self) -> Iterator[psycopg.Connection[Any]]:
        """Another client, whose transaction stays open until it says otherwise."""
        with psycopg.connect(self.dsn, options=SETTINGS) as connection:
            yield connection

    def values(self, query: str, *, binary: bool) -> list[list[str | None]]:
        """What a query returns: the same bytes that a row should carry, in hex."""
        result = self.sql.pgconn.exec_params(query.encode(), None, result_format=int(binary))
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise RuntimeError(f"{query}: {result.error_message.decode()}")

        return [
            [
                None if (value := result.get_value(row, column)) is None else value.hex()
                for column in range(result.nfields)
            ]
            for row in range(result.ntuples)
        ]


Expectations = dict[str, Any]


@dataclass(frozen=True)
class Scenario:
    run: Callable[[Recorder, bool], Expectations]
    since: int = 14
    options: dict[str, Any] = field(default_factory=dict)


SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str, *, since: int = 14, **options: Any) -> Callable[..., Any]:
    def register(run: Callable[[Recorder, bool], Expectations]) -> Callable[..., Expectations]:
        SCENARIOS[name] = Scenario(run, since, options)
        return run

    return register


@scenario("types, text", binary=False)
@scenario("types, binary", binary=True)
def types(to: Recorder, binary: bool) -> Expectations:
    to.sql.execute(
        """insert into recording.types values
        (1, 'a word', '\\x00ff', '{"a": [1, null]}', '2001-02-03 04:05:06.789012+00', true,
         '01234567-89ab-cdef-0123-456789abcdef', '12345678901', -1234.5678, '{{1,2},{3,null}}',
         'happy', '{sad,happy}', 42, 'Grüße, 世界'),
        (-9223372036854775808, '', '', '{}', '-infinity', false,
         '00000000-0000-0000-0000-000000000000', '0', 'NaN', '{}', 'sad', '{}', 0, ''),
        (9223372036854775807, null, null, null, null, null, null, null, null, null, null, null,
         null, null)"""
    )
    inserted = to.values("select * from recording.types order by ctid", binary=binary)
    # The first update keeps the key, the second changes it, the third is of a
    # table whose old rows are sent in full.
    to.sql.execute("update recording.types set yes = false where id = 1")
    to.sql.execute("update recording.types set id = 2 where id = 1")
    to.sql.execute("delete from recording.types where id = 2")
    to.sql.execute("alter table recording.types replica identity full")
    to.sql.execute("update recording.types set words = 'more' where words = ''")
    to.sql.execute("delete from recording.types where words = 'more'")
    to.sql.execute("alter table recording.types replica identity default")
    # A value out of line, and an update that leaves it alone.
    to.sql.execute("insert into recording.large values (1, repeat('x', 3000), 0)")
    to.sql.execute("update recording.large set touched = 1")
    to.sql.execute("insert into recording.emptied default values")
    to.sql.execute("truncate recording.emptied, recording.large restart identity cascade")
    to.catch_up()
    return {
        "kinds": "BCRYIUDT",
        "inserted": {"recording.types": inserted},
        "counts": {"I": 5, "U": 4, "D": 2, "T": 1},
    }


@scenario("partitions through their root", binary=True)
def partitions(to: Recorder, binary: bool) -> Expectations:
    to.sql.execute("insert into recording.parent values (1, 1), (2, 2), (3, 1)")
    inserted = to.values("select * from recording.parent order by id", binary=binary)
    to.catch_up()
    return {
        "kinds": "BCRI",
        "inserted": {"recording.parent": inserted},
        "relations": ["recording.leaf_1", "recording.leaf_2", "recording.parent"],
        "counts": {"I": 3},
    }


@scenario("an origin", binary=True)
def origin(to: Recorder, binary: bool) -> Expectations:
    to.sql.execute("select pg_replication_origin_create('elsewhere, Ω')")
    to.sql.execute("select pg_replication_origin_session_setup('elsewhere, Ω')")
    try:
        with to.sql.transaction():
            to.sql.execute(
                "select pg_replication_origin_xact_setup('1A/2B3C4D5E', '2020-01-01 00:00+00')"
            )
            to.sql.execute("insert into recording.parent values (1, 1)")
    finally:
        to.sql.execute("select pg_replication_origin_session_reset()")
        to.sql.execute("select pg_replication_origin_drop('elsewhere, Ω')")

    to.catch_up()
    return {
        "kinds": "BCORI",
        "origins": [["1A/2B3C4D5E", "elsewhere, Ω"]],
        "counts": {"I": 1, "O": 1},
    }


@scenario("logical messages", binary=True, messages=True)
def messages(to: Recorder, binary: bool) -> Expectations:
    with to.sql.transaction():
        to.sql.execute("select pg_logical_emit_message(true, 'pré', 'within')")
        to.sql.execute("select pg_logical_emit_message(false, 'pre', '\\x00ff'::bytea)")
        to.sql.execute("insert into recording.parent values (1, 1)")

    with to.sql.transaction(force_rollback=True):
        to.sql.execute("select pg_logical_emit_message(true, 'pre', 'never seen')")
        to.sql.execute("select pg_logical_emit_message(false, 'pre', '')")

    to.catch_up()
    return {
        "kinds": "BCMRI",
        "messages": [
            [False, "pre", b"\x00\xff".hex()],
            [True, "pré", b"within".hex()],
            [False, "pre", ""],
        ],
        "unordered": True,
    }


@scenario("a transaction of no interest")
def empty(to: Recorder, binary: bool) -> Expectations:
    to.sql.execute("insert into recording.unpublished values (1)")
    to.catch_up()
    return {"kinds": "", "counts": {"I": 0}}


@scenario("a large rollback, streaming off", binary=True)
def stray_abort(to: Recorder, binary: bool) -> Expectations:
    # PostgreSQL 18 notices at its memory limit that the transaction has already
    # rolled back. It then counts the savepoint's changes as streamed.
    with to.session() as other:
        other.execute("savepoint a")
        fill(other, 1, FEW)
        other.execute("release savepoint a")
        fill(other, 2)
        other.rollback()
        fill(other, 3, FEW)

    to.catch_up()
    stray = int(to.wire.server_version >= 180000)
    return {"kinds": "BCRI", "counts": {"I": FEW, "A": stray}, "survive": FEW}


@scenario("streaming", binary=True, messages=True, proto_version=2, streaming="on")
@scenario(
    "streaming, parallel", since=16, binary=True, messages=True, proto_version=4,
    streaming="parallel",
)  # fmt: skip
def streaming(to: Recorder, binary: bool) -> Expectations:
    with to.session() as other:
        other.execute("select pg_logical_emit_message(true, 'pre', 'streamed')")
        other.execute("insert into recording.emptied default values")
        other.execute("truncate recording.emptied")
        fill(other, 1, FEW)
        other.execute("savepoint a")
        fill(other, 2)
        to.catch_up()
        other.execute("rollback to savepoint a")
        other.execute("""update "схема"."таблица" set "ключ" = -"ключ" where "ключ" = 1000001""")
        other.execute("""delete from "схема"."таблица" where "ключ" = 1000002""")

    with to.session() as other:
        fill(other, 3)
        to.catch_up()
        other.rollback()

    to.catch_up()
    return {
        "kinds": "SEcARYIUDTM",
        "survive": FEW + 1,
        "aborts": {"part": 1, "whole": 1},
    }


@scenario("streams in turn", binary=True, proto_version=2, streaming="on")
def interleaved(to: Recorder, binary: bool) -> Expectations:
    with ExitStack() as stack:
        first, second = (stack.enter_context(to.session()) for _ in range(2))
        fill(first, 1)
        to.catch_up()
        fill(second, 2)
        to.catch_up()
        first.execute("""insert into "схема"."таблица" values (1)""")
        second.commit()
        first.commit()

    to.catch_up()
    return {"kinds": "SEcRYI", "survive": 2 * MANY + 1, "streams": 2}


@scenario("prepared", since=15, binary=True, proto_version=3, two_phase=True)
def prepared(to: Recorder, binary: bool) -> Expectations:
    for number, fate in enumerate(("commit prepared", "rollback prepared")):
        to.sql.execute("begin")
        to.sql.execute("insert into recording.parent values (%s, 1)", [number])
        to.sql.execute(f"prepare transaction 'gid {fate}, Ω'")
        to.catch_up()
        to.sql.execute(f"{fate} 'gid {fate}, Ω'")

    to.catch_up()
    return {
        "kinds": "bPKrRI",
        "gids": ["gid commit prepared, Ω", "gid rollback prepared, Ω"],
        "counts": {"I": 2, "b": 2, "P": 2, "K": 1, "r": 1},
    }


@scenario(
    "streaming, prepared", since=15, binary=True, proto_version=3, streaming="on", two_phase=True
)
def stream_prepared(to: Recorder, binary: bool) -> Expectations:
    to.sql.execute("begin")
    fill(to.sql, 1)
    to.sql.execute("prepare transaction 'streamed'")
    to.catch_up()
    to.sql.execute("commit prepared 'streamed'")
    to.catch_up()
    return {
        "kinds": "SEpKRYI",
        "gids": ["streamed"],
        "survive": MANY,
        "counts": {"p": 1, "K": 1},
    }


def fill(connection: psycopg.Connection[Any], group: int, rows: int = MANY) -> None:
    connection.execute(
        """insert into "схема"."таблица"
        select %s * 1000000 + n, 'happy' from generate_series(1, %s) as n""",
        [group, rows],
    )


@contextmanager
def recording(dsn: str, chosen: Scenario) -> Iterator[tuple[Recorder, str]]:
    """A slot, a stream that has started from it, and the command that started it."""
    wire = pq.PGconn.connect(make_conninfo(dsn, replication="database", options=SETTINGS).encode())
    try:
        if wire.status != pq.ConnStatus.OK:
            raise RuntimeError(wire.get_error_message())

        with psycopg.connect(dsn, options=SETTINGS, autocommit=True) as sql:
            name = commands.quote_identifier(PUBLICATION)
            sql.execute(SETUP.replace("{publication}", name).encode())
            to = Recorder(dsn, wire, sql)
            to.command(commands.identify_system(), expect=pq.ExecStatus.TUPLES_OK)
            to.command(commands.show("wal_sender_timeout"), expect=pq.ExecStatus.TUPLES_OK)
            create = commands.create_replication_slot(
                SLOT,
                server_version=wire.server_version,
                temporary=True,
                two_phase=chosen.options.get("two_phase", False),
            )
            to.command(create, expect=pq.ExecStatus.TUPLES_OK)
            start = commands.start_replication(SLOT, publications=[PUBLICATION], **chosen.options)
            to.command(start, expect=pq.ExecStatus.COPY_BOTH)
            to.ask()
            yield to, start
    finally:
        wire.finish()


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--dsn", required=True, help="a superuser of a server for nothing else")
    arguments.add_argument("--out", required=True, type=Path, help="without .bin or .json")
    given = arguments.parse_args()

    with psycopg.connect(given.dsn) as connection:
        version = connection.info.server_version

    data, described = bytearray(), []
    for name, chosen in SCENARIOS.items():
        if version // 10000 < chosen.since:
            continue

        with recording(given.dsn, chosen) as (to, command):
            expect = chosen.run(to, chosen.options.get("binary", False))

        begin = len(data)
        for frame in to.frames:
            data += struct.pack(">I", len(frame)) + frame

        described.append(
            {
                "name": name,
                "command": command,
                "begin": begin,
                "frames": len(to.frames),
                "options": chosen.options,
                "expect": expect,
            }
        )
        print(f"{version} {name}: {len(to.frames)} frames, {len(data) - begin} bytes")

    out = {"server_version": version, "scenarios": described}
    given.out.with_suffix(".bin").write_bytes(data)
    text = json.dumps(out, ensure_ascii=False, indent=1)
    given.out.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
