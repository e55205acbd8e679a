"""Measures what a second core of a server gains, in one process, by turns with one core.

    python -m tests.peers.cores

Told are medians of the time of one message, on one core and on two, for some update functions: a
list of a million of four million keys, looked up or known, and neighbouring keys of a dense table.
Where the machine has other work there is no second core, and nothing is gained.
"""

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Final

import numpy as np

from mpips.node.cores import Cores
from mpips.store.base import Store
from mpips.store.sharing import Sharing
from mpips.store.table import make_store
from mpips.wire.types import KeyArray, Table

ROUNDS: Final = 7
KEYS: Final = 4 * 10**6
DENSE: Final = 2**24
UPDATES: Final = ("ftrl", "add", "adagrad")

Work = Callable[[Store], None]


def both(table: Table) -> tuple[Store, Store]:
    """Return two equal stores, of which the second has two cores."""
    one, two = make_store(table), make_store(table)
    for store in (one, two):
        store.hold_many(range(table.segments))
    two.sharing = Sharing(Cores(2).spread)
    return one, two


def tell(name: str, stores: tuple[Store, Store], work: Work) -> None:
    """Print how long a work takes on one core, and on two."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for store, mine in zip(stores, times, strict=True):
            began = time.perf_counter()
            work(store)
            mine.append(time.perf_counter() - began)
    one, two = (1e3 * median(each) for each in times)
    print(f"{name:<32} one {one:8.2f} ms   two {two:8.2f} ms   {one / two:5.2f} x", flush=True)


def distinct(random: np.random.Generator, count: int) -> KeyArray:
    """Return some distinct keys, ascending."""
    keys = np.sort(random.integers(0, 2**64, count + 1000, dtype=np.uint64))
    return keys[np.append(True, keys[1:] != keys[:-1])][:count]


def works_on_lists(stores: tuple[Store, Store]) -> Iterator[tuple[str, Work]]:
    """Yield what is done with a list of a quarter of all keys."""
    random = np.random.default_rng(1)
    keys = distinct(random, KEYS)
    for store in stores:
        store.update_keys(keys, np.ones((KEYS, 1), np.float32))
    part = np.ascontiguousarray(keys[::4])
    values = random.normal(size=(len(part), 1)).astype(np.float32)
    out, slots = np.empty_like(values), stores[0].resolve(part, insert=False)
    yield "push, looked up", lambda store: store.update_keys(part, values)
    yield "pull, looked up", lambda store: store.read_keys(part, out)
    yield "push, known", lambda store: store.update_slots(slots, values)
    yield "pull, known", lambda store: store.read_slots(slots, out)


def works_on_ranges() -> Iterator[tuple[str, Work]]:
    """Yield what is done with all keys of a dense table."""
    values, out = np.ones((DENSE, 1), np.float32), np.empty((DENSE, 1), np.float32)
    yield "push", lambda store: store.update_range(0, DENSE, values)

    def pull(store: Store) -> None:
        store.read_range(0, DENSE, out)

    yield "pull", pull


def main() -> None:
    """Measure all update functions."""
    for update in UPDATES:
        lists = both(Table(name="s", kind="sparse", segments=64, dtype="f4", update=update))
        for name, work in works_on_lists(lists):
            tell(f"{update}, 1 M keys: {name}", lists, work)
        ranges = both(Table(name="d", size=DENSE, segments=8, dtype="f4", update=update))
        for name, work in works_on_ranges():
            tell(f"{update}, 16 M in a row: {name}", ranges, work)


if __name__ == "__main__":
    main()
