"""Pushes and pulls are cut so that every key is in one piece, and every piece at its owner."""

from itertools import pairwise

import numpy as np
import pytest

from mpips.core import slicing
from mpips.core.slicing import Piece, Request, cut_keys, cut_range, group, split
from mpips.wire.slices import LISTED, Slices
from mpips.wire.types import KEY_SPACE, Table
from tests.core.world import draw_keys, draw_table


def spread(table: Table, piece: Piece) -> tuple[int, int]:
    """Return the keys of the segments of a piece."""
    last = piece.segment + piece.segments - 1
    return table.segment_range(piece.segment)[0], table.segment_range(last)[1]


@pytest.mark.parametrize("seed", range(30))
def test_pieces_of_a_range_cover_it_in_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table, _ = draw_table(rng)
    begin, end = (
        sorted(rng.integers(0, table.size, 2, dtype=np.uint64, endpoint=True).tolist())
        if table.size < KEY_SPACE
        else (int(rng.integers(0, 2**63)), KEY_SPACE)
    )
    at = begin
    for piece in cut_range(table, begin, end):
        first, last = spread(table, piece)
        assert first <= piece.begin == at
        assert last - table.segment_size < piece.begin + piece.count <= last
        assert piece.at == piece.begin - begin
        assert piece.count > 0
        at += piece.count
    assert at == end


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("notes", [False, True])
def test_pieces_of_a_key_list_cover_it_in_order(seed: int, notes: bool) -> None:
    rng = np.random.default_rng(seed)
    table, pool = draw_table(rng)
    keys = draw_keys(rng, pool)
    pieces = cut_keys(table, keys, (0, table.size) if notes else None)
    at = 0
    for piece in pieces:
        first, last = spread(table, piece)
        is_joined = piece.segments > 1 and piece.count > 0
        assert not (is_joined and (notes or table.has_clocks))
        assert piece.at == at
        assert piece.begin == (LISTED if is_joined else 0)
        assert all(first <= int(key) < last for key in keys[at : at + piece.count])
        at += piece.count
    assert at == len(keys)
    # Every segment with a key of the table is told of the clock, or only those with a push.
    segments = Request(0, pieces).segments()
    there = [s for s in range(table.segments) if table.segment_range(s)[0] < table.size]
    touched = sorted({int(key) // table.segment_size for key in keys})
    assert segments == (there if notes else touched)


@pytest.mark.parametrize("seed", range(30))
def test_joined_pieces_of_a_key_list_are_cut_as_its_keys_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = Table(name="w", size=160, segments=16)
    many = int(rng.integers(20, 160))
    keys = np.sort(rng.choice(160, many, replace=False)).astype(np.uint64)
    # Cut it where some number changes, as clients do before they send it.
    pieces = split(cut_keys(table, keys), rng.integers(0, 2, 16).tolist(), table.segment_size)
    assert all(piece.count == 0 or keys[piece.at] >= piece.segment * 10 for piece in pieces)
    runs = [(p.segment, p.segments, p.mark, p.begin, p.count) for p in pieces]
    slices = Slices(table.segment_size, runs).by_segment(keys)
    counts = np.bincount(keys.astype(np.int64) // 10, minlength=16).tolist()
    assert list(slices) == [(s, 0, 0, count) for s, count in enumerate(counts) if count]
    assert [s for s, _, _, _ in Slices(table.segment_size, runs)] == slices.segments()


def test_request_of_uneven_keys_is_bounded_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slicing, "REQUEST_BYTES_MAX", 100)
    table = Table(name="w", size=1000, segments=10)
    # Nearly all keys are in the first segments.
    keys = np.array([*range(0, 300, 10), *range(300, 1000, 100)], np.uint64)
    requests = group(cut_keys(table, keys), [1] * 10, 8, table.segment_size)
    assert [request.size // 8 for request in requests] == [20, 13, 4]
    assert [r.segments() for r in requests] == [[0, 1], [2, 3, 4, 5], [6, 7, 8, 9]]


@pytest.mark.parametrize("begin", [0, 3, 4, 12])
def test_empty_range_has_no_pieces(begin: int) -> None:
    table = Table(name="w", size=12, segments=4)
    assert cut_range(table, begin, begin) == []


def test_notes_stay_within_the_declared_range() -> None:
    table = Table(name="w", size=12, segments=4)
    keys = np.array([4, 5], np.uint64)
    pieces = cut_keys(table, keys, (3, 7))
    assert pieces == [Piece(1, 1, 0, 2, 0), Piece(2, 1, 0, 0, 2)]
    with pytest.raises(AssertionError):
        cut_keys(table, keys, (5, 7))


def test_request_has_one_owner_and_a_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slicing, "REQUEST_BYTES_MAX", 100)
    owners = [1, 2] * 10
    requests = group([Piece(segment, 1, 0, 5, 5 * segment) for segment in range(20)], owners, 8, 5)
    assert sorted(p.segment for r in requests for p in r.pieces) == list(range(20))
    for request in requests:
        assert {owners[piece.segment] for piece in request.pieces} == {request.owner}
        assert request.size == sum(8 * piece.count for piece in request.pieces) < 100 + 40
    assert len(requests) == 8


def test_range_is_cut_where_owners_change_and_messages_are_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slicing, "REQUEST_BYTES_MAX", 100)
    table = Table(name="w", size=98, segments=20)
    owners = [1] * 9 + [2] * 2 + [1] * 9
    requests = group(cut_range(table, 3, 97), owners, 8, table.segment_size)
    assert sorted(s for r in requests for s in r.segments()) == list(range(20))
    spans = sorted(span for request in requests for span in request.spans())
    assert (spans[0][0], spans[-1][1]) == (0, 94)
    assert all(a[1] == b[0] for a, b in pairwise(spans))
    for request in requests:
        assert {owners[segment] for segment in request.segments()} == {request.owner}
        assert request.size == sum(8 * piece.count for piece in request.pieces) < 100 + 40
        assert all(p.begin == p.at + 3 for p in request.pieces)
    assert len(requests) == 7


def test_pieces_are_split_where_a_value_changes() -> None:
    pieces = [Piece(0, 3, 2, 10, 0), Piece(3, 2, 0, 0, 10), Piece(5, 1, 0, 4, 10)]
    parts = split(pieces, [7, 7, 8, 8, 9, 9], 4)
    assert [(p.segment, p.segments, p.begin, p.count, p.at) for p in parts] == [
        (0, 2, 2, 6, 0), (2, 1, 8, 4, 6), (3, 1, 0, 0, 10), (4, 1, 0, 0, 10), (5, 1, 0, 4, 10),
    ]  # fmt: skip
    assert split(pieces, [7] * 6, 4) == pieces


def test_spans_join_neighbours_and_keep_holes() -> None:
    request = Request(
        1, [Piece(0, 1, 0, 2, 0), Piece(1, 1, 0, 3, 2), Piece(2, 2, 0, 0, 5), Piece(4, 1, 0, 1, 9)]
    )
    assert request.spans() == [(0, 5), (9, 10)]


def test_large_pieces_that_lie_apart_travel_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slicing, "APART_BYTES_MIN", 80)
    table = Table(name="w", size=40, segments=8)
    # Ten keys of 8 bytes are large, five are not; of node 2 all are small.
    owners = [1, 1, 2, 1, 1, 2, 1, 2]
    requests = group(cut_range(table, 0, 40), owners, 8, table.segment_size)
    spans = sorted((request.owner, request.spans()) for request in requests)
    small = [(10, 15), (25, 30), (35, 40)]
    assert spans == [(1, [(0, 10)]), (1, [(15, 25)]), (1, [(30, 35)]), (2, small)]
