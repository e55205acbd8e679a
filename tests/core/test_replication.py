"""An owner's side: acks wait for copies, which miss nothing; a new owner levels the others."""

import msgspec
import numpy as np
import pytest

from mpips.wire.messages import Pull, Push, Replicate, Replicated, Values
from mpips.wire.types import NOBODY, Table
from tests.core.replicas import (
    ALL,
    BOUNDED,
    CLIENT,
    DENSE,
    SPARSE,
    SUMS,
    Group,
    make_group,
    make_view,
)

# -- Acks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_ack_waits_for_all_copies(copies: int) -> None:
    group = make_group(copies=copies)
    push = group.push(ALL, 5.0)
    group.deliver(*group.find(Push))
    assert group.values(1, 0) == [5.0] * 4
    assert [dest for _, dest, _ in group.find(Replicate)] == list(range(2, 2 + copies))
    for left in range(copies, 0, -1):
        assert group.acks == 0, left
        group.deliver(group.find(Replicate)[-1])
        group.deliver(*group.find(Replicated))
    assert group.acks == 1
    group.deliver_all()
    assert push in group.finished
    group.check_copies()


def test_ack_comes_at_once_where_there_are_no_copies() -> None:
    group = make_group(copies=0)
    group.push(ALL, 5.0)
    group.deliver(*group.find(Push))
    assert group.acks == 1
    assert group.find(Replicate) == []


def test_duplicate_is_not_acked_before_the_copies_have_the_first_one() -> None:
    group = make_group()
    group.push(ALL, 5.0)
    (letter,) = group.find(Push)
    for _ in range(3):
        group.deliver(letter, keep=True)
    assert group.acks == 0
    assert len(group.find(Replicate)) == 1
    group.deliver(*group.find(Replicate))
    group.deliver(*group.find(Replicated))
    # Each of them is answered, as each answer may be the one that arrives.
    assert group.acks == 3
    group.deliver(letter)
    assert group.acks == 4
    assert group.values(1, 0) == [5.0] * 4


def test_confirmation_counts_once_and_only_from_its_copy() -> None:
    group = make_group(copies=2)
    group.push(ALL, 5.0)
    group.deliver(*group.find(Push))
    group.deliver(group.find(Replicate, dest=2)[0])
    (letter,) = group.find(Replicated)
    for _ in range(3):
        group.deliver(letter, keep=True)
    # What is open is the other copy's request; it alone can confirm it.
    ((_, _, other),) = group.find(Replicate, dest=3)
    assert isinstance(other, Replicate)
    group.deliver((2, 1, Replicated(epoch=other.epoch, request=other.request)))
    assert group.acks == 0
    group.deliver(*group.find(Replicate, dest=3))
    group.deliver(*group.find(Replicated, source=3))
    assert group.acks == 1


def test_ack_of_a_push_to_several_segments_waits_for_the_copies_of_each() -> None:
    view = make_view([1, 1], [[2], [3]])
    group = Group(DENSE, view)
    group.push(ALL, 5.0)
    group.deliver(*group.find(Push))
    for dest, span in ((2, (0, 4)), (3, (4, 8))):
        ((_, _, message),) = group.find(Replicate, dest=dest)
        assert isinstance(message, Replicate)
        # Each copy gets what it has a copy of, and nothing else.
        assert [(s[2], s[2] + s[3]) for s in message.slices] == [span]
        assert len(message.values) == 4
    group.deliver(*group.find(Replicate, dest=3))
    group.deliver(*group.find(Replicated))
    assert group.acks == 0
    group.deliver(*group.find(Replicate, dest=2))
    group.deliver(*group.find(Replicated))
    assert group.acks == 1


def test_keys_are_cut_where_copies_differ() -> None:
    group = Group(SPARSE, make_view([1] * 4, [[2], [3], [2], [3]]))
    size = SPARSE.segment_size
    keys = np.array([1, 2, size, 2 * size + 5, 3 * size, 3 * size + 1], np.uint64)
    group.push(keys, 5.0)
    group.deliver(*group.find(Push))
    for dest, expected in ((2, keys[[0, 1, 3]]), (3, keys[[2, 4, 5]])):
        ((_, _, message),) = group.find(Replicate, dest=dest)
        assert isinstance(message, Replicate)
        assert message.keys is not None
        assert message.keys.tolist() == expected.tolist()
        assert sum(s[3] for s in message.slices) == len(message.values) == 3
    group.deliver_all()
    assert len(group.finished) == 1
    group.check_copies()


