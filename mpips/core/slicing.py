"""Cuts a push or pull by segment and groups the slices into requests, one owner each."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from mpips.wire.types import KeyArray, Table

REQUEST_BYTES_MAX: Final = 4 * 2**20

Range = tuple[int, int]


@dataclass(slots=True)
class Piece:
    """The part of a push or pull that lies in one segment.

    `at` is its place in the caller's arrays, `begin` its first key (0 for a key list).
    """

    segment: int
    begin: int
    count: int
    at: int


@dataclass(slots=True)
class Request:
    """Pieces for one owner that travel in one message, sent in `epoch`."""

    owner: int
    pieces: list[Piece] = field(default_factory=list)
    size: int = 0
    epoch: int = 0

    def spans(self) -> list[tuple[int, int]]:
        """Return the places [begin, end) in the caller's arrays, neighbours joined."""
        joined: list[tuple[int, int]] = []
        for piece in self.pieces:
            if joined and joined[-1][1] == piece.at:
                joined[-1] = (joined[-1][0], piece.at + piece.count)
            else:
                joined.append((piece.at, piece.at + piece.count))
        return joined


def cut_range(table: Table, begin: int, end: int) -> list[Piece]:
    """Return the pieces of the key range [begin, end), ascending.

    >>> table = Table(name="w", size=9, segments=3)
    >>> [(piece.segment, piece.begin, piece.count) for piece in cut_range(table, 2, 7)]
    [(0, 2, 1), (1, 3, 3), (2, 6, 1)]
    """
    if begin >= end:
        return []
    size = table.segment_size
    pieces = []
    for segment in range(begin // size, (end - 1) // size + 1):
        first, last = max(begin, segment * size), min(end, (segment + 1) * size)
        pieces.append(Piece(segment, first, last - first, first - begin))
    return pieces


def cut_keys(table: Table, keys: KeyArray, notes: Range | None = None) -> list[Piece]:
    """Return the pieces of a sorted key list, ascending.

    Args:
        table: the table that the keys belong to.
        keys: uint64 `(n,)`, strictly increasing.
        notes: a range of which segments without keys get an empty piece, as aggregating tables
            need: every logical worker's clock must reach every segment; it holds all keys.

    Cost: O(segments log n).
    """
    size, n = table.segment_size, len(keys)
    if notes is not None:
        first, last = notes[0] // size, (notes[1] - 1) // size
        assert n == 0 or (notes[0] <= int(keys[0]) and int(keys[-1]) < notes[1]), notes
    elif n == 0:
        return []
    else:
        first, last = int(keys[0]) // size, int(keys[-1]) // size
        if first == last:
            return [Piece(first, 0, n, 0)]
    # Find where each segment begins in the list.
    begins = np.arange(first + 1, last + 1, dtype=np.uint64) * np.uint64(size)
    cuts = [0, *np.searchsorted(keys, begins).tolist(), n]
    return [
        Piece(first + i, 0, cuts[i + 1] - cuts[i], cuts[i])
        for i in range(last - first + 1)
        if notes is not None or cuts[i + 1] > cuts[i]
    ]


def group(pieces: list[Piece], owners: np.ndarray, key_bytes: int) -> list[Request]:
    """Return the requests that carry the pieces: one owner each, of a bounded size.

    Args:
        pieces: ascending.
        owners: int32 `(segments,)`, the owner of each segment.
        key_bytes: bytes that travel for each key.

    A piece is never cut, so a request may exceed `REQUEST_BYTES_MAX` by less than one piece.
    """
    requests: list[Request] = []
    latest: dict[int, Request] = {}
    for piece in pieces:
        owner = int(owners[piece.segment])
        request = latest.get(owner)
        if request is None or request.size >= REQUEST_BYTES_MAX:
            request = latest[owner] = Request(owner)
            requests.append(request)
        request.pieces.append(piece)
        request.size += piece.count * key_bytes
    return requests
