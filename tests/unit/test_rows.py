"""From a published row to a job."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgcdc_outbox.errors import StreamCorrupt
from pgcdc_outbox.job import JSON_TYPE, Failing, History, Job
from pgcdc_outbox.pgoutput import UNCHANGED, Insert, ProtocolError, Row, from_datetime
from pgcdc_outbox.postgres.source import rows
from pgcdc_outbox.postgres.source.rows import Undecodable, decoder
from tests.unit.frames import (
    NOON,
    NOON_US,
    OID,
    USUAL,
    WITH_XID,
    cells,
    data,
    insert,
    int4,
    int8,
    jsonb,
    relation,
)


def decode(names: tuple[str, ...] = USUAL, **values: Any) -> Job | Undecodable | None:
    return decoder(relation(names), "default")(insert(names, **values))


class TestFreshJob:
    """The usual row: a topic and a payload, and nothing else."""

    @pytest.mark.parametrize("names", [USUAL, WITH_XID, tuple(reversed(USUAL))])
    def test_what_is_null_means_its_default(self, names: tuple[str, ...]) -> None:
        job = decode(names, id=int8(2**62), payload=b'{"a": 1}')

        assert job == Job(
            id=2**62,
            topic="orders",
            payload=b'{"a": 1}',
            key=None,
            headers={},
            content_type=JSON_TYPE,
            attempt=1,
            created_us=NOON_US,
            history=None,
        )
        assert job.created_at == NOON

    @pytest.mark.parametrize("names", [USUAL, WITH_XID])
    def test_it_is_read_in_one_go(
        self, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def not_needed(frame: bytes) -> None:
            raise AssertionError("column after column")

        monkeypatch.setattr(rows, "_any_row", lambda *args: not_needed)

        assert decode(names).topic == "orders"

    @pytest.mark.parametrize("names", [USUAL, WITH_XID])
    @pytest.mark.parametrize("payload", [b"", b"n" * 5, b"nnnnnb", bytes(range(256)) * 300])
    def test_no_payload_confuses_it(self, names: tuple[str, ...], payload: bytes) -> None:
        assert decode(names, payload=payload).payload == payload

    def test_topics_are_told_apart(self) -> None:
        read = decoder(relation(), "default")
        topics = [read(insert(topic=f"topic {n % 7}".encode())).topic for n in range(50)]

        assert topics == [f"topic {n % 7}" for n in range(50)]

    def test_ever_new_topics_are_read_too(self) -> None:
        read = decoder(relation(), "default")

        for number in range(1500):
            assert read(insert(topic=b"%d" % number)).topic == str(number)

    @pytest.mark.parametrize("names", [USUAL, tuple(reversed(USUAL))])
    def test_jobs_share_nothing_that_a_handler_could_change(self, names: tuple[str, ...]) -> None:
        read = decoder(relation(names), "default")
        first, second = read(insert(names)), read(insert(names))

        first.headers["mark"] = 1

        assert second.headers == {}
        assert read(insert(names)).headers == {}


class TestAnyJob:
    def test_every_column_has_its_place_in_the_job(self) -> None:
        failing = {"attempt": 1, "at": "2024-01-01T00:00:00Z", "error": "E", "text": "t", "jobs": 2}
        past = {"created_us": 5, "prior_attempts": 3, "errors": [failing]}
        job = decode(
            attempt=int4(7),
            key="ключ".encode(),
            headers=jsonb({"a": "ä", "n": [1, None]}),
            content_type=b"text/plain",
            consumer=b"default",
            history=jsonb(past),
            expires_at=int8(from_datetime(NOON)),
        )

        assert job == Job(
            id=1,
            topic="orders",
            payload=b"{}",
            key="ключ",
            headers={"a": "ä", "n": [1, None]},
            content_type="text/plain",
            attempt=7,
            created_us=5,
            history=History(created_us=5, prior_attempts=3, errors=(Failing(**failing),)),
            expires_us=NOON_US,
        )
        assert job.expires_at == NOON

    @pytest.mark.parametrize(
        ("written", "read"),
        [
            (2**63 - 1, None),
            (-(2**63), 0),
            (252_455_616_000_000_000, None),
            (0, 946_684_800 * 10**6),
        ],
    )
    def test_an_expiry_out_of_all_bounds_is_never_or_long_ago(
        self, written: int, read: int | None
    ) -> None:
        """Infinity may be written by hand, and cannot be passed on."""
        assert decode(expires_at=int8(written)).expires_us == read

    def test_a_row_for_another_consumer_is_passed_over(self) -> None:
        assert decode(consumer=b"other") is None
        assert decode(consumer=b"default").id == 1
        assert decode(consumer=b"") is None

    def test_a_row_for_another_consumer_is_passed_over_even_if_it_is_no_job(self) -> None:
        assert decode(consumer=b"other", payload=None, headers=b"\x01{") is None

    @pytest.mark.parametrize("missing", [name for name in USUAL if name not in ("id", "payload")])
    def test_a_column_that_is_missing_means_what_its_null_means(self, missing: str) -> None:
        names = tuple(name for name in USUAL if name != missing)

        assert decode(names) == decode(**{missing: None})

    def test_the_topic_of_null_is_the_default(self) -> None:
        assert decode(topic=None).topic == "default"
        assert decode(topic=b"").topic == "", "which no constraint lets in, and nobody asked for"

    def test_columns_that_were_added_or_moved_do_no_harm(self) -> None:
        moved = ("added", *reversed(USUAL), "another")

        assert decode(moved, added=b"x", key=b"k") == decode(key=b"k")

    def test_a_table_without_ids_cannot_be_read_at_all(self) -> None:
        names = USUAL[1:]

        with pytest.raises(StreamCorrupt, match=r"outbox\.immediate .* id") as caught:
            decoder(relation(names), "default")

        assert "migrate" in caught.value.hint


class TestUndecodable:
    """A row that is no job goes to the dead letters, with what could be read of it."""

    @pytest.mark.parametrize(
        ("values", "reason"),
        [
            ({"payload": None}, "payload"),
            ({"headers": b"\x01{"}, "DecodeError"),
            ({"headers": b"\x01[1]"}, "ValidationError"),
            ({"headers": b"\x01null"}, "ValidationError"),
            ({"headers": b""}, "DecodeError"),
            ({"headers": b"\x01" + b'{"a":' * 5000}, "Error"),
            ({"history": b"\x01{}"}, "created_us"),
            ({"history": b"\x01{"}, "DecodeError"),
            ({"key": b"\xff"}, "UnicodeDecodeError"),
            ({"topic": b"\xff"}, "UnicodeDecodeError"),
            ({"content_type": b"\xff"}, "UnicodeDecodeError"),
        ],
    )
    def test_it_says_why(self, values: dict[str, Any], reason: str) -> None:
        result = decode(**values)

        assert isinstance(result, Undecodable)
        assert reason in result.reason
        assert result.job.id == 1

    def test_it_keeps_what_can_be_read(self) -> None:
        result = decode(
            id=int8(42), attempt=int4(3), key=b"k\xff", topic=b"t\xff", headers=b"\x01{"
        )

        assert result.job == Job(
            id=42,
            topic="t\N{REPLACEMENT CHARACTER}",
            payload=b"{}",
            key="k\N{REPLACEMENT CHARACTER}",
            attempt=3,
            created_us=NOON_US,
        )

    def test_without_a_payload_the_others_are_kept(self) -> None:
        assert decode(payload=None, key=b"k").job == Job(
            1, "orders", b"", key="k", created_us=NOON_US
        )

    @pytest.mark.parametrize("id_", [None, b"", b"1234"])
    def test_without_an_id_there_is_nothing_to_keep(self, id_: Any) -> None:
        with pytest.raises(StreamCorrupt):
            decode(id=id_)


class TestGarbage:
    def test_a_row_of_another_width_is_refused(self) -> None:
        read = decoder(relation(USUAL), "default")

        for names in (USUAL[:-1], WITH_XID):
            with pytest.raises(ProtocolError):
                read(insert(names))

    @pytest.mark.parametrize("names", [USUAL, WITH_XID])
    def test_bytes_too_many_or_too_few_are_refused(self, names: tuple[str, ...]) -> None:
        read = decoder(relation(names), "default")
        frame = insert(names)

        for size in range(31, len(frame)):
            with pytest.raises((ProtocolError, StreamCorrupt)):
                read(frame[:size])

        with pytest.raises(ProtocolError):
            read(frame + b"n")

    @pytest.mark.parametrize("column", ["id", "attempt", "topic", "payload", "headers", "consumer"])
    def test_a_new_row_cannot_leave_a_column_unchanged(self, column: str) -> None:
        with pytest.raises(ProtocolError):
            decode(**{column: UNCHANGED})

    def test_a_column_that_is_there_twice_is_refused(self) -> None:
        names = ("id", "id", "payload")

        with pytest.raises(ProtocolError):
            decoder(relation(names), "default")(insert(names))


# Mostly sound values, so that the whole of a row is often sound.
cell_values = st.fixed_dictionaries(
    {
        "id": st.integers(-(2**63), 2**63 - 1).map(int8) | st.binary(max_size=9) | st.none(),
        "created_at": st.integers(-(2**63), 2**63 - 1).map(int8) | st.none(),
        "topic": st.sampled_from([b"orders", b"", "Ω".encode(), b"\xff", None]),
        "payload": st.binary(max_size=30) | st.none(),
    },
    optional={
        "attempt": st.integers(1, 2**31 - 1).map(int4) | st.binary(max_size=5),
        "key": st.binary(max_size=5),
        "headers": st.sampled_from([jsonb({}), jsonb({"a": "b"}), b"\x01{", b"", jsonb(None)]),
        "content_type": st.sampled_from([b"text/plain", b"", b"\xff"]),
        "consumer": st.sampled_from([b"default", b"other", b""]),
        "expires_at": st.integers(-(2**63), 2**63 - 1).map(int8) | st.binary(max_size=9),
        "history": st.sampled_from([jsonb({"created_us": 3}), jsonb({}), b"\x01"]),
    },
)


def outcome(names: tuple[str, ...], values: dict[str, Any], texts: set[str]) -> Any:
    given = cells(**values)
    formats = bytes(
        ord("t") if name in texts and isinstance(given[name], bytes) else ord("b") for name in names
    )
    frame = data(Insert(OID, Row(tuple(given[name] for name in names), formats)))
    try:
        return decoder(relation(names), "default")(frame)
    except StreamCorrupt as error:
        return type(error), str(error)


@settings(max_examples=300, deadline=None)
@given(cell_values, st.sets(st.sampled_from(USUAL), max_size=2), st.permutations(USUAL))
def test_the_short_way_and_the_long_way_give_the_same_job(
    values: dict[str, Any], texts: set[str], order: list[str]
) -> None:
    """Only the usual order of columns is read in one go; every other goes the long way."""
    moved = (*order, "xid") if tuple(order) != USUAL else tuple(reversed(USUAL))

    expected = outcome(moved, values, texts)

    assert outcome(USUAL, values, texts) == expected
    assert outcome(WITH_XID, values, texts) == expected
