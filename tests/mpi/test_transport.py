"""MPI keeps the promises of a transport, between ranks 0 and 1 of the world."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mpips.errors import ProtocolError
from mpips.testing.contract import PATIENCE_S, TransportContract
from mpips.transport.base import Frame, Transport
from mpips.transport.mpi import CHUNK_BYTES
from mpips.transport.packing import MESSAGE_BYTES, announce, pack

pytestmark = pytest.mark.mpi(min_size=2)


class TestMPITransport(TransportContract):
    """One end lives in each of two ranks; the others only take part in making communicators."""

    @pytest.fixture
    def ends(self) -> Iterator[list[Transport]]:
        """Give this rank's end."""
        from mpi4py import MPI

        from mpips.transport.mpi import MPITransport

        world = MPI.COMM_WORLD
        pair = world.Split(0 if world.rank < 2 else 1, world.rank)
        ends: list[Transport] = [MPITransport(pair)] if world.rank < 2 else []
        pair.Free()
        yield ends
        for end in ends:
            # A test that broke its transport on purpose has nothing to flush.
            with contextlib.suppress(ProtocolError):
                end.flush(PATIENCE_S)
            end.close()

    def test_long_frame_is_a_backlog_until_it_has_left(self, ends: list[Transport]) -> None:
        for end in ends:
            end.send(1 - end.node, b"", [np.zeros(9 * CHUNK_BYTES // 2)])
            # A part for each chunk, the short last one included; floats have eight bytes.
            assert end.backlog(1 - end.node) == 36
            frames: list[Frame] = []
            while not frames or end.unsent():
                frames += end.poll()
                # Only of an end that is still there, not when the other has closed.
                assert end.backlog(1 - end.node) <= end.unsent()
            assert end.backlog(1 - end.node) == 0

    def test_closed_transport_says_so(self, ends: list[Transport]) -> None:
        for end in ends:
            end.close()
            with pytest.raises(ProtocolError, match="closed"):
                end.poll()


class TestThroughMemory(TestMPITransport):
    """The same between ends that have found out that they share a host."""

    @pytest.fixture
    def ends(self) -> Iterator[list[Transport]]:
        """Give this rank's end when all can read each other's memory."""
        ends = TestMPITransport.ends.__wrapped__(self)  # type: ignore[attr-defined]
        (mine,) = [next(ends)]
        for end in mine:
            for node in (0, 1):
                end.send(node, b"who are you?")
        deadline, met = time.monotonic() + PATIENCE_S, 0
        while any(end._mates.readers != {0, 1} for end in mine) or met < 2 * len(mine):
            met += sum(len(end.poll()) for end in mine)
            assert time.monotonic() < deadline
        for end in mine:
            end._traffic.__init__()
        yield mine
        next(ends, None)

    def test_all_of_a_stream_goes_through_memory(self, ends: list[Transport]) -> None:
        """Who deals with what comes, and drops it, gets nothing the other way."""
        count, came = 40, dict.fromkeys((0, 1), 0)
        for end in ends:
            for number in range(count):
                end.send(1 - end.node, b"", [np.full(2**21, number, np.uint8)])
        deadline = time.monotonic() + PATIENCE_S
        while any(came[end.node] < count or end.unsent() for end in ends):
            for end in ends:
                for _, _, (part,) in end.poll():
                    assert part[0] == part[-1] == came[end.node]
                    came[end.node] += 1
                    del part
                # Chunks would be counted here.
                assert end._outbox.count(1 - end.node, 2) == 0
            assert time.monotonic() < deadline, came

    # These take long, and nothing of them goes through memory.
    test_frame_of_more_than_two_gibibytes_arrives = None  # type: ignore[assignment]
    test_node_that_forgot_another_goes_on_with_the_rest = None  # type: ignore[assignment]


class SlowMPI:
    """A communicator whose long messages take a while, as over a network."""

    def __init__(self, messages: list[bytes], chunks: list[npt.NDArray[np.uint8]]) -> None:
        self.messages, self.chunks = messages, chunks
        self.long = [message for message in messages if len(message) > MESSAGE_BYTES]
        self.inbox, self.is_known = bytearray(), False

    def Dup(self) -> "SlowMPI":
        return self

    def Get_rank(self) -> int:
        return 0

    def Get_size(self) -> int:
        return 2

    def Get_group(self) -> None:
        return None

    def Set_errhandler(self, handler: object) -> None:
        pass

    def Get_failed(self) -> None:
        raise NotImplementedError

    def Improbe(self, source: int, tag: int, status: Any) -> "SlowMPI | None":
        from mpi4py import MPI

        if self.is_known:
            return None
        self.is_known, status.source = True, 1
        status.Set_elements(MPI.BYTE, 0)
        return self

    def Recv(self, buffer: bytearray) -> None:
        pass

    def Recv_init(self, buffer: bytearray, source: int, tag: int) -> "SlowMPI":
        self.inbox = buffer
        return self

    def Start(self) -> None:
        pass

    def Test(self, status: Any) -> bool:
        from mpi4py import MPI

        if not self.messages:
            return False
        message = self.messages.pop(0)
        if len(message) > MESSAGE_BYTES:
            message = announce(len(message))
        self.inbox[: len(message)] = message
        status.source = 1
        status.Set_elements(MPI.BYTE, len(message))
        return True

    def Isend(self, data: object, dest: int, tag: int) -> "SlowRequest":
        return SlowRequest(0)

    def Irecv(self, buffer: Any, source: int, tag: int) -> "SlowRequest":
        is_long = isinstance(buffer, bytearray)
        buffer[:] = self.long.pop(0) if is_long else self.chunks.pop(0)
        return SlowRequest(3 if is_long else 0)


class SlowRequest:
    def __init__(self, tests: int) -> None:
        self.tests = tests

    def Test(self) -> bool:
        self.tests -= 1
        return self.tests < 0


def test_head_that_takes_long_is_not_overtaken_in_the_order_of_chunks() -> None:
    from mpips.transport.mpi import MPITransport

    heads = [b"a" * 10_000, b"b", b"c" * 10_000, b"d"]
    chunks = [np.full(100_000 + n, n, np.uint8) for n in range(4)]
    messages = [pack(head, [chunk], True) for head, chunk in zip(heads, chunks, strict=True)]
    end = MPITransport(SlowMPI(messages, list(chunks)))  # type: ignore[arg-type]
    frames = [frame for _ in range(20) for frame in end.poll()]
    assert [bytes(head) for _, head, _ in frames] == heads
    for (_, _, (part,)), chunk in zip(frames, chunks, strict=True):
        assert np.array_equal(part, chunk)
