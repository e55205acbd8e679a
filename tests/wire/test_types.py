"""Tables are cut into segments that cover each key once; epochs order like their pairs."""

from itertools import pairwise

import numpy as np
import pytest

from mpips.wire.types import (
    FEW_PER_SERVER,
    KEY_SPACE,
    PROPOSERS_MAX,
    SEGMENTS_PER_SERVER,
    Member,
    Table,
    View,
    make_epoch,
)


@pytest.mark.parametrize("size", [0, 1, 2, 9, 10, 255, 256, 257, 10**6, 2**40])
@pytest.mark.parametrize("segments", [1, 2, 3, 7, 64])
def test_segments_of_a_dense_table_cover_each_key_once(size: int, segments: int) -> None:
    table = Table(name="w", size=size, segments=segments)
    at = 0
    for begin, end in map(table.segment_range, range(segments)):
        assert begin == at <= end <= size
        assert end - begin <= table.segment_size
        at = end
    assert at == size


@pytest.mark.parametrize("segments", [2, 3, 64, 1000])
def test_segments_of_a_sparse_table_cover_the_key_space(segments: int) -> None:
    table = Table(name="s", kind="sparse", segments=segments)
    ranges = [table.segment_range(segment) for segment in range(segments)]
    assert ranges[0][0] == 0
    assert ranges[-1][1] == KEY_SPACE
    assert all(one[1] == other[0] for one, other in pairwise(ranges))
    # Their counts must fit into a signed integer of a message.
    assert all(end - begin <= 2**63 for begin, end in ranges)


@pytest.mark.parametrize("servers", [1, 2, 17])
def test_table_without_segments_gets_many_for_each_server_but_none_tiny(servers: int) -> None:
    assert Table(name="w", size=10**7).cut(servers).segments == SEGMENTS_PER_SERVER * servers
    assert Table(name="s", kind="sparse").cut(servers).segments == SEGMENTS_PER_SERVER * servers
    assert Table(name="w", size=2**16).cut(servers).segments == max(16, FEW_PER_SERVER * servers)
    assert Table(name="w", size=2560).cut(servers).segments == min(10, FEW_PER_SERVER * servers)
    assert Table(name="w", size=100).cut(servers).segments == 1
    assert Table(name="w", size=0).cut(servers).segments == 1


def test_number_of_segments_that_was_decided_stays() -> None:
    table = Table(name="w", size=10**7, segments=5)
    assert table.cut(4) == table.cut(9) == table


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "other"},
        {"size": 10, "kind": "sparse"},
        {"kind": "dense"},
        {"size": 10, "dtype": "f2"},
        {"size": 10, "mode": "sometimes"},
        {"size": 10, "width": 0},
        {"size": -1},
        {"kind": "sparse", "segments": 1},
        {"size": 10, "mode": "sequential"},
    ],
    ids=str,
)
def test_table_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(AssertionError):
        Table(name="w", **wrong)  # type: ignore[arg-type]


def test_epochs_order_like_counter_and_proposer(rng: np.random.Generator) -> None:
    pairs = rng.integers(0, [1000, PROPOSERS_MAX], (200, 2)).tolist()
    pairs += [[5, 0], [5, PROPOSERS_MAX - 1], [6, 0]]
    assert sorted(pairs) == sorted(pairs, key=lambda pair: make_epoch(*pair))
    with pytest.raises(AssertionError):
        make_epoch(1, PROPOSERS_MAX)


def test_view_names_the_nodes_of_a_role() -> None:
    roles = ["scheduler", "worker", "server", "worker"]
    members = tuple(Member(node, role, "host", 1) for node, role in enumerate(roles))
    view = View(1, members, (), (1, 3))
    assert (view.nodes("worker"), view.nodes("server"), view.nodes("spare")) == ([1, 3], [2], [])
