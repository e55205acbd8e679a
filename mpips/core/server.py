"""The server: applies each push once, in its stream's order, and answers when it is safe.

Clocks and numbers are two things (DESIGN, section 4). *Numbers* tell pushes apart: a slice is
accepted when the stream's push before it on that segment has been accepted, parked when it comes
early, and answered again when it was accepted before. *Clocks* say how far a segment is: a pull
waits until the clocks of its slices have reached its marks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from mpips.core.aggregation import Aggregation, Contribution, sum_contributions
from mpips.core.clock import VectorClock
from mpips.core.machine import Effect, Machine, Send
from mpips.core.slicing import Range
from mpips.errors import ProtocolError
from mpips.store.base import Store
from mpips.wire.messages import Message, Pull, Push, PushAck, Slice, Values
from mpips.wire.types import KeyArray, ValueArray, View

EARLY_SLICES_MAX: Final = 4096


@dataclass(slots=True)
class Pending:
    """A request whose answer waits: `open` slices of a push, or the marks of a pull."""

    source: int
    message: Push | Pull
    since: float
    open: int = 0


class Held:
    """What a server keeps for one table beside the values: numbers, clocks, and who waits.

    Args:
        store: the table's values.
        streams: number of logical workers.
    """

    def __init__(self, store: Store, streams: int) -> None:
        self.store, self.table = store, store.table
        segments = self.table.segments
        # By segment, then by stream: the number accepted last, and the number applied last.
        self.accepted = [[0] * streams for _ in range(segments)]
        self.applied = [[0] * streams for _ in range(segments)]
        self.clocks = VectorClock(segments, streams)
        self.sums = [Aggregation(streams) for _ in range(segments)] if self.table.aggregate else []
        # By segment and stream: what came early, by the number before it, and who waits.
        self.early: dict[tuple[int, int], dict[int, Contribution]] = {}
        self.unapplied: dict[tuple[int, int], list[tuple[int, Pending]]] = {}
        self.waiting: list[Pending] = []


class ServerMachine(Machine):
    """Owns segments of tables: applies pushes, holds pulls back, and answers.

    Invariants: the numbers applied of a stream never exceed those accepted; what is early is
    later than what is accepted; a request is answered once for each time it comes.
    """

    def __init__(self, node: int, stores: Sequence[Store], streams: int) -> None:
        super().__init__(node)
        self._held = [Held(store, streams) for store in stores]
        self._epoch = 0
        self._pushes = self._pulls = self._duplicates = self._parked = 0

    @property
    def stores(self) -> list[Store]:
        """Return the stores, by table."""
        return [held.store for held in self._held]

    def install(self, view: View) -> None:
        """Own what the view says."""
        assert view.epoch > self._epoch, (view.epoch, self._epoch)
        self._epoch = view.epoch
        for held, owners in zip(self._held, view.owners, strict=True):
            held.store.hold_many(np.flatnonzero(owners == self.node).tolist())

    def step(self, now: float, source: int, message: Message) -> list[Effect]:
        """Take a push or a pull and return the answers that are due."""
        match message:
            case Push():
                return self._step_push(now, source, message)
            case Pull():
                return self._step_pull(now, source, message)
        raise ProtocolError(f"server {self.node}: no step for {type(message).__name__}")

    def validate(self) -> None:
        """Assert that numbers and queues belong together."""
        for held in self._held:
            for accepted, applied in zip(held.accepted, held.applied, strict=True):
                assert all(a >= b for a, b in zip(accepted, applied, strict=True))
            for (segment, stream), slices in held.early.items():
                assert slices
                assert all(p > held.accepted[segment][stream] for p in slices)

    def statistics(self) -> dict[str, int]:
        """Return counters, by name."""
        sizes = [store.statistics() for store in self.stores]
        return {
            "pushes": self._pushes,
            "pulls": self._pulls,
            "duplicate_slices": self._duplicates,
            "parked_slices": self._parked,
            "waiting": sum(len(held.waiting) for held in self._held),
            **{key: sum(size[key] for size in sizes) for key in ("keys", "bytes")},
        }

    def stalled(self, before: float) -> list[str]:
        """Return, for people, who is waited for by the pulls that came before a time."""
        lines = []
        for held in self._held:
            for pending in held.waiting:
                if pending.since >= before:
                    continue
                for stream, segment, _ in held.clocks.missing(_needs(pending.message)):
                    begin, end = held.table.segment_range(segment)
                    lines.append(
                        f"node {pending.source} waits for logical worker {stream} on keys"
                        f" [{begin}, {end}) of {held.table.name}"
                    )
        return lines

    # -- Pushes ----------------------------------------------------------------------------------

    def _step_push(self, now: float, source: int, push: Push) -> list[Effect]:
        held = self._held[push.table]
        self._pushes += 1
        # Nearly always every slice is the next of its stream, and the message is one update.
        if not held.table.aggregate and self._is_next(held, push):
            self._apply_whole(held, push)
            return self._answer_push(held, Pending(source, push, now)) + self._release_waiting(held)
        pending = Pending(source, push, now, len(push.slices))
        effects: list[Effect] = []
        for segment, previous, contribution in _contributions(push):
            accepted = held.accepted[segment][push.stream]
            held.unapplied.setdefault((segment, push.stream), []).append((push.number, pending))
            if previous > accepted:
                self._park(held, segment, push.stream, previous, contribution)
                continue
            if push.number > accepted:
                if previous < accepted:
                    raise ProtocolError(
                        f"server {self.node}: push {push.number} of logical worker {push.stream}"
                        f" to segment {segment} of {held.table.name} follows {previous}, but"
                        f" {accepted} was accepted there"
                    )
                self._accept(held, segment, push.stream, contribution)
            else:
                self._duplicates += 1
            effects += self._release(held, segment, push.stream)
        return effects + self._release_waiting(held)

    def _is_next(self, held: Held, push: Push) -> bool:
        accepted, stream = held.accepted, push.stream
        return all(accepted[segment][stream] == mark for segment, mark, _, _ in push.slices) and (
            not held.early
        )

    def _apply_whole(self, held: Held, push: Push) -> None:
        if push.keys is not None:
            held.store.update_keys(push.keys, push.values)
        else:
            at = 0
            for begin, end in _runs(push.slices):
                held.store.update_range(begin, end, push.values[at : at + end - begin])
                at += end - begin
        for segment, _, _, _ in push.slices:
            held.accepted[segment][push.stream] = push.number
            held.applied[segment][push.stream] = push.number
        # What lies between belongs to the push's range, and to other servers.
        if held.table.has_clocks and push.slices:
            first, last = push.slices[0][0], push.slices[-1][0]
            held.clocks.advance(push.stream, first, last + 1, push.clock)

    def _park(
        self, held: Held, segment: int, stream: int, previous: int, contribution: Contribution
    ) -> None:
        slices = held.early.setdefault((segment, stream), {})
        self._parked += 1
        if len(slices) >= EARLY_SLICES_MAX:
            raise ProtocolError(
                f"server {self.node}: {len(slices)} pushes of logical worker {stream} to segment"
                f" {segment} of {held.table.name} came early; the one after"
                f" {held.accepted[segment][stream]} is missing"
            )
        slices[previous] = contribution

    def _accept(self, held: Held, segment: int, stream: int, contribution: Contribution) -> None:
        """Take a slice that is the next of its stream, and what came early and follows it."""
        early = held.early.get((segment, stream), {})
        following: Contribution | None = contribution
        while following is not None:
            held.accepted[segment][stream] = following.number
            self._apply(held, segment, stream, following)
            following = early.pop(following.number, None)
        if not early:
            held.early.pop((segment, stream), None)

    def _apply(self, held: Held, segment: int, stream: int, contribution: Contribution) -> None:
        """Apply a slice, or add it to the sum of its clock, which is applied when complete."""
        if not held.table.aggregate:
            _update(held.store, contribution.where, contribution.values)
            held.applied[segment][stream] = contribution.number
            if held.table.has_clocks:
                held.clocks.advance(stream, segment, segment + 1, contribution.clock)
            return
        held.sums[segment].add(stream, contribution)
        while (taken := held.sums[segment].take()) is not None:
            where, values = sum_contributions(list(taken.values()))
            _update(held.store, where, values)
            clock = max(part.clock for part in taken.values())
            for other, part in taken.items():
                held.applied[segment][other] = part.number
            # Who has contributed nothing has said by a later push that it will not.
            for other in range(len(held.applied[segment])):
                held.clocks.advance(other, segment, segment + 1, clock)

    def _release(self, held: Held, segment: int, stream: int) -> list[Effect]:
        """Return the answers to pushes whose last slice has now been applied."""
        effects: list[Effect] = []
        applied = held.applied[segment]
        streams = range(len(applied)) if held.table.aggregate else (stream,)
        for other in streams:
            waiting = held.unapplied.get((segment, other))
            if not waiting:
                continue
            still = []
            for number, pending in waiting:
                if number > applied[other]:
                    still.append((number, pending))
                    continue
                pending.open -= 1
                if pending.open == 0:
                    effects += self._answer_push(held, pending)
            if still:
                held.unapplied[segment, other] = still
            else:
                del held.unapplied[segment, other]
        return effects

    def _answer_push(self, held: Held, pending: Pending) -> list[Effect]:
        """Return the answer to a push that is applied, unless its pull has to wait."""
        if self._may_read(held, pending.message):
            return [self._answer(held, pending.source, pending.message)]
        held.waiting.append(pending)
        return []

    # -- Pulls -----------------------------------------------------------------------------------

    def _step_pull(self, now: float, source: int, pull: Pull) -> list[Effect]:
        held = self._held[pull.table]
        self._pulls += 1
        if self._may_read(held, pull):
            return [self._answer(held, source, pull)]
        held.waiting.append(Pending(source, pull, now))
        return []

    def _may_read(self, held: Held, message: Push | Pull) -> bool:
        return held.table.mode == "eventual" or held.clocks.reached(_needs(message))

    def _release_waiting(self, held: Held) -> list[Effect]:
        """Return the answers to pulls whose clocks have come."""
        if not held.waiting:
            return []
        ready: list[Pending] = []
        waiting: list[Pending] = []
        for pending in held.waiting:
            (ready if self._may_read(held, pending.message) else waiting).append(pending)
        held.waiting = waiting
        return [self._answer(held, p.source, p.message) for p in ready]

    def _answer(self, held: Held, source: int, message: Push | Pull) -> Send:
        if isinstance(message, Push) and not message.pull:
            return Send(source, PushAck(epoch=self._epoch, request=message.request))
        keys, values, counts = self._read(held, message)
        answer = Values(
            epoch=self._epoch,
            request=message.request,
            table=message.table,
            keys=keys,
            values=values,
            counts=counts,
        )
        return Send(source, answer)

    def _read(
        self, held: Held, message: Push | Pull
    ) -> tuple[KeyArray | None, ValueArray, list[int]]:
        store, width = held.store, held.store.update.pull_width
        if message.keys is not None:
            out = np.empty((len(message.keys), width), store.dtype)
            store.read_keys(message.keys, out)
            return None, out, []
        if held.table.kind == "sparse":
            # Send the keys that exist, segment after segment.
            found = [store.read_range(begin, begin + n) for _, _, begin, n in message.slices]
            keys = np.concatenate([k for k, _ in found if k is not None])
            values = np.concatenate([v for _, v in found])
            return keys, values, [len(v) for _, v in found]
        out, at = np.empty((sum(s[3] for s in message.slices), width), store.dtype), 0
        for begin, end in _runs(message.slices):
            store.read_range(begin, end, out[at : at + end - begin])
            at += end - begin
        return None, out, []


def _needs(message: Push | Pull) -> Iterator[tuple[int, int, int]]:
    """Yield the clocks that a pull waits for: first segment, the one after the last, clock."""
    if isinstance(message, Push):
        needs = message.needs
    else:
        needs = tuple(mark for _, mark, _, _ in message.slices)
    for (segment, _, _, _), need in zip(message.slices, needs, strict=False):
        if need:
            yield segment, segment + 1, need


def _update(store: Store, where: KeyArray | Range, values: ValueArray) -> None:
    if isinstance(where, tuple):
        store.update_range(*where, values)
    elif len(where):
        store.update_keys(where, values)


def _runs(slices: Sequence[Slice]) -> list[Range]:
    """Return the key ranges of the slices of a range, neighbours joined."""
    joined: list[Range] = []
    for _, _, begin, count in slices:
        if joined and joined[-1][1] == begin:
            joined[-1] = (joined[-1][0], begin + count)
        else:
            joined.append((begin, begin + count))
    return joined


def _contributions(push: Push) -> Iterator[tuple[int, int, Contribution]]:
    """Yield segment, previous number and content of each slice of a push."""
    cuts = np.cumsum([0, *(count for _, _, _, count in push.slices)]).tolist()
    for (segment, previous, begin, count), (low, high) in zip(
        push.slices, pairwise(cuts), strict=True
    ):
        where = (begin, begin + count) if push.keys is None else push.keys[low:high]
        part = Contribution(push.number, push.clock, where, push.values[low:high])
        yield segment, previous, part