def test_pull_that_waits_for_a_clock_waits_for_the_copies_too() -> None:
    group = make_group(BOUNDED)
    for stream in (0, 1):
        group.push(ALL, 1.0, stream)
    pull = group.pull(ALL)
    group.deliver(*group.find(Push), *group.find(Pull))
    # The values are there, but the owner may die, and they would be as if never pushed.
    assert group.find(Values) == []
    group.deliver_all()
    assert group.finished[pull].tolist() == [[2.0]] * 8


def test_push_pull_is_answered_with_what_the_copies_have() -> None:
    group = make_group()
    ticket = group.push(ALL, 5.0, pull=True)
    group.deliver(*group.find(Push))
    assert group.find(Values) == []
    group.deliver_all()
    assert group.finished[ticket].tolist() == [[5.0]] * 8


def test_copy_that_dies_is_waited_for_no_longer() -> None:
    group = make_group(copies=2)
    push = group.push(ALL, 5.0)
    group.deliver(*group.find(Push))
    group.deliver(*group.find(Replicate, dest=3))
    group.deliver(*group.find(Replicated))
    assert group.acks == 0
    view = group.kill(2)
    group.announce(view, 1)
    assert group.acks == 1
    group.announce(view, 3, CLIENT)
    group.deliver_all()
    assert push in group.finished


# -- Sums ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("streams", [1, 3, 5])
def test_sum_goes_to_each_copy_once(copies: int, streams: int) -> None:
    group = make_group(SUMS, copies, streams)
    pushes = [group.push(ALL, 10.0**stream, stream) for stream in range(streams)]
    group.deliver(*group.find(Push)[:-1])
    assert group.find(Replicate) == []
    group.deliver(*group.find(Push))
    sent = group.find(Replicate)
    assert sorted(dest for _, dest, _ in sent) == list(range(2, 2 + copies))
    for _, _, message in sent:
        assert isinstance(message, Replicate)
        assert message.parts == [(stream, 1) for stream in range(streams)]
        assert message.values.ravel().tolist() == [float("1" * streams)] * 8
    assert group.acks == 0
    group.deliver_all()
    assert sorted(group.finished) == pushes
    group.check_copies()
    clocks = group.servers[2]._held[0].clocks
    assert clocks.least(0, 2) == 1


def test_sum_of_key_lists_is_the_union() -> None:
    table = Table(name="w", kind="sparse", segments=2, aggregate=True, mode="sequential")
    group = make_group(table, streams=3)
    for stream, keys in enumerate(([1, 5], [5, 9, 11], [])):
        group.push(np.array(keys, np.uint64), 1.0, stream)
    group.deliver(*group.find(Push))
    ((_, _, message),) = group.find(Replicate)
    assert isinstance(message, Replicate)
    assert message.keys is not None
    assert message.keys.tolist() == [1, 5, 9, 11]
    assert message.values.ravel().tolist() == [1.0, 2.0, 1.0, 1.0]
    # The other segment's clock moves on the copy, too.
    assert message.slices == [(0, 1, 0, 4), (1, 1, 0, 0)]
    group.deliver_all()
    group.check_copies()
    assert group.servers[2]._held[0].clocks.least(0, 2) == 1


def test_sum_that_waited_for_the_dropped_is_replicated() -> None:
    group = make_group(SUMS, 1, 2)
    push = group.push(ALL, 3.0, 0)
    group.deliver(*group.find(Push))
    actors = (CLIENT, NOBODY)
    group.announce(msgspec.structs.replace(group.view, epoch=group.next_epoch(), actors=actors))
    assert group.acks == 0
    group.deliver_all()
    assert push in group.finished
    group.check_copies()
    assert group.values(2, 0) == [3.0] * 4
