"""Where the ranks of a job are: their hosts, and whether they have cores of their own."""

import os
import socket
from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

HOST_BYTES: Final = 64
TOKEN_BYTES: Final = 8
CORE_BYTES: Final = 256


class Ranks(Protocol):
    """All ranks of a job, as an MPI communicator has them."""

    def Get_size(self) -> int:
        """Return how many there are."""
        ...

    def Get_rank(self) -> int:
        """Return the number of this one."""
        ...

    def Allgather(self, mine: Any, every: Any, /) -> None:
        """Write the array of each rank into a row of `every`."""
        ...


class Places(NamedTuple):
    """Where the ranks of a job are.

    Attributes:
        hosts: by rank, the name of its host.
        token: the same on all ranks, and of this job alone.
        is_crowded: whether the ranks on this host outnumber the cores that they may use together.
    """

    hosts: list[str]
    token: str
    is_crowded: bool


def find_places(comm: Ranks) -> Places:
    """Return where all ranks are, which they have to ask for together: it is collective."""
    name = socket.gethostname().encode()[:HOST_BYTES]
    cores = pack_cores(os.sched_getaffinity(0))
    mine = np.frombuffer(name.ljust(HOST_BYTES, b"\0") + os.urandom(TOKEN_BYTES) + cores, np.uint8)
    every = np.empty((comm.Get_size(), len(mine)), dtype=np.uint8)
    comm.Allgather(mine, every)
    hosts = [row[:HOST_BYTES].tobytes().rstrip(b"\0").decode() for row in every]
    token = every[0, HOST_BYTES : HOST_BYTES + TOKEN_BYTES].tobytes().hex()
    here = [host == hosts[comm.Get_rank()] for host in hosts]
    masks = [row.tobytes() for row in every[here, HOST_BYTES + TOKEN_BYTES :]]
    return Places(hosts, token, are_crowded(masks))


def pack_cores(cores: Collection[int]) -> bytes:
    """Return the numbers of cores as bits, `CORE_BYTES` of them."""
    bits = 0
    for core in cores:
        bits |= 1 << core % (8 * CORE_BYTES)
    return bits.to_bytes(CORE_BYTES, "little")


def are_crowded(masks: Sequence[bytes]) -> bool:
    """Return whether ranks outnumber the cores that they have together.

    Each bound to a core of its own has one core, and yet they are not crowded.

    Args:
        masks: the cores of each rank of a host, packed.

    >>> are_crowded([pack_cores({0}), pack_cores({1})]), are_crowded([pack_cores({0})] * 2)
    (False, True)
    """
    together = 0
    for mask in masks:
        together |= int.from_bytes(mask, "little")
    return len(masks) > together.bit_count()
