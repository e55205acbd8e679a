"""The worker's part of a stream: the losses and the gradient of a minibatch."""

import math

import numpy as np
import numpy.typing as npt

from mpips.compiler import types
from mpips.store.kernels.signatures import compiled

ROWS_TYPES = (
    types.Array(types.int64, 1, "C", readonly=True),
    types.Array(types.int32, 1, "C", readonly=True),
    types.Array(types.float64, 1, "C", readonly=True),
    types.Array(types.float64, 1, "C", readonly=True),
)
WEIGHTS = types.Array(types.float32, 1, "C", readonly=True)
GRADIENT = types.Array(types.float64, 1, "C")


@compiled((*ROWS_TYPES, WEIGHTS, GRADIENT))
def add_gradient(
    indptr: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int32],
    data: npt.NDArray[np.float64],
    labels: npt.NDArray[np.float64],
    w: npt.NDArray[np.float32],
    gradient: npt.NDArray[np.float64],
) -> float:
    """Add the rows' gradients of the log loss to `gradient`, and return the sum of their losses.

    Args:
        indptr: int64 `(rows + 1,)`, from 0.
        columns: int32 `(nnz,)`, below `len(w)`.
        data: float64 `(nnz,)`.
        labels: float64 `(rows,)`, -1 or +1.
        w: float32 `(k,)`.
        gradient: float64 `(k,)`.
    """
    total = 0.0
    for i in range(len(labels)):
        margin = 0.0
        for k in range(indptr[i], indptr[i + 1]):
            margin += data[k] * np.float64(w[columns[k]])
        agreement = labels[i] * margin
        # The exponential never overflows.
        small = math.exp(-abs(agreement))
        total += math.log1p(small) - min(agreement, 0.0)
        share = (small if agreement > 0 else 1.0) / (1.0 + small)
        slope = -labels[i] * share
        for k in range(indptr[i], indptr[i + 1]):
            gradient[columns[k]] += slope * data[k]
    return total
