"""The queues of one process keep the promises of a transport."""

import numpy as np
import pytest

from mpips.testing.contract import TransportContract
from mpips.testing.frames import random_bytes
from mpips.transport.base import Transport
from mpips.transport.loop import LoopTransport


class TestLoopTransport(TransportContract):
    """Both ends live here."""

    @pytest.fixture
    def ends(self) -> list[Transport]:
        """Give both ends of a world of two."""
        return [*LoopTransport.world(2)]


def test_large_payload_is_copied_as_over_a_network() -> None:
    one, other = LoopTransport.world(2)
    array = random_bytes(0, 100_000)
    one.send(1, b"", [array])
    array[:] = 0
    ((_, _, (part,)),) = other.poll()
    assert np.array_equal(part, random_bytes(0, 100_000))


def test_worlds_do_not_hear_each_other() -> None:
    one, other = LoopTransport.world(1)[0], LoopTransport.world(1)[0]
    one.send(0, b"mine")
    assert other.poll() == []
    assert [bytes(head) for _, head, _ in one.poll()] == [b"mine"]


def test_closed_end_forgets_its_frames() -> None:
    one, other = LoopTransport.world(2)
    one.send(1, b"late")
    other.close()
    assert other.poll() == []


def test_death_is_noticed_by_those_who_poll() -> None:
    one, other, third = LoopTransport.world(3)
    other.die()
    assert one.lost == frozenset()
    assert one.poll() == []
    assert (one.lost, third.lost) == ({1}, frozenset())
    third.poll()
    assert third.lost == {1}


def test_frame_of_a_dead_node_that_is_here_is_handed_over() -> None:
    one, other, _ = LoopTransport.world(3)
    other.send(0, b"last")
    other.die()
    assert [(source, bytes(head)) for source, head, _ in one.poll()] == [(1, b"last")]
    assert one.lost == {1}


def test_survivors_of_two_deaths_go_on() -> None:
    one, other, third, fourth = LoopTransport.world(4)
    for victim in (other, third):
        victim.die()
        assert one.poll() == fourth.poll() == []
        for end, peer in ((one, fourth), (fourth, one)):
            end.send(peer.node, b"on")
            end.send(victim.node, b"gone")
        assert [bytes(head) for end in (one, fourth) for _, head, _ in end.poll()] == 2 * [b"on"]
    assert one.lost == fourth.lost == {1, 2}
    assert one.statistics().frames_sent == 2


def test_forgotten_node_may_die_and_the_dead_be_forgotten() -> None:
    one, other, third = LoopTransport.world(3)
    for victim in (other, third):
        victim.send(0, b"late")
    one.forget(1)
    other.die()
    third.die()
    one.poll()
    one.forget(2)
    assert one.lost == {1, 2}
    assert one.poll() == []
