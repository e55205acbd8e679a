"""The generated set of `tests/peers` is the same for a seed, well formed, and of a power law."""

import numpy as np

from mpips.files.csr import CsrFile
from tests.peers import power_law


def joined(parts):
    """Return lengths of rows, columns and labels of all parts."""
    parts = list(parts)
    return [
        np.concatenate([np.diff(part.indptr) for part in parts]),
        np.concatenate([part.indices for part in parts]),
        np.concatenate([part.labels for part in parts]),
    ]


def test_rows_depend_on_the_seed_alone_and_fewer_are_the_first_of_more(monkeypatch):
    monkeypatch.setattr(power_law, "PART", 50)
    some, more, other = (
        joined(power_law.draw_parts(rows, 1000, 9, seed)) for rows, seed in
        ((70, 1), (200, 1), (200, 2))
    )  # fmt: skip
    for few, many in zip(some, more, strict=True):
        assert np.array_equal(few, many[: len(few)])
    assert len(some[0]) == 70
    assert not np.array_equal(more[1][:100], other[1][:100])


def test_file_can_be_read_and_few_columns_are_frequent(tmp_path):
    power_law.write_power_law(tmp_path / "a.h5", 3000, 5000, 20)
    with CsrFile(tmp_path / "a.h5") as data:
        rows = data.read(0, data.n_rows, classes=data.two_classes())
        assert (data.n_rows, data.n_features) == (3000, 5000)
    counts = np.sort(np.bincount(rows.indices, minlength=5000))[::-1]
    # Of bounded Pareto ranks with exponent 1.1 some 4 in 10 draws fall on the first ten of 5000.
    assert 0.25 < counts[:10].sum() / len(rows.indices) < 0.45
    assert (counts > 0).sum() > 2000
    assert 0.05 < (rows.labels > 0).mean() < 0.95
