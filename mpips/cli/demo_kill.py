"""Kills a rank of a running job, so that users can see what happens then."""

import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from mpips.config import Config
from mpips.errors import UsageError
from mpips.node.folder import METRICS
from mpips.node.ranks import Rank, read_ranks
from mpips.node.roles import rank_count

LOOK_S, WORK_S = 0.02, 3.0
CALL = re.compile(r": call \d+: ")


def check_victim(victim: str, config: Config) -> None:
    """Refuse to kill what a job will not have.

    Raises:
        UsageError: it is no role of the job's and no rank; names what there is.
    """
    ranks, workers = rank_count(config), max(1, config.run.workers)
    spares = ranks - 1 - config.run.servers - workers
    there = {"scheduler": 1, "server": config.run.servers, "worker": workers, "spare": spares}
    is_there = int(victim) < ranks if victim.isdecimal() else bool(there.get(victim))
    if is_there:
        return
    roles = ", ".join(role for role, count in there.items() if count)
    remedy = f"There are {roles}, and the ranks 0 to {ranks - 1}."
    if victim == "spare":
        remedy += " A spare: --set run.spares=1."
    what = f"rank {victim}" if victim.isdecimal() else victim
    raise UsageError(f"the job has no {what} to kill", f"--kill {victim}", remedy)


@dataclass
class Killer:
    """Watches a job, and kills one of its ranks once training is under way.

    That is when progress was noted in the run folder, or workers were busy for `WORK_S`.

    Attributes:
        victim: a role, whose first rank it will be, or a rank's number.
        folder: the run folder.
    """

    victim: str
    folder: Path

    def __call__(self, mpirun: "subprocess.Popen[bytes]") -> None:
        """Wait until there is progress, kill, and say so; leave when the job has ended."""
        # Take no rank of a job before, whose folder this one goes on with, for one of ours.
        began, seen = time.time() - 1.0, self._progress()
        working: float | None = None
        while mpirun.poll() is None:
            ranks, now = read_ranks(self.folder, since=began), time.monotonic()
            if working is None and any(self._is_called(rank) for rank in ranks.values()):
                working = now
            has_worked = working is not None and now - working > WORK_S
            rank = self._choose(ranks)
            if rank is not None and (has_worked or self._progress() > seen):
                os.kill(rank.process, signal.SIGKILL)
                print(f"kill   {rank} killed", flush=True)
                return
            time.sleep(LOOK_S)

    def _choose(self, ranks: dict[int, Rank]) -> Rank | None:
        """Return the rank to kill, if it has come."""
        mine = (rank for rank in ranks.values() if self.victim in (rank.role, str(rank.number)))
        return next(mine, None)

    def _progress(self) -> int:
        """Return how much there is of progress in the run folder, in bytes."""
        path = self.folder / METRICS
        return path.stat().st_size if path.exists() else 0

    def _is_called(self, rank: Rank) -> bool:
        """Return whether a rank is a worker that was given something to do."""
        log = self.folder / "log" / f"rank-{rank.number:04d}.log"
        return rank.role == "worker" and bool(CALL.search(log.read_text("utf-8", "replace")))
