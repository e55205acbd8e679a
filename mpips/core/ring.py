"""Which server owns a segment: consistent hashing with virtual nodes and bounded load.

Servers and segments are points on a ring of 2**64; a segment belongs to the first server point
clockwise from it, unless that server already has its fair share. A server that comes or goes
moves its own segments and the few that the bound demands. Only segments are hashed, never keys,
so ranges of keys stay together (OSDI 2014, section 4.3; bounded load: Mirrokni et al., 2018).
Copies lie on the servers that follow on the ring, on other hosts where there are any.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from mpips.wire.types import NOBODY

VIRTUAL_NODES: Final = 128
LOAD_PERCENT_MAX: Final = 110

# Without it a table's points would be those of the server of its number, which would own its first
# 128 segments: the hot ones, where frequent features come first. Any above all nodes will do.
_TABLES: Final = 68 << 32
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)


def mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return a fixed bijection of 64-bit integers that looks random (splitmix64's finaliser).

    Args:
        values: uint64 of any shape; not changed.

    >>> mix(np.array([0, 1], dtype=np.uint64)).tolist()
    [16294208416658607535, 10451216379200822465]
    """
    x = values + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def load_max(segments: int, servers: int) -> int:
    """Return how many of `segments` one of `servers` may own: 1.1 times the mean, rounded up."""
    return -(-segments * LOAD_PERCENT_MAX // (100 * servers))


class Ring:
    """The servers on the ring, and where the segments of one table begin to look for theirs.

    Args:
        table: index of the table; each table has its own points for segments.
        segments: number of segments.
        servers: node ids; the order does not matter.
    """

    def __init__(self, table: int, segments: int, servers: Sequence[int]) -> None:
        assert servers, "a ring without servers"
        # Put every server on the ring, many times.
        nodes = np.repeat(np.array(sorted(servers), dtype=np.int64), VIRTUAL_NODES)
        virtual = np.tile(np.arange(VIRTUAL_NODES, dtype=np.uint64), len(servers))
        points = mix(mix(nodes.astype(np.uint64)) + virtual)
        order = np.argsort(points, kind="stable")
        self._nodes: list[int] = nodes[order].tolist()
        names = np.arange(segments, dtype=np.uint64)
        keys = mix(mix(np.full(segments, _TABLES + table, dtype=np.uint64)) + names)
        self._starts: list[int] = np.searchsorted(points[order], keys).tolist()

    def walk(self, segment: int) -> Iterator[int]:
        """Yield the servers clockwise from a segment, each as often as it has points."""
        nodes, start = self._nodes, self._starts[segment]
        for step in range(len(nodes)):
            yield nodes[(start + step) % len(nodes)]


def place(table: int, segments: int, servers: Sequence[int]) -> npt.NDArray[np.int32]:
    """Return the owner of each segment of a table, int32 `(segments,)`; arguments as for `Ring`.

    Cost: O((segments + servers * VIRTUAL_NODES) log) time.
    Source: Li et al., OSDI 2014, section 4.3.
    """
    ring = Ring(table, segments, servers)
    room = dict.fromkeys(servers, load_max(segments, len(servers)))
    owners = np.empty(segments, dtype=np.int32)
    for segment in range(segments):
        owner = next(node for node in ring.walk(segment) if room[node])
        room[owner] -= 1
        owners[segment] = owner
    return owners


def place_copies(
    table: int,
    owners: npt.NDArray[np.int32],
    there: npt.NDArray[np.int32],
    hosts: Mapping[int, str],
    replicas: int,
    leaving: Collection[int] = (),
) -> npt.NDArray[np.int32]:
    """Return which servers should become copies of each segment, beside those that are.

    A copy lies on another host than the owner and the other copies where that is possible, on a
    server that has no more than its share of copies, and else on the next one on the ring.

    Args:
        table: index of the table.
        owners: int32 `(segments,)`; segments of `NOBODY` get no copies.
        there: int32 `(segments, n)`, the copies that there are already, `NOBODY` in free places.
        hosts: the host of each live server.
        replicas: copies wanted for each segment.
        leaving: the servers that get none, and whose copies do not count.

    Returns:
        int32 `(segments, replicas)`, `NOBODY` in free places.
    """
    segments, servers = len(owners), sorted(set(hosts).difference(leaving))
    chosen = np.full((segments, replicas), NOBODY, np.int32)
    wanted = min(replicas, len(servers) - 1)
    if wanted <= 0:
        return chosen
    ring = Ring(table, segments, servers)
    share = load_max(segments * wanted, len(servers))
    load = {node: int((there == node).sum()) for node in servers}
    for segment in np.flatnonzero(owners != NOBODY).tolist():
        copies = [node for node in there[segment].tolist() if node in load]
        have = [int(owners[segment]), *copies]
        for at in range(wanted - len(copies)):
            used = {hosts[node] for node in have}
            # Of equals, the first on the ring is taken; mostly it is near.
            others = (node for node in ring.walk(segment) if node not in have)
            best = next((n for n in others if hosts[n] not in used and load[n] < share), NOBODY)
            if best == NOBODY:
                order = dict.fromkeys(node for node in ring.walk(segment) if node not in have)
                best = min(order, key=lambda node: (hosts[node] in used, load[node] >= share))
            chosen[segment, at] = best
            load[best] += 1
            have.append(best)
    return chosen
