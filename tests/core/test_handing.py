"""Servers while segments move: only the delta is waited for, nothing is lost, nothing is twice."""

import msgspec
import numpy as np
import pytest

from mpips.core.membership import admit
from mpips.core.moving import Move, hand_over, name_heirs
from mpips.wire.frame import Codec
from mpips.wire.messages import (
    Handed,
    Joined,
    Message,
    Pull,
    Push,
    Replicate,
    Replicated,
    Snapshot,
)
from mpips.wire.types import NOBODY, Table, View
from tests.core.replicas import ALL, BOUNDED, DENSE, SPARSE, SUMS, Group, make_view

SCHEDULER = 0


class Movers(Group):
    """A group whose letters to the scheduler are of moves, too.

    Attributes:
        handed: what owners have said to be level.
    """

    handed: list[Handed]

    def deliver(self, *letters: object, keep: bool = False) -> None:
        """Keep what is said of hand-overs apart."""
        for letter in letters:
            _, dest, message = letter  # type: ignore[misc]
            if dest == SCHEDULER and isinstance(message, Handed):
                self.letters = [other for other in self.letters if other is not letter]
                self.handed.append(message)
            else:
                super().deliver(letter, keep=keep)  # type: ignore[arg-type]


def make(table: Table, owners: list[int], copies: list[list[int]]) -> Movers:
    """Return servers 1 to 4."""
    movers = Movers.__new__(Movers)
    movers.handed = []
    movers.__init__(table, make_view(owners, copies, servers=[1, 2, 3, 4]))  # type: ignore[misc]
    return movers


def name(group: Movers, *heirs: int) -> View:
    """Return the view in which segments begin to move; `NOBODY`: one stays."""
    moves = [Move(0, s, node) for s, node in enumerate(heirs) if node != NOBODY]
    return name_heirs(group.view, group.next_epoch(), moves)


def stop(group: Movers) -> View:
    """Return the view in which those stop whose heirs have joined."""
    joins = {(m.table, m.copy): m.segments for m in group.joined}
    return admit(group.view, group.next_epoch(), joins)


def hand(group: Movers) -> View:
    """Return the view in which what is level has its heir for an owner."""
    levels: dict[int, set[int]] = {}
    for message in group.handed:
        levels.setdefault(message.table, set()).update(message.segments)
    return hand_over(group.view, group.next_epoch(), levels)


KEYS = {"dense": ALL, "sparse": np.arange(4, dtype=np.uint64) * np.uint64(2**62)}


@pytest.mark.parametrize("table", [DENSE, SPARSE, SUMS], ids=["dense", "sparse", "sums"])
def test_segment_is_served_until_its_heir_has_it_and_then_by_the_heir(table: Table) -> None:
    count = table.segments
    group = make(table, [1] * count, [[2]] * count)
    where = KEYS[table.kind]
    first = [group.push(where, 1.0, stream) for stream in (0, 1)]
    group.deliver_all()
    group.announce(name(group, *[3] * count))
    # It is served all the while.
    second = [group.push(where, 2.0, stream) for stream in (0, 1)]
    group.deliver_all()
    assert set(first + second) <= set(group.finished)
    group.announce(stop(group))
    third = [group.push(where, 3.0, stream) for stream in (0, 1)]
    group.deliver_all()
    assert not set(third) & set(group.finished)
    (told,) = group.handed
    assert told.segments == list(range(count))
    group.announce(hand(group))
    assert group.view.owners[0].tolist() == [3] * count
    group.deliver_all()
    assert set(third) <= set(group.finished)
    group.check_copies()
    assert group.servers[1].stores[0].held == ()
    logs = {log for node in (2, 3) for log in group.servers[node].tables[0].logs}
    assert logs == ({3} if table is SUMS else {6})


def test_pause_waits_for_the_delta_and_for_nothing_else() -> None:
    """While a segment is stopped no snapshot is sent; only what was on its way is waited for."""
    group = make(DENSE, [1, 1], [[2], [2]])
    group.push(ALL, 1.0)
    group.deliver_all()
    group.announce(name(group, 3, NOBODY))
    group.deliver_all()
    snapshots = [m.statistics()["snapshots"] for m in group.servers.values()]
    push = group.push(ALL, 2.0)
    group.deliver(*group.find(Push))
    delta = group.find(Replicate)
    assert [dest for _, dest, _ in delta] == [2, 3]
    group.announce(stop(group))
    # The delta is one update of two copies; nothing else has to come before it is level.
    assert group.find(Handed) == []
    assert len(group.find(Replicate)) == 2
    group.deliver(*delta)
    group.deliver(*group.find(Replicated)[:1])
    assert group.find(Handed) == []
    group.deliver(*group.find(Replicated))
    assert len(group.find(Handed)) == 1
    group.deliver_all()
    group.announce(hand(group))
    group.push(ALL, 3.0)
    group.deliver_all()
    # Nor does the new owner send snapshots: all copies are level with it.
    assert [m.statistics()["snapshots"] for m in group.servers.values()] == snapshots
    assert push in group.finished
    group.check_copies()


