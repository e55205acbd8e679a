"""What a server owns of a table, as the app's server functions see it."""

from typing import final

from mpips.store.base import Store
from mpips.wire.types import KeyArray, Table, ValueArray


@final
class Part:
    """The segments of a table that a server answers for, without those of which it has copies.

    It can be read only: what changes values without a push would not reach the copies.

    Attributes:
        table: the table.
        held: the segments owned, ascending.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.table: Table = store.table
        self.held = store.owned

    def read_range(self, begin: int, end: int) -> tuple[KeyArray | None, ValueArray]:
        """Return the keys of [begin, end) and their values, as `Store.read_range` does."""
        return self._store.read_range(begin, end)

    def read_keys(self, keys: KeyArray, out: ValueArray) -> None:
        """Fill `out` with the values of keys, as `Store.read_keys` does."""
        self._store.read_keys(keys, out)
