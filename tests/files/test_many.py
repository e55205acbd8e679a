"""Many files read as one."""

from pathlib import Path

import numpy as np
import pytest

from mpips.errors import DataError, MissingInputError
from mpips.files.csr import CsrFile
from mpips.files.many import CsrFiles, open_data
from tests.files.samples import make_sample


def test_a_folder_reads_like_its_files_one_after_the_other(tmp_path: Path) -> None:
    sizes = (30, 0, 25)
    samples = [make_sample(seed, n=n, d=20 + seed) for seed, n in enumerate(sizes)]
    for seed, sample in enumerate(samples):
        sample.write(tmp_path / f"part-{seed}.h5", row_scaling="unit")
    with open_data(tmp_path) as data:
        assert isinstance(data, CsrFiles)
        assert (data.n_rows, data.n_features) == (55, 22)
        assert data.nnz == sum(len(sample.data) for sample in samples)
        whole = data.read(0, 55, classes=data.two_classes())
        for begin, end in ((0, 0), (3, 28), (25, 40), (30, 55), (55, 55)):
            part = data.read(begin, end, classes=data.two_classes())
            low, high = whole.indptr[begin], whole.indptr[end]
            np.testing.assert_array_equal(part.indptr, whole.indptr[begin : end + 1] - low)
            assert part.data.tobytes() == whole.data[low:high].tobytes()
            np.testing.assert_array_equal(part.labels, whole.labels[begin:end])
            np.testing.assert_array_equal(data.labels(begin, end), part.labels)
    indices = np.concatenate([sample.indices for sample in samples])
    np.testing.assert_array_equal(whole.indices, indices)
    labels = np.concatenate([sample.labels for sample in samples])
    np.testing.assert_array_equal(whole.labels, labels)


def test_ranges_do_not_depend_on_how_rows_are_filed(tmp_path: Path) -> None:
    sample = make_sample(5)
    sample.write(tmp_path / "whole.h5")
    with CsrFile(tmp_path / "whole.h5") as whole:
        ranges = whole.row_ranges(4)
        assert open_data([tmp_path / "whole.h5"]).row_ranges(4) == ranges
    cut = int(sample.indptr[20])
    for name, rows, values in (("a", slice(0, 20), slice(0, cut)),
                               ("b", slice(20, 60), slice(cut, None))):  # fmt: skip
        part = type(sample)(
            sample.lengths[rows],
            sample.indices[values],
            sample.data[values],
            sample.labels[rows],
            sample.n_features,
        )
        part.write(tmp_path / f"{name}.h5")
    with open_data([tmp_path / "a.h5", tmp_path / "b.h5"]) as data:
        assert data.row_ranges(4) == ranges


def test_classes_are_those_of_all_files_together(tmp_path: Path) -> None:
    make_sample(1, labels=(1,)).write(tmp_path / "a.h5")
    make_sample(2, labels=(2,)).write(tmp_path / "b.h5")
    with open_data(tmp_path) as data:
        assert data.two_classes() == (1.0, 2.0)
        labels = data.read(0, 120, classes=(1.0, 2.0)).labels
        assert labels.tolist() == [-1.0] * 60 + [1.0] * 60
        assert data.find_label(np.array([2.0])) == 60
        assert data.find_label(np.array([3.0])) == -1


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    make_sample(1).write(tmp_path / "a.h5", row_scaling="unit")
    make_sample(2).write(tmp_path / "b.h5")
    with pytest.raises(DataError, match=r"(?s)do not belong together.*row_scaling"):
        open_data(tmp_path)


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"holds no \.h5 file"):
        open_data(tmp_path)
