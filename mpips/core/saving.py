"""Checkpoints: when one is due, who has written its part, and where a resumed job begins.

A checkpoint is taken between two tasks of the plan: then all pushes are on all copies and nobody
works, so that the servers' segments, the logical workers' states and the plan's results so far are
of one moment (DESIGN, section 9). A death on the way calls it off.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from mpips.wire.messages import Saved, Takeover

# When the first checkpoint is taken whose interval is computed, and how short that may be.
FIRST_S: Final = 60.0
LEAST_S: Final = 10.0
DAY_S: Final = 86_400.0
YEAR_S: Final = 365 * DAY_S


def mean_time_between_failures(hosts: int) -> float:
    """Return how long a job on so many hosts runs before something ends it, in seconds.

    Each host is taken to fail once a year, and the whole once a day for other reasons: people,
    limits of time, file systems. These are round figures, not measured ones.

    >>> round(mean_time_between_failures(1)), round(mean_time_between_failures(1000))
    (86164, 23102)
    """
    return 1.0 / (1.0 / DAY_S + hosts / YEAR_S)


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """Where a resumed job begins.

    Attributes:
        path: the checkpoint's folder.
        tasks: how many tasks of the plan were finished.
        results: what the plan was sent for each of these tasks.
        takeovers: by logical worker: numbers, clocks and calls.
        dropped: the logical workers that were left out, and stay so.
        skipped: newer checkpoints that are broken, and why.
    """

    path: str
    tasks: int
    results: list[Any]
    takeovers: dict[int, Takeover]
    dropped: list[int] = []
    skipped: list[str] = []


@dataclass(frozen=True)
class When:
    """When checkpoints are taken, and the job stops at one.

    Attributes:
        every_s: seconds between two of them; infinite: time asks for none; None: as they cost (see
            `Saver.interval_s`).
        every_iterations: so many clocks of the tables between two of them; 0: they ask for none.
        mtbf_s: the mean time between the failures that end a job, in seconds; 0: as its hosts are.
        stop_after_iterations: the clock of the tables at which the job stops; 0: never.
        stop_after_s: the seconds after which it does.
    """

    every_s: float | None = math.inf
    every_iterations: int = 0
    mtbf_s: float = 0.0
    stop_after_iterations: int = 0
    stop_after_s: float = math.inf


@dataclass
class Saving:
    """The checkpoint that is being written: who has not answered, and the files of the others.

    Attributes:
        resume: the scheduler's side, as of the moment that it is of.
        began: when.
        uncopied: whose part could still change, so that the job stands still.
        missing: who has not written it.
        goes_on: whether the job works on, while parts are written.
        holds: whether it has come to where it shall stop, and waits until they are.
        parts: the files of those who have.
    """

    resume: Resume
    began: float
    uncopied: set[int]
    missing: set[int]
    goes_on: bool = False
    holds: bool = False
    parts: list[dict[str, Any]] = field(default_factory=list)


class Saver:
    """Decides when to save, and collects the parts.

    Attributes:
        stop: why the job shall stop at the next checkpoint; empty: it shall not.
        saving: the checkpoint on its way.
        pause_s: how long the job has stood still for the last one.
        cost_s: how long the last one has taken: an upper bound of its cost, since writing takes
            processors and the disk from those who work on.
    """

    def __init__(self, when: When) -> None:
        self.stop = ""
        self.saving: Saving | None = None
        self.pause_s = self.cost_s = 0.0
        self.saved = 0
        self._when, self._hosts = when, 1
        self._began = self._last = math.nan
        # Clocks of the tables: where the last checkpoint was begun, and now.
        self._last_iterations = self._iterations = 0

    def begin(
        self, now: float, iterations: int = 0, hosts: int = 1, began: float | None = None
    ) -> None:
        """Note when the job has begun, if not now, at which clock, and on how many hosts."""
        self._began, self._last = now if began is None else began, now
        self._last_iterations, self._hosts = iterations, hosts

    @property
    def interval_s(self) -> float:
        """Return the seconds from one checkpoint to the next, infinite if time asks for none.

        What is computed from the cost C of the last one and the mean time M between failures is
        Young's sqrt(2 C M), which makes the least of the time that goes to checkpoints and of what
        has to be done again (J. W. Young, 1974). The first one is taken early, to learn the cost.
        """
        if self._when.every_s is not None:
            return self._when.every_s
        if not self.saved:
            return FIRST_S
        mtbf_s = self._when.mtbf_s or mean_time_between_failures(self._hosts)
        return max(LEAST_S, math.sqrt(2.0 * self.cost_s * mtbf_s))

    def is_due(self, now: float, iterations: int) -> bool:
        """Return whether a checkpoint has to be taken before the next task."""
        when, self._iterations = self._when, iterations
        if when.stop_after_iterations and iterations >= when.stop_after_iterations:
            self.stop = self.stop or f"after {iterations} iterations"
        if now - self._began >= when.stop_after_s:
            self.stop = self.stop or f"after {now - self._began:.0f} s"
        # One after the other: who writes has no memory for a second copy.
        if self.saving is not None:
            return False
        is_far = 0 < when.every_iterations <= iterations - self._last_iterations
        return bool(self.stop) or is_far or now - self._last >= self.interval_s

    def start(self, now: float, nodes: Iterable[int], resume: Resume) -> None:
        """Begin a checkpoint, of which these nodes write parts, and which is of this moment."""
        missing = set(nodes)
        self._last_iterations = self._iterations
        self.saving = Saving(resume, now, set(missing), missing)

    @property
    def is_pausing(self) -> bool:
        """Return whether the job stands still for a checkpoint."""
        return self.saving is not None and (self.saving.holds or not self.saving.goes_on)

    def hold(self) -> bool:
        """Return whether a job that shall stop has to wait: one checkpoint after the other."""
        if self.saving is None or not self.stop:
            return False
        self.saving.holds = True
        return True

    def copy(self, now: float, source: int, number: int) -> bool:
        """Note that nothing can change a node's part, and return whether the job can go on by that.

        A job that stops at the checkpoint does not go on.
        """
        saving = self._find(number)
        if saving is None or source not in saving.uncopied:
            return False
        saving.uncopied.discard(source)
        if saving.uncopied or self.stop:
            return False
        saving.goes_on, self.pause_s = True, now - saving.began
        return True

    def take(self, source: int, saved: Saved) -> bool:
        """Take a node's parts, and return whether they were the last ones."""
        saving = self._find(saved.number)
        if saving is None or source not in saving.missing:
            return False
        saving.missing.discard(source)
        saving.parts += saved.parts
        return not saving.missing

    def finish(self, now: float) -> Saving:
        """Return the checkpoint, all parts of which are there."""
        assert self.saving is not None
        done, self.saving = self.saving, None
        self.cost_s, self._last = now - done.began, now
        if not done.goes_on:
            self.pause_s = self.cost_s
        self.saved += 1
        return done

    def facts(self, saving: Saving) -> dict[str, Any]:
        """Return what there is to tell of a checkpoint that is finished."""
        paused, written = f"{self.pause_s:.3f} s", f"in {self.cost_s:.3f} s"
        return {"task": saving.resume.tasks, "paused": paused, "written": written}

    def call_off(self) -> bool:
        """Give up the checkpoint on its way, and return whether the job stood still for it."""
        was, self.saving = self.is_pausing, None
        return was

    def _find(self, number: int) -> Saving | None:
        saving = self.saving
        return saving if saving is not None and saving.resume.tasks == number else None
