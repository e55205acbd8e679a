"""A copy's side: each segment's updates in the order of their log numbers, of its owner alone."""

from itertools import permutations
from typing import Any

import numpy as np

from mpips.core.machine import Send
from mpips.core.server import ServerMachine
from mpips.store.table import make_store
from mpips.wire.messages import Message, Replicate, Replicated, Slice, Snapshot
from mpips.wire.types import Table, View, make_epoch
from tests.core.replicas import make_view
from tests.core.schedules import History

OWNER, COPY, OTHER = 1, 2, 3
DENSE = Table(name="w", size=8, segments=2, update=History)
SPARSE = Table(name="w", kind="sparse", segments=2, update=History)
SUMS = Table(name="w", size=8, segments=2, aggregate=True, mode="sequential")
HALF = 2**63
IN_SYNC = make_view([OWNER, OWNER], [[COPY, OTHER], [COPY, OTHER]])


class Copy:
    """A server that has copies, and what it has confirmed."""

    def __init__(self, table: Table = DENSE, view: View = IN_SYNC, streams: int = 2) -> None:
        self.machine = ServerMachine(COPY, [make_store(table)], streams)
        # It is in the job from the beginning; the view may come later.
        if not view.is_first:
            nobody = make_view([OTHER] * table.segments, [])
            self.machine.install(nobody)
        self.machine.install(view)
        self.confirmed: list[tuple[int, int]] = []

    def take(self, message: Message, source: int = OWNER) -> list[int]:
        """Take a message; return the requests that are confirmed by that, all to their sources."""
        effects = self.machine.step(0.0, source, message)
        self.machine.validate()
        confirmed = []
        for effect in effects:
            assert isinstance(effect, Send)
            assert isinstance(effect.message, Replicated)
            confirmed.append(effect.message.request)
            self.confirmed.append((effect.dest, effect.message.request))
        return confirmed

    def install(self, view: View) -> None:
        """Have the next view."""
        self.machine.install(view)

    def values(self, segment: int = 0) -> list[float]:
        """Return the values of a segment."""
        _, rows = self.machine.stores[0].snapshot(segment)
        return [float(row[0]) for row in rows]

    @property
    def refused(self) -> int:
        """Return how many messages were refused."""
        return self.machine.statistics()["refused"]


def update(log: int, value: float, segment: int = 0, counter: int = 1, **more: Any) -> Replicate:
    """Return an update of the whole of one dense segment; its request is its log number."""
    fields: dict[str, Any] = {
        "epoch": make_epoch(counter, 0),
        "request": log,
        "table": 0,
        "clock": log,
        "parts": [(0, log)],
        "slices": [(segment, log, 4 * segment, 4)],
        "keys": None,
        "values": np.full((4, 1), value),
    }
    return Replicate(**{**fields, **more})


def snapshot(
    log: int, value: float, segment: int = 0, counter: int = 1, request: int = 100
) -> Snapshot:
    """Return the state of a dense segment after a log number, all of logical worker 0."""
    return Snapshot(
        epoch=make_epoch(counter, 0),
        request=request,
        table=0,
        slices=[(segment, log, 0, 4)],
        numbers=np.array([[log, 0]]),
        clocks=np.array([[log, 0]]),
        keys=None,
        rows=np.full((4, 1), value),
    )


# -- Updates -------------------------------------------------------------------------------------


def test_update_that_is_the_next_is_applied_and_confirmed() -> None:
    copy = Copy()
    assert copy.take(update(1, 5.0)) == [1]
    assert copy.take(update(2, 7.0)) == [2]
    assert copy.values() == [5.0 * 31 + 7] * 4
    assert copy.confirmed == [(OWNER, 1), (OWNER, 2)]
    held = copy.machine._held[0]
    assert (held.applied[0], held.accepted[0], held.logs) == ([2, 0], [2, 0], [2, 0])


def test_updates_wait_for_the_one_that_is_missing() -> None:
    copy = Copy()
    assert copy.take(update(3, 3.0)) == []
    assert copy.take(update(2, 2.0)) == []
    # A confirmation now would be a lie: the owner may die, and 1 with it.
    assert copy.values() == [0.0] * 4
    assert copy.take(update(1, 1.0)) == [1, 2, 3]
    assert copy.values() == [(1.0 * 31 + 2) * 31 + 3] * 4


