"""The key lists of minibatches, and the union of two of them, are what NumPy's sets say."""

import itertools

import numpy as np
import pytest

from mpips.store.kernels.keys import number_columns, unite


def number(starts, columns, seen=0):
    """Return the keys of each minibatch and the place of each column among them."""
    # Scratch holds whatever was left in it.
    scratch = np.random.default_rng(1).integers(-5, len(columns), seen).astype(np.int32)
    keys, places = np.empty(len(columns), np.uint64), np.full(len(columns), -1, np.int32)
    key_starts = np.full(len(starts), -1, np.int64)
    number_columns(np.array(starts), columns, scratch, keys, key_starts, places)
    assert key_starts[0] == 0
    return [keys[a:b] for a, b in itertools.pairwise(key_starts)], places


@pytest.mark.parametrize(("limit", "dtype"), [
    (1, "i4"), (9, "i4"), (256, "i4"), (257, "i4"), (2**16 + 1, "i4"), (2**31 - 1, "i4"),
    (2**40, "i8"), (2**63 - 1, "i8"),
])  # fmt: skip
def test_columns_are_numbered_by_their_places_among_the_distinct_ones(limit, dtype, rng):
    starts = [0, 0, 1, 400, 400, 1000]
    columns = rng.integers(0, limit, 1000).astype(dtype)
    columns[500:600] = columns[600:700]
    columns[-1] = limit - 1
    keys, places = number(starts, columns)
    if limit < 2**17:
        other_keys, other_places = number(starts, columns, limit)
        assert [k.tolist() for k in other_keys] == [k.tolist() for k in keys]
        assert np.array_equal(other_places, places)
    for begin, end, found in zip(starts[:-1], starts[1:], keys, strict=True):
        assert found.tolist() == sorted(set(columns[begin:end].tolist()))
        assert np.array_equal(found[places[begin:end]], columns[begin:end].astype(np.uint64))


def test_columns_that_differ_in_one_byte_are_told_apart(rng):
    # A radix sort that stops too early, or skips a byte, has them in the wrong order.
    for byte in range(7):
        columns = rng.permutation(256).astype(np.int64) << (8 * byte)
        [keys], _ = number([0, 256], columns)
        assert keys.tolist() == sorted(columns.tolist())


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 4), (4, 0), (1, 1), (300, 300), (5, 300)])
@pytest.mark.parametrize(("width", "dtype"), [(1, "f8"), (2, "f4"), (3, "f8")])
def test_union_carries_values_and_tells_the_others_places(n, m, width, dtype, rng):
    for high in (400, 2**64 - 1):
        keys, others = (
            np.array(sorted({*rng.integers(0, high, k, dtype=np.uint64).tolist()}), np.uint64)
            for k in (n, m)
        )
        values = rng.normal(size=(len(keys), width)).astype(dtype)
        room = len(keys) + len(others)
        union, places = np.zeros(room, np.uint64), np.full(len(others), -1)
        pushed = np.full((room, width), np.nan, np.float32)
        count = unite(keys, values, others, union, pushed, places)
        expected = sorted({*keys.tolist(), *others.tolist()})
        assert union[:count].tolist() == expected
        assert np.array_equal(union[places], others)
        sums = dict(zip(keys.tolist(), values.astype(np.float32).tolist(), strict=True))
        assert pushed[:count].tolist() == [sums.get(key, [0.0] * width) for key in expected]
