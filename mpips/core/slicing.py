"""Cuts a push or pull by segment and groups the slices into requests, one owner each."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import groupby
from typing import Final

import msgspec
import numpy as np

from mpips.wire.slices import LISTED, cut_points, join_spans
from mpips.wire.types import KEY_SPACE, KeyArray, Table, View

REQUEST_BYTES_MAX: Final = 2 * 2**20
"""Bytes of keys and values: many are handed on while the next come, and few messages do it."""

APART_BYTES_MIN: Final = 2**19
"""Bytes of a piece from which on a message of its own is cheaper than a copy beside others."""

Range = tuple[int, int]


class Piece(msgspec.Struct):
    """The part of a push or pull that lies in one segment, or in some neighbours.

    What is the same for several segments is done once. `at` is its place in the caller's arrays,
    `begin` its first key (0 for a key list, `LISTED` for one in several segments), `mark` the
    number of the push before, `need` the clock that a pull waits for. `cuts` are the places of the
    caller's keys at which segments begin, and where the last one ends, if it is `LISTED`.
    """

    segment: int
    segments: int
    begin: int
    count: int
    at: int
    mark: int = 0
    need: int = 0
    cuts: list[int] | None = None


class Request(msgspec.Struct):
    """Pieces for one owner that travel in one message, sent in `epoch`.

    `is_all` says that they are all pieces of a task. `target` is where its answer is being
    received, of the incarnation `incarnation` of its owner.
    """

    owner: int
    pieces: list[Piece] = []
    size: int = 0
    epoch: int = 0
    is_all: bool = False
    target: np.ndarray | None = None
    incarnation: int = 0

    def is_coming(self, view: View) -> bool:
        """Return whether the answer is on its way here, from an owner that is still there.

        It was given in the owner's reign, and what is left of it would be written over any other.
        """
        member = view.member(self.owner)
        is_there = member is not None and member.incarnation == self.incarnation
        return self.target is not None and is_there

    def has_room(self, piece: Piece, key_bytes: int) -> bool:
        """Return whether the next piece, or its beginning, shall travel along."""
        if not self.pieces:
            return True
        last = self.pieces[-1]
        is_next = last.at + last.count == piece.at
        largest = max(last.count, piece.count) * key_bytes
        return self.size < REQUEST_BYTES_MAX and (is_next or largest < APART_BYTES_MIN)

    def spans(self) -> list[tuple[int, int]]:
        """Return the places [begin, end) in the caller's arrays, neighbours joined."""
        return join_spans((piece.at, piece.at + piece.count) for piece in self.pieces)

    def segments(self) -> list[int]:
        """Return the segments of all pieces."""
        return [s for p in self.pieces for s in range(p.segment, p.segment + p.segments)]


def cut(table: Table, size: int, where: KeyArray | Range, notes: Range | None) -> list[Piece]:
    """Return the pieces of a range, or of a key list with `notes` as `cut_keys` takes them.

    Args:
        table: the table that the keys belong to.
        size: keys of a segment of it.
        where: the keys.
        notes: of a push to a table with clocks.
    """
    if isinstance(where, tuple):
        return cut_range(table, *where)
    # Nearly all short lists lie in one segment.
    if notes is None and len(where):
        first = int(where[0]) // size
        if len(where) == 1 or int(where[-1]) // size == first:
            return [Piece(first, 1, 0, len(where), 0)]
    return cut_keys(table, where, notes)


def cut_range(table: Table, begin: int, end: int) -> list[Piece]:
    """Return the key range [begin, end) as one piece; none if it is empty.

    >>> table = Table(name="w", size=9, segments=3)
    >>> [(piece.segment, piece.segments, piece.count) for piece in cut_range(table, 2, 7)]
    [(0, 3, 5)]
    """
    if begin >= end:
        return []
    size = table.segment_size
    first, last = begin // size, (end - 1) // size
    whole = Piece(first, last + 1 - first, begin, end - begin, 0)
    # All keys of a sparse table are one more than a message can count.
    if whole.count < KEY_SPACE:
        return [whole]
    half = whole.segments // 2
    return [_part(whole, first, half, size), _part(whole, half, whole.segments - half, size)]


def split(pieces: list[Piece], values: Sequence[int], size: int) -> list[Piece]:
    """Cut pieces where a value changes from one segment to the next.

    Args:
        pieces: ascending; those that need no cut are returned as they are.
        values: by segment.
        size: keys of a segment.
    """
    parts: list[Piece] = []
    for piece in pieces:
        first, many = piece.segment, piece.segments
        if many == 1:
            parts.append(piece)
            continue
        mine = values[first : first + many]
        if mine.count(mine[0]) == many:
            parts.append(piece)
            continue
        for _, group in groupby(mine):
            length = len(list(group))
            parts.append(_part(piece, first, length, size))
            first += length
    return parts


