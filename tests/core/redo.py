"""Calls of logical workers in a cluster that loses nodes, with an oracle that knows the outcome.

Each logical worker has a script: calls, each of a few pushes and pulls that are the same whenever
the call is done. A call ends when its pushes and pulls are finished, and the next one begins when
all logical workers' have ended. If its node dies, or now and then while it is still alive, another
node does the call from its beginning; what is finished first counts.
"""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from mpips.core.slicing import Range
from mpips.wire.types import KeyArray, Table
from tests.core.failovers import Cluster, draw_sizes
from tests.core.schedules import draw_range
from tests.core.world import Violation, draw_keys


def inside(keys: KeyArray, where: Range) -> np.ndarray:
    """Return the places of the keys that are in a range; its end may be 2**64."""
    first, last = np.searchsorted(keys, [np.uint64(where[0])]), len(keys)
    if where[1] < 2**64:
        last = int(np.searchsorted(keys, np.uint64(where[1])))
    return np.arange(int(first[0]), max(int(first[0]), last))


@dataclass
class Op:
    """A push, a pull, or both.

    Attributes:
        where: its keys; `at` are their places among those of the schedule.
        count: of pushes of the script up to here, this one included.
        waits: whether the script goes on when this is finished.
        after: places in the call of what has to be finished before.
    """

    where: KeyArray | Range
    at: np.ndarray
    values: np.ndarray | None
    pull: bool
    count: int
    waits: bool
    after: list[int]
    clock: int = 0
    within: Range | None = None


@dataclass
class Attempt:
    """A node that does a logical worker's call.

    Attributes:
        script: of the call.
        epoch: of the view that it needs before it may begin.
        low: what was acknowledged when the call was given out; `mine`: what to itself, since.
        takes_over: number and clock to begin from, if somebody else has acted before.
        begun: how many of the script's entries have begun.
        open: of these, by timestamp, what is not finished, with the least that it may see.
        is_ghost: whether nobody listens to it any more.
    """

    stream: int
    node: int
    script: list[Op]
    epoch: int
    low: np.ndarray
    mine: np.ndarray
    takes_over: list[tuple[int, int]] | None
    tickets: list[int] = field(default_factory=list)
    open: dict[int, tuple[Op, np.ndarray]] = field(default_factory=dict)
    is_ghost: bool = False


