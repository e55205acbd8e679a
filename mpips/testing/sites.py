"""Nodes of small clusters without transport or event loop: machines, and a script for workers.

A site does what `Member` does with messages: it parks what is newer than its view, and refuses
what comes from nodes that are not in it. It can be copied at any point, so that an explorer can go
on from there in more ways than one.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from mpips.core.client import ClientMachine
from mpips.core.machine import Effect, Finished, Send
from mpips.core.scheduler import SchedulerMachine
from mpips.core.server import ServerMachine
from mpips.store.table import make_store
from mpips.wire.messages import Call, Message, NewView, Return, Start
from mpips.wire.types import Table, View

SCHEDULER: Final = 0
BASE: Final = 8
"""A push adds a power of this to each of its keys, its own: the digits tell how often it did."""

Letters = list[tuple[int, Message]]
"""Messages to send, with their destinations."""


class Violation(AssertionError):
    """A promise of the protocol does not hold."""


def digits(value: float, pushes: int) -> list[int]:
    """Return how often each push is in a value.

    >>> digits(1 + 2 * 8.0, 3)
    [1, 2, 0]
    """
    return [int(value // BASE**push) % BASE for push in range(pushes)]


class Site(ABC):
    """A node of any role but the scheduler's.

    Attributes:
        epoch: of its view.
        acked: by stream and number: pushes that its last step has seen acknowledged.
    """

    def __init__(self, node: int, tables: Sequence[Table], workers: int) -> None:
        self.node, self.tables, self.workers = node, tables, workers
        self.epoch = 0
        self.acked: list[tuple[int, int]] = []
        self._members: dict[int, int] = {}
        self._later: list[tuple[int, Message]] = []

    def receive(self, source: int, message: Message) -> Letters:
        """Take a message and return what it makes this node send."""
        if isinstance(message, Start | NewView):
            return self._enter(message.view) if message.epoch > self.epoch else []
        if message.epoch > self.epoch:
            self._later.append((source, message))
            return []
        return self.take(source, message) if self.admits(source, message) else []

    def admits(self, source: int, message: Message) -> bool:
        """Return whether the sender is what its view says."""
        appointed = self._members.get(source)
        return appointed is not None and (source == SCHEDULER or message.incarnation >= appointed)

    def is_deaf_to(self, source: int, message: Message) -> bool:
        """Return whether a message will never have an effect here."""
        if isinstance(message, Start | NewView):
            return message.epoch <= self.epoch
        return self.epoch > 0 and message.epoch <= self.epoch and not self.admits(source, message)

    def _enter(self, view: View) -> Letters:
        """Go on in a new view, with what has waited for it."""
        self.epoch = view.epoch
        self._members = {member.node: member.incarnation for member in view.members}
        if self.node not in self._members:
            return []
        letters = self.install(view)
        later, self._later = self._later, []
        for source, message in later:
            letters += self.receive(source, message)
        return letters

    @abstractmethod
    def install(self, view: View) -> Letters:
        """Go on in a new view."""

    @abstractmethod
    def take(self, source: int, message: Message) -> Letters:
        """Take a message of the present view, or of an earlier one."""


class ServerSite(Site):
    """A server, or a spare until it is one."""

    kind: type[ServerMachine] = ServerMachine
    machine: ServerMachine | None = None

    def install(self, view: View) -> Letters:
        """Step the machine."""
        member = view.member(self.node)
        if member is None or member.role != "server":
            return []
        if self.machine is None:
            stores = [make_store(table) for table in self.tables]
            self.machine = self.kind(self.node, stores, self.workers)
        return self._letters(self.machine.install(view))

    def take(self, source: int, message: Message) -> Letters:
        """Step the machine."""
        if isinstance(message, Call) or self.machine is None:
            return []
        return self._letters(self.machine.step(0.0, source, message))

    def _letters(self, effects: Iterable[Effect]) -> Letters:
        assert self.machine is not None
        self.machine.validate()
        return [(effect.dest, effect.message) for effect in effects if isinstance(effect, Send)]


@dataclass
class Running:
    """A call of a logical worker: the request, the place in its script, and what is open."""

    request: int
    at: int = 0
    open: dict[int, int] = field(default_factory=dict)


class WorkerSite(Site):
    """A worker whose calls follow a script: "push", "pull", and "wait" for all that is open.

    Push n of logical worker w adds `BASE ** (w * pushes + n - 1)` to each key.

    Args:
        script: of each call.
        sure: the logical workers whose pushes a pull of a sequential table must contain.
        answers: whether calls are answered; else the task never ends.
    """

    kind: type[ClientMachine] = ClientMachine

    def __init__(
        self,
        node: int,
        tables: Sequence[Table],
        workers: int,
        script: Sequence[str],
        sure: Sequence[int] = (),
        answers: bool = True,
    ) -> None:
        super().__init__(node, tables, workers)
        self.machine = self.kind(node, tables, [(1, 1)] * len(tables))
        self._script, self._sure, self._answers = script, sure, answers
        self.running: dict[int, Running] = {}

    @property
    def is_done(self) -> bool:
        """Return whether all calls have come to their ends."""
        return not self.running

    def install(self, view: View) -> Letters:
        """Step the client."""
        return self._letters(self.machine.install(view))

    def take(self, source: int, message: Message) -> Letters:
        """Begin a call, or step the client."""
        if not isinstance(message, Call):
            return self._letters(self.machine.step(0.0, source, message))
        if message.takeover is not None:
            self.machine.take_over(message.worker, message.takeover.streams)
        self.running[message.worker] = Running(message.request)
        return self._go_on(message.worker)

    def _go_on(self, worker: int) -> Letters:
        """Follow the script until something has to be awaited."""
        call, letters = self.running[worker], Letters()
        while call.at < len(self._script) and (self._script[call.at] != "wait" or not call.open):
            word = self._script[call.at]
            call.at += 1
            if word != "wait":
                letters += self._start(worker, call, is_push=word == "push")
        if call.open or call.at < len(self._script):
            return letters
        del self.running[worker]
        if self._answers:
            streams = self.machine.positions(worker)
            answer = Return(epoch=self.epoch, request=call.request, result=None, streams=streams)
            letters.append((SCHEDULER, answer))
        return letters

    def _start(self, worker: int, call: Running, is_push: bool) -> Letters:
        """Start a push or pull of the whole table."""
        table = self.tables[0]
        ((number, _),) = self.machine.positions(worker)
        values = None
        if is_push:
            number += 1
            digit = worker * self._script.count("push") + number - 1
            values = np.full((table.size, 1), float(BASE**digit))
        timestamp, effects = self.machine.start(
            0, worker, (0, table.size), values, pull=not is_push
        )
        # What is open: the number of a push, or how many were there before a pull.
        call.open[timestamp] = number if is_push else -number
        return self._letters(effects)

    def _letters(self, effects: Iterable[Effect]) -> Letters:
        """Return what is sent, and note what is finished."""
        letters, finished = Letters(), deque(effects)
        while finished:
            effect = finished.popleft()
            if isinstance(effect, Send):
                letters.append((effect.dest, effect.message))
            elif isinstance(effect, Finished):
                letters += self._finish(effect)
        self.machine.validate()
        return letters

    def _finish(self, effect: Finished) -> Letters:
        at = effect.timestamp
        worker = next(worker for worker, call in self.running.items() if at in call.open)
        number = self.running[worker].open.pop(at)
        if effect.result is None:
            self.acked.append((worker, number))
        elif self.tables[0].mode == "sequential":
            self._check_read(effect.result, -number)
        return self._go_on(worker)

    def _check_read(self, values: np.ndarray, number: int) -> None:
        """Require all pushes up to a number in what was read, and none twice."""
        pushes = self._script.count("push")
        for value in values[:, 0].tolist():
            found = digits(value, pushes * self.workers)
            for worker in self._sure:
                mine = found[worker * pushes : (worker + 1) * pushes]
                # Who does a call again may see what it had pushed later.
                if mine[:number] != [1] * number or max(mine) > 1:
                    raise Violation(f"a pull after push {number} has {mine} of worker {worker}")


class SchedulerSite:
    """The scheduler.

    Attributes:
        machine: the real one.
    """

    def __init__(self, machine: SchedulerMachine) -> None:
        self.machine = machine

    @property
    def is_over(self) -> bool:
        """Return whether the job has ended, well or not."""
        return self.machine.state in ("stopping", "ended")

    def receive(self, source: int, message: Message) -> Letters:
        """Step the machine."""
        return self._letters(self.machine.step(0.0, source, message))

    def lose(self, nodes: Iterable[int]) -> Letters:
        """Learn that nodes have died."""
        return self._letters(self.machine.lose(0.0, list(nodes)))

    def tick(self) -> Letters:
        """See the time pass."""
        return self._letters(self.machine.tick(0.0))

    def _letters(self, effects: Iterable[Effect]) -> Letters:
        self.machine.validate()
        return [(effect.dest, effect.message) for effect in effects if isinstance(effect, Send)]
