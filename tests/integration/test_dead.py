"""Dead letters on a real server."""

from datetime import timedelta

import msgspec
import psycopg
import pytest
from psycopg.types.json import Jsonb

from pgcdc_outbox.errors import SettingsError
from pgcdc_outbox.job import Failing, History
from pgcdc_outbox.postgres.ledger.dead import DeadLetters, Selection
from pgcdc_outbox.postgres.migrate import migrate

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version

ERRORS = [
    {"attempt": 2, "at": "2026-11-20T10:00:00.000Z", "error": "ValueError", "text": "no"},
    {"attempt": 3, "at": "2026-11-20T11:00:00.000Z", "error": "KeyError", "text": "k", "jobs": 4},
]


@pytest.fixture
def connection(database):
    migrate(database)
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def letters(connection, database):
    return DeadLetters(database)


@pytest.fixture
def bury(connection):
    def bury(id, *, consumer="default", topic="t", reason="exhausted", attempt=3, payload=b"[1]"):
        connection.execute(
            "insert into outbox.dead_letter (consumer, id, reason, attempt, prior_attempts,"
            " created_at, topic, payload, key, headers, errors)"
            " values (%s, %s, %s, %s, 1, '2026-11-19 08:00:00.123456+00', %s, %s, 'k', %s, %s)",
            (consumer, id, reason, attempt, topic, payload, Jsonb({"h": "1"}), Jsonb(ERRORS)),
        )

    return bury


@pytest.fixture
def bury_old(connection, bury):
    def bury_old(id, *, days, **more):
        bury(id, **more)
        connection.execute(
            "update outbox.dead_letter set died_at = clock_timestamp() - %s * interval '1 day'"
            " where id = %s",
            (days, id),
        )

    return bury_old


def rows(connection, query):
    return connection.execute(query).fetchall()


def test_they_are_listed_newest_first_a_page_at_a_time(letters, bury):
    for number in range(1, 6):
        bury(number)

    page = letters.list(limit=2)
    assert [letter.id for letter in page] == [5, 4]
    assert [letter.id for letter in letters.list(limit=2, before=4)] == [3, 2]
    assert (page[0].last_error, page[0].last_text, page[0].payload_bytes) == ("KeyError", "k", 3)


def test_filters(letters, bury):
    bury(1, consumer="a", topic="x", reason="crashed")
    bury(2, consumer="b", topic="x")
    bury(3, consumer="b", topic="y")

    assert [letter.id for letter in letters.list(consumer="b")] == [3, 2]
    assert [letter.id for letter in letters.list(topic="x")] == [2, 1]
    assert [letter.id for letter in letters.list(reason="crashed")] == [1]
    assert letters.count(Selection(consumer="b", topic="y")) == 1


def test_show_tells_everything(letters, bury):
    bury(7, consumer="a", payload='{"é": 1}'.encode())
    bury(7, consumer="b", payload=b"\xff\x00")

    json, binary = letters.show(7)

    assert (json.body, binary.body) == ('{"é": 1}', "ff00")
    assert binary.payload == b"\xff\x00"
    assert json.headers == {"h": "1"}
    assert json.errors[1] == Failing(
        attempt=3, at="2026-11-20T11:00:00.000Z", error="KeyError", text="k", jobs=4
    )
    assert json.created_at.isoformat() == "2026-11-19T08:00:00.123456+00:00"
    assert letters.show(8) == ()


def test_a_retry_keeps_id_history_and_body_and_is_for_its_consumer_alone(letters, bury, connection):
    bury(7, consumer="a")
    bury(7, consumer="b")

    assert [(one.consumer, one.id) for one in letters.retry(Selection(ids=(7,), consumer="a"))] == [
        ("a", 7)
    ]

    ((*row, history),) = rows(
        connection,
        "select id, consumer, attempt, topic, payload, key, headers, history::text"
        " from outbox.immediate",
    )
    assert row == [7, "a", 4, "t", b"[1]", "k", {"h": "1"}]
    assert msgspec.json.decode(history, type=History, strict=True) == History(
        created_us=1_795_075_200_123_456,
        prior_attempts=3,
        errors=msgspec.convert(ERRORS, tuple[Failing, ...]),
    )
    assert rows(connection, "select consumer, id, attempt from outbox.trace") == [("a", 7, 3)]
    assert rows(connection, "select consumer from outbox.dead_letter") == [("b",)]


def test_many_are_retried_by_filter_and_by_id(letters, bury, connection):
    for number in range(1, 6):
        bury(number, topic="odd" if number % 2 else "even")

    assert [one.id for one in letters.retry(Selection(topic="odd"))] == [1, 3, 5]
    assert [one.id for one in letters.retry(Selection(ids=(2, 99)))] == [2]
    assert rows(connection, "select id from outbox.immediate order by id") == [
        (1,),
        (2,),
        (3,),
        (5,),
    ]
    assert letters.count(Selection()) == 1


def test_a_retry_that_cannot_be_written_leaves_the_dead_letter(letters, bury, connection):
    bury(1)
    connection.execute("alter table outbox.immediate add constraint no check (topic <> 't')")

    with pytest.raises(Exception, match='"no"'):
        letters.retry(Selection())

    assert letters.count(Selection()) == 1
    assert rows(connection, "select from outbox.trace") == []


def test_a_discard_leaves_only_the_trace(letters, bury, connection):
    bury(1)
    bury(2)

    assert [one.id for one in letters.discard(Selection(ids=(1,)))] == [1]
    assert [letter.id for letter in letters.list()] == [2]
    assert rows(connection, "select consumer, id, attempt from outbox.trace") == [("default", 1, 3)]
    assert rows(connection, "select from outbox.immediate") == []


