"""Deaths as MPI reports them, one by one: which requests are touched, and what still arrives.

MPI itself is scripted here, so that each order of events happens; tests/kill has the real one.
"""

from typing import Any

import numpy as np
import pytest

from mpips.errors import ProtocolError
from mpips.transport.base import Transport
from tests.mpi.scripted import Request, World

pytestmark = pytest.mark.mpi

ALIVE, VICTIM = 1, 2
LARGE = np.arange(100_000, dtype=np.uint8)


def transport(world: Any) -> Transport:
    from mpips.transport.mpi import MPITransport

    return MPITransport(world)


def heads(end: Transport) -> list[bytes]:
    return [bytes(head) for _, head, _ in end.poll()]


def test_mpi_is_told_that_a_death_is_known_and_goes_on() -> None:
    world = World()
    end = transport(world)
    for number, victim in enumerate((VICTIM, ALIVE)):
        world.killed.append(victim)
        for _ in range(3):
            assert end.poll() == []
        assert end.lost == set(world.killed)
        # Where it is not told, it raises before what is under way is looked at.
        world.put(0, b"large", [LARGE], follows=True)
        assert end.poll() == []
        world.requests[-1].is_done = True
        assert heads(end) == [b"large"], number


def test_death_is_noticed_though_messages_never_cease() -> None:
    world = World()
    end = transport(world)
    world.killed.append(VICTIM)
    # The first is taken alone: there are seldom more.
    for count in (1, 64, 64):
        for number in range(64):
            world.put(ALIVE, b"%d" % number)
        assert len(end.poll()) == count
    assert end.lost == {VICTIM}


def test_requests_with_the_dead_are_left_alone() -> None:
    world = World()
    end = transport(world)
    # Sends under way and waiting, a message that is half here, and a payload that is to come.
    for _ in range(100):
        end.send(VICTIM, b"small")
    end.send(VICTIM, b"large", [LARGE])
    world.put(VICTIM, b"large", [LARGE], follows=True)
    world.put(VICTIM, b"half" * 2000)
    end.send(ALIVE, b"other")
    # The first of its messages is taken alone, the other by the next poll.
    assert end.poll() == end.poll() == []
    world.killed.append(VICTIM)
    begun = len(world.requests)
    for _ in range(5):
        assert end.poll() == []
    for request in world.requests:
        request.is_done = request.peer == ALIVE
    assert end.flush(0.0)
    assert (world.touched, len(world.requests)) == (0, begun)
    assert end.lost == {VICTIM}
    assert end.unsent() == 0


def test_frames_that_wait_for_memory_are_unsent_until_their_node_is_lost() -> None:
    world = World(is_eager=True)
    end: Any = transport(world)
    end._mates.readers |= {ALIVE, VICTIM}
    part = np.zeros(2**21, np.uint8)
    for dest in (ALIVE, VICTIM):
        for _ in range(5):
            end.send(dest, b"large", [part])
    # Each has two blocks, and three frames wait; nothing went by MPI.
    assert end.unsent() == 6
    assert end.backlog(ALIVE) == end.backlog(VICTIM) == 10
    assert not end.flush(0.0)
    assert not any(end._outbox.count(dest, 2) for dest in (ALIVE, VICTIM))
    world.killed.append(VICTIM)
    end.poll()
    end.poll()
    assert end.lost == {VICTIM}
    assert end.unsent() == 3
    assert end.backlog(VICTIM) == 0
    # What the dead one had not read is free for others.
    assert end._mates.draft(ALIVE, 2**21) is None
    end._mates.readers.add(0)
    assert end._mates.draft(0, 2**21) is not None
    end.close()


def test_two_who_die_at_once_are_lost_together_and_one_receive_tells_of_both() -> None:
    world = World()
    end = transport(world)
    for rank in (ALIVE, VICTIM):
        world.put(rank, b"here")
    assert heads(end) == [b"here", b"here"]
    # MPI knows of both when the first one's receive is asked.
    world.killed += [ALIVE, VICTIM]
    world.work()
    assert end.poll() == []
    assert end.lost == {ALIVE, VICTIM}
    assert end.poll() == []
    assert (world.refused, world.touched) == (1, 0)


def test_burst_to_one_who_dies_meanwhile_touches_nothing() -> None:
    world = World()
    end = transport(world)
    world.killed.append(VICTIM)
    # Asking about this one lets MPI learn of the death; what is begun then must not be asked.
    end.send(ALIVE, b"slow")
    end.send(VICTIM, b"gone")
    assert world.touched == 0
    assert end.lost == {VICTIM}
    assert end.unsent() == 1


def test_long_message_to_one_who_has_died_is_not_asked_about() -> None:
    world = World(is_eager=True)
    end = transport(world)
    world.killed.append(VICTIM)
    # MPI learns of the death while it looks for messages, and says so the next time.
    end.poll()
    end.send(VICTIM, b"gone", [np.zeros(5000, np.uint8)])
    assert world.touched == 0
    end.poll()
    end.poll()
    assert world.touched == end.unsent() == 0


