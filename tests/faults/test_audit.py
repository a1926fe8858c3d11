"""The audit itself: each rule is seen to find what it is there for."""

from typing import Any

import pytest

from tests.faults.audit import Audit
from tests.faults.sampler import Sample
from tests.faults.truth import Body, Break, Claim, Execution


def claim(*seqs: int, fails: int = 0, fate: Any = "committed", ends: int = 0) -> Claim:
    jobs = tuple(Body(seq=seq, fails=fails) for seq in seqs)
    return Claim(producer="p", key="p", jobs=jobs, fate=fate, before=max(ends - 5, 0), after=ends)


def run(seq: int, *, attempt: int = 1, failed: bool = False, at: float = 1.0) -> Execution:
    return Execution(
        worker="w",
        pid=1,
        seq=seq,
        id=seq,
        topic="t",
        key="p",
        attempt=attempt,
        failed=failed,
        began=at,
        at=at,
    )


def killed(at: float, *, again: float = 1.0, **more: Any) -> Break:
    return Break(what="kill", at=at, until=at, again=again, **more)


def found(claims: list[Claim], runs: list[Execution], **more: Any) -> list[str]:
    return Audit(claims, runs, max_attempts=2, **more).violations


@pytest.mark.parametrize(
    ("says", "claims", "runs", "more"),
    [
        ("lost", [claim(1, 2)], [run(1)], {}),
        ("lost", [claim(1, fails=2)], [run(1, failed=True), run(1, attempt=2, failed=True)], {}),
        ("never committed", [claim(1, fate="rolled back")], [run(1)], {}),
        ("never committed", [], [run(1)], {}),
        ("half", [claim(1, 2, fate="in doubt")], [run(1)], {}),
        ("attempts [1, 2]", [claim(1)], [run(1), run(1, attempt=2)], {}),
        ("attempts [2]", [claim(1, fails=1)], [run(1, attempt=2)], {}),
        ("dead after", [claim(1)], [run(1)], {"dead": {1: 2}}),
        ("dead after", [], [], {"dead": {1: 2}}),
        ("repeated", [claim(1)], [run(1), run(1, at=2)], {}),
        ("repeated", [claim(1)], [run(1), run(1, at=9)], {"breaks": [killed(5)]}),
        ("repeated", [claim(1)], [run(1, at=6), run(1, at=9)], {"breaks": [killed(5)]}),
        (
            "repeated",
            [claim(1, ends=10)],
            [run(1, at=4.5), run(1, at=9)],
            {"breaks": [killed(5)], "samples": [Sample(at=4.8, confirmed=10)]},
        ),
        ("out of order", [claim(1), claim(2)], [run(2), run(1)], {}),
        (
            "moved back",
            [],
            [],
            {"samples": [Sample(at=1, confirmed=2), Sample(at=2, confirmed=1)]},
        ),
        (
            "not settled",
            [claim(1, 2, ends=10)],
            [run(1, at=1), run(2, at=3)],
            {"samples": [Sample(at=2, confirmed=10)]},
        ),
    ],
)
def test_it_finds(says: str, claims: Any, runs: Any, more: Any) -> None:
    assert [text for text in found(claims, runs, **more) if says in text]


@pytest.mark.parametrize(
    ("claims", "runs", "more"),
    [
        ([claim(1, 2), claim(3, fate="rolled back")], [run(1), run(2)], {}),
        ([claim(1, 2, fate="in doubt")], [], {}),
        ([claim(1, 2, fate="in doubt")], [run(1), run(2)], {}),
        ([claim(1, fails=1)], [run(1, failed=True), run(1, attempt=2)], {}),
        (
            [claim(1, fails=9)],
            [run(1, failed=True), run(1, attempt=2, failed=True)],
            {"dead": {1: 2}},
        ),
        ([claim(1)], [run(1, at=4.5), run(1, at=9)], {"breaks": [killed(5)]}),
        (
            [claim(1, ends=11)],
            [run(1, at=4.5), run(1, at=9)],
            {"breaks": [killed(5)], "samples": [Sample(at=4.8, confirmed=10)]},
        ),
        (
            [claim(1, ends=10)],
            [run(1, at=4.5), run(1, at=9)],
            {"breaks": [killed(5, resets=True)], "samples": [Sample(at=4.8, confirmed=10)]},
        ),
        (
            [claim(1, ends=10)],
            [run(1, at=4.5), run(1, at=9)],
            {"breaks": [killed(5)], "samples": [Sample(at=4.8, confirmed=10)], "slots": [10]},
        ),
        ([claim(1), claim(2)], [run(1), run(2, at=2)], {}),
        (
            [],
            [],
            {
                "samples": [Sample(at=1, confirmed=2), Sample(at=5.5, confirmed=1)],
                "breaks": [killed(5, resets=True)],
            },
        ),
        # Before the slot began at 8: the table brings it, whatever the slot says.
        (
            [claim(1, ends=7)],
            [run(1, at=3)],
            {"samples": [Sample(at=2, confirmed=10)], "slots": [8]},
        ),
        ([claim(1, ends=10)], [run(1, at=1)], {"samples": [Sample(at=2, confirmed=10)]}),
    ],
)
def test_it_finds_nothing(claims: Any, runs: Any, more: Any) -> None:
    assert found(claims, runs, **more) == []
