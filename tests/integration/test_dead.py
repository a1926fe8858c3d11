"""Dead letters on a real server."""

import msgspec
import psycopg
import pytest
from psycopg.types.json import Jsonb

from pgcdc_outbox.job import Failing, History
from pgcdc_outbox.postgres.ledger.dead import DeadLetters, Selection
from pgcdc_outbox.postgres.migrate import migrate

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
