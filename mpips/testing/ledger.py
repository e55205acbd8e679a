"""The app of simulated runs: what it pushes is known beforehand, so that nothing can hide."""

from dataclasses import dataclass
from typing import Any, ClassVar, Final

import msgspec
import numpy as np
import numpy.typing as npt

from mpips.config import Section
from mpips.core.task import Plan, Task
from mpips.node.app import App, Stores
from mpips.node.kv import Worker
from mpips.wire.types import KeyArray, Table

BASE: Final = 8.0
"""A push adds a power of this, its own: the digits of a sum say how often each push is in it."""

DIGITS: Final = 17
"""Powers of 8 whose sums are exact in 53 bits; a further push is marked in the next column."""

SEGMENTS: Final = (4, 4, 5)
"""Of each table."""

Floats = npt.NDArray[np.float64]


class Settings(Section, frozen=True, kw_only=True):
    """How long a ledger is kept.

    Attributes:
        steps: calls of each logical worker.
        pushes: pushes of each call.
        keys: size of the dense tables.
        reissue_s: after which time another node does a call, too; 0: never.
    """

    steps: int = 3
    pushes: int = 3
    keys: int = 24
    reissue_s: float = 0.0

    @property
    def columns(self) -> int:
        """Return how many columns hold the marks of a logical worker's pushes."""
        return -(-self.steps * self.pushes // DIGITS)


def descend(noise: Floats, before: Floats) -> Floats:
    """Return what a logical worker pushes to `sums`: each key depends on all that it has seen."""
    pushed: Floats = noise - before / 7 - before.sum() / 50
    return pushed


@dataclass(frozen=True)
class Draw:
    """What a logical worker does in one call: a function of seed, worker and step alone."""

    keys: list[KeyArray]
    noise: Floats
    range: tuple[int, int]


def draw(settings: Settings, seed: int, worker: int, step: int) -> Draw:
    """Return what a logical worker does in a step; the range is the same for all workers."""
    random = np.random.default_rng([seed, worker, step])
    all_keys = np.arange(settings.keys, dtype=np.uint64)
    counts = random.integers(0, settings.keys, settings.pushes, endpoint=True)
    keys = [np.sort(random.choice(all_keys, n, replace=False)) for n in counts.tolist()]
    both = np.random.default_rng([seed, step]).integers(0, settings.keys + 1, 2)
    begin, end = sorted(both.tolist())
    noise = random.normal(size=end - begin) * 10.0 ** (3 * (worker % 3))
    return Draw(keys, noise, (begin, end))


def spread(keys: KeyArray, settings: Settings) -> KeyArray:
    """Return keys all over the key space of a sparse table, in the same order."""
    return keys * np.uint64(2**64 // settings.keys)


class Ledger(App):
    """Pushes powers to a dense and to a sparse table, each its own, and descends in a third.

    Tables `marks` and `spread` are eventual: each logical worker has columns of its own, in the
    order of their ids. Table `sums` is sequential, and its bits depend on the order of all
    additions.
    """

    Settings: ClassVar[type[msgspec.Struct]] = Settings

    def tables(self) -> list[Table]:
        """Return the three tables, of few segments."""
        size, width = self.settings.keys, self.job.logical_workers * self.settings.columns
        return [
            Table(name="marks", size=size, segments=SEGMENTS[0], width=width),
            Table(name="spread", kind="sparse", segments=SEGMENTS[1], width=width),
            Table(name="sums", size=size, segments=SEGMENTS[2], aggregate=True, mode="sequential"),
        ]

    def plan(self) -> Plan:
        """Let all work, step by step; let servers count calls; collect everything."""
        seen, served = [], []
        for step in range(self.settings.steps):
            work = Task(
                group="workers",
                function="work",
                arguments={"step": step},
                reissue_s=self.settings.reissue_s or None,
            )
            seen.append((yield work))
            served.append((yield Task(group="servers", function="serve")))
        (tables,) = yield Task(group="workers", function="collect", only=0)
        return {"seen": seen, "served": served, **tables}

    async def work(self, worker: Worker, step: int) -> dict[str, Any]:
        """Push now and then without waiting, look in between, and descend once.

        Returns:
            What was seen of `marks`, look by look, and of `sums` after this worker's push.
        """
        todo, looks = draw(self.settings, self.job.config.run.seed, worker.id, step), []
        before = await worker.pull("sums", todo.range)
        worker.push("sums", todo.range, descend(todo.noise, before))
        pushed = []
        for number, keys in enumerate(todo.keys):
            row = self._mark(worker.id, step * self.settings.pushes + number)
            values = np.tile(row, (len(keys), 1))
            pushed.append(worker.push("marks", keys, values))
            worker.push("spread", spread(keys, self.settings), values)
            # Every second push is waited for, by a look that must show it.
            if number % 2 == 0:
                look = await worker.pull("marks", None, after=[pushed[-1]])
                looks.append(look.reshape(self.settings.keys, -1))
        # This pull waits until all have pushed, and not for the ack.
        sums = await worker.pull("sums", todo.range)
        worker.progress(steps=step + 1.0)
        return {"looks": looks, "sums": sums}

    async def collect(self, worker: Worker) -> dict[str, Any]:
        """Return all tables."""
        names = ("marks", "spread", "sums")
        marks, (keys, found), sums = await worker.wait(*(worker.pull(name) for name in names))
        marks = marks.reshape(self.settings.keys, -1)
        found = found.reshape(len(keys), marks.shape[1])
        return {"marks": marks, "keys": keys, "found": found, "sums": sums}

    def _mark(self, worker: int, push: int) -> Floats:
        """Return the row that a logical worker's push adds to each of its keys."""
        settings = self.settings
        column, digit = divmod(push, DIGITS)
        row = np.zeros(self.job.logical_workers * settings.columns)
        row[worker * settings.columns + column] = BASE**digit
        return row

    def serve(self, stores: Stores) -> int:
        """Return how often this server was called: a call that runs twice leaves a gap."""
        self.served: int = getattr(self, "served", 0) + 1
        return self.served
