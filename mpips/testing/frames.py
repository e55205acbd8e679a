"""Random bytes and arrays for frames, the same at every node, and what compares them."""

from typing import Any

import numpy as np
import numpy.typing as npt

from mpips.transport.base import Bytes

DTYPES = ["u1", "<i2", "<f2", "<u4", "<f4", "<u8", "<f8", "?", "<c16"]


def random_bytes(seed: int, size: int) -> Bytes:
    """Return bytes that depend on the seed, the same at every node."""
    return np.random.default_rng([seed, size]).integers(0, 256, size, np.uint8)


def mixed_arrays(seed: int, scale: int) -> list[npt.NDArray[Any]]:
    """Return arrays of all dtypes, of odd sizes, some empty or of two dimensions."""
    generator = np.random.default_rng([seed, scale])
    arrays = [
        generator.integers(0, 2, 3 * scale + number, np.uint8).astype(dtype)
        for number, dtype in enumerate(DTYPES)
    ]
    return [np.zeros(0, np.float64), arrays[1].reshape(1, -1), *arrays, np.zeros((0, 3), "f4")]


def assert_same(payload: list[Bytes], arrays: list[npt.NDArray[Any]]) -> None:
    """Compare what was received with what was sent, byte for byte.

    Raises:
        AssertionError: a byte, a size or the number of arrays differs.
    """
    assert [part.nbytes for part in payload] == [array.nbytes for array in arrays]
    for part, array in zip(payload, arrays, strict=True):
        assert part.dtype == np.uint8
        assert np.array_equal(part, array.reshape(-1).view(np.uint8))
