"""MPI keeps the promises of a transport, between ranks 0 and 1 of the world."""

import contextlib
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
