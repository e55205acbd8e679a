"""Prints rates of a server's store; nothing is asserted about them, for machines differ.

Run as: python -m pytest tests/store/test_speed.py -m slow -s
"""

import time

import numpy as np
import pytest

from mpips.store.merge import sum_in_order
from mpips.store.table import make_store
from mpips.wire.types import Table

RESIDENT, MESSAGE = 10_000_000, 1_000_000


def show(name, function, keys):
    """Print the best of some rates, by processor time, and return what the function gave."""
    function()
    best = np.inf
    for _ in range(4):
        start = time.process_time()
        result = function()
        best = min(best, time.process_time() - start)
    print(f"  {name:34} {keys / best / 1e6:8.1f} M keys/s")
    return result


@pytest.mark.rates
@pytest.mark.parametrize(("update", "dtype"), [("add", "f8"), ("ftrl", "f4")])
def test_rates_of_a_sparse_store(update, dtype):
    rng = np.random.default_rng(0)
    store = make_store(Table(name="s", kind="sparse", segments=64, dtype=dtype, update=update))
    store.hold_many(range(64))
    keys = rng.integers(0, 2**64, RESIDENT, dtype=np.uint64)
    print(f"\n{update}, {dtype}: {RESIDENT:,} keys resident, messages of {MESSAGE:,} sorted keys")
    start = time.process_time()
    for part in np.split(keys, RESIDENT // MESSAGE):
        store.resolve(np.sort(part), insert=True)
    rate = RESIDENT / (time.process_time() - start) / 1e6
    print(f"  {'insert, from empty, with growth':34} {rate:8.1f} M keys/s")

    some = np.sort(rng.choice(keys, MESSAGE, replace=False))
    values = np.ones((MESSAGE, store.update.push_width), dtype)
    out = np.empty((MESSAGE, 1), dtype)
    slots = show("find", lambda: store.resolve(some, insert=False), MESSAGE)
    ascending = np.sort(slots)
    show("update by keys", lambda: store.update_keys(some, values), MESSAGE)
    show("read by keys", lambda: store.read_keys(some, out), MESSAGE)
    show("update by slots", lambda: store.update_slots(slots, values), MESSAGE)
    show("update by ascending slots", lambda: store.update_slots(ascending, values), MESSAGE)
    show("read by slots", lambda: store.read_slots(slots, out), MESSAGE)
    figures = store.statistics()
    print(f"  {'memory':34} {figures['bytes'] / figures['keys']:8.1f} bytes a key")
    assert np.array_equal(store._directory.keys[slots], some)


@pytest.mark.rates
@pytest.mark.parametrize("update", ["add", "sgd", "adagrad", "adam", "ftrl", "proximal"])
def test_rates_of_a_dense_store(update):
    print(f"\n{update}, f4: whole range of {MESSAGE:,} keys")
    store = make_store(Table(name="d", size=MESSAGE, segments=8, dtype="f4", update=update))
    store.hold_many(range(8))
    values = np.full((MESSAGE, store.update.push_width), 2.0, "f4")
    out = np.empty((MESSAGE, 1), "f4")
    show("update", lambda: store.update_range(0, MESSAGE, values), MESSAGE)
    show("read", lambda: store.read_range(0, MESSAGE, out), MESSAGE)
    assert out.any()


@pytest.mark.rates
@pytest.mark.parametrize("share", [1.0, 0.9, 0.3])
def test_rates_of_sums(share):
    rng = np.random.default_rng(0)
    space = np.arange(MESSAGE, dtype=np.uint64)
    parts = []
    for _ in range(8):
        keys = space[rng.random(MESSAGE) < share]
        parts.append((keys, rng.standard_normal((len(keys), 1))))
    print(f"\n8 workers, each with {share:.0%} of {MESSAGE:,} keys")
    keys, _ = show("pushed keys summed", lambda: sum_in_order(parts), sum(len(p[0]) for p in parts))
    assert len(keys) <= MESSAGE
