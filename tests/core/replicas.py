"""Servers with copies of each other's segments, and a client: a test delivers their messages."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mpips.core.client import ClientMachine
from mpips.core.machine import Effect, Finished, Send
from mpips.core.membership import admit, fail_over
from mpips.core.server import ServerMachine
from mpips.store.table import make_store
from mpips.wire.messages import Joined, Message, PushAck
from mpips.wire.types import NOBODY, Member, Table, View, make_epoch
from tests.core.schedules import History

SCHEDULER, CLIENT = 0, 9
Letter = tuple[int, int, Message]
"""Source, dest and message."""

DENSE = Table(name="w", size=8, segments=2, update=History)
SPARSE = Table(name="w", kind="sparse", segments=4, update=History)
SUMS = Table(name="w", size=8, segments=2, aggregate=True, mode="sequential")
BOUNDED = Table(name="w", size=8, segments=2, mode="bounded", max_delay=0)
ALL = (0, 8)


def make_view(
    owners: Sequence[int],
    copies: Sequence[Sequence[int]],
    joining: Sequence[Sequence[int]] = (),
    *,
    counter: int = 1,
    since: Sequence[int] = (),
    servers: Sequence[int] = (1, 2, 3),
    streams: int = 2,
) -> View:
    """Return a view of one table; `since` are counters of epochs, by default the first."""
    first, columns = make_epoch(1, 0), max(map(len, (*copies, *joining)), default=0)
    members = [Member(SCHEDULER, "scheduler", "", first)]
    members += [Member(node, "server", f"host{node}", first) for node in servers]
    members.append(Member(CLIENT, "worker", "", first))

    def fill(parts: Sequence[Sequence[int]]) -> np.ndarray:
        filled = np.full((len(owners), columns), NOBODY, np.int32)
        for row, nodes in zip(filled, parts, strict=False):
            row[: len(nodes)] = nodes
        return filled

    return View(
        epoch=make_epoch(counter, 0),
        members=tuple(members),
        owners=(np.array(owners, np.int32),),
        actors=(CLIENT,) * streams,
        copies=(fill(copies),),
        joining=(fill(joining),),
        since=(np.array([make_epoch(c, 0) for c in since or [1] * len(owners)], np.int64),),
    )


class Group:
    """Server machines, and a client machine with all logical workers.

    Attributes:
        letters: what was sent and not delivered, in the order of sending.
        finished: the results of finished tasks, by timestamp.
        joined: what owners have told the scheduler.
        acks: how many acks were sent.
    """

    def __init__(self, table: Table, view: View, streams: int = 2) -> None:
        self.table, self.view = table, view
        self.letters: list[Letter] = []
        self.finished: dict[int, Any] = {}
        self.joined: list[Joined] = []
        self.acks = 0
        self.servers: dict[int, ServerMachine] = {
            node: ServerMachine(node, [make_store(table)], streams) for node in view.nodes("server")
        }
        update = self.servers[1].stores[0].update
        self.client = ClientMachine(CLIENT, [table], [(update.push_width, update.pull_width)])
        self.announce(view)

    def announce(self, view: View, *nodes: int) -> None:
        """Let nodes, by default all, have a view."""
        self.view = view
        for node in nodes or (*self.servers, CLIENT):
            machine = self.client if node == CLIENT else self.servers[node]
            self._note(node, machine.install(view))

    def push(self, where: Any, value: float, stream: int = 0, **more: Any) -> int:
        """Start a push of one value to all keys, and return its timestamp."""
        count = where[1] - where[0] if isinstance(where, tuple) else len(where)
        values = np.full((count, self.table.width), value)
        timestamp, effects = self.client.start(0, stream, where, values, **more)
        self._note(CLIENT, effects)
        return timestamp

    def pull(self, where: Any, stream: int = 0) -> int:
        """Start a pull, and return its timestamp."""
        timestamp, effects = self.client.start(0, stream, where, pull=True)
        self._note(CLIENT, effects)
        return timestamp

    def find(
        self, kind: type[Message] = Message, source: int | None = None, dest: int | None = None
    ) -> list[Letter]:
        """Return the letters of a kind, from and to somebody."""
        return [
            letter
            for letter in self.letters
            if isinstance(letter[2], kind)
            and source in (None, letter[0])
            and dest in (None, letter[1])
        ]

    def deliver(self, *letters: Letter, keep: bool = False) -> None:
        """Deliver letters; `keep` those that shall come again."""
        for letter in letters:
            if not keep:
                self.letters = [other for other in self.letters if other is not letter]
            source, dest, message = letter
            if dest == SCHEDULER:
                assert isinstance(message, Joined)
                self.joined.append(message)
            elif dest == CLIENT:
                self._note(CLIENT, self.client.step(0.0, source, message))
            elif dest in self.servers:
                self._note(dest, self.servers[dest].step(0.0, source, message))

    def deliver_all(self, rng: np.random.Generator | None = None, repeat: float = 0.0) -> None:
        """Deliver letters until there are none, in an order of chance if there is one."""
        while self.letters:
            at = 0 if rng is None else int(rng.integers(len(self.letters)))
            keep = rng is not None and rng.random() < repeat
            self.deliver(self.letters[at], keep=keep)

    def kill(self, *nodes: int, keep: bool = True) -> View:
        """Let servers die; what they have sent still comes, or not. Return the view that follows.

        Nobody has it yet.
        """
        for node in nodes:
            del self.servers[node]
        self.letters = [
            letter
            for letter in self.letters
            if letter[1] not in nodes and (keep or letter[0] not in nodes)
        ]
        change = fail_over(self.view, self.next_epoch(), nodes, "replace")
        assert change.lost == []
        return change.view

    def admit(self) -> View:
        """Return the view in which what has joined is in sync; nobody has it yet."""
        joins: dict[tuple[int, int], set[int]] = {}
        for message in self.joined:
            joins.setdefault((message.table, message.copy), set()).update(message.segments)
        self.joined = []
        return admit(self.view, self.next_epoch(), joins)

    def next_epoch(self) -> int:
        """Return the epoch of the next view."""
        return self.view.epoch + make_epoch(1, 0)

    def state(self, node: int, segment: int) -> tuple[int, list[int], bytes]:
        """Return what a server has of a segment: log number, numbers by stream, keys and rows."""
        held = self.servers[node]._held[0]
        keys, rows = held.store.snapshot(segment)
        at = b"" if keys is None else keys.tobytes()
        return held.logs[segment], held.applied[segment], at + rows.tobytes()

    def values(self, node: int, segment: int) -> list[float]:
        """Return the values of a segment that a server has."""
        _, rows = self.servers[node].stores[0].snapshot(segment)
        return [float(row[0]) for row in rows]

    def check_copies(self) -> None:
        """Require that all copies in sync have what their owners have."""
        for segment, owner in enumerate(self.view.owners[0].tolist()):
            for copy in self.view.copies[0][segment].tolist():
                if copy != NOBODY:
                    assert self.state(copy, segment) == self.state(owner, segment), segment

    def _note(self, node: int, effects: list[Effect]) -> None:
        machine = self.client if node == CLIENT else self.servers[node]
        machine.validate()
        for effect in effects:
            match effect:
                case Send(dest=dest, message=message):
                    self.acks += isinstance(message, PushAck)
                    self.letters.append((node, dest, message))
                case Finished(timestamp=timestamp, result=result):
                    assert timestamp not in self.finished
                    self.finished[timestamp] = result


def make_group(table: Table = DENSE, copies: int = 1, streams: int = 2) -> Group:
    """Return servers of which the first owns all segments, and the next ones have the copies."""
    segments = table.segments
    nodes = range(1, 2 + max(copies, 1))
    sync = [list(nodes)[1 : 1 + copies]] * segments
    return Group(table, make_view([1] * segments, sync, servers=nodes, streams=streams), streams)
