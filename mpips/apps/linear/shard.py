"""A logical worker's rows as the block solvers use them: by column, with the margins of a w."""

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from mpips.apps.linear.kernels import block as block_kernels
from mpips.apps.linear.kernels import shard as kernels
from mpips.apps.linear.types import Floats, Indices, Starts
from mpips.files.csr import CsrRows

if TYPE_CHECKING:
    import scipy.sparse


class Block:
    """Some columns of a shard, packed by rows.

    Attributes:
        keys: int64 `(n,)`, the columns, rising.
    """

    __slots__ = ("_packed", "keys")

    def __init__(self, keys: Starts, packed: tuple[Indices, Starts, Indices, Floats]) -> None:
        self.keys, self._packed = keys, packed

    def model(self, margins: Floats, trust: Floats) -> tuple[Floats, Floats]:
        """Return the gradient `(n,)`, and the lower triangle `(n, n)` of a bound of the Hessian.

        The quadratic model lies above the loss where |d_j| <= trust_j. Source: self-concordance
        of the logistic loss, as in Bach, Electronic Journal of Statistics 2010, section 2.
        """
        n = len(self.keys)
        g, h = np.zeros(n), np.zeros((n, n))
        block_kernels.model(*self._packed, margins, trust, g, h)
        return g, h

    def diagonal(self, margins: Floats, trust: Floats) -> Floats:
        """Return each key's gradient and second derivative of a model, float64 `(n, 2)`.

        The quadratic model without mixed terms lies above the loss where |d_j| <= trust_j.
        """
        n = len(self.keys)
        g, u = np.zeros(n), np.zeros(n)
        block_kernels.diagonal(*self._packed, margins, trust, g, u)
        return np.column_stack([g, u])

    def advance(self, step: Floats, margins: Floats) -> None:
        """Add the product with a step `(n,)` to the margins."""
        block_kernels.advance(*self._packed, step, margins)


class Shard:
    """Rows as a CSC matrix with the labels folded in, z_ij = y_i x_ij, and margins m = Z w.

    Args:
        rows: rows with labels -1 and +1; not kept.
        n_features: number of columns.
        position: int64 `(n_features,)`: the new place of each column; None: as it is.

    Attributes:
        margins: float64 `(rows,)`, for w = 0 at first.
    """

    def __init__(self, rows: CsrRows, n_features: int, position: Starts | None = None) -> None:
        import scipy.sparse

        n = len(rows.labels)
        signed = rows.data * np.repeat(rows.labels, np.diff(rows.indptr))
        columns = rows.indices if position is None else position[rows.indices]
        shape = (n, n_features)
        matrix = scipy.sparse.csr_array((signed, columns, rows.indptr), shape=shape).tocsc()
        self._starts = matrix.indptr.astype(np.int64, copy=False)
        self._rows = matrix.indices.astype(np.int32, copy=False)
        self._values = np.ascontiguousarray(matrix.data, np.float64)
        self._slots = np.zeros(n, np.int64)
        self._doubts = np.empty(n)
        self.margins = np.zeros(n)

    @property
    def nonzeros(self) -> int:
        """Return the number of values."""
        return len(self._values)

    def columns(self, starts: Starts) -> "Iterator[scipy.sparse.csc_array]":
        """Yield the columns [starts[b], starts[b + 1]) as a matrix, for each b."""
        matrix = self._matrix()
        for begin, end in pairwise(starts.tolist()):
            yield matrix[:, begin:end]

    def follow(self, w: Floats) -> None:
        """Make the margins those of a w `(n_features,)`."""
        self.margins[:] = self._matrix() @ w

    def scales(self) -> Floats:
        """Return the largest |x_ij| of each column, 0 for an empty one."""
        out = np.empty(len(self._starts) - 1)
        kernels.largest(self._starts, self._values, out)
        return out

    def loss(self) -> float:
        """Return the sum of the rows' losses; `gradient` and `dual` are then of this w."""
        return float(kernels.loss(self.margins, self._doubts))

    def gradient(self) -> Floats:
        """Return the gradient of each column."""
        out = np.empty(len(self._starts) - 1)
        kernels.gradient(self._starts, self._rows, self._values, self._doubts, out)
        return out

    def dual(self, scale: float) -> float:
        """Return the rows' part of the dual objective, at `scale` times the dual point of w."""
        return float(kernels.dual(self._doubts, scale))

    def _matrix(self) -> "scipy.sparse.csc_array":
        """Return the rows as a matrix, without copying."""
        import scipy.sparse

        parts = self._values, self._rows, self._starts
        shape = len(self.margins), len(self._starts) - 1
        return scipy.sparse.csc_array(parts, shape=shape)

    def pack(self, keys: Starts) -> Block:
        """Return a block of columns, int64 `(n,)`, rising."""
        packed = block_kernels.pack(self._starts, self._rows, self._values, keys, self._slots)
        return Block(keys, packed)
