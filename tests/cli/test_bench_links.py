"""Slow links and slow hosts are found among others."""

from itertools import combinations

import pytest

from mpips.cli.bench_links import Link, Place, choose, draw_rounds, find_slow, show


def places(size: int) -> list[Place]:
    """Return hosts that are all the same."""
    return [Place(f"n{at}", 1e10, 3e-8) for at in range(size)]


def links(size: int) -> list[Link]:
    """Return links that are nearly the same."""
    return [Link(a, b, 2e-6 * (1 + a / 100), 1e10) for a, b in combinations(range(size), 2)]


@pytest.mark.parametrize("size", range(1, 10))
def test_each_two_places_meet_once_and_nobody_is_in_two_pairs(size: int) -> None:
    rounds = list(draw_rounds(size))
    met = [pair for pairs in rounds for pair in pairs]
    assert sorted(met) == list(combinations(range(size), 2))
    for pairs in rounds:
        busy = [place for pair in pairs for place in pair]
        assert len(busy) == len(set(busy))


def test_one_rank_of_each_host_is_measured_or_all_ranks_of_one() -> None:
    assert choose(["a", "b", "a", "c", "b"]) == {0: "a", 1: "b", 3: "c"}
    assert choose(["a"]) == {0: "rank 0"}


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_equals_are_not_slow(size: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert find_slow(places(size), links(size)) == []
    show(places(size), links(size))
    assert "nothing is slow" in capsys.readouterr().out


@pytest.mark.parametrize("bad", [Link(2, 5, 9e-6, 1e10), Link(2, 5, 2e-6, 4e9)])
def test_slow_link_is_named_with_both_hosts(bad: Link) -> None:
    found = [bad if (link.first, link.second) == (2, 5) else link for link in links(8)]
    [line] = find_slow(places(8), found)
    assert line.startswith("n2 - n5: ")


def test_host_whose_links_are_slow_is_named_once() -> None:
    found = [link._replace(rate=1e9) if 4 in link[:2] else link for link in links(8)]
    assert find_slow(places(8), found) == ["n4: 7 of its 7 links are slow"]


def test_host_with_slow_memory_or_cores_is_named() -> None:
    hosts = places(5)
    hosts[1], hosts[3] = Place("n1", 5e9, 3e-8), Place("n3", 1e10, 9e-8)
    assert find_slow(hosts, links(5)) == [
        "n1: memory 5.00 GB/s, median 10.00 GB/s", "n3: Python takes 3.0 times the median"
    ]  # fmt: skip
