"""What workers compute for a block of columns: its rows, its quadratic model, the margins after.

A packed block is row-major (CSR): `ids` are the shard's rows with a nonzero in the block, `starts`
where each begins, `columns` the places in the block, `values` the z_ij.
"""

import math

import numpy as np
import numpy.typing as npt

from mpips.apps.linear.kernels.types import (
    INDICES,
    MATRIX_OUT,
    STARTS,
    STARTS_OUT,
    VECTOR,
    VECTOR_OUT,
    compiled,
)
from mpips.apps.linear.types import Floats, Indices, Starts
from mpips.compiler import njit

RADIUS_MAX = 40.0


@compiled((STARTS, INDICES, VECTOR, STARTS, STARTS_OUT))
def pack(
    starts: Starts, rows: Indices, values: Floats, keys: Starts, slots: Starts
) -> tuple[Indices, Starts, Indices, Floats]:
    """Return some columns of a CSC shard as a packed block.

    Args:
        starts: of the shard.
        rows: of the shard.
        values: of the shard.
        keys: int64 `(n,)`: the columns, rising.
        slots: int64, one for each row of the shard: scratch, all zero before and after.

    Returns:
        `ids`, `starts`, `columns` and `values` of the block.
    """
    # Count the nonzeros of each row.
    total = 0
    for j in keys:
        total += starts[j + 1] - starts[j]
        for k in range(starts[j], starts[j + 1]):
            slots[rows[k]] += 1
    count = 0
    for i in range(len(slots)):
        count += slots[i] > 0

    # Lay the rows out; a row's slot becomes where its next nonzero goes.
    ids = np.empty(count, np.int32)
    begins = np.zeros(count + 1, np.int64)
    r = 0
    for i in range(len(slots)):
        if slots[i] > 0:
            ids[r] = i
            begins[r + 1] = begins[r] + slots[i]
            slots[i] = begins[r]
            r += 1

    # Fill them, column after column.
    columns = np.empty(total, np.int32)
    packed = np.empty(total, np.float64)
    for c in range(len(keys)):
        for k in range(starts[keys[c]], starts[keys[c] + 1]):
            at = slots[rows[k]]
            columns[at] = c
            packed[at] = values[k]
            slots[rows[k]] = at + 1
    for r in range(count):
        slots[ids[r]] = 0
    return ids, begins, columns, packed


@njit(inline="always")
def _curvature(small: float, radius: float) -> float:
    """Return a bound of a row's curvature where its margin moves by `radius` or less.

    With p (1 - p) psi(R), psi(R) = 2 (e^R - 1 - R) / R^2, the quadratic model lies above the loss,
    since |f'''| <= f''; so it does with 1 / 4. `small` is exp(-|margin|).
    """
    if radius > RADIUS_MAX:
        return 0.25
    # Of a tiny radius the difference has no digits; 1 + R is above psi, which is 1 + R / 3 + ...
    psi = 1.0 + radius
    if radius > 1e-3:
        psi = 2.0 * (math.exp(radius) - 1.0 - radius) / (radius * radius)
    return min(0.25, small / ((1.0 + small) * (1.0 + small)) * psi)


@njit(nogil=True)
def _add_products(
    columns: npt.NDArray[np.uint64],
    values: Floats,
    count: int,
    curvature: float,
    n: np.uint64,
    out: Floats,
) -> None:
    """Add the products of a row's values, times its curvature, to a lower triangle `(n, n)`.

    `out` is the matrix as a vector, since making one takes as long as a short row. The row has the
    first `count` of `columns` and `values`, rising. Four at a time meet all those before, which
    are so fetched once for four.
    """
    whole = count - count % 4
    for k in range(0, whole, 4):
        a, b, c, d = columns[k] * n, columns[k + 1] * n, columns[k + 2] * n, columns[k + 3] * n
        p, q = curvature * values[k], curvature * values[k + 1]
        r, s = curvature * values[k + 2], curvature * values[k + 3]
        for e in range(k + 1):
            at, x = columns[e], values[e]
            out[a + at] += p * x
            out[b + at] += q * x
            out[c + at] += r * x
            out[d + at] += s * x
        # The corner: what the four have with each other.
        for e in range(k + 1, k + 4):
            at, x = columns[e], values[e]
            if e == k + 1:
                out[b + at] += q * x
            if e <= k + 2:
                out[c + at] += r * x
            out[d + at] += s * x
    for k in range(whole, count):
        a, p = columns[k] * n, curvature * values[k]
        for e in range(k + 1):
            out[a + columns[e]] += p * values[e]


