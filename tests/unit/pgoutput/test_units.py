"""Positions and times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from pgcdc_outbox.pgoutput import format_lsn, from_datetime, from_unix, parse_lsn, to_datetime


@pytest.mark.parametrize(
    ("text", "lsn"),
    [
        ("0/0", 0),
        ("0/1", 1),
        ("1/0", 1 << 32),
        ("16/B374D848", 0x16_B374D848),
        ("FFFFFFFF/FFFFFFFF", (1 << 64) - 1),
    ],
)
def test_positions(text: str, lsn: int):
    assert parse_lsn(text) == lsn
    assert format_lsn(lsn) == text


def test_a_position_may_be_in_lower_case_or_padded():
    assert parse_lsn("16/b374d848") == 0x16_B374D848
    assert parse_lsn("00000000/0000000A") == 10


@pytest.mark.parametrize(
    "text",
    ["", "/", "0", "0/", "/0", "1/2/3", "G/0", "+1/0", "-1/0", "1_0/0", "0x1/0", " 0/0", "0/0\n",
     "100000000/0", "0/100000000", "\u0661/0"],
)  # fmt: skip
def test_what_is_not_a_position(text: str):
    with pytest.raises(ValueError, match="not a log sequence number"):
        parse_lsn(text)


@pytest.mark.parametrize("lsn", [-1, 1 << 64])
def test_a_position_has_64_bits(lsn: int):
    with pytest.raises(ValueError, match="64 bits"):
        format_lsn(lsn)


def test_times_count_from_the_year_2000():
    assert to_datetime(0) == datetime(2000, 1, 1, tzinfo=UTC)
    assert to_datetime(-1) == datetime(1999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)


def test_a_time_is_the_same_in_any_zone():
    moment = datetime(2024, 2, 29, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=5)))
    assert to_datetime(from_datetime(moment)) == moment
    assert from_unix(moment.timestamp()) == from_datetime(moment)
