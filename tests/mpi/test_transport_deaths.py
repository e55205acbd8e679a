"""Deaths as MPI reports them, one by one: which requests are touched, and what still arrives.

MPI itself is scripted here, so that each order of events happens; tests/kill has the real one.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mpips.errors import ProtocolError
from mpips.transport.base import Transport
from mpips.transport.packing import pack

pytestmark = pytest.mark.mpi

ALIVE, VICTIM = 1, 2
LARGE = np.arange(100_000, dtype=np.uint8)


class Request:
    """A transfer that is done when the test says so, and knows that dead ones are not touched."""

    def __init__(self, world: "World", peer: int, is_done: bool) -> None:
        self.world, self.peer, self.is_done = world, peer, is_done
        self.is_cancelled = False

    def Test(self) -> bool:
        if not self.is_done and self.peer in self.world.dead:
            self.world.touched += 1
        if not self.is_done:
            self.world.work()
        return self.is_done

    def Get_status(self) -> bool:
        return self.is_done

    def Cancel(self) -> None:
        assert self.peer not in self.world.dead
        self.is_cancelled = True


class Message:
    def __init__(self, world: "World", source: int, content: bytes, is_whole: bool) -> None:
        self.world, self.source = world, source
        self.content, self.is_whole = content, is_whole

    def Irecv(self, buffer: bytearray) -> Request:
        if self.is_whole:
            buffer[:] = self.content
        return self.world.request(self.source, self.is_whole)


class Group:
    def __init__(self, ranks: list[int]) -> None:
        self.ranks, self.size = ranks, len(ranks)

    def Translate_ranks(self, ranks: None, other: "Group") -> list[int]:
        return [other.ranks.index(rank) for rank in self.ranks]

    def Free(self) -> None:
        pass


class World:
    """A communicator of rank 0 of three, whose MPI learns of deaths only while it works."""

    def __init__(self, is_eager: bool = False, ranks: Sequence[int] = (0, 1, 2)) -> None:
        self.is_eager, self.ranks = is_eager, list(ranks)
        self.smaller: World | None = None
        self.killed: list[int] = []
        self.dead: list[int] = []
        self.acknowledged = 0
        self.messages: deque[Message] = deque()
        self.requests: list[Request] = []
        self.touched = 0

    def work(self) -> None:
        self.dead = list(self.killed)

    def request(self, peer: int, is_done: bool) -> Request:
        self.requests.append(Request(self, peer, is_done))
        return self.requests[-1]

    def put(self, source: int, head: bytes, arrays: Any = (), is_whole: bool = True,
            follows: bool = False) -> None:
        message = pack(head, arrays, follows)
        self.messages.append(Message(self, source, message, is_whole))

    def Shrink(self) -> "World":
        left = [rank for rank in self.ranks if rank not in self.killed]
        self.smaller = World(self.is_eager, left)
        return self.smaller

    def Agree(self, flag: int) -> int:
        return flag

    def Dup(self) -> "World":
        return self

    def Get_rank(self) -> int:
        return 0

    def Get_size(self) -> int:
        return 3

    def Set_errhandler(self, handler: object) -> None:
        pass

    def Get_group(self) -> Group:
        return Group(self.ranks)

    def Get_failed(self) -> Group:
        return Group([self.ranks[rank] for rank in self.dead])

    def Ack_failed(self, count: int) -> int:
        self.acknowledged = count
        return count

    def Improbe(self, source: int, tag: int, status: Any) -> Message | None:
        from mpi4py import MPI

        if self.messages:
            message = self.messages.popleft()
            status.source = message.source
            status.Set_elements(MPI.BYTE, len(message.content))
            self.work()
            return message
        if self.acknowledged < len(self.dead):
            raise MPI.Exception(MPI.ERR_PROC_FAILED)
        self.work()
        return None

    def Isend(self, data: object, dest: int, tag: int) -> Request:
        return self.request(dest, self.is_eager)

    def Irecv(self, buffer: npt.NDArray[np.uint8], source: int, tag: int) -> Request:
        return self.request(source, False)


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
    for _ in range(3):
        for number in range(64):
            world.put(ALIVE, b"%d" % number)
        assert len(end.poll()) == 64
    assert end.lost == {VICTIM}


def test_requests_with_the_dead_are_left_alone() -> None:
    world = World()
    end = transport(world)
    # Sends under way and waiting, a message that is half here, and a payload that is to come.
    for _ in range(100):
        end.send(VICTIM, b"small")
    end.send(VICTIM, b"large", [LARGE])
    world.put(VICTIM, b"large", [LARGE], follows=True)
    world.put(VICTIM, b"half", is_whole=False)
    end.send(ALIVE, b"other")
    assert end.poll() == []
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
    world = World()
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
    world.killed.append(VICTIM)
    end.poll()
    end.poll()
    world.put(VICTIM, b"small", [np.arange(3)])
    world.put(VICTIM, b"half" * 2000, is_whole=False)
    world.put(VICTIM, b"large", [LARGE], follows=True)
    world.put(VICTIM, b"last")
    begun = len(world.requests)
    assert heads(end) == [b"small", b"last"]
    assert end.poll() == []
    # The payload of the large one is not waited for.
    assert len(world.requests) == begun + 4
    assert world.touched == 0
    assert end.statistics().frames_received == 2


def test_long_message_of_one_who_has_just_died_is_not_asked_about() -> None:
    world = World()
    end = transport(world)
    world.killed.append(VICTIM)
    # MPI learns of the death while it finds the message.
    world.put(VICTIM, b"half" * 2000, is_whole=False)
    assert end.poll() == []
    assert world.touched == 0
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
    assert [request.peer for request in smaller.requests] == [1]
    smaller.requests[0].is_done = True
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
