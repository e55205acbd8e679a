"""Payloads go through memory while their receiver takes them, and by MPI when it does not."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mpips.transport import hostmates as module
from mpips.transport.base import Bytes
from mpips.transport.hostmates import READABLE, HostMates
from mpips.transport.packing import unpack

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory files are Linux's")

PART = 2**21


class End:
    """A node's end, with what it has sent, and where its payloads shall be received."""

    def __init__(self, node: int) -> None:
        self.node = node
        self.messages: list[tuple[int, bytes]] = []
        self.by_mpi: list[tuple[int, bytes]] = []
        self.places: list[Bytes] | None = None
        self.mates = HostMates(self.send, self.send_long, lambda *of: self.places, 2**20)

    def send(self, dest: int, message: bytes) -> None:
        self.messages.append((dest, message))

    def send_long(self, dest: int, head: bytes, payload: Sequence[Any]) -> None:
        self.by_mpi.append((dest, head))

    def knows(self, other: "End") -> None:
        """Let this end send to another one through memory."""
        assert other.mates.meet(self.node, self.mates.name)
        assert not self.mates.meet(other.node, READABLE)

    def done(self) -> None:
        """Tell the others what this end needs no more."""
        self.mates.look_through()
        self.mates.give_back()

    def next_from(self, other: "End") -> list[Bytes]:
        """Return the payload that another end's oldest message tells of."""
        _, message = other.messages.pop(0)
        opened = unpack(bytearray(message))
        assert opened.spot is not None
        return self.mates.read(other.node, opened.spot, opened.head, opened.sizes)


@pytest.fixture
def ends() -> tuple[End, End]:
    one, two = End(0), End(1)
    one.knows(two)
    two.knows(one)
    return one, two


def payload(number: int, size: int = PART) -> list[Bytes]:
    return [np.full(size, number % 251, np.uint8)]


def test_nothing_is_offered_before_the_other_can_read() -> None:
    one, two = End(0), End(1)
    assert not one.mates.offer(1, b"", payload(1))
    # That its own memory can be read says nothing of the other's.
    two.mates.meet(0, one.mates.name)
    assert not two.mates.offer(0, b"", payload(1))
    one.knows(two)
    assert one.mates.offer(1, b"", payload(1))


def test_arrays_are_views_and_can_be_written_to(ends: tuple[End, End]) -> None:
    one, two = ends
    arrays = [np.arange(5.0), np.zeros(0), np.arange(100_000, dtype=np.int32).reshape(100, -1)]
    assert one.mates.offer(1, b"head", arrays)
    found = two.next_from(one)
    for array, part in zip(arrays, found, strict=True):
        assert np.array_equal(part.view(array.dtype), array.reshape(-1))
        assert part.ctypes.data % 64 == 0
        part[:] = 0
    assert arrays[0][4] == 4


def test_payload_is_received_in_its_place_and_its_block_is_free_at_once(
    ends: tuple[End, End],
) -> None:
    one, two = ends
    two.places = [np.zeros(PART, np.uint8)]
    for number in range(100):
        assert one.mates.offer(1, b"", payload(number))
        (found,) = two.next_from(one)
        assert found is two.places[0]
        assert (found == number % 251).all()
        two.done()
    assert not one.by_mpi
    assert not two.mates.loans


def test_frames_wait_for_who_has_not_looked_and_come_in_order(ends: tuple[End, End]) -> None:
    one, two = ends
    sent = 20
    for number in range(sent):
        assert one.mates.offer(1, b"", payload(number))
    assert one.mates.unsent() == sent - len(one.messages) > 0
    assert one.mates.count(1) == 2 * sent
    assert not one.mates.advance()
    for number in range(sent):
        (found,) = two.next_from(one)
        assert (found == number).all()
        del found
        two.done()
        one.mates.advance()
    assert not one.by_mpi
    assert one.mates.unsent() == one.mates.count(1) == 0


def test_blocks_are_filled_while_more_is_offered(ends: tuple[End, End]) -> None:
    one, two = ends
    for number in range(9):
        one.mates.offer(1, b"", payload(number))
        while one.messages:
            del two.next_from(one)[:]
            two.done()
    # Nobody had to wait for a call of `advance`, but the last ones.
    assert one.mates.unsent() <= 1


