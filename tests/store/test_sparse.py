"""What only sparse stores do: keys that come into being."""

import numpy as np
import pytest

from mpips.errors import ProtocolError
from mpips.store.sparse import ABSENT, SparseStore
from tests.store.reference import sparse_table


def held_store(**more):
    """Return a sparse store that holds the whole key space."""
    store = SparseStore(sparse_table(**more))
    store.hold_many(range(store.table.segments))
    return store


def test_reading_absent_keys_makes_none():
    store = held_store()
    out = np.full((3, 1), np.nan)
    store.read_keys(np.array([0, 7, 2**64 - 1], np.uint64), out)
    assert out.tolist() == [[0.0]] * 3
    assert store.statistics()["keys"] == 0
    assert store.resolve(np.array([7], np.uint64), insert=False).tolist() == [ABSENT]


def test_first_and_last_key_of_the_space_are_keys_like_others():
    store = held_store()
    keys = np.array([0, 1, 2**63, 2**64 - 2, 2**64 - 1], np.uint64)
    store.update_keys(keys, np.arange(1.0, 6.0).reshape(5, 1))
    out = np.empty((5, 1))
    store.read_keys(keys, out)
    assert out.ravel().tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    found, values = store.read_range(0, 2**64)
    assert found.tolist() == keys.tolist()
    assert values.ravel().tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize("shift", [0, 20, 40, 50], ids=lambda s: f"low{s}")
def test_keys_that_differ_in_few_bits_all_survive_growth(shift):
    store = held_store(dtype="f4")
    keys = np.arange(12_000, dtype=np.uint64) << np.uint64(shift)
    for part in np.array_split(np.random.default_rng(0).permutation(len(keys)), 7):
        some = np.sort(keys[part])
        store.update_keys(some, (some >> np.uint64(shift)).astype("f4").reshape(-1, 1))
    out = np.empty((len(keys), 1), "f4")
    store.read_keys(keys, out)
    assert np.array_equal(out.ravel(), np.arange(12_000, dtype="f4"))
    assert store.statistics()["keys"] == len(keys)


def test_slots_survive_growth():
    store = held_store()
    keys = np.arange(100, dtype=np.uint64)
    slots = store.resolve(keys, insert=True)
    more = np.arange(1000, 50_000, dtype=np.uint64)
    store.update_keys(more, np.ones((len(more), 1)))
    assert store.resolve(keys, insert=False).tolist() == slots.tolist()
    assert store.generation == 0


def test_growth_keeps_within_thirty_bytes_a_key():
    store = held_store(dtype="f4", width=2)
    rng = np.random.default_rng(0)
    for _ in range(30):
        keys = np.sort(rng.integers(0, 2**64, 3000, dtype=np.uint64))
        store.update_keys(keys, np.ones((3000, 2), "f4"))
        figures = store.statistics()
        assert figures["bytes"] <= 30 * figures["keys"] + 40


def test_load_with_fewer_keys_forgets_the_others():
    store = held_store()
    keys = np.arange(10, dtype=np.uint64)
    store.update_keys(keys, np.ones((10, 1)))
    generation = store.generation
    store.load(0, keys[:3], np.full((3, 1), 7.0))
    assert store.read_range(0, 100)[0].tolist() == [0, 1, 2]
    assert store.generation != generation


def test_refused_load_forgets_nothing():
    store = held_store()
    keys = np.arange(10, dtype=np.uint64)
    store.update_keys(keys, np.ones((10, 1)))
    with pytest.raises(ProtocolError):
        store.load(0, keys[[0, 5, 3, 7]], np.ones((4, 1)))
    assert store.read_range(0, 100)[0].tolist() == keys.tolist()


def test_whole_range_updates_are_refused():
    store = held_store()
    with pytest.raises(ProtocolError):
        store.update_range(0, 5, np.ones((5, 1)))
    with pytest.raises(ProtocolError):
        store.read_range(0, 5, np.ones((5, 1)))
