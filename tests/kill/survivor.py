"""A rank that exchanges verified frames with all others, whoever dies, and says what it saw.

It writes files into a folder: `pid.R` first, `noticed.R.K` when it knows of K losses, `went_on.R.K`
when it has exchanged enough with all that are left since, `result.R` in the end, `error.R` if
anything was wrong. It ends when there is a file `end`, and forgets node 1 when there is `forget`.
"""

import itertools
import json
import os
import signal
import struct
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import mpi4py

mpi4py.rc.finalize = False
mpi4py.rc.thread_level = "serialized"

import numpy as np  # noqa: E402
from mpi4py import MPI  # noqa: E402

from mpips.transport.backoff import Backoff  # noqa: E402
from mpips.transport.base import Bytes  # noqa: E402
from mpips.transport.mpi import CHUNK_BYTES, CHUNKS_OUT, MPITransport  # noqa: E402

FIRST = 1
"""The rank that is lost first."""

SMALL, LARGE = 1000, 20
"""How many frames of each other rank show that life goes on."""

WINDOW = {"small": 40, "large": 3, "stuck": 3, "none": 40}
HALF_SENT = 40 * CHUNK_BYTES
LONGEST = 5 * CHUNK_BYTES
HEAD = struct.Struct("<cIQQ")
BLOCK = np.random.default_rng(1).integers(0, 256, HALF_SENT + 1000, np.uint8)