def test_order_of_coming_does_not_matter() -> None:
    expected = Copy()
    for log in range(1, 5):
        expected.take(update(log, float(log)))
    for order in permutations(range(1, 5)):
        copy = Copy()
        for log in order:
            copy.take(update(log, float(log)))
        assert copy.values() == expected.values(), order
        assert sorted(copy.confirmed) == [(OWNER, log) for log in range(1, 5)]


def test_duplicate_is_confirmed_again_and_applied_once() -> None:
    copy = Copy()
    for _ in range(3):
        assert copy.take(update(1, 5.0)) == [1]
    assert copy.values() == [5.0] * 4


def test_segment_that_is_named_twice_is_applied_once() -> None:
    copy = Copy()
    twice = [(0, 1, 0, 4), (0, 1, 0, 4)]
    copy.take(update(1, 5.0, slices=twice, values=np.full((8, 1), 5.0)))
    assert copy.values() == [5.0] * 4
    assert copy.take(update(2, 7.0)) == [2]


def test_duplicate_of_an_early_update_is_applied_once() -> None:
    copy = Copy()
    for _ in range(2):
        assert copy.take(update(2, 2.0)) == []
    assert 2 in copy.take(update(1, 1.0))
    assert copy.values() == [33.0] * 4
    assert copy.take(update(2, 2.0)) == [2]
    assert copy.values() == [33.0] * 4


def test_segments_have_logs_of_their_own() -> None:
    copy = Copy()
    assert copy.take(update(2, 2.0, segment=0)) == []
    assert copy.take(update(1, 9.0, segment=1, request=50)) == [50]
    assert (copy.values(0), copy.values(1)) == ([0.0] * 4, [9.0] * 4)


def test_request_is_confirmed_when_all_of_its_slices_are_applied() -> None:
    copy = Copy()
    both: list[Slice] = [(0, 1, 0, 4), (1, 2, 4, 4)]
    values = np.array([[1.0]] * 4 + [[2.0]] * 4)
    # One slice is the next of its segment, the other one is early.
    assert copy.take(update(0, 0, request=7, slices=both, values=values)) == []
    assert (copy.values(0), copy.values(1)) == ([1.0] * 4, [0.0] * 4)
    assert sorted(copy.take(update(1, 5.0, segment=1, request=6))) == [6, 7]
    assert copy.values(1) == [5.0 * 31 + 2] * 4
    # It comes again: nothing changes, and it is confirmed again.
    assert copy.take(update(0, 0, request=7, slices=both, values=values)) == [7]
    assert (copy.values(0), copy.values(1)) == ([1.0] * 4, [157.0] * 4)


def test_keys_of_a_sparse_table_come_where_they_belong() -> None:
    copy = Copy(SPARSE)
    keys = np.array([3, HALF + 1, HALF + 5], np.uint64)
    values = np.array([[1.0], [2.0], [3.0]])
    slices: list[Slice] = [(0, 1, 0, 1), (1, 1, 0, 2)]
    assert copy.take(update(1, 0, slices=slices, keys=keys, values=values)) == [1]
    late = update(2, 0, slices=[(1, 3, 0, 1)], keys=keys[2:], values=np.array([[7.0]]))
    assert copy.take(late) == []
    # An update may be a note of the clock alone, without keys.
    note = update(3, 0, slices=[(1, 2, 0, 0)], keys=keys[:0], values=values[:0], request=9)
    assert sorted(copy.take(note)) == [2, 9]
    found, rows = copy.machine.stores[0].snapshot(1)
    assert found is not None
    assert found.tolist() == keys[1:].tolist()
    assert rows[:, 0].tolist() == [2.0, 3.0 * 31 + 7]


def test_sum_moves_the_clocks_of_all_logical_workers() -> None:
    copy = Copy(SUMS)
    # Logical worker 1 has contributed nothing to this clock.
    assert copy.take(update(1, 5.0, clock=4, parts=[(0, 2)])) == [1]
    held = copy.machine._held[0]
    assert held.applied[0] == [2, 0]
    assert [clock.least(0, 1) for clock in held.clocks.clocks] == [4, 4]


