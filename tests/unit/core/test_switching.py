"""How long somebody who polls waits before the log is tried again."""

from pgcdc_outbox.core.switching import FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, Switching


def test_the_log_is_tried_at_once() -> None:
    assert Switching().polls_until() <= 0


def test_each_failure_doubles_the_wait_up_to_an_hour() -> None:
    switching, now, waits = Switching(), 1000.0, []
    for _ in range(9):
        switching.left(now)
        waits.append(switching.polls_until() - now)
        now = switching.polls_until() + 1

    assert waits[:4] == [60, 120, 240, 480]
    assert waits[-1] == LONGEST_WAIT_SECONDS


def test_after_a_good_while_the_next_failure_is_a_new_story() -> None:
    switching = Switching()
    for now in (0.0, 100.0, 300.0):
        switching.left(now)

    later = switching.polls_until() + LONGEST_WAIT_SECONDS
    switching.left(later)
    assert switching.polls_until() - later == FIRST_WAIT_SECONDS
