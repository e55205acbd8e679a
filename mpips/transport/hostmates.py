"""Large payloads between nodes of one host, through memory that both see.

Over MPI the receiver copies what comes, and then works on it, all on its own core. Here the sender
copies, while the receiver works on what came before, where it lies. Each node has an `Arena`; its
name is in the greeting, and who can open it says so. A payload then goes there, and a short message
tells where it lies. Nothing else is shared, and a payload for which there is no block goes by MPI.

A receiver may keep what it was given: an update that has to wait for others. It says so, and then
nobody waits for the block. So a frame waits only for a receiver that has not looked at what it has.
"""

import mmap
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mpips.transport.arena import UNUSED, Arena, aligned, flags_of, open_arena, references
from mpips.transport.base import Bytes, as_bytes
from mpips.transport.packing import Spot, pack_lent

READABLE: Final = b"\1"
"""The greeting that says: I can read your memory."""

Outgoing = tuple[bytes, Sequence[npt.NDArray[Any]]]
"""Head and payload of a frame."""


class Loan:
    """A payload of another node that somebody here may still have an array in."""

    __slots__ = ("flags", "is_kept", "memory", "spot")

    def __init__(self, memory: Bytes, flags: memoryview, spot: Spot) -> None:
        self.memory, self.flags, self.spot = memory, flags, spot
        self.is_kept = False


