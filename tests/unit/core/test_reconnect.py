"""Waiting before trying the server again."""

from pgcdc_outbox.core.reconnect import Backoff


def latest(a: float, b: float) -> float:
    return b


def earliest(a: float, b: float) -> float:
    return a


def test_the_ceiling_doubles_up_to_the_cap() -> None:
    backoff = Backoff(first=1, cap=10)

    assert [backoff.next(latest) for _ in range(6)] == [1, 2, 4, 8, 10, 10]


def test_half_of_it_is_never_left_to_chance() -> None:
    backoff = Backoff(first=1, cap=10)

    assert [backoff.next(earliest) for _ in range(5)] == [0.5, 1, 2, 4, 5]


def test_success_starts_it_from_the_beginning() -> None:
    backoff = Backoff(first=1, cap=10)
    for _ in range(3):
        backoff.next(latest)

    backoff.reset()

    assert backoff.next(latest) == 1


def test_a_server_that_is_away_for_weeks_does_not_overflow_it() -> None:
    backoff = Backoff(first=0.1, cap=30)
    for _ in range(2000):
        delay = backoff.next(latest)

    assert delay == 30