class Survivor:
    """This rank."""

    def __init__(self, folder: Path, traffic: str) -> None:
        self.folder, self.traffic = folder, traffic
        self.end = MPITransport(MPI.COMM_WORLD)
        self.end.place = self.place
        self.random = np.random.default_rng(self.end.node)
        self.peers = [node for node in range(self.end.size) if node != self.end.node]
        self.open = dict.fromkeys(self.peers, 0)
        self.seen = {peer: [0, 0] for peer in self.peers}
        self.serial = itertools.count()
        self.lost = self.forgotten = frozenset[int]()
        self.places: dict[int, list[Bytes]] = {peer: [] for peer in self.peers}
        self.kept: list[tuple[Bytes, Bytes]] = []
        self.went_on = self.is_ending = False

    def run(self) -> None:
        """Exchange frames until the end."""
        self.write(f"pid.{self.end.node}", os.getpid())
        backoff = Backoff(crowded=True)
        for turn in itertools.count():
            frames = [] if self.is_stuck() else self.end.poll()
            for frame in frames:
                self.receive(*frame)
            if self.end.lost != self.lost:
                self.lose()
            self.work()
            if turn % 50 == 0 and self.look():
                return
            if frames:
                backoff.busy()
            else:
                backoff.wait()

    def is_stuck(self) -> bool:
        """Tell whether this is the rank that fetches nothing."""
        return self.traffic == "stuck" and self.end.node == FIRST

    def live(self) -> list[int]:
        """Return the others that are not lost."""
        return [peer for peer in self.peers if peer not in self.lost]

    def place(self, source: int, head: memoryview, sizes: list[int]) -> list[Bytes]:
        """Remember where frames are received that may never come whole."""
        places = [np.zeros(size, np.uint8) for size in sizes]
        self.places[source] += places
        return places

    def receive(self, source: int, head: memoryview, payload: list[Bytes]) -> None:
        """Verify a frame, and answer."""
        assert source not in self.forgotten, f"a frame of node {source}, which is forgotten"
        kind, serial, start, size = HEAD.unpack(head)
        if kind == b"a":
            self.open[source] -= 1
            return
        (part,) = payload
        assert np.array_equal(part, BLOCK[start : start + size]), f"wrong bytes of node {source}"
        self.places[source] = [place for place in self.places[source] if place is not part]
        self.seen[source][size > 65536] += 1
        self.end.send(source, HEAD.pack(b"a", serial, 0, 0))

    def lose(self) -> None:
        """Write down who is lost, and begin to count anew."""
        assert self.end.lost > self.lost, "a node has left the lost"
        # What is not received of a lost node must never be written to from now on.
        for node in self.end.lost - self.lost:
            self.kept += [(place, place.copy()) for place in self.places[node]]
        self.lost, self.went_on = self.end.lost, False
        self.seen = {peer: [0, 0] for peer in self.peers}
        facts = {"lost": sorted(self.lost), "at": time.time(), "kept": len(self.kept)}
        self.write(f"noticed.{self.end.node}.{len(self.lost)}", facts)

    def work(self) -> None:
        """Keep frames under way to all others, and say when enough have come."""
        if self.traffic in ("midway", "stopped") and self.end.node == FIRST and not self.lost:
            return self.go_half_way()
        traffic = "small" if self.lost else self.traffic
        for peer in [] if self.is_ending else self.peers:
            # To the lost, too: nothing may come of it.
            if peer in self.lost:
                self.end.send(peer, bytes(100_000))
            while peer not in self.lost and self.open[peer] < WINDOW.get(traffic, 0):
                self.open[peer] += 1
                self.send(peer, traffic)
        counts = [self.seen[peer] for peer in self.live()]
        if not self.went_on and self.lost and all(s >= SMALL and n >= LARGE for s, n in counts):
            self.went_on = True
            self.write(f"went_on.{self.end.node}.{len(self.lost)}", counts)
        return None

    def send(self, peer: int, traffic: str) -> None:
        """Send random bytes; among small frames some are large."""
        serial = next(self.serial)
        is_large = traffic in ("large", "stuck") or serial % 40 == 0
        size = int(self.random.integers(65537, LONGEST) if is_large
                   else self.random.integers(20_000))
        start = int(self.random.integers(BLOCK.size - size))
        head = HEAD.pack(b"d", serial, start, size)
        self.end.send(peer, head, [BLOCK[start : start + size]])

    def go_half_way(self) -> None:
        """Send half of a long frame to each other rank, then die or stop."""
        left = dict.fromkeys(self.peers, 0)
        # What MPI has of it arrives without this process, too; so more than that has to be left.
        while not all(CHUNKS_OUT < chunks < HALF_SENT // CHUNK_BYTES for chunks in left.values()):
            # Whoever has nearly all of it already gets another one.
            for peer in [peer for peer in self.peers if left[peer] <= CHUNKS_OUT]:
                self.end.send(peer, HEAD.pack(b"d", 0, 0, HALF_SENT), [BLOCK[:HALF_SENT]])
            self.end.poll()
            left = {peer: self.end.backlog(peer) for peer in self.peers}
        os.kill(os.getpid(), signal.SIGKILL if self.traffic == "midway" else signal.SIGSTOP)
        # Whoever wakes up again goes on, and knows nothing.
        while True:
            self.end.poll()
            self.send(self.peers[-1], "small")

    def look(self) -> bool:
        """Do what the test asks for, and tell whether all is over."""
        if not self.forgotten and (self.folder / "forget").exists() and self.end.node != FIRST:
            self.end.forget(FIRST)
            self.forgotten = frozenset({FIRST})
        self.is_ending = self.is_ending or (self.folder / "end").exists()
        if not self.is_ending or any(self.open[peer] for peer in self.live()):
            return False
        result = self.folder / f"result.{self.end.node}"
        if not result.exists():
            flushed = self.end.flush(10)
            self.write(result.name, {"flushed": flushed, "unsent": self.end.unsent()})
            for place, before in self.kept:
                assert np.array_equal(place, before), "written to after the loss"
        # Whoever leaves looks dead: stay until all others have said what they saw.
        return all((self.folder / f"result.{peer}").exists() for peer in self.live())

    def write(self, name: str, facts: Any) -> None:
        """Write a file that is there whole or not at all."""
        new = self.folder / f"new.{self.end.node}"
        new.write_text(json.dumps(facts))
        new.replace(self.folder / name)


def main() -> None:
    """Run, and leave as nodes leave under ULFM."""
    folder = Path(sys.argv[1])
    survivor = Survivor(folder, sys.argv[2])
    try:
        survivor.run()
    except BaseException:
        (folder / f"error.{survivor.end.node}").write_text(traceback.format_exc())
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    main()
