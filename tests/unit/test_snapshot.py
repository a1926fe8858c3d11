"""Snapshots as text."""

import pytest

from pgcdc_outbox.postgres.source.checkpoint import normal


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("10:20:11,15", "10:20:11,15"),
        ("10:10:", "10:10:"),
        # As a new slot's was seen to be: the server refuses to read it.
        ("18163:18160:", "18163:18163:"),
    ],
)
def test_a_snapshot_is_one_that_the_server_takes(given: str, taken: str) -> None:
    assert normal(given) == taken
