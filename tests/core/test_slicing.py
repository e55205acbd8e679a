"""Pushes and pulls are cut so that every key is in one piece, and every piece at its owner."""

import numpy as np
import pytest

from mpips.core import slicing
from mpips.core.slicing import Piece, Request, cut_keys, cut_range, group
from mpips.wire.types import KEY_SPACE, Table
from tests.core.world import draw_keys, draw_table


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
        first, last = table.segment_range(piece.segment)
        assert first <= piece.begin == at
        assert piece.begin + piece.count <= last
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
        first, last = table.segment_range(piece.segment)
        assert piece.at == at
        assert piece.begin == 0
        assert all(first <= int(key) < last for key in keys[at : at + piece.count])
        at += piece.count
    assert at == len(keys)
    # Every segment with a key of the table is told of the clock, or only those with a push.
    segments = [piece.segment for piece in pieces]
    there = [s for s in range(table.segments) if table.segment_range(s)[0] < table.size]
    assert segments == (there if notes else [p.segment for p in pieces if p.count])


@pytest.mark.parametrize("begin", [0, 3, 4, 12])
def test_empty_range_has_no_pieces(begin: int) -> None:
    table = Table(name="w", size=12, segments=4)
    assert cut_range(table, begin, begin) == []


def test_notes_stay_within_the_declared_range() -> None:
    table = Table(name="w", size=12, segments=4)
    keys = np.array([4, 5], np.uint64)
    pieces = cut_keys(table, keys, (3, 7))
    assert pieces == [Piece(1, 0, 2, 0), Piece(2, 0, 0, 2)]
    with pytest.raises(AssertionError):
        cut_keys(table, keys, (5, 7))


def test_request_has_one_owner_and_a_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slicing, "REQUEST_BYTES_MAX", 100)
    pieces = [Piece(segment, 0, 5, 5 * segment) for segment in range(20)]
    owners = np.array([1, 2] * 10, np.int32)
    requests = group(pieces, owners, 8)
    assert sorted(p.segment for r in requests for p in r.pieces) == list(range(20))
    for request in requests:
        assert {int(owners[piece.segment]) for piece in request.pieces} == {request.owner}
        assert request.size == sum(8 * piece.count for piece in request.pieces) < 100 + 40
    assert len(requests) == 8


def test_spans_join_neighbours_and_keep_holes() -> None:
    request = Request(
        1, [Piece(0, 0, 2, 0), Piece(1, 0, 3, 2), Piece(2, 0, 0, 5), Piece(4, 0, 1, 9)]
    )
    assert request.spans() == [(0, 5), (9, 10)]
