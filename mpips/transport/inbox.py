"""A receive that stays posted for the short messages of one node."""

from collections.abc import Callable
from typing import Any, Protocol

from mpips.transport.packing import MESSAGE_BYTES


class Posted(Protocol):
    """A receive that can be started again when it is done, as MPI's persistent ones."""

    def Start(self) -> None:
        """Let the next message come."""
        ...

    def Test(self, status: Any) -> bool:
        """Tell whether a message has come; its size is in the status then."""
        ...

    def Get_status(self, status: Any) -> bool:
        """Tell the same, and leave the receive as it is."""
        ...

    def Cancel(self) -> None:
        """Let nothing come any more."""
        ...


class Inbox:
    """Takes messages of at most `MESSAGE_BYTES` of one node, in their order.

    A message that finds a receive costs half of one that is looked for first.

    Args:
        make: makes a receive into a buffer.
        status: where the receive notes the size of a message.

    Attributes:
        is_busy: whether there was a message when it was last emptied: then there may be many.
    """

    __slots__ = ("_buffer", "_is_open", "_posted", "_start", "_status", "_test", "is_busy")

    def __init__(self, make: Callable[[bytearray], Posted], status: Any) -> None:
        self._status = status
        self._buffer = bytearray(MESSAGE_BYTES)
        self._posted = make(self._buffer)
        self._test: Callable[[Any], bool] = self._posted.Test
        self._start = self._posted.Start
        self._is_open = self.is_busy = False
        self._open()

    def take(self) -> bytearray | None:
        """Return a copy of the next message, or None if it is not here."""
        if not self._is_open:
            self._open()
        if not self._test(self._status):
            return None
        # If it cannot be started again, that is tried when the next message is wanted.
        self._is_open = False
        size = self._status.count
        # No message is empty: MPI has given the receive up, since the sender is dead.
        if not size:
            self._test = _never
            self._is_open = True
            return None
        message = self._buffer[:size]
        self._start()
        self._is_open = True
        return message

    def take_last(self) -> bytearray | None:
        """Return the message that is here, if there is one; the inbox is not to be used again."""
        is_here = self._test is not _never and self._is_open
        if not is_here or not self._posted.Get_status(self._status):
            return None
        return self._buffer[: self._status.count] or None

    def close(self) -> None:
        """Let nothing come any more; the receive and its memory must live on."""
        if self._is_open and self._test is not _never:
            self._posted.Cancel()

    def _open(self) -> None:
        self._start()
        self._is_open = True


def _never(status: object) -> bool:
    return False


class Here:
    """The transfer of what is here."""

    def Test(self) -> bool:
        """Return True."""
        return True

    def Cancel(self) -> None:
        """Do nothing."""


HERE = Here()
