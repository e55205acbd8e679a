"""Read training data from one file or many as if it were one."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self, final

import numpy as np
import numpy.typing as npt

from mpips.errors import DataError, MissingInputError
from mpips.files import rows
from mpips.files.csr import CsrFile, CsrRows


def open_data(paths: str | Path | Sequence[str | Path]) -> "CsrFile | CsrFiles":
    """Open training data: a file, a folder of `.h5` files in the order of their names, or a list.

    Raises:
        MissingInputError: there is no such file, or the folder holds none.
        DataError: a file is something else or damaged, or the files do not belong together.
    """
    if isinstance(paths, str | Path):
        folder = Path(paths)
        if not folder.is_dir():
            return CsrFile(folder)
        paths = sorted(folder.glob("*.h5"))
        if not paths:
            raise MissingInputError(f"training data: the folder {folder} holds no .h5 file")
    return CsrFile(paths[0]) if len(paths) == 1 else CsrFiles(paths)


@final
class CsrFiles:
    """Several files of training data, their rows one after the other.

    It is used like `CsrFile`. The number of features is the largest of the files'.

    Args:
        paths: the files, in order.

    Raises:
        MissingInputError, DataError: as `CsrFile`.
        DataError: the files differ in `row_scaling` or in how features were hashed.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self.files: list[CsrFile] = []
        try:
            for path in paths:
                self.files.append(CsrFile(path))
            self._check_alike()
        except BaseException:
            self.close()
            raise
        self.path = self.files[0].path.parent
        self.attributes: dict[str, Any] = self.files[0].attributes
        self.row_scaling = self.files[0].row_scaling
        self.n_features = max(file.n_features for file in self.files)
        self.nnz = sum(file.nnz for file in self.files)
        # Row `edges[i]` is the first of file i.
        self._edges = np.cumsum([0, *(file.n_rows for file in self.files)])
        self.n_rows = int(self._edges[-1])

    def __enter__(self) -> Self:
        """Return the open files."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the files."""
        self.close()

    def close(self) -> None:
        """Close the files; they cannot be read afterwards."""
        for file in self.files:
            file.close()

    def read(
        self,
        begin: int,
        end: int,
        dtype: npt.DTypeLike = np.float64,
        classes: tuple[float, float] | None = None,
        scaled: bool = True,
    ) -> CsrRows:
        """Read the rows `[begin, end)` and check them; see `CsrFile.read`.

        Cost: a copy more where the rows lie in several files.
        """
        parts = [
            file.read(low, high, dtype, classes, scaled)
            for file, low, high in self._pieces(begin, end)
        ]
        if len(parts) == 1:
            return parts[0]
        ends = np.cumsum([0, *(part.indptr[-1] for part in parts)])
        starts = [part.indptr[:-1] + ends[i] for i, part in enumerate(parts)]
        return CsrRows(
            np.concatenate([*starts, ends[-1:]]),
            np.concatenate([part.indices for part in parts]),
            np.concatenate([part.data for part in parts]),
            np.concatenate([part.labels for part in parts]),
        )

    def labels(
        self, begin: int, end: int, classes: tuple[float, float] | None = None
    ) -> npt.NDArray[np.float64]:
        """Read the labels of the rows `[begin, end)` alone."""
        pieces = self._pieces(begin, end)
        return np.concatenate([file.labels(low, high, classes) for file, low, high in pieces])

    @functools.cached_property
    def label_values(self) -> npt.NDArray[np.float64]:
        """Return the distinct labels, sorted: float64; empty if there are more than 256."""
        values = np.zeros(0)
        for file in self.files:
            if file.n_rows and not len(file.label_values):
                return np.zeros(0)
            values = rows.distinct(values, file.label_values)
        return values if len(values) <= rows.MANY_LABELS else np.zeros(0)

    def two_classes(self) -> tuple[float, float]:
        """Return the negative and the positive label of all files together.

        Raises:
            DataError: the labels are not those of two classes.
        """
        return rows.two_classes(self.label_values, self.n_rows, str(self.path), self.find_label)

    def find_label(self, values: npt.NDArray[np.float64]) -> int:
        """Return the first row with one of these labels, or -1."""
        for file, edge in zip(self.files, self._edges, strict=False):
            row = file.find_label(values)
            if row >= 0:
                return int(edge) + row
        return -1

    def row_ranges(self, parts: int) -> list[tuple[int, int]]:
        """Divide the rows into `parts` contiguous ranges of about equal work; see `CsrFile`."""
        return rows.balanced_ranges(self.row_starts(), self.n_rows, self.nnz, parts)

    def row_starts(self) -> Iterator[npt.NDArray[np.int64]]:
        """Give the rows' starts over all files in pieces of int64."""
        before = 0
        for file in self.files:
            for block in file.row_starts():
                yield block + before
            before += file.nnz

    def feature_names(self) -> list[str] | None:
        """Return the features' names from the file with most features, or None."""
        return max(self.files, key=lambda file: file.n_features).feature_names()

    def _pieces(self, begin: int, end: int) -> list[tuple[CsrFile, int, int]]:
        """Return the files that hold rows `[begin, end)`, and which rows of each: at least one."""
        if not 0 <= begin <= end <= self.n_rows:
            raise IndexError(f"rows [{begin}, {end}) of {self.n_rows}")
        pieces = []
        for file, edge in zip(self.files, self._edges.tolist(), strict=False):
            low, high = max(begin - edge, 0), min(end - edge, file.n_rows)
            if low < high:
                pieces.append((file, low, high))
        return pieces or [(self.files[0], 0, 0)]

    def _check_alike(self) -> None:
        """Refuse files that were made in different ways."""
        first = self.files[0]
        for file in self.files[1:]:
            for name in ("row_scaling", "hash", "hash_bits"):
                mine, other = first.attributes.get(name), file.attributes.get(name)
                if mine != other:
                    raise DataError(
                        f"{first.path} and {file.path} do not belong together",
                        f"{name} is {mine} and {other}",
                        "Convert them with the same options.",
                    )
