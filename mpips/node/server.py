"""A server: holds its part of the model, and runs the app's server functions on it."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from mpips.config import Config
from mpips.core.held import Held
from mpips.core.load import Load
from mpips.core.server import ServerMachine
from mpips.node.app import App
from mpips.node.member import Member
from mpips.node.pacing import Pacing
from mpips.node.writing import Parts
from mpips.store.base import Store
from mpips.store.frozen import Frozen, Guard
from mpips.store.part import Part
from mpips.store.sharing import Sharing
from mpips.store.table import make_store
from mpips.transport.base import Transport
from mpips.wire.buffers import Buffers
from mpips.wire.messages import Ask, Beat, Call, Message, Pull, Push, Told
from mpips.wire.types import NOBODY, View

log = logging.getLogger(__name__)

STALL_S = 10.0

Marks = npt.NDArray[np.int64]
SegmentFacts = tuple[str, int, int, Marks, Marks]
"""Table, segment, log, numbers and clocks, as `files.parts.Segment` has them."""


@final
class ServerNode(Member):
    """A `ServerMachine` on a transport."""

    role = "server"

    def __init__(
        self, transport: Transport, clock: Callable[[], float], kind: type[App], config: Config
    ) -> None:
        super().__init__(transport, clock, kind, config)
        self.machine: ServerMachine | None = None
        self.app: App | None = None
        self._next_look = 0.0
        self._load = Load([])
        self._pacing = Pacing(transport)
        # Who has sent what is being answered; answers that had to wait may be others'.
        self._asking = NOBODY

    def know(self) -> dict[str, Any]:
        """Return nothing: servers do not read the data."""
        return {}

    def prepare(self, view: View) -> None:
        """Make the stores and own the view's segments."""
        self.app = self.kind(self.job)
        stores = [make_store(table) for table in self.tables]
        if (count := self.config.run.server_cores) > 1:
            # Nobody else needs threads.
            from mpips.node.cores import Cores

            sharing = Sharing(Cores(count).spread)
            for store in stores:
                store.sharing = sharing
        # Answers are made where whom they are for may read them.
        buffers = Buffers(outside=lambda size: self.transport.draft(self._asking, size))
        self.machine = ServerMachine(self.transport.node, stores, self.job.logical_workers, buffers)
        self.machine.install(view)
        self._load = Load([table.segments for table in self.tables])

    def install(self, view: View) -> None:
        """Step the machine."""
        assert self.machine is not None
        self.carry_out(self.machine.install(view))

    def weigh(self) -> int:
        """Return the bytes of all segments, with the copies of other servers' ones."""
        assert self.machine is not None
        return sum(store.statistics()["bytes"] for store in self.machine.stores)

    def save(self, folder: Path, later: bool) -> Callable[[], Parts]:
        """Return what writes all segments that this server owns, as they are now."""
        assert self.machine is not None
        guard = threading.RLock()
        tables = [(_source(held.store, guard, later), _facts(held)) for held in self.machine.tables]

        def write() -> Parts:
            from mpips.files.parts import Segment, write_segments

            # One segment after the other is in memory, beside what the stores keep.
            segments = (Segment(*fact, *of.read(fact[1])) for of, facts in tables for fact in facts)
            parts: Parts = [dict(write_segments(folder, self.transport.node, segments))]
            for source, _ in tables:
                source.close()
            return parts

        return write

    def forget_part(self) -> None:
        """Let pushes change what was frozen."""
        for store in self.machine.stores if self.machine else ():
            store.thaw()

    def restore(self, checkpoint: Path) -> None:
        """Take the segments that this server owns, or has copies of."""
        from mpips.files.checkpoint import load_checkpoint

        assert self.machine is not None
        found = load_checkpoint(checkpoint, check=False)
        for held in self.machine.tables:
            for one in found.segments(held.table.name, held.store.held):
                held.store.load(one.segment, one.keys, one.rows)
                held.adopt(one.segment, one.log, one.numbers.tolist(), one.clocks.tolist())

    def call(self, call: Call) -> None:
        """Run a function of the app for the plan."""
        self.answer(call.request, self.run(call.function, call.arguments))

    def run(self, function: str, arguments: dict[str, Any]) -> Any:
        """Return what a function of the app gives on what this server owns."""
        assert self.machine is not None
        stores = {store.table.name: Part(store) for store in self.machine.stores}
        return getattr(self.app, function)(stores, **arguments)

    def take(self, source: int, message: Message) -> None:
        """Step the machine, or answer a worker's call."""
        kind = type(message)
        if kind is Ask:
            assert isinstance(message, Ask)
            told = Told(
                epoch=self._epoch,
                incarnation=self._members[self.transport.node],
                request=message.request,
                result=self.run(message.function, message.arguments),
            )
            self.send(source, told)
            return
        assert self.machine is not None, "a push or pull before the start"
        if kind is Push or kind is Pull:
            self._load.note(message)  # type: ignore[arg-type]
            if kind is Pull and self._pacing.holds(source, message):  # type: ignore[arg-type]
                return
        self._step(source, message)

    def work(self) -> bool:
        """Answer the pulls that waited for others to be answered."""
        if not self._pacing:
            return False
        assert self.machine is not None
        before = len(self._pacing)
        for source, pull in self._pacing.release():
            self._step(source, pull)
        return len(self._pacing) < before

    def _step(self, source: int, message: Message) -> None:
        assert self.machine is not None
        self._asking = source
        self.carry_out(self.machine.step(self.clock(), source, message))

    def beat(self, moved: list[int]) -> Beat:
        """Return who is alive on this host, and what this server was asked for."""
        busy, rest = self._load.take()
        return Beat(epoch=self._epoch, moved=moved, busy=busy, rest=rest)

    def tick(self, now: float) -> None:
        """Note in the log whom pulls have been waiting for, now and then."""
        super().tick(now)
        if self.machine is None or now < self._next_look:
            return
        self._next_look = now + STALL_S
        for line in self.machine.stalled(now - STALL_S):
            log.warning("for %.0f s or more, %s", STALL_S, line)

    def counters(self) -> dict[str, int]:
        """Return the machine's counters."""
        if self.machine is None:
            return {}
        return {f"server_{name}": count for name, count in self.machine.statistics().items()}


def _source(store: Store, guard: Guard, later: bool) -> Frozen:
    """Return what gives the segments of a store: frozen if it is asked later, else as they are."""
    return store.freeze(guard) if later else Frozen(store.snapshot, lambda: None)


def _facts(held: Held) -> list[SegmentFacts]:
    """Return what there is to write of the segments that a server owns, beside their values."""
    facts: list[SegmentFacts] = []
    for segment in held.store.owned:
        numbers, clocks = (np.array(one, np.int64) for one in held.state(segment, ()))
        facts.append((held.table.name, segment, held.logs[segment], numbers, clocks))
    return facts
