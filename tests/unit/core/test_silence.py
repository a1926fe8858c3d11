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


@given(st.floats(0.3, 1e4), st.lists(st.floats(0, 1e4), max_size=20))
def test_who_waits_as_long_as_told_misses_neither_answer(whole: float, pauses: list[float]) -> None:
    now = 0.0
    silence = Silence(patience=whole, now=now)
    for pause in pauses:
        now += pause
        wait = silence.wait(now)
        if not silence.is_over(now):
            assert 0 < wait <= whole
            before = silence.is_long(now)
            after = now + wait + whole * 1e-6
            assert silence.is_long(after) > before or silence.is_over(after)
        else:
            assert wait == 0

        if not silence.is_long(now):
            silence.heard(now)


@pytest.mark.parametrize(("timeout", "seconds"), [(60, 90), (2, 3), (0, 90)])
def test_it_is_longer_than_the_servers_own(timeout: float, seconds: float) -> None:
    assert patience(timeout) == seconds
