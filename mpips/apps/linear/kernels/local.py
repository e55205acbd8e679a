"""FTRL-proximal row by row on a worker, with a copy of the servers' sums."""

import math

import numpy as np
import numpy.typing as npt

from mpips.compiler import types
from mpips.store.kernels.signatures import KEYS, compiled, rows, values_in

ROWS = (
    types.Array(types.int64, 1, "C", readonly=True),
    types.Array(types.int32, 1, "C", readonly=True),
    types.Array(types.float32, 1, "C", readonly=True),
    types.Array(types.float64, 1, "C", readonly=True),
)
FLOAT = types.float64
SUMS = rows(types.float32)
CHANGE = values_in(types.float32)


@compiled((*ROWS, SUMS, FLOAT, FLOAT, FLOAT, FLOAT))
def learn_rows(
    indptr: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int32],
    data: npt.NDArray[np.float32],
    labels: npt.NDArray[np.float64],
    sums: npt.NDArray[np.float32],
    alpha: float,
    beta: float,
    l1: float,
    l2: float,
) -> float:
    """Take a step for each row in turn, and return the sum of the losses before the steps.

    Args:
        indptr: int64 `(rows + 1,)`, from 0.
        columns: int32 `(nnz,)`, below `len(sums)`, each once in a row.
        data: float32 `(nnz,)`.
        labels: float64 `(rows,)`, -1 or +1.
        sums: float32 `(k, 2)`: z and n of each column; changed.
        alpha: length of a step.
        beta: keeps the first steps short.
        l1: the weight of |w|.
        l2: the weight of |w|^2 / 2.
    """
    scale, base, threshold = np.float32(1 / alpha), np.float32(beta / alpha + l2), np.float32(l1)
    # A row's sums are fetched together, so that several go into one instruction.
    most = 0
    for i in range(len(labels)):
        most = max(most, indptr[i + 1] - indptr[i])
    z, n = np.empty(most, np.float32), np.empty(most, np.float32)
    root, w = np.empty(most, np.float32), np.empty(most, np.float32)
    total = 0.0
    for i in range(len(labels)):
        low, count = indptr[i], indptr[i + 1] - indptr[i]
        for k in range(count):
            c = columns[low + k]
            z[k], n[k] = sums[c, 0], sums[c, 1]
        for k in range(count):
            root[k] = math.sqrt(n[k])
            x = -(z[k] - math.copysign(threshold, z[k])) / (root[k] * scale + base)
            w[k] = np.float32(0.0) if abs(z[k]) <= threshold else x

        # The loss; the exponential never overflows.
        margin = 0.0
        for k in range(count):
            margin += np.float64(data[low + k]) * np.float64(w[k])
        agreement = labels[i] * margin
        small = math.exp(-abs(agreement))
        total += math.log1p(small) - min(agreement, 0.0)
        share = (small if agreement > 0 else 1.0) / (1.0 + small)

        # The step.
        slope = np.float32(-labels[i] * share)
        for k in range(count):
            g = slope * data[low + k]
            grown = n[k] + g * g
            z[k] += g - (math.sqrt(grown) - root[k]) * scale * w[k]
            n[k] = grown
        for k in range(count):
            c = columns[low + k]
            sums[c, 0], sums[c, 1] = z[k], n[k]
    return total


@compiled((KEYS, CHANGE, KEYS, SUMS))
def add_common(
    keys: npt.NDArray[np.uint64],
    change: npt.NDArray[np.float32],
    others: npt.NDArray[np.uint64],
    sums: npt.NDArray[np.float32],
) -> None:
    """Add what belongs to the keys that two lists share.

    Args:
        keys: uint64 `(n,)`, strictly increasing.
        change: float32 `(n, width)`, of these keys.
        others: uint64 `(m,)`, strictly increasing.
        sums: float32 `(m, width)`, of the others; changed.
    """
    # Which list goes on is not foretold well: places are written in any case.
    at, to = np.empty(len(keys) + 1, np.int64), np.empty(len(keys) + 1, np.int64)
    a = b = common = 0
    while a < len(keys) and b < len(others):
        x, y = keys[a], others[b]
        at[common], to[common] = a, b
        common += x == y
        a += x <= y
        b += y <= x
    for i in range(common):
        for c in range(change.shape[1]):
            sums[to[i], c] += change[at[i], c]
