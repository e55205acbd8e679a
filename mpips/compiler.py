"""Numba as kernels import it, without the third of its start that serves linear algebra.

Whatever is compiled or loaded first makes Numba ask whether SciPy has a BLAS, by importing all of
`scipy.linalg`, which takes 0.2 s of processor time in each rank and serves `np.dot` in kernels
alone. What stands in for it meanwhile says that there is one; where Numba needs it, it imports it
again, by its name, and gets the real one.
"""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Final

from numba import njit, types

__all__ = ["njit", "types"]

ASKED_FOR: Final = ("scipy.linalg", "scipy.linalg.cython_blas")


@contextlib.contextmanager
def standing_in(names: tuple[str, ...]) -> Iterator[None]:
    """Let modules seem to be imported inside the context, unless the first one is."""
    if names[0] in sys.modules:
        yield
        return
    mine = {name: ModuleType(name) for name in names}
    sys.modules |= mine
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def ask_for_blas() -> None:
    """Let Numba ask now, once and for all, unless there is no SciPy at all."""
    if "scipy" in sys.modules:
        with standing_in(ASKED_FOR), contextlib.suppress(ImportError):
            importlib.import_module("numba.np.arraymath")


ask_for_blas()
