"""MPI keeps the promises of a transport, between ranks 0 and 1 of the world."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mpips.errors import ProtocolError
from mpips.testing.contract import PATIENCE_S, TransportContract
from mpips.transport.base import Transport
from mpips.transport.packing import pack

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

    def test_closed_transport_says_so(self, ends: list[Transport]) -> None:
        for end in ends:
            end.close()
            with pytest.raises(ProtocolError, match="closed"):
                end.poll()


class SlowMPI:
    """A communicator whose messages of more than a page take a while, as over a network."""

    def __init__(self, messages: list[bytes], chunks: list[npt.NDArray[np.uint8]]) -> None:
        self.messages, self.chunks = messages, chunks

    def Dup(self) -> "SlowMPI":
        return self

    def Get_rank(self) -> int:
        return 0

    def Get_size(self) -> int:
        return 2

    def Set_errhandler(self, handler: object) -> None:
        pass

    def Get_failed(self) -> None:
        raise NotImplementedError

    def Improbe(self, source: int, tag: int, status: Any) -> "SlowMessage | None":
        from mpi4py import MPI

        if not self.messages:
            return None
        message = self.messages.pop(0)
        status.source = 1
        status.Set_elements(MPI.BYTE, len(message))
        return SlowMessage(message)

    def Irecv(self, buffer: npt.NDArray[np.uint8], source: int, tag: int) -> "SlowRequest":
        buffer[:] = self.chunks.pop(0)
        return SlowRequest(0)


class SlowMessage:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def Irecv(self, buffer: bytearray) -> "SlowRequest":
        buffer[:] = self.content
        return SlowRequest(3 if len(self.content) > 4096 else 0)


class SlowRequest:
    def __init__(self, tests: int) -> None:
        self.tests = tests

    def Test(self) -> bool:
        self.tests -= 1
        return self.tests < 0


def test_head_that_takes_long_is_not_overtaken_in_the_order_of_chunks() -> None:
    from mpips.transport.mpi import MPITransport

    heads = [b"a" * 10_000, b"b", b"c" * 10_000]
    chunks = [np.full(100_000 + n, n, np.uint8) for n in range(3)]
    messages = [pack(head, [chunk], True) for head, chunk in zip(heads, chunks, strict=True)]
    end = MPITransport(SlowMPI(messages, list(chunks)))  # type: ignore[arg-type]
    frames = [frame for _ in range(20) for frame in end.poll()]
    assert [bytes(head) for _, head, _ in frames] == heads
    for (_, _, (part,)), chunk in zip(frames, chunks, strict=True):
        assert np.array_equal(part, chunk)
