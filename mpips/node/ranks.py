"""Finds the ranks of a running job by what they have said in the logs of its run folder."""

import re
from dataclasses import dataclass
from pathlib import Path

SAYS = re.compile(r": (scheduler|server|worker|spare) (\d+) on (\S+), process (\d+)")


@dataclass(frozen=True)
class Rank:
    """A rank: its number, and what it said last of its role, its host and its process."""

    number: int
    role: str
    host: str
    process: int

    def __str__(self) -> str:
        return f"{self.role} {self.number} (rank {self.number}, process {self.process})"


def read_ranks(folder: Path, since: float = 0.0) -> dict[int, Rank]:
    """Return the ranks of a run folder that have begun a log, by number, ascending.

    Args:
        folder: the run folder.
        since: seconds since the epoch; logs that nobody has written to after that are of a job
            before, whose processes may be anybody's by now.
    """
    found = {}
    for path in sorted((folder / "log").glob("rank-*.log")):
        said = SAYS.findall(path.read_text("utf-8", "replace"))
        if said and path.stat().st_mtime >= since:
            role, number, host, process = said[-1]
            found[int(number)] = Rank(int(number), role, host, int(process))
    return found
