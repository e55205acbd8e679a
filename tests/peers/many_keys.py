"""Prints what many keys of FTRL state cost one server: bytes a key, and rates by processor time.

Run as `python -m tests.peers.many_keys --millions 100`; memory is some 25 bytes a key.
"""

import argparse
import resource
import statistics
import time
from typing import Final

import numpy as np

from mpips.node import kernels
from mpips.store.base import Store
from mpips.store.table import make_store
from mpips.wire.types import Table

MESSAGE: Final = 1_000_000
ODD: Final = np.uint64(0x9E3779B97F4A7C15)


def draw(message: int) -> np.ndarray:
    """Return the keys of a message: uint64 `(MESSAGE,)`, sorted, scattered, unlike all others'."""
    numbers = np.arange(message * MESSAGE, (message + 1) * MESSAGE, dtype=np.uint64)
    # An odd factor makes different keys of different numbers.
    return np.sort((numbers + np.uint64(1)) * ODD)


def fill(store: Store, millions: int) -> None:
    """Push so many million new keys, and print the rate, the median and the slowest message."""
    times: list[float] = []
    values = np.full((MESSAGE, 1), 0.5, np.float32)
    for message in range(millions):
        keys = draw(message)
        begin = time.process_time()
        store.update_keys(keys, values)
        times.append(time.process_time() - begin)
    print(
        f"  insert and update, with growth  {millions / sum(times):8.1f} M keys/s;"
        f" 1 M keys take {statistics.median(times):.2f} s, at most {max(times):.2f} s"
    )


def measure(store: Store, millions: int) -> None:
    """Print the rates of messages of known keys, their mean over ten messages."""
    random = np.random.default_rng(1)
    messages = [draw(int(random.integers(millions))) for _ in range(10)]
    mixed = np.sort(np.concatenate([m[:: len(messages)] for m in messages]))
    mixed = mixed[np.concatenate([[True], mixed[1:] != mixed[:-1]])]
    values, out = np.ones((MESSAGE, 1), np.float32), np.empty((MESSAGE, 1), np.float32)
    for name, keys in (("inserted together", messages[0]), ("of ten messages", mixed)):
        n = len(keys)
        slots = store.resolve(keys, insert=False)
        for what, function in (
            ("look up", lambda k=keys: store.resolve(k, insert=False)),
            ("update", lambda k=keys, n=n: store.update_keys(k, values[:n])),
            ("read", lambda k=keys, n=n: store.read_keys(k, out[:n])),
            ("update by slots", lambda s=slots, n=n: store.update_slots(s, values[:n])),
        ):
            begin = time.process_time()
            for _ in range(3):
                function()
            rate = 3 * n / (time.process_time() - begin) / 1e6
            print(f"  {what:16} {name:18} {rate:6.1f} M keys/s")


def main() -> None:
    """Fill a store and print its figures."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--millions", type=int, default=10)
    millions = parser.parse_args().millions
    kernels.compile_kernels(print)
    table = Table(name="s", kind="sparse", segments=64, dtype="f4", update="ftrl")
    store = make_store(table)
    store.hold_many(range(64))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fill(store, millions)
    figures = store.statistics()
    with open("/proc/self/statm", encoding="ascii") as file:
        resident = int(file.read().split()[1]) * resource.getpagesize() - before * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    keys = figures["keys"]
    print(f"  {keys:,} keys: {figures['bytes'] / keys:.1f} bytes a key counted,"
          f" {resident / keys:.1f} resident, {peak * 1024 / keys:.1f} at the peak")  # fmt: skip
    measure(store, millions)


if __name__ == "__main__":
    main()
