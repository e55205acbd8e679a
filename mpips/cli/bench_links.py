"""The links and hosts of `mpips bench --links`: each is compared with the others' median."""

import os
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from mpi4py import MPI

PINGS, CHUNKS, REPEATS = 100, 16, 3
CHUNK_BYTES: Final = 2**20
MEMORY_BYTES: Final = 2**25
STEPS: Final = 200_000
TAG: Final = 1

LINK_FACTOR: Final = 2.0
"""Times the median from which a link is called slow."""

HOST_FACTOR: Final = 1.5
"""Times the median from which a host's memory, or its Python, is called slow."""


class Link(NamedTuple):
    """What two places, by their numbers, need to reach each other.

    Attributes:
        first: the one that sends.
        second: the other one.
        latency_s: half the median round trip of a byte.
        rate: bytes a second, one way.
    """

    first: int
    second: int
    latency_s: float
    rate: float


class Place(NamedTuple):
    """A host, or a rank where there is one host alone.

    Attributes:
        name: what it is called.
        memory_rate: bytes that it copies in a second.
        step_s: of an empty loop in Python.
    """

    name: str
    memory_rate: float
    step_s: float


def choose(hosts: Sequence[str]) -> dict[int, str]:
    """Return the ranks that are measured, with names: one of each host, or all of one host's.

    >>> choose(["a", "a", "b"]), choose(["a", "a"])
    ({0: 'a', 2: 'b'}, {0: 'rank 0', 1: 'rank 1'})
    """
    if len(set(hosts)) == 1:
        return {rank: f"rank {rank}" for rank in range(len(hosts))}
    return {hosts.index(host): host for host in dict.fromkeys(hosts)}


def draw_rounds(size: int) -> Iterator[list[tuple[int, int]]]:
    """Yield rounds of disjoint pairs, until each two places have met once.

    >>> list(draw_rounds(3))
    [[(1, 2)], [(0, 2)], [(0, 1)]]
    """
    # One stays and the others go round; who meets nobody has a rest.
    ring = [*range(size), *([-1] if size % 2 else [])]
    half = len(ring) // 2
    for _ in range(len(ring) - 1):
        ends = zip(ring[:half], reversed(ring[half:]), strict=True)
        yield [(min(pair), max(pair)) for pair in ends if -1 not in pair]
        ring.insert(1, ring.pop())


def measure(comm: "MPI.Intracomm", name: str) -> tuple[list[Place], list[Link]]:
    """Measure all places and their links, together; the first rank knows what was found."""
    rank, found = comm.Get_rank(), list[Link]()
    memory_rate, step_s = _try_host()
    for pairs in draw_rounds(comm.Get_size()):
        comm.Barrier()
        for first, second in pairs:
            if rank == first:
                found.append(Link(first, second, _ping(comm, second), _stream(comm, second)))
            elif rank == second:
                _answer(comm, first)
    places = comm.gather(Place(name, memory_rate, step_s))
    links = comm.gather(found)
    return places or [], [link for each in links or [] for link in each]


def find_slow(places: Sequence[Place], links: Sequence[Link]) -> list[str]:
    """Return what is slow, one line each: hosts, and links that are not a slow host's.

    A host most of whose links are slow is to blame for them.
    """
    memory = statistics.median(place.memory_rate for place in places)
    step = statistics.median(place.step_s for place in places)
    lines = []
    for place in places:
        if place.memory_rate * HOST_FACTOR < memory:
            lines.append(f"{place.name}: memory {_rate(place.memory_rate)}, median {_rate(memory)}")
        if place.step_s > HOST_FACTOR * step:
            lines.append(f"{place.name}: Python takes {place.step_s / step:.1f} times the median")
    if not links:
        return lines
    latency = statistics.median(link.latency_s for link in links)
    rate = statistics.median(link.rate for link in links)
    slow = [link for link in links
            if link.latency_s > LINK_FACTOR * latency or link.rate * LINK_FACTOR < rate]
    blamed = set()
    for at, place in enumerate(places):
        bad = sum(at in (link.first, link.second) for link in slow)
        if len(places) > 2 and 2 * bad > len(places) - 1:
            blamed.add(at)
            lines.append(f"{place.name}: {bad} of its {len(places) - 1} links are slow")
    for link in slow:
        if not blamed & {link.first, link.second}:
            names = f"{places[link.first].name} - {places[link.second].name}"
            lines.append(f"{names}: {1e6 * link.latency_s:.1f} us, {_rate(link.rate)};"
                         f" median {1e6 * latency:.1f} us, {_rate(rate)}")  # fmt: skip
    return lines