class RedoSchedule:
    """Runs scripts; what they are, and what must come out, is the business of those below."""

    kind: ClassVar[int]

    def __init__(self, seed: int, **machines: Any) -> None:
        self.rng = rng = np.random.default_rng([seed, self.kind])
        self.sizes = draw_sizes(rng)
        self.table, self.keys = self.draw_table()
        self.cluster = Cluster(rng, self.table, self.sizes, **machines)
        self.cluster.on_finish = self.note
        streams = range(self.sizes.streams)
        self.scripts = self.draw_scripts(int(rng.integers(1, 4)))
        # By logical worker: how many pushes have begun; by key, too: how many are acknowledged.
        self.begun = np.zeros(len(streams), np.int64)
        self.acked = np.zeros((len(self.keys), len(streams)), np.int64)
        self.call, self.done = -1, set(streams)
        self.positions: list[list[tuple[int, int]]] = [[] for _ in streams]
        # Who should act for each logical worker, and who knows how far it is.
        self.actors = list(self.cluster.view.actors)
        self.knowing = list(self.actors)
        self.attempts: list[Attempt] = []
        self.mishaps = self.sizes.mishaps

    # -- What kinds of schedules decide ----------------------------------------------------------

    @abstractmethod
    def draw_table(self) -> tuple[Table, KeyArray]:
        """Return a table and the keys that the schedule is about."""

    @abstractmethod
    def draw_scripts(self, calls: int) -> list[list[list[Op]]]:
        """Return the calls of each logical worker."""

    @abstractmethod
    def check_push(self, attempt: Attempt, op: Op) -> None:
        """Note a finished push, and require that the owners have it."""

    @abstractmethod
    def check_pull(self, attempt: Attempt, op: Op, low: np.ndarray, result: Any) -> None:
        """Require that what was pulled makes sense."""

    @abstractmethod
    def check_values(self) -> None:
        """Require that in the end all is there that was pushed, once."""

    def draw_where(self, share: float) -> tuple[KeyArray | Range, np.ndarray]:
        """Return keys and their places; a share of them are ranges."""
        if self.rng.random() < share:
            within = draw_range(self.rng, self.table)
            return within, inside(self.keys, within)
        keys = draw_keys(self.rng, self.keys)
        return keys, np.searchsorted(self.keys, keys)

    # -- Running ---------------------------------------------------------------------------------

    def run(self) -> Cluster:
        """Run the schedule and check all that it gives."""
        cluster, rng, calls = self.cluster, self.rng, len(self.scripts[0])
        while True:
            chance = rng.random()
            has_ended = len(self.done) == self.sizes.streams
            if self.mishaps and chance < 0.04:
                self.mishaps -= 1
                self.change_actors(cluster.mishap())
            elif chance < 0.05:
                self.double(int(rng.integers(self.sizes.streams)))
            elif cluster.joins and chance < 0.15:
                cluster.admit()
            elif has_ended and self.call < calls - 1:
                self.begin_call()
            elif (chance < 0.4 or not cluster.pool) and self.advance_one():
                continue
            elif cluster.pool:
                cluster.deliver()
            elif cluster.late:
                cluster.flush()
            elif not cluster.joins and has_ended:
                break
            elif not cluster.joins and not self.mishaps:
                raise Violation(f"the cluster stands still in call {self.call}: {self.attempts}")
        cluster.check_end()
        self.check_values()
        return cluster

    def begin_call(self) -> None:
        """Give the next call of all logical workers out."""
        self.call += 1
        self.done.clear()
        for stream, node in enumerate(self.actors):
            self.give(stream, node, self.knowing[stream] != node)
            self.knowing[stream] = node

    def give(self, stream: int, node: int, takes_over: bool) -> None:
        """Let a node do a logical worker's call."""
        script, epoch = self.scripts[stream][self.call], self.cluster.view.epoch
        positions = list(self.positions[stream]) if takes_over else None
        low = self.acked.copy()
        mine = low[:, stream].copy()
        self.attempts.append(Attempt(stream, node, script, epoch, low, mine, positions))

    def change_actors(self, moved: dict[int, int]) -> None:
        """Take note of who has died, or was left behind, and of who acts in its place."""
        cluster = self.cluster
        self.attempts = [attempt for attempt in self.attempts if attempt.node in cluster.sites]
        for attempt in self.attempts:
            attempt.is_ghost |= cluster.view.member(attempt.node) is None
        for stream, node in moved.items():
            cluster.counts["moved"] += 1
            self.actors[stream] = node
            if stream not in self.done:
                # Whoever helped the dead gives way.
                self.drop(stream)
                self.give(stream, node, takes_over=True)
                self.knowing[stream] = node

    def double(self, stream: int) -> None:
        """Let another node do a call, too, as if the first one took too long."""
        others = [node for node in self.cluster.view.nodes("worker") if node != self.actors[stream]]
        if stream not in self.done and len(self.listened(stream)) == 1 and others:
            self.cluster.counts["doubled"] += 1
            self.give(stream, others[int(self.rng.integers(len(others)))], takes_over=True)

    def listened(self, stream: int) -> list[Attempt]:
        """Return the attempts at a logical worker's call of which the first to end counts."""
        return [a for a in self.attempts if a.stream == stream and not a.is_ghost]

    def drop(self, stream: int, winner: Attempt | None = None) -> None:
        """Call attempts off."""
        for attempt in self.listened(stream):
            client = self.cluster.clients().get(attempt.node)
            if attempt is not winner and client is not None:
                client.abandon(stream)
            self.attempts.remove(attempt)

    def is_ready(self, attempt: Attempt) -> bool:
        """Return whether an attempt can go on."""
        site = self.cluster.sites.get(attempt.node)
        if site is None or site.machine is None or site.epoch < attempt.epoch:
            return False
        if len(attempt.tickets) == len(attempt.script):
            return not attempt.open and not attempt.is_ghost
        return not any(op.waits for op, _ in attempt.open.values())

    def advance_one(self) -> bool:
        """Let some attempt go on, and return whether one could."""
        ready = [attempt for attempt in self.attempts if self.is_ready(attempt)]
        if ready:
            self.advance(ready[int(self.rng.integers(len(ready)))])
        return bool(ready)

    def advance(self, attempt: Attempt) -> None:
        """Let an attempt begin its next push or pull, or end."""
        stream, cluster = attempt.stream, self.cluster
        client = cluster.clients()[attempt.node]
        if attempt.takes_over is not None and not attempt.tickets:
            client.abandon(stream)
            client.take_over(stream, attempt.takes_over)
        if len(attempt.tickets) == len(attempt.script):
            self.end(attempt)
            return
        op = attempt.script[len(attempt.tickets)]
        # Who was left behind may answer those that were not told yet.
        low = attempt.low.copy() if cluster.has_stale else self.acked.copy()
        low[:, stream] = np.maximum(low[:, stream], attempt.mine)
        timestamp, effects = client.start(
            0,
            stream,
            op.where,
            op.values,
            pull=op.pull,
            clock=op.clock,
            within=op.within,
            after=[attempt.tickets[at] for at in op.after],
        )
        self.begun[stream] = max(self.begun[stream], op.count)
        attempt.tickets.append(timestamp)
        attempt.open[timestamp] = op, low
        cluster.carry_out(attempt.node, effects)

    def end(self, attempt: Attempt) -> None:
        """Take the end of an attempt for that of its call."""
        stream, cluster = attempt.stream, self.cluster
        client = cluster.clients()[attempt.node]
        self.positions[stream] = client.positions(stream)
        self.drop(stream, attempt)
        self.done.add(stream)
        if attempt.node != self.actors[stream]:
            self.actors[stream] = self.knowing[stream] = attempt.node
            cluster.reassign(stream, attempt.node)

    def note(self, node: int, timestamp: int, result: Any) -> None:
        """Check what a push or pull gave that is finished."""
        for attempt in self.attempts:
            if attempt.node == node and timestamp in attempt.open:
                op, low = attempt.open.pop(timestamp)
                if any(attempt.tickets[at] in attempt.open for at in op.after):
                    raise Violation(f"{op} did not wait for others")
                if op.values is not None:
                    self.check_push(attempt, op)
                if op.pull:
                    self.check_pull(attempt, op, low, result)
                return
        raise Violation(f"task {timestamp} of node {node} is finished twice, or nobody's")
