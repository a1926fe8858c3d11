"""Where the demo prints: a terminal, on which figures are redrawn in place, or plain lines."""

import time
from collections.abc import Mapping
from typing import Final, TextIO

_PLAIN_SECONDS: Final = 1.0
_UP_AND_CLEAR: Final = "\x1b[{}F\x1b[J"
_GREEN, _RED, _RESET = "\x1b[1;32m", "\x1b[1;31m", "\x1b[0m"


class Screen:
    """Prints lines, and figures that change."""

    def __init__(self, out: TextIO, *, live: bool) -> None:
        self._out = out
        self._live = live
        self._drawn = 0
        self._next = 0.0

    def say(self, *lines: str) -> None:
        """Print lines below everything else."""
        self._drawn = 0
        self._write(lines)

    def verdict(self, text: str, *, good: bool) -> None:
        """Print the line that matters most."""
        colour = _GREEN if good else _RED
        self.say(f"{colour}{text}{_RESET}" if self._live else text)

    def show(self, seconds: float, figures: Mapping[str, int], *, last: bool = False) -> None:
        """Print figures: over the previous ones, or in a line now and then."""
        if self._live:
            self._redraw(seconds, figures)
        elif last or time.monotonic() >= self._next:
            self._next = time.monotonic() + _PLAIN_SECONDS
            parts = (f"{name} {number:,}" for name, number in figures.items())
            self._write([f"{seconds:5.1f} s  {', '.join(parts)}"])

    def _redraw(self, seconds: float, figures: Mapping[str, int]) -> None:
        if self._drawn:
            self._out.write(_UP_AND_CLEAR.format(self._drawn))

        lines = [f"  {name:<22}{number:>12,}" for name, number in figures.items()]
        lines.append(f"  {'seconds':<22}{seconds:>12.1f}")
        self._write(lines)
        self._drawn = len(lines)

    def _write(self, lines: tuple[str, ...] | list[str]) -> None:
        self._out.writelines(f"{line}\n" for line in lines)
        self._out.flush()
