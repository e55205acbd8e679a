"""Which server owns a segment: consistent hashing with virtual nodes and bounded load.

Servers and segments are points on a ring of 2**64; a segment belongs to the first server point
clockwise from it, unless that server already has its fair share. A server that comes or goes
moves its own segments and the few that the bound demands. Only segments are hashed, never keys,
so ranges of keys stay together (OSDI 2014, section 4.3; bounded load: Mirrokni et al., 2018).
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

VIRTUAL_NODES: Final = 128
LOAD_PERCENT_MAX: Final = 110

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


def place(table: int, segments: int, servers: Sequence[int]) -> npt.NDArray[np.int32]:
    """Return the owner of each segment of a table.

    Args:
        table: index of the table; each table has its own points for segments.
        segments: number of segments.
        servers: node ids; the order does not matter.

    Returns:
        int32 `(segments,)`, node ids.

    Cost: O((segments + servers * VIRTUAL_NODES) log) time.
    Source: Li et al., OSDI 2014, section 4.3.
    """
    assert servers, "a ring without servers"
    # Put every server on the ring, many times.
    nodes = np.repeat(np.array(sorted(servers), dtype=np.int64), VIRTUAL_NODES)
    virtual = np.tile(np.arange(VIRTUAL_NODES, dtype=np.uint64), len(servers))
    points = mix(mix(nodes.astype(np.uint64)) + virtual)
    order = np.argsort(points, kind="stable")
    points, nodes = points[order], nodes[order]
    # Walk clockwise from each segment to the first server that has room.
    names = np.arange(segments, dtype=np.uint64)
    keys = mix(mix(np.full(segments, table, dtype=np.uint64)) + names)
    starts = np.searchsorted(points, keys).tolist()
    room = dict.fromkeys(servers, load_max(segments, len(servers)))
    owners = np.empty(segments, dtype=np.int32)
    ring = nodes.tolist()
    for segment, at in enumerate(starts):
        at %= len(ring)
        while room[ring[at]] == 0:
            at = (at + 1) % len(ring)
        room[ring[at]] -= 1
        owners[segment] = ring[at]
    return owners
