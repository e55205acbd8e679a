"""The queues of one process keep the promises of a transport."""

import numpy as np
import pytest

from mpips.testing.contract import TransportContract, random_bytes
from mpips.transport.base import Transport
from mpips.transport.loop import LoopTransport


class TestLoopTransport(TransportContract):
    """Both ends live here."""

    @pytest.fixture
    def ends(self) -> list[Transport]:
        """Give both ends of a world of two."""
        return [*LoopTransport.world(2)]


def test_large_payload_is_copied_as_over_a_network() -> None:
    one, other = LoopTransport.world(2)
    array = random_bytes(0, 100_000)
    one.send(1, b"", [array])
    array[:] = 0
    ((_, _, (part,)),) = other.poll()
    assert np.array_equal(part, random_bytes(0, 100_000))


def test_worlds_do_not_hear_each_other() -> None:
    one, other = LoopTransport.world(1)[0], LoopTransport.world(1)[0]
    one.send(0, b"mine")
    assert other.poll() == []
    assert [bytes(head) for _, head, _ in one.poll()] == [b"mine"]


def test_closed_end_forgets_its_frames() -> None:
    one, other = LoopTransport.world(2)
    one.send(1, b"late")
    other.close()
    assert other.poll() == []
