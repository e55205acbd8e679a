"""Makes frames of the messages that come, and receives what follows them."""

from collections.abc import Callable
from functools import partial
from typing import Any

from mpips.transport import packing
from mpips.transport.base import Bytes, Frame, Traffic
from mpips.transport.hostmates import HostMates
from mpips.transport.inbox import HERE
from mpips.transport.lanes import Arrivals, Memory, Request, Transfers

CHUNK_BYTES = 1 << 20
"""Bytes of a chunk: long enough for full bandwidth, short enough to stay in the cache."""

CHUNKS_IN = 4
"""How many chunks from one node are given to MPI before the first of them is done."""


class Intake:
    """Opens messages in their order, node by node, and queues the frames that are whole.

    Args:
        receive_long: begins to receive a message that is too long to come at once, of a node.
        receive_chunk: begins to receive a chunk of a payload, of a node.
        place: returns where a payload is received: node, head, sizes.
        mates: has the payloads that lie in memory of this host.
        moving: the lanes in which something moves, with their nodes: others advance them.
        ready: frames that are here.
        traffic: counts them.
    """

    def __init__(
        self,
        receive_long: Callable[[Memory, int], Request],
        receive_chunk: Callable[[Bytes, int], Request],
        place: Callable[[int, memoryview, list[int]], list[Bytes]],
        mates: HostMates,
        moving: dict[Transfers[Any], int],
        ready: list[Frame],
        traffic: Traffic,
    ) -> None:
        self._receive_long, self._receive_chunk = receive_long, receive_chunk
        self._place, self._mates = place, mates
        self._moving, self._ready, self._traffic = moving, ready, traffic
        # Messages that wait for a long one before them, so that chunks find their frames.
        self._messages: dict[int, Transfers[bytearray]] = {}
        self._chunks: dict[int, Arrivals] = {}

    def take(self, source: int, message: bytearray) -> None:
        """Take the next message of a node."""
        lane = self._messages.get(source)
        if lane is None or lane.is_idle():
            self._open(source, message)
        elif size := packing.announced(message):
            self._await(source, size)
        else:
            lane.follow(HERE, message, message)

    def take_last(self, source: int, message: bytearray) -> None:
        """Take a message of a node that is dead: what should follow it will never come."""
        if packing.announced(message):
            return
        opened = packing.unpack(message)
        if not opened.follows:
            self._finish(source, opened)

    def give_up(self, node: int) -> list[tuple[Request, Memory, Any]]:
        """Receive no payload of a node any more, and return what is under way, to be kept."""
        lane = self._chunks.get(node)
        return lane.give_up() if lane is not None else []

    def _await(self, source: int, size: int) -> None:
        """Receive a message that did not fit into one; those after it wait."""
        lane = self._messages.get(source)
        if lane is None:
            lane = self._messages[source] = Transfers(partial(self._open, source))
        message = bytearray(size)
        lane.follow(self._receive_long(message, source), message, message)
        self._moving[lane] = source

    def _open(self, source: int, message: bytearray) -> None:
        """Hand over a frame that is here; begin to receive what follows of another one."""
        alone = packing.head_alone(message)
        if alone is not None:
            self._traffic.frames_received += 1
            self._traffic.bytes_received += len(alone)
            self._ready.append((source, alone, []))
        elif size := packing.announced(message):
            self._await(source, size)
        elif (opened := packing.unpack(message)).follows:
            self._expect(source, opened.head, opened.sizes)
        else:
            self._finish(source, opened)

    def _expect(self, source: int, head: memoryview, sizes: list[int]) -> None:
        """Receive the payload of a large frame, where it shall stay, when its turn comes."""
        lane = self._chunks.get(source)
        if lane is None:
            receive = partial(self._begin_chunk, source)
            place, finish = partial(self._place, source), partial(self._hand_over, source)
            lane = self._chunks[source] = Arrivals(receive, place, finish, CHUNKS_IN, CHUNK_BYTES)
        lane.add(head, sizes)
        self._moving[lane] = source

    def _begin_chunk(self, source: int, data: Bytes) -> Request:
        return self._receive_chunk(data, source)

    def _finish(self, source: int, opened: packing.Opened) -> None:
        """Hand over a frame whose arrays are in the message, or in memory of this host."""
        head, sizes, arrays, _, spot = opened
        if spot is not None:
            arrays = self._mates.read(source, spot, head, sizes)
        self._hand_over(source, head, arrays)

    def _hand_over(self, source: int, head: memoryview, arrays: list[Bytes]) -> None:
        size = len(head)
        for array in arrays:
            size += array.nbytes
        self._traffic.frames_received += 1
        self._traffic.bytes_received += size
        self._ready.append((source, head, arrays))
