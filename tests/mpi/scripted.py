"""MPI as the tests of deaths script it, so that each order of events happens."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mpips.transport.packing import MESSAGE_BYTES, announce, pack

GREETING = 4


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


class Posted:
    """The receive that stays posted for the messages of one rank."""

    def __init__(self, world: "World", buffer: bytearray, source: int) -> None:
        self.world, self.buffer, self.source = world, buffer, source
        self.is_cancelled = self.is_failed = False

    def Start(self) -> None:
        pass

    def Test(self, status: Any) -> bool:
        from mpi4py import MPI

        # MPI would say that it is done, and nothing would have come.
        assert not self.is_failed
        if self.Get_status(status):
            return True
        if self.source in self.world.dead:
            self.is_failed = True
            self.world.refused += 1
            raise MPI.Exception(MPI.ERR_PROC_FAILED)
        self.world.work()
        return False

    def Get_status(self, status: Any) -> bool:
        content = self.world.next_of(self.source)
        if content is None:
            return False
        self.buffer[: len(content)] = content
        set_status(status, self.source, len(content))
        return True

    def Cancel(self) -> None:
        self.is_cancelled = True


class Message:
    """What a look for messages has found."""

    def __init__(self, world: "World", source: int, content: bytes) -> None:
        self.world, self.source, self.content = world, source, content

    def Recv(self, buffer: bytearray) -> None:
        pass

    def Irecv(self, buffer: bytearray) -> Request:
        buffer[:] = self.content
        return self.world.request(self.source, True)


def set_status(status: Any, source: int, size: int) -> None:
    from mpi4py import MPI

    status.source = source
    status.Set_elements(MPI.BYTE, size)


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
        self.messages: deque[tuple[int, bytes]] = deque()
        self.greetings: deque[int] = deque()
        self.greeted: set[int] = set()
        self.requests: list[Request] = []
        self.touched = self.refused = 0

    def work(self) -> None:
        self.dead = list(self.killed)

    def request(self, peer: int, is_done: bool) -> Request:
        self.requests.append(Request(self, peer, is_done))
        return self.requests[-1]

    def put(self, source: int, head: bytes, arrays: Any = (), follows: bool = False) -> None:
        if source not in self.greeted:
            self.greeted.add(source)
            self.greetings.append(source)
        message = pack(head, arrays, follows)
        is_long = len(message) > MESSAGE_BYTES
        self.messages.append((source, announce(len(message)) if is_long else message))

    def next_of(self, source: int) -> bytes | None:
        """Return the next message of a rank, as it would be matched."""
        for at, (one, content) in enumerate(self.messages):
            if one == source:
                del self.messages[at]
                self.work()
                return content
        return None

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

    def Recv_init(self, buffer: bytearray, source: int, tag: int) -> Posted:
        return Posted(self, buffer, source)

    def Improbe(self, source: int, tag: int, status: Any) -> Message | None:
        from mpi4py import MPI

        content: bytes | None = b""
        if source != MPI.ANY_SOURCE:
            content = self.next_of(source)
        elif self.greetings:
            source = self.greetings.popleft()
        elif self.acknowledged < len(self.dead):
            raise MPI.Exception(MPI.ERR_PROC_FAILED)
        else:
            content = None
        self.work()
        if content is None:
            return None
        set_status(status, source, len(content))
        return Message(self, source, content)

    def Isend(self, data: Any, dest: int, tag: int) -> Request:
        is_greeting = tag == GREETING
        is_done = is_greeting or (self.is_eager and len(data) <= MESSAGE_BYTES)
        return self.request(dest, is_done)

    def Irecv(self, buffer: npt.NDArray[np.uint8], source: int, tag: int) -> Request:
        return self.request(source, False)
