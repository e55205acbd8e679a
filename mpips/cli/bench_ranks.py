"""The two ranks of `mpips bench`: the same operations by raw MPI and by mpips, in turn."""

import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from mpi4py import MPI

from mpips.config import parse
from mpips.node.app import App
from mpips.node.kv import Pending, Worker
from mpips.node.loop import Node
from mpips.node.server import ServerNode
from mpips.node.worker import WorkerNode
from mpips.transport.mpi import MPITransport
from mpips.wire.types import Member, Table, View, make_epoch

SERVER, WORKER = 0, 1
CHUNK_BYTES: Final = 4 * 2**20
DATA, ANSWER, TURN = 1, 2, 3


@dataclass(frozen=True)
class Case:
    """An operation on so many keys, and how often it is done in a round.

    One key is pushed and pulled by a key list of a sparse table, more keys as the range of a
    dense one.
    """

    op: str
    keys: int
    repeats: int

    @property
    def size(self) -> int:
        """Return the bytes of keys and values that travel."""
        return 4 * self.keys + (8 if self.keys == 1 else 0)


CASES: Final = tuple(
    Case(op, keys, repeats)
    for keys, repeats in ((1, 1000), (2**16, 100), (2**24, 3))
    for op in ("push", "pull")
)


class BenchApp(App):
    """The tables: sparse for one key, dense for many."""

    def tables(self) -> list[Table]:
        """Return a table for each number of keys."""
        few = Table(name="1", kind="sparse", dtype="f4")
        many = sorted({case.keys for case in CASES} - {1})
        return [few, *(Table(name=str(keys), size=keys, dtype="f4") for keys in many)]


class Pair:
    """One of two ranks that measure together.

    Attributes:
        is_server: whether this rank is the server.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.is_server = comm.Get_rank() == SERVER
        self._raw = comm.Dup()
        self._buffer = np.ones(max(case.size for case in CASES), np.uint8)
        self._values = np.ones(max(case.keys for case in CASES), np.float32)
        self._byte = np.zeros(1, np.uint8)
        transport, config = MPITransport(comm), parse("", "").sized(1)
        make = ServerNode if self.is_server else WorkerNode
        self._node = make(transport, time.monotonic, BenchApp, config)
        # The view that a scheduler would have made.
        self._node.tables = [table.cut(1) for table in BenchApp(self._node.job).tables()]
        members = (Member(SERVER, "server", "", 0), Member(WORKER, "worker", "", 0))
        owners = tuple(np.zeros(table.segments, np.int32) for table in self._node.tables)
        self._node.prepare(View(make_epoch(1, 0), members, owners, (WORKER,)))

    def measure(self, case: Case) -> tuple[float, float]:
        """Return the seconds an operation takes by mpips and by raw MPI; the server serves."""
        if self.is_server:
            self._serve_raw(case)
            self._serve(case)
            return 0.0, 0.0
        raw = self._time(case, lambda: self._ask_raw(case))
        assert isinstance(self._node, WorkerNode)
        worker = Worker(self._node, 0, None)
        ours = self._time(case, lambda: self._drive(self._ask(worker, case)))
        self._raw.Send(self._byte, SERVER, TURN)
        return ours, raw

    def _time(self, case: Case, operation: Callable[[], None]) -> float:
        operation()
        began = time.perf_counter()
        for _ in range(case.repeats):
            operation()
        return (time.perf_counter() - began) / case.repeats

    # -- Raw MPI ---------------------------------------------------------------------------------

    def _ask_raw(self, case: Case) -> None:
        if case.op == "push":
            self._send_chunks(case.size, SERVER)
            self._raw.Recv(self._byte, SERVER, ANSWER)
        else:
            self._raw.Send(self._byte, SERVER, ANSWER)
            self._receive_chunks(case.size, SERVER)

    def _serve_raw(self, case: Case) -> None:
        for _ in range(case.repeats + 1):
            if case.op == "push":
                self._receive_chunks(case.size, WORKER)
                self._raw.Send(self._byte, WORKER, ANSWER)
            else:
                self._raw.Recv(self._byte, WORKER, ANSWER)
                self._send_chunks(case.size, WORKER)

    def _send_chunks(self, size: int, dest: int) -> None:
        cuts = range(0, size, CHUNK_BYTES)
        parts = [self._buffer[at : min(at + CHUNK_BYTES, size)] for at in cuts]
        MPI.Request.Waitall([self._raw.Isend(part, dest, DATA) for part in parts])

    def _receive_chunks(self, size: int, source: int) -> None:
        cuts = range(0, size, CHUNK_BYTES)
        parts = [self._buffer[at : min(at + CHUNK_BYTES, size)] for at in cuts]
        MPI.Request.Waitall([self._raw.Irecv(part, source, DATA) for part in parts])

    # -- mpips -----------------------------------------------------------------------------------

    async def _ask(self, worker: Worker, case: Case) -> None:
        keys = np.array([12345], np.uint64) if case.keys == 1 else None
        values = self._values[: case.keys]
        if case.op == "push":
            await worker.push(str(case.keys), keys, values)
        else:
            out = None if case.keys == 1 else values
            await worker.pull(str(case.keys), keys, out=out)

    def _drive(self, running: Coroutine[Pending, None, Any]) -> None:
        """Run a coroutine of the app to its end."""
        while True:
            try:
                pending = running.send(None)
            except StopIteration:
                return
            while not pending.is_done:
                self._turn()

    def _turn(self) -> None:
        # There is no scheduler to greet, nor to tell of errors.
        Node.turn(self._node)

    def _serve(self, case: Case) -> None:
        """Serve until the worker says that it is done."""
        while not self._raw.Iprobe(WORKER, TURN):
            self._turn()
        self._raw.Recv(self._byte, WORKER, TURN)
