"""Who is far behind lets messages gather; who is not takes each as it comes."""

import pytest

from pgcdc_outbox.postgres.source.pacing import Pacing

FAR = 0.2
NEAR = 0.05


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("got", [0, 1, 500])
def test_nothing_is_delayed_that_has_only_just_been_committed(local: bool, got: int) -> None:
    assert not Pacing(local=local).gathers(got=got, late=NEAR)


def test_over_tcp_it_gathers_after_each_look_that_found_something() -> None:
    pacing = Pacing(local=False)

    assert pacing.gathers(got=1, late=FAR)
    assert not pacing.gathers(got=0, late=FAR), "then it waits to be woken"


async def test_at_a_socket_it_naps_a_few_times_and_then_waits_to_be_woken() -> None:
    pacing = Pacing(local=True)
    assert not pacing.gathers(got=1, late=FAR)

    naps = 0
    while pacing.gathers(got=0, late=FAR):
        await pacing.gather()
        naps += 1
        assert naps < 10

    assert naps > 1
    assert not pacing.gathers(got=1, late=FAR)
    assert pacing.gathers(got=0, late=FAR), "something came: it may nap again"


def test_only_who_is_far_behind_gains_by_waiting() -> None:
    assert Pacing.is_near(NEAR)
    assert not Pacing.is_near(FAR)
