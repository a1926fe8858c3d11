"""Plots as SVG: bars, or lines where something grows. It draws, and decides nothing.

Colours are chosen to be told apart by everybody, and the background is white, because
the page may be dark.
"""

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from benchmarks.results import Measured, Result, Spread

_WIDTH: Final = 860
_LEFT: Final = 70
_BAR: Final = 18
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#777777")


def draw(result: Result) -> str:
    """The plot of a case."""
    grows = result.growing and len({point.x for point in result.points}) > 1
    height, parts = _lines(result) if grows else _bars(result)
    title = f"{result.title}, {result.unit}"
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"',
            'font-family="sans-serif" font-size="12">',
            f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
            _text(10, 20, title, size=15),
            *parts,
            "</svg>\n",
        )
    )


def _bars(result: Result) -> tuple[int, list[str]]:
    """A bar for each contender, from the least to the most marked by a line."""
    begin, end = 330, _WIDTH - 80
    most = max((s.values.most for p in result.points for s in p.standings), default=0) or 1.0
    scale = (end - begin) / most
    parts, y = [], 40
    for point in result.points:
        y += 20
        parts.append(_text(10, y, point.name, weight="bold"))
        y += 8
        for index, standing in enumerate(point.standings):
            values = standing.values
            colour = _COLOURS[index % len(_COLOURS)]
            length = max(values.median, 0) * scale
            parts += [
                _text(begin - 8, y + 13, standing.label, anchor="end"),
                _bar(begin, y, length, colour),
                _stroke(
                    begin + max(values.least, 0) * scale,
                    y + _BAR / 2 - 2,
                    begin + max(values.most, 0) * scale,
                    y + _BAR / 2 - 2,
                ),
                _text(begin + max(length, values.most * scale) + 6, y + 13, _short(values.median)),
            ]
            y += _BAR

    return y + 20, parts


def _lines(result: Result) -> tuple[int, list[str]]:
    """A line for each contender over what grows, with both axes logarithmic."""
    top, bottom, right = 50, 400, _WIDTH - 20
    points = [point for point in result.points if point.x]
    values = [standing.values for point in points for standing in point.standings]
    across = _Axis([point.x or 1 for point in points], _LEFT, right)
    upwards = _Axis([v for each in values for v in (each.least, each.most)], bottom, top)

    parts = [
        *(_tick_across(across.at(x), x, top, bottom) for x in across.decades()),
        *(_tick_upwards(upwards.at(y), y, right) for y in upwards.decades()),
        _text(right, bottom + 34, result.growing, anchor="end"),
    ]
    labels = dict.fromkeys(each.label for point in points for each in point.standings)
    for index, label in enumerate(labels):
        colour = _COLOURS[index % len(_COLOURS)]
        spots = [
            (across.at(point.x or 1), spread) for point in points for spread in _of(point, label)
        ]
        path = " ".join(f"{x:.1f},{upwards.at(spread.median):.1f}" for x, spread in spots)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, spread in spots:
            y = upwards.at(spread.median)
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
            parts.append(_stroke(x, upwards.at(spread.least), x, upwards.at(spread.most)))

        y = bottom + 60 + 18 * index
        parts.append(f'<rect x="{_LEFT}" y="{y - 10}" width="12" height="12" fill="{colour}"/>')
        parts.append(_text(_LEFT + 18, y, label))

    return bottom + 60 + 18 * len(labels), parts


class _Axis:
    """Positive values on a logarithmic scale, between whole powers of ten."""

    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        logs = [math.log10(value) for value in values if value > 0] or [0.0]
        self._low = math.floor(min(logs))
        self._high = max(math.ceil(max(logs)), self._low + 1)
        self._begin, self._end = begin, end

    def at(self, value: float) -> float:
        share = (math.log10(max(value, 10**self._low)) - self._low) / (self._high - self._low)
        return self._begin + share * (self._end - self._begin)

    def decades(self) -> Iterator[float]:
        return (10.0**power for power in range(self._low, self._high + 1))


def _of(point: Measured, label: str) -> Iterator[Spread]:
    return (standing.values for standing in point.standings if standing.label == label)


def _tick_across(x: float, value: float, top: float, bottom: float) -> str:
    return _stroke(x, top, x, bottom, "#dddddd") + _text(x, bottom + 16, _short(value), "middle")


def _tick_upwards(y: float, value: float, right: float) -> str:
    return _stroke(_LEFT, y, right, y, "#dddddd") + _text(_LEFT - 8, y + 4, _short(value), "end")


def _short(value: float) -> str:
    for limit, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {letter}"

    return f"{value:.3g}"


def _bar(x: float, y: float, width: float, colour: str) -> str:
    size = f'width="{width:.1f}" height="{_BAR - 4}"'
    return f'<rect x="{x:.1f}" y="{y:.1f}" {size} fill="{colour}"/>'


def _text(
    x: float, y: float, text: str, anchor: str = "start", *, size: int = 12, weight: str = "normal"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'font-weight="{weight}" fill="black">{escape(text)}</text>'
    )


def _stroke(x1: float, y1: float, x2: float, y2: float, colour: str = "black") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'
