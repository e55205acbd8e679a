"""MPI keeps the promises of a transport, between ranks 0 and 1 of the world."""

import contextlib
from collections.abc import Iterator

import pytest

from mpips.errors import ProtocolError
from mpips.testing.contract import PATIENCE_S, TransportContract
from mpips.transport.base import Transport

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
