"""A client and some servers whose messages a test delivers one by one."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mpips.core.client import ClientMachine
from mpips.core.machine import Effect, Finished, Send
from mpips.core.ring import place
from mpips.core.server import ServerMachine
from mpips.store.table import make_store
from mpips.wire.messages import Message
from mpips.wire.types import Table, View, make_epoch

Letter = tuple[int, int, Message]
"""Source, dest and message."""


@dataclass
class Cast:
    """One node with some logical workers, and servers with one table.

    Attributes:
        letters: what was sent and not delivered, in the order of sending.
        finished: the results of finished tasks, by timestamp.
        clocks: likewise, the clocks of pulls.
    """

    table: Table
    servers: int = 1
    workers: int = 1
    letters: list[Letter] = field(default_factory=list)
    finished: dict[int, Any] = field(default_factory=dict)
    clocks: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        nodes = list(range(1, self.servers + 1))
        self.owners = place(0, self.table.segments, nodes)
        view = View(make_epoch(1, 0), (), (self.owners,), ())
        self.machines = {
            node: ServerMachine(node, [make_store(self.table)], self.workers) for node in nodes
        }
        width = self.table.width
        self.client = ClientMachine(0, [self.table], [(width, width)])
        for machine in (self.client, *self.machines.values()):
            machine.install(view)

    def push(self, where: Any, value: Any, worker: int = 0, **more: Any) -> int:
        """Start a push of one value to all keys, or of an array; return its timestamp."""
        count = where[1] - where[0] if isinstance(where, tuple) else len(where)
        values = np.broadcast_to(np.asarray(value, float).reshape(-1, 1), (count, 1)).copy()
        timestamp, effects = self.client.start(0, worker, where, values, **more)
        self._note(0, effects)
        return timestamp

    def push_pull(self, where: Any, value: Any, worker: int = 0) -> int:
        """Start a push that pulls what it gives; return its timestamp."""
        return self.push(where, value, worker, pull=True)

    def pull(self, where: Any, worker: int = 0, **more: Any) -> int:
        """Start a pull and return its timestamp."""
        timestamp, effects = self.client.start(0, worker, where, pull=True, **more)
        self._note(0, effects)
        return timestamp

    def deliver(self, letter: Letter | None = None, keep: bool = False) -> Letter:
        """Deliver a letter, the oldest by default; `keep` it if it shall come again."""
        letter = letter or self.letters[0]
        if not keep:
            self.letters = [other for other in self.letters if other is not letter]
        source, dest, message = letter
        machine = self.machines.get(dest) or self.client
        self._note(dest, machine.step(0.0, source, message))
        return letter

    def deliver_all(self) -> None:
        """Deliver letters until there are none."""
        while self.letters:
            self.deliver()

    def read(self, key: int) -> float:
        """Return the value that the owner of a key has."""
        owner = int(self.owners[key // self.table.segment_size])
        out = np.empty((1, 1))
        self.machines[owner].stores[0].read_keys(np.array([key], np.uint64), out)
        return float(out[0, 0])

    def _note(self, node: int, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(dest=dest, message=message):
                    self.letters.append((node, dest, message))
                case Finished(timestamp=timestamp, result=result, clocks=clocks):
                    assert timestamp not in self.finished
                    self.clocks[timestamp] = clocks
                    self.finished[timestamp] = result
