"""Compiles the kernels of stores and apps before ranks start, so that none has to wait."""

import importlib
from typing import Final

from mpips.store import compile as store_compile

KERNELS: Final = ("shard", "block", "newton", "colour")


def warm() -> None:
    """Make all kernels ready, in Numba's cache: seconds the first time, then about one."""
    store_compile.warm()
    for name in KERNELS:
        importlib.import_module(f"mpips.apps.linear.kernels.{name}")
