"""Transfers begin, and are seen to be done, in order, a few at a time."""

import pytest

from mpips.transport.lanes import Lane


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
