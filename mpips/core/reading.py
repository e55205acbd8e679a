"""Slices of messages, and the rows of stores that they are about."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from mpips.core.slicing import Range
from mpips.store.base import Store
from mpips.wire.buffers import Buffers
from mpips.wire.messages import Pull, Push
from mpips.wire.slices import Slice, Slices, join_spans, runs_of
from mpips.wire.types import KeyArray, ValueArray

Part = tuple[int, int, KeyArray | Range, ValueArray]
"""Segment, mark, keys or range, and values of a slice."""


def cut_slices(
    slices: Sequence[Slice], keys: KeyArray | None, values: ValueArray
) -> Iterator[Part]:
    """Yield the slices of a message with views of its keys and values."""
    slices = Slices.of(slices).by_segment(keys)
    cuts = np.cumsum([0, *(count for _, _, _, count in slices)]).tolist()
    for (segment, mark, begin, count), (low, high) in zip(slices, pairwise(cuts), strict=True):
        where = (begin, begin + count) if keys is None else keys[low:high]
        yield segment, mark, where, values[low:high]


def update_slices(
    store: Store, slices: Sequence[Slice], keys: KeyArray | None, values: ValueArray
) -> None:
    """Apply a whole message to a store."""
    if keys is not None:
        store.update_keys(keys, values)
    else:
        update_ranges(store, slices, values)


def update_ranges(store: Store, slices: Sequence[Slice], values: ValueArray) -> None:
    """Apply a whole message without a key list to a store."""
    at = 0
    for begin, end in join_ranges(slices):
        store.update_range(begin, end, values[at : at + end - begin])
        at += end - begin


def update_rows(store: Store, where: KeyArray | Range, values: ValueArray) -> None:
    """Apply one slice to a store."""
    if isinstance(where, tuple):
        store.update_range(*where, values)
    elif len(where):
        store.update_keys(where, values)


def read_slices(
    store: Store, message: Push | Pull, buffers: Buffers
) -> tuple[KeyArray | None, ValueArray, list[int]]:
    """Return what answers a pull: keys (of a sparse range only), values, and counts by slice."""
    width = store.update.pull_width
    if message.keys is not None:
        out = buffers.empty(len(message.keys), width, store.dtype)
        store.read_keys(message.keys, out)
        return None, out, []
    if store.table.kind == "sparse":
        # Send the keys that exist, segment after segment.
        found = [store.read_range(begin, begin + n) for _, _, begin, n in message.slices]
        keys = np.concatenate([k for k, _ in found if k is not None])
        values = np.concatenate([v for _, v in found])
        return keys, values, [len(v) for _, v in found]
    ranges = join_ranges(message.slices)
    out, at = buffers.empty(sum(end - begin for begin, end in ranges), width, store.dtype), 0
    for begin, end in ranges:
        store.read_range(begin, end, out[at : at + end - begin])
        at += end - begin
    return None, out, []


def marks_of(message: Push | Pull) -> tuple[int, ...]:
    """Return the clocks of a pull, by run of slices; none of a push that pulls nothing."""
    if isinstance(message, Push):
        return message.needs
    return tuple(run[2] for run in runs_of(message.slices))


def needs_of(message: Push | Pull) -> Iterator[tuple[int, int, int]]:
    """Yield the clocks that a pull waits for: first segment, the one after the last, clock."""
    runs = runs_of(message.slices)
    for (segment, many, _, _, _), need in zip(runs, marks_of(message), strict=False):
        if need:
            yield segment, segment + many, need


def join_ranges(slices: Sequence[Slice]) -> list[Range]:
    """Return the key ranges of the slices of a range, neighbours joined."""
    return join_spans((begin, begin + count) for _, _, _, begin, count in runs_of(slices))
