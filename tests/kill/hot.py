"""An app that asks for half of a table much more than for the rest: for one server's, at first."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np

from mpips.config import Section
from mpips.core.ring import place
from mpips.core.task import Plan, Task
from mpips.node.app import App
from mpips.node.kv import Worker
from mpips.wire.types import Table

SIZE, SEGMENTS, WIDTH = 64_000, 16, 4_000


class Settings(Section, frozen=True, kw_only=True):
    """How long it works.

    Attributes:
        until: a file; the job ends once it is there.
        pushes: in each task, each of the keys of all hot segments.
    """

    until: str
    pushes: int = 3


def hot_segments(servers: Sequence[int]) -> list[int]:
    """Return the segments that the first server owns when the job begins."""
    owners = place(0, SEGMENTS, list(servers))
    return [int(segment) for segment in np.flatnonzero(owners == servers[0])]


class Hot(App):
    """Adds ones, so that the table tells how often each key was pushed."""

    Settings: ClassVar[type[msgspec.Struct]] = Settings

    def tables(self) -> list[Table]:
        """Return the table."""
        return [Table(name="w", size=SIZE, segments=SEGMENTS)]

    def plan(self) -> Plan:
        """Let all work, and say by segment what was added."""
        steps = 0
        while not Path(self.settings.until).exists():
            yield Task(group="workers", function="work")
            steps += 1
        (sums,) = yield Task(group="workers", function="collect", only=0)
        return {"steps": steps, "least": sums[0], "most": sums[1]}

    def servers(self) -> list[int]:
        """Return the nodes that serve at the start: they come last."""
        run = self.job.config.run
        first = 1 + run.workers + run.spares
        return list(range(first, first + run.servers))

    async def work(self, worker: Worker) -> None:
        """Add ones to all hot segments, and once to all."""
        for _ in range(self.settings.pushes):
            pushed = [
                worker.push("w", (WIDTH * s, WIDTH * (s + 1)), np.ones(WIDTH))
                for s in hot_segments(self.servers())
            ]
            await worker.wait(*pushed)
        await worker.wait(worker.push("w", None, np.ones(SIZE)))
        time.sleep(0.02)

    async def collect(self, worker: Worker) -> Any:
        """Return by segment the least that any key has got, and likewise the most."""
        parts = (await worker.pull("w")).reshape(SEGMENTS, WIDTH)
        least, most = parts.min(axis=1).tolist(), parts.max(axis=1).tolist()
        return [{str(s): n for s, n in enumerate(found)} for found in (least, most)]
