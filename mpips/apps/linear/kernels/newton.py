"""What servers compute for a block: the minimum of its quadratic model inside a box.

The model of a step d is g d + d H d / 2 + l1 |w + d|_1 over |d_j| <= trust_j. Coordinate descent
finds the signs; then Newton moves on the free coordinates end it, where coordinate descent alone
would crawl.
"""

import math

import numpy as np

from mpips.apps.linear.kernels.types import (
    FLOAT,
    MATRIX,
    MATRIX_OUT,
    STARTS,
    VECTOR,
    VECTOR_OUT,
    compiled,
)
from mpips.apps.linear.types import Floats, Starts

HEAD = 2
TILE = 32
ROUNDS_MAX = 50
SWEEPS_MIN = 8
SWEEPS_SHARE = 8
MOVES_MAX = 4
REST = 0.01
RIDGE = 1e-10
CURVATURE_MIN = 1e-100


@compiled((MATRIX, MATRIX_OUT))
def fold(h: Floats, out: Floats) -> None:
    """Put the lower triangle of `h` `(n, n)` into `out` `(n, HEAD + 1 + n // 2 or more)`.

    After `HEAD` columns, row j has the pairs (j, j), (j, j + 1), ..., (j, j + n // 2), modulo n:
    each pair is there once. All else is left as it is.
    """
    n, half = len(h), len(h) // 2
    # Go tile by tile, whose lines stay in the cache: one of both matrices is met by columns.
    for top in range(0, n, TILE):
        for left in range(0, top + 1, TILE):
            for a in range(top, min(top + TILE, n)):
                for b in range(left, min(left + TILE, a + 1)):
                    if a - b <= half:
                        out[b, HEAD + a - b] = h[a, b]
                    else:
                        out[a, HEAD + n - a + b] = h[a, b]


@compiled((MATRIX, MATRIX_OUT))
def unfold(folded: Floats, h: Floats) -> None:
    """Fill the symmetric `h` `(n, n)` from what `fold` made."""
    n, half = len(h), len(h) // 2
    for top in range(0, n, TILE):
        for left in range(0, top + 1, TILE):
            for a in range(top, min(top + TILE, n)):
                for b in range(left, min(left + TILE, a + 1)):
                    at = (b, HEAD + a - b) if a - b <= half else (a, HEAD + n - a + b)
                    h[a, b] = folded[at]
                    h[b, a] = folded[at]


@compiled((VECTOR, VECTOR_OUT, VECTOR_OUT, MATRIX, FLOAT, VECTOR))
def sweep(w: Floats, d: Floats, q: Floats, h: Floats, l1: float, trust: Floats) -> float:
    """Minimise the model along each coordinate in turn; q = g + H d is kept up to date.

    Returns:
        The largest move, in the norm of H.
    """
    n = len(w)
    worst = 0.0
    for j in range(n):
        # Without curvature it goes to 0 or to a face of the box.
        u = h[j, j] * (1.0 + 1e-12) + CURVATURE_MIN
        x = w[j] + d[j] - q[j] / u
        x = max(x - l1 / u, 0.0) if x > 0.0 else min(x + l1 / u, 0.0)
        new = min(max(x - w[j], -trust[j]), trust[j])
        move = new - d[j]
        if move != 0.0:
            worst = max(worst, abs(move) * math.sqrt(u))
            d[j] = new
            for k in range(n):
                q[k] += move * h[j, k]
    return worst


@compiled((STARTS, VECTOR, MATRIX))
def solve(free: Starts, right: Floats, h: Floats) -> Floats:
    """Return H_ff^-1 `right` for the coordinates `free`, by Cholesky with a relative ridge.

    Args:
        free: int64 `(m,)`, places in the block.
        right: float64 `(m,)`.
        h: float64 `(n, n)`.
    """
    m = len(free)
    u = np.empty((m, m))
    z = right.copy()
    for a in range(m):
        for b in range(a, m):
            u[a, b] = h[free[a], free[b]]
        u[a, a] *= 1.0 + RIDGE
    # Factorise H = U'U, row by row: the innermost loops run along rows, without sums.
    for a in range(m):
        top = math.sqrt(max(u[a, a], RIDGE * h[free[a], free[a]]))
        u[a, a] = top
        for b in range(a + 1, m):
            u[a, b] /= top
        for b in range(a + 1, m):
            x = u[a, b]
            if x != 0.0:
                for k in range(b, m):
                    u[b, k] -= x * u[a, k]
    # Solve U'y = right, then U z = y.
    for a in range(m):
        z[a] /= u[a, a]
        for k in range(a + 1, m):
            z[k] -= u[a, k] * z[a]
    for a in range(m - 1, -1, -1):
        for k in range(a + 1, m):
            z[a] -= u[a, k] * z[k]
        z[a] /= u[a, a]
    return z


