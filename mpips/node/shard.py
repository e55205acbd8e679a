"""A logical worker's part of the training data, read from HDF5 in row ranges."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mpips.config import Config
from mpips.wire.types import KeyArray

if TYPE_CHECKING:
    import scipy.sparse

    from mpips.files.csr import CsrFile, CsrRows
    from mpips.files.many import CsrFiles

READ_ROWS = 16384
SEEN_MAX = 2**20
"""So many numbers stay in cache, more or less."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A minibatch with its columns renumbered, so that work is in proportion to it.

    Attributes:
        keys: uint64 `(k,)`, the columns that occur, sorted.
        indptr: int64 `(rows + 1,)`, from 0: row i has the nonzeros `[indptr[i], indptr[i + 1])`.
        columns: int32 `(nnz,)`; column j is `keys[j]`.
        values: float64 `(nnz,)`, or float32 where that was asked for; finite.
        labels: float64 `(rows,)`: -1 or +1.
    """

    keys: KeyArray
    indptr: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int32]
    values: npt.NDArray[Any]
    labels: npt.NDArray[np.float64]

    @property
    def matrix(self) -> "scipy.sparse.csr_array":
        """Return the rows as a SciPy matrix `(rows, k)`, column j being `keys[j]`."""
        import scipy.sparse

        shape = len(self.labels), len(self.keys)
        return scipy.sparse.csr_array((self.values, self.columns, self.indptr), shape=shape)


class Shard:
    """The rows [begin, end) of data with two classes.

    Attributes:
        begin: the first row.
        end: one past the last row.
        n_features: number of columns.
    """

    def __init__(self, data: "CsrFile | CsrFiles", begin: int, end: int) -> None:
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

    def minibatches(
        self,
        rows: int,
        begin: int = 0,
        end: int | None = None,
        dtype: npt.DTypeLike = np.float64,
    ) -> Iterator[Batch]:
        """Yield the rows in order, so many at a time.

        A thread reads ahead and renumbers: memory holds twice `READ_ROWS` rows, or two batches.

        Args:
            rows: of a minibatch; the last one may have fewer.
            begin: the first minibatch, from 0.
            end: the one after the last, if there are so many; None: all.
            dtype: of the values: float64 or float32.

        Raises:
            DataError: a row is damaged or makes no sense.
        """
        first = self.begin + begin * rows
        last = self.end if end is None else min(self.end, self.begin + end * rows)
        stride = max(1, READ_ROWS // rows) * rows
        lows = range(first, last, stride)
        seen = np.zeros(self.n_features if self.n_features <= SEEN_MAX else 0, np.int32)

        def make(low: int) -> list[Batch]:
            part = self._data.read(low, min(low + stride, last), dtype, self._classes)
            return list(cut_batches(part, rows, seen))

        for batches in _ahead(make, lows):
            yield from batches


def _ahead(make: Callable[[int], Any], numbers: Sequence[int]) -> Iterator[Any]:
    """Yield what a function makes of each number, the next one being made meanwhile."""
    if len(numbers) < 2:
        yield from map(make, numbers)
        return
    with ThreadPoolExecutor(1, "reader") as reader:
        made = reader.submit(make, numbers[0])
        for number in numbers[1:]:
            now, made = made, reader.submit(make, number)
            yield now.result()
        yield made.result()


def cut_batches(part: "CsrRows", rows: int, seen: npt.NDArray[np.int32]) -> Iterator[Batch]:
    """Yield some rows, so many at a time, columns renumbered; arrays are views of larger ones.

    The columns of all minibatches are renumbered by one call; `seen` is its scratch. The arrays
    are plain ones: for a hundred rows, making a scipy matrix takes longer than all of this.
    """
    from mpips.store.kernels.keys import number_columns

    count, nnz = len(part.labels), len(part.indices)
    lows = np.append(np.arange(0, count, rows), count)
    starts = part.indptr[lows]
    keys, columns = np.empty(nnz, np.uint64), np.empty(nnz, np.int32)
    key_starts = np.empty(len(starts), np.int64)
    number_columns(starts, part.indices, seen, keys, key_starts, columns)

    edges = zip(lows.tolist(), starts.tolist(), key_starts.tolist(), strict=True)
    for (low, begin, first), (high, end, last) in itertools.pairwise(edges):
        yield Batch(
            keys[first:last],
            part.indptr[low : high + 1] - begin,
            columns[begin:end],
            part.data[begin:end],
            part.labels[low:high],
        )


def open_shards(config: Config, workers: list[int]) -> dict[int, Shard]:
    """Return the shards of some logical workers; none without training data."""
    if not config.data.train:
        return {}
    from mpips.files.many import open_data

    data = open_data(config.data.train)
    ranges = data.row_ranges(config.logical_workers)
    return {worker: Shard(data, *ranges[worker]) for worker in workers}


def data_facts(config: Config) -> dict[str, Any]:
    """Return what all nodes have to know of the training data.

    Raises:
        MissingInputError, DataError: it is not there, or it is no training data of two classes;
            or the test data is not there, or is of another key space.
    """
    if not config.data.train:
        return {}
    from mpips.files.many import open_data

    with open_data(config.data.train) as data:
        negative, positive = data.two_classes()
        facts = {
            "rows": data.n_rows,
            "features": data.n_features,
            "nonzeros": data.nnz,
            "row_scaling": data.row_scaling,
            "hash": str(data.attributes.get("hash", "none")),
            "hash_bits": int(data.attributes.get("hash_bits", 0)),
            "negative_label": negative,
            "positive_label": positive,
        }
    if config.data.test:
        _check_test(config, facts)
    return facts


def _check_test(config: Config, facts: dict[str, Any]) -> None:
    """Refuse test data that the model will not fit, hours before there is a model."""
    from mpips.files.many import open_data
    from mpips.files.model import Model, check_key_space

    shape = {
        "n_features": facts["features"],
        "path": config.data.train,
        **{name: facts[name] for name in ("row_scaling", "hash", "hash_bits")},
    }
    with open_data(config.data.test) as data:
        check_key_space(Model(**shape), data)
