"""Makes the store of a table."""

from mpips.store.base import Store
from mpips.store.dense import DenseStore
from mpips.wire.types import Table


def make_store(table: Table) -> Store:
    """Return an empty store for a table, ready for use: its kernels are compiled.

    Raises:
        ConfigError: the table's update function is unknown, or a setting of it is wrong.
    """
    if table.kind == "dense":
        return DenseStore(table)

    # Sparse stores need Numba, which dense adding and overwriting do without.
    from mpips.store.sparse import SparseStore

    return SparseStore(table)
