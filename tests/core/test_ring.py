"""The ring: one owner for each segment, even loads, and few moves when servers come and go.

Copies lie elsewhere: on other hosts where there are any.
"""

import numpy as np
import pytest

from mpips.core.ring import VIRTUAL_NODES, load_max, mix, place, place_copies
from mpips.wire.types import NOBODY

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


@pytest.mark.parametrize("servers", [2, 3, 4, 8, 16])
@pytest.mark.parametrize("table", range(6))
def test_no_server_has_the_first_segments_of_the_table_of_its_number(
    table: int, servers: int
) -> None:
    # They may be the hot ones, where frequent features come first.
    owners = place(table, VIRTUAL_NODES * servers, nodes(servers, first=table))
    most = int(np.bincount(owners[:VIRTUAL_NODES]).max())
    # It would be all of them. Half way to there from an equal share is not chance.
    assert most < (1 + 1 / servers) / 2 * VIRTUAL_NODES


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


# -- Copies --------------------------------------------------------------------------------------


def hosts_of(servers: int, hosts: int) -> dict[int, str]:
    """Return the hosts of servers, one after the other."""
    return {node: f"host{node % hosts}" for node in nodes(servers)}


def free(segments: int, columns: int = 1) -> np.ndarray:
    """Return places in which nobody is."""
    return np.full((segments, columns), NOBODY, np.int32)


@pytest.mark.parametrize("replicas", [0, 1, 2, 3])
@pytest.mark.parametrize(("servers", "hosts"), [(1, 1), (2, 2), (3, 3), (5, 2), (6, 3), (9, 4)])
def test_copies_are_on_other_servers_and_on_other_hosts_where_there_are_any(
    replicas: int, servers: int, hosts: int
) -> None:
    host_of, segments = hosts_of(servers, hosts), 32 * servers
    owners = place(0, segments, nodes(servers))
    chosen = place_copies(0, owners, free(segments), host_of, replicas)
    assert chosen.shape == (segments, replicas)
    assert chosen.dtype == np.int32
    count = min(replicas, servers - 1)
    assert ((chosen != NOBODY).sum(axis=1) == count).all()
    for owner, copies in zip(owners.tolist(), chosen[:, :count].tolist(), strict=True):
        assert len({owner, *copies}) == 1 + count
        assert len({host_of[node] for node in (owner, *copies)}) == min(hosts, 1 + count)


@pytest.mark.parametrize("servers", [2, 4, 8, 16])
@pytest.mark.parametrize("replicas", [1, 2])
def test_no_server_has_more_than_its_share_of_copies(servers: int, replicas: int) -> None:
    segments, count = 64 * servers, min(replicas, servers - 1)
    owners = place(2, segments, nodes(servers))
    chosen = place_copies(2, owners, free(segments), hosts_of(servers, servers), replicas)
    most = np.bincount(chosen[chosen != NOBODY]).max()
    assert most <= load_max(segments * count, servers)


def test_copies_that_are_there_count_and_are_not_chosen_again() -> None:
    owners, host_of = place(0, 96, nodes(6)), hosts_of(6, 3)
    first = place_copies(0, owners, free(96), host_of, 1)
    more = place_copies(0, owners, first, host_of, 2)
    assert (more[:, 0] != NOBODY).all()
    assert (more[:, 1] == NOBODY).all()
    assert not (more[:, 0] == first[:, 0]).any()
    assert not (more[:, 0] == owners).any()
    both = np.concatenate([first, more[:, :1]], axis=1)
    assert (place_copies(0, owners, both, host_of, 2) == NOBODY).all()


def test_segments_without_an_owner_get_no_copies() -> None:
    owners = place(0, 40, nodes(4))
    owners[::3] = NOBODY
    chosen = place_copies(0, owners, free(40), hosts_of(4, 2), 1)
    assert ((chosen[:, 0] == NOBODY) == (owners == NOBODY)).all()


def test_newcomer_gets_its_share_of_the_copies_that_are_missing() -> None:
    # One of five has died, and a fresh one is there; whose copies are gone is drawn by the ring.
    owners = place(0, 320, [1, 2, 3, 4])
    there = place_copies(0, owners, free(320), hosts_of(5, 5), 1)
    there[there == 5] = NOBODY
    missing = there[:, 0] == NOBODY
    chosen = place_copies(0, owners, there, {**hosts_of(4, 5), 6: "host6"}, 1)
    assert ((chosen[:, 0] != NOBODY) == missing).all()
    # It has none yet, the others have theirs already.
    assert (chosen[missing, 0] == 6).mean() > 0.5
