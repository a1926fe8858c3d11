"""Patterns of topics: words between dots, ``*`` for one of them, ``#`` for any number.

Which of several patterns that fit takes a topic, is decided by a fixed rule:

1. the topic itself, without wildcards;
2. then patterns with ``*`` only, then those with ``#``;
3. among equals the words are compared from the left: a word goes before ``*``,
   ``*`` before ``#``, and ``#`` before the end of the pattern;
4. what is still equal (``#.a.#`` and ``#.b.#``): who was registered first.
"""

from typing import Final, Self

from msgspec import Struct

ONE: Final = "*"
ANY: Final = "#"

_MAX_BYTES: Final = 255
_WORD, _ONE, _ANY, _END = range(4)
_RANKS: Final = {ONE: _ONE, ANY: _ANY}


class Pattern(Struct, frozen=True):
    """A pattern, checked."""

    text: str
    words: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a pattern. Raises `ValueError`, which says what is wrong with it."""
        if not text:
            raise ValueError("the pattern is empty")

        if len(text.encode("utf-8", "replace")) > _MAX_BYTES:
            raise ValueError(f"the pattern is longer than a topic may be ({_MAX_BYTES} bytes)")

        words = tuple(text.split("."))
        for word in words:
            if not word:
                raise ValueError(f"the pattern {text!r} has an empty word between its dots")

            if word not in _RANKS and (ONE in word or ANY in word):
                raise ValueError(
                    f"the pattern {text!r} has a wildcard inside the word {word!r}; "
                    "`*` and `#` stand for whole words"
                )

        return cls(text, words)

    @property
    def is_exact(self) -> bool:
        """Whether it names one topic."""
        return ONE not in self.words and ANY not in self.words

    @property
    def rank(self) -> tuple[bool, bool, tuple[int, ...]]:
        """Where it stands among others that fit the same topic; the smallest goes first."""
        ranks = (*(_RANKS.get(word, _WORD) for word in self.words), _END)
        return not self.is_exact, ANY in self.words, ranks

    def fits(self, topic: str) -> bool:
        """Whether a topic is one of those it means.

        Goes from left to right, and back only to the last ``#``: what an
        earlier one could take instead, the last one can take as well.
        """
        words, given = self.words, topic.split(".")
        at = place = 0
        any_at = any_place = -1
        while place < len(given):
            if at < len(words) and words[at] == ANY:
                any_at, any_place = at, place
                at += 1
            elif at < len(words) and words[at] in (ONE, given[place]):
                at += 1
                place += 1
            elif any_at >= 0:
                # The last # takes one more word.
                any_place += 1
                at, place = any_at + 1, any_place
            else:
                return False

        return all(word == ANY for word in words[at:])


def join(*parts: str) -> str:
    """Join prefixes and a pattern with dots; an empty one adds nothing."""
    return ".".join(part for part in parts if part)
