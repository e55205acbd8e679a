"""An owner's side of replication: updates and snapshots on their way to copies.

Each update of a segment has a log number and goes to all of the segment's copies. An answer to a
client waits until all have it, those that are still joining too: so a copy that has taken its
snapshot misses nothing that was ever acknowledged (OSDI 2014, section 4.4).
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from mpips.core.held import NEVER, Applied, Change, Held
from mpips.core.machine import Effect, Send
from mpips.core.slicing import REQUEST_BYTES_MAX, Range, take_spans
from mpips.filters.caching import SentLists
from mpips.wire.messages import Forgotten, Handed, Joined, Replicate, Snapshot
from mpips.wire.slices import Run, Slice, Slices, join_spans
from mpips.wire.types import NOBODY, KeyArray, ValueArray, View


@dataclass(slots=True)
class Shipment:
    """A request to a copy; `joins` says that it is a snapshot for a copy that joins.

    `epoch` is that in which it was sent, `message` an update that was sent without its keys.
    """

    dest: int
    applied: Applied
    epoch: int
    joins: bool = False
    message: Replicate | None = None


class Replicator:
    """What an owner has sent to copies, until they confirm it.

    Snapshots for joining copies go one after the other, so that they leave room for the rest.
    """

    def __init__(self) -> None:
        self.epoch = self.incarnation = 0
        self.snapshots = 0
        self._node = self._scheduler = self._told = 0
        self._request = 0
        self._helds: Sequence[Held] = ()
        self._open: dict[int, Shipment] = {}
        self._lists = SentLists()
        # What copies that join still need: table, node, segments.
        self._joins: deque[tuple[Held, int, list[int]]] = deque()

    def __len__(self) -> int:
        """Return the number of open requests."""
        return len(self._open)

    def updates(self) -> list[Applied]:
        """Return the updates that are not on all copies yet; some of them more than once."""
        return [shipment.applied for shipment in self._open.values()]

    def install(self, view: View, helds: Sequence[Held], node: int) -> list[Applied]:
        """Forget who has left, plan who joins, and return the updates that now are everywhere."""
        self.epoch = view.epoch
        self._scheduler = view.scheduler
        self._node, self._helds = node, helds
        self._lists.forget(member.node for member in view.members)
        appointed = {m.node: m.incarnation for m in view.members if m.role == "server"}
        finished = []
        for request, shipment in list(self._open.items()):
            # Who has left and come again has forgotten what it was sent.
            has_left = shipment.epoch < appointed.get(shipment.dest, NEVER)
            held = helds[shipment.applied.table]
            # A new owner lets them join anew.
            if shipment.joins and all(held.owner[s] != node for s in shipment.applied.segments):
                has_left = True
            if has_left:
                del self._open[request]
                finished += self._close(shipment)
        self._joins.clear()
        for held in helds:
            self._plan_joins(held, view.joining[held.index])
        return finished

    def _plan_joins(self, held: Held, joining: np.ndarray) -> None:
        wanted: dict[int, list[int]] = {}
        for segment, nodes in enumerate(joining.tolist()):
            for copy in (*nodes, held.heirs[segment]):
                is_new = copy != NOBODY and copy not in held.targets[segment]
                if is_new and held.owner[segment] == self._node:
                    wanted.setdefault(copy, []).append(segment)
        self._joins.extend((held, copy, segments) for copy, segments in wanted.items())

    # -- Updates ---------------------------------------------------------------------------------

    def ship(
        self,
        held: Held,
        applied: Applied,
        parts: Sequence[tuple[int, int]],
        slices: Slices,
        keys: KeyArray | None,
        values: ValueArray,
    ) -> list[Effect]:
        """Send an update of some segments to their copies; `applied.open` counts them.

        The mark of each slice is its log number. Arrays are cut only where copies differ.
        """
        slices = slices.split(held.targets, keys)
        # By copy: its runs, and their places in the arrays.
        where: dict[int, tuple[list[Run], list[Range]]] = {}
        at = 0
        for run in slices.runs:
            for copy in held.targets[run[0]]:
                runs, spans = where.setdefault(copy, ([], []))
                runs.append(run)
                spans.append((at, at + run[4]))
            at += run[4]
        if not where:
            return []
        effects: list[Effect] = []
        for copy, (runs, spans) in where.items():
            part_keys, part_values, sent = keys, values, slices
            if len(runs) < len(slices.runs):
                sent, spans = Slices(slices.size, runs), join_spans(spans)
                part_keys = None if keys is None else take_spans(keys, spans)
                part_values = take_spans(values, spans)
            message = Replicate(
                epoch=self.epoch,
                incarnation=self.incarnation,
                request=self._begin(copy, applied),
                table=held.index,
                clock=applied.clock,
                parts=list(parts),
                slices=sent,
                keys=part_keys,
                values=part_values,
            )
            effects.append(self._send_update(copy, message))
        self._note(held, applied)
        return effects

    def ship_changes(self, held: Held, applied: Applied, changes: list[Change]) -> list[Effect]:
        """Send changes of one set of pushes, which were applied one by one."""
        if not any(held.targets[change.segment] for change in changes):
            return []
        are_ranges = any(isinstance(change.where, tuple) for change in changes)
        slices: list[Slice] = []
        for change in changes:
            begin = change.where[0] if isinstance(change.where, tuple) else 0
            slices.append((change.segment, change.log, begin, len(change.values)))
        lists = [change.where for change in changes if not isinstance(change.where, tuple)]
        keys = None if are_ranges else np.concatenate(lists)
        values = np.concatenate([change.values for change in changes])
        return self.ship(held, applied, changes[0].parts, Slices.of(slices), keys, values)

    def _send_update(self, copy: int, message: Replicate) -> Send:
        sent = self._lists.shorten(copy, message)
        self._open[message.request].message = None if sent is message else message
        return Send(copy, sent)

    def send_again(self, source: int, forgotten: Forgotten) -> list[Effect]:
        """Send an update whose key list a copy has forgotten, with the keys."""
        self._lists.miss(source, forgotten)
        shipment = self._open.get(forgotten.request)
        if shipment is None or shipment.dest != source or shipment.message is None:
            return []
        return [self._send_update(source, shipment.message)]

    # -- Snapshots -------------------------------------------------------------------------------

    def level(self, held: Held, segments: Iterable[int], copies: np.ndarray) -> list[Effect]:
        """Send what a new owner begins with to the copies that the view says are in sync."""
        wanted: dict[int, list[int]] = {}
        for segment in segments:
            held.targets[segment] = ()
            for copy in copies[segment].tolist():
                if copy != NOBODY:
                    wanted.setdefault(copy, []).append(segment)
        # What was applied before is on no copy for certain until all of them are level.
        applied = Applied(held.index, sorted(set(chain.from_iterable(wanted.values()))))
        self._note(held, applied)
        effects: list[Effect] = []
        for copy, left in wanted.items():
            while left:
                effects.append(self._send_snapshot(held, copy, left, applied))
        return effects

    def join_next(self) -> list[Effect]:
        """Send the next snapshot to a copy that joins, unless one is on its way."""
        if not self._joins or any(shipment.joins for shipment in self._open.values()):
            return []
        held, copy, left = self._joins[0]
        send = self._send_snapshot(held, copy, left)
        if not left:
            self._joins.popleft()
        return [send]

    def _send_snapshot(
        self, held: Held, copy: int, left: list[int], levelled: Applied | None = None
    ) -> Send:
        """Send as many segments as a message may have, and take them off the list.

        Nobody waits for the snapshot of a copy that joins: it counts once it has it, and it then
        has all that was applied before.
        """
        self.snapshots += 1
        slices: list[Slice] = []
        keys, rows, numbers, clocks, size = [], [], [], [], 0
        while left and size < REQUEST_BYTES_MAX:
            segment = left.pop(0)
            found, state = held.store.snapshot(segment)
            applied, reached = held.state(segment, self.updates())
            slices.append((segment, held.logs[segment], 0, len(state)))
            rows.append(state)
            numbers.append(applied)
            clocks.append(reached)
            if found is not None:
                keys.append(found)
            size += state.nbytes + 8 * len(state)
            # From here on the copy gets every update.
            held.targets[segment] = (*held.targets[segment], copy)
        joined = Applied(held.index, [segment for segment, _, _, _ in slices])
        message = Snapshot(
            epoch=self.epoch,
            incarnation=self.incarnation,
            request=self._begin(copy, levelled or joined, levelled is None),
            table=held.index,
            slices=Slices.of(slices),
            numbers=np.array(numbers, np.int64),
            clocks=np.array(clocks, np.int64),
            keys=np.concatenate(keys) if keys else None,
            rows=np.concatenate(rows),
            before=[held.undo.take(s) for s, _, _, _ in slices] if held.undo else [],
        )
        return Send(copy, message)

    # -- Hand-overs ------------------------------------------------------------------------------

    def busy(self, held: Held) -> set[int]:
        """Return the segments with something on its way to a copy in sync, or to an heir."""
        found: set[int] = set()
        for shipment in self._open.values():
            if shipment.applied.table == held.index:
                found.update(
                    segment
                    for segment in shipment.applied.segments
                    if not shipment.joins or shipment.dest == held.heirs[segment]
                )
        return found

    def hand_over(self) -> list[Effect]:
        """Tell the scheduler which stopped segments are the same everywhere by now."""
        effects: list[Effect] = []
        for held in self._helds:
            if not held.untold:
                continue
            heirs, targets, busy = held.heirs, held.targets, self.busy(held)
            level = sorted(s for s in held.untold if s not in busy and heirs[s] in targets[s])
            held.untold.difference_update(level)
            told = Handed(
                epoch=self.epoch, incarnation=self.incarnation, table=held.index, segments=level
            )
            effects += [Send(self._scheduler, told)] if level else []
        return effects

    # -- Confirmations ---------------------------------------------------------------------------

    def confirm(self, source: int, request: int) -> tuple[list[Applied], list[Effect]]:
        """Take a copy's answer; return the updates that now are everywhere, and what follows."""
        shipment = self._open.get(request)
        if shipment is None or shipment.dest != source:
            return [], []
        del self._open[request]
        effects: list[Effect] = []
        if shipment.joins:
            effects = [*self._tell_joined(shipment), *self.join_next()]
        return self._close(shipment), effects

    def go_on(self, view: View, helds: Sequence[Held], node: int) -> list[Effect]:
        """Let copies join, hand segments over, and tell a new scheduler what copies have."""
        joined = self._tell_again(view, helds, node)
        return [*joined, *self.join_next(), *self.hand_over()]

    def _tell_again(self, view: View, helds: Sequence[Held], node: int) -> list[Effect]:
        if view.scheduler == self._told:
            return []
        self._told = view.scheduler
        on_way = {
            (shipment.applied.table, segment, shipment.dest)
            for shipment in self._open.values()
            if shipment.joins
            for segment in shipment.applied.segments
        }
        there: dict[tuple[int, int], list[int]] = {}
        for held in helds:
            for segment, nodes in enumerate(view.joining[held.index].tolist()):
                for copy in set(nodes).intersection(held.targets[segment]):
                    is_sure = (held.index, segment, copy) not in on_way
                    if is_sure and held.owner[segment] == node:
                        there.setdefault((held.index, copy), []).append(segment)
        return [self._tell(table, copy, segments) for (table, copy), segments in there.items()]

    def _tell_joined(self, shipment: Shipment) -> list[Effect]:
        """Tell the scheduler what a copy has, unless it was asked anew since it was sent that."""
        held = self._helds[shipment.applied.table]
        segments = [
            segment
            for segment in shipment.applied.segments
            if held.owner[segment] == self._node and held.asked[segment] <= shipment.epoch
        ]
        return [self._tell(held.index, shipment.dest, segments)] if segments else []

    def _tell(self, table: int, copy: int, segments: list[int]) -> Send:
        joined = Joined(
            epoch=self.epoch,
            incarnation=self.incarnation,
            table=table,
            copy=copy,
            segments=segments,
        )
        return Send(self._scheduler, joined)

    def _begin(self, copy: int, applied: Applied, joins: bool = False) -> int:
        self._request += 1
        self._open[self._request] = Shipment(copy, applied, self.epoch, joins)
        applied.open += 1
        return self._request

    def _close(self, shipment: Shipment) -> list[Applied]:
        shipment.applied.open -= 1
        return [] if shipment.applied.open else [shipment.applied]

    def _note(self, held: Held, applied: Applied) -> None:
        held.latest.update(dict.fromkeys(applied.segments, applied))
