"""Transfers with one peer that begin, and are seen to be done, in order."""

from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from mpips.transport.base import Bytes

T = TypeVar("T")

Memory = bytes | bytearray | Bytes
"""What MPI sends from or receives in."""


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
