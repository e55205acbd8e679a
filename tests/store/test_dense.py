"""What only dense stores do: whole ranges."""

import mmap
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mpips.errors import ProtocolError
from mpips.store.dense import DenseStore
from mpips.wire.types import Table
from tests.store.reference import dense_table


def test_range_over_adjacent_segments_is_one_update():
    store = DenseStore(dense_table())
    store.hold_many([0, 1, 2, 5])
    store.update_range(10, 40, np.arange(30.0).reshape(30, 1))
    expected = np.zeros((45, 1))
    expected[10:40, 0] = np.arange(30)
    assert np.array_equal(store.read_range(0, 45)[1], expected)
    assert not store.read_range(75, 90)[1].any()


def test_range_behind_a_gap_goes_to_its_own_keys():
    store = DenseStore(dense_table())
    store.hold_many([1, 3, 4])
    store.update_range(50, 60, np.arange(10.0).reshape(10, 1))
    assert store.read_range(50, 60)[1].ravel().tolist() == list(range(10))
    assert not store.read_range(15, 30)[1].any()
    assert not store.read_range(60, 75)[1].any()


def test_range_over_a_gap_is_refused():
    store = DenseStore(dense_table())
    store.hold_many([0, 1, 3])
    with pytest.raises(ProtocolError, match=r"\[20, 50\)"):
        store.update_range(20, 50, np.ones((30, 1)))
    assert not store.read_range(0, 30)[1].any()


def test_range_is_read_into_the_array_given():
    store = DenseStore(dense_table())
    store.hold(0)
    store.update_range(0, 4, np.arange(4.0).reshape(4, 1))
    out = np.empty((3, 1))
    assert store.read_range(1, 4, out)[1] is out
    assert out.ravel().tolist() == [1.0, 2.0, 3.0]


def test_range_and_keys_give_the_same_bits():
    rng = np.random.default_rng(1)
    stores = [DenseStore(dense_table(dtype="f4")) for _ in range(3)]
    for store in stores:
        store.hold_many(range(7))
        for seed in range(4):
            values = np.random.default_rng(seed).standard_normal((100, 1)).astype("f4")
            if store is stores[0]:
                store.update_range(0, 100, values)
            elif store is stores[1]:
                store.update_keys(np.arange(100, dtype=np.uint64), values)
            else:
                cut = int(rng.integers(1, 99))
                odd = np.arange(100, dtype=np.uint64)[1::cut]
                even = np.setdiff1d(np.arange(100, dtype=np.uint64), odd)
                for keys in (even, odd):
                    store.update_keys(keys, values[keys.astype(np.int64)])
    bits = {store.read_range(0, 100)[1].tobytes() for store in stores}
    assert len(bits) == 1


def test_tables_smaller_than_their_segments_work():
    for size in (0, 1, 3):
        store = DenseStore(dense_table(size=size))
        store.hold_many(range(7))
        store.update_range(0, size, np.ones((size, 1)))
        assert store.read_range(0, size)[1].sum() == size
        assert store.statistics()["keys"] == size


def test_adding_needs_no_numba():
    code = (
        "import sys, numpy as np\n"
        "from mpips.store.table import make_store\n"
        "from mpips.wire.types import Table\n"
        "store = make_store(Table(name='w', size=9, segments=1))\n"
        "store.hold(0)\n"
        "store.update_keys(np.array([1, 5], np.uint64), np.ones((2, 1)))\n"
        "sys.exit('numba' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_taking_or_giving_up_segments_copies_no_others():
    # Each view of a job asks for it, and everything waits.
    store = DenseStore(dense_table())
    store.hold_many([0, 1, 2])
    rows, generation = store._rows, store.generation
    store.hold_many([])
    store.drop_many([])
    assert store.generation == generation
    store.hold_many([4, 5])
    store.drop_many([1])
    assert store._rows is rows


@pytest.mark.parametrize("update", ["add", "max"])
def test_segment_that_is_taken_again_begins_anew(update: str):
    # So small that several segments share a page, and so large that some pages are one's alone.
    for size in (100, 10**5):
        settings = {"initial": 3.0} if update == "max" else {}
        store = DenseStore(Table(name="w", size=size, segments=7, update=update, settings=settings))
        store.hold_many(range(7))
        store.update_range(0, size, np.full((size, 1), 9.0))
        before = store.read_range(0, size)[1][0, 0]
        store.drop_many([2, 3, 5])
        store.hold_many([3, 5])
        initial = settings.get("initial", 0.0)
        for segment in (0, 1, 3, 4, 5, 6):
            begin, end = store.table.segment_range(segment)
            expected = initial if segment in (3, 5) else before
            assert (store.read_range(begin, end)[1] == expected).all(), segment


def test_segments_given_up_take_no_memory():
    def resident() -> int:
        fields = Path("/proc/self/statm").read_text().split()
        return int(fields[1]) * mmap.PAGESIZE

    # Kernels that are loaded for the first time take memory, too.
    warm = DenseStore(Table(name="w", size=8, segments=8))
    warm.hold_many(range(8))
    warm.update_range(0, 8, np.ones((8, 1)))
    store, ones = DenseStore(Table(name="w", size=2**23, segments=8)), np.ones((2**23, 1))
    start = resident()
    store.hold_many(range(8))
    assert resident() - start < 2**24, "rows of zeros take memory"
    store.update_range(0, 2**23, ones)
    assert resident() - start > 2**25 - 2**23
    store.drop_many(range(1, 8))
    assert resident() - start < 2**24
