"""Memory with more addresses than it takes, and giving it back in huge pages."""

from itertools import pairwise

import numpy as np
import pytest

from mpips.store import reserve
from mpips.store.reserve import HUGE, SMALL, Leftovers, grow_rows

PAGE = HUGE // 4


@pytest.mark.parametrize("shape", [(10,), (10, 3)], ids=str)
@pytest.mark.parametrize("count", [20, SMALL + 1])
def test_rows_are_there_after_growth_and_zeros_follow(shape: tuple[int, ...], count: int) -> None:
    rows = np.random.default_rng(0).random(shape)
    grown = grow_rows(rows, count)
    assert grown.dtype == rows.dtype
    assert len(grown) >= count
    assert np.array_equal(grown[:10], rows)
    assert not grown[10:count].any()


def test_less_is_reserved_where_the_system_gives_less(monkeypatch: pytest.MonkeyPatch) -> None:
    give, asked = reserve._map, []

    def give_little(size: int) -> object:
        asked.append(size)
        if size > 2**24:
            raise OSError("no more addresses")
        return give(size)

    monkeypatch.setattr(reserve, "_map", give_little)
    grown = grow_rows(np.ones(5), 2 * SMALL)
    assert 2 * SMALL <= len(grown) <= 2**24 // 8
    assert len(asked) > 2
    # Where there is nothing of the kind, memory is taken as anywhere else.
    assert len(grow_rows(np.ones(5), 2**22)) == 2**22


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return the rows that are given back from now on."""
    runs: list[tuple[int, int]] = []
    monkeypatch.setattr(reserve, "release_rows", lambda _, a, b: runs.append((a, b)))
    return runs


def rows_at_an_edge() -> np.ndarray:
    """Return uint32 rows that begin at a huge page."""
    block = np.zeros(10 * PAGE, np.uint32)
    begin = -block.ctypes.data % HUGE // 4
    return block[begin : begin + 8 * PAGE]


def test_leftovers_are_given_back_as_whole_huge_pages(given: list[tuple[int, int]]) -> None:
    left = Leftovers(rows_at_an_edge())
    for first, last in ((10, PAGE - 5), (PAGE, 2 * PAGE - 1), (2 * PAGE + 7, 2 * PAGE + 9)):
        left.add(first, last, 8 * PAGE)
    assert given == []
    left.add(2 * PAGE - 1, 2 * PAGE + 7, 8 * PAGE)
    assert given == [(PAGE, 2 * PAGE)]
    left.add(PAGE - 5, PAGE, 8 * PAGE)
    left.add(0, 10, 8 * PAGE)
    assert given == [(PAGE, 2 * PAGE), (0, PAGE)]


def test_too_many_leftovers_are_given_back_at_once(given: list[tuple[int, int]]) -> None:
    left = Leftovers(rows_at_an_edge())
    left.add(100, 200, 250)
    left.add(300, 400, 250)
    assert given == []
    left.add(500, 600, 250)
    assert given == [(500, 600)]
    left.add(200, 300, 250)
    assert given[1:] == [(100, 400)]


def test_whatever_is_left_over_is_given_back_once(given: list[tuple[int, int]]) -> None:
    random = np.random.default_rng(3)
    cuts = sorted(set(random.integers(0, 8 * PAGE, 60).tolist()))
    runs = list(pairwise(cuts))
    left = Leftovers(rows_at_an_edge())
    for at in random.permutation(len(runs)):
        left.add(*runs[at], 10 * PAGE)
    edges = -(-cuts[0] // PAGE) * PAGE, cuts[-1] // PAGE * PAGE
    assert sum(b - a for a, b in given) == edges[1] - edges[0]
    assert all(a % PAGE == 0 and b % PAGE == 0 for a, b in given)