def _part(piece: Piece, first: int, many: int, size: int) -> Piece:
    """Return the part of a piece that lies in some of its segments."""
    if piece.cuts is not None:
        cuts = piece.cuts[first - piece.segment : first - piece.segment + many + 1]
        count = cuts[-1] - cuts[0]
        if many == 1:
            return Piece(first, 1, 0, count, cuts[0], piece.mark, piece.need)
        return Piece(first, many, LISTED, count, cuts[0], piece.mark, piece.need, cuts)
    if not piece.count:
        return Piece(first, many, 0, 0, piece.at, piece.mark, piece.need)
    begin = max(piece.begin, first * size)
    count = min(piece.begin + piece.count, (first + many) * size) - begin
    at = piece.at + begin - piece.begin
    return Piece(first, many, begin, count, at, piece.mark, piece.need)


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
            return [Piece(first, 1, 0, n, 0)]
    # Find where each segment begins in the list.
    cuts = [0, *np.searchsorted(keys, cut_points(first, last + 1, size)).tolist(), n]
    # Where nobody asks for single segments, those that all have keys are one piece.
    if notes is None and not table.has_clocks and len(set(cuts)) == len(cuts):
        return [Piece(first, last + 1 - first, LISTED, n, 0, cuts=cuts)]
    pieces: list[Piece] = []
    for i in range(last - first + 1):
        count = cuts[i + 1] - cuts[i]
        if count:
            pieces.append(Piece(first + i, 1, 0, count, cuts[i]))
        elif notes is not None and pieces and not pieces[-1].count:
            pieces[-1].segments += 1
        elif notes is not None:
            pieces.append(Piece(first + i, 1, 0, 0, cuts[i]))
    return pieces


def group(pieces: list[Piece], owners: Sequence[int], key_bytes: int, size: int) -> list[Request]:
    """Return the requests that carry the pieces: one owner each, of a bounded size.

    Args:
        pieces: ascending.
        owners: the owner of each segment.
        key_bytes: bytes that travel for each key.
        size: keys of a segment.

    A segment is never cut, so a request may exceed `REQUEST_BYTES_MAX` by less than one. What is
    large and lies apart from the rest travels alone: it is sent from where it is, and received
    where it shall stay, and only small pieces are gathered.
    """
    # Nearly all requests of few keys are of one segment.
    if len(pieces) == 1 and pieces[0].segments == 1:
        return [Request(owners[pieces[0].segment], pieces)]
    requests: list[Request] = []
    latest: dict[int, Request] = {}
    for piece in split(pieces, owners, size):
        owner = owners[piece.segment]
        while True:
            request = latest.get(owner)
            if request is None or not request.has_room(piece, key_bytes):
                request = latest[owner] = Request(owner)
                requests.append(request)
            if piece.segments == 1:
                request.pieces.append(piece)
                request.size += piece.count * key_bytes
                break
            # Give the message as many segments as it has room for.
            room = _room(piece, REQUEST_BYTES_MAX - request.size, key_bytes)
            if room >= piece.segments or not piece.count:
                request.pieces.append(piece)
                request.size += piece.count * key_bytes
                break
            head = _part(piece, piece.segment, room, size)
            request.pieces.append(head)
            request.size += head.count * key_bytes
            piece = _part(piece, piece.segment + room, piece.segments - room, size)
    return requests


def _room(piece: Piece, room: int, key_bytes: int) -> int:
    """Return how many segments of a piece fill so many bytes, the last one only in part."""
    if piece.cuts is not None:
        return bisect_left(piece.cuts, piece.cuts[0] - (-room // max(1, key_bytes)))
    return -(-room // max(1, piece.count * key_bytes // piece.segments))


def take_spans(array: np.ndarray, spans: list[tuple[int, int]]) -> np.ndarray:
    """Return the rows of `array` at `spans`: a view if they are one piece, else a copy."""
    if len(spans) == 1:
        return array[spans[0][0] : spans[0][1]]
    return np.concatenate([array[begin:end] for begin, end in spans])


def length_of(where: KeyArray | Range) -> int:
    """Return the number of keys of a list or range."""
    return where[1] - where[0] if isinstance(where, tuple) else len(where)
