"""The server: applies each push once, in its stream's order, and answers when it is safe.

Clocks and numbers are two things (DESIGN, section 4). *Numbers* tell pushes apart: a slice is
accepted when the stream's push before it on that segment has been accepted, parked when it comes
early, and answered again when it was accepted before. *Clocks* say how far a segment is: a pull
waits until the clocks of its slices have reached its marks. A push is safe when all copies of its
segments have it; then its clock moves, and it is answered.
"""

from collections.abc import Iterable, Sequence
from operator import ge
from typing import Final

from mpips.core.aggregation import Contribution, sum_contributions
from mpips.core.answering import read_values
from mpips.core.copying import Copier
from mpips.core.held import Applied, Change, Held, Pending
from mpips.core.known import KnownLists
from mpips.core.machine import Effect, Machine, Send
from mpips.core.reading import cut_slices, update_ranges, update_rows
from mpips.core.replication import Replicator
from mpips.errors import ProtocolError
from mpips.store.base import Store
from mpips.wire.buffers import Buffers
from mpips.wire.messages import (
    Forgotten,
    Message,
    Pull,
    Push,
    PushAck,
    Replicate,
    Replicated,
    Snapshot,
)
from mpips.wire.types import View

EARLY_SLICES_MAX: Final = 4096


class ServerMachine(Machine):
    """Owns segments of tables, and has copies of others: applies pushes, and answers.

    Invariants: the numbers applied of a stream never exceed those accepted; what is early is
    later than what is accepted; a request is answered once for each time it comes.
    """

    def __init__(
        self, node: int, stores: Sequence[Store], streams: int, buffers: Buffers | None = None
    ) -> None:
        super().__init__(node)
        self._held = [Held(index, store, streams) for index, store in enumerate(stores)]
        self._epoch = self._incarnation = 0
        self._replicator, self._copier = Replicator(), Copier(node)
        self.lists = KnownLists(stores)
        self._buffers = buffers or Buffers()
        self._pushes = self._pulls = self._duplicates = self._parked = self._refused = 0

    @property
    def tables(self) -> list[Held]:
        """Return what is held of each table."""
        return self._held

    @property
    def stores(self) -> list[Store]:
        """Return the stores, by table."""
        return [held.store for held in self._held]

    def install(self, view: View) -> list[Effect]:
        """Own, and copy, what the view says; return the answers that were waiting for it."""
        assert view.epoch > self._epoch, (view.epoch, self._epoch)
        self._epoch = view.epoch
        member = view.member(self.node)
        self._incarnation = member.incarnation if member else 0
        for part in (self._replicator, self._copier, self.lists):
            part.epoch, part.incarnation = self._epoch, self._incarnation
        new = [held.install(self.node, view) for held in self._held]
        effects = self._copier.install(self._held)
        # Who has left is waited for no longer.
        effects += self._finish(self._replicator.install(view, self._held, self.node))
        for held, segments in zip(self._held, new, strict=True):
            if not view.is_first:
                begun = [s for s in segments if not view.handed[held.index][s]]
                effects += self._replicator.level(held, begun, view.copies[held.index])
            if held.table.aggregate:
                effects += self._resume_sums(held)
            effects += self._unpark(held) + self._release_waiting(held)
        return effects + self._replicator.go_on(view, self._held, self.node)

    def step(self, now: float, source: int, message: Message) -> list[Effect]:
        """Take a client's request, or what owners and copies tell each other."""
        # This way most messages meet two comparisons, and no pattern.
        kind = type(message)
        if kind is Push or kind is Pull or kind is Replicate:
            if message.coding:  # type: ignore[attr-defined]
                restored = self.lists.restore(message)  # type: ignore[type-var]
                if isinstance(restored, Forgotten):
                    return [Send(source, restored)]
                message, kind = restored, type(restored)
            if kind is Push:
                return self._step_push(now, source, message)  # type: ignore[arg-type]
            if kind is Pull:
                return self._step_pull(now, source, message)  # type: ignore[arg-type]
        match message:
            case Replicate(table=table):
                return self._copier.take_updates(self._held[table], source, message)
            case Replicated(request=request):
                finished, effects = self._replicator.confirm(source, request)
                effects += self._finish(finished)
                for table in {applied.table for applied in finished}:
                    effects += self._release_waiting(self._held[table])
                return effects + self._replicator.hand_over()
            case Forgotten():
                return self._replicator.send_again(source, message)
            case Snapshot(table=table):
                return self._copier.take_snapshot(self._held[table], source, message)
        raise ProtocolError(f"server {self.node}: no step for {type(message).__name__}")

    def validate(self) -> None:
        """Assert that numbers and queues belong together."""
        for held in self._held:
            for accepted, applied in zip(held.accepted, held.applied, strict=True):
                assert accepted == applied or all(map(ge, accepted, applied))
            for (segment, stream), slices in held.early.items():
                assert slices
                assert all(p > held.accepted[segment][stream] for p in slices)
            assert all(applied.open > 0 for applied in held.latest.values())
            assert held.level <= held.copied

    def statistics(self) -> dict[str, int]:
        """Return counters, by name."""
        sizes = [store.statistics() for store in self.stores]
        return {
            "pushes": self._pushes,
            "pulls": self._pulls,
            "duplicate_slices": self._duplicates,
            "parked_slices": self._parked,
            "copied_bytes": self._buffers.given,
            "refused": self._refused + self._copier.refused,
            "stopped_pushes": sum(held.stopped_pushes for held in self._held),
            "snapshots": self._replicator.snapshots,
            "known_lists": len(self.lists),
            "waiting": sum(held.count_waiting() for held in self._held) + len(self._replicator),
            **{key: sum(size[key] for size in sizes) for key in ("keys", "bytes")},
        }

    def stalled(self, before: float) -> list[str]:
        """Return, for people, who is waited for by the pulls that came before a time."""
        return [line for held in self._held for line in held.stalled(before)]

    # -- Pushes ----------------------------------------------------------------------------------

    def _step_push(self, now: float, source: int, push: Push) -> list[Effect]:
        held = self._held[push.table]
        # Its client sends it again, to the new owner, as soon as it has the view.
        if not held.is_mine(push):
            self._refused += 1
            return []
        if held.stopped and push.slices.touch(held.stopped):
            return held.park(Pending(source, push, now))
        self._pushes += 1
        if push.base:
            held.raise_numbers(push)
        # Nearly always every slice is the next of its stream, and the message is one update.
        if not held.table.aggregate and held.is_next(push):
            return self._apply_whole(held, push, source, now)
        pending = Pending(source, push, now, len(push.slices))
        changes: list[Change] = []
        for segment, previous, where, values in cut_slices(push.slices, push.keys, push.values):
            accepted = held.accepted[segment][push.stream]
            contribution = Contribution(push.number, push.clock, where, values)
            held.unapplied.setdefault((segment, push.stream), []).append((push.number, pending))
            if previous > accepted:
                self._park(held, segment, push.stream, previous, contribution)
            elif push.number <= accepted:
                self._duplicates += 1
            elif previous == accepted or previous <= held.bases[push.stream]:
                changes += self._accept(held, segment, push.stream, contribution)
            else:
                raise ProtocolError(
                    f"server {self.node}: push {push.number} of logical worker {push.stream}"
                    f" to segment {segment} of {held.table.name} follows {previous}, but"
                    f" {accepted} was accepted there"
                )
        effects = self._replicate(held, changes)
        for segment in push.slices.segments():
            effects += self._release(held, segment, push.stream)
        return effects + self._release_waiting(held)

    def _apply_whole(self, held: Held, push: Push, source: int, now: float) -> list[Effect]:
        """Apply a message whose slices are all the next ones."""
        if push.keys is not None:
            held.store.update_keys(push.keys, push.values)
        else:
            update_ranges(held.store, push.slices, push.values)
        if held.note(push):
            return self._ship_whole(held, push, Pending(source, push, now, 1))
        # Without copies it is safe at once.
        if held.has_clocks:
            for first, many, _, _, _ in push.slices.runs:
                held.clocks.advance(push.stream, first, first + many, push.clock)
        if push.pull:
            effects = self._answer_push(held, Pending(source, push, now))
        else:
            effects = [self._acknowledge(source, push)]
        return effects + self._release_waiting(held) if held.waiting else effects

    def _ship_whole(self, held: Held, push: Push, pending: Pending) -> list[Effect]:
        """Send a message that is applied to the copies; the answer waits for them."""
        slices = held.logged(push.slices, push.keys)
        segments = slices.segments()
        spans = held.spans(segments) if held.has_clocks else ()
        applied = Applied(held.index, segments, spans, [push.stream], push.clock)
        applied.waiters.append(pending)
        parts = [(push.stream, push.number)]
        effects = self._replicator.ship(held, applied, parts, slices, push.keys, push.values)
        if push.pull and held.table.mode == "eventual":
            # A pull sees what was there after its push, however long copies take.
            pending.answer = self._answer(held, pending.source, push)
        return effects

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

    def _accept(
        self, held: Held, segment: int, stream: int, contribution: Contribution
    ) -> list[Change]:
        """Take a slice that is the next of its stream, and what came early and follows it."""
        early = held.early.get((segment, stream), {})
        following: Contribution | None = contribution
        changes: list[Change] = []
        while following is not None:
            held.accepted[segment][stream] = following.number
            changes += self._apply(held, segment, stream, following)
            following = early.pop(following.number, None)
        if not early:
            held.early.pop((segment, stream), None)
        return changes

    def _apply(
        self, held: Held, segment: int, stream: int, contribution: Contribution
    ) -> list[Change]:
        """Apply a slice, or add it to the sum of its clock, which is applied when complete."""
        if held.table.aggregate:
            held.sums[segment].add(stream, contribution)
            return self._apply_sums(held, segment)
        where, values, clock = contribution.where, contribution.values, contribution.clock
        parts = ((stream, contribution.number),)
        return [self._change(held, Change(segment, 0, where, values, clock, parts))]

    def _apply_sums(self, held: Held, segment: int) -> list[Change]:
        """Apply the sums of a segment that are complete."""
        changes = []
        while (taken := held.sums[segment].take(held.active)) is not None:
            where, values = sum_contributions(list(taken.values()))
            clock = max(part.clock for part in taken.values())
            parts = tuple((stream, part.number) for stream, part in taken.items())
            changes.append(self._change(held, Change(segment, 0, where, values, clock, parts)))
        return changes

    def _change(self, held: Held, change: Change) -> Change:
        """Apply an update of one segment, and note its number."""
        if held.undo is not None:
            held.undo.note(change.segment, change.clock, change.where)
        update_rows(held.store, change.where, change.values)
        change.log = held.log(change.segment)
        for stream, number in change.parts:
            held.applied[change.segment][stream] = number
        return change

    def _replicate(self, held: Held, changes: list[Change]) -> list[Effect]:
        """Send changes to the copies, those of the same pushes together."""
        groups: dict[tuple[int, tuple[tuple[int, int], ...]], list[Change]] = {}
        for change in changes:
            groups.setdefault((change.clock, tuple(change.parts)), []).append(change)
        effects: list[Effect] = []
        for (clock, parts), group in groups.items():
            segments = [change.segment for change in group]
            applied = Applied(held.index, segments, held.spans(segments), held.moved(parts), clock)
            sent = self._replicator.ship_changes(held, applied, group)
            effects += sent or self._finish([applied])
        return effects

    def _resume_sums(self, held: Held) -> list[Effect]:
        """Apply the sums that waited for logical workers that take part no longer."""
        serving = [segment for segment in held.store.owned if segment not in held.stopped]
        changes = [c for segment in serving for c in self._apply_sums(held, segment)]
        effects = self._replicate(held, changes)
        for segment in sorted({change.segment for change in changes}):
            effects += self._release(held, segment, 0)
        return effects

    def _unpark(self, held: Held) -> list[Effect]:
        """Take what was parked where this server goes on; clients send the rest to new owners."""
        parked, held.parked = held.parked, []
        return [e for one in parked for e in self.step(one.since, one.source, one.message)]

    # -- Answers ---------------------------------------------------------------------------------

    def _finish(self, updates: Iterable[Applied]) -> list[Effect]:
        """Take updates that are on all copies: move their clocks, answer who waits for them."""
        effects: list[Effect] = []
        for applied in updates:
            held = self._held[applied.table]
            for segment in applied.segments if held.latest else ():
                if held.latest.get(segment) is applied:
                    del held.latest[segment]
            for stream in applied.streams:
                for first, end in applied.spans:
                    held.clocks.advance(stream, first, end, applied.clock)
            for pending in applied.waiters:
                effects += self._count(held, pending)
        return effects

    def _release(self, held: Held, segment: int, stream: int) -> list[Effect]:
        """Return the answers to pushes whose last slice has now been applied, and is safe."""
        effects: list[Effect] = []
        applied = held.applied[segment]
        # What waits for copies waits for the last update of all: it may have come again.
        latest = held.latest.get(segment)
        streams = range(len(applied)) if held.table.aggregate else (stream,)
        for other in streams:
            waiting = held.unapplied.get((segment, other))
            if not waiting:
                continue
            still = []
            for number, pending in waiting:
                if number > applied[other]:
                    still.append((number, pending))
                elif latest is not None:
                    latest.waiters.append(pending)
                else:
                    effects += self._count(held, pending)
            if still:
                held.unapplied[segment, other] = still
            else:
                del held.unapplied[segment, other]
        return effects

    def _count(self, held: Held, pending: Pending) -> list[Effect]:
        """Note that a slice of a push is safe, and return the answer if it is the last one."""
        pending.open -= 1
        return [] if pending.open else self._answer_push(held, pending)

    def _answer_push(self, held: Held, pending: Pending) -> list[Effect]:
        """Return the answer to a push that is applied, unless its pull has to wait."""
        if pending.answer is not None:
            return [pending.answer]
        if self._may_read(held, pending.message):
            return [self._answer(held, pending.source, pending.message)]
        held.waiting.append(pending)
        return []

    def _step_pull(self, now: float, source: int, pull: Pull) -> list[Effect]:
        held = self._held[pull.table]
        if not held.is_mine(pull):
            self._refused += 1
            return []
        self._pulls += 1
        if self._may_read(held, pull):
            return [self._answer(held, source, pull)]
        held.waiting.append(Pending(source, pull, now))
        return []

    def _may_read(self, held: Held, message: Push | Pull) -> bool:
        return held.may_read(message)

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
            return self._acknowledge(source, message)
        epoch, incarnation = self._epoch, self._incarnation
        updates = self._replicator.updates() if message.wants_clocks else ()
        values = read_values(held, message, updates, self._buffers, epoch, incarnation)
        return Send(source, values)

    def _acknowledge(self, source: int, push: Push) -> Send:
        ack = PushAck(push.request, epoch=self._epoch, incarnation=self._incarnation)
        return Send(source, ack)