def show(places: Sequence[Place], links: Sequence[Link]) -> None:
    """Print a line for each place, and what is slow."""
    print(f"{'':<24}{'memory':>12}{'Python':>12}{'latency, worst':>20}{'rate, worst':>28}")
    for at, place in enumerate(places):
        mine = [link for link in links if at in (link.first, link.second)]
        told = ""
        if mine:
            waits = [link.latency_s for link in mine]
            rates = [link.rate for link in mine]
            told = (f"{1e6 * statistics.median(waits):>9.1f}, {1e6 * max(waits):>6.1f} us"
                    f"{_rate(statistics.median(rates)):>15}, {_rate(min(rates)):>11}")  # fmt: skip
        step = f"{1e9 * place.step_s:.0f} ns/step"
        print(f"{place.name:<24}{_rate(place.memory_rate):>12}{step:>12}{told}")
    lines = find_slow(places, links)
    print("\n".join(f"slow: {line}" for line in lines) if lines else "nothing is slow:"
          f" no link by {LINK_FACTOR:g} times the median, no host by {HOST_FACTOR:g}")


def _try_host() -> tuple[float, float]:
    """Return the bytes a second of a copy in memory, and the seconds of a step of Python."""
    source, target = np.ones(MEMORY_BYTES, np.uint8), np.empty(MEMORY_BYTES, np.uint8)
    copies, loops = [], []
    for _ in range(REPEATS):
        began = time.perf_counter()
        target[:] = source
        copied = time.perf_counter()
        for _ in range(STEPS):
            pass
        copies.append(copied - began)
        loops.append(time.perf_counter() - copied)
    # The first copy also gets the memory.
    return MEMORY_BYTES / min(copies), min(loops) / STEPS


def _ping(comm: "MPI.Intracomm", other: int) -> float:
    """Return half the median time of a round trip."""
    byte, times = bytearray(1), []
    for _ in range(PINGS):
        began = time.perf_counter()
        back = comm.Irecv(byte, other, TAG)
        _finish([comm.Isend(b"x", other, TAG), back])
        times.append(time.perf_counter() - began)
    return statistics.median(times) / 2


def _stream(comm: "MPI.Intracomm", other: int) -> float:
    """Return the bytes a second that get through, one way."""
    chunk, byte, times = np.ones(CHUNK_BYTES, np.uint8), bytearray(1), []
    for _ in range(REPEATS):
        began = time.perf_counter()
        back = comm.Irecv(byte, other, TAG)
        _finish([*(comm.Isend(chunk, other, TAG) for _ in range(CHUNKS)), back])
        times.append(time.perf_counter() - began)
    return CHUNKS * CHUNK_BYTES / statistics.median(times)


def _answer(comm: "MPI.Intracomm", other: int) -> None:
    """Be the other end of both."""
    byte, chunks = bytearray(1), np.empty((CHUNKS, CHUNK_BYTES), np.uint8)
    for _ in range(PINGS):
        _finish([comm.Irecv(byte, other, TAG)])
        _finish([comm.Isend(b"x", other, TAG)])
    for _ in range(REPEATS):
        _finish([comm.Irecv(chunk, other, TAG) for chunk in chunks])
        _finish([comm.Isend(b"x", other, TAG)])


def _finish(requests: "Sequence[MPI.Request]") -> None:
    """Wait, and let others have the core meanwhile."""
    for request in requests:
        while not request.Test():
            os.sched_yield()


def _rate(rate: float) -> str:
    return f"{rate / 1e9:.2f} GB/s" if rate >= 1e8 else f"{rate / 1e6:.2f} MB/s"
