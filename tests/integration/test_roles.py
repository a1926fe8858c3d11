"""The files for people: least privilege, and questions for monitoring."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from pgcdc_outbox import Job, Jobs, Maintenance, Replay
from pgcdc_outbox.core.call import Call, Execution
from pgcdc_outbox.postgres.connection import connect
from pgcdc_outbox.postgres.ledger.dead import DeadLetters, Selection
from pgcdc_outbox.postgres.ledger.trail import encoded
from pgcdc_outbox.postgres.migrate import migrate
from pgcdc_outbox.postgres.producer.schedules.schedule import Schedule, columns
from pgcdc_outbox.postgres.producer.schedules.schedules import Schedules
from pgcdc_outbox.postgres.queries import for_schema, query
from pgcdc_outbox.postgres.report.lag import measure
from pgcdc_outbox.postgres.report.status import overview
from tests.maintained import PATIENT

FOLDER = Path(__file__).parents[2] / "sql"
SCHEMA = 'out "box%'


def text_of(name):
    text = (FOLDER / name).read_text("utf-8")
    return for_schema(text, SCHEMA).replace(":'schema'", f"'{SCHEMA}'")


@pytest.fixture
def owner(database):
    migrate(database, schema=SCHEMA)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(text_of("roles.sql").encode())
        yield connection


@pytest.fixture
def acting(owner, database):
    """A function that gives a connection string with the rights of one role."""
    return lambda role: psycopg.conninfo.make_conninfo(database, options=f"-c role={role}")


def execute(conninfo, name, parameters):
    with psycopg.connect(conninfo) as connection:
        return connection.execute(query(name, SCHEMA).encode(), parameters)


DAILY = Schedule(name="daily", cron="0 0 * * *")

# Now, for who says "consumer", "done" and "i" at the end of each row.
CLOCK = {"offset_us": 946_684_800_000_000, "ends": b"\0\0\0\1c\0\0\0\4done\0\0\0\1i"}

JOB = {"topic": "t", "payload": b"1", "key": None, "headers": None, "content_type": None}
MANY = {"id": [901], "expires_at_text": [None], **{name: [value] for name, value in JOB.items()}}


def test_a_producer_can_enqueue_in_every_way(acting):
    producer = acting("pgcdc_outbox_producer")
    execute(producer, "enqueue_immediate", JOB)
    expiry = {"expires_at_text": None, "time_to_live": 5}
    execute(producer, "enqueue_expiring", {**JOB, **expiry})
    execute(producer, "enqueue_later", {**JOB, **expiry, "run_at_text": None, "delay": 5})
    once = {
        **JOB,
        **expiry,
        "sequence": '"out ""box%".job_id',
        "run_at_text": None,
        "delay": 5,
        "dedup_key": "k",
        "dedup_for": 60,
    }
    execute(producer, "enqueue_once", once)
    execute(producer, "replace_waiting", {**once, "earlier": 1})
    execute(producer, "take_ids", {"sequence": '"out ""box%".job_id', "count": 3})
    execute(producer, "enqueue_many_immediate", MANY)
    execute(producer, "enqueue_many_scheduled", {**MANY, "due_at_text": ["2030-01-01Z"]})
    with psycopg.connect(producer) as connection:
        connection.execute(for_schema("""select :"schema".enqueue('t', '1')""", SCHEMA).encode())


@pytest.mark.parametrize(
    "statement",
    [
        'select payload from :"schema".immediate',
        'select * from :"schema".dead_letter',
        'delete from :"schema".immediate',
        'update :"schema".scheduled set due_at = now()',
        "insert into :\"schema\".consumer (name) values ('x')",
        'truncate :"schema".immediate',
    ],
)
def test_a_producer_can_do_nothing_else(acting, statement):
    with (
        psycopg.connect(acting("pgcdc_outbox_producer")) as connection,
        pytest.raises(errors.InsufficientPrivilege),
    ):
        connection.execute(for_schema(statement, SCHEMA).encode())


def test_a_consumer_can_run_its_statements(acting, owner):
    consumer = acting("pgcdc_outbox_consumer")
    me = {"consumer": "c", "epoch": 1}
    position = {
        "system_id": "1",
        "timeline": 1,
        "snapshot": "1:1:",
        "lsn": "0/1",
        "flushed": "0/1",
        "target": "1:1:",
        "target_lsn": "0/1",
    }
    execute(consumer, "schema_number", {})
    execute(consumer, "take_over", {"consumer": "c", "instance": "i"})
    execute(consumer, "note_mode", {**me, "mode": "logical"})
    execute(consumer, "current_epoch", me)
    execute(consumer, "take_position_held", me)
    execute(consumer, "end_when_silent", {"seconds": "15s", "local": True})
    execute(consumer, "try_transaction_lock", {"key": 1})
    execute(consumer, "retained", {"slot": "s"})
    execute(consumer, "drop_slot", {"slot": "s"})
    execute(consumer, "release", me)
    execute(consumer, "forget_slot", me)
    execute(consumer, "plan_reconcile", {**me, **position, "slot": "s", "lost": True, "keep": 3})
    execute(consumer, "save_checkpoint", {**me, **position})
    execute(consumer, "save_flushed", {**me, "flushed": "0/1"})
    execute(consumer, "load_checkpoint", me)
    execute(consumer, "load_traces", {**me, "since": "1:1:"})
    span = {**me, "since": "1:1:", "target": "1:1:", "xid": "0", "id": 0}
    execute(consumer, "count_unsettled", {**span, "limit": 1})
    execute(consumer, "stay_in_partitions", {})
    execute(consumer, "read_small", {**span, "limit": 1, "small": 1})
    execute(consumer, "read_later", {**span, "limit": 1, "bytes": 1})
    execute(consumer, "read_running", {**span, "running": ["3"], "limit": 1, "bytes": 1})
    execute(consumer, "save_reading", {**me, **position, "xid": "3", "id": 1})
    for _ in range(2):
        execute(consumer, "add_traces", {**me, "ids": [1], "attempts": [1], "parked": [0]})

    for name in ("held_keys", "unheld_keys", "orphaned_keys"):
        execute(consumer, name, me)

    fields = set(re.findall(r"%\((\w+)\)s", query("park", SCHEMA))) - set(me)
    execute(consumer, "park", {**me, **{field: [] for field in fields}})
    execute(consumer, "release_parked", {**me, "keys": [], "ids": [], "attempts": [], "limit": 1})
    execute(consumer, "may_replicate", {})
    execute(consumer, "promote", {**me, "limit": 1})
    execute(consumer, "server_clock", {})
    execute(consumer, "put_recurring", columns(DAILY, datetime(2026, 1, 1, tzinfo=UTC)))
    execute(consumer, "next_recurring", {"limit": 1})
    fired = ("names", "crons", "time_zones", "due_us", "next_us", "fired", "times_us")
    execute(consumer, "fire_recurring", {field: [] for field in fired})
    execute(consumer, "find_slot", {"slot": "s"})
    execute(
        consumer,
        "find_publication",
        {"publication": "p", "schema": SCHEMA, "columns": ["id"], "since": "1:1:"},
    )
    execute(consumer, "end_reader", {"slot": "s", "pid": 0})
    execute(consumer, "end_creator", {"pid": 0})
    execute(consumer, "writers", {})
    execute(consumer, "slots_lost", me)
    execute(consumer, "consumer_known", me)
    execute(consumer, "hand_back", {**me, "forgive": True})
    execute(consumer, "forget_settled", me)
    execute(consumer, "whereabouts", {})
    execute(consumer, "confirmed", {"slot": "s"})
    execute(consumer, "left_started", {**me, "instance": "i"})
    ended = {"ended_ids": [1], "ended_attempts": [1]}
    execute(consumer, "start", {**me, **ended, "id": 2, "attempt": 1, "instance": "i"})
    execute(consumer, "forget_started", {**me, **ended})
    execute(consumer, "calm", me)
    jobs = {"ids": [3], "attempts": [1]}
    execute(consumer, "start_once", {**me, **jobs, "instance": "i"})
    execute(consumer, "record_done", {**me, **jobs})
    execute(consumer, "xact_status", {"xid": "3"})
    execute(consumer, "is_recorded", {**me, "id": 3, "attempt": 1})
    fields = set(re.findall(r"%\((\w+)\)s", query("record", SCHEMA))) - set(me)
    alone = {"instance": "i", "holds": True}
    execute(consumer, "record", {**me, **{field: [] for field in fields}, **alone})
    done = {"ids": [1], "attempts": [1], "topics": ["t"], "keys": [None]}
    execute(
        consumer,
        "record_attempts",
        {**me, **done, "age": 0.1, "seconds": 0.1, "jobs": 1, "instance": "i"},
    )
    with psycopg.connect(consumer) as connection, connection.cursor() as cursor:
        with cursor.copy(query("copy_attempts", SCHEMA).replace("%%", "%").encode()) as rows:
            rows.write(encoded([Execution([Job(1, "t", b"1")], Call(0.0, 0.1), 1)], **CLOCK))

        assert cursor.rowcount == 1


def test_a_consumer_cannot_delete_jobs_or_dead_letters(acting):
    for table in ("immediate", "dead_letter", "consumer", "migration"):
        with (
            psycopg.connect(acting("pgcdc_outbox_consumer")) as connection,
            pytest.raises(errors.InsufficientPrivilege),
        ):
            connection.execute(for_schema(f'delete from :"schema".{table}', SCHEMA).encode())


def test_an_operator_sees_everything_and_decides_on_dead_letters(acting, owner):
    owner.execute(
        for_schema(
            'insert into :"schema".dead_letter'
            " (consumer, id, reason, attempt, created_at, topic, payload, errors)"
            " select 'a', id, 'exhausted', 1, now(), 't', '1', '[]' from generate_series(1, 3) id",
            SCHEMA,
        ).encode()
    )
    operator = acting("pgcdc_outbox_operator")
    letters = DeadLetters(operator, schema=SCHEMA)

    assert measure(operator, schema=SCHEMA).consumers == ()
    assert overview(operator, schema=SCHEMA).counts.dead == {"exhausted": 3}
    assert len(letters.show(1)) == 1
    assert len(letters.retry(Selection(ids=(1,)))) == 1
    assert len(letters.discard(Selection(ids=(2,)))) == 1
    assert letters.purge(timedelta(0)) == 1
    assert letters.resolve_done(1, who="me") == ()
    schedules = Schedules(operator, schema=SCHEMA)
    schedules.put(DAILY)
    assert [schedules.pause("daily"), schedules.resume("daily")] == [True, True]
    assert [each.name for each in schedules.list()] == ["daily"]
    assert schedules.remove("daily")
    assert migrate(operator, schema=SCHEMA) == []


def test_an_operator_shows_lists_cancels_and_replays(acting, owner):
    owner.execute(
        for_schema(
            """
            insert into :"schema".consumer (name) values ('a');
            insert into :"schema".scheduled (id, due_at, payload)
                values (101, now() + '1 day', '1');
            insert into :"schema".failed
                (consumer, id, due_at, attempt, created_at, topic, payload, key, errors)
                values ('a', 102, now() + '1 day', 1, now(), 't', '1', 'k', '[]');
            insert into :"schema".held_key (consumer, key, id) values ('a', 'k', 102);
            insert into :"schema".parked
                (consumer, key, id, attempt, times, created_at, topic, payload, errors)
                values ('a', 'k', 103, 1, 1, now(), 't', '1', '[]');
            insert into :"schema".trace (consumer, id, attempt, parked) values ('a', 103, 1, 1);
            insert into :"schema".immediate (payload) values ('1');
            """,
            SCHEMA,
        ).encode()
    )
    # Partitions that were made after the roles: rights on the root are enough.
    Maintenance(owner.info.dsn, schema=SCHEMA, lock_timeout=PATIENT).once()
    jobs = Jobs(acting("pgcdc_outbox_operator"), schema=SCHEMA)

    assert len(jobs.list().jobs) == 4
    assert jobs.show(1).consumers[0].state == "in_line"
    assert [each.cancelled for each in jobs.cancel([101, 102, 103])] == [True] * 3
    replay = Replay(since=datetime.now(UTC) - timedelta(hours=1), partial=True)
    assert len(jobs.preview(replay)) == 1
    assert jobs.replay(replay).jobs == 1


def test_the_questions_for_monitoring_can_be_asked_by_an_operator(acting, owner):
    owner.execute(for_schema("""insert into :"schema".consumer values ('c')""", SCHEMA).encode())
    with connect(acting("pgcdc_outbox_operator")) as connection:
        statements = [part for part in text_of("monitoring.sql").split(";\n") if part.strip()]
        assert len(statements) >= 8
        for statement in statements:
            connection.execute(statement.encode())


def test_the_roles_may_be_made_again(owner):
    owner.execute(text_of("roles.sql").encode())