def size_of(message: Message) -> int:
    """Return how many bytes a message takes on its way."""
    head, arrays = Codec().encode(message)
    return len(head) + sum(array.nbytes for array in arrays)


def move_under_load(keys: int, updates: int) -> tuple[int, int]:
    """Move a segment while updates of 50 keys are on their way.

    Returns:
        The bytes that travel until the segment is stopped for its snapshot, and those that travel
        from then on until its owner says that it is level.
    """
    table = Table(name="w", size=keys, segments=1)
    group = make(table, [1], [[2]])
    group.push((0, keys), 1.0)
    group.deliver_all()
    group.announce(name(group, 3))
    snapshot = sum(size_of(message) for _, _, message in group.find(Snapshot))
    group.deliver_all()
    for number in range(updates):
        group.push((number, number + 50), 1.0)
    group.deliver(*group.find(Push))
    group.announce(stop(group))
    pause = 0
    while not group.handed:
        (letter, *_) = group.letters
        pause += size_of(letter[2])
        group.deliver(letter)
    group.announce(hand(group))
    group.deliver_all()
    group.check_copies()
    return snapshot, pause


def test_pause_is_proportional_to_the_delta_and_not_to_the_size_of_the_segment() -> None:
    sizes = {keys: move_under_load(keys, updates=8) for keys in (200, 2_000, 20_000)}
    snapshots, pauses = zip(*sizes.values(), strict=True)
    assert snapshots[2] > 50 * snapshots[0]
    assert max(pauses) <= 1.02 * min(pauses)
    deltas = [move_under_load(2_000, updates)[1] for updates in (8, 16, 32)]
    assert deltas[1] == pytest.approx(2 * deltas[0], rel=0.1)
    assert deltas[2] == pytest.approx(4 * deltas[0], rel=0.1)


def test_copy_that_is_the_heir_needs_no_snapshot_at_all() -> None:
    group = make(DENSE, [1, 1], [[2], [2]])
    group.push(ALL, 1.0)
    group.deliver_all()
    group.announce(name(group, 2, 2))
    group.deliver_all()
    group.announce(hand(group))
    # It is served by node 2, and node 1 is its copy.
    group.push(ALL, 2.0)
    group.deliver_all()
    assert all(m.statistics()["snapshots"] == 0 for m in group.servers.values())
    group.check_copies()
    group.announce(group.kill(2, keep=False))
    group.push(ALL, 4.0)
    group.deliver_all()
    assert len(group.finished) == 3
    assert group.view.owners[0].tolist() == [1, 1]


def test_requests_to_what_is_stopped_wait_and_others_do_not() -> None:
    group = make(DENSE, [1, 1], [[2], [2]])
    group.announce(name(group, 2, NOBODY))
    stopped, served = group.push((0, 4), 1.0), group.push((4, 8), 1.0)
    pulls = group.pull((0, 4)), group.pull((4, 8))
    group.deliver_all()
    assert {served, pulls[1]} == set(group.finished) - {stopped, pulls[0]} == set(group.finished)
    group.announce(hand(group))
    group.deliver_all()
    assert set(group.finished) == {stopped, served, *pulls}
    assert group.servers[1].statistics()["stopped_pushes"] == 1


def test_move_that_is_called_off_goes_on_with_what_was_parked() -> None:
    group = make(BOUNDED, [1, 1], [[2], [2]])
    group.announce(name(group, 2, NOBODY))
    pushes = [group.push(ALL, 1.0, stream) for stream in (0, 1)]
    group.deliver_all()
    assert group.finished == {}
    free = np.full(2, NOBODY, np.int32)
    off = msgspec.structs.replace(
        group.view, epoch=group.next_epoch(), heirs=(free,), stops=(np.zeros(2, np.int64),)
    )
    group.announce(off)
    # Its clients have not sent anything again: the owner is the same.
    assert group.find(Push) == []
    group.deliver_all()
    assert set(pushes) == set(group.finished)
    group.check_copies()


def test_level_is_told_again_in_each_view() -> None:
    # The scheduler may be another one by then, and not know.
    group = make(DENSE, [1, 1], [[2], [2]])
    group.announce(name(group, 2, NOBODY))
    group.deliver_all()
    group.announce(msgspec.structs.replace(group.view, epoch=group.next_epoch()))
    group.deliver_all()
    assert [message.segments for message in group.handed] == [[0], [0]]
    assert group.handed[0].epoch < group.handed[1].epoch


def test_owner_that_has_missed_a_view_lets_the_heir_join_anew() -> None:
    group = make(DENSE, [1, 1], [[2], [2]])
    group.push(ALL, 1.0)
    group.deliver_all()
    group.announce(name(group, 3, NOBODY))
    group.deliver_all()
    group.joined = []
    free = np.full(2, NOBODY, np.int32)
    off = msgspec.structs.replace(group.view, epoch=group.next_epoch(), heirs=(free,))
    # The move is called off; the owner does not see that, the heir drops all, and is named again.
    group.announce(off, 2, 3, 4, 9)
    group.announce(name(group, 3, NOBODY))
    assert [dest for _, dest, _ in group.find(Snapshot)] == [3]
    assert group.find(Joined) == []
    group.deliver_all()
    assert [message.copy for message in group.joined] == [3]