# -- purged ----------------------------------------------------------------------------


def ids(connection, table="dead_letter"):
    return [row[0] for row in rows(connection, f"select id from outbox.{table} order by id")]


def test_a_purge_takes_what_is_old_and_fits_and_nothing_else(letters, bury_old, connection):
    bury_old(1, days=100, topic="x", reason="crashed", consumer="a")
    bury_old(2, days=100, topic="x", reason="exhausted", consumer="b")
    bury_old(3, days=100, topic="y", reason="exhausted", consumer="b")
    bury_old(4, days=89)
    quarter = timedelta(days=90)

    assert letters.count_older(quarter) == 3
    assert letters.count_older(quarter, consumer="b", topic="x") == 1
    assert ids(connection) == [1, 2, 3, 4]
    assert letters.purge(quarter, consumer="b", topic="x") == 1
    assert ids(connection) == [1, 3, 4]
    assert letters.purge(quarter, reason="crashed") == 1
    assert letters.purge(quarter) == 1
    assert ids(connection) == [4]
    assert letters.purge(quarter) == 0


def bury_many(connection, count):
    connection.execute(
        "insert into outbox.dead_letter"
        " (consumer, id, reason, attempt, created_at, died_at, topic, payload, errors)"
        " select 'default', i, 'exhausted', 3, now(), now() - interval '1 day' * (i %% 7),"
        "        case when i %% 10 = 0 then 'rare' else 't' end, '1', '[]'"
        " from generate_series(1, %s) as i",
        (count,),
    )


def test_a_purge_goes_in_batches_each_a_transaction_of_its_own(letters, connection):
    bury_many(connection, 1000)
    connection.execute(
        "create table sizes (xid xid8, rows bigint);"
        "create function note() returns trigger language plpgsql as $$begin"
        " insert into sizes select pg_current_xact_id(), count(*) from gone; return null; end$$;"
        "create trigger note after delete on outbox.dead_letter referencing old table as gone"
        " for each statement execute function note()"
    )

    assert letters.purge(timedelta(0), topic="t", batch_size=200) == 900

    sizes = rows(connection, "select rows, xid::text from sizes where rows > 0")
    assert [size for size, _ in sizes] == [200, 200, 200, 200, 100]
    assert len({xid for _, xid in sizes}) == 5
    assert len(ids(connection)) == 100


def test_a_purge_that_is_cut_off_has_done_what_it_has_done(letters, connection):
    bury_many(connection, 1000)
    connection.execute(
        "create sequence batches;"
        "create function cut() returns trigger language plpgsql as $$begin"
        " if nextval('batches') = 3 then raise 'cut off'; end if; return null; end$$;"
        "create trigger cut after delete on outbox.dead_letter"
        " for each statement execute function cut()"
    )

    with pytest.raises(Exception, match="cut off"):
        letters.purge(timedelta(0), batch_size=200)

    assert len(ids(connection)) == 600
    assert letters.purge(timedelta(0), batch_size=200) == 600


def test_a_purge_takes_no_letter_that_dies_meanwhile(letters, connection, bury):
    """One moment counts for all batches: else a busy outbox would keep it going."""
    bury_many(connection, 10)
    connection.execute(
        "create function die() returns trigger language plpgsql as $$begin"
        " insert into outbox.dead_letter"
        " (consumer, id, reason, attempt, created_at, topic, payload, errors)"
        " select 'default', nextval('outbox.job_id') + 5000, 'exhausted', 3, now(), 't', '1', '[]';"
        " return null; end$$;"
        "create trigger die after delete on outbox.dead_letter"
        " for each statement execute function die()"
    )

    assert letters.purge(timedelta(0), batch_size=3) == 10
    assert len(ids(connection)) == 5


def settle(connection, consumer):
    connection.execute(
        "insert into outbox.checkpoint (consumer, system_id, timeline, snapshot, lsn, flushed)"
        " select %s, system_identifier, 1, pg_current_snapshot(), '0/1', '0/1'"
        " from pg_control_system()",
        (consumer,),
    )


def test_a_purge_leaves_a_trace_only_where_the_job_may_come_again(letters, bury_old, connection):
    for name in ("settled", "behind", "new", "foreign"):
        connection.execute("insert into outbox.consumer (name) values (%s)", (name,))
    for name in ("behind", "foreign"):
        settle(connection, name)
    for number, name in enumerate(("settled", "behind", "new", "foreign", "removed"), start=1):
        bury_old(number, days=100, consumer=name)
    settle(connection, "settled")
    connection.execute("update outbox.checkpoint set system_id = '7' where consumer = 'foreign'")
    connection.execute(
        "update outbox.checkpoint set snapshot = pg_current_snapshot() where consumer = 'foreign'"
    )
    assert letters.purge(timedelta(days=90)) == 5

    traces = rows(connection, "select consumer, id, attempt from outbox.trace order by id")
    assert traces == [("behind", 2, 3), ("new", 3, 3), ("foreign", 4, 3)]


@pytest.mark.parametrize(
    ("older_than", "more"),
    [
        (timedelta(-1), {}),
        (timedelta(days=99_999), {}),
        (timedelta(0), {"batch_size": 0}),
    ],
)
def test_a_purge_that_makes_no_sense_is_refused(letters, bury, connection, older_than, more):
    bury(1)

    with pytest.raises(SettingsError):
        letters.purge(older_than, **more)

    assert ids(connection) == [1]
