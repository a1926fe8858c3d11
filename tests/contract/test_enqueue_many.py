"""Many jobs at once: every one of them, as it was, in the order given."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from pgcdc_outbox.job import NewJob
from pgcdc_outbox.postgres.producer.client import Client
from tests.contract.handles import HANDLES, Handle, Table, engine

TEN_THOUSAND = 10_000
NOTE_THE_ORDER = """
    create table written (number bigserial, id bigint);
    create function note() returns trigger language plpgsql as
    $$ begin insert into written (id) values (new.id); return null; end $$;
    create trigger note after insert on outbox.immediate_default
    for each row execute function note();
"""


def job(number: int) -> NewJob:
    """One of every kind, told apart by its number."""
    match number % 5:
        case 0:
            return NewJob(payload=None, key=str(number))
        case 1:
            return NewJob(payload={"n": number, "t": "ž" * (number % 50)}, topic="t\u20ac")
        case 2:
            return NewJob(payload=number.to_bytes(4, "big"), headers={"n": str(number), "é": "\\"})
        case 3:
            return NewJob(payload=number, delay=60 + number)
        case _:
            return NewJob(payload="", run_at=datetime.fromtimestamp(2e9 + number, UTC))


BULK = [
    name
    for name in HANDLES
    if name
    in {
        "psycopg-connection",
        "psycopg-async-connection",
        "asyncpg-connection",
        "sqlalchemy-session",
        "sqlalchemy-session-psycopg2",
        "sqlalchemy-async-session-asyncpg",
    }
]


@pytest.mark.parametrize("handle", BULK, indirect=True)
async def test_ten_thousand(handle: Handle, table: Table):
    jobs = [job(number) for number in range(TEN_THOUSAND)]
    table.connection.execute(NOTE_THE_ORDER)

    before = table.clock()
    ids = await handle.enqueue_many(jobs)
    after = table.clock()
    await handle.commit()

    assert ids == sorted(set(ids))
    assert table.ids() == ids
    number_of = {number: index for index, number in enumerate(ids)}
    for row in table.rows("immediate") + table.rows("scheduled"):
        given = job(number_of[row["id"]])
        number = number_of[row["id"]]
        assert row["topic"] == given.topic
        assert row["key"] == given.key
        assert row["headers"] == given.headers
        match number % 5:
            case 0:
                assert (row["payload"], row["content_type"]) == (b"null", None)
            case 2:
                assert row["payload"] == given.payload
                assert row["content_type"] == "application/octet-stream"
            case 3:
                assert before <= row["due_at"] - timedelta(seconds=given.delay) <= after
            case 4:
                assert row["due_at"] == given.run_at

    # The order they are written in is the order they will be read in.
    written = table.connection.execute("select id from written order by number").fetchall()
    assert [number for (number,) in written] == [
        number for number, index in zip(ids, range(TEN_THOUSAND), strict=True) if index % 5 < 3
    ]


def test_statements_do_not_grow_with_the_jobs(outbox: str):
    sent: list[str] = []
    with engine(outbox, "psycopg").connect() as connection:
        from sqlalchemy import event

        event.listen(connection, "before_cursor_execute", lambda *args: sent.append(args[2]))
        Client().enqueue_many([job(number) for number in range(5000)], tx=connection)

    assert len(sent) == 3


def test_a_client_encoding_of_its_own(outbox: str, table: Table):
    jobs = [NewJob(payload="é", topic="é", key="ü", headers={"ß": "ø"})]
    with psycopg.connect(outbox, client_encoding="latin1") as connection:
        Client().enqueue_many(jobs, tx=connection)
        Client().enqueue("é", topic="é", key="ü", headers={"ß": "ø"}, tx=connection)

    one, other = ({**row, "id": 0, "created_at": 0} for row in table.rows())
    assert one == other
    assert (one["payload"], one["topic"], one["headers"]) == ('"é"'.encode(), "é", {"ß": "ø"})


def test_large_payloads(outbox: str, table: Table):
    jobs = [NewJob(payload=bytes([index]) * 300_000) for index in range(8)]
    with psycopg.connect(outbox) as connection:
        Client().enqueue_many(jobs, tx=connection)

    assert [row["payload"] for row in table.rows()] == [job.payload for job in jobs]
