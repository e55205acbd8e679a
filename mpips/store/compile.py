"""Compiles kernels before they are needed, or loads them from Numba's cache."""

import importlib
import pkgutil
from collections.abc import Iterable

from mpips.store import kernels
from mpips.store.table import make_store
from mpips.wire.types import Table


def warm(tables: Iterable[Table] | None = None) -> None:
    """Make the kernels ready that a server needs for these tables, or else all that there are.

    Where NUMBA_CACHE_DIR holds them this takes about a second, most of it for Numba itself;
    else some seconds for each family, once for all processes that share the folder.

    Raises:
        ConfigError: a table's update function is unknown, or a setting of it is wrong.
    """
    if tables is None:
        for module in pkgutil.iter_modules(kernels.__path__):
            importlib.import_module(f"{kernels.__name__}.{module.name}")
        return

    for table in tables:
        # A store imports the kernels it uses when it is made; an empty one costs nothing.
        make_store(table)
        if table.aggregate:
            importlib.import_module(f"{kernels.__name__}.merge")
