"""The ranks of `mpips bench`: the same operations by raw MPI and by mpips, in turn."""

import os
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from mpips.config import parse
from mpips.core.ring import place, place_copies
from mpips.filters.caching import KEYS_MIN
from mpips.node.app import App, Job
from mpips.node.kv import Pending, Worker
from mpips.node.loop import Node
from mpips.node.places import find_places
from mpips.node.server import ServerNode
from mpips.node.worker import WorkerNode
from mpips.transport.backoff import Backoff
from mpips.transport.mpi import MPITransport
from mpips.wire.types import NOBODY, KeyArray, Member, Table, View, make_epoch

CHUNK_BYTES: Final = 2**20
BURST: Final = 200
IDLE_S: Final = 3.0
KNOWN: Final = 4
DATA, ANSWER, TURN = 1, 2, 3


@dataclass(frozen=True)
class Case:
    """An operation on so many keys, and how often it is done in a round.

    Attributes:
        op: "push" or "pull"; "burst": so many pushes at once, each a message of its own.
        keys: how many; those of sparse tables travel with the values.
        repeats: operations in a round.
        lists: of sparse tables: 1 sends the same list each time; more a new list each time, out
            of so many times as many keys that servers know; 0 new keys. None: the range of a
            dense table.
    """

    op: str
    keys: int
    repeats: int
    lists: int | None = None

    @property
    def table(self) -> str:
        """Return the name of the case's table."""
        return "sparse" if self.lists is not None else str(self.keys)

    @property
    def size(self) -> int:
        """Return the bytes of keys and values that travel."""
        return (4 if self.lists is None else 12) * self.keys * self.messages

    @property
    def messages(self) -> int:
        """Return how many pushes or pulls an operation is."""
        return BURST if self.op == "burst" else 1

    @property
    def is_cached(self) -> bool:
        """Return whether the server knows the key list."""
        return self.lists == 1 and self.keys >= KEYS_MIN

    @property
    def name(self) -> str:
        """Return what people call the keys."""
        return {None: "range", 0: "new", 1: "repeated"}.get(self.lists, "fresh")


SMALL: Final = (
    *(Case(op, 1, 200, 1) for op in ("push", "pull")),
    Case("burst", 1, 2, 1),
    *(Case(op, 2**16, 20) for op in ("push", "pull")),
    *(Case(op, 2**24, 2) for op in ("push", "pull")),
)
"""Cases of every setting."""

LARGE: Final = (
    *(Case(op, keys, repeats) for keys, repeats in ((2**10, 50), (2**20, 5), (2**26, 1))
      for op in ("push", "pull")),
    *(Case(op, 1000, 20, KNOWN) for op in ("push", "pull")),
    *(Case(op, 10**6, 1, lists) for op in ("push", "pull") for lists in (1, KNOWN)),
    Case("push", 10**6, 1, 0),
)  # fmt: skip
"""Cases of one server and one worker without copies alone."""


@dataclass(frozen=True)
class Setting:
    """So many servers and workers, and copies of each segment beside the owner's."""

    servers: int
    workers: int
    replicas: int
    filters: str = "off"
    grows: bool = False

    @property
    def cases(self) -> tuple[Case, ...]:
        """Return what is measured."""
        if self.grows:
            return GROWTH_CASES
        return SMALL + (LARGE if self == SETTINGS[0] else ())


SETTINGS: Final = (Setting(1, 1, 0), Setting(1, 1, 0, "lz4"), Setting(2, 1, 0), Setting(2, 1, 1),
                   Setting(2, 2, 0), Setting(2, 2, 1))  # fmt: skip
GROWTH: Final = tuple(Setting(servers, 1, 0, grows=True) for servers in (1, 2, 4, 8))
GROWTH_CASES: Final = tuple(
    Case(op, keys, repeats, lists)
    for op in ("push", "pull")
    for keys, repeats, lists in ((1, 50, 1), (1000, 20, KNOWN), (10**5, 3, KNOWN), (2**20, 3, None))
)
"""Cases for more and more servers."""


class BenchApp(App):
    """The tables: sparse for key lists, dense for ranges."""

    def tables(self) -> list[Table]:
        """Return a table for each size of a range."""
        cases = self.job.facts["cases"]
        many = sorted({case.keys for case in cases if case.lists is None})
        sparse = Table(name="sparse", kind="sparse", dtype="f4")
        return [sparse, *(Table(name=str(keys), size=keys, dtype="f4") for keys in many)]


@dataclass(frozen=True)
class Measured:
    """Seconds an operation by mpips and by MPI, and what all nodes sent, copied, computed."""

    seconds: float
    mpi_seconds: float
    bytes_sent: float
    cpu_seconds: float
    bytes_copied: float


