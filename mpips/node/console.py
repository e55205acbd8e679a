"""What the user sees of a running job: a line now and then, never a flood, never silence."""

import contextlib
import sys
from typing import Any, TextIO

from mpips.errors import MpipsError

LINES_PER_HEADER = 25
LINES_PER_LIFE = 20.0


class Console:
    """Prints a job's progress; one full line at a time, so that batch logs stay readable.

    Args:
        seconds: the time at which the job began.
        stream: where to print.
    """

    def __init__(self, seconds: float, stream: TextIO | None = None) -> None:
        self._began, self._stream = seconds, stream or sys.stdout
        self._last = float("-inf")
        self._rows = 0
        self._held: dict[str, Any] | None = None

    def say(self, text: str) -> None:
        """Print a line; a job goes on when its terminal has gone."""
        with contextlib.suppress(OSError):
            print(text, file=self._stream, flush=True)

    def complain(self, error: MpipsError) -> None:
        """Print an error on the standard error."""
        with contextlib.suppress(OSError):
            print(error.explain(), file=sys.stderr, flush=True)

    def row(self, now: float, facts: dict[str, Any]) -> None:
        """Print facts as a row of a table, if the last row is not too recent.

        Rows come at most every second, and ever slower as the job goes on.
        """
        gap = max(1.0, (now - self._began) / LINES_PER_LIFE)
        if now - self._last < gap:
            self._held = facts
            return
        self._print_row(now, facts)

    def close(self, now: float, error: bool, facts: dict[str, Any], folder: str) -> None:
        """Print how the job has ended: its numbers, and where its files are."""
        self.flush_row(now)
        shown = {name: value for name, value in facts.items() if isinstance(value, int | float)}
        parts = [f"{name.replace('_', ' ')} {show(value)}" for name, value in shown.items()]
        word = "failed after" if error else "done in"
        self.say(f"{word} {show_time(now - self._began)}   {'   '.join(parts)}".rstrip())
        if facts.get("converged") is False and not error:
            self.say(f"       stopped after model.passes = {facts['passes']}, before the tolerance")
        if folder and not error:
            self.say(f"out    {folder}")

    def flush_row(self, now: float) -> None:
        """Print the row that was held back, if there is one: the last is worth seeing."""
        if self._held is not None:
            self._print_row(now, self._held)

    def _print_row(self, now: float, facts: dict[str, Any]) -> None:
        self._last, self._held = now, None
        if self._rows % LINES_PER_HEADER == 0:
            names = "".join(f"{name.replace('_', ' '):>13}" for name in facts)
            self.say(f"{'time':>8}{names}")
        self._rows += 1
        cells = "".join(f"{show(value):>13}" for value in facts.values())
        self.say(f"{show_time(now - self._began):>8}{cells}")


def show_count(number: int, noun: str) -> str:
    """Return a number of things.

    >>> show_count(1, "server"), show_count(4, "worker")
    ('1 server', '4 workers')
    """
    return f"{number} {noun}" + ("" if number == 1 else "s")


def show_time(seconds: float) -> str:
    """Return a duration as m:ss.

    >>> show_time(83.4)
    '1:23'
    """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def show(value: Any) -> str:
    """Return a number for a narrow column.

    >>> show(1234567), show(0.4567891), show(10826.1667061), show(3.2e-7)
    ('1,234,567', '0.45679', '10,826.167', '3.2e-07')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if value and abs(value) < 1e-3:
            return f"{value:.1e}"
        return f"{value:,.3f}" if abs(value) >= 100 else f"{value:.5f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
