"""Write training data part by part; `csr` describes the layout."""

import contextlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

import h5py
import numpy as np
import numpy.typing as npt

from mpips import __version__
from mpips.errors import DataError
from mpips.files import rows
from mpips.files.atomic import replacing, writing
from mpips.files.layout import (
    DATA_FORMAT,
    FILTERS,
    UNPACKED,
    Attribute,
    mark_anndata,
    now,
    write_attributes,
    write_names,
)
from mpips.files.sink import Sink, new_hdf5


@final
class CsrWriter:
    """Write training data part by part; the file appears when the `with` block ends well.

    Args:
        path: the file to write.
        n_features: the number of columns; None for one more than the largest index.
        attributes: what to note about the data, such as `source`. With `row_scaling` "unit" (not
            "none") readers scale each row to length 1. Others are filled in here.
        value_dtype: how values are stored: float32, or a small integer type for counts.
        names: the features' names, where they have any.
        packed: whether rows are packed by gzip. Unpacked ones take two to three times as much
            space, and are read five times as fast; they have checksums, too.

    Memory: what is handed to one `append`, and the chunks being packed.
    """

    def __init__(
        self,
        path: str | Path,
        n_features: int | None = None,
        attributes: Mapping[str, Attribute] | None = None,
        value_dtype: npt.DTypeLike = np.float32,
        names: Sequence[str] | None = None,
        packed: bool = True,
    ) -> None:
        self.path = Path(path)
        self.n_rows = self.nnz = 0
        self.label_values = np.zeros(0)
        self._n_features, self._largest = n_features, -1
        self._attributes = dict(attributes or {})
        self._names = names
        self._filters = FILTERS if packed else UNPACKED
        self._value_dtype = np.dtype(value_dtype)
        wide = n_features is not None and n_features >= 2**31
        self._index_dtype = np.dtype(np.int64 if wide else np.int32)
        self._stack = contextlib.ExitStack()
        self._file: h5py.File
        self._sink: Sink

    def __enter__(self) -> Self:
        """Create the file under a temporary name."""
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(replacing(self.path))
            self._file, self._sink = stack.enter_context(new_hdf5(temporary))
            self._lay_out()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish the file and give it its name, or remove it after an error."""
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack, writing(self.path):
            self._finish()

    def append(
        self,
        lengths: npt.NDArray[np.integer],
        indices: npt.NDArray[np.integer],
        data: npt.NDArray[Any],
        labels: npt.NDArray[Any],
    ) -> None:
        """Add rows; the arrays are copied.

        Args:
            lengths: integers `(rows,)`: how many nonzeros each row has.
            indices: integers `(nnz,)`: columns from 0, rising within each row.
            data: numbers `(nnz,)`: finite.
            labels: numbers `(rows,)`: finite; stored as float32.

        Raises:
            DataError: an index is too large, or the lengths do not belong to the arrays.
            FileError: the disk is full.
        """
        total = int(lengths.sum())
        if not (total == len(indices) == len(data) and len(lengths) == len(labels)):
            raise DataError(
                f"rows of {total} nonzeros came with {len(indices)} indices, {len(data)} values"
                f" and {len(labels)} labels for {len(lengths)} rows"
            )
        self._check_largest(indices)
        starts = self.nnz + np.cumsum(lengths, dtype=np.int64)
        with writing(self.path):
            self._extend("X/indptr", starts)
            self._extend("X/indices", indices.astype(self._index_dtype, copy=False))
            self._extend("X/data", data.astype(self._value_dtype, copy=False))
            self._extend("obs/label", labels.astype(np.float32, copy=False))
            self._sink.check()
        self.label_values = rows.distinct(self.label_values, labels)
        self.n_rows += len(lengths)
        self.nnz += total

    def note(self, name: str, value: Attribute) -> None:
        """Note something about the data that is known only after the rows, such as its source."""
        self._attributes[name] = value

    def _lay_out(self) -> None:
        """Create the empty data sets."""
        mark_anndata(self._file, "anndata", "0.1.0")
        mark_anndata(self._file.create_group("X"), "csr_matrix", "0.1.0")
        for name, dtype in (
            ("X/indices", self._index_dtype),
            ("X/data", self._value_dtype),
            ("obs/label", np.dtype(np.float32)),
        ):
            self._file.create_dataset(name, (0,), dtype, maxshape=(None,), **self._filters)
        start = np.zeros(1, np.int64)
        self._file.create_dataset("X/indptr", data=start, maxshape=(None,), **self._filters)

    def _extend(self, name: str, values: npt.NDArray[Any]) -> None:
        """Add values to the end of a data set."""
        dataset = self._file[name]
        before = dataset.shape[0]
        dataset.resize(before + len(values), axis=0)
        dataset[before:] = values

    def _check_largest(self, indices: npt.NDArray[np.integer]) -> None:
        """Keep the largest index in mind, and refuse one that does not fit."""
        self._largest = max(self._largest, int(indices.max(initial=-1)))
        if self._n_features is not None and self._largest >= self._n_features:
            raise DataError(
                f"column {self._largest} (from 0) is not among {self._n_features:,} features",
                str(self.path),
                f"Give --features {self._largest + 1} or more.",
            )
        if self._n_features is None and self._largest >= 2**31 - 1:
            raise DataError(
                f"column {self._largest} needs 64 bits, which must be known before the first row",
                str(self.path),
                f"Give --features {self._largest + 1} or more.",
            )

    def _finish(self) -> None:
        """Write what is known only at the end."""
        n_features = self._largest + 1 if self._n_features is None else self._n_features
        self._file["X"].attrs["shape"] = np.array([self.n_rows, n_features], np.int64)
        values = self.label_values
        facts: dict[str, Attribute] = {
            "format": DATA_FORMAT,
            "mpips-version": __version__,
            "created": now(),
            "command": shlex.join(sys.argv),
            "row_scaling": "none",
            "hash": "none",
            "n": self.n_rows,
            "d": n_features,
            "nnz": self.nnz,
            "label_values": values if len(values) <= rows.MANY_LABELS else np.zeros(0),
        }
        write_attributes(self._file, facts | self._attributes)
        if self._names is not None:
            write_names(self._file, self._names)
