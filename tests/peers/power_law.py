"""Makes training data with few frequent features and millions of rare ones, as clicks have them.

`python -m tests.peers.power_law OUT.h5 --rows 1000000` writes a set for the comparisons of this
folder; the same seed gives the same rows. Memory holds a part of the rows at a time.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from mpips.files.csr import CsrRows, CsrWriter

FEATURES: Final = 10_000_000
PER_ROW: Final = 40
PART: Final = 20_000

EXPONENT: Final = 1.1
"""The feature of rank r occurs in proportion to r to the power of minus this."""

Random = np.random.Generator


def draw_ranks(random: Random, count: int, features: int) -> npt.NDArray[np.int64]:
    """Return ranks from 0, int64 `(count,)`: a bounded Pareto law, cut to integers."""
    power = 1.0 - EXPONENT
    last = (features + 1.0) ** power
    drawn = (1.0 - random.random(count) * (1.0 - last)) ** (1.0 / power)
    return np.minimum(drawn.astype(np.int64) - 1, features - 1)


def draw_rows(
    random: Random,
    count: int,
    columns: npt.NDArray[np.int32],
    truth: npt.NDArray[np.float32],
    per_row: float,
) -> CsrRows:
    """Return rows of ones, drawn by a logistic model.

    Args:
        random: the generator.
        count: number of rows.
        columns: int32 `(features,)`: the column of each rank.
        truth: float32 `(features,)`: the weight of each column.
        per_row: mean number of draws of a row; a column drawn twice is there once.
    """
    # Draw columns, and sort them within their rows by one sort of row and column together.
    lengths = 1 + random.poisson(per_row - 1, count)
    rows = np.repeat(np.arange(count), lengths)
    ranks = draw_ranks(random, len(rows), len(columns))
    both = np.sort(rows * len(columns) + columns[ranks])
    both = both[np.concatenate([[True], both[1:] != both[:-1]])]
    row, column = both // len(columns), (both % len(columns)).astype(np.int32)
    # Draw labels.
    margins = np.bincount(row, weights=truth[column].astype(np.float64), minlength=count) - 1.0
    labels = np.where(random.random(count) < 1.0 / (1.0 + np.exp(-margins)), 1.0, 0.0)
    starts = np.searchsorted(row, np.arange(count + 1))
    return CsrRows(starts, column, np.ones(len(column)), labels)


def draw_parts(
    rows: int, features: int = FEATURES, per_row: float = PER_ROW, seed: int = 1
) -> Iterator[CsrRows]:
    """Yield so many rows in parts of `PART`; they are the same for the same arguments.

    Columns of all ranks are mixed, so that frequent ones are no neighbours. Fewer rows are the
    first of more.
    """
    random = np.random.default_rng(seed)
    columns = random.permutation(features).astype(np.int32)
    truth = random.normal(size=features).astype(np.float32) / 2
    for begin in range(0, rows, PART):
        part = draw_rows(random, PART, columns, truth, per_row)
        yield _first(part, min(PART, rows - begin))


def write_power_law(
    path: Path, rows: int, features: int = FEATURES, per_row: float = PER_ROW, seed: int = 1
) -> None:
    """Write such data to an HDF5 file."""
    with CsrWriter(path, features, {"source": f"power law, seed {seed}"}, np.uint8) as file:
        for part in draw_parts(rows, features, per_row, seed):
            file.append(np.diff(part.indptr), part.indices, part.data, part.labels)


def _first(part: CsrRows, rows: int) -> CsrRows:
    """Return the first rows of a part."""
    end = part.indptr[rows]
    return CsrRows(part.indptr[: rows + 1], part.indices[:end], part.data[:end], part.labels[:rows])


def main() -> None:
    """Write a set of the size asked for."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=FEATURES)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    write_power_law(arguments.path, arguments.rows, arguments.features, seed=arguments.seed)


if __name__ == "__main__":
    main()