class HostMates:
    """What this node shares with others of its host.

    Args:
        send: sends a message to a node.
        send_long: sends a frame whose payload gets no block.
        place: returns where the payload of a frame is to be received, if it has a place.
        step: bytes of what is counted as one part of a payload.

    Attributes:
        name: this node's greeting.
        loans: payloads of others that are not given back.
        told: loans, and what is to be written into their flags.
        waiting: frames that wait for blocks, by node.
        readers: the nodes that can read this one's memory.
    """

    def __init__(
        self,
        send: Callable[[int, bytes], None],
        send_long: Callable[[int, bytes, Sequence[npt.NDArray[Any]]], None],
        place: Callable[[int, memoryview, list[int]], list[Bytes] | None],
        step: int,
    ) -> None:
        self._send, self._send_long, self._place, self._step = send, send_long, place, step
        try:
            self._arena: Arena | None = Arena()
        except OSError:
            self._arena = None
        self.name = b"" if self._arena is None else self._arena.name
        self.loans: list[Loan] = []
        self.waiting: dict[int, deque[Outgoing]] = {}
        self.readers: set[int] = set()
        self.told: list[tuple[Loan, int]] = []
        # By node: its memory, its flags and its name.
        self._others: dict[int, tuple[mmap.mmap, memoryview, bytes]] = {}

    def meet(self, node: int, greeting: bytes) -> bool:
        """Take a greeting, and tell whether its sender is to be told that it is `READABLE`."""
        if greeting == READABLE:
            self.readers.add(node)
            return False
        if greeting and (node not in self._others or self._others[node][2] != greeting):
            memory = open_arena(greeting)
            if memory is None:
                return False
            self._others[node] = memory, flags_of(memory), greeting
        return bool(greeting)

    def draft(self, dest: int, size: int) -> Bytes | None:
        """Return memory for a payload that can be sent as it is there; None if there is none."""
        return self._arena.draft(dest, size) if self._arena and dest in self.readers else None

    def offer(self, dest: int, head: bytes, payload: Sequence[npt.NDArray[Any]]) -> bool:
        """Send a frame, at once or when there is a block, and tell whether that can be done."""
        if dest not in self.readers:
            return False
        if dest in self.waiting:
            self.waiting[dest].append((head, payload))
            # Blocks may have been read meanwhile: who has much to send fills them as it goes.
            self._send_waiting(dest)
            return True
        if self._try(dest, head, payload):
            return True
        if not self._is_expected(dest, payload):
            return False
        self.waiting[dest] = deque([(head, payload)])
        return True

    def advance(self) -> bool:
        """Send what has waited for blocks, as far as there are some; tell whether anything went."""
        sent = False
        for dest in list(self.waiting):
            sent |= self._send_waiting(dest)
        return sent

    def read(self, source: int, spot: Spot, head: memoryview, sizes: list[int]) -> list[Bytes]:
        """Return the arrays of a payload: in their place, or views of where it lies."""
        memory, flags, _ = self._others[source]
        size = sum(map(aligned, sizes))
        # An object of its own, whose references are those of this payload's arrays.
        whole = np.frombuffer(memory, np.uint8, max(size, 1), spot.begin)
        self.loans.append(Loan(whole, flags, spot))
        arrays, at = [], 0
        for length in sizes:
            arrays.append(whole[at : at + length])
            at += aligned(length)
        places = self._place(source, head, sizes)
        if places is None:
            return arrays
        for there, array in zip(places, arrays, strict=True):
            there[:] = array
        return places

    def look_through(self) -> None:
        """Find what nobody has an array in any more, and what is kept.

        Call it when what came last has been dealt with, and then MPI, and then `give_back`: so all
        reading is done before a flag changes, also on processors that mix up the two.
        """
        left = []
        for loan in self.loans:
            if references(loan.memory) == UNUSED:
                self.told.append((loan, loan.spot.number))
                continue
            if not loan.is_kept:
                loan.is_kept = True
                self.told.append((loan, -loan.spot.number))
            left.append(loan)
        self.loans = left

    def give_back(self) -> None:
        """Tell others what they may use again, and what is kept."""
        for loan, number in self.told:
            loan.flags[loan.spot.flag] = number
        self.told.clear()

    def close(self) -> None:
        """Let go of all memory; arrays in it stay as they are."""
        self.loans, self.waiting, self.readers = [], {}, set()
        self.told, self._others = [], {}
        if self._arena is not None:
            self._arena.close()

    def count(self, dest: int) -> int:
        """Return how many parts of payloads wait to be sent to a node, or to be looked at there."""
        parts = self._arena.unread(dest, self._step) if self._arena and dest in self.readers else 0
        for _, payload in self.waiting.get(dest, ()):
            parts += sum(-(-array.nbytes // self._step) for array in payload)
        return parts

    def unsent(self) -> int:
        """Return how many frames wait to be sent."""
        return sum(map(len, self.waiting.values()))

    def bury(self, node: int) -> None:
        """Send nothing to a lost node any more."""
        self.waiting.pop(node, None)
        self.readers.discard(node)

    def reclaim(self, node: int) -> None:
        """Use again what a dead node has not read; one that is only forgotten may yet read it."""
        if self._arena is not None:
            self._arena.reclaim(node)

    def _send_waiting(self, dest: int) -> bool:
        """Send what waits for one node, as far as it goes, and tell whether anything went."""
        sent = False
        # Whoever sends may learn that this node, or another one, is lost: see `bury`.
        while queue := self.waiting.get(dest):
            if not self._try(dest, *queue[0]):
                if self._is_expected(dest, queue[0][1]):
                    break
                self._send_long(dest, *queue[0])
            sent = True
            queue.popleft()
            if not queue:
                self.waiting.pop(dest, None)
        return sent

    def _try(self, dest: int, head: bytes, payload: Sequence[npt.NDArray[Any]]) -> bool:
        """Send a frame if there is a block for its payload."""
        assert self._arena is not None
        arrays = [as_bytes(array) for array in payload]
        sizes = [array.nbytes for array in arrays]
        block = self._arena.lend_draft(dest, arrays[0]) if len(arrays) == 1 else None
        if block is None:
            block = self._arena.lend(dest, sum(map(aligned, sizes)))
            if block is None:
                return False
            self._arena.write(block, arrays)
        self._send(dest, pack_lent(head, sizes, Spot(block.begin, block.flag, block.number)))
        return True

    def _is_expected(self, dest: int, payload: Sequence[npt.NDArray[Any]]) -> bool:
        assert self._arena is not None
        size = sum(aligned(array.nbytes) for array in payload)
        return self._arena.is_expected(dest, size)
