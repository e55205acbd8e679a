"""Transfers with one peer that begin, and are seen to be done, in order."""

from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from mpips.transport.base import Bytes
from mpips.transport.packing import cut

T = TypeVar("T")

Memory = bytes | bytearray | Bytes
"""What MPI sends from or receives in."""

Arrived = tuple[memoryview, list[Bytes]]
"""Head and arrays of a frame."""


class Request(Protocol):
    """A transfer that may be asked whether it is done."""

    def Test(self) -> bool:
        """Tell whether the transfer is done."""
        ...

    def Cancel(self) -> None:
        """Let nothing come any more, if nothing has begun to come."""
        ...


class Transfers(Generic[T]):
    """Transfers under way, with their memory, which must live until they are done.

    Looking at the oldest alone keeps a look cheap, however many are under way.

    Args:
        finish: is called once for each transfer that is done, in order, with its token.
    """

    def __init__(self, finish: Callable[[T], None]) -> None:
        self._finish = finish
        self._under_way: deque[tuple[Request, Memory, T]] = deque()

    def follow(self, request: Request, data: Memory, token: T) -> None:
        """Take over a transfer that has begun."""
        self._under_way.append((request, data, token))

    def advance(self) -> None:
        """Finish the transfers that are done, up to the first that is not."""
        under_way = self._under_way
        for _ in range(len(under_way)):
            if not under_way[0][0].Test():
                return
            self._finish(under_way.popleft()[2])

    def is_idle(self) -> bool:
        """Tell whether nothing is under way."""
        return not self._under_way

    def __len__(self) -> int:
        return len(self._under_way)

    def give_up(self) -> list[tuple[Request, Memory, T]]:
        """Finish nothing any more, and return what is under way, which must live on."""
        under_way = list(self._under_way)
        self._under_way.clear()
        return under_way


class Lane(Transfers[T]):
    """A queue of transfers, of which the first few are under way.

    Args:
        begin: starts to send, or to receive, an array and returns its request.
        finish: as for `Transfers`.
        window: how many are under way at most.
    """

    def __init__(
        self, begin: Callable[[Any], Request], finish: Callable[[T], None], window: int
    ) -> None:
        super().__init__(finish)
        self._begin, self._window = begin, window
        self._waiting: deque[tuple[Memory, T]] = deque()

    def add(self, data: Memory, token: T) -> None:
        """Begin a transfer, or let it wait for its turn."""
        if not self._waiting and len(self._under_way) < self._window:
            self.follow(self._begin(data), data, token)
        else:
            self._waiting.append((data, token))

    def advance(self) -> None:
        """Finish the transfers that are done, and begin as many others.

        Those are looked at next time, so that a long payload leaves room for the rest.
        """
        super().advance()
        while self._waiting and len(self._under_way) < self._window:
            # What cannot begin is still there, and counted.
            data, token = self._waiting[0]
            self.follow(self._begin(data), data, token)
            self._waiting.popleft()

    def __len__(self) -> int:
        return len(self._under_way) + len(self._waiting)

    def give_up(self) -> list[tuple[Request, Memory, T]]:
        """Begin and finish nothing any more, and return what is under way."""
        self._waiting.clear()
        return super().give_up()


class Arrivals(Transfers[Arrived | None]):
    """The large payloads of one node, received in the order of their heads, chunk by chunk.

    A payload gets its memory when its turn comes, not when its head does, and little is received
    in one go: so whoever uses up what comes finds it in the cache, and needs little memory for it.
    Over shared memory a receive copies the chunk when it is begun, on this core: more of them
    would gain nothing. Over a network nothing is done so soon, and the next ones begin.

    Args:
        receive: begins to receive into an array and returns the request.
        place: returns where the arrays of a frame are received, by its head and their sizes.
        finish: is called once for each frame that is here, in their order.
        window: how many chunks are under way at most.
        chunk: bytes of a chunk, and what is received in one go.
    """

    def __init__(
        self,
        receive: Callable[[Bytes], Request],
        place: Callable[[memoryview, list[int]], list[Bytes]],
        finish: Callable[[memoryview, list[Bytes]], None],
        window: int,
        chunk: int,
    ) -> None:
        super().__init__(lambda frame: finish(*frame) if frame else None)
        self._receive, self._place = receive, place
        self._window, self._chunk = window, chunk
        self._heads: deque[tuple[memoryview, list[int]]] = deque()
        # Of the frame whose turn it is; the last of them completes it.
        self._chunks: deque[tuple[Bytes, Arrived | None]] = deque()

    def add(self, head: memoryview, sizes: list[int]) -> None:
        """Expect the arrays of a frame, of these sizes in bytes and not all empty."""
        self._heads.append((head, sizes))

    def advance(self) -> None:
        """Finish what is here, and begin to receive what has room."""
        super().advance()
        under_way, left = self._under_way, self._chunk
        while left > 0 and len(under_way) < self._window and (self._chunks or self._open()):
            data, frame = self._chunks.popleft()
            self.follow(self._receive(data), data, frame)
            before = len(under_way)
            super().advance()
            if len(under_way) < before:
                left -= data.nbytes

    def is_idle(self) -> bool:
        """Tell whether nothing is under way, nor expected."""
        return not (self._under_way or self._chunks or self._heads)

    def __len__(self) -> int:
        return len(self._under_way) + len(self._chunks) + len(self._heads)

    def give_up(self) -> list[tuple[Request, Memory, Arrived | None]]:
        """Receive nothing any more, and return what is under way."""
        self._chunks.clear()
        self._heads.clear()
        return super().give_up()

    def _open(self) -> bool:
        """Make place for the next frame, and return whether there is one."""
        if not self._heads:
            return False
        head, sizes = self._heads.popleft()
        arrays = self._place(head, sizes)
        *chunks, last = cut(arrays, self._chunk)
        self._chunks.extend((chunk, None) for chunk in chunks)
        self._chunks.append((last, (head, arrays)))
        return True
