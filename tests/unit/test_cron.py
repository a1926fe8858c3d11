"""Cron expressions in time zones, where days are not all of a length."""

import builtins
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from pgcdc_outbox.errors import JobInvalid, SettingsError
from pgcdc_outbox.postgres.producer.schedules.cron import Cron
from pgcdc_outbox.postgres.producer.schedules.schedule import Schedule

NEW_YORK = "America/New_York"


def times(expression: str, zone: str, start: str, count: int) -> list[str]:
    cron, moment, found = Cron(expression, zone), datetime.fromisoformat(start), []
    for _ in range(count):
        moment = cron.after(moment)
        assert moment.tzinfo is UTC
        found.append(f"{moment:%m-%d %H:%M}")

    return found


def test_a_time_of_the_zone_moves_with_its_summer() -> None:
    """Half past seven in Athens, the night when clocks are put forward in between."""
    assert times("30 7 * * *", "Europe/Athens", "2026-03-27T12:00Z", 3) == [
        "03-28 05:30",
        "03-29 04:30",
        "03-30 04:30",
    ]


def test_a_time_that_is_left_out_in_spring_is_the_end_of_the_gap() -> None:
    # Half past two is three o'clock on 8 March, at 07:00 UTC.
    assert times("30 2 * * *", NEW_YORK, "2026-03-07T12:00Z", 2) == ["03-08 07:00", "03-09 06:30"]
    # Two of them are one.
    assert times("15,45 2 * * *", NEW_YORK, "2026-03-07T12:00Z", 2) == [
        "03-08 07:00",
        "03-09 06:15",
    ]


def test_a_time_that_comes_twice_in_autumn_is_the_first() -> None:
    assert times("30 1 * * *", NEW_YORK, "2026-10-31T12:00Z", 2) == ["11-01 05:30", "11-02 06:30"]


@pytest.mark.parametrize(
    "start", ["2026-11-01T05:30:00Z", "2026-11-01T06:10Z", "2026-11-01T06:29Z"]
)
def test_between_the_two_it_is_over(start: str) -> None:
    """Asked in the second of the two hours, whose wall clock is before the time."""
    assert times("30 1 * * *", NEW_YORK, start, 1) == ["11-02 06:30"]


def test_each_hour_is_each_hour() -> None:
    assert times("0 * * * *", NEW_YORK, "2026-11-01T04:30Z", 3) == [
        "11-01 05:00",
        "11-01 06:00",
        "11-01 07:00",
    ]
    assert times("*/30 * * * *", NEW_YORK, "2026-03-08T06:30Z", 2) == ["03-08 07:00", "03-08 07:30"]


def test_a_year_of_days_has_each_day_once() -> None:
    for zone in (NEW_YORK, "Europe/Athens", "Asia/Tokyo", "Australia/Lord_Howe"):
        cron, moment = Cron("30 2 * * *", zone), datetime(2026, 1, 1, 0, tzinfo=UTC)
        found = []
        while len(found) < 365:
            moment = cron.after(moment)
            found.append(moment)

        gaps = {later - earlier for earlier, later in pairwise(found)}
        assert all(timedelta(hours=22) < gap < timedelta(hours=26) for gap in gaps)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"cron": "61 * * * *"}, "cron: '61 \\* \\* \\* \\*' is not understood"),
        ({"cron": "* * * *"}, "cron: .* is not understood"),
        ({"cron": ""}, "cron: '' is not understood"),
        ({"cron": "0 0 30 2 *"}, "cron: .* is not understood"),
        ({"cron": "0 0 29 2 MON#5"}, None),
        ({"cron": 5}, "cron, time_zone: give them as text"),
        ({"time_zone": "Mars/Olympus"}, "time_zone: 'Mars/Olympus' is not known"),
        ({"time_zone": "../etc/passwd"}, "time_zone: .* is not known"),
        ({"time_zone": ""}, "time_zone: '' is not known"),
        ({"missed": "never"}, "missed: 'never' is not known"),
        ({"name": ""}, "name: '' is no name"),
        ({"name": "x" * 256}, "name: it is longer"),
        ({"topic": ""}, "topic: is empty"),
        ({"payload": float("nan")}, "payload: nan"),
        ({"time_to_live": 0}, "time_to_live: is nothing"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], said: str | None) -> None:
    given = {"name": "n", "cron": "* * * * *", **fields}
    if said is None:
        assert Schedule(**given)
        return

    with pytest.raises((SettingsError, JobInvalid), match=f"^{said}") as caught:
        Schedule(**given)

    assert not isinstance(caught.value, TypeError)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any) -> Any:
        if name == "cronsim":
            raise ImportError(name)

        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(SettingsError, match="not installed") as caught:
        Schedule(name="n", cron="* * * * *")

    assert caught.value.hint == "pip install 'pgcdc-outbox[cron]'"
