"""The patience with a peer that says nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcdc_outbox.core.silence import Silence, patience


def test_it_is_asked_first_and_given_up_later() -> None:
    silence = Silence(patience=90, now=100)

    assert (silence.is_long(129), silence.is_over(129)) == (False, False)
    assert (silence.is_long(130), silence.is_over(130)) == (True, False)
    assert (silence.is_long(190), silence.is_over(190)) == (True, True)


def test_whatever_comes_ends_it() -> None:
    silence = Silence(patience=90, now=100)
    silence.heard(189)

    assert not silence.is_long(190)
    assert not silence.is_over(278)
    assert silence.is_over(279)


@given(st.integers(1, 10**4), st.lists(st.integers(0, 10**4), max_size=20))
def test_who_waits_as_long_as_told_misses_neither_answer(third: int, pauses: list[int]) -> None:
    now = 0
    silence = Silence(patience=3 * third, now=now)
    for pause in pauses:
        now += pause
        answers = silence.is_long(now), silence.is_over(now)
        wait = silence.wait(now)
        assert wait == int(wait)
        assert (wait == 0) == silence.is_over(now)
        if wait:
            assert (silence.is_long(now + wait - 1), silence.is_over(now + wait - 1)) == answers
            assert (silence.is_long(now + wait), silence.is_over(now + wait)) != answers


@pytest.mark.parametrize(("timeout", "seconds"), [(60, 90), (2, 3), (0, 90)])
def test_it_is_longer_than_the_servers_own(timeout: float, seconds: float) -> None:
    assert patience(timeout) == seconds
