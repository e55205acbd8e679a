"""The hosts of an allocation: a job has as many ranks as fit, and leaves out hosts that were lost.

Only hosts that could be reached at the start, and cannot be any more, count as lost: a network
may let nobody through to others from the beginning.
"""

import os
import re
import socket
import subprocess
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from mpips.config import Config
from mpips.node.roles import rank_count
from mpips.node.surroundings import slurm_problem
from mpips.toml import assign

SLURM_PORT, SSH_PORT = 6818, 22
"""Where a host listens for mpirun, which starts its daemons by Slurm or else by SSH."""

ANSWER_S: Final = 2.0
NODE_FILES: Final = ("PBS_NODEFILE", "LSB_DJOB_HOSTFILE")
SILENT, REFUSES, ANSWERS = 0, 1, 2


@dataclass(frozen=True)
class Choice:
    """What a job starts with.

    Attributes:
        hosts: with their slots, as mpirun wants them; empty: all there are.
        config: with as many ranks as there is room for.
        note: what was left out, and why; empty: nothing.
    """

    hosts: tuple[str, ...]
    config: Config
    note: str = ""

    def words(self, before: Config) -> list[str]:
        """Return the arguments by which ranks get the numbers that have changed."""
        run, was = self.config.run, before.run
        names = ("servers", "workers", "spares", "logical_workers")
        changed = [name for name in names if getattr(run, name) != getattr(was, name)]
        # Where nobody has said how many logical workers there are, they are as many as workers.
        if "workers" in changed and "logical_workers" not in changed:
            changed.append("logical_workers")
        pairs = [["--set", assign(f"run.{name}", getattr(run, name))] for name in changed]
        return [word for pair in pairs for word in pair]


class Hosts:
    """The hosts of this allocation, as they were at the start."""

    def __init__(self) -> None:
        self._slots = find_slots()
        self._port = SLURM_PORT if "SLURM_JOB_ID" in os.environ else SSH_PORT
        self._first = self._look()

    def begin(self, config: Config) -> Choice:
        """Return what the job starts with first; where it has no room at all, mpirun says so."""
        return choose(self._slots, (), config) or Choice((), config)

    def choose(self, config: Config) -> Choice | None:
        """Return what the job starts with again; None if too few hosts are left."""
        now = self._look()
        lost = {host for host, state in now.items() if state < self._first[host]}
        return choose(self._slots, lost, config)

    def _look(self) -> dict[str, int]:
        """Return how each host answers; of a single one nothing, since this process is there."""
        names = list(self._slots) if len(self._slots) > 1 else []
        with ThreadPoolExecutor(max_workers=min(64, len(names) or 1)) as pool:
            found = pool.map(lambda host: look(host, self._port), names)
            return dict(zip(names, found, strict=True))


def choose(slots: Mapping[str, int], lost: Collection[str], config: Config) -> Choice | None:
    """Return what a job starts with on the hosts that there are; None if they are too few.

    It needs a scheduler, a server and a worker. Spares are given up first, then workers and
    servers, of whom there are more; logical workers stay as many, so that a checkpoint fits.

    Args:
        slots: ranks that each host may have, in the order of the allocation.
        lost: hosts that nothing can be started on.
        config: the effective one of the job.
    """
    left = {host: count for host, count in slots.items() if host not in lost}
    is_whole, room = len(left) == len(slots), sum(left.values())
    # A single host has room for more ranks than cores.
    if is_whole and (len(left) <= 1 or rank_count(config) <= room):
        return Choice((), config)
    smaller = fit(config, room)
    if smaller is None:
        return None
    run, was = smaller.run, config.run
    fewer = {name: getattr(was, name) - getattr(run, name)
             for name in ("spares", "workers", "servers")}  # fmt: skip
    without = [f"{count} {name[:-1] if count == 1 else name}"
               for name, count in fewer.items() if count]  # fmt: skip
    note = f"{_list([host for host in slots if host in lost])} cannot be reached any more; "
    note = "there is no room for more ranks; " if is_whole else note
    note += f"{rank_count(smaller)} ranks start on {_list(list(left))}"
    note += f", without {_list(without)}" if without else ""
    names = () if is_whole else tuple(f"{host}:{count}" for host, count in left.items())
    return Choice(names, smaller, note)


def fit(config: Config, room: int) -> Config | None:
    """Return a job's config with at most so many ranks; None if that is too few for any."""
    run = config.run
    servers, workers, spares = run.servers, max(1, run.workers), run.spares
    while 1 + servers + workers + spares > room:
        if spares:
            spares -= 1
        elif servers == workers == 1:
            return None
        elif workers >= servers:
            workers -= 1
        else:
            servers -= 1
    if (servers, workers, spares) == (run.servers, run.workers, run.spares):
        return config
    sized = config.sized(workers, max(1, config.logical_workers))
    smaller = msgspec.structs.replace(sized.run, servers=servers, spares=spares)
    return msgspec.structs.replace(sized, run=smaller)


def find_slots() -> dict[str, int]:
    """Return the hosts of this allocation and how many ranks each may have; none outside of one."""
    if "SLURM_JOB_ID" in os.environ and not slurm_problem():
        nodes = os.environ.get("SLURM_JOB_NODELIST") or os.environ.get("SLURM_NODELIST", "")
        counts = read_counts(os.environ.get("SLURM_TASKS_PER_NODE", ""))
        hosts = _expand(nodes)
        return dict(zip(hosts, counts, strict=True)) if len(hosts) == len(counts) else {}
    slots: dict[str, int] = {}
    path = next((os.environ[name] for name in NODE_FILES if name in os.environ), "")
    if path and Path(path).is_file():
        # A line a rank.
        for host in Path(path).read_text("utf-8").split():
            slots[host] = slots.get(host, 0) + 1
    return slots


def read_counts(text: str) -> list[int]:
    """Return the ranks of each node, as Slurm writes them.

    >>> read_counts("2(x3),1"), read_counts("")
    ([2, 2, 2, 1], [])
    """
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(count) for count, times in found for _ in range(int(times or 1))]


def look(host: str, port: int, wait_s: float = ANSWER_S) -> int:
    """Return whether a host answers at a port, refuses, or is silent."""
    try:
        socket.create_connection((host, port), wait_s).close()
    except ConnectionRefusedError:
        return REFUSES
    except OSError:
        return SILENT
    return ANSWERS


def _expand(nodes: str) -> list[str]:
    """Return the names in a list of nodes as Slurm writes it; none if it does not answer."""
    try:
        words = ["scontrol", "show", "hostnames", nodes]
        done = subprocess.run(words, capture_output=True, text=True, timeout=10,
                              stdin=subprocess.DEVNULL, check=False)  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split()


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)
