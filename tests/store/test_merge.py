"""Sums of pushes are those of adding one after the other."""

import numpy as np
import pytest

from mpips.errors import ProtocolError
from mpips.store.merge import sum_in_order


def one_by_one(parts):
    """Return the sums as a dictionary gives them."""
    sums = {}
    for keys, values in parts:
        for key, value in zip(keys.tolist(), values, strict=True):
            sums[key] = sums[key] + value if key in sums else value
    keys = np.array(sorted(sums), dtype=np.uint64)
    width, dtype = parts[0][1].shape[1], parts[0][1].dtype
    return keys, np.array([sums[key] for key in keys.tolist()], dtype).reshape(-1, width)


def some_parts(seed, count, dtype, width, share):
    """Return parts with a share of the keys each; magnitudes make the order of adding matter."""
    rng = np.random.default_rng(seed)
    space = np.array([*range(0, 300, 3), 2**63, 2**64 - 1], np.uint64)
    parts = []
    for _ in range(count):
        keys = space[rng.random(len(space)) < share]
        scale = 10.0 ** rng.integers(-6, 6, (len(keys), width))
        values = (rng.standard_normal((len(keys), width)) * scale).astype(dtype)
        values[rng.random(values.shape) < 0.1] = -0.0
        parts.append((keys, values))
    return parts


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95, 1.0])
@pytest.mark.parametrize(("dtype", "width"), [("f4", 1), ("f8", 1), ("f4", 3)])
def test_sum_has_the_bits_of_sequential_addition(dtype, width, share):
    for seed in range(5):
        parts = some_parts(seed, 1 + seed, dtype, width, share)
        before = [(keys.copy(), values.copy()) for keys, values in parts]
        keys, values = sum_in_order(parts)
        expected_keys, expected = one_by_one(parts)
        assert keys.tolist() == expected_keys.tolist()
        assert values.tobytes() == expected.tobytes()
        assert values.dtype == expected.dtype

        # The pushes themselves are kept by the caller for a redo.
        for (k, v), (k0, v0) in zip(parts, before, strict=True):
            assert k.tobytes() == k0.tobytes()
            assert v.tobytes() == v0.tobytes()


def test_order_of_parts_matters_to_the_bits():
    parts = some_parts(1, 5, "f4", 1, 0.9)
    assert sum_in_order(parts)[1].tobytes() != sum_in_order(parts[::-1])[1].tobytes()


def test_lists_of_equal_length_and_ends_are_not_taken_for_equal():
    one = np.array([1, 2, 9], np.uint64), np.ones((3, 1))
    other = np.array([1, 3, 9], np.uint64), np.ones((3, 1))
    keys, values = sum_in_order([one, other])
    assert keys.tolist() == [1, 2, 3, 9]
    assert values.ravel().tolist() == [2.0, 1.0, 1.0, 2.0]


def test_parts_that_do_not_fit_are_refused():
    keys = np.array([1, 2], np.uint64)
    good = keys, np.ones((2, 1))
    for parts in (
        [],
        [(keys, np.ones((3, 1)))],
        [good, (keys, np.ones((2, 2)))],
        [good, (keys, np.ones((2, 1), np.float32))],
    ):
        with pytest.raises(ProtocolError):
            sum_in_order(parts)