@compiled((FLOAT, FLOAT, FLOAT, FLOAT, VECTOR, VECTOR_OUT))
def search(
    slope: float, curve: float, l1: float, limit: float, z: Floats, kinks: Floats
) -> tuple[float, int]:
    """Return where the model is least along a line, and the kink that it lies on, or -1.

    Args:
        slope: of the model at 0, negative.
        curve: z H z.
        l1: the weight of |w|_1.
        limit: the end of the line.
        z: float64 `(m,)`: its direction.
        kinks: float64 `(m,)`: where each weight crosses 0, or infinity; changed.
    """
    at = 0.0
    while True:
        # Find the next kink; there are few before the end.
        a = 0
        for b in range(1, len(kinks)):
            if kinks[b] < kinks[a]:
                a = b
        t = min(kinks[a], limit)
        if slope + curve * (t - at) >= 0.0:
            return at - slope / curve, -1
        slope += curve * (t - at)
        at = t
        if at >= limit:
            return at, -1
        slope += 2.0 * l1 * abs(z[a])
        kinks[a] = np.inf
        if slope >= 0.0:
            return at, a


@compiled((VECTOR, VECTOR_OUT, VECTOR_OUT, MATRIX, FLOAT, VECTOR))
def newton(w: Floats, d: Floats, q: Floats, h: Floats, l1: float, trust: Floats) -> bool:
    """Move the free coordinates along their Newton direction to the least value on that line.

    Free are those not at 0 and strictly inside the box; the line ends at the first face of the
    box, and the model has a kink where a weight crosses 0.

    Returns:
        Whether no coordinate stopped being free.
    """
    n = len(w)
    free = np.empty(n, np.int64)
    m = 0
    for j in range(n):
        if w[j] + d[j] != 0.0 and abs(d[j]) < trust[j] and h[j, j] > 0.0:
            free[m] = j
            m += 1
    if m == 0:
        return True
    free = free[:m]
    downhill = np.empty(m)
    for a in range(m):
        j = free[a]
        downhill[a] = -(q[j] + (l1 if w[j] + d[j] > 0.0 else -l1))
    z = solve(free, downhill, h)

    # Look along the line: its slope and curve, its kinks, and the first face of the box.
    hz = np.zeros(n)
    kinks = np.full(m, np.inf)
    slope, curve, limit = 0.0, 0.0, 1.0
    face = -1
    for a in range(m):
        j = free[a]
        slope -= z[a] * downhill[a]
        for k in range(n):
            hz[k] += z[a] * h[j, k]
        if z[a] * (w[j] + d[j]) < 0.0:
            kinks[a] = -(w[j] + d[j]) / z[a]
        room = (math.copysign(trust[j], z[a]) - d[j]) / z[a] if z[a] != 0.0 else np.inf
        if room < limit:
            limit = room
            face = a
    for a in range(m):
        curve += z[a] * hz[free[a]]
    if not slope < 0.0:
        return True
    at, zero = search(slope, curve, l1, limit, z, kinks)
    if at < limit or zero >= 0:
        face = -1

    # Go there, exactly where it is a kink or a face.
    for a in range(m):
        j = free[a]
        d[j] += at * z[a]
        if a == zero:
            d[j] = -w[j]
        if a == face:
            d[j] = math.copysign(trust[j], z[a])
    for k in range(n):
        q[k] += at * hz[k]
    return zero < 0 and face < 0


@compiled((VECTOR, VECTOR, MATRIX, FLOAT, VECTOR))
def minimise(w: Floats, g: Floats, h: Floats, l1: float, trust: Floats) -> Floats:
    """Return the step d that minimises the model in the box, float64 `(n,)`.

    Rounds of coordinate descent and Newton moves, until a sweep moves `REST` of the largest. A
    Newton move costs as much as n / 3 sweeps, so that sweeps are tried for about as long.

    Args:
        w: float64 `(n,)`.
        g: float64 `(n,)`.
        h: float64 `(n, n)`, symmetric, not negative.
        l1: the weight of |w|_1.
        trust: float64 `(n,)`, not negative.
    """
    n = len(w)
    d = np.zeros(n)
    q = g.copy()
    first = 0.0
    for _ in range(ROUNDS_MAX):
        for _ in range(SWEEPS_MIN + n // SWEEPS_SHARE):
            worst = sweep(w, d, q, h, l1, trust)
            first = max(first, worst)
            if worst <= REST * first:
                return d
        for _ in range(MOVES_MAX):
            if newton(w, d, q, h, l1, trust):
                break
    return d
