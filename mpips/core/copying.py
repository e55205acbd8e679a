"""A copy's side of replication: updates applied in the order of the owner's log, without gaps."""

from collections.abc import Sequence
from dataclasses import dataclass

from mpips.core.held import Held, Parts
from mpips.core.machine import Effect, Send
from mpips.core.reading import cut_slices, update_rows, update_slices
from mpips.core.slicing import Range
from mpips.wire.messages import Replicate, Replicated, Snapshot
from mpips.wire.slices import runs_of
from mpips.wire.types import KeyArray, ValueArray


@dataclass(slots=True)
class Shipped:
    """An owner's request, of which `open` slices are not applied yet."""

    source: int
    request: int
    open: int


@dataclass(slots=True)
class Entry:
    """An update of one segment that came before the one that it follows."""

    shipped: Shipped
    where: KeyArray | Range
    values: ValueArray
    clock: int
    parts: Parts


class Copier:
    """Applies what owners send, each segment's updates in the order of their log numbers.

    What a former owner sends is refused: the owner of the view alone is listened to, and nothing
    that was sent before its reign began.
    """

    def __init__(self, node: int) -> None:
        self.epoch = self.incarnation = self.refused = 0
        self._node = node
        # By table and segment, then by log number: what came early.
        self._early: dict[tuple[int, int], dict[int, Entry]] = {}

    def install(self, helds: Sequence[Held]) -> list[Effect]:
        """Forget what former owners have sent, and what is another's business now.

        Owners that go on are answered, since they wait for all whom they have sent something.
        """
        effects: list[Effect] = []
        for (table, segment), entries in list(self._early.items()):
            held = helds[table]
            sources = {entry.shipped.source for entry in entries.values()}
            if sources != {held.owner[segment]}:
                del self._early[table, segment]
            elif segment not in held.copied:
                del self._early[table, segment]
                for entry in entries.values():
                    effects += self._count(entry.shipped)
        return effects

    def take_updates(self, held: Held, source: int, message: Replicate) -> list[Effect]:
        """Apply updates that are the next of their segments, and keep the others for later."""
        # Nearly always all are the next, and the message is one update.
        if self._are_next(held, source, message):
            return self._apply_whole(held, source, message)
        mine = self._find_mine(held, source, message)
        if mine is None:
            return []
        logs, level, parts = held.logs, held.level, message.parts
        effects: list[Effect] = []
        shipped = Shipped(source, message.request, len(message.slices))
        for segment, log, where, values in cut_slices(*message.content()):
            if segment not in mine or (segment in level and log <= logs[segment]):
                effects += self._count(shipped)
                continue
            # If it comes once more, that one is answered, as it has the same number of slices.
            early = self._early.setdefault((held.index, segment), {})
            early[log] = Entry(shipped, where, values, message.clock, parts)
            effects += self._apply_next(held, segment)
        return effects

    def _are_next(self, held: Held, source: int, message: Replicate) -> bool:
        """Return whether all slices are the owner's, and the next of segments that are level.

        No segment is named twice: the second would follow the first.
        """
        owner, since, logs, level = held.owner, held.since, held.logs, held.level
        end = 0
        for first, many, log, _, _ in runs_of(message.slices):
            mine = slice(first, first + many)
            if message.epoch < max(since[mine]) or not level.issuperset(range(first, first + many)):
                return False
            if owner[mine].count(source) != many or logs[mine].count(log - 1) != many:
                return False
            if first < end:
                return False
            end = first + many
        return True

    def _apply_whole(self, held: Held, source: int, message: Replicate) -> list[Effect]:
        """Apply a message whose slices are all the next ones."""
        if held.undo is not None:
            for segment, _, where, _ in cut_slices(*message.content()):
                held.undo.note(segment, message.clock, where)
        update_slices(held.store, *message.content())
        for first, many, log, _, _ in runs_of(message.slices):
            held.logs[first : first + many] = [log] * many
            self._note(held, first, many, message.clock, message.parts)
        effects: list[Effect] = [self._answer(source, message.request)]
        for segment, _, _, _ in message.slices if self._early else ():
            effects += self._apply_next(held, segment)
        return effects

    def take_snapshot(self, held: Held, source: int, message: Snapshot) -> list[Effect]:
        """Put the state of segments in the place of what was there, unless it is older."""
        mine = self._find_mine(held, source, message)
        if mine is None:
            return []
        effects: list[Effect] = []
        at = 0
        for place, (segment, log, _, count) in enumerate(message.slices):
            keys = None if message.keys is None else message.keys[at : at + count]
            rows = message.rows[at : at + count]
            at += count
            if segment not in mine or (segment in held.level and log <= held.logs[segment]):
                continue
            held.store.load(segment, keys, rows)
            numbers, clocks = message.numbers[place].tolist(), message.clocks[place].tolist()
            before = message.before[place] if message.before else None
            held.adopt(segment, log, numbers, clocks, before)
            held.level.add(segment)
            effects += self._apply_next(held, segment)
        return [*effects, self._answer(source, message.request)]

    def _find_mine(
        self, held: Held, source: int, message: Replicate | Snapshot
    ) -> set[int] | None:
        """Return the segments of a message that are copied here; None if it has to be refused.

        Then none of them is the sender's, or was it when it was sent. Of an owner that goes on,
        what has moved is as good as taken: all had it before it was handed over.
        """
        owner, since, epoch = held.owner, held.since, message.epoch
        told = [s for s, _, _, _ in message.slices if owner[s] == source and epoch >= since[s]]
        if not told and message.slices:
            self.refused += 1
            return None
        return held.copied.intersection(told)

    def _apply_next(self, held: Held, segment: int) -> list[Effect]:
        """Apply the updates of a segment that follow the last one, as far as they are here."""
        early = self._early.get((held.index, segment))
        if early is None or segment not in held.level:
            return []
        effects: list[Effect] = []
        for log in [log for log in early if log <= held.logs[segment]]:
            effects += self._count(early.pop(log).shipped)
        while (entry := early.pop(held.logs[segment] + 1, None)) is not None:
            held.log(segment)
            if held.undo is not None:
                held.undo.note(segment, entry.clock, entry.where)
            update_rows(held.store, entry.where, entry.values)
            self._note(held, segment, 1, entry.clock, entry.parts)
            effects += self._count(entry.shipped)
        if not early:
            del self._early[held.index, segment]
        return effects

    def _note(self, held: Held, first: int, many: int, clock: int, parts: Parts) -> None:
        """Note the numbers and clocks that an update of some segments brings."""
        mine = slice(first, first + many)
        for stream, number in parts:
            for numbers in (*held.applied[mine], *held.accepted[mine]):
                numbers[stream] = number
        for stream in held.moved(parts):
            held.clocks.advance(stream, first, first + many, clock)

    def _count(self, shipped: Shipped) -> list[Effect]:
        shipped.open -= 1
        return [] if shipped.open else [self._answer(shipped.source, shipped.request)]

    def _answer(self, source: int, request: int) -> Send:
        answer = Replicated(epoch=self.epoch, incarnation=self.incarnation, request=request)
        return Send(source, answer)
