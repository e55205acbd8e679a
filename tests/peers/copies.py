"""Measures the processor time of pushes to some servers, with and without copies, in one process.

    python -m tests.peers.copies

All nodes take turns, and frames go through queues: what is told is what clients and servers do,
without MPI, as medians of the processor time of all nodes for one push.
"""

import time
from collections.abc import Coroutine
from statistics import median
from typing import Any, Final

import numpy as np

from mpips.config import parse
from mpips.core.ring import place, place_copies
from mpips.node.app import App, Job
from mpips.node.kv import Pending, Worker
from mpips.node.loop import Node
from mpips.node.member import Member as MemberNode
from mpips.node.server import ServerNode
from mpips.node.worker import WorkerNode
from mpips.transport.loop import LoopTransport
from mpips.wire.types import NOBODY, KeyArray, Member, Table, View, make_epoch

ROUNDS, WARM_UP = 40, 5
CASES: Final = ((1, 0), (2, 0), (2, 1), (4, 0), (4, 1))
"""Servers, and copies beside the owner's."""

FLOATS, KEYS = 2**16, 1000


class Tables(App):
    """A table for ranges, and one for key lists."""

    def tables(self) -> list[Table]:
        """Return both."""
        return [Table(name="range", size=FLOATS, dtype="f4"),
                Table(name="list", kind="sparse", dtype="f4")]  # fmt: skip


def first_view(servers: int, replicas: int, config: Any) -> View:
    """Return the view that a scheduler would have made; the worker is the last node."""
    names = list(range(servers))
    members = [Member(node, "server", f"h{node}", 0) for node in names]
    members.append(Member(servers, "worker", "", 0))
    tables = [table.cut(servers) for table in Tables(Job(config, {})).tables()]
    owners = [place(at, table.segments, names) for at, table in enumerate(tables)]
    hosts = {node: f"h{node}" for node in names}
    copies = [
        place_copies(at, mine, np.full((len(mine), 0), NOBODY, np.int32), hosts, replicas)
        for at, mine in enumerate(owners)
    ]
    return View(make_epoch(1, 0), tuple(members), tuple(owners), (servers,), tuple(copies))


def drive(nodes: list[MemberNode], push: Coroutine[Pending, None, Any]) -> None:
    """Let all nodes take turns until a push is done."""
    while True:
        try:
            pending = push.send(None)
        except StopIteration:
            return
        while not pending.is_done:
            for node in nodes:
                Node.turn(node)


async def push_to(worker: Worker, table: str, keys: KeyArray | None, values: Any) -> None:
    """Push once."""
    await worker.push(table, keys, values)


def measure(servers: int, replicas: int) -> None:
    """Print the processor time of a push of either kind."""
    config = parse("", "", []).sized(1)
    ends = LoopTransport.world(servers + 1)
    kinds = [ServerNode] * servers + [WorkerNode]
    nodes: list[MemberNode] = [kind(end, time.monotonic, Tables, config)
                               for kind, end in zip(kinds, ends, strict=True)]  # fmt: skip
    for node in nodes:
        node.enter(first_view(servers, replicas, config), {})
    assert isinstance(nodes[-1], WorkerNode)
    worker = Worker(nodes[-1], 0, None)
    keys = np.sort(np.random.default_rng(1).integers(0, 2**64, KEYS, dtype=np.uint64))
    for table, where, count in (("range", None, FLOATS), ("list", keys, KEYS)):
        values, times = np.ones((count, 1), np.float32), []
        for _ in range(WARM_UP + ROUNDS):
            began = time.process_time()
            drive(nodes, push_to(worker, table, where, values))
            times.append(time.process_time() - began)
        took = 1e3 * median(times[WARM_UP:])
        print(f"{servers} servers, {replicas} copies, {count:>6,} of a {table}: {took:6.2f} ms")


if __name__ == "__main__":
    for case in CASES:
        measure(*case)
