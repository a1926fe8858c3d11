"""Which topics a pattern means, and which of several patterns goes first."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcdc_outbox.routing.pattern import Pattern, join

WORDS = st.sampled_from(["a", "b", "c"])
TOPICS = st.lists(WORDS, min_size=1, max_size=6).map(".".join)
PATTERNS = st.lists(WORDS | st.sampled_from(["*", "#"]), min_size=1, max_size=6).map(".".join)


def slowly_fits(pattern: list[str], topic: list[str]) -> bool:
    """The definition: tries everything."""
    match pattern, topic:
        case [], []:
            return True
        case ["#", *rest], _:
            return any(slowly_fits(rest, topic[taken:]) for taken in range(len(topic) + 1))
        case [word, *rest], [given, *others] if word in ("*", given):
            return slowly_fits(rest, others)
        case _:
            return False


@given(PATTERNS, TOPICS)
def test_it_fits_what_it_means(pattern: str, topic: str) -> None:
    assert Pattern.parse(pattern).fits(topic) == slowly_fits(pattern.split("."), topic.split("."))


@given(st.lists(PATTERNS, min_size=2, max_size=5, unique=True), TOPICS)
def test_the_first_is_the_same_whatever_the_order(patterns: list[str], topic: str) -> None:
    fitting = [each for each in map(Pattern.parse, [*patterns, topic]) if each.fits(topic)]

    assert min(fitting, key=lambda each: each.rank).text == topic, "the topic itself goes first"
    ranks = sorted(each.rank for each in fitting)
    assert ranks == sorted(each.rank for each in reversed(fitting))


ORDERED = [
    "user.created",
    "user.*",
    "*.created",
    "*.*",
    "user.created.#",
    "user.*.#",
    "user.#.created",
    "user.#",
    "*.created.#",
    "*.#",
    "#.created",
    "#",
]


def test_the_order_of_those_that_fit_one_topic() -> None:
    patterns = [Pattern.parse(text) for text in ORDERED]
    assert all(each.fits("user.created") for each in patterns)

    for some in permutations(patterns[3:8]):
        assert sorted(some, key=lambda each: each.rank) == patterns[3:8]

    assert [each.text for each in sorted(patterns, key=lambda each: each.rank)] == ORDERED


@pytest.mark.parametrize(
    ("pattern", "fits", "fits_not"),
    [
        ("user.created", ["user.created"], ["user", "user.created.x", "users.created"]),
        ("user.*", ["user.created", "user.deleted"], ["user", "user.a.b", "users.a"]),
        ("user.#", ["user", "user.a", "user.a.b"], ["users", "a.user"]),
        ("#.failed", ["failed", "a.failed", "a.b.failed"], ["failed.a"]),
        ("*", ["a", "order"], ["a.b"]),
        ("#", ["a", "a.b.c", "a..b"], []),
        ("a.*.b", ["a..b"], ["a.b"]),
    ],
)
def test_by_example(pattern: str, fits: list[str], fits_not: list[str]) -> None:
    parsed = Pattern.parse(pattern)
    assert [topic for topic in fits + fits_not if parsed.fits(topic)] == fits


def test_many_wildcards_take_no_more_than_a_moment() -> None:
    pattern = Pattern.parse(".".join(["#", "a"] * 60))
    assert not pattern.fits(".".join(["a"] * 100) + ".b")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "empty"),
        ("a..b", "empty word"),
        (".a", "empty word"),
        ("a.", "empty word"),
        ("a*", "inside the word 'a\\*'"),
        ("order.c#", "inside the word 'c#'"),
        ("x" * 256, "255 bytes"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        Pattern.parse(text)


def test_joining() -> None:
    assert join("shop", "order", "created") == "shop.order.created"
    assert join("", "order", "", "created") == "order.created"
    assert join("", "", "") == ""
