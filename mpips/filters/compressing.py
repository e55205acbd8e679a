"""Lossless compression of arrays: LZ4, with the bytes shuffled first where that helps."""

from typing import Any, Final, final

import msgspec
import numpy as np
import numpy.typing as npt

from mpips.filters.base import Filter, Filtered
from mpips.wire.messages import Coding

BYTES_MIN: Final = 1024
"""Smaller arrays are not worth the microseconds."""

GAIN_MAX: Final = 0.9
"""Share of its size below which an array counts as compressed."""


def compress(array: np.ndarray, *, shuffle: bool) -> npt.NDArray[np.uint8] | None:
    """Return an array compressed, or None if it does not become much smaller.

    Args:
        array: any dtype and shape, C-contiguous.
        shuffle: put the first bytes of all items together, then the second ones, and so on:
            good for keys and counts, bad for values with many zeros.
    """
    if array.nbytes < BYTES_MIN:
        return None
    import lz4.block

    raw = array.reshape(-1).view(np.uint8)
    if shuffle:
        raw = np.ascontiguousarray(raw.reshape(-1, array.itemsize).T).reshape(-1)
    packed = lz4.block.compress(raw, store_size=False)
    if len(packed) > GAIN_MAX * array.nbytes:
        return None
    return np.frombuffer(packed, np.uint8)


def decompress(
    packed: npt.NDArray[np.uint8], dtype: str, shape: tuple[int, ...], *, shuffled: bool
) -> np.ndarray:
    """Return what `compress` was given.

    >>> a = np.arange(4096, dtype=np.uint64).reshape(2, -1)
    >>> np.array_equal(decompress(compress(a, shuffle=True), "u8", a.shape, shuffled=True), a)
    True
    """
    import lz4.block

    item = np.dtype(dtype)
    size = item.itemsize * int(np.prod(shape, dtype=np.int64))
    raw = np.frombuffer(lz4.block.decompress(packed, uncompressed_size=size), np.uint8)
    if shuffled:
        raw = np.ascontiguousarray(raw.reshape(item.itemsize, -1).T).reshape(-1)
    return raw.view(item).reshape(shape)


@final
class Compressing(Filter):
    """Compresses arrays without loss by LZ4; keys are byte-shuffled first."""

    name = "lz4"

    def encode(self, message: Filtered) -> Filtered:
        """Return the message with those arrays compressed that become smaller by it."""
        changed: dict[str, Any] = {}
        codings = []
        for field in ("keys", "values"):
            array = getattr(message, field, None)
            if array is None or not array.nbytes:
                continue
            self.saved.bytes_before += array.nbytes
            packed = compress(array, shuffle=field == "keys")
            self.saved.bytes_after += array.nbytes if packed is None else packed.nbytes
            if packed is not None:
                changed[field] = packed
                codings.append(Coding(self.name, field, array.dtype.str[1:], array.shape))
        if not changed:
            return message
        return msgspec.structs.replace(message, coding=(*message.coding, *codings), **changed)

    def decode(self, message: Filtered, coding: Coding) -> Filtered:
        """Return the message with one array decompressed."""
        array = decompress(
            getattr(message, coding.field),
            coding.dtype,
            coding.shape,
            shuffled=coding.field == "keys",
        )
        return msgspec.structs.replace(message, **{coding.field: array})