def test_what_is_whole_is_handed_over_after_the_death_and_the_rest_never() -> None:
    world = World()
    end = transport(world)
    world.put(VICTIM, b"first")
    assert heads(end) == [b"first"]
    end.send(ALIVE, b"slow")
    world.put(VICTIM, b"small", [np.arange(3)])
    world.put(VICTIM, b"half" * 2000)
    world.put(VICTIM, b"large", [LARGE], follows=True)
    world.put(VICTIM, b"last")
    world.killed.append(VICTIM)
    world.work()
    # The death is seen before the messages are.
    end.send(0, b"me")
    assert end.lost == {VICTIM}
    begun = len(world.requests)
    assert heads(end) == [b"small", b"last"]
    assert end.poll() == []
    # The rest of the long one, and the payload of the large one, are not waited for.
    assert len(world.requests) == begun
    assert world.touched == 0
    assert end.statistics().frames_received == 3


def test_long_message_of_one_who_has_just_died_is_not_asked_about() -> None:
    world = World()
    end = transport(world)
    world.killed.append(VICTIM)
    # MPI learns of the death while it finds the message.
    world.put(VICTIM, b"half" * 2000)
    assert end.poll() == []
    assert world.touched == 0
    end.poll()
    assert end.lost == {VICTIM}


def test_error_of_a_request_is_a_death_and_does_not_end_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mpi4py import MPI

    world = World()
    end = transport(world)
    end.send(VICTIM, b"one")
    end.send(VICTIM, b"two")
    end.send(ALIVE, b"other")

    def test(request: Request) -> bool:
        if request.peer == VICTIM:
            raise MPI.Exception(MPI.ERR_PROC_FAILED)
        return request.is_done

    # As where MPI reports the death nowhere else.
    monkeypatch.setattr(Request, "Test", test)
    assert end.poll() == []
    assert end.lost == {VICTIM}
    assert end.unsent() == 1
    world.put(ALIVE, b"on")
    assert heads(end) == [b"on"]


def test_other_errors_of_mpi_end_the_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    from mpi4py import MPI

    world = World()
    end = transport(world)
    end.send(ALIVE, b"one")

    def test(request: Request) -> bool:
        raise MPI.Exception(MPI.ERR_TRUNCATE)

    monkeypatch.setattr(Request, "Test", test)
    for _ in range(2):
        with pytest.raises(ProtocolError, match="MPI failed"):
            end.poll()
    assert end.lost == frozenset()


def test_forgotten_node_cannot_write_any_more() -> None:
    world = World()
    end = transport(world)
    world.put(VICTIM, b"large", [LARGE], follows=True)
    world.put(ALIVE, b"large", [LARGE], follows=True)
    end.poll()
    end.forget(VICTIM)
    assert {request.peer for request in world.requests if request.is_cancelled} == {VICTIM}
    world.put(VICTIM, b"late")
    world.put(ALIVE, b"on")
    assert heads(end) == [b"on"]


def test_dead_node_may_be_forgotten_and_a_forgotten_one_die() -> None:
    world = World()
    end = transport(world)
    for victim in (ALIVE, VICTIM):
        world.put(victim, b"large", [LARGE], follows=True)
        end.send(victim, b"waits")
    end.poll()
    end.forget(ALIVE)
    world.killed += [VICTIM, ALIVE]
    end.poll()
    end.forget(VICTIM)
    world.put(VICTIM, b"late")
    assert end.poll() == []
    assert end.lost == {ALIVE, VICTIM}
    assert end.unsent() == world.touched == 0


@pytest.mark.parametrize("first", [ALIVE, VICTIM])
def test_ranks_of_a_smaller_world_are_still_known_by_their_nodes(first: int) -> None:
    world = World()
    end = transport(world)
    other = ALIVE + VICTIM - first
    world.killed.append(first)
    end.send(first, b"gone", [LARGE])
    for _ in range(3):
        end.poll()
    end.shrink([first], lambda: None)
    smaller = world.smaller
    assert smaller is not None
    assert (end.lost, end.dead, end.unsent(), end.shrinks) == ({first}, {first}, 0, 1)
    # Node 2 is rank 1 there, if 1 has died.
    end.send(other, b"on")
    assert {request.peer for request in smaller.requests} == {1}
    smaller.requests[-1].is_done = True
    smaller.put(1, b"back")
    assert [(source, bytes(head)) for source, head, _ in end.poll()] == [(other, b"back")]
    begun = len(smaller.requests)
    end.send(first, b"gone")
    assert len(smaller.requests) == begun
    # A death in it is told by ranks of its own.
    smaller.killed.append(1)
    for _ in range(3):
        end.poll()
    assert (end.lost, smaller.acknowledged, world.touched) == ({first, other}, 1, 0)


def test_death_that_only_the_shrink_finds_is_told() -> None:
    world = World()
    end = transport(world)
    world.killed += [ALIVE]
    end.shrink([], lambda: None)
    assert end.poll() == []
    assert (end.lost, end.dead) == ({ALIVE}, {ALIVE})
