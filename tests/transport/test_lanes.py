"""Transfers begin, and are seen to be done, in order, a few at a time."""

import numpy as np
import pytest

from mpips.transport.base import Bytes
from mpips.transport.lanes import Arrivals, Lane


class Wire:
    """Begins transfers, which are done when the test says so."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.done: set[bytes] = set()

    def begin(self, data: bytes) -> "Pending":
        self.begun.append(data)
        return Pending(self, data)


class Pending:
    def __init__(self, wire: Wire, data: bytes) -> None:
        self.wire, self.data = wire, data

    def Test(self) -> bool:
        return self.data in self.wire.done


def test_window_bounds_what_is_under_way() -> None:
    wire, finished = Wire(), list[int]()
    lane = Lane(wire.begin, finished.append, 2)
    for number in range(4):
        lane.add(b"%d" % number, number)
    lane.advance()
    assert wire.begun == [b"0", b"1"]
    assert finished == []


def test_transfers_are_finished_in_order_though_done_out_of_order() -> None:
    wire, finished = Wire(), list[int]()
    lane = Lane(wire.begin, finished.append, 3)
    for number in range(3):
        lane.add(b"%d" % number, number)
    wire.done = {b"1", b"2"}
    lane.advance()
    assert finished == []
    wire.done.add(b"0")
    lane.advance()
    assert finished == [0, 1, 2]
    assert lane.is_idle()


def test_what_waits_begins_in_order_when_there_is_room() -> None:
    wire, finished = Wire(), list[int]()
    lane = Lane(wire.begin, finished.append, 1)
    for number in range(3):
        lane.add(b"%d" % number, number)
    for number in range(3):
        assert not lane.is_idle()
        wire.done.add(b"%d" % number)
        lane.advance()
    assert wire.begun == [b"0", b"1", b"2"]
    assert finished == [0, 1, 2]


def test_what_is_given_up_is_returned_and_never_asked_about_again() -> None:
    wire, finished = Wire(), list[int]()
    lane = Lane(wire.begin, finished.append, 2)
    for number in range(4):
        lane.add(b"%d" % number, number)
    assert len(lane) == 4
    assert [(data, token) for _, data, token in lane.give_up()] == [(b"0", 0), (b"1", 1)]
    wire.done = {b"0", b"1"}
    lane.advance()
    assert (len(lane), finished, wire.begun) == (0, [], [b"0", b"1"])


def test_what_cannot_begin_still_counts() -> None:
    wire = Wire()
    lane = Lane(wire.begin, lambda token: None, 1)
    for number in range(3):
        lane.add(b"%d" % number, number)
    wire.done = {b"0"}
    lane._begin = broken
    with pytest.raises(OSError, match="dead"):
        lane.advance()
    assert len(lane) == 2


def broken(data: bytes) -> Pending:
    raise OSError("dead")


CHUNK = 10


class Stream:
    """Receives chunks, so many of which have come, and notes what it is asked for."""

    def __init__(self, come: int, window: int = 3) -> None:
        self.come, self.begun = come, list[int]()
        self.placed, self.here = list[str](), list[str]()
        self.arrivals = Arrivals(self.receive, self.place, self.finish, window, CHUNK)

    def add(self, name: str, *sizes: int) -> None:
        self.arrivals.add(memoryview(name.encode()), list(sizes))

    def receive(self, chunk: Bytes) -> "Coming":
        self.begun.append(chunk.nbytes)
        return Coming(self, len(self.begun))

    def place(self, head: memoryview, sizes: list[int]) -> list[Bytes]:
        self.placed.append(bytes(head).decode())
        return [np.zeros(size, np.uint8) for size in sizes]

    def finish(self, head: memoryview, arrays: list[Bytes]) -> None:
        self.here.append(f"{bytes(head).decode()} {[array.nbytes for array in arrays]}")


class Coming:
    def __init__(self, stream: Stream, number: int) -> None:
        self.stream, self.number = stream, number

    def Test(self) -> bool:
        return self.number <= self.stream.come

    def Cancel(self) -> None:
        raise AssertionError("nobody cancels here")


def test_payload_gets_its_memory_when_its_turn_comes() -> None:
    stream = Stream(come=2)
    for name in "abc":
        stream.add(name, 2 * CHUNK)
    assert stream.placed == []
    stream.arrivals.advance()
    # One chunk was received in one go; the other frames have no memory yet.
    assert (stream.placed, stream.begun, stream.here) == (["a"], [CHUNK], [])
    stream.arrivals.advance()
    assert (stream.placed, stream.here) == (["a"], [f"a [{2 * CHUNK}]"])


def test_receives_that_take_time_are_under_way_together() -> None:
    stream = Stream(come=0)
    stream.add("a", 2 * CHUNK)
    stream.add("b", 5 * CHUNK)
    stream.arrivals.advance()
    assert (stream.placed, len(stream.begun)) == (["a", "b"], 3)
    stream.come = 2
    stream.arrivals.advance()
    assert (stream.here, len(stream.begun)) == ([f"a [{2 * CHUNK}]"], 5)


def test_short_payloads_that_are_here_are_received_in_one_go() -> None:
    stream = Stream(come=100)
    for name in "abcdefghijkl":
        stream.add(name, 1, 0, 1)
    stream.arrivals.advance()
    assert stream.here == [f"{name} [1, 0, 1]" for name in "abcde"]
    while not stream.arrivals.is_idle():
        stream.arrivals.advance()
    assert [one[0] for one in stream.here] == list("abcdefghijkl")


def test_every_change_of_arrivals_is_seen_in_their_length() -> None:
    stream = Stream(come=0)
    stream.add("a", 4 * CHUNK)
    stream.arrivals.advance()
    lengths = []
    for come in range(5):
        stream.come = come
        stream.arrivals.advance()
        lengths.append(len(stream.arrivals))
    assert lengths == [4, 3, 2, 1, 0]
    assert stream.arrivals.is_idle()


def test_nothing_is_received_of_who_is_given_up() -> None:
    stream = Stream(come=1)
    stream.add("a", 6 * CHUNK)
    stream.add("b", CHUNK)
    stream.arrivals.advance()
    stream.arrivals.advance()
    given_up = stream.arrivals.give_up()
    # The first chunk is here; the memory of three must live on.
    assert [memory.nbytes for _, memory, _ in given_up] == 3 * [CHUNK]
    stream.come = 100
    stream.arrivals.advance()
    assert (stream.arrivals.is_idle(), stream.here, stream.placed) == (True, [], ["a"])
