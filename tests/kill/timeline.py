"""Measures how long a job takes to get over the death of a server, step by step.

python tests/kill/timeline.py --runs 20
"""

import argparse
import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT)]

from mpips.node import surroundings  # noqa: E402
from mpips.node.folder import METRICS  # noqa: E402
from mpips.node.ranks import Rank, read_ranks  # noqa: E402
from tests.kill.touching import VICTIM, pulls_of  # noqa: E402
from tests.run.jobs import environment, processes_of, result_of, write_rows  # noqa: E402

MODEL = "tests.kill.touching:Touching"
CONFIG = """\
replicas = 1
run = {{servers = 3, workers = 3, logical_workers = 3, debug = true}}
data.train = "rows.h5"
model.keys = {keys}
"""
TIMES = 7
START_S, END_S, LOOK_S = 60.0, 60.0, 0.002
VIEW = re.compile(r"^(\S+ \S+) INFO \S+: view \d+$", re.MULTILINE)
STOP = re.compile(r"stop with exit code 0: (\{.*\})")


@dataclass(frozen=True)
class Timeline:
    """What happened after a server was killed, in seconds since then.

    Attributes:
        detected: the scheduler knows.
        promoted: the last server that is left has the view with the new owners.
        answered: the first pull of the dead server's segments is answered by others.
        redundant: there are as many copies as there can be.
        pause_copy: the longest time between two answers, until then, for the worker that works on
            what the dead server had copies of: acks wait for copies, and for views without them.
        pause_else: the same, for the worker that works on nothing of that server's.
        usual: the same, before the kill.
        repeated: requests sent again by the worker that works on what the dead server owned.
        repeated_else: the same, by the others.
        parked: requests that waited for a view at servers.
        parked_else: those of them that were about no segment that has moved.
    """

    detected: float
    promoted: float
    answered: float
    redundant: float
    pause_copy: float
    pause_else: float
    usual: float
    repeated: int
    repeated_else: int
    parked: int
    parked_else: int


def main() -> int:
    """Run the jobs, and print each one's timeline and the medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=20, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments (default: %(default)s)")
    parser.add_argument("--keys", type=int, default=300_000, help="of 8 bytes (%(default)s)")
    options = parser.parse_args()
    # Leave by an exception, so that the job that runs is ended.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    home = Path(tempfile.mkdtemp(prefix="mpips-timeline-"))
    found: list[Timeline] = []
    names = list(Timeline.__dataclass_fields__)
    print("ms after the kill:" + "".join(f"{name:>14}" for name in names))
    try:
        for run in range(options.runs):
            found.append(measure(home / str(run), options.seed + run, options.keys))
            print(f"{run + 1:>17}:" + line(found[-1:]), flush=True)
    finally:
        shutil.rmtree(home)
    print(f"{'median':>17}:" + line(found))
    return 0


def line(found: list[Timeline]) -> str:
    """Return the medians of times in milliseconds, and of counters."""
    names = Timeline.__dataclass_fields__
    medians = [median(getattr(one, name) for one in found) for name in names]
    return "".join(f"{1000 * value:>14.1f}" for value in medians[:TIMES]) + "".join(
        f"{value:>14g}" for value in medians[TIMES:]
    )


def measure(home: Path, seed: int, keys: int = 300_000) -> Timeline:
    """Run a job of 3 servers and 3 workers, kill a server under way, and return what followed."""
    home.mkdir(parents=True)
    folder = home / "out"
    write_rows(home / "rows.h5", rows=20)
    (home / "job.toml").write_text(CONFIG.format(keys=keys), "utf-8")
    command = [sys.executable, "-m", "mpips", "train", "job.toml", "--model", MODEL]
    command += ["--out", str(folder)]
    with open(home / "output", "wb") as output:
        launcher = subprocess.Popen(
            command, cwd=home, env=environment(), stdin=subprocess.DEVNULL, stdout=output,
            stderr=output, start_new_session=True, preexec_fn=surroundings.end_with_parent,
        )  # fmt: skip
    try:
        clock = await_clock(folder, launcher)
        time.sleep(float(np.random.default_rng(seed).uniform(0.3, 0.7)))
        ranks = read_ranks(folder)
        victim = [rank for rank in ranks.values() if rank.role == "server"][VICTIM]
        killed = time.monotonic()
        os.kill(victim.process, signal.SIGKILL)
        launcher.wait(END_S)
        return read_timeline(folder, ranks, victim, killed, clock)
    except Exception as error:
        error.add_note((home / "output").read_text("utf-8", "replace"))
        raise
    finally:
        launcher.kill()
        launcher.wait()
        for process in processes_of(str(folder)):
            os.kill(process, signal.SIGKILL)


def await_clock(folder: Path, launcher: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Wait until the workers are at it, and return what the scheduler's clocks said then."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and launcher.poll() is None:
        for note in notes_of(folder):
            if note["kind"] == "clock":
                return note
        time.sleep(LOOK_S)
    raise TimeoutError("the job has not begun")


def notes_of(folder: Path) -> list[dict[str, Any]]:
    """Return what the scheduler has noted so far."""
    path = folder / METRICS
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(one) for one in lines if one.endswith("\n")]


def read_timeline(
    folder: Path, ranks: dict[int, Rank], victim: Rank, killed: float, clock: dict[str, Any]
) -> Timeline:
    """Return what a job says that has ended; all times of one host are comparable."""
    result = result_of(folder)
    assert result["status"] == "done", result["error"]
    begin = clock["monotonic"] - clock["seconds"]
    noted = {note["kind"]: begin + note["seconds"] - killed for note in notes_of(folder)}
    # Logs have the time of day.
    since = clock["real"] - clock["monotonic"] + killed
    servers, workers = [], []
    for rank in ranks.values():
        log = (folder / "log" / f"rank-{rank.number:04d}.log").read_text("utf-8", "replace")
        if rank.role == "worker":
            workers.append(counters_of(log))
        if rank.role == "server" and rank != victim:
            times = (datetime.strptime(text, "%Y-%m-%d %H:%M:%S,%f") for text in VIEW.findall(log))
            views = [moment.timestamp() - since for moment in times]
            servers.append((min(view for view in views if view > 0), counters_of(log)))
    touched, copied, other = (pulls_of(folder, worker)[:, 1] - killed for worker in range(3))
    now = 0.0, noted["copies"]
    return Timeline(
        detected=noted["lost"],
        promoted=max(view for view, _ in servers),
        answered=float(touched[touched > noted["lost"]].min()),
        redundant=noted["copies"],
        pause_copy=longest(copied, *now),
        pause_else=longest(other, *now),
        usual=longest(other, other[0], 0.0),
        repeated=workers[0]["worker_repeated_requests"],
        repeated_else=sum(counters["worker_repeated_requests"] for counters in workers[1:]),
        parked=sum(counters["parked_messages"] for _, counters in servers),
        parked_else=sum(counters["parked_elsewhere"] for _, counters in servers),
    )


def longest(answers: npt.NDArray[np.float64], begin: float, end: float) -> float:
    """Return the longest time between two answers, of which one lies in some time."""
    inside = (answers[1:] > begin) & (answers[:-1] < end)
    return float(np.diff(answers)[inside].max())


def counters_of(log: str) -> dict[str, int]:
    """Return the counters that a rank has logged in the end."""
    match = STOP.search(log)
    assert match is not None, log[-500:]
    counters: dict[str, int] = ast.literal_eval(match[1])
    return counters


if __name__ == "__main__":
    sys.exit(main())
