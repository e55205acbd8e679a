"""Client and server machines joined by a pool of messages, which come in any order, and twice."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mpips.core.client import ClientMachine
from mpips.core.machine import Effect, Finished, Send
from mpips.core.ring import place
from mpips.core.server import ServerMachine
from mpips.filters.chain import FilterChain
from mpips.store.table import make_store
from mpips.wire.frame import Codec
from mpips.wire.messages import Message, Pull, Push
from mpips.wire.types import KeyArray, Table, View, make_epoch

Ticket = tuple[int, int]
Program = Iterator[Ticket | None]


class Violation(AssertionError):
    """A promise of the protocol was broken."""


@dataclass
class Shape:
    """How many of everything a world has, and how bad its network is.

    Attributes:
        duplicates: the chance that a message, when it is delivered, will come once more.
        frames: whether messages travel as bytes, through a filter chain.
    """

    streams: int
    clients: int
    servers: int
    duplicates: float = 0.2
    frames: bool = False


@dataclass
class World:
    """One table, its servers, and clients with logical workers on them.

    Attributes:
        results: what finished tasks gave, by ticket: client and timestamp.
        on_finish: called with each ticket when it is finished.
        asked: how often each request reached a server; answered: how often it was answered.
    """

    rng: np.random.Generator
    table: Table
    shape: Shape
    server: type[ServerMachine] = ServerMachine
    client: type[ClientMachine] = ClientMachine
    results: dict[Ticket, Any] = field(default_factory=dict)
    on_finish: Callable[[Ticket], None] = lambda ticket: None
    asked: Counter[tuple[int, int]] = field(default_factory=Counter)
    answered: Counter[tuple[int, int]] = field(default_factory=Counter)
    pool: list[tuple[int, int, Message]] = field(default_factory=list)

    def __post_init__(self) -> None:
        nodes = list(range(1, self.shape.servers + 1))
        self.owners = place(0, self.table.segments, nodes)
        view = View(make_epoch(1, 0), (), (self.owners,), ())
        stores = {node: make_store(self.table) for node in nodes}
        self.servers = {
            node: self.server(node, [store], self.shape.streams) for node, store in stores.items()
        }
        update = stores[1].update
        widths = [(update.push_width, update.pull_width)]
        first = self.shape.servers + 1
        self.clients = {
            node: self.client(node, [self.table], widths)
            for node in range(first, first + self.shape.clients)
        }
        for machine in (*self.servers.values(), *self.clients.values()):
            machine.install(view)
        self._chain, self._codec = FilterChain(["lz4"]), Codec()

    def start(self, stream: int, where: Any, values: Any = None, **more: Any) -> Ticket:
        """Start a task of a logical worker."""
        node = self.shape.servers + 1 + stream % self.shape.clients
        after = [timestamp for _, timestamp in more.pop("after", ())]
        machine = self.clients[node]
        timestamp, effects = machine.start(0, stream, where, values, after=after, **more)
        self._carry_out(node, effects)
        machine.validate()
        return node, timestamp

    def deliver(self) -> None:
        """Deliver one message of the pool, and perhaps keep it for another time."""
        at = int(self.rng.integers(len(self.pool)))
        source, dest, message = self.pool[at]
        if self.rng.random() >= self.shape.duplicates:
            self.pool[at] = self.pool[-1]
            self.pool.pop()
        machine = self.servers.get(dest) or self.clients[dest]
        if isinstance(message, Push | Pull):
            self.asked[source, message.request] += 1
        self._carry_out(dest, machine.step(0.0, source, message))
        machine.validate()

    def run(self, programs: list[Program]) -> None:
        """Run all programs to their ends, in an order of chance, and deliver all messages.

        A program yields the ticket that it waits for, or None to let others go first.
        """
        waiting: dict[int, Ticket | None] = dict.fromkeys(range(len(programs)))
        while waiting or self.pool:
            ready = [n for n, ticket in waiting.items() if ticket is None or ticket in self.results]
            if not ready and not self.pool:
                raise Violation(f"the world stands still, waiting for {waiting}")
            if self.pool and (not ready or self.rng.random() < 0.8):
                self.deliver()
                continue
            chosen = ready[int(self.rng.integers(len(ready)))]
            try:
                waiting[chosen] = next(programs[chosen])
            except StopIteration:
                del waiting[chosen]
        self._check_end()

    def peek(self, keys: KeyArray) -> np.ndarray:
        """Return the values that the owners have now, `(n, pull width)`."""
        parts = []
        for key in keys:
            segment = int(key) // self.table.segment_size
            store = self.servers[int(self.owners[segment])].stores[0]
            out = np.empty((1, store.update.pull_width), store.dtype)
            store.read_keys(np.array([key], np.uint64), out)
            parts.append(out)
        return np.concatenate(parts)

    def count(self, name: str) -> int:
        """Return a counter of the servers, summed."""
        return sum(machine.statistics()[name] for machine in self.servers.values())

    def _carry_out(self, node: int, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Finished(timestamp=timestamp, result=result):
                    if (node, timestamp) in self.results:
                        raise Violation(f"task {timestamp} of node {node} is finished twice")
                    self.results[node, timestamp] = result
                    self.on_finish((node, timestamp))
                case Send(dest=dest, message=message):
                    if node in self.servers:
                        self.answered[dest, message.request] += 1  # type: ignore[attr-defined]
                    self.pool.append((node, dest, self._travel(message)))
                case _:
                    raise Violation(f"an effect {effect}")

    def _travel(self, message: Message) -> Message:
        """Return what comes out at the other end."""
        if not self.shape.frames:
            return message
        head, arrays = self._codec.encode(self._chain.encode(message))
        payload = [array.reshape(-1).view(np.uint8).copy() for array in arrays]
        return self._chain.decode(self._codec.decode(head, payload))

    def _check_end(self) -> None:
        """Require that nothing is left over, and that every request was answered each time."""
        if self.asked != self.answered:
            raise Violation(f"requests {self.asked - self.answered} are not answered each time")
        for machine in self.servers.values():
            if machine.statistics()["waiting"]:
                raise Violation(f"server {machine.node} still holds pulls back")
        for client in self.clients.values():
            if client.statistics()["open_tasks"]:
                raise Violation(f"client {client.node} still has open tasks")


def draw_shape(rng: np.random.Generator) -> Shape:
    """Return a small world's shape."""
    streams = int(rng.integers(1, 5))
    return Shape(
        streams=streams,
        clients=int(rng.integers(1, streams + 1)),
        servers=int(rng.integers(1, 4)),
        duplicates=float(rng.choice([0.0, 0.2, 0.5])),
        frames=bool(rng.random() < 0.3),
    )


def draw_keys(rng: np.random.Generator, pool: KeyArray, least: int = 0) -> KeyArray:
    """Return some keys of a pool, sorted."""
    if len(pool) < least or not len(pool):
        return pool[:0]
    count = int(rng.integers(min(least, len(pool)), len(pool) + 1))
    return np.sort(rng.choice(pool, count, replace=False))


def draw_table(rng: np.random.Generator, **more: Any) -> tuple[Table, KeyArray]:
    """Return a small table, and the keys that its schedules are about."""
    if rng.random() < 0.5:
        size = int(rng.integers(1, 40))
        segments = int(rng.integers(1, 9))
        table = Table(name="d", size=size, segments=segments, **more)
        return table, np.arange(size, dtype=np.uint64)
    table = Table(name="s", kind="sparse", segments=int(rng.integers(2, 9)), **more)
    ends = np.array([0, 1, 2**63, 2**64 - 1], np.uint64)
    middle = rng.integers(0, 2**64, 10, dtype=np.uint64, endpoint=False)
    return table, np.array(sorted({*ends.tolist(), *middle.tolist()}), np.uint64)
