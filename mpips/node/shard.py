"""A logical worker's part of the training data, read from HDF5 in row ranges."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mpips.config import Config
from mpips.wire.types import KeyArray

if TYPE_CHECKING:
    import scipy.sparse

    from mpips.files.csr import CsrFile, CsrRows

READ_ROWS = 16384


@dataclass(frozen=True, slots=True)
class Batch:
    """A minibatch with its columns renumbered, so that work is in proportion to it.

    Attributes:
        keys: uint64 `(k,)`, the columns that occur, sorted.
        matrix: CSR `(rows, k)`; column j is `keys[j]`.
        labels: float64 `(rows,)`: -1 or +1.
    """

    keys: KeyArray
    matrix: "scipy.sparse.csr_array"
    labels: npt.NDArray[np.float64]


class Shard:
    """The rows [begin, end) of a data file with two classes.

    Attributes:
        begin: the first row.
        end: one past the last row.
        n_features: number of columns.
    """

    def __init__(self, data: "CsrFile", begin: int, end: int) -> None:
        self._data, self.begin, self.end = data, begin, end
        self.n_features = data.n_features
        self._classes = data.two_classes()

    @property
    def n_rows(self) -> int:
        """Return the number of rows."""
        return self.end - self.begin

    def read(self) -> "CsrRows":
        """Return all rows, labels as -1 and +1.

        Raises:
            DataError: a row is damaged or makes no sense.
        """
        return self._data.read(self.begin, self.end, classes=self._classes)

    def minibatches(self, rows: int) -> Iterator[Batch]:
        """Yield the rows in order, so many at a time; memory holds `READ_ROWS` rows or one batch.

        Raises:
            DataError: a row is damaged or makes no sense.
        """
        import scipy.sparse

        stride = max(1, READ_ROWS // rows) * rows
        for begin in range(self.begin, self.end, stride):
            part = self._data.read(begin, min(begin + stride, self.end), classes=self._classes)
            shape = (len(part.labels), self.n_features)
            matrix = scipy.sparse.csr_array((part.data, part.indices, part.indptr), shape=shape)
            for low in range(0, shape[0], rows):
                batch = matrix[low : low + rows]
                keys, columns = _renumber(batch.indices)
                small = (batch.data, columns, batch.indptr)
                local = scipy.sparse.csr_array(small, shape=(batch.shape[0], len(keys)))
                yield Batch(keys, local, part.labels[low : low + rows])


def _renumber(columns: npt.NDArray[Any]) -> tuple[KeyArray, npt.NDArray[np.int32]]:
    """Return the distinct columns, sorted, and each column's place among them."""
    ordered = np.sort(columns)
    first = np.ones(len(ordered), dtype=bool)
    first[1:] = ordered[1:] != ordered[:-1]
    keys = ordered[first]
    return keys.astype(np.uint64), np.searchsorted(keys, columns).astype(np.int32)


def open_shards(config: Config, workers: list[int]) -> dict[int, Shard]:
    """Return the shards of some logical workers; none without training data."""
    if not config.data.train:
        return {}
    from mpips.files.csr import CsrFile

    data = CsrFile(config.data.train)
    ranges = data.row_ranges(config.logical_workers)
    return {worker: Shard(data, *ranges[worker]) for worker in workers}


def data_facts(config: Config) -> dict[str, Any]:
    """Return what all nodes have to know of the training data.

    Raises:
        MissingInputError, DataError: it is not there, or it is no training data of two classes.
    """
    if not config.data.train:
        return {}
    from mpips.files.csr import CsrFile

    with CsrFile(config.data.train) as data:
        negative, positive = data.two_classes()
        return {
            "rows": data.n_rows,
            "features": data.n_features,
            "nonzeros": data.nnz,
            "row_scaling": data.row_scaling,
            "negative_label": negative,
            "positive_label": positive,
        }
