"""How kernels are compiled, and the types they are compiled for."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

from mpips.compiler import njit, types

F = TypeVar("F", bound=Callable[..., Any])

FLOATS: Final = (types.float32, types.float64)

# Inputs are declared read-only: that takes buffers of messages, and writable arrays as well.
KEYS: Final = types.Array(types.uint64, 1, "C", readonly=True)
SLOTS: Final = types.Array(types.int64, 1, "C", readonly=True)


def compiled(*signatures: tuple[Any, ...]) -> Callable[[F], F]:
    """Return a decorator that compiles a function for the given types of its arguments.

    Divisions by zero give infinities, as in NumPy. Sums keep their order: no `fastmath`.
    """
    decorator: Any = njit(list(signatures), cache=True, nogil=True, error_model="numpy")
    return decorator  # type: ignore[no-any-return]


def values_in(dtype: Any) -> Any:
    """Return the type of values that a kernel reads."""
    return types.Array(dtype, 2, "C", readonly=True)


def rows(dtype: Any) -> Any:
    """Return the type of rows or values that a kernel writes."""
    return types.Array(dtype, 2, "C")


def apply_signatures(settings: int) -> list[tuple[Any, ...]]:
    """Return the types of `apply(rows, slots, first, values, setting, ...)`."""
    tail = [types.float64] * settings
    return [(rows(dtype), SLOTS, types.int64, values_in(dtype), *tail) for dtype in FLOATS]


def read_signatures(settings: int) -> list[tuple[Any, ...]]:
    """Return the types of `read(rows, slots, first, out, setting, ...)`."""
    tail = [types.float64] * settings
    return [(rows(dtype), SLOTS, types.int64, rows(dtype), *tail) for dtype in FLOATS]
