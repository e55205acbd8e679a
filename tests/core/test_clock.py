"""Range vector clocks equal dense clocks, and stay small (OSDI 2014, section 4.1)."""

import tracemalloc
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

from mpips.core.clock import Piece, RangeClock, VectorClock
from mpips.core.consistency import History


def draw_range(rng: np.random.Generator, size: int) -> tuple[int, int]:
    """Return a random range, now and then an empty or the whole one."""
    begin, end = sorted(int(n) for n in rng.integers(0, size + 1, 2))
    return (0, size) if rng.random() < 0.05 else (begin, end)


@pytest.mark.parametrize("seed", range(20))
def test_clock_equals_a_dense_one_on_random_traces(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 60))
    clock, dense = RangeClock(size), np.zeros(size, np.int64)
    for _ in range(100):
        begin, end = draw_range(rng, size)
        time = int(rng.integers(0, 30))
        clock.advance(begin, end, time)
        dense[begin:end] = np.maximum(dense[begin:end], time)
        pieces = list(clock.pieces(0, size))
        found = np.concatenate([np.full(e - b, t) for b, e, t in pieces])
        assert np.array_equal(found, dense)
        # Neighbours are joined where they are equal, so that nothing is kept for nothing.
        assert len(clock) == len(pieces) == 1 + np.count_nonzero(np.diff(dense))
        begin, end = draw_range(rng, size)
        if begin < end:
            assert clock.least(begin, end) == dense[begin:end].min()
            inside = [t for b, e, t in clock.pieces(begin, end) for _ in range(b, e)]
            assert inside == dense[begin:end].tolist()


