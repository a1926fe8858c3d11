"""What people write on the command line."""

from datetime import UTC, datetime, timedelta

import click
import pytest

from pgcdc_outbox.cli.output import age, size, table
from pgcdc_outbox.cli.parameters import duration, header, moment


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("500ms", timedelta(milliseconds=500)),
        ("5s", timedelta(seconds=5)),
        ("15min", timedelta(minutes=15)),
        ("1h30m", timedelta(minutes=90)),
        ("7d", timedelta(days=7)),
        ("1.5 h", timedelta(minutes=90)),
        ("2W", timedelta(weeks=2)),
    ],
)
def test_durations(text, meant):
    assert duration(text) == meant


@pytest.mark.parametrize("text", ["", "5", "h", "5 parsecs", "1h 5", "-1h", "999999999999d"])
def test_what_is_no_duration(text):
    with pytest.raises(click.BadParameter):
        duration(text)


def test_a_moment_without_a_zone_is_in_utc():
    assert moment("2026-11-21T09:30") == datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
    assert moment("2026-11-21T09:30+02:00") == datetime(2026, 11, 21, 7, 30, tzinfo=UTC)
    with pytest.raises(click.BadParameter):
        moment("tomorrow")


def test_headers():
    assert header("a=b=c") == ("a", "b=c")
    with pytest.raises(click.BadParameter):
        header("=b")


def test_tables_keep_control_characters_from_the_terminal():
    assert table(("A", "N"), [("x\x1b[31m\ny", 5), (None, 12)]) == (
        "A          N\nx [31m y   5\n-         12"
    )


def test_sizes_and_ages_for_people():
    assert [size(number) for number in (None, 5, 1536, 5 * 1024**4)] == [
        "-",
        "5 B",
        "1.5 kB",
        "5.0 TB",
    ]
    assert [age(seconds) for seconds in (None, 0.44, 62, 93_784)] == [
        "-",
        "0.4s",
        "1min 2s",
        "1d 2h",
    ]
