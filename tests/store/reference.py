"""A store as a dictionary, for comparison."""

import numpy as np

from mpips.store.updates import find_update
from mpips.wire.types import KEY_SPACE, Table


class Reference:
    """Every key has a row of its own, and is updated alone."""

    def __init__(self, table):
        self.table = table
        self.update = find_update(table.update, table.settings, table.width)
        self.dtype = np.dtype(table.dtype)
        self.rows = {}

    def row(self, key):
        """Return the row of a key, `(1, columns)`; a new one is not kept."""
        return self.rows.get(int(key), self.update.initial_row(self.dtype).reshape(1, -1).copy())

    def update_keys(self, keys, values):
        """Apply the update function key by key."""
        for key, value in zip(keys.tolist(), values, strict=True):
            row = self.row(key)
            self.update.apply(row, np.empty(0, np.int64), 0, value.reshape(1, -1))
            self.rows[key] = row

    def read(self, keys):
        """Return the values of keys, `(n, pull_width)`."""
        out = np.empty((len(keys), self.update.pull_width), self.dtype)
        for i, key in enumerate(keys.tolist()):
            self.update.read(self.row(key), np.empty(0, np.int64), 0, out[i : i + 1])
        return out

    def existing(self, begin, end):
        """Return the keys of a range that were pushed, sorted."""
        return np.array(sorted(k for k in self.rows if begin <= k < end), dtype=np.uint64)

    def drop(self, segment):
        """Forget the keys of a segment."""
        begin, end = self.table.segment_range(segment)
        self.rows = {k: row for k, row in self.rows.items() if not begin <= k < end}


def sparse_table(**more):
    """Return a sparse table of 8 segments."""
    return Table(**{"name": "s", "kind": "sparse", "size": KEY_SPACE, "segments": 8, **more})


def dense_table(**more):
    """Return a dense table of 100 keys in 7 segments, the last of which is smaller."""
    return Table(**{"name": "d", "kind": "dense", "size": 100, "segments": 7, **more})
