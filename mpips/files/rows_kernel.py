"""Check and scale CSR rows in compiled loops."""

import math

import numpy as np
import numpy.typing as npt

from mpips.compiler import njit, types

_STARTS = types.Array(types.int64, 1, "C", readonly=True)
_COLUMNS = [types.Array(t, 1, "C", readonly=True) for t in (types.int32, types.int64)]
VALUES = (types.uint8, types.float32, types.float64)
OUTPUTS = (types.float32, types.float64)


@njit([(_STARTS, c, types.int64) for c in _COLUMNS], cache=True, nogil=True)
def are_rising(
    indptr: npt.NDArray[np.int64], indices: npt.NDArray[np.integer], n_features: int
) -> bool:
    """Tell whether the columns of each row rise, from 0 at least to `n_features - 1` at most.

    Args:
        indptr: int64 `(rows + 1,)`, from 0, not decreasing.
        indices: int32 or int64 `(nnz,)`.
        n_features: the number of columns.
    """
    # Without branches several columns are compared by one instruction.
    wrong = 0
    for i in range(len(indptr) - 1):
        begin, end = indptr[i], indptr[i + 1]
        if begin == end:
            continue
        wrong += (indices[begin] < 0) + (indices[end - 1] >= n_features)
        for k in range(begin + 1, end):
            wrong += indices[k] <= indices[k - 1]
    return wrong == 0


@njit(
    [
        (_STARTS, types.Array(t, 1, "C", readonly=True), types.Array(out, 1, "C"))
        for t in VALUES
        for out in OUTPUTS
    ],
    cache=True,
    nogil=True,
    error_model="numpy",
)
def scale_rows(
    indptr: npt.NDArray[np.int64],
    data: npt.NDArray[np.number],
    out: npt.NDArray[np.floating],
) -> None:
    """Write each row scaled to Euclidean length 1; rows of zeros stay as they are.

    Args:
        indptr: int64 `(rows + 1,)`, from 0, not decreasing.
        data: uint8, float32 or float64 `(nnz,)`.
        out: float64 or float32 `(nnz,)`.
    """
    for i in range(len(indptr) - 1):
        begin, end = indptr[i], indptr[i + 1]
        squares = 0.0
        for k in range(begin, end):
            squares += np.float64(data[k]) * np.float64(data[k])
        norm = math.sqrt(squares) if squares > 0.0 else 1.0
        for k in range(begin, end):
            out[k] = np.float64(data[k]) / norm