@compiled((INDICES, STARTS, INDICES, VECTOR, VECTOR, VECTOR, VECTOR_OUT, MATRIX_OUT))
def model(
    ids: Indices,
    starts: Starts,
    columns: Indices,
    values: Floats,
    margins: Floats,
    trust: Floats,
    g: Floats,
    h: Floats,
) -> None:
    """Add the block's gradient to `g`, and a bound of its Hessian to the lower triangle of `h`.

    The quadratic model with `h` lies above the loss wherever |d_j| <= trust_j: every step that
    lowers the model lowers the objective.

    Args:
        ids: of the packed block.
        starts: of the packed block.
        columns: of the packed block.
        values: of the packed block.
        margins: float64 `(rows of the shard,)`.
        trust: float64 `(n,)`.
        g: float64 `(n,)`.
        h: float64 `(n, n)`.

    Cost: the sum over the rows of their nonzeros squared.
    """
    most = 0
    for r in range(len(ids)):
        most = max(most, starts[r + 1] - starts[r])
    # Indices without a sign need no look at whether they count from the end.
    row, part = np.empty(most, np.uint64), np.empty(most)
    n, out = np.uint64(len(h)), h.reshape(-1)
    for r in range(len(ids)):
        begin, end = starts[r], starts[r + 1]
        m = margins[ids[r]]
        small = math.exp(-abs(m))
        doubt = small / (1.0 + small) if m > 0.0 else 1.0 / (1.0 + small)
        radius = 0.0
        for k in range(begin, end):
            radius += abs(values[k]) * trust[columns[k]]
        curvature = _curvature(small, radius)
        for k in range(begin, end):
            row[k - begin], part[k - begin] = columns[k], values[k]
            g[columns[k]] -= values[k] * doubt
        _add_products(row, part, end - begin, curvature, n, out)


@compiled((INDICES, STARTS, INDICES, VECTOR, VECTOR, VECTOR_OUT))
def advance(
    ids: Indices,
    starts: Starts,
    columns: Indices,
    values: Floats,
    step: Floats,
    margins: Floats,
) -> None:
    """Add the packed block times `step`, float64 `(n,)`, to the margins."""
    for r in range(len(ids)):
        total = 0.0
        for k in range(starts[r], starts[r + 1]):
            total += values[k] * step[columns[k]]
        margins[ids[r]] += total


@compiled((INDICES, STARTS, INDICES, VECTOR, VECTOR, VECTOR, VECTOR_OUT, VECTOR_OUT))
def diagonal(
    ids: Indices,
    starts: Starts,
    columns: Indices,
    values: Floats,
    margins: Floats,
    trust: Floats,
    g: Floats,
    u: Floats,
) -> None:
    """Add the block's gradient to `g`, and the diagonal of a model to `u`; arguments as `model`.

    A row with n nonzeros in the block counts n times in `u`: since (x d)^2 <= n sum x_j^2 d_j^2,
    the model without the other elements of the Hessian lies above the loss as well.
    """
    for r in range(len(ids)):
        begin, end = starts[r], starts[r + 1]
        m = margins[ids[r]]
        small = math.exp(-abs(m))
        doubt = small / (1.0 + small) if m > 0.0 else 1.0 / (1.0 + small)
        radius = 0.0
        for k in range(begin, end):
            radius += abs(values[k]) * trust[columns[k]]
        curvature = _curvature(small, radius) * (end - begin)
        for k in range(begin, end):
            g[columns[k]] -= values[k] * doubt
            u[columns[k]] += curvature * values[k] * values[k]
