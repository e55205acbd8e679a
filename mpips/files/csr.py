"""Read training data: sparse rows and labels in HDF5 that AnnData opens as well.

The layout, `mpips-data/1`::

    /X/indptr  int64 (n + 1,)     /X/indices  int32 or int64 (nnz,)     /X/data  (nnz,)
    /obs/label  (n,)              /var/_index  names of the features, where there are any

in chunks of 65,536 elements, each shuffled, packed by gzip and with a checksum, or with a checksum
alone; the structures that hold them carry checksums too. Columns count from 0 and rise within a
row.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, final

import h5py
import numpy as np
import numpy.typing as npt

from mpips.errors import DataError
from mpips.files import rows
from mpips.files.csr_writer import CsrWriter
from mpips.files.layout import CHUNK, DATA_FORMAT
from mpips.files.open import open_hdf5, read_slice, reading, text_attribute

__all__ = ["CsrFile", "CsrRows", "CsrWriter"]

SCAN = 16 * CHUNK
SCALINGS = ("none", "unit")
DATA_SETS = ("X/indptr", "X/indices", "X/data", "obs/label")
EXPECTED = "Expected mpips training data, or an AnnData file with a csr_matrix /X and /obs/label."


@dataclass(frozen=True, slots=True)
class CsrRows:
    """Rows in memory.

    Attributes:
        indptr: int64 `(rows + 1,)`, from 0: row i has the nonzeros `[indptr[i], indptr[i + 1])`.
        indices: int32 `(nnz,)` (int64 from 2**31 columns on): columns from 0, rising within a row.
        data: float64 or float32 `(nnz,)`, finite.
        labels: float64 `(rows,)`: -1 and +1, or as stored.
    """

    indptr: npt.NDArray[np.int64]
    indices: npt.NDArray[np.integer]
    data: npt.NDArray[np.floating]
    labels: npt.NDArray[np.float64]


@final
class CsrFile:
    """Read training data from one file, a range of rows at a time.

    Args:
        path: a file that `CsrWriter` wrote, or any AnnData file with a `csr_matrix` in `/X`.

    Attributes:
        n_rows, n_features, nnz: its shape.
        value_dtype: how values are stored.
        row_scaling: "none", or "unit": rows are scaled to length 1 when they are read.
        attributes: the texts and numbers noted in the file.

    Raises:
        MissingInputError: there is no such file.
        DataError: it is something else, or damaged.

    Cost: opening reads the rows' starts once, in pieces.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = open_hdf5(self.path, "training data")
        try:
            with reading(self.path, "structure"):
                self._check_layout()
                self._check_shapes()
                self.attributes = self._read_attributes()
                # While they are open HDF5 keeps their last chunks, in which the next rows begin.
                self._kept = [self._file[name] for name in DATA_SETS]
            self._check_starts()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        """Return the open file."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file; it cannot be read afterwards."""
        self._file.close()

    def read(
        self,
        begin: int,
        end: int,
        dtype: npt.DTypeLike = np.float64,
        classes: tuple[float, float] | None = None,
        scaled: bool = True,
    ) -> CsrRows:
        """Read the rows `[begin, end)` and check them.

        Args:
            begin: the first row.
            end: one past the last row.
            dtype: float64 or float32, for the values.
            classes: the negative and the positive label, as `two_classes` gives them; labels then
                come as -1 and +1. None: as stored.
            scaled: whether rows are scaled where `row_scaling` says so.

        Raises:
            DataError: a checksum fails; a column does not exist, falls or comes twice; a value or a
                label is NaN or infinite; a label is of neither class. The row is named.
            FileError: the system failed to deliver the bytes.
            IndexError: there are no such rows.

        Cost: one slice of each data set; memory for the rows and about twice that for a moment.
        """
        if not 0 <= begin <= end <= self.n_rows:
            raise IndexError(f"rows [{begin}, {end}) of {self.n_rows}")
        part = f"rows {begin:,} to {max(begin, end - 1):,}"
        # Read three slices.
        starts = read_slice(self._file, "X/indptr", begin, end + 1, part).astype(np.int64)
        low, high = int(starts[0]), int(starts[-1])
        indices = read_slice(self._file, "X/indices", low, high, part)
        data = read_slice(self._file, "X/data", low, high, part)
        # Check before scaling, so that messages name what is in the file.
        indptr = starts - low
        self._check_rows(begin, indptr, indices, data)
        is_scaled = scaled and self.row_scaling == "unit"
        values = rows.unit_lengths(indptr, data, dtype) if is_scaled else data
        index_dtype = np.int64 if self.n_features >= 2**31 else np.int32
        return CsrRows(
            indptr,
            indices.astype(index_dtype, copy=False),
            values.astype(dtype, copy=False),
            self.labels(begin, end, classes),
        )

    def labels(
        self, begin: int, end: int, classes: tuple[float, float] | None = None
    ) -> npt.NDArray[np.float64]:
        """Read the labels of the rows `[begin, end)` alone; see `read`."""
        part = f"rows {begin:,} to {max(begin, end - 1):,}"
        labels = read_slice(self._file, "obs/label", begin, end, part).astype(np.float64)
        finite = np.isfinite(labels)
        if not finite.all():
            row = int(np.argmin(finite))
            raise self._bad(f"label {labels[row]:g}", f"row {begin + row:,}")
        return labels if classes is None else rows.signs(labels, classes, str(self.path), begin)

    @functools.cached_property
    def label_values(self) -> npt.NDArray[np.float64]:
        """Return the distinct labels, sorted: float64; empty if there are more than 256."""
        stored = self.attributes.get("label_values")
        if isinstance(stored, np.ndarray):
            return stored.astype(np.float64)
        values = np.zeros(0)
        for begin in range(0, self.n_rows, SCAN):
            values = rows.distinct(values, self.labels(begin, min(begin + SCAN, self.n_rows)))
        return values if len(values) <= rows.MANY_LABELS else np.zeros(0)

    def two_classes(self) -> tuple[float, float]:
        """Return the negative and the positive label; see `rows.two_classes`.

        Raises:
            DataError: the labels are not those of two classes.
        """
        return rows.two_classes(self.label_values, self.n_rows, str(self.path), self.find_label)

    def find_label(self, values: npt.NDArray[np.float64]) -> int:
        """Return the first row with one of these labels, or -1."""
        for begin in range(0, self.n_rows, SCAN):
            found = np.isin(self.labels(begin, min(begin + SCAN, self.n_rows)), values)
            if found.any():
                return begin + int(np.argmax(found))
        return -1

    def row_ranges(self, parts: int) -> list[tuple[int, int]]:
        """Divide the rows into `parts` contiguous ranges of about equal work.

        They depend on the data and `parts` alone; see `rows.balanced_ranges`.
        Cost: reads the rows' starts once.
        """
        return rows.balanced_ranges(self.row_starts(), self.n_rows, self.nnz, parts)

    def row_starts(self) -> Iterator[npt.NDArray[np.int64]]:
        """Give the rows' starts, `indptr` without its last element, in pieces of int64."""
        for begin in range(0, self.n_rows, SCAN):
            end = min(begin + SCAN, self.n_rows)
            yield read_slice(self._file, "X/indptr", begin, end).astype(np.int64)

    def feature_names(self) -> list[str] | None:
        """Return the features' names, or None if the file has none."""
        with reading(self.path, "/var/_index"):
            if "var/_index" not in self._file:
                return None
            names: list[str] = self._file["var/_index"].asstr()[()].tolist()
        return names

    def _bad(self, what: str, where: str, remedy: str = "Make the file again.") -> DataError:
        """Return an error about this file."""
        return DataError(f"{self.path}: {what}", where, remedy)

    def _check_layout(self) -> None:
        """Check that this is training data at all."""
        file = self._file
        form = text_attribute(file, "format")
        if form and form != DATA_FORMAT:
            known = form.startswith("mpips-data/")
            remedy = "A newer mpips wrote it; use that one." if known else EXPECTED
            raise self._bad(f"its format is {form}, not {DATA_FORMAT}", "", remedy)
        matrix = file.get("X")
        encoding = text_attribute(matrix, "encoding-type") if matrix is not None else ""
        if not isinstance(matrix, h5py.Group) or encoding != "csr_matrix":
            kind = "no /X" if matrix is None else f"/X is {encoding or 'not a csr_matrix'}"
            raise self._bad(f"no training data: {kind}", "", EXPECTED)
        for name in DATA_SETS:
            item = file.get(name)
            kinds = "iu" if name in ("X/indptr", "X/indices") else "iufb"
            if item is None:
                raise self._bad(f"there is no /{name}", "", EXPECTED)
            if not isinstance(item, h5py.Dataset) or item.ndim != 1 or item.dtype.kind not in kinds:
                raise self._bad(f"/{name} is no plain row of numbers", "", EXPECTED)

    def _check_shapes(self) -> None:
        """Check that the data sets' sizes agree."""
        file = self._file
        shape = np.asarray(file["X"].attrs.get("shape", ()))
        if shape.shape != (2,) or shape.dtype.kind not in "iu" or shape.min() < 0:
            raise self._bad("/X has no shape", "attribute shape of /X", EXPECTED)
        self.n_rows, self.n_features = int(shape[0]), int(shape[1])
        self.nnz = int(file["X/data"].shape[0])
        self.value_dtype = file["X/data"].dtype
        self.row_scaling = text_attribute(file, "row_scaling", "none")
        sizes = {
            "X/indptr": self.n_rows + 1,
            "X/indices": self.nnz,
            "obs/label": self.n_rows,
        }
        for name, size in sizes.items():
            if file[name].shape[0] != size:
                raise self._bad(f"/{name} has {file[name].shape[0]:,} elements, not {size:,}", "")
        if self.row_scaling not in SCALINGS:
            raise self._bad(f"row_scaling is {self.row_scaling!r}", "", "It is none or unit.")

    def _check_starts(self) -> None:
        """Check that the rows' starts begin at 0, never fall, and end at the last nonzero."""
        last = 0
        for begin in range(0, self.n_rows + 1, SCAN):
            end = min(begin + SCAN, self.n_rows + 1)
            starts = read_slice(self._file, "X/indptr", begin, end).astype(np.int64)
            if begin == 0 and starts[0] != 0:
                raise self._bad(f"/X/indptr begins at {starts[0]}, not 0", "row 0")
            self._require_rising(np.concatenate([[last], starts]), begin - 1)
            last = int(starts[-1])
        if last != self.nnz:
            raise self._bad(f"/X/indptr ends at {last:,}, not at {self.nnz:,} nonzeros", "")

    def _require_rising(self, starts: npt.NDArray[np.int64], begin: int) -> None:
        """Refuse rows of negative length."""
        row = rows.first_bad_indptr(starts)
        if row >= 0:
            raise self._bad("/X/indptr falls", f"row {begin + row:,}")

    def _check_rows(
        self,
        begin: int,
        indptr: npt.NDArray[np.int64],
        indices: npt.NDArray[np.integer],
        data: npt.NDArray[Any],
    ) -> None:
        """Refuse wrong columns and values that are no numbers."""
        row, what = rows.first_bad_index(indptr, indices, self.n_features)
        if row >= 0:
            raise self._bad(what, f"/X/indices, row {begin + row:,}", "Sort each row's columns.")
        row, position = rows.first_bad_value(indptr, data)
        if row >= 0:
            feature = f"row {begin + row:,}, column {indices[position]} (from 0)"
            raise self._bad(f"value {data[position]:g}", f"/X/data, {feature}")

    def _read_attributes(self) -> dict[str, Any]:
        """Return what is noted in the root, texts decoded."""
        noted = {name: self._file.attrs[name] for name in self._file.attrs}
        return {
            name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            for name, value in noted.items()
        }