# -- Snapshots -----------------------------------------------------------------------------------


def test_snapshot_and_updates_in_any_order_give_the_owner_s_state() -> None:
    # The snapshot is as after 3, so that 4 and 5 follow it, and 2 and 3 are in it.
    joins = make_view([OWNER, OWNER], [[], []], [[COPY], [COPY]], counter=2)
    for order in permutations([100, 2, 3, 4, 5]):
        copy = Copy(DENSE, joins)
        for what in order:
            is_update = what < 100
            message = update(what, float(what), counter=2) if is_update else snapshot(3, 10.0, 0, 2)
            copy.take(message)
            assert is_update or (OWNER, 100) in copy.confirmed
        assert copy.values() == [(10.0 * 31 + 4) * 31 + 5] * 4, order
        assert sorted(copy.confirmed) == [(OWNER, request) for request in (2, 3, 4, 5, 100)]
        held = copy.machine._held[0]
        assert (held.logs[0], held.applied[0]) == (5, [5, 0])


def test_update_is_not_confirmed_before_the_snapshot_is_there() -> None:
    joins = make_view([OWNER, OWNER], [[], []], [[COPY], [COPY]], counter=2)
    copy = Copy(DENSE, joins)
    # Even number 1 is no beginning: what the owner began with is in the snapshot.
    assert copy.take(update(1, 1.0, counter=2)) == []
    assert copy.take(snapshot(0, 6.0, counter=2)) == [1, 100]
    assert copy.values() == [6.0 * 31 + 1] * 4


def test_snapshot_that_comes_again_does_not_undo_what_followed() -> None:
    joins = make_view([OWNER, OWNER], [[], []], [[COPY], [COPY]], counter=2)
    copy = Copy(DENSE, joins)
    copy.take(snapshot(3, 10.0, counter=2))
    copy.take(update(4, 1.0, counter=2))
    assert copy.take(snapshot(3, 10.0, counter=2)) == [100]
    assert copy.values() == [311.0] * 4


def test_snapshot_of_a_sparse_segment_replaces_its_keys() -> None:
    joins = make_view([OWNER, OWNER], [[], []], [[COPY], [COPY]], counter=2)
    copy = Copy(SPARSE, joins)
    keys = np.array([1, 5, HALF + 2], np.uint64)
    message = Snapshot(
        epoch=make_epoch(2, 0),
        request=8,
        table=0,
        slices=[(0, 4, 0, 2), (1, 6, 0, 1)],
        numbers=np.array([[3, 1], [5, 0]]),
        clocks=np.zeros((2, 2), np.int64),
        keys=keys,
        rows=np.array([[1.0], [2.0], [3.0]]),
    )
    assert copy.take(message) == [8]
    store, held = copy.machine.stores[0], copy.machine._held[0]
    for segment, expected in ((0, [1, 5]), (1, [HALF + 2])):
        found, _ = store.snapshot(segment)
        assert found is not None
        assert found.tolist() == expected
    assert held.logs == [4, 6]
    assert held.applied == [[3, 1], [5, 0]]


# -- Owners that change --------------------------------------------------------------------------


def test_former_owner_is_refused() -> None:
    copy = Copy()
    copy.take(update(1, 1.0))
    copy.install(make_view([OTHER, OTHER], [[COPY], [COPY]], counter=2, since=[2, 2]))
    assert copy.take(update(2, 2.0, counter=1)) == []
    assert copy.take(snapshot(7, 7.0, counter=1)) == []
    # Even if it says that it knows of the view.
    assert copy.take(update(2, 2.0, counter=2)) == []
    assert copy.values() == [1.0] * 4
    assert copy.refused == 3


