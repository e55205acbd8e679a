"""How a sparse store grows: in parts, one at a time, without copying rows, whatever keys come."""

from itertools import pairwise

import numpy as np
import pytest

from mpips.store.directory import Directory
from mpips.store.kernels.index import BASE, FIRST, MIXED, SHIFT, SIZE
from mpips.store.sparse import SparseStore
from tests.store.reference import sparse_table


def held_store(**more):
    """Return a sparse store of 64 segments that holds the whole key space."""
    store = SparseStore(sparse_table(segments=64, dtype="f4", **more))
    store.hold_many(range(64))
    return store


def push(store, keys):
    """Push to each key the number that its low bits make."""
    store.update_keys(keys, (keys & np.uint64(1023)).astype("f4").reshape(-1, 1))


def parts_of(store):
    """Return the rows of a store's parts."""
    return store._directory._parts[FIRST:]


def draw(rng, count):
    """Return about so many sorted, different keys of the whole space."""
    keys = np.sort(rng.integers(0, 2**64, count, dtype=np.uint64))
    return keys[np.concatenate([[True], keys[1:] != keys[:-1]])]


def test_a_push_makes_few_parts_grow():
    rng, store, shares = np.random.default_rng(1), held_store(), []
    for _ in range(60):
        before = parts_of(store)[:, BASE].copy()
        push(store, draw(rng, 4000))
        shares.append((parts_of(store)[:, BASE] != before).mean())
    # Each push brings a fortieth of what is there, and more; all parts would grow in two of them.
    assert sum(shares[30:]) > 0.5
    assert max(shares[30:]) < 0.25


def test_growth_does_not_copy_rows():
    rng, store = np.random.default_rng(2), held_store()
    push(store, draw(rng, 100_000))
    rows, keys = store._rows, store._directory.keys
    push(store, draw(rng, 300_000))
    assert store._rows is rows
    assert store._directory.keys is keys
    assert store.generation == 0


@pytest.mark.parametrize("spread", [1, 2**20, 2**40], ids=lambda n: f"by{n}")
def test_keys_that_lie_unevenly_in_a_part_are_found_by_mixed_bits(spread):
    store = held_store()
    keys = np.arange(20_000, dtype=np.uint64) * np.uint64(spread)
    for some in np.array_split(np.random.default_rng(3).permutation(keys), 40):
        push(store, np.sort(some))
    out = np.empty((len(keys), 1), "f4")
    store.read_keys(keys, out)
    assert np.array_equal(out.ravel(), keys & np.uint64(1023))
    used = parts_of(store)[parts_of(store)[:, SIZE] > 1000]
    assert (used[:, SHIFT] == MIXED).all()
    assert len(used)


def test_keys_that_lie_evenly_stay_in_order():
    rng, store = np.random.default_rng(4), held_store()
    for _ in range(20):
        push(store, draw(rng, 10_000))
    assert (parts_of(store)[:, SHIFT] != MIXED).all()


def test_segments_that_come_and_go_take_no_more_room():
    rng, store = np.random.default_rng(5), held_store()
    for _ in range(20):
        push(store, draw(rng, 10_000))
        store.drop_many(range(1, 64))
        store.hold_many(range(1, 64))
    room = len(store._directory.keys)
    assert room <= 2**17
    # Slots have changed when room was made, and the values are those of their keys.
    keys, values = store.read_range(0, 2**64)
    assert len(keys) == store.statistics()["keys"] > 2000
    out = np.empty_like(values)
    store.read_keys(keys, out)
    assert np.array_equal(out, values)
    assert set((values.ravel() / np.maximum(keys & np.uint64(1023), 1)).tolist()) <= {0.0, 1.0, 2.0}


def test_renumbering_makes_resolved_slots_invalid():
    rng, store = np.random.default_rng(6), held_store()
    kept = draw(rng, 1000)
    kept = kept[kept < store.table.segment_range(0)[1]]
    push(store, kept)
    generations = set()
    for _ in range(20):
        slots, generation = store.resolve(kept, insert=False), store.generation
        push(store, draw(rng, 3000)[500:])
        if not np.array_equal(slots, store.resolve(kept, insert=False)):
            assert store.generation != generation
            generations.add(generation)
        store.drop_many(range(1, 64))
        store.hold_many(range(1, 64))
    assert generations


def test_all_areas_lie_apart():
    rng, directory = np.random.default_rng(7), Directory(sparse_table(segments=8))
    directory.hold(range(8))
    rows, initial = np.zeros((2**16, 1)), np.zeros(1)
    directory.grow(2**16)
    for _ in range(10):
        keys = draw(rng, 2000)
        slots = np.empty(len(keys), np.int64)
        assert directory.insert(keys, 0, rows, initial, slots) == len(keys)
    areas = sorted((int(p[BASE]), int(p[SIZE])) for p in directory._parts[FIRST:] if p[SIZE])
    assert all(base + size <= after for (base, size), (after, _) in pairwise(areas))
    assert areas[0][0] >= 1
    assert directory.count == directory.slots_between(0, 2**64).size
