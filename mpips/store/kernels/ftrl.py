"""FTRL-proximal: a row is z, n; the weights are computed from both."""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from mpips.compiler import njit
from mpips.store.kernels.signatures import apply_signatures, compiled, read_signatures
from mpips.store.update import Slots
from mpips.wire.types import ValueArray

BLOCK: Final = 256


@njit(inline="always")
def _weight(z: float, n: float, alpha: float, beta: float, l1: float, l2: float) -> float:
    """Return the weight that the sums z and n stand for."""
    # Computed in any case, so that several keys go into one instruction.
    w = -(z - math.copysign(l1, z)) / ((beta + math.sqrt(n)) / alpha + l2)
    return 0.0 if abs(z) <= l1 else w


@njit(inline="always")
def _fetch(
    rows: ValueArray,
    slots: Slots,
    first: int,
    begin: int,
    count: int,
    c: int,
    width: int,
    zs: npt.NDArray[np.float64],
    ns: npt.NDArray[np.float64],
) -> None:
    """Copy column c of both sums of a block of rows to `zs` and `ns`."""
    if len(slots):
        for i in range(count):
            r = slots[begin + i]
            zs[i], ns[i] = rows[r, c], rows[r, width + c]
    else:
        for i in range(count):
            zs[i], ns[i] = rows[first + i, c], rows[first + i, width + c]


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
    """Add gradients to z and n.

    Rows are scattered in memory: those of a block are fetched first, so that they come at once and
    the computing in between finds them in cache, several to an instruction.
    """
    width = values.shape[1]
    zs, ns, gs = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    for begin in range(0, values.shape[0], BLOCK):
        count = min(BLOCK, values.shape[0] - begin)
        for c in range(width):
            _fetch(rows, slots, first + begin, begin, count, c, width, zs, ns)
            for i in range(count):
                gs[i] = values[begin + i, c]
            for i in range(count):
                g, z, n = gs[i], zs[i], ns[i]
                grown = n + g * g
                sigma = (math.sqrt(grown) - math.sqrt(n)) / alpha
                zs[i] = z + g - sigma * _weight(z, n, alpha, beta, l1, l2)
                ns[i] = grown
            for i in range(count):
                r = slots[begin + i] if len(slots) else first + begin + i
                rows[r, c], rows[r, width + c] = zs[i], ns[i]


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
    zs, ns = np.empty(BLOCK), np.empty(BLOCK)
    for begin in range(0, out.shape[0], BLOCK):
        count = min(BLOCK, out.shape[0] - begin)
        for c in range(width):
            _fetch(rows, slots, first + begin, begin, count, c, width, zs, ns)
            for i in range(count):
                zs[i] = _weight(zs[i], ns[i], alpha, beta, l1, l2)
            for i in range(count):
                out[begin + i, c] = zs[i]
