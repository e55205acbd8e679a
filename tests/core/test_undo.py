"""What a segment was before its last update is put back where a redone call reads it."""

import weakref
from typing import Any

import numpy as np
import pytest

from mpips.core.reading import read_slices
from mpips.core.undo import Undo
from mpips.store.table import make_store
from mpips.wire.buffers import Buffers
from mpips.wire.messages import Pull, Slice
from mpips.wire.types import KeyArray, Table

DENSE = Table(name="d", size=12, segments=3, aggregate=True, mode="sequential")
SPARSE = Table(name="s", kind="sparse", segments=4, aggregate=True, mode="sequential")
QUARTER = 2**62


def keys_of(*keys: int) -> KeyArray:
    return np.array(keys, np.uint64)


def slices_of(table: Table, where: Any) -> list[Slice]:
    """Return the slices of a pull of a range, or of a key list, segment by segment."""
    slices = []
    for segment in range(table.segments):
        begin, end = table.segment_range(segment)
        if isinstance(where, tuple):
            low, high = max(begin, where[0]), min(end, where[1])
            if low < high:
                slices.append((segment, 0, low, high - low))
        else:
            count = sum(begin <= key < end for key in where.tolist())
            slices += [(segment, 0, 0, count)] if count else []
    return slices


def pull(table: Table, where: Any, clock: int) -> Pull:
    keys = None if isinstance(where, tuple) else where
    return Pull(request=1, table=0, slices=slices_of(table, where), keys=keys, clock=clock)


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("table", [DENSE, SPARSE], ids=["dense", "sparse"])
def test_reader_gets_each_segment_as_of_its_own_clock(table: Table, seed: int) -> None:
    rng = np.random.default_rng(seed)
    store = make_store(table)
    store.hold_many(range(table.segments))
    undo = Undo(store)
    pool = (np.arange(12, dtype=np.uint64) if table is DENSE
            else np.sort(rng.integers(0, 2**64, 12, dtype=np.uint64)))
    owner_of = pool // np.uint64(table.segment_size)
    past = {key: [0.0] for key in pool.tolist()}
    # Some clocks are applied everywhere; the last one on some segments only.
    last = int(rng.integers(1, 5))
    for clock in range(1, last + 1):
        for segment in range(table.segments):
            mine = pool[(owner_of == segment) & (rng.random(12) < 0.7)]
            if clock < last or rng.random() < 0.5:
                values = rng.integers(1, 9, (len(mine), 1)).astype(float)
                undo.note(segment, clock, mine)
                if len(mine):
                    store.update_keys(mine, values)
                for key, value in zip(mine.tolist(), values[:, 0].tolist(), strict=True):
                    past[key] += [past[key][-1]] * (clock - len(past[key]))
                    past[key].append(past[key][-1] + value)
    as_of = {key: seen[min(last - 1, len(seen) - 1)] for key, seen in past.items()}
    asked = pool[rng.random(12) < 0.7]
    message = pull(table, asked, last - 1)
    _, values, _ = read_slices(store, message, Buffers())
    undo.rewind(message, None, values)
    assert values[:, 0].tolist() == [as_of[key] for key in asked.tolist()]
    # The same for the whole range, where a sparse table has the keys that exist.
    message = pull(table, (0, table.size), last - 1)
    found, values, _ = read_slices(store, message, Buffers())
    undo.rewind(message, found, values)
    keys = pool if found is None else found
    assert values[:, 0].tolist() == [as_of[key] for key in keys.tolist()]


def test_ranges_are_put_back_and_other_clocks_see_what_is_there() -> None:
    store = make_store(DENSE)
    store.hold_many(range(3))
    undo = Undo(store)
    store.update_range(0, 4, np.full((4, 1), 1.0))
    undo.note(0, 2, (1, 3))
    store.update_range(1, 3, np.full((2, 1), 10.0))
    for clock, expected in ((1, [1.0, 1.0, 1.0, 1.0]), (2, [1.0, 11.0, 11.0, 1.0])):
        message = pull(DENSE, (0, 4), clock)
        _, values, _ = read_slices(store, message, Buffers())
        undo.rewind(message, None, values)
        assert values[:, 0].tolist() == expected
    undo.put(0, None)
    message = pull(DENSE, (0, 4), 1)
    _, values, _ = read_slices(store, message, Buffers())
    undo.rewind(message, None, values)
    assert values[1, 0] == 11.0


def test_what_is_kept_of_an_update_keeps_no_message() -> None:
    # Keys are a part of what came, whose memory would not be used again for as long.
    store = make_store(SPARSE)
    store.hold_many(range(SPARSE.segments))
    undo, payload = Undo(store), keys_of(1, 2, QUARTER + 5)
    kept = weakref.ref(payload)
    undo.note(0, 1, payload[:2])
    del payload
    assert kept() is None
    before = undo.take(0)
    assert before is not None
    assert before.keys is not None
    assert before.keys.tolist() == [1, 2]
