"""All ranks of the world meet, each with each, and are timed."""

from itertools import combinations

import pytest

pytestmark = pytest.mark.mpi(min_size=2)


def test_all_links_are_measured_once() -> None:
    from mpi4py import MPI

    from mpips.cli.bench_links import measure
    from mpips.node.places import find_places

    world = MPI.COMM_WORLD
    hosts = find_places(world).hosts
    assert hosts == [hosts[world.rank]] * world.size
    places, links = measure(world, f"rank {world.rank}")
    if world.rank:
        assert (places, links) == ([], [])
        return
    assert [place.name for place in places] == [f"rank {rank}" for rank in range(world.size)]
    assert sorted(link[:2] for link in links) == list(combinations(range(world.size), 2))
    assert all(link.latency_s > 0 and link.rate > 0 for link in links)
    assert all(place.memory_rate > 0 and place.step_s > 0 for place in places)
