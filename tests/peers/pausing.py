"""Measures what a checkpoint costs those who train: how long they stand still, and how they go on.

    python -m tests.peers.pausing --table sparse --megabytes 300 --keys 10000

A worker pushes lists of keys, drawn anew each time, to a table on one server, while checkpoints are
written one after the other, with pauses between them. Told are medians over the checkpoints: how
long one takes to be written, which share of that nobody works, how long the longest push takes
while one is written and while none is, and how many pushes a second are done then and then. Ratios
count: the machine has other work, and the disk is what it is.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from mpips.core.machine import Report
from mpips.core.task import Plan, Task
from mpips.node.app import App
from mpips.node.folder import METRICS, read_result
from mpips.node.kv import Worker
from mpips.wire.types import Table
from tests.run.jobs import environment, write_rows

MODEL = "tests.peers.pausing:Pushing"
ROW_BYTES = {"sparse": 20, "dense": 8}
SPACING = np.uint64(2**64 // 10**9)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What is pushed: how many keys there are, and how many of them at once; 0: all."""

    table: str = "sparse"
    size: int = 1_000_000
    keys: int = 10_000
    seconds: float = 20.0
    log: str = ""


class Pushing(App):
    """Fills a table, and pushes to it for a while."""

    Settings: ClassVar[type[msgspec.Struct]] = Settings
    mode = "eventual"

    def tables(self) -> list[Table]:
        """Return one table: FTRL's of float32 for keys that come, or sums of float64."""
        if self.settings.table == "sparse":
            return [Table(name="t", kind="sparse", update="ftrl", dtype="f4")]
        return [Table(name="t", size=self.settings.size)]

    def plan(self) -> Plan:
        """Fill, push until the time is over, and say which clock the times are of."""
        yield Task(group="workers", function="fill")
        yield Report("progress", {"clock": time.monotonic()})
        left = True
        while left:
            left = any((yield Task(group="workers", function="push_some")))
        yield Task(group="workers", function="tell")
        return {}

    def keys_of(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """Return keys, spread over all segments."""
        keys = numbers.astype(np.uint64)
        return keys * SPACING if self.settings.table == "sparse" else keys

    async def fill(self, worker: Worker) -> None:
        """Let all keys be there."""
        step = 1 << 20
        kind = np.float32 if self.settings.table == "sparse" else np.float64
        for begin in range(0, self.settings.size, step):
            numbers = np.arange(begin, min(begin + step, self.settings.size))
            await worker.push("t", self.keys_of(numbers), np.ones(len(numbers), kind))
        self.kind, self.until, self.log = kind, 0.0, list[tuple[float, float]]()

    async def push_some(self, worker: Worker) -> bool:
        """Push for a tenth of a second, and tell whether it goes on."""
        settings, begin = self.settings, time.monotonic()
        self.until = self.until or begin + settings.seconds
        while time.monotonic() < begin + 0.1:
            keys = None
            if settings.keys:
                drawn = np.sort(worker.random.integers(0, settings.size, settings.keys))
                keys = self.keys_of(drawn[np.diff(drawn, prepend=-1) > 0])
            values = np.ones(settings.size if keys is None else len(keys), self.kind)
            sent = time.monotonic()
            await worker.push("t", keys, values)
            self.log.append((sent, time.monotonic()))
        return time.monotonic() < self.until

    async def tell(self, worker: Worker) -> None:
        """Write down when each push was sent and done."""
        np.save(self.settings.log, np.array(self.log))


def run(settings: Settings, pause_s: float, folder: Path) -> Path:
    """Run a job in a folder, and return its run folder."""
    write_rows(folder / "rows.h5", rows=20)
    given = {
        **{f"model.{name}": getattr(settings, name) for name in settings.__struct_fields__},
        "run.servers": 1, "run.workers": 1,
        "checkpoint.every_s": pause_s, "checkpoint.keep": 1,
    }  # fmt: skip
    sets = [word for name, value in given.items() for word in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "mpips", "train", "rows.h5", "--model", MODEL, "--out", "out"]
    command += sets
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, check=False)
    if done.returncode or read_result(folder / "out") is None:
        raise SystemExit(done.stdout.decode() + done.stderr.decode())
    return folder / "out"


def saved(folder: Path) -> list[tuple[float, float, float]]:
    """Return when each checkpoint was begun and whole, by the workers' clock, and its pause."""
    lines = [json.loads(line) for line in (folder / METRICS).read_text("utf-8").splitlines()]
    shift = next(line["clock"] - line["seconds"] for line in lines if "clock" in line)
    found = []
    for line in lines:
        if line.get("kind") == "saved":
            pause, took = (float(line[name].split()[-2]) for name in ("paused", "written"))
            end = line["seconds"] + shift
            found.append((end - took, end, pause))
    return found


def summarise(pushes: npt.NDArray[np.float64], windows: Sequence[tuple[float, float, float]]) -> (
    dict[str, float]
):
    """Return the medians over all checkpoints but the first, for which HDF5 is loaded."""
    rows: list[dict[str, Any]] = []
    for (_, before, _), (begin, end, pause) in pairwise(windows):
        sent, done = pushes[:, 0], pushes[:, 1]
        beside = (sent > before + 0.2) & (done < begin)
        during = (done > begin) & (sent < end)
        if beside.sum() < 5 or during.sum() < 5:
            continue
        took = done - sent
        rate = beside.sum() / (begin - before - 0.2), during.sum() / (end - begin)
        gap = np.diff(done[during], prepend=begin).max()
        rows.append({
            "written_s": end - begin, "pause_s": pause, "pause_share": pause / (end - begin),
            "rate_beside": rate[0], "rate_during": rate[1], "rate_share": rate[1] / rate[0],
            "longest_beside_s": took[beside].max(), "longest_during_s": took[during].max(),
            "median_beside_s": median(took[beside]), "median_during_s": median(took[during]),
            "longest_gap_s": gap,
        })  # fmt: skip
    if not rows:
        raise SystemExit("no two checkpoints with pushes between them")
    medians = {name: median(row[name] for row in rows) for name in rows[0]}
    return {"checkpoints": len(rows), **medians}


def main() -> None:
    """Run a job, and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", choices=ROW_BYTES, default="sparse")
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--pause", type=float, default=2.0)
    given = parser.parse_args()
    size = given.megabytes * 10**6 // ROW_BYTES[given.table]
    with tempfile.TemporaryDirectory() as name:
        log = Path(name) / "pushes.npy"
        settings = Settings(
            table=given.table, size=size, keys=given.keys, seconds=given.seconds, log=str(log)
        )
        folder = run(settings, given.pause, Path(name))
        for what, value in summarise(np.load(log), saved(folder)).items():
            print(f"{what:18} {value:.4g}")


if __name__ == "__main__":
    main()
