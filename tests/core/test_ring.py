"""The ring: one owner for each segment, even loads, and few moves when servers come and go."""

import numpy as np
import pytest

from mpips.core.ring import load_max, mix, place

SIZES = [(segments, servers) for servers in (1, 2, 3, 5, 8, 16, 50) for segments in (64 * servers,)]
SIZES += [(1, 3), (2, 3), (20, 2), (20, 7), (100, 64), (7, 100)]


def nodes(count: int, first: int = 1) -> list[int]:
    """Return node ids as a job has them."""
    return list(range(first, first + count))


@pytest.mark.parametrize(("segments", "servers"), SIZES)
def test_every_segment_has_one_owner_that_exists(segments: int, servers: int) -> None:
    owners = place(0, segments, nodes(servers))
    assert owners.shape == (segments,)
    assert owners.dtype == np.int32
    assert set(owners.tolist()) <= set(nodes(servers))


@pytest.mark.parametrize(("segments", "servers"), SIZES)
@pytest.mark.parametrize("table", range(4))
def test_no_server_has_more_than_its_fair_share(table: int, segments: int, servers: int) -> None:
    most = int(np.bincount(place(table, segments, nodes(servers))).max())
    assert most <= load_max(segments, servers)
    # The bound is 1.1 times the mean, rounded up.
    assert load_max(segments, servers) == int(np.ceil(np.round(1.1 * segments / servers, 9)))


def test_order_of_the_servers_does_not_matter(rng: np.random.Generator) -> None:
    servers = nodes(9)
    expected = place(3, 576, servers)
    for _ in range(5):
        assert np.array_equal(place(3, 576, rng.permutation(servers).tolist()), expected)


def test_tables_are_spread_differently() -> None:
    one, other = place(0, 512, nodes(8)), place(1, 512, nodes(8))
    assert np.mean(one == other) < 0.3


def moves(table: int, servers: int, segments: int) -> tuple[float, float]:
    """Return how many segments move when a server joins, and how many not to the newcomer."""
    before, after = (
        place(table, segments, nodes(servers)),
        place(table, segments, nodes(servers + 1)),
    )
    moved = before != after
    return float(moved.mean()), float((moved & (after != servers + 1)).mean())


@pytest.mark.parametrize("servers", [2, 4, 8, 16])
def test_join_moves_little_and_nearly_only_to_the_newcomer(servers: int) -> None:
    # Measured over 8 tables with 64 segments a server, in shares of 1 / (S + 1): 0.82 to 1.42 of
    # them move; 0 to 0.32 between others, whom the newcomer's share pushes over their bound.
    parts = np.array([moves(table, servers, 64 * servers) for table in range(8)])
    fair = 1 / (servers + 1)
    assert 0.8 * fair < parts[:, 0].mean() < 1.3 * fair
    assert parts[:, 1].mean() < 0.25 * fair


@pytest.mark.parametrize("servers", [2, 4, 8, 16])
def test_leave_moves_the_segments_of_the_leaver_and_few_others(servers: int) -> None:
    segments = 64 * (servers + 1)
    before, after = place(0, segments, nodes(servers + 1)), place(0, segments, nodes(servers))
    mine = before == servers + 1
    assert (after[mine] != servers + 1).all()
    # Measured: 0 to 0.31 of 1 / (S + 1), because the others' bound rises.
    assert np.mean((before != after) & ~mine) < 0.35 / (servers + 1)


@pytest.mark.parametrize("servers", [4, 8, 16])
def test_remainder_of_a_hash_would_move_most(servers: int) -> None:
    # The contrast: mod S, nearly everything moves when a server joins.
    names = mix(np.arange(64 * servers, dtype=np.uint64))
    moved = names % np.uint64(servers) != names % np.uint64(servers + 1)
    assert moved.mean() > 0.7 > 2 * moves(0, servers, 64 * servers)[0]


def test_mix_is_a_bijection_that_leaves_its_argument() -> None:
    values = np.arange(100_000, dtype=np.uint64)
    mixed = np.sort(mix(values))
    assert (mixed[1:] != mixed[:-1]).all()
    assert np.array_equal(values, np.arange(100_000, dtype=np.uint64))


def test_ring_without_servers_is_refused() -> None:
    with pytest.raises(AssertionError):
        place(0, 4, [])
