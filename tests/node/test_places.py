"""Where ranks are, and whether they share cores."""

import os
import socket

import numpy as np
import pytest

from mpips.node.places import are_crowded, find_places, pack_cores


class Said:
    """Stands for a communicator whose other ranks say what they are told to."""

    def __init__(self, others: list[tuple[str, set[int]]]) -> None:
        self.others = others

    def Get_size(self) -> int:
        """Return how many there are."""
        return 1 + len(self.others)

    def Get_rank(self) -> int:
        """Return the first one's number."""
        return 0

    def Allgather(self, mine: np.ndarray, every: np.ndarray, /) -> None:
        """Write what this rank and the others give."""
        every[0] = mine
        for row, (host, cores) in zip(every[1:], self.others, strict=True):
            said = host.encode().ljust(64, b"\0") + bytes(8) + pack_cores(cores)
            row[:] = np.frombuffer(said, np.uint8)


@pytest.mark.parametrize(("cores", "expected"), [
    ([{0}, {1}, {2}], False), ([{0, 1}] * 2, False), ([{0, 1}] * 3, True), ([{0}, {0}], True),
    ([{0}, {1}, {1}], True), ([{300}, {700}], False),
])  # fmt: skip
def test_ranks_are_crowded_if_they_outnumber_their_cores(
    cores: list[set[int]], expected: bool
) -> None:
    assert are_crowded([pack_cores(each) for each in cores]) is expected


def test_ranks_on_other_hosts_crowd_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    here = socket.gethostname()
    far = find_places(Said([("far", {0}), ("far", {0})]))
    assert (far.hosts, far.is_crowded) == ([here, "far", "far"], False)
    near = find_places(Said([(here, {0}), ("far", {0})]))
    assert near.is_crowded
    assert len(near.token) == 16
    assert near.token != far.token
