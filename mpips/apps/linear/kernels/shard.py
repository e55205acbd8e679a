"""Sums over all rows of a shard: loss, gradient of every column, dual value.

A shard is a CSC matrix (starts, rows, values) with the labels folded in: values are y_i x_ij, and
the margin of row i is m_i = y_i x_i w.
"""

import math

from mpips.apps.linear.kernels.types import FLOAT, INDICES, STARTS, VECTOR, VECTOR_OUT, compiled
from mpips.apps.linear.types import Floats, Indices, Starts
from mpips.compiler import njit


@njit(inline="always")
def _doubt(margin: float) -> float:
    """Return 1 / (1 + exp(m)), the probability of the wrong class, without overflow."""
    small = math.exp(-abs(margin))
    return small / (1.0 + small) if margin > 0.0 else 1.0 / (1.0 + small)


@compiled((VECTOR, VECTOR_OUT))
def loss(margins: Floats, doubts: Floats) -> float:
    """Return the sum of log(1 + exp(-m_i)), and fill `doubts` with p_i = 1 / (1 + exp(m_i))."""
    total = 0.0
    for i in range(len(margins)):
        m = margins[i]
        total += math.log1p(math.exp(-abs(m))) + max(-m, 0.0)
        doubts[i] = _doubt(m)
    return total


@compiled((STARTS, INDICES, VECTOR, VECTOR, VECTOR_OUT))
def gradient(starts: Starts, rows: Indices, values: Floats, doubts: Floats, out: Floats) -> None:
    """Fill `out` with the gradient of each column, g_j = -sum_i z_ij p_i."""
    for j in range(len(starts) - 1):
        total = 0.0
        for k in range(starts[j], starts[j + 1]):
            total -= values[k] * doubts[rows[k]]
        out[j] = total


@compiled((VECTOR, FLOAT))
def dual(doubts: Floats, scale: float) -> float:
    """Return the dual objective at t = scale p: -sum_i [t log t + (1 - t) log(1 - t)].

    It is a lower bound of the optimum wherever |sum_i z_ij t_i| <= l1 for all j.
    """
    total = 0.0
    for i in range(len(doubts)):
        t = scale * doubts[i]
        if 0.0 < t < 1.0:
            total -= t * math.log(t) + (1.0 - t) * math.log1p(-t)
    return total


@compiled((STARTS, VECTOR, VECTOR_OUT))
def largest(starts: Starts, values: Floats, out: Floats) -> None:
    """Fill `out` with the largest |z_ij| of each column; 0 for an empty one."""
    for j in range(len(starts) - 1):
        top = 0.0
        for k in range(starts[j], starts[j + 1]):
            top = max(top, abs(values[k]))
        out[j] = top
