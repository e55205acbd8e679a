"""Check, scale, label and divide CSR rows: arrays in, arrays out, no files."""

import itertools
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from mpips.errors import DataError

# Above so many distinct labels they are numbers to fit, not classes.
MANY_LABELS = 256

# The pairs of labels that mean two classes, the negative one first.
CLASSES = ((0.0, 1.0), (-1.0, 1.0), (1.0, 2.0))

Floats = npt.NDArray[np.float64]


def first_bad_indptr(indptr: npt.NDArray[np.int64]) -> int:
    """Return the first row whose length is negative, or -1."""
    bad = indptr[1:] < indptr[:-1]
    return int(np.argmax(bad)) if bad.any() else -1


def first_bad_index(
    indptr: npt.NDArray[np.int64], indices: npt.NDArray[np.integer], n_features: int
) -> tuple[int, str]:
    """Return the first row whose column indices are wrong, and what is wrong there.

    Args:
        indptr: int64 `(rows + 1,)`, from 0, not decreasing.
        indices: integers `(nnz,)`; in each row they must rise and lie in `[0, n_features)`.
        n_features: the number of columns.

    Returns:
        The row and a sentence; `(-1, "")` if all is well.

    Cost: one pass over `indices`, and others if something is wrong.
    """
    from mpips.files.rows_kernel import are_rising

    known = indices.dtype in (np.int32, np.int64)
    if known and are_rising(indptr, np.ascontiguousarray(indices), n_features):
        return -1, ""
    # Look for columns that do not exist.
    outside = (indices < 0) | (indices >= n_features)
    if outside.any():
        position = int(np.argmax(outside))
        what = f"column {indices[position]} is not in [0, {n_features})"
        return _row_of(indptr, position), what
    # Look for columns that do not rise, except from one row to the next.
    falling = indices[1:] <= indices[:-1]
    starts = indptr[1:-1]
    falling[starts[(starts > 0) & (starts < len(indices))] - 1] = False
    if falling.any():
        position = int(np.argmax(falling)) + 1
        before, after = indices[position - 1], indices[position]
        what = f"column {after} is there twice" if before == after else f"{after} after {before}"
        return _row_of(indptr, position), what
    return -1, ""


def first_bad_value(
    indptr: npt.NDArray[np.int64], data: npt.NDArray[np.floating]
) -> tuple[int, int]:
    """Return the row and the position of the first value that is NaN or infinite, or (-1, -1)."""
    finite = np.isfinite(data)
    if finite.all():
        return -1, -1
    position = int(np.argmin(finite))
    return _row_of(indptr, position), position


def unit_lengths(
    indptr: npt.NDArray[np.int64],
    data: npt.NDArray[np.number],
    dtype: npt.DTypeLike = np.float64,
) -> npt.NDArray[np.floating]:
    """Scale each row to Euclidean length 1; rows of zeros stay as they are.

    A row's result does not depend on the rows around it, to the last bit: its squares are added
    in order.

    Args:
        indptr: int64 `(rows + 1,)`, from 0.
        data: numbers `(nnz,)`; not changed.
        dtype: of the result, which is rounded once: float64 or float32.
    """
    from mpips.files.rows_kernel import scale_rows

    if data.dtype not in (np.uint8, np.float32, np.float64):
        data = data.astype(np.float64)
    scaled = np.empty(len(data), dtype)
    scale_rows(indptr, np.ascontiguousarray(data), scaled)
    return scaled


def distinct(known: Floats, labels: npt.NDArray[np.floating]) -> Floats:
    """Return the distinct labels met so far, sorted; more than 256 are cut to 257.

    Args:
        known: float64, sorted: those of earlier rows.
        labels: of the rows to add.
    """
    if len(known) > MANY_LABELS or not len(labels):
        return known
    merged = np.sort(np.concatenate([known, labels.astype(np.float64)]))
    fresh = np.concatenate([[True], merged[1:] != merged[:-1]])
    values: Floats = merged[fresh]
    return values[: MANY_LABELS + 1]


