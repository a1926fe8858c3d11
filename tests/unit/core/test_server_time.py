"""What the clock of the server says: never behind it, and seldom far ahead."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcdc_outbox.core.server_time import Reading, ServerTime

HOUR = 3_600_000_000


def test_nothing_is_known_before_the_first_reading() -> None:
    assert not ServerTime().is_known(0.0)


def test_a_reading_is_good_for_a_while() -> None:
    time = ServerTime()
    time.learn(Reading(100.0, 100.5, HOUR))

    assert time.is_known(110.0)
    assert not time.is_known(111.0)
    assert time.at(101.0) == HOUR + 1_000_000


@given(
    ahead=st.floats(-1e9, 1e9),
    trips=st.lists(st.tuples(st.floats(0, 0.3), st.floats(0, 0.3)), min_size=1, max_size=20),
    later=st.floats(0, 5),
)
def test_it_is_never_behind_the_server(
    ahead: float, trips: list[tuple[float, float]], later: float
) -> None:
    """Whatever part of the time the way there takes, and however the clocks differ."""
    time, now = ServerTime(), 1000.0
    for there, back in trips:
        time.learn(Reading(now, now + there + back, round((now + there + ahead) * 1e6)))
        now += there + back

    error = time.at(now + later) / 1e6 - (now + later + ahead)
    assert -0.001 <= error <= min(there + back for there, back in trips) + 0.001


def test_a_slow_answer_does_not_spoil_a_quick_one() -> None:
    time = ServerTime()
    time.learn(Reading(100.0, 100.001, HOUR))
    time.learn(Reading(101.0, 104.0, HOUR + 4_000_000))

    assert time.at(104.0) == HOUR + 4_000_000


def test_a_slow_answer_is_better_than_an_old_one() -> None:
    time = ServerTime()
    time.learn(Reading(100.0, 100.001, HOUR))
    time.learn(Reading(120.0, 121.0, HOUR + 20_700_000))

    assert time.at(121.0) == HOUR + 21_700_000


@pytest.mark.parametrize("step", [-HOUR, HOUR])
def test_a_clock_that_is_set_is_followed(step: int) -> None:
    time = ServerTime()
    time.learn(Reading(100.0, 100.001, HOUR * 24))
    time.learn(Reading(101.0, 101.2, HOUR * 24 + step))

    assert abs(time.at(101.2) - HOUR * 24 - step) <= 200_000