@pytest.mark.parametrize("size", [10**5, 10**9, 2**64])
def test_size_depends_on_the_ranges_in_use_and_not_on_the_keys(size: int) -> None:
    """Net growth is at most two pieces for each distinct range."""
    clock, ranges = RangeClock(size), 50
    for time in range(1, 40):
        for at in range(ranges):
            clock.advance(size * at // ranges, size * (at + 1) // ranges, time * (at % 3 + 1))
        assert len(clock) <= 2 * ranges + 1


@pytest.mark.parametrize("seed", range(10))
def test_clocks_that_travel_in_slices_arrive_whole_in_any_order(seed: int) -> None:
    """A range is handed over in parts, some of them twice, to one who knows a little already."""
    rng = np.random.default_rng(seed)
    size, streams = 40, 3
    source, target = VectorClock(size, streams), VectorClock(size, streams)
    dense = np.zeros((streams, size), np.int64)
    for _ in range(30):
        stream, (begin, end), time = int(rng.integers(streams)), draw_range(rng, size), 0
        time = int(rng.integers(1, 20))
        source.advance(stream, begin, end, time)
        dense[stream, begin:end] = np.maximum(dense[stream, begin:end], time)
        if rng.random() < 0.2:
            target.merge(source.take(begin, end))
    cuts = [0, *sorted(int(n) for n in rng.integers(0, size + 1, 4)), size]
    parts = [source.take(b, e) for b, e in pairwise(cuts)]
    for at in [*rng.permutation(len(parts)).tolist(), int(rng.integers(len(parts)))]:
        target.merge(parts[at])
    assert target.take(0, size) == source.take(0, size)
    for begin in range(size):
        assert target.least(begin, begin + 1) == dense[:, begin].min()


@dataclass
class Dense:
    """Clocks of all nodes and keys, and which keys each node has: what range clocks must equal."""

    nodes: list[VectorClock]
    times: np.ndarray
    """`(nodes, streams, keys)`."""

    def check(self, size: int) -> None:
        """Require that they are equal everywhere, and no larger than they have to be."""
        for clocks, dense in zip(self.nodes, self.times, strict=True):
            for clock, row in zip(clocks.clocks, dense, strict=True):
                pieces = list(clock.pieces(0, size))
                assert np.concatenate([np.full(e - b, t) for b, e, t in pieces]).tolist() == (
                    row.tolist()
                )
                assert len(clock) == 1 + np.count_nonzero(np.diff(row))


@pytest.mark.parametrize("seed", range(40))
def test_clocks_of_nodes_equal_dense_ones_through_migrations_and_replays(seed: int) -> None:
    """Ranges split and move between nodes while pushes come, come again, and come too late."""
    rng = np.random.default_rng([seed, 1])
    size, streams, nodes = int(rng.integers(1, 50)), int(rng.integers(1, 4)), 3
    both = Dense(
        [VectorClock(size, streams) for _ in range(nodes)], np.zeros((nodes, streams, size), int)
    )
    sent: list[tuple[int, int, int, int]] = []
    taken: list[tuple[list[list[Piece]], int, int, np.ndarray]] = []
    for _ in range(80):
        node, (begin, end) = int(rng.integers(nodes)), draw_range(rng, size)
        match int(rng.integers(5)):
            case 0 | 1:
                # A push, or one that was there before, on any node.
                if not sent or rng.random() < 0.6:
                    sent.append((int(rng.integers(streams)), begin, end, int(rng.integers(30))))
                stream, begin, end, time = sent[int(rng.integers(len(sent)))]
                both.nodes[node].advance(stream, begin, end, time)
                part = both.times[node, stream, begin:end]
                np.maximum(part, time, out=part)
            case 2:
                # A range leaves in parts, which arrive whenever they want.
                for first, last in pairwise(sorted({begin, (begin + end) // 2, end})):
                    dense = both.times[node, :, first:last].copy()
                    taken.append((both.nodes[node].take(first, last), first, last, dense))
            case 3 if taken:
                message, first, last, dense = taken[int(rng.integers(len(taken)))]
                both.nodes[node].merge(message)
                part = both.times[node, :, first:last]
                np.maximum(part, dense, out=part)
            case 4 if begin < end:
                # A former copy goes back to what its new owner has.
                stream, time = int(rng.integers(streams)), int(rng.integers(30))
                both.nodes[node].clocks[stream].reset(begin, end, time)
                both.times[node, stream, begin:end] = time
        both.check(size)


def test_memory_is_flat_from_a_hundred_thousand_keys_to_a_billion() -> None:
    used = {size: bytes_of_a_trace(size) for size in (10**5, 10**7, 10**9)}
    assert used[10**9] <= 1.1 * used[10**5], used
    assert used[10**9] < 100_000, used


def bytes_of_a_trace(size: int) -> int:
    """Return the most bytes that clocks of a few nodes take while ranges split and move."""
    rng = np.random.default_rng(1)
    tracemalloc.start()
    nodes, cuts = [VectorClock(size, 4) for _ in range(2)], [size * n // 64 for n in range(65)]
    for time in range(1, 40):
        at = np.sort(rng.choice(65, 2, replace=False)).tolist()
        begin, end = cuts[at[0]], cuts[at[1]]
        nodes[time % 2].advance(int(rng.integers(4)), begin, end, time)
        nodes[(time + 1) % 2].merge(nodes[time % 2].take(begin, end))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def test_reached_means_every_logical_worker_on_every_key() -> None:
    clock = VectorClock(10, 2)
    clock.advance(0, 0, 10, 5)
    clock.advance(1, 0, 6, 5)
    assert clock.reached([(0, 6, 5)])
    assert not clock.reached([(0, 7, 5)])
    assert clock.missing([(0, 6, 5), (4, 7, 5)]) == [(1, 4, 7)]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("max_delay", [0, 1, 3])
def test_need_is_the_latest_own_task_that_is_old_enough(seed: int, max_delay: int) -> None:
    rng = np.random.default_rng([seed, max_delay])
    segments = 8
    history, tasks = History(segments), []
    clock = 0
    for _ in range(40):
        clock += int(rng.integers(1, 3))
        first, last = sorted(int(n) for n in rng.integers(0, segments, 2))
        history.begin(clock, first, last)
        tasks.append((clock, first, last))
        if rng.random() < 0.5:
            continue
        for segment in range(segments):
            touching = [t for t, low, high in tasks if low <= segment <= high]
            old = [t for t in touching if t <= clock + 1 - max_delay - 1]
            assert history.need(segment, max_delay) == max(old, default=0)
            assert history.needs(segments, max_delay)[segment] == max(old, default=0)
