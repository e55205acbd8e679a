"""The types that the kernels of linear models are compiled for."""

from typing import Final

from mpips.compiler import types
from mpips.store.kernels.signatures import compiled

__all__ = [
    "FLOAT",
    "INDICES",
    "MATRIX",
    "MATRIX_OUT",
    "STARTS",
    "STARTS_OUT",
    "VECTOR",
    "VECTOR_OUT",
    "compiled",
]

FLOAT: Final = types.float64
VECTOR: Final = types.Array(types.float64, 1, "C", readonly=True)
VECTOR_OUT: Final = types.Array(types.float64, 1, "C")
MATRIX: Final = types.Array(types.float64, 2, "C", readonly=True)
MATRIX_OUT: Final = types.Array(types.float64, 2, "C")
STARTS: Final = types.Array(types.int64, 1, "C", readonly=True)
STARTS_OUT: Final = types.Array(types.int64, 1, "C")
INDICES: Final = types.Array(types.int32, 1, "C", readonly=True)
