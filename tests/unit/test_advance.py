"""What counts as progress: settled, passed, and known to the server."""

from typing import Any

from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.postgres.source.advance import Advance


class Server:
    """Stands in for the leadership: says how far a slot is."""

    def __init__(self, confirmed: int | None) -> None:
        self.confirmed = confirmed

    async def rows(self, name: str, params: dict[str, Any], *, doing: str) -> list[tuple[str]]:
        assert (name, params) == ("confirmed", {"slot": "s"})
        return [] if self.confirmed is None else [(str(LSN(self.confirmed)),)]


def advance(confirmed: int | None) -> Any:
    server: Any = Server(confirmed)
    return Advance(server, "s")


async def test_a_position_that_moves_in_idle_times_is_no_progress() -> None:
    subject = advance(100)
    subject.move(LSN(50))

    assert not await subject.confirmed()


async def test_a_settled_job_that_is_not_passed_is_no_progress() -> None:
    subject = advance(100)
    subject.move(LSN(50))
    subject.settle()

    assert not await subject.confirmed()


async def test_what_was_only_reported_is_no_progress() -> None:
    subject = advance(59)
    subject.settle()
    subject.move(LSN(60))

    assert not await subject.confirmed()


async def test_what_the_server_knows_is_progress_whatever_came_after() -> None:
    subject = advance(60)
    subject.settle()
    subject.move(LSN(60))
    subject.move(LSN(70))

    assert await subject.confirmed()


async def test_a_slot_that_is_gone_knows_nothing() -> None:
    subject = advance(None)
    subject.settle()
    subject.move(LSN(60))

    assert not await subject.confirmed()
