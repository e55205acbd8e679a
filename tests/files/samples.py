"""Random rows, and files made of them."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mpips.files.csr import CsrWriter


@dataclass(frozen=True)
class Sample:
    """Random rows: the arrays that a file is made from."""

    lengths: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int64]
    data: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float64]
    n_features: int

    @property
    def indptr(self) -> npt.NDArray[np.int64]:
        """Return the rows' starts."""
        return np.concatenate([[0], np.cumsum(self.lengths)])

    def write(self, path: Path, parts: int = 3, **noted: str) -> Path:
        """Write the rows to a file in several parts."""
        cuts = np.linspace(0, len(self.lengths), parts + 1).astype(int)
        with CsrWriter(path, self.n_features, noted) as writer:
            for begin, end in itertools.pairwise(cuts.tolist()):
                low, high = self.indptr[begin], self.indptr[end]
                writer.append(
                    self.lengths[begin:end],
                    self.indices[low:high],
                    self.data[low:high],
                    self.labels[begin:end],
                )
        return path


def make_sample(
    seed: int, n: int = 60, d: int = 40, labels: Sequence[float] = (-1.0, 1.0)
) -> Sample:
    """Return random rows, some of them empty."""
    rng = np.random.default_rng(seed)
    lengths = np.minimum(rng.integers(0, 9, n), d)
    columns = [np.sort(rng.choice(d, size, replace=False)) for size in lengths]
    indices = np.concatenate([*columns, np.zeros(0)]).astype(np.int64)
    data = rng.normal(size=len(indices)).astype(np.float32)
    return Sample(lengths, indices, data, rng.choice(np.array(labels), n), d)
