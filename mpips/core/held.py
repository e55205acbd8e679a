"""What a server keeps of one table beside its values: numbers, clocks, logs, and who waits."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from mpips.core.aggregation import Aggregation, Contribution
from mpips.core.clock import Piece, VectorClock
from mpips.core.machine import Effect, Send
from mpips.core.predicate import Rule
from mpips.core.reading import needs_of
from mpips.core.slicing import Range
from mpips.core.undo import Undo
from mpips.store.base import Store
from mpips.wire.messages import Before, Pull, Push
from mpips.wire.slices import Slices, join_spans
from mpips.wire.types import NOBODY, KeyArray, ValueArray, View

NEVER: Final = 2**62
"""Later than any epoch: what this server does not answer for."""

Parts = Sequence[tuple[int, int]]
"""The pushes in an update: stream and number."""


class Pending(msgspec.Struct):
    """A request whose answer waits: `open` slices of a push, or the marks of a pull.

    `answer` is there already if what it says must not wait for copies.
    """

    source: int
    message: Push | Pull
    since: float
    open: int = 0
    answer: Send | None = None


class Change(msgspec.Struct):
    """An update of one segment that is applied here; `parts` are the pushes in it."""

    segment: int
    log: int
    where: KeyArray | Range
    values: ValueArray
    clock: int
    parts: Parts


class Applied(msgspec.Struct):
    """Updates that are applied here and on their way to `open` copies.

    When all have them, the clocks of `streams` move to `clock` on the segments of `spans`, and
    `waiters` get on.
    """

    table: int
    segments: Sequence[int]
    spans: Sequence[Range] = ()
    streams: Sequence[int] = ()
    clock: int = 0
    open: int = 0
    waiters: list[Pending] = []


class Held:
    """One table on one server: its segments as owner, and those as copy.

    Args:
        index: of the table.
        store: the table's values.
        streams: number of logical workers.

    Attributes:
        accepted: by segment, then by stream: the number of the last push accepted.
        applied: likewise, of the last push applied.
        bases: by stream: a push up to which all are applied.
        logs: by segment: how many updates were applied, here or at owners before.
        clocks: how far all copies in sync are, on segments that this server owns.
        reign: by segment: the epoch since which this server owns it, or `NEVER`.
        owner: by segment: who owns it.
        since: by segment: the epoch since which that one does.
        targets: by segment, as owner: the copies that get every update.
        heirs: by segment: the node that it moves to.
        asked: by segment: the epoch in which the latest of its targets was asked to join.
        stopped: the segments that this server owns and serves no more, as they move.
        untold: those of them of which the scheduler does not know yet that all are level.
        parked: the pushes that wait until it is decided who owns what is stopped.
        stopped_pushes: how many there have been.
        sync: the segments of which this server is a copy in sync, by its view.
        copied: those, and the ones that it joins.
        level: the segments of which this server, a copy, has what their owner began with.
        undo: of a sequential table: what its segments were before their last updates.
        latest: by segment: the last update that is not on all copies yet.
        active: by stream: whether its logical worker takes part.
    """

    def __init__(self, index: int, store: Store, streams: int) -> None:
        self.index, self.store, self.table = index, store, store.table
        self.has_clocks = self.table.has_clocks
        segments = self.table.segments
        self.accepted = [[0] * streams for _ in range(segments)]
        self.applied = [[0] * streams for _ in range(segments)]
        self.bases = [0] * streams
        self.logs = [0] * segments
        self.clocks = VectorClock(segments, streams)
        self.sums = [Aggregation(streams) for _ in range(segments)] if self.table.aggregate else []
        # By segment and stream: what came early, by the number before it, and who waits.
        self.early: dict[tuple[int, int], dict[int, Contribution]] = {}
        self.unapplied: dict[tuple[int, int], list[tuple[int, Pending]]] = {}
        self.waiting: list[Pending] = []
        self._rule = Rule(self.table) if self.table.mode == "predicate" else None
        self.reign = [NEVER] * segments
        self.owner = [NOBODY] * segments
        self.since = [0] * segments
        self.targets: list[tuple[int, ...]] = [()] * segments
        self.heirs = [NOBODY] * segments
        self.asked = [0] * segments
        self.stopped: set[int] = set()
        self.untold: set[int] = set()
        self.parked: list[Pending] = []
        self.stopped_pushes = 0
        self.sync: set[int] = set()
        self.copied: set[int] = set()
        self.level: set[int] = set()
        self.latest: dict[int, Applied] = {}
        self.undo = Undo(store) if self.table.mode == "sequential" else None
        self.active = [True] * streams

    def install(self, node: int, view: View) -> list[int]:
        """Take the roles that a view gives this server, and return the segments it now owns too.

        In the first view all segments are empty, so that copies are level with their owners.
        """
        at = self.index
        owners, copies, joining, since = (
            part[at] for part in (view.owners, view.copies, view.joining, view.since)
        )
        heirs, stops, handed = view.heirs[at], view.stops[at], view.handed[at]
        mine = _where(owners == node)
        sync = _where((copies == node).any(axis=1))
        joins = _where((joining == node).any(axis=1) | (heirs == node)) - sync
        before = {segment for segment, epoch in enumerate(self.reign) if epoch != NEVER}
        is_first = view.is_first
        assert is_first or mine <= before | self.sync | self.level, "an owner without the values"
        kept = mine | sync | joins
        self.store.drop_many([segment for segment in self.store.held if segment not in kept])
        self.store.hold_many(sorted(kept.difference(self.store.held)))
        old, self.owner, self.since = self.since, owners.tolist(), since.tolist()
        changed = {at for at, (a, b) in enumerate(zip(old, self.since, strict=True)) if a != b}
        # A new owner begins a new reign: its copies are level with it after a snapshot, or if all
        # were level when it was handed over.
        still = (self.level | before) & sync & changed & _where(handed != 0)
        level = (self.level & kept).difference(mine, changed) | still
        self.sync, self.copied, self.level = sync, sync | joins, sync.copy() if is_first else level
        self.reign = [
            epoch if segment in mine else NEVER for segment, epoch in enumerate(self.since)
        ]
        new = mine - before | mine & changed
        self._aim(view, set() if is_first else new & _where(handed != 0))
        self._leave(before - mine | before & changed)
        self.heirs = heirs.tolist()
        self.stopped = mine & _where(stops != 0)
        self.untold = set(self.stopped)
        self.store.owned = tuple(sorted(mine))
        self.active = [actor != NOBODY for actor in view.actors] or self.active
        return sorted(new)

    def _aim(self, view: View, handed: Collection[int]) -> None:
        """Keep as targets of updates those that a view has, and who was level at a hand-over."""
        copies, joining, heirs, asked = (
            part[self.index].tolist()
            for part in (view.copies, view.joining, view.heirs, view.asked)
        )
        for segment, sync in enumerate(copies):
            targets = sync if view.is_first or segment in handed else self.targets[segment]
            alive = {*sync, *joining[segment], heirs[segment]} - {NOBODY}
            # Whoever was asked anew may have forgotten what it was sent.
            if asked[segment] != self.asked[segment]:
                alive &= {*sync}
            self.targets[segment] = tuple(t for t in targets if t in alive)
        self.asked = asked

    def _leave(self, lost: Collection[int]) -> None:
        """Forget what waits at segments that are another's now: clients send it again to that one.

        What was accepted and never applied is not in the values that were handed over.
        """
        for segment in lost:
            self.accepted[segment] = list(self.applied[segment])
            self.latest.pop(segment, None)
            if self.sums:
                self.sums[segment] = Aggregation(len(self.active))
        if not lost:
            return
        for queue in (self.early, self.unapplied):
            for key in [key for key in queue if key[0] in lost]:
                del queue[key]
        self.waiting = [one for one in self.waiting if not one.message.slices.touch(lost)]
        self.parked = [one for one in self.parked if not one.message.slices.touch(lost)]

    def moved(self, parts: Parts) -> Sequence[int]:
        """Return the streams whose clocks an update of these pushes moves.

        Who has contributed nothing to a sum has said by a later push that it will not.
        """
        if self.table.aggregate:
            return range(len(self.active))
        return [stream for stream, _ in parts] if self.table.has_clocks else ()

    def log(self, segment: int) -> int:
        """Count an update of a segment, and return its number."""
        self.logs[segment] += 1
        return self.logs[segment]

    def raise_numbers(self, push: Push) -> None:
        """Note that all pushes up to the base are applied: who took over does not know where.

        Whoever does know, if two attempts of a call are under way, says so by a lower number.
        """
        self.bases[push.stream] = max(self.bases[push.stream], push.base)
        for segment in push.slices.segments():
            for numbers in (self.accepted[segment], self.applied[segment]):
                numbers[push.stream] = max(numbers[push.stream], push.base)

    def count_waiting(self) -> int:
        """Return how many requests wait for clocks, or for a view."""
        return len(self.waiting) + len(self.parked)

    def park(self, pending: Pending) -> list[Effect]:
        """Let a push to what moves wait until a view says who owns it."""
        self.stopped_pushes += 1
        self.parked.append(pending)
        return []

    def is_mine(self, message: Push | Pull) -> bool:
        """Return whether this server owned all segments of a request when it was sent."""
        reign, epoch = self.reign, message.epoch
        for first, many, _, _, _ in message.slices.runs:
            if epoch < (reign[first] if many == 1 else max(reign[first : first + many])):
                return False
        return True

    def is_next(self, push: Push) -> bool:
        """Return whether all slices of a push are the next of its stream, and nothing is early."""
        if self.early:
            return False
        accepted, stream = self.accepted, push.stream
        for first, many, mark, _, _ in push.slices.runs:
            if accepted[first][stream] != mark:
                return False
            if many > 1 and [n[stream] for n in accepted[first : first + many]] != [mark] * many:
                return False
        return True

    def note(self, push: Push) -> bool:
        """Note that all slices of a push are applied, and return whether any of them has copies."""
        accepted, applied, logs, targets = self.accepted, self.applied, self.logs, self.targets
        stream, number, is_copied = push.stream, push.number, False
        for first, many, _, _, _ in push.slices.runs:
            if many == 1:
                accepted[first][stream] = applied[first][stream] = number
                logs[first] += 1
                is_copied = is_copied or targets[first] != ()
                continue
            mine = slice(first, first + many)
            for numbers in (*accepted[mine], *applied[mine]):
                numbers[stream] = number
            logs[mine] = [log + 1 for log in logs[mine]]
            is_copied = is_copied or any(targets[mine])
        return is_copied

    def logged(self, slices: Slices, keys: KeyArray | None) -> Slices:
        """Return the slices of a message marked with the log numbers of their segments."""
        logs = self.logs
        runs = slices.split(logs, keys).runs
        marked = [(first, many, logs[first], begin, n) for first, many, _, begin, n in runs]
        return Slices(slices.size, marked)

    def may_read(self, message: Push | Pull) -> bool:
        """Return whether the table's mode allows to answer a pull, as clocks are now.

        What moves to another server is read there.

        Raises:
            AppError: the user's predicate failed.
        """
        if isinstance(message, Push) and not message.pull:
            return True
        if self.stopped and message.slices.touch(self.stopped):
            return False
        if self.table.mode == "eventual":
            return True
        if self._rule is not None:
            return next(self._rule.refusals(self.clocks, self.active, message), None) is None
        return self.clocks.reached(needs_of(message), self.active)

    def stalled(self, before: float) -> Iterator[str]:
        """Yield, for people, whom the pulls that came before a time wait for, and where."""
        for pending in self.waiting:
            if pending.since >= before:
                continue
            if self._rule is None:
                needs = needs_of(pending.message)
                for stream, segment, _ in self.clocks.missing(needs, self.active):
                    yield (
                        f"node {pending.source} waits for logical worker {stream} on"
                        f" {self._name_keys(segment)}"
                    )
                continue
            for segment, reading in self._rule.refusals(self.clocks, self.active, pending.message):
                slowest = int(reading.clocks.argmin())
                yield (
                    f"logical worker {reading.reader} waits until {self._rule.name} allows its"
                    f" pull at clock {reading.clock} on {self._name_keys(segment)}; the slowest"
                    f" there is logical worker {reading.workers[slowest]}, at clock"
                    f" {reading.clocks[slowest]}"
                )

    def _name_keys(self, segment: int) -> str:
        begin, end = self.table.segment_range(segment)
        return f"keys [{begin}, {end}) of {self.table.name}"

    def spans(self, segments: Sequence[int]) -> list[Range]:
        """Return segments as ranges, ascending."""
        return join_spans((segment, segment + 1) for segment in segments)

    def state(self, segment: int, open_updates: Iterable[Applied]) -> tuple[list[int], list[int]]:
        """Return numbers and clocks of a segment by stream, as they are in its values.

        Clocks here wait for copies; those of updates that are on their way belong to the values.
        """
        numbers = list(self.applied[segment])
        clocks = [clock.least(segment, segment + 1) for clock in self.clocks.clocks]
        for applied in open_updates:
            if applied.table == self.index and segment in applied.segments:
                for stream in applied.streams:
                    clocks[stream] = max(clocks[stream], applied.clock)
        return numbers, clocks

    def contained(
        self,
        segments: Sequence[int],
        open_updates: Iterable[Applied],
        rewound: Mapping[int, int],
    ) -> list[list[Piece]]:
        """Return up to which clock pushes are in an answer, by logical worker, as pieces.

        Args:
            segments: that are read, ascending; the pieces are ranges of them.
            open_updates: those that are here and not on all copies: clocks wait for these.
            rewound: the clocks of segments of which older values are given.
        """
        spans, clocks = self.spans(segments), VectorClock(len(self.reign), len(self.active))
        for span in spans:
            clocks.merge(self.clocks.take(*span))
        for applied in open_updates:
            if applied.table == self.index:
                for stream in applied.streams:
                    for span in applied.spans:
                        clocks.advance(stream, *span, applied.clock)
        for segment, time in rewound.items():
            for clock in clocks.clocks:
                clock.reset(segment, segment + 1, time)
        return [[p for span in spans for p in clock.pieces(*span)] for clock in clocks.clocks]

    def adopt(
        self,
        segment: int,
        log: int,
        numbers: Sequence[int],
        clocks: Sequence[int],
        before: Before | None = None,
    ) -> None:
        """Take over what `state` has returned on the owner, and what its `undo` has."""
        self.logs[segment] = log
        if self.undo is not None:
            self.undo.put(segment, before)
        self.applied[segment], self.accepted[segment] = list(numbers), list(numbers)
        # A copy that had more than its new owner goes back: the clocks have to, too.
        for stream, clock in enumerate(clocks):
            self.clocks.clocks[stream].reset(segment, segment + 1, clock)


def _where(mask: np.ndarray) -> set[int]:
    return set(np.flatnonzero(mask).tolist())