def test_owner_s_messages_of_before_its_reign_are_refused() -> None:
    # Node 3 was the owner, then node 1, then node 3 again: what it sent in its first reign, late.
    copy = Copy(DENSE, make_view([OTHER, OTHER], [[COPY], [COPY]]))
    copy.install(make_view([OWNER, OWNER], [[COPY], [COPY]], counter=2, since=[2, 2]))
    copy.install(make_view([OTHER, OTHER], [[COPY], [COPY]], counter=3, since=[3, 3]))
    assert copy.take(snapshot(9, 9.0, counter=1), OTHER) == []
    assert copy.take(update(1, 1.0, counter=1), OTHER) == []
    assert copy.refused == 2
    assert copy.take(snapshot(2, 5.0, counter=3), OTHER) == [100]
    assert copy.values() == [5.0] * 4


def test_view_in_which_the_owner_stays_refuses_nothing_that_is_late() -> None:
    copy = Copy()
    copy.install(make_view([OWNER, OWNER], [[COPY], [COPY]], counter=4))
    assert copy.take(update(1, 1.0, counter=1)) == [1]
    assert copy.refused == 0


def test_early_updates_of_a_former_owner_are_forgotten() -> None:
    copy = Copy()
    copy.take(update(1, 1.0))
    # Update 3 of the dead owner is here, 2 never came. The new owner's 2 and 3 are others.
    assert copy.take(update(3, 30.0)) == []
    copy.install(make_view([OTHER, OTHER], [[COPY], [COPY]], counter=2, since=[2, 2]))
    assert copy.take(snapshot(1, 1.0, counter=2), OTHER) == [100]
    assert copy.take(update(2, 2.0, counter=2), OTHER) == [2]
    assert copy.values() == [33.0] * 4
    assert copy.take(update(3, 3.0, counter=2), OTHER) == [3]
    assert copy.values() == [33.0 * 31 + 3] * 4


def test_copy_that_has_more_than_the_new_owner_takes_its_state() -> None:
    copy = Copy()
    for log in (1, 2, 3):
        copy.take(update(log, float(log)))
    # The new owner has not got 3, which was acknowledged to nobody: its log begins after 2.
    copy.install(make_view([OTHER, OTHER], [[COPY], [COPY]], counter=2, since=[2, 2]))
    assert copy.take(update(3, 8.0, counter=2), OTHER) == []
    assert copy.take(snapshot(2, 33.0, counter=2), OTHER) == [3, 100]
    assert copy.values() == [33.0 * 31 + 8] * 4
    held = copy.machine._held[0]
    assert (held.logs[0], held.applied[0]) == (3, [3, 0])


def test_segment_whose_owner_stays_goes_on_without_a_snapshot() -> None:
    copy = Copy(DENSE, make_view([OWNER, OTHER], [[COPY], [COPY]]))
    copy.take(update(1, 1.0))
    copy.take(update(1, 1.0, segment=1), OTHER)
    # Node 3 dies; its segment is node 1's now.
    copy.install(make_view([OWNER, OWNER], [[COPY], [COPY]], counter=2, since=[1, 2]))
    assert copy.take(update(2, 2.0)) == [2]
    assert copy.take(update(2, 2.0, segment=1, counter=2, request=12)) == []
    assert copy.take(snapshot(1, 4.0, segment=1, counter=2)) == [12, 100]
    assert (copy.values(0), copy.values(1)) == ([33.0] * 4, [126.0] * 4)


def test_segment_that_is_no_copy_any_more_is_given_up() -> None:
    copy = Copy()
    copy.take(update(1, 1.0))
    copy.install(make_view([OWNER, OWNER], [[COPY], [OTHER]], counter=2))
    assert copy.machine.stores[0].held == (0,)
    # If it becomes one again, it has nothing, though nothing has been pushed in between.
    copy.install(make_view([OWNER, OWNER], [[COPY], [OTHER]], [[], [COPY]], counter=3))
    assert copy.take(snapshot(0, 0.0, segment=1, counter=3, request=90)) == [90]
    copy.take(update(1, 4.0, segment=1, counter=3))
    copy.install(make_view([OWNER, OWNER], [[COPY], [OTHER]], counter=4))
    copy.install(make_view([OWNER, OWNER], [[COPY], [OTHER]], [[], [COPY]], counter=5))
    assert copy.take(update(2, 1.0, segment=1, counter=5)) == []
    assert copy.take(snapshot(1, 4.0, segment=1, counter=5)) == [2, 100]
    assert copy.values(1) == [4.0 * 31 + 1] * 4