def two_classes(
    values: Floats, n_rows: int, path: str, row_of: Callable[[Floats], int]
) -> tuple[float, float]:
    """Return the negative and the positive of two classes, by the labels that are there.

    Labels 0/1, -1/1 and 1/2 are understood, the larger one being the positive class.

    Args:
        values: the distinct labels, empty if they are too many to be classes; fewer than two are
            enough where it is clear which they are.
        n_rows: the number of rows.
        path: the file, for the message.
        row_of: finds the first row with one of some labels; asked only when there are too many.

    Raises:
        DataError: the labels are others; the message names them and the first such row.

    >>> two_classes(np.array([1.0, 2.0]), 9, "a.h5", lambda values: 0)
    (1.0, 2.0)
    """
    if n_rows and not len(values):
        raise DataError(
            f"two classes need labels 0/1, -1/1 or 1/2; /obs/label has more than {MANY_LABELS}",
            path,
        )
    for negative, positive in CLASSES:
        if np.isin(values, (negative, positive)).all():
            return negative, positive
    odd = values[~np.isin(values, (-1.0, 0.0, 1.0))]
    shown = ", ".join(f"{value:g}" for value in values[:8]) + (", ..." if len(values) > 8 else "")
    pair = ",".join(f"{value:g}" for value in values[:2])
    raise DataError(
        f"two classes need labels 0/1, -1/1 or 1/2; /obs/label has {shown}",
        f"{path}, first at row {row_of(odd if len(odd) else values[-1:]):,}",
        f"Use mpips convert --labels {pair} to keep two of them.",
    )


def signs(labels: Floats, classes: tuple[float, float], path: str, begin: int) -> Floats:
    """Return -1 for the first class and +1 for the second.

    Args:
        labels: float64 `(rows,)`, as stored.
        classes: the negative and the positive label.
        path: the file, for the message.
        begin: the number of the first row, for the message.

    Raises:
        DataError: a label is neither; the message names its row.
    """
    negative, positive = classes
    odd = (labels != negative) & (labels != positive)
    if odd.any():
        row = int(np.argmax(odd))
        raise DataError(
            f"label {labels[row]:g} is neither {negative:g} nor {positive:g}",
            f"{path} /obs/label, row {begin + row:,}",
            f"Use mpips convert --labels {negative:g},{positive:g} to keep the two.",
        )
    signed: Floats = np.where(labels == positive, 1.0, -1.0)
    return signed


def balanced_ranges(
    blocks: Iterable[npt.NDArray[np.int64]], n_rows: int, nnz: int, parts: int
) -> list[tuple[int, int]]:
    """Divide rows into contiguous ranges of about equal work, always the same for the same data.

    A row weighs its nonzeros and one more, so that empty rows are shared out too. A range weighs
    at most its equal share and one row.

    Args:
        blocks: the rows' starts `indptr[0:n_rows]` in order, in pieces of any size.
        n_rows: the number of rows.
        nnz: the number of nonzeros.
        parts: how many ranges; some are empty if there are fewer rows.

    >>> balanced_ranges([np.array([0, 3, 6, 9])], 4, 12, 2)
    [(0, 2), (2, 4)]
    """
    targets = np.array([part * (nnz + n_rows) // parts for part in range(1, parts)], np.int64)
    cuts = np.zeros(parts - 1, np.int64)
    # Count the rows that begin before each target.
    row = 0
    for block in blocks:
        weight = block + np.arange(row, row + len(block))
        cuts += np.searchsorted(weight, targets, side="left")
        row += len(block)
    edges = [0, *cuts.tolist(), n_rows]
    return list(itertools.pairwise(edges))


def _row_of(indptr: npt.NDArray[np.int64], position: int) -> int:
    """Return the row that the nonzero at a position belongs to."""
    return int(np.searchsorted(indptr, position, side="right")) - 1
