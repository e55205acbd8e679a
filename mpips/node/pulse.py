"""The pulse of the ranks of one host: a thread counts in shared memory while its process runs.

A rank in a long computation sends nothing, and neither does a stopped one. Their host-mates can
tell them apart: a thread without MPI goes on counting in the first, and nothing does in the second.
"""

import mmap
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Final, NamedTuple, Protocol, final

import numpy as np
import numpy.typing as npt

from mpips.errors import OutputError

BEAT_S: Final = 0.1
SHARED: Final = Path("/dev/shm")
PROCESSES: Final = Path("/proc")
# What a node tells of itself: its beats, its process, and when that was started.
BEATS, PROCESS, STARTED, FIELDS = 0, 1, 2, 3


class Pulses(Protocol):
    """What tells of the processes on this host; `Pulse` is it."""

    def moved(self) -> list[int]:
        """Return the nodes whose processes have been alive since the last call."""

    def kill(self, node: int) -> bool:
        """Kill the process of a node, and return whether there was one."""

    def remove(self) -> None:
        """Remove what the processes have found each other by."""


@final
class Pulse:
    """A node's own pulse, and a look at those of its host-mates.

    All nodes of a host open the same file, and each writes into its own column alone. Open it
    before the scheduler knows of the node, and `remove` it once all nodes of the job are known:
    the memory stays shared, and nothing is left behind, however they die.

    The thread needs the interpreter's lock ten times a second. Python code, NumPy, HDF5, and
    kernels with `nogil=True` leave it that. Code that keeps the lock (a Numba kernel without
    `nogil`, one huge `sum`) stops the beats; the processor time of its process is then taken for
    a sign of life, where there is a /proc. So a rank that waits and keeps the lock meanwhile looks
    stopped, and one that loops or waits for ever without it looks alive.

    Args:
        path: the file, of this job alone: `shared_path` of a name that only its ranks know.
        node: this node's id.
        size: number of nodes of the job, on all hosts.

    Raises:
        OutputError: the file cannot be made, or is not one that this user's job has made.

    Cost: 24 bytes a node of the job on each host; the thread takes 0.1 to 0.2 % of a core.
    """

    def __init__(self, path: Path, node: int, size: int) -> None:
        assert 0 <= node < size, (node, size)
        self._path, self._node = path, node
        memory = _share(path, FIELDS * size * np.dtype(np.int64).itemsize)
        self._table: npt.NDArray[np.int64] = np.frombuffer(memory, np.int64).reshape(FIELDS, size)
        self._seen = self._table[BEATS].copy()
        self._used: dict[int, int] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="pulse", daemon=True)

        # Who sees the process must also see when it was started.
        self._table[STARTED, node] = started_at(os.getpid())
        self._table[PROCESS, node] = os.getpid()

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def close(self) -> None:
        """Beat no more, from now on; the memory is given back with this object."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def remove(self) -> None:
        """Remove the file; those who have opened it share it on. Any node may, and again."""
        self._path.unlink(missing_ok=True)

    def moved(self) -> list[int]:
        """Return the nodes of this host, sorted, that have given a sign of life since last asked.

        Ask every second or so: a beat takes `BEAT_S`, and is late on a crowded host. Only nodes
        that have opened the file can be among them; this one is, once it has started.

        Cost: some microseconds, and about 20 more for each host-mate that has not beaten.
        """
        beats = self._table[BEATS].copy()
        has_moved, self._seen = beats != self._seen, beats

        # Look after those who may only be kept from beating.
        still = np.flatnonzero(~has_moved & (self._table[PROCESS] != 0)).tolist()
        used = {node: _processor_time(self.pid(node), self._started(node)) for node in still}
        for node in still:
            has_moved[node] = used[node] > self._used.get(node, used[node])
        self._used = used
        return [int(node) for node in np.flatnonzero(has_moved)]

    def pid(self, node: int) -> int:
        """Return the process of a host-mate; 0 if it has not come, or is on another host."""
        return int(self._table[PROCESS, node])

    def kill(self, node: int) -> bool:
        """Kill a host-mate's process, as `kill_process` does, and tell whether it was there."""
        return kill_process(self.pid(node), self._started(node))

    def _started(self, node: int) -> int:
        return int(self._table[STARTED, node])

    def _beat(self) -> None:
        beats = self._table[BEATS]
        while not self._end.wait(BEAT_S):
            beats[self._node] += 1


def shared_path(name: str) -> Path:
    """Return where the ranks of one host share a file of that name: in memory, if they can."""
    is_usable = os.access(SHARED, os.W_OK | os.X_OK)
    return (SHARED if is_usable else Path(tempfile.gettempdir())) / f"mpips-{name}"


def kill_process(pid: int, started: int) -> bool:
    """Kill a process by SIGKILL if it is still the one that is meant; a stopped one dies too.

    Args:
        pid: its number, which the system may have given to another process since.
        started: `started_at` of it, asked while it surely lived; 0: nobody could tell, and the
            number alone is trusted.

    Returns:
        whether it was there, and ours to kill. It may take a moment to be gone.
    """
    if pid <= 0 or started_at(pid) != started:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def started_at(pid: int) -> int:
    """Return when a running process was started, in the system's ticks since it booted.

    It is 0 if there is no such process, or it is dead and not yet buried, or there is no /proc.
    """
    found = _look_up(pid)
    return found.started if found else 0


class _Process(NamedTuple):
    """What /proc tells of a process, in ticks of the system."""

    started: int
    used: int


def _look_up(pid: int) -> _Process | None:
    """Return what /proc/PID/stat tells of a process; None if it does not run."""
    try:
        line = (PROCESSES / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The name, in brackets, may hold anything; behind it are fields 3 and on of proc(5).
    fields = line.rpartition(b")")[2].split()
    if fields[0] in b"ZX":
        return None
    return _Process(started=int(fields[19]), used=int(fields[11]) + int(fields[12]))


def _processor_time(pid: int, started: int) -> int:
    """Return the ticks of processor time that a process has used; 0 if it is gone."""
    found = _look_up(pid)
    return found.used if found and found.started == started else 0


def _share(path: Path, length: int) -> mmap.mmap:
    """Return the memory of a file that whoever comes first makes, zeros at first."""
    try:
        # Follow no link, and let nobody else write.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        try:
            _check(path, os.fstat(descriptor), length)
            # All who come give it the same size, and nobody clears it. Without memory set aside,
            # a full disk would end the process at its first look.
            os.ftruncate(descriptor, length)
            if sys.platform == "linux":
                os.posix_fallocate(descriptor, 0, length)
            return mmap.mmap(descriptor, length)
        finally:
            os.close(descriptor)
    except OSError as error:
        what = f"{path} cannot be shared by the ranks of this host: {error.strerror}"
        remedy = f"Ranks show there that they live: make room in {path.parent}."
        raise OutputError(what, "", remedy) from None


def _check(path: Path, facts: os.stat_result, length: int) -> None:
    """Refuse a file that no rank of this job can have made."""
    if facts.st_uid != os.geteuid() or facts.st_size not in (0, length):
        what = f"{path} is there, and no rank of this job has made it"
        raise OutputError(what, f"It belongs to user {facts.st_uid}.", "Remove it.")