class Bench:
    """One rank of a setting; servers come first.

    Args:
        comm: the ranks of the setting.
        setting: how many of them serve, and the copies.
    """

    def __init__(self, comm: MPI.Intracomm, setting: Setting) -> None:
        self._raw, self._setting = comm.Dup(), setting
        self._rank = comm.Get_rank()
        # The ranks that take no part sleep.
        self._is_crowded = find_places(comm).is_crowded
        self.is_server = self._rank < setting.servers
        most = max(case.size for case in setting.cases)
        self._buffer = np.ones(most, np.uint8)
        self._values = np.ones(max(case.keys for case in setting.cases), np.float32)
        self._known: dict[tuple[int, int], KeyArray] = {}
        self._coming: Iterator[KeyArray | None] = iter(())
        self._random = np.random.default_rng(1 + self._rank)
        config = parse("", "", [f"filters.compress={setting.filters}"]).sized(setting.workers)
        make = ServerNode if self.is_server else WorkerNode
        self._node = make(MPITransport(comm), time.monotonic, BenchApp, config)
        self._node.enter(self._view(), {"cases": setting.cases})

    def measure(self, case: Case) -> Measured:
        """Measure a case, on all ranks of the setting; the first worker knows the result."""
        self._prepare(case)
        self._raw.Barrier()
        raw = self._time(case, self._ask_raw) if not self.is_server else self._serve_raw(case)
        self._raw.Barrier()
        before, began = self._count(), time.process_time()
        if self.is_server:
            self._serve()
            ours = 0.0
        else:
            ours = self._time(case, self._ask)
            self._end_turn()
        cpu = self._raw.allreduce(time.process_time() - began)
        # One operation more is done to begin with.
        many = (case.repeats + 1) * self._setting.workers * case.messages
        sent, copied = (
            self._raw.allreduce(now - then) / many
            for now, then in zip(self._count(), before, strict=True)
        )
        ours, raw = (self._raw.allreduce(seconds, MPI.MAX) for seconds in (ours, raw))
        return Measured(ours, raw, sent, cpu / many, copied)

    def idle_share(self) -> float:
        """Return the share of a core that this rank takes when nothing comes."""
        backoff, began = Backoff(self._is_crowded), time.monotonic()
        # It sleeps longest after a second of silence.
        self._wait_until(began + IDLE_S / 2, backoff)
        half, cpu = time.monotonic(), time.process_time()
        self._wait_until(began + IDLE_S, backoff)
        return (time.process_time() - cpu) / (time.monotonic() - half)

    def _count(self) -> tuple[int, int]:
        """Return how many bytes this node has sent, and copied, up to now."""
        counters = self._node.counters()
        copied = sum(n for name, n in counters.items() if name.endswith("copied_bytes"))
        return sum(self._node.bytes_sent.values()), copied

    def _wait_until(self, end: float, backoff: Backoff) -> None:
        while time.monotonic() < end:
            self._turn()
            backoff.wait()

    def _view(self) -> View:
        """Return the view that a scheduler would have made."""
        setting = self._setting
        servers = list(range(setting.servers))
        workers = [setting.servers + at for at in range(setting.workers)]
        members = [Member(node, "server", f"h{node}", 0) for node in servers]
        members += [Member(node, "worker", "", 0) for node in workers]
        app = BenchApp(Job(self._node.config, {"cases": setting.cases}))
        tables = [table.cut(setting.servers) for table in app.tables()]
        owners = [place(at, t.segments, servers) for at, t in enumerate(tables)]
        copies = []
        for at, (table, mine) in enumerate(zip(tables, owners, strict=True)):
            none = np.full((table.segments, 0), NOBODY, np.int32)
            hosts = {node: f"h{node}" for node in servers}
            copies.append(place_copies(at, mine, none, hosts, setting.replicas))
        epoch = make_epoch(1, 0)
        return View(epoch, tuple(members), tuple(owners), tuple(workers), tuple(copies))

    def _time(self, case: Case, operation: Callable[[Case], None]) -> float:
        operation(case)
        began = time.perf_counter()
        for _ in range(case.repeats):
            operation(case)
        return (time.perf_counter() - began) / case.repeats / case.messages

    # -- Raw MPI ---------------------------------------------------------------------------------

    def _ask_raw(self, case: Case) -> None:
        """Exchange the bytes of an operation, each server its part, and one byte back."""
        servers = range(self._setting.servers)
        if case.op == "burst":
            self._finish([self._raw.Isend(self._buffer[:12], at % len(servers), DATA)
                     for at in range(BURST)])  # fmt: skip
            self._finish([self._raw.Irecv(self._buffer[at : at + 1], at % len(servers), ANSWER)
                     for at in range(BURST)])  # fmt: skip
            return
        there, back = _ways(case, len(servers))
        requests = [self._raw.Irecv(part, at, ANSWER)
                    for at in servers for part in self._chunks(back, at)]  # fmt: skip
        requests += [self._raw.Isend(part, at, DATA)
                     for at in servers for part in self._chunks(there, at)]  # fmt: skip
        self._finish(requests)

    def _serve_raw(self, case: Case) -> float:
        """Answer all workers' raw operations, one after the other."""
        setting = self._setting
        there, back = _ways(case, setting.servers)
        workers = range(setting.servers, setting.servers + setting.workers)
        is_burst = case.op == "burst"
        mine = len(range(self._rank, BURST, setting.servers))
        for _ in range(case.repeats + 1):
            for worker in workers:
                for _ in range(mine if is_burst else 1):
                    parts = self._chunks(12 if is_burst else there)
                    self._finish([self._raw.Irecv(part, worker, DATA) for part in parts])
                    parts = self._chunks(back)
                    self._finish([self._raw.Isend(part, worker, ANSWER) for part in parts])
        return 0.0

    def _chunks(self, size: int, at: int = 0) -> list[npt.NDArray[np.uint8]]:
        """Return the chunks of one server's part of the buffer."""
        part = self._buffer[at * size : (at + 1) * size]
        return [part[begin : begin + CHUNK_BYTES] for begin in range(0, size, CHUNK_BYTES)]

    def _finish(self, requests: list[MPI.Request]) -> None:
        """Wait for transfers as mpips does: others have the core meanwhile where ranks are many."""
        for request in requests:
            while not request.Test():
                if self._is_crowded:
                    os.sched_yield()

    # -- mpips -----------------------------------------------------------------------------------

    def _ask(self, case: Case) -> None:
        assert isinstance(self._node, WorkerNode)
        worker = Worker(self._node, self._rank - self._setting.servers, None)
        running = self._burst(worker) if case.op == "burst" else self._once(worker, case)
        self._drive(running)

    async def _once(self, worker: Worker, case: Case) -> None:
        keys, values = next(self._coming), self._values[: case.keys]
        if case.op == "push":
            await worker.push(case.table, keys, values)
        else:
            await worker.pull(case.table, keys, out=values)

    async def _burst(self, worker: Worker) -> None:
        keys, values = next(self._coming), self._values[:1]
        for pending in [worker.push("sparse", keys, values) for _ in range(BURST)]:
            await pending

    def _prepare(self, case: Case) -> None:
        """Draw the key lists of a case, and let servers know their keys, before the start."""
        if self.is_server:
            self._serve()
            return
        self._coming = iter(self._draw_lists(case))
        self._end_turn()

    def _draw_lists(self, case: Case) -> Sequence[KeyArray | None]:
        """Return a key list for each operation of a round; None: the whole table."""
        many, keys, lists = case.repeats + 1, case.keys, case.lists
        if lists is None:
            return [None] * many
        if lists == 0:
            return [self._draw(keys) for _ in range(many)]
        known = self._known.get((keys, lists))
        if known is None:
            known = self._known[keys, lists] = self._draw(keys * lists)
            # Keys are known once they have been pushed.
            self._drive(self._insert(known))
        # One of some neighbours, and one of the next: sorted, and a list as there was none.
        rows, at = known.reshape(keys, lists), np.arange(keys)
        return [rows[at, self._random.integers(0, lists, keys)] for _ in range(many)]

    async def _insert(self, keys: KeyArray) -> None:
        assert isinstance(self._node, WorkerNode)
        worker = Worker(self._node, self._rank - self._setting.servers, None)
        await worker.push("sparse", keys, self._values[: len(keys)])

    def _draw(self, count: int) -> KeyArray:
        keys = np.sort(self._random.integers(0, 2**64, count, dtype=np.uint64))
        # A key that is drawn twice is not worth a second look.
        keys[1:][keys[1:] <= keys[:-1]] += np.uint64(1)
        return keys

    def _drive(self, running: Coroutine[Pending, None, Any]) -> None:
        """Run a coroutine of the app to its end."""
        backoff = Backoff(self._is_crowded)
        while True:
            try:
                pending = running.send(None)
            except StopIteration:
                return
            while not pending.is_done:
                if self._turn():
                    backoff.busy()
                else:
                    backoff.wait()

    def _turn(self) -> bool:
        # There is no scheduler to greet, nor to tell of errors.
        return Node.turn(self._node)

    def _end_turn(self) -> None:
        """Tell all servers that this worker is done."""
        for server in range(self._setting.servers):
            self._raw.Isend(self._buffer[:1], server, TURN).Free()

    def _serve(self) -> None:
        """Serve until all workers say that they are done."""
        backoff, left = Backoff(self._is_crowded), self._setting.workers
        while left:
            if self._turn():
                backoff.busy()
                continue
            if self._raw.Iprobe(MPI.ANY_SOURCE, TURN):
                self._raw.Recv(self._buffer[:1], MPI.ANY_SOURCE, TURN)
                left -= 1
            else:
                backoff.wait()


def _ways(case: Case, servers: int) -> tuple[int, int]:
    """Return the bytes that go to each server, and those that come back."""
    if case.op == "push" or case.op == "burst":
        return -(-case.size // servers), 1
    keys = 1 if case.lists is None else -(-8 * case.keys // servers)
    return keys, -(-4 * case.keys // servers)
