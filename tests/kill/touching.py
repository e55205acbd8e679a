"""Workers that push and pull all the time: what a victim owns, has copies of, or neither."""

import time
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from mpips.core.machine import Report
from mpips.core.task import Plan, Task
from mpips.node.app import App, Stores
from mpips.node.kv import Worker
from mpips.wire.types import Table

VICTIM = 0
"""The place of the server to be killed among the servers."""

SEGMENTS = 192


class Load(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much there is, and how long it is worked on."""

    keys: int = 300_000
    seconds: float = 2.0


class Touching(App):
    """Three logical workers: one for what the victim owns, one for what it has copies of."""

    Settings: ClassVar[type[msgspec.Struct]] = Load

    def tables(self) -> list[Table]:
        """Return one table, with so many segments that shares stay even after a death.

        With few of them one or two would move then, and requests for these come twice.
        """
        return [Table(name="w", size=self.settings.keys, segments=SEGMENTS)]

    def plan(self) -> Plan:
        """Ask who owns what, and let all work; the log gets the time by all clocks."""
        had = yield Task(group="servers", function="own")
        yield Report("clock", {"monotonic": time.monotonic(), "real": time.time()})
        victim = had.pop(VICTIM)
        others = sorted(segment for one in had for segment in one["owned"])
        parts = [
            victim["owned"],
            [segment for segment in others if segment in victim["copied"]],
            [segment for segment in others if segment not in victim["copied"]],
        ]
        yield Task(group="workers", function="work", arguments={"parts": parts})
        return {}

    def own(self, stores: Stores) -> dict[str, list[int]]:
        """Return the segments that a server owns, and those of which it has copies."""
        part = stores["w"]
        copied = set(part._store.held).difference(part.held)
        return {"owned": list(part.held), "copied": sorted(copied)}

    async def work(self, worker: Worker, parts: list[list[int]]) -> None:
        """Push and pull one segment after the other, and keep when each pull was answered."""
        table = self.tables()[0].cut(self.job.config.run.servers)
        ranges = [table.segment_range(segment) for segment in parts[worker.id % len(parts)]]
        begin, at = time.monotonic(), 0
        pulls: list[tuple[float, float]] = []
        while time.monotonic() < begin + self.settings.seconds:
            first, end = ranges[at % len(ranges)]
            at += 1
            asked = time.monotonic()
            await worker.wait(
                worker.push("w", (first, end), np.ones(end - first)), worker.pull("w", (first, end))
            )
            pulls.append((asked, time.monotonic()))
        np.save(path_of(Path(self.job.facts["folder"]), worker.id), pulls)


def path_of(folder: Path, worker: int) -> Path:
    """Return the file with a logical worker's pulls."""
    return folder / f"pulls-{worker}.npy"


def pulls_of(folder: Path, worker: int) -> npt.NDArray[Any]:
    """Return when a logical worker's pulls began and ended, in seconds of `time.monotonic`."""
    pulls: npt.NDArray[Any] = np.load(path_of(folder, worker))
    return pulls