def test_snapshot_of_a_move_that_was_called_off_tells_nothing() -> None:
    group = make(DENSE, [1, 1], [[2], [2]])
    group.push(ALL, 1.0)
    group.deliver_all()
    group.announce(name(group, 3, NOBODY))
    group.deliver(*group.find(Snapshot))
    late = group.find(Replicated)
    group.announce(name_again(group))
    group.deliver(*late)
    # It has answered the first snapshot, and dropped what was in it.
    assert group.find(Joined) == []
    group.deliver_all()
    assert [message.copy for message in group.joined] == [3]


def name_again(group: Movers) -> View:
    """Announce a view without moves to all; return the one that names the same heir again."""
    free = np.full(2, NOBODY, np.int32)
    group.announce(msgspec.structs.replace(group.view, epoch=group.next_epoch(), heirs=(free,)))
    return name(group, 3, NOBODY)


def test_owner_is_answered_by_who_is_no_copy_any_more() -> None:
    # What is on its way to a copy that has been replaced is waited for all the same.
    group = make(DENSE, [1, 1], [[2], [2]])
    push = group.push(ALL, 1.0)
    group.deliver(*group.find(Push))
    other = msgspec.structs.replace(
        group.view, epoch=group.next_epoch(), copies=(np.array([[3], [2]], np.int32),)
    )
    group.announce(other, 2)
    group.deliver_all()
    assert push in group.finished


def test_pull_sees_all_that_was_acknowledged_before_the_move() -> None:
    group = make(DENSE, [1, 1], [[2], [2]])
    group.push(ALL, 1.0)
    group.deliver_all()
    group.announce(name(group, 2, 2))
    pull = group.pull(ALL)
    group.deliver(*group.find(Pull))
    assert pull not in group.finished
    group.deliver_all()
    group.announce(hand(group))
    group.deliver_all()
    assert group.finished[pull][:, 0].tolist() == [1.0] * 8


@pytest.mark.parametrize("table", [DENSE, SPARSE, SUMS], ids=["dense", "sparse", "sums"])
@pytest.mark.parametrize("seed", range(15))
def test_nothing_is_lost_or_doubled_in_any_schedule_of_moves(seed: int, table: Table) -> None:
    rng = np.random.default_rng([seed, 29])
    count = table.segments
    places = [rng.permutation([1, 2, 3, 4]).tolist() for _ in range(count)]
    group = make(table, [p[0] for p in places], [[p[1]] for p in places])
    keys = np.arange(8, dtype=np.uint64) * np.uint64(max(1, table.size // 8))
    pushes = 0
    for step in range(80):
        if step % 6 == 0:
            for stream in (0, 1):
                group.push(keys, float(step + stream + 1), stream)
                pushes += 1
        elif rng.random() < 0.3:
            step_on(group, rng)
        for _ in range(int(rng.integers(5))):
            if group.letters:
                at = int(rng.integers(len(group.letters)))
                group.deliver(group.letters[at], keep=bool(rng.random() < 0.2))
    for _ in range(4):
        group.deliver_all(rng, 0.2)
        step_on(group, rng, begins=False)
    group.deliver_all(rng, 0.2)
    assert len(group.finished) == pushes
    group.check_copies()
    logs = {group.servers[o].tables[0].logs[s] for s, o in enumerate(group.view.owners[0].tolist())}
    assert logs == ({pushes // 2} if table is SUMS else {pushes})


def step_on(group: Movers, rng: np.random.Generator, begins: bool = True) -> None:
    """Let all have the view in which moves are a step further, and others begin."""
    view, epoch = group.view, group.next_epoch()
    joins: dict[tuple[int, int], set[int]] = {}
    for joined in group.joined:
        fresh = {s for s in joined.segments if joined.epoch >= view.asked[0][s]}
        joins.setdefault((0, joined.copy), set()).update(fresh)
    view = admit(view, epoch, joins)
    level = {s for m in group.handed for s in m.segments
             if view.stops[0][s] and m.epoch >= view.stops[0][s]}  # fmt: skip
    group.joined, group.handed = [], []
    view = hand_over(view, epoch, {0: level})
    if rng.random() < 0.2 and begins:
        # Whatever moves is called off.
        view = msgspec.structs.replace(view, heirs=(), stops=())
    moves = [
        Move(0, s, heir)
        for s, heir in enumerate(rng.integers(1, 5, len(view.owners[0])).tolist())
        if begins and view.heirs[0][s] == NOBODY != view.owners[0][s] != heir
    ]
    view = name_heirs(view, epoch, moves)
    group.announce(msgspec.structs.replace(view, epoch=epoch))
