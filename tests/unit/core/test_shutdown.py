"""Keepalives of a server that shuts down."""

from hypothesis import given
from hypothesis import strategies as st

from pgcdc_outbox.core.shutdown import Burst


def asks(burst: Burst, times: int, *, every: float, position: int = 7) -> list[bool]:
    return [burst.asked(position, 100 + n * every) for n in range(times)]


def test_the_twentieth_within_a_second_tells() -> None:
    assert asks(Burst(), 20, every=0.05) == [False] * 19 + [True]


def test_fewer_or_slower_ones_tell_nothing() -> None:
    assert not any(asks(Burst(), 19, every=0.001))
    assert not any(asks(Burst(), 1000, every=0.06))


def test_data_in_between_tells_of_a_server_that_lives() -> None:
    burst = Burst()
    for n in range(100):
        assert not burst.asked(7, 100 + n * 0.001)
        if n % 19 == 18:
            burst.data()


def test_a_position_that_moves_tells_of_a_server_that_lives() -> None:
    burst = Burst()
    assert not any(burst.asked(7 + n // 19, 100 + n * 0.001) for n in range(1000))


@given(
    st.lists(
        st.tuples(st.floats(0, 0.3), st.integers(0, 2), st.booleans()), min_size=1, max_size=200
    )
)
def test_it_is_told_exactly_when_the_last_twenty_say_so(
    steps: list[tuple[float, int, bool]],
) -> None:
    burst, now, streak, last = Burst(), 0.0, [], None
    for pause, position, data in steps:
        now += pause
        if data:
            burst.data()
            streak = []
            continue

        streak = [*streak, now] if position == last else [now]
        last = position
        told = burst.asked(position, now)
        assert told == (len(streak) >= 20 and now - streak[-20] <= 1.0)
