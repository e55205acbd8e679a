"""The words of the protocol as types: tables, members, views, and their limits."""

from collections.abc import Callable
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

KeyArray = npt.NDArray[np.uint64]
ValueArray = npt.NDArray[np.floating]

SEGMENTS_PER_SERVER, FEW_PER_SERVER = 64, 8
"""Segments of a large table, and of a small one, whose messages would be longer to list than to
send."""

SEGMENT_KEYS, SEGMENT_KEYS_MIN = 4096, 256
"""The fewest keys of a segment where there are many, and where there are few."""

KEY_SPACE: Final = 2**64
PROPOSERS_MAX: Final = 2**20
NOBODY: Final = -1

DTYPES: Final[dict[str, np.dtype[Any]]] = {"f4": np.dtype(np.float32), "f8": np.dtype(np.float64)}
ROLES: Final = ("scheduler", "server", "worker", "spare")
MODES: Final = ("sequential", "bounded", "eventual", "predicate")


def few_segments(size: int, servers: int) -> int:
    """Return a number of segments of a table of so many keys: a few a server, none tiny.

    >>> few_segments(123, 1), few_segments(10**6, 3)
    (1, 24)
    """
    return max(1, min(FEW_PER_SERVER * servers, -(-size // SEGMENT_KEYS_MIN)))


def make_epoch(counter: int, proposer: int) -> int:
    """Return the epoch (counter, proposer) as one integer that orders like the pair.

    >>> make_epoch(2, 0) > make_epoch(1, 7) > make_epoch(1, 3)
    True
    """
    assert 0 <= proposer < PROPOSERS_MAX, proposer
    assert counter >= 0, counter
    return counter * PROPOSERS_MAX + proposer


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A named parameter vector, cut into segments of equal size.

    Attributes:
        name: what apps call it.
        kind: "dense" (every key of [0, size) exists) or "sparse" (absent keys read as initial).
        size: number of keys of a dense table; 2**64, the whole key space, of a sparse one.
        segments: number of segments, fixed for the life of the model; 0: not decided yet.
        width: values for each key.
        dtype: "f4" or "f8", of values and of the update function's state.
        update: the server's update function: a built-in name, "module:Class", or the class.
        settings: the update function's settings by name.
        aggregate: True: updated once for each clock, with the sum of all logical workers' pushes
            in the order of their ids; False: updated at each push.
        mode: "sequential" (pulls wait for every logical worker's push of the clock before),
            "bounded" (they wait for the clocks up to `max_delay` before that), "eventual"
            (pulls never wait), or "predicate" (they wait for what `predicate` says).
        max_delay: of "bounded": how many clocks a logical worker may be ahead of what it reads,
            tau in the paper. 0 waits longest; the larger, the staler the values.
        predicate: of "predicate": a function that takes a `mpips.Reading`, or its name as
            "module:function"; it says whether a pull may be answered yet.
    """

    name: str
    kind: str = "dense"
    size: int = KEY_SPACE
    segments: int = 0
    width: int = 1
    dtype: str = "f8"
    update: str | type = "add"
    settings: dict[str, float] = {}
    aggregate: bool = False
    mode: str = "eventual"
    max_delay: int = 0
    predicate: str | Callable[..., bool] | None = None

    def __post_init__(self) -> None:
        assert self.kind in ("dense", "sparse"), self.kind
        assert self.dtype in DTYPES, self.dtype
        assert self.mode in MODES, self.mode
        assert self.width >= 1, self.width
        assert 0 <= self.size <= KEY_SPACE, self.size
        assert self.segments >= 0, self.segments
        assert (self.kind == "sparse") == (self.size == KEY_SPACE), (self.kind, self.size)
        assert self.kind == "dense" or self.segments != 1, "a sparse table has 2 segments or more"
        assert self.max_delay >= 0, self.max_delay
        assert self.mode == "bounded" or not self.max_delay, "max_delay is of bounded tables"
        assert self.mode != "sequential" or self.aggregate, "sequential tables aggregate"
        assert (self.mode == "predicate") == (self.predicate is not None), self.predicate

    @property
    def has_clocks(self) -> bool:
        """Return whether pushes move clocks, and tell segments that have none of their keys."""
        return self.aggregate or self.mode != "eventual"

    def cut(self, servers: int) -> "Table":
        """Return the table with its segments decided: some a server, none tiny; many of large ones.

        >>> [Table(name="w", size=size).cut(2).segments for size in (10, 5000, 10**5, 10**6)]
        [1, 16, 25, 128]
        """
        many = min(SEGMENTS_PER_SERVER * servers, -(-self.size // SEGMENT_KEYS))
        default = max(many, few_segments(self.size, servers))
        return msgspec.structs.replace(self, segments=self.segments or default)

    @property
    def segment_size(self) -> int:
        """Return the number of keys of each segment but the last, which may be smaller."""
        return max(1, -(-self.size // self.segments))

    def segment_range(self, segment: int) -> tuple[int, int]:
        """Return the key range [begin, end) of a segment.

        >>> Table(name="w", size=10, segments=3).segment_range(2)
        (8, 10)
        """
        begin = min(segment * self.segment_size, self.size)
        return begin, min(begin + self.segment_size, self.size)


class Member(msgspec.Struct, frozen=True, array_like=True):
    """A node in a view: its id, role, host, and the epoch that appointed it."""

    node: int
    role: str
    host: str
    incarnation: int


class View(msgspec.Struct, frozen=True, array_like=True):
    """Who is in the job, and who owns what, in one epoch (DESIGN: views).

    Attributes:
        epoch: number of the view.
        members: the nodes with their roles, in the order of their ids.
        owners: for each table the owner of each segment, int32 `(segments,)`; `NOBODY` if all
            who had it are lost.
        actors: the node that acts for each logical worker, in the order of their ids; `NOBODY`
            for one that was dropped.
        copies: for each table the nodes whose copies are in sync, in the order in which they are
            promoted, int32 `(segments, replicas)`, `NOBODY` in free places.
        joining: likewise the nodes that get a snapshot, and then every update.
        since: for each table the epoch of each segment's last change of owner, int64
            `(segments,)`.
        handed: for each table whether that change was a hand-over, after which all copies in sync
            were level with the new owner, uint8 `(segments,)`.
        asked: for each table the epoch in which the latest of those that join was asked to,
            int64 `(segments,)`.
        heirs: for each table the node that each segment moves to, which gets a snapshot if it is
            no copy, and then every update, int32 `(segments,)`; `NOBODY` if it stays.
        stops: for each table the epoch since which the owner serves a segment no more, since its
            heir has all but the last updates, int64 `(segments,)`; 0: it serves.
        leaving: the servers and workers that shall have nothing to do soon.
        coming: the workers that shall act for logical workers from the next task on.
        scheduler: the node that proposes views and gives out tasks.
        acceptors: the nodes that store decisions, in the order in which they follow the scheduler.
    """

    epoch: int
    members: tuple[Member, ...]
    owners: tuple[np.ndarray, ...]
    actors: tuple[int, ...]
    copies: tuple[np.ndarray, ...] = ()
    joining: tuple[np.ndarray, ...] = ()
    since: tuple[np.ndarray, ...] = ()
    handed: tuple[np.ndarray, ...] = ()
    asked: tuple[np.ndarray, ...] = ()
    heirs: tuple[np.ndarray, ...] = ()
    stops: tuple[np.ndarray, ...] = ()
    leaving: tuple[int, ...] = ()
    coming: tuple[int, ...] = ()
    scheduler: int = 0
    acceptors: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        # Without copies and moves, all is as it was in the first view.
        sizes = [len(owners) for owners in self.owners]
        for name, default in (
            ("copies", [np.empty((size, 0), np.int32) for size in sizes]),
            ("joining", [np.empty((size, 0), np.int32) for size in sizes]),
            ("since", [np.zeros(size, np.int64) for size in sizes]),
            ("handed", [np.zeros(size, np.uint8) for size in sizes]),
            ("asked", [np.zeros(size, np.int64) for size in sizes]),
            ("heirs", [np.full(size, NOBODY, np.int32) for size in sizes]),
            ("stops", [np.zeros(size, np.int64) for size in sizes]),
        ):
            if len(getattr(self, name)) != len(self.owners):
                msgspec.structs.force_setattr(self, name, tuple(default))

    @property
    def is_first(self) -> bool:
        """Return whether the job begins with it: all tables are empty."""
        return self.epoch < make_epoch(2, 0)

    def member(self, node: int) -> Member | None:
        """Return a node of the view, or None."""
        return next((member for member in self.members if member.node == node), None)

    def nodes(self, role: str) -> list[int]:
        """Return the ids of the nodes with a role, ascending."""
        return [member.node for member in self.members if member.role == role]
