"""Copies that join miss nothing, and a new owner levels the copies that it inherits."""

import msgspec
import numpy as np
import pytest

from mpips.core import replication
from mpips.wire.messages import Joined, Push, PushAck, Replicate, Replicated, Snapshot
from mpips.wire.types import NOBODY, Table, View, make_epoch
from tests.core.replicas import (
    ALL,
    BOUNDED,
    DENSE,
    SCHEDULER,
    SPARSE,
    SUMS,
    Group,
    make_group,
    make_view,
)


def join_view(table: Table, joining: list[int], sync: list[int], servers: list[int]) -> View:
    """Return a second view in which node 1 owns all, and some copies join."""
    n = table.segments
    # Rows have places for all of them.
    wide = [sync + [NOBODY] * len(joining)] * n
    return make_view([1] * n, wide, [joining] * n, counter=2, servers=servers)


# -- Joining -------------------------------------------------------------------------------------


def test_joining_copy_gets_a_snapshot_and_every_update_after_it() -> None:
    group = make_group(copies=0)
    group.push(ALL, 1.0)
    group.deliver_all()
    group.announce(join_view(DENSE, [2], [], [1, 2]))
    ((_, _, message),) = group.find(Snapshot)
    assert isinstance(message, Snapshot)
    assert message.slices == [(0, 1, 0, 4), (1, 1, 0, 4)]
    assert message.numbers.tolist() == [[1, 0], [1, 0]]
    push = group.push(ALL, 2.0)
    group.deliver(*group.find(Push))
    ((_, _, update),) = group.find(Replicate)
    assert isinstance(update, Replicate)
    assert [log for _, log, _, _ in update.slices] == [2, 2]
    # It is not in sync yet, but the ack waits for it: what is acked after the snapshot is there.
    assert group.acks == 1
    group.deliver(*group.find(Replicate))
    assert group.find(Replicated) == []
    group.deliver(*group.find(Snapshot))
    group.deliver_all()
    assert push in group.finished
    ((told,),) = [group.joined]
    assert (told.table, told.copy, told.segments) == (0, 2, [0, 1])
    group.announce(group.admit())
    group.check_copies()
    assert group.values(2, 1) == [33.0] * 4


def test_scheduler_is_told_only_when_the_snapshot_is_there() -> None:
    group = make_group(copies=0)
    group.announce(join_view(DENSE, [2], [], [1, 2]))
    assert group.find(Joined) == []
    group.deliver(*group.find(Snapshot))
    assert group.find(Joined) == []
    group.deliver(*group.find(Replicated))
    assert [dest for _, dest, _ in group.find(Joined)] == [SCHEDULER]


def test_snapshots_for_joining_copies_go_one_after_the_other() -> None:
    group = make_group(copies=2)
    group.announce(join_view(DENSE, [4, 5], [], [1, 2, 3, 4, 5]), 1)
    order = []
    while sent := group.find(Snapshot):
        ((_, dest, message),) = sent
        assert isinstance(message, Snapshot)
        order.append((dest, [segment for segment, *_ in message.slices]))
        group.letters = [letter for letter in group.letters if letter not in sent]
        # Another view in between changes nothing.
        group.announce(msgspec.structs.replace(group.view, epoch=group.next_epoch()), 1)
        assert group.find(Snapshot) == []
        confirmed = Replicated(epoch=message.epoch, request=message.request)
        group.deliver((dest, 1, confirmed))
    assert order == [(4, [0, 1]), (5, [0, 1])]
    assert [message.copy for _, _, message in group.find(Joined)] == [4, 5]


