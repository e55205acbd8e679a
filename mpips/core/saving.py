"""Checkpoints: when one is due, who has written its part, and where a resumed job begins.

A checkpoint is taken between two tasks of the plan: then all pushes are on all copies and nobody
works, so that the servers' segments, the logical workers' states and the plan's results so far are
of one moment (DESIGN, section 9). A death on the way calls it off.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from mpips.wire.messages import Takeover


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """Where a resumed job begins.

    Attributes:
        path: the checkpoint's folder.
        tasks: how many tasks of the plan were finished.
        results: what the plan was sent for each of these tasks.
        takeovers: by logical worker: numbers, clocks and calls.
        skipped: newer checkpoints that are broken, and why.
    """

    path: str
    tasks: int
    results: list[Any]
    takeovers: dict[int, Takeover]
    skipped: list[str] = []


@dataclass(frozen=True)
class When:
    """When checkpoints are taken, and the job stops at one.

    Attributes:
        every_s: seconds between two of them; infinite: only before a stop.
        stop_after_iterations: the clock of the tables at which the job stops; 0: never.
        stop_after_s: the seconds after which it does.
    """

    every_s: float = math.inf
    stop_after_iterations: int = 0
    stop_after_s: float = math.inf


@dataclass
class Saving:
    """The checkpoint that is being written: who has not answered, and the files of the others."""

    number: int
    folder: str
    began: float
    missing: set[int]
    parts: list[dict[str, Any]] = field(default_factory=list)


class Saver:
    """Decides when to save, and collects the parts.

    Attributes:
        stop: why the job shall stop at the next checkpoint; empty: it shall not.
        saving: the checkpoint on its way.
        pause_s: how long the job has stood still for the last one.
    """

    def __init__(self, when: When) -> None:
        self.stop = ""
        self.saving: Saving | None = None
        self.pause_s = 0.0
        self.saved = 0
        self._when = when
        self._began = self._last = math.nan

    def begin(self, now: float) -> None:
        """Note when the job has begun."""
        self._began = self._last = now

    def is_due(self, now: float, iterations: int) -> bool:
        """Return whether a checkpoint has to be taken before the next task."""
        when = self._when
        if when.stop_after_iterations and iterations >= when.stop_after_iterations:
            self.stop = self.stop or f"after {iterations} iterations"
        if now - self._began >= when.stop_after_s:
            self.stop = self.stop or f"after {now - self._began:.0f} s"
        return bool(self.stop) or now - self._last >= when.every_s

    def start(self, now: float, number: int, folder: str, nodes: Iterable[int]) -> None:
        """Begin a checkpoint, of which these nodes write parts."""
        self.saving = Saving(number, folder, now, set(nodes))

    def take(self, now: float, source: int, number: int, parts: list[dict[str, Any]]) -> bool:
        """Take a node's parts, and return whether they were the last ones."""
        saving = self.saving
        if saving is None or saving.number != number or source not in saving.missing:
            return False
        saving.missing.discard(source)
        saving.parts += parts
        return not saving.missing

    def finish(self, now: float) -> Saving:
        """Return the checkpoint, all parts of which are there."""
        assert self.saving is not None
        done, self.saving = self.saving, None
        self.pause_s, self._last = now - done.began, now
        self.saved += 1
        return done

    def call_off(self) -> bool:
        """Give up the checkpoint on its way, and return whether there was one."""
        was, self.saving = self.saving is not None, None
        return was