def test_who_keeps_what_came_gets_the_rest_by_mpi(ends: tuple[End, End]) -> None:
    one, two = ends
    for number in range(9):
        assert one.mates.offer(1, b"%d" % number, payload(number))
    kept = []
    while one.messages:
        kept += two.next_from(one)
        two.done()
        one.mates.advance()
    # All are sent, nobody waits, and what is kept stays as it is.
    assert one.mates.unsent() == 0
    assert len(kept) + len(one.by_mpi) == 9
    assert one.by_mpi
    assert not one.mates.offer(1, b"", payload(9))
    assert [int(array[0]) for array in kept] == list(range(len(kept)))
    assert all((array == array[0]).all() for array in kept)
    # Once it is given back, memory is used again.
    kept.clear()
    two.done()
    assert one.mates.offer(1, b"", payload(10))


def test_part_of_an_array_keeps_the_whole_block(ends: tuple[End, End]) -> None:
    one, two = ends
    one.mates.offer(1, b"", payload(1))
    part = two.next_from(one)[0].view(np.float32)[5:7]
    two.done()
    for number in range(2, 30):
        if one.mates.offer(1, b"", payload(number)) and one.messages:
            del two.next_from(one)[:]
            two.done()
            one.mates.advance()
    assert (part.view(np.uint8) == 1).all()
    assert len(two.mates.loans) == 1


def test_nothing_is_overwritten_before_it_was_looked_at(ends: tuple[End, End]) -> None:
    one, two = ends
    one.mates.offer(1, b"", payload(1))
    (found,) = two.next_from(one)
    for number in range(2, 9):
        one.mates.offer(1, b"", payload(number))
        one.mates.advance()
    assert (found == 1).all()


def test_what_waits_for_a_lost_node_is_dropped(ends: tuple[End, End]) -> None:
    one, _ = ends
    for number in range(9):
        one.mates.offer(1, b"", payload(number))
    one.mates.bury(1)
    assert one.mates.unsent() == one.mates.count(1) == 0
    assert not one.mates.advance()
    assert not one.mates.offer(1, b"", payload(1))


def test_who_is_lost_while_others_are_sent_to_is_left_out(ends: tuple[End, End]) -> None:
    one, two = ends
    third = End(2)
    one.knows(third)
    for dest in (1, 2):
        for number in range(3):
            assert one.mates.offer(dest, b"", payload(number))
    while one.messages and one.messages[0][0] == 1:
        del two.next_from(one)[:]
    two.done()
    sent = len(one.messages)

    def send(dest: int, message: bytes) -> None:
        one.messages.append((dest, message))
        one.mates.bury(2)
        one.mates.bury(1)

    one.mates._send = send
    assert one.mates.advance()
    assert len(one.messages) == sent + 1
    assert one.mates.unsent() == 0


def test_node_that_was_only_forgotten_keeps_its_blocks(ends: tuple[End, End]) -> None:
    one, two = ends
    third = End(2)
    one.knows(third)
    for number in range(2):
        assert one.mates.offer(1, b"", payload(1 + number))
    one.mates.bury(1)
    for number in range(30):
        if one.mates.offer(2, b"", payload(100 + number)) and len(one.messages) > 2:
            _, message = one.messages.pop()
            spot = unpack(bytearray(message)).spot
            assert spot is not None
            third.mates.read(0, spot, memoryview(b""), [PART])
            third.done()
    # It wakes up, and reads what it was told of.
    for number in range(2):
        (found,) = two.next_from(one)
        assert (found == 1 + number).all()


def test_answers_are_made_where_they_can_be_read(ends: tuple[End, End]) -> None:
    one, two = ends
    assert one.mates.draft(2, PART) is None
    values = one.mates.draft(1, PART)
    assert values is not None
    values[:] = 3
    assert one.mates.offer(1, b"", [values.view(np.float32).reshape(-1, 2)])
    (found,) = two.next_from(one)
    # One memory, seen twice: nothing was copied.
    values[0] = 9
    assert found[0] == 9
    assert (found[1:] == 3).all()


def test_without_such_memory_all_goes_by_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError("no memory files here")

    monkeypatch.setattr(module, "Arena", refuse)
    one, two = End(0), End(1)
    assert one.mates.name == b""
    assert not two.mates.meet(0, one.mates.name)
    assert not one.mates.offer(1, b"", payload(1))
    assert one.mates.draft(1, PART) is None
    assert one.mates.count(1) == one.mates.unsent() == 0
    one.mates.bury(1)
    one.mates.reclaim(1)


def test_other_hosts_greeting_is_not_answered() -> None:
    one, two = End(0), End(1)
    assert not two.mates.meet(0, one.mates.name[:-1] + b"?")
    assert not two.mates.meet(0, b"something else")