@pytest.mark.parametrize("table", [DENSE, SPARSE])
def test_large_snapshot_goes_in_parts(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    group = make_group(table, copies=0)
    keys = np.arange(8, dtype=np.uint64) * np.uint64(max(1, table.size // 8))
    group.push(keys, 1.0)
    group.deliver_all()
    # A message is full with the first segment that makes it so.
    monkeypatch.setattr(replication, "REQUEST_BYTES_MAX", 1)
    group.announce(join_view(table, [2], [], [1, 2]))
    seen: list[int] = []
    while sent := group.find(Snapshot):
        ((_, _, message),) = sent
        assert isinstance(message, Snapshot)
        assert len(message.slices) == 1
        seen += [segment for segment, *_ in message.slices]
        # What is pushed between the parts is in the next ones, or comes as an update: once.
        group.push(keys, 3.0)
        group.deliver(*group.find(Push))
        group.deliver(*sent)
        group.deliver(*group.find(Replicated))
    assert seen == list(range(table.segments))
    group.deliver_all()
    told = [segment for message in group.joined for segment in message.segments]
    assert told == seen
    group.announce(group.admit())
    group.check_copies()
    assert len(group.finished) == 1 + table.segments


def test_snapshot_of_a_joining_copy_begins_anew_with_a_new_owner() -> None:
    # Node 1 owns all, 2 is in sync, 3 joins; node 1 dies before 3 has its snapshot.
    group = make_group(copies=1)
    group.push(ALL, 1.0)
    group.deliver_all()
    sync = make_view([1, 1], [[2], [2]], servers=[1, 2, 3])
    group = Group(DENSE, sync)
    group.push(ALL, 1.0)
    group.deliver_all()
    group.announce(make_view([1, 1], [[2, -1], [2, -1]], [[3], [3]], counter=2, servers=[1, 2, 3]))
    late = group.find(Snapshot, source=1)
    view = group.kill(1)
    assert view.owners[0].tolist() == [2, 2]
    assert (view.copies[0] == NOBODY).all()
    group.announce(view)
    group.push(ALL, 2.0)
    # The dead owner's snapshot comes late, and is refused.
    group.deliver(*late)
    assert group.servers[3].statistics()["refused"] == 1
    group.deliver_all()
    group.announce(group.admit())
    assert (group.view.copies[0][:, 0] == 3).all()
    group.check_copies()
    assert group.values(3, 0) == [33.0] * 4


def test_joining_copy_that_dies_lets_the_next_one_join() -> None:
    group = Group(DENSE, make_view([1, 1], [[], []], servers=[1, 2, 3]))
    group.announce(join_view(DENSE, [2, 3], [], [1, 2, 3]))
    assert [dest for _, dest, _ in group.find(Snapshot)] == [2]
    group.push(ALL, 1.0)
    group.deliver(*group.find(Push))
    assert group.acks == 0
    group.announce(group.kill(2))
    assert group.acks == 1
    assert [dest for _, dest, _ in group.find(Snapshot)] == [3]
    group.deliver_all()
    assert {message.copy for message in group.joined} == {3}


# -- New owners ----------------------------------------------------------------------------------


def test_new_owner_levels_the_copies_before_its_first_update() -> None:
    group = make_group(copies=3)
    group.push(ALL, 1.0)
    group.deliver_all()
    # One more push reaches node 4 alone; node 1 dies, and node 2, which has not got it, takes over.
    push = group.push(ALL, 2.0)
    group.deliver(*group.find(Push))
    group.deliver(*group.find(Replicate, dest=4))
    view = group.kill(1, keep=False)
    assert view.owners[0].tolist() == [2, 2]
    group.announce(view)
    assert [dest for _, dest, _ in group.find(Snapshot)] == [3, 4]
    # The client has sent the push again, and it is applied where it was, and where it was not.
    group.deliver(*group.find(Push))
    assert group.acks == 1
    group.deliver_all()
    assert push in group.finished
    group.check_copies()
    assert [group.values(node, 0) for node in (2, 3, 4)] == [[33.0] * 4] * 3
    assert group.joined == []


def test_push_that_the_new_owner_has_is_acked_when_the_others_have_it() -> None:
    group = make_group(copies=2)
    push = group.push(ALL, 2.0)
    group.deliver(*group.find(Push))
    # It reaches the first copy, but not the second.
    group.deliver(*group.find(Replicate, dest=2))
    group.announce(group.kill(1, keep=False))
    group.deliver(*group.find(Push))
    assert group.acks == 0
    assert group.find(Replicate) == []
    group.deliver(*group.find(Snapshot))
    group.deliver(*group.find(Replicated))
    assert group.acks == 1
    group.deliver_all()
    assert push in group.finished
    assert group.values(2, 0) == group.values(3, 0) == [2.0] * 4


def test_acked_push_survives_every_single_owner() -> None:
    group = make_group(copies=2)
    push = group.push(ALL, 2.0)
    group.deliver_all()
    assert push in group.finished
    for node in (1, 2):
        group.announce(group.kill(node, keep=False))
        group.deliver_all()
        assert group.values(node + 1, 0) == [2.0] * 4


def test_late_replicate_of_the_dead_owner_changes_nothing() -> None:
    group = make_group(copies=2)
    group.push(ALL, 2.0)
    group.deliver(*group.find(Push))
    late = group.find(Replicate, source=1)
    group.announce(group.kill(1))
    group.deliver(*late)
    assert group.values(3, 0) == [0.0] * 4
    group.deliver_all()
    group.check_copies()
    assert group.values(3, 0) == [2.0] * 4


def test_snapshot_has_the_clocks_of_updates_that_are_on_their_way() -> None:
    # Clocks move when copies have an update; its values are in a snapshot already.
    group = Group(BOUNDED, make_view([1, 1], [[2], [2]], servers=[1, 2, 3]))
    group.push(ALL, 1.0, 0)
    group.push(ALL, 1.0, 1)
    group.deliver(*group.find(Push))
    group.announce(make_view([1, 1], [[2, -1]] * 2, [[3]] * 2, counter=2, servers=[1, 2, 3]))
    ((_, _, message),) = group.find(Snapshot)
    assert isinstance(message, Snapshot)
    assert message.clocks.tolist() == [[1, 1], [1, 1]]
    assert message.numbers.tolist() == [[1, 1], [1, 1]]


# -- Schedules -----------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [DENSE, SPARSE, SUMS], ids=lambda table: table.kind)
@pytest.mark.parametrize("seed", range(20))
def test_copies_are_equal_after_any_schedule_of_deaths(seed: int, table: Table) -> None:
    rng = np.random.default_rng([seed, 23])
    servers = list(range(1, int(rng.integers(3, 6))))
    replicas = min(2, len(servers) - 1)
    places = [rng.permutation(servers).tolist() for _ in range(table.segments)]
    view = make_view([p[0] for p in places], [p[1 : 1 + replicas] for p in places], servers=servers)
    group = Group(table, view)
    deaths = int(rng.integers(1, replicas + 1))
    pushes = 0
    for step in range(60):
        if step % 6 == 0:
            for stream in (0, 1):
                keys = np.arange(8, dtype=np.uint64) * np.uint64(max(1, table.size // 8))
                group.push(keys, float(step + stream + 1), stream)
                pushes += 1
        elif deaths and rng.random() < 0.05:
            deaths -= 1
            alive = sorted(group.servers)
            view = group.kill(alive[int(rng.integers(len(alive)))], keep=bool(rng.random() < 0.5))
            # Everybody learns of it now; what is on its way arrives later.
            group.announce(view)
        elif group.joined and rng.random() < 0.5:
            group.announce(group.admit())
        for _ in range(int(rng.integers(4))):
            if group.letters:
                at = int(rng.integers(len(group.letters)))
                group.deliver(group.letters[at], keep=bool(rng.random() < 0.2))
    group.deliver_all(rng, 0.2)
    while group.joined:
        group.announce(group.admit())
        group.deliver_all(rng, 0.2)
    assert len(group.finished) == pushes
    group.check_copies()
    logs = {log for node in group.servers for log in group.servers[node]._held[0].logs}
    assert logs <= ({0, pushes} if table is not SUMS else {0, pushes // 2})


def test_epoch_and_incarnation_are_on_what_owners_send() -> None:
    group = make_group(copies=2)
    group.push(ALL, 1.0)
    group.deliver(*group.find(Push))
    assert {m.incarnation for _, _, m in group.find(Replicate)} == {make_epoch(1, 0)}
    assert {m.epoch for _, _, m in group.find(Replicate)} == {make_epoch(1, 0)}
    group.announce(group.kill(1, keep=False))
    assert {m.epoch for _, _, m in group.find(Snapshot)} == {make_epoch(2, 0)}
    assert group.find(PushAck) == []
