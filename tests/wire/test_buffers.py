"""Memory is used again when nobody has a view of it, and not before."""

import numpy as np

from mpips.wire.buffers import LARGE, Buffers


def test_memory_in_use_is_never_given_out_again() -> None:
    rng, buffers = np.random.default_rng(0), Buffers()
    kept: list[tuple[np.ndarray, int]] = []
    for mark in range(300):
        size = int(rng.integers(LARGE, 4 * LARGE))
        array = buffers.take(size)
        assert array.nbytes == size
        array[:] = mark % 256
        # A view of a view keeps the memory as well as the array that was given out.
        kept.append((array.view(np.int8)[size // 2 :].reshape(-1, 1).view(np.uint8), mark % 256))
        del array
        if rng.random() < 0.6:
            del kept[int(rng.integers(len(kept)))]
        assert all((view == mark).all() for view, mark in kept)


def test_memory_is_used_again() -> None:
    buffers = Buffers()
    places = set()
    for _ in range(20):
        array = buffers.empty(LARGE // 4, 1, np.dtype(np.float32))
        assert array.shape == (LARGE // 4, 1)
        assert array.flags.carray
        places.add(array.ctypes.data)
        del array
    assert len(places) == 1


def test_kept_memory_has_a_limit() -> None:
    buffers = Buffers(limit=3 * LARGE)
    arrays = [buffers.take(LARGE) for _ in range(10)]
    assert sum(len(blocks) for blocks in buffers._blocks.values()) == 3
    assert len({array.ctypes.data for array in arrays}) == 10
