"""FTRL-proximal: a row is z, n; the weights are computed from both."""

import math

import numpy as np
from numba import njit

from mpips.store.kernels.signatures import apply_signatures, compiled, read_signatures
from mpips.store.update import Slots
from mpips.wire.types import ValueArray


@njit(inline="always")
def _weight(z: float, n: float, alpha: float, beta: float, l1: float, l2: float) -> float:
    """Return the weight that the sums z and n stand for."""
    if abs(z) <= l1:
        return 0.0
    return -(z - math.copysign(l1, z)) / ((beta + math.sqrt(n)) / alpha + l2)


@compiled(*apply_signatures(4))
def apply(
    rows: ValueArray,
    slots: Slots,
    first: int,
    values: ValueArray,
    alpha: float,
    beta: float,
    l1: float,
    l2: float,
) -> None:
    """Add gradients to z and n."""
    width = values.shape[1]
    for i in range(values.shape[0]):
        r = slots[i] if len(slots) else first + i
        for c in range(width):
            g = np.float64(values[i, c])
            z = np.float64(rows[r, c])
            n = np.float64(rows[r, width + c])
            grown = n + g * g
            sigma = (math.sqrt(grown) - math.sqrt(n)) / alpha
            rows[r, c] = z + g - sigma * _weight(z, n, alpha, beta, l1, l2)
            rows[r, width + c] = grown


@compiled(*read_signatures(4))
def read(
    rows: ValueArray,
    slots: Slots,
    first: int,
    out: ValueArray,
    alpha: float,
    beta: float,
    l1: float,
    l2: float,
) -> None:
    """Write the weights to `out`."""
    width = out.shape[1]
    for i in range(out.shape[0]):
        r = slots[i] if len(slots) else first + i
        for c in range(width):
            z, n = np.float64(rows[r, c]), np.float64(rows[r, width + c])
            out[i, c] = _weight(z, n, alpha, beta, l1, l2)
