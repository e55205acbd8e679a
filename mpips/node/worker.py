"""A worker: runs the app's worker functions, one coroutine for each call, on its client."""

import heapq
import math
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from inspect import iscoroutine
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from mpips.config import Config
from mpips.core.asking import Asking
from mpips.core.client import ClientMachine
from mpips.core.machine import Effect, Finished
from mpips.errors import AppError
from mpips.files.tree import encode_states
from mpips.node.app import App
from mpips.node.kv import Pending, Worker
from mpips.node.member import Member
from mpips.node.shard import data_facts, open_shards
from mpips.node.writing import Parts
from mpips.store.updates import find_update
from mpips.transport.base import Bytes, Transport
from mpips.wire.messages import (
    Ask,
    Call,
    Drop,
    Forgotten,
    Message,
    Progress,
    PushAck,
    Takeover,
    Told,
    Values,
)
from mpips.wire.types import View

ANSWERS: Final = frozenset((PushAck, Values, Forgotten))
"""What the client waits for."""


@dataclass(slots=True, eq=False)
class Running:
    """A coroutine of the app, and the call that it answers."""

    coroutine: Coroutine[Pending, None, Any]
    call: Call


@final
class WorkerNode(Member):
    """A `ClientMachine` on a transport, shared by the logical workers that this node acts for.

    A call is answered when its coroutine has returned and all pushes and pulls of its logical
    worker are finished (OSDI 2014, section 3.2).
    """

    role = "worker"

    def __init__(
        self, transport: Transport, clock: Callable[[], float], kind: type[App], config: Config
    ) -> None:
        super().__init__(transport, clock, kind, config)
        self.client = ClientMachine(transport.node, [], [])
        self._asking = Asking(transport.node)
        self._view: View | None = None
        self._reports = 0
        self._names: dict[str, int] = {}
        self._workers: dict[int, Worker] = {}
        self._apps: dict[int, App] = {}
        self._pending: dict[int, Pending] = {}
        self._ready: deque[Running] = deque()
        self._running: dict[int, Running] = {}
        # A heap: until when somebody sleeps, and a number that keeps the order of equal times.
        self._alarms: list[tuple[float, int, Pending]] = []
        self._alarm = 0
        # By logical worker: how many pushes and pulls are open, and the answer that waits for them.
        self._open: dict[int, int] = {}
        self._returns: dict[int, Any] = {}

    def know(self) -> dict[str, Any]:
        """Return the facts of the training data."""
        return data_facts(self.config)

    def prepare(self, view: View) -> None:
        """Open the shards and make the client."""
        updates = [find_update(t.update, t.settings, t.width) for t in self.tables]
        widths = [(update.push_width, update.pull_width) for update in updates]
        self.client = ClientMachine(self.transport.node, self.tables, widths)
        self.client.install(view)
        self._view = view
        self._names = {table.name: i for i, table in enumerate(self.tables)}
        mine = [worker for worker, node in enumerate(view.actors) if node == self.transport.node]
        # Who takes over for somebody gets what is needed with the first call.
        if view.is_first:
            self._act_for(mine)

    def install(self, view: View) -> None:
        """Send again what servers have not answered that own it no more."""
        before, self._view = self._view, view
        assert before is not None
        is_new = before.scheduler != view.scheduler
        for worker, (old, new) in enumerate(zip(before.actors, view.actors, strict=True)):
            # Whoever acts for it next makes its own object. A new scheduler does not know whom
            # the other has asked to help.
            has_lost = old == self.transport.node != new
            if has_lost or (is_new and worker in self._workers and new != self.transport.node):
                self._drop(worker)
        self.carry_out([*self.client.install(view), *self._asking.install(view)])

    def weigh(self) -> int:
        """Return the bytes of the arrays in the states of its logical workers."""
        encoded = encode_states(self._states())
        return sum(array.nbytes for _, arrays in encoded.values() for array in arrays)

    def save(self, folder: Path, later: bool) -> Callable[[], Parts]:
        """Return what writes the states of the logical workers that this node acts for."""
        encoded = encode_states(self._states(), later)

        def write() -> Parts:
            from mpips.files.checkpoint import write_states

            return [dict(write_states(folder, self.transport.node, encoded))] if encoded else []

        return write

    def _states(self) -> dict[int, Any]:
        return {worker: app.keep() for worker, app in self._apps.items()}

    def call(self, call: Call) -> None:
        """Start a coroutine for the call; `work` runs it."""
        takeover = call.takeover
        if takeover is not None and self._has_all(call.worker, takeover):
            takeover = None
        if takeover is not None:
            self._drop(call.worker)
            self._act_for([call.worker])
            self.client.take_over(call.worker, takeover.streams)
        elif call.worker not in self._workers:
            # It comes late: another node acts for that one by now, and has done it.
            return
        worker = self._workers[call.worker]
        worker.task = call.task
        for table, max_delay in call.delays.items():
            self.client.set_delay(self._names[table], call.worker, max_delay)
        function = getattr(self._apps[call.worker], call.function)
        if takeover is None:
            running = function(worker, **call.arguments)
        else:
            todo = partial(function, worker, **call.arguments)
            running = self._recover_first(worker, takeover, todo)
        self._running[call.worker] = Running(running, call)
        self._ready.append(self._running[call.worker])

    def adopt(self, call: Call) -> bool:
        """Go on with a call under another number, if it runs here, and return whether it does."""
        running = self._running.get(call.worker)
        if running is None or running.call.task != call.task:
            return False
        running.call = call
        return True

    def _has_all(self, worker: int, takeover: Takeover) -> bool:
        """Return whether this node has already what a takeover gives it."""
        if not takeover.is_known or takeover.checkpoint or worker not in self._workers:
            return False
        streams = [tuple(one) for one in takeover.streams] or [(0, 0)] * len(self.tables)
        is_level = self.client.positions(worker) == streams
        return is_level and self._calls.last_task(worker) == takeover.task

    def take(self, source: int, message: Message) -> None:
        """Step the client, or call off what another node has done."""
        if type(message) in ANSWERS:
            self.carry_out(self.client.step(self.clock(), source, message))
            return
        if isinstance(message, Drop):
            running = self._running.get(message.worker)
            if running is not None and running.call.request == message.request:
                self._drop(message.worker)
            return
        if isinstance(message, Ask):
            self._tell(source, message)
            return
        if isinstance(message, Told):
            self.carry_out(self._asking.take(source, message))
            return
        self.carry_out(self.client.step(self.clock(), source, message))

    def place(self, source: int, head: memoryview, sizes: list[int]) -> list[Bytes] | None:
        """Receive the values of a pull where its caller wants them."""
        if len(sizes) == 1:
            message = self._codec.peek(head)
            if isinstance(message, Values) and not message.coding:
                target = self.client.place(source, message, sizes[0])
                if target is not None:
                    return [target]
        return None

    def perform(self, effect: Effect) -> None:
        """Note that a push or pull is finished; whoever awaits it can go on."""
        if not isinstance(effect, Finished):
            super().perform(effect)
            return
        pending, result = self._pending.pop(effect.timestamp), effect.result
        pending.clocks = effect.clocks
        self._finish(pending, result if result is None else flatten(result))
        worker = pending.worker
        self._open[worker] -= 1
        if worker in self._returns and not self._open[worker]:
            self._return(worker, self._returns.pop(worker))

    def _drop(self, worker: int) -> None:
        """Act for a logical worker no longer, and forget what it has begun."""
        if worker not in self._workers:
            return
        running = self._running.pop(worker, None)
        if running is not None:
            self._ready = deque(one for one in self._ready if one is not running)
            running.coroutine.close()
        for pending in [p for p in self._pending.values() if p.worker == worker]:
            del self._pending[pending.timestamp]
        for _, _, pending in self._alarms:
            if pending.worker == worker:
                pending.waiter = None
        self._returns.pop(worker, None)
        self._calls.forget(worker)
        self.client.abandon(worker)
        self._asking.abandon(worker)
        del self._workers[worker], self._apps[worker], self._open[worker]

    def _act_for(self, mine: list[int]) -> None:
        """Make what logical workers need: their part of the data, and an app."""
        shards = open_shards(self.config, mine)
        for worker in mine:
            self._workers[worker] = Worker(self, worker, shards.get(worker))
            self._apps[worker] = self.kind(self.job)
            self._open[worker] = 0

    async def _recover_first(
        self,
        worker: Worker,
        takeover: Takeover,
        todo: Callable[[], Coroutine[Pending, None, Any]],
    ) -> Any:
        """Have the app make again what earlier calls have left, then do the call."""
        worker.may_push = False
        app, calls = self._apps[worker.id], takeover.calls
        if takeover.checkpoint:
            from mpips.files.checkpoint import load_checkpoint

            found = load_checkpoint(Path(takeover.checkpoint), check=False)
            await app.restore(worker, calls, found.state(worker.id))
        else:
            await app.recover(worker, calls)
        worker.may_push = True
        return await todo()

    @property
    def due(self) -> float:
        """Return when the first of those who sleep wants to go on; never: infinity."""
        return min(super().due, self._alarms[0][0] if self._alarms else math.inf)

    def work(self) -> bool:
        """Run every coroutine that can go on, up to where it waits."""
        while self._alarms and self.due <= self.clock():
            self._finish(heapq.heappop(self._alarms)[2], None)
        if not self._ready:
            return False
        for _ in range(len(self._ready)):
            running = self._ready.popleft()
            worker = running.call.worker
            try:
                pending = running.coroutine.send(None)
            except StopIteration as stop:
                if self._open[worker]:
                    self._returns[worker] = stop.value
                else:
                    self._return(worker, stop.value)
                continue
            pending.waiter = running
        return True

    def _return(self, worker: int, result: Any) -> None:
        call = self._running.pop(worker).call
        self.answer(call.request, result, self.client.positions(worker))

    def watch(self, worker: int, timestamp: int, effects: list[Effect]) -> Pending:
        """Return what a logical worker awaits for a push or pull, started with these effects."""
        pending = self._pending[timestamp] = Pending(timestamp, worker)
        self._open[worker] += 1
        self.carry_out(effects)
        return pending

    def ask(self, worker: int, group: str, function: str, arguments: dict[str, Any]) -> Pending:
        """Return what a logical worker awaits for the results of a function on other nodes."""
        assert self._view is not None
        timestamp, effects = self._asking.begin(worker, group, function, arguments, self._view)
        return self.watch(worker, timestamp, effects)

    def nodes(self, group: str) -> list[str]:
        """Return the names of the nodes of a group, as of this node's view."""
        assert self._view is not None
        return self._asking.nodes(group, self._view)

    def _tell(self, source: int, ask: Ask) -> None:
        """Answer the call of another worker, for all logical workers that this node acts for."""
        results = [(one, self._run_asked(one, ask)) for one in sorted(self._workers)]
        incarnation = self._members[self.transport.node]
        told = Told(epoch=self._epoch, incarnation=incarnation, request=ask.request, result=results)
        self.send(source, told)

    def _run_asked(self, worker: int, ask: Ask) -> Any:
        """Return what a function of the app gives, which may be asked at any time."""
        asked = self._workers[worker]
        before, asked.is_asked = asked.is_asked, True
        try:
            result = getattr(self._apps[worker], ask.function)(asked, **ask.arguments)
        finally:
            asked.is_asked = before
        if iscoroutine(result):
            result.close()
            what = f"your app's {ask.function} awaits, and a worker calls it on workers"
            raise AppError(what, self.name(), "Make it def instead of async def.")
        return result

    def alarm(self, worker: int, seconds: float) -> Pending:
        """Return what a logical worker awaits to sleep for so many seconds."""
        pending = Pending(0, worker)
        self._alarm += 1
        heapq.heappush(self._alarms, (self.clock() + seconds, self._alarm, pending))
        return pending

    def report(self, worker: int, facts: dict[str, float]) -> None:
        """Send a logical worker's progress to the scheduler."""
        self._reports += 1
        progress = Progress(epoch=self._epoch, worker=worker, facts=facts, number=self._reports)
        self.send(self.scheduler, progress)

    def table_index(self, name: str) -> int:
        """Return a table's index.

        Raises:
            ValueError: there is no such table.
        """
        if name not in self._names:
            raise ValueError(f"there is no table {name}; there are {', '.join(self._names)}")
        return self._names[name]

    def _finish(self, pending: Pending, result: Any) -> None:
        pending.finish(result)
        if pending.waiter is not None:
            self._ready.append(pending.waiter)

    def counters(self) -> dict[str, int]:
        """Return the client's counters."""
        return {f"worker_{name}": count for name, count in self.client.statistics().items()}


def flatten(result: Any) -> Any:
    """Return the values of a pull as apps want them: a width of 1 is no axis.

    >>> flatten(np.zeros((3, 1))).shape
    (3,)
    """
    if isinstance(result, tuple):
        return tuple(flatten(part) for part in result)
    if isinstance(result, np.ndarray) and result.ndim == 2 and result.shape[1] == 1:
        return result[:, 0]
    return result
