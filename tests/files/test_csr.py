"""Training data comes back as it was written, and other files are refused with a reason."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from mpips.errors import DataError, MissingInputError
from mpips.files.csr import CsrFile, CsrWriter
from tests.files.samples import Sample, make_sample


@pytest.mark.parametrize("seed", range(8))
def test_rows_come_back_as_they_were_written(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    sample = make_sample(seed, n=int(rng.integers(0, 50)), d=int(rng.integers(0, 30)))
    with CsrFile(sample.write(tmp_path / "a.h5", parts=1 + seed)) as data:
        rows = data.read(0, data.n_rows, np.float32)
        assert (data.n_rows, data.n_features) == (len(sample.lengths), sample.n_features)
        assert data.nnz == len(sample.data)
    np.testing.assert_array_equal(rows.indptr, sample.indptr)
    np.testing.assert_array_equal(rows.indices, sample.indices)
    np.testing.assert_array_equal(rows.data, sample.data)
    np.testing.assert_array_equal(rows.labels, sample.labels)
    assert rows.indptr.dtype == np.int64
    assert rows.indices.dtype == np.int32
    assert rows.data.dtype == np.float32
    assert rows.labels.dtype == np.float64


def test_any_range_equals_that_part_of_the_whole(sample: Sample, tmp_path: Path) -> None:
    with CsrFile(sample.write(tmp_path / "a.h5", row_scaling="unit")) as data:
        whole = data.read(0, data.n_rows)
        for begin, end in ((0, 0), (0, 1), (7, 31), (59, 60), (60, 60)):
            part = data.read(begin, end)
            low, high = whole.indptr[begin], whole.indptr[end]
            np.testing.assert_array_equal(part.indptr, whole.indptr[begin : end + 1] - low)
            np.testing.assert_array_equal(part.indices, whole.indices[low:high])
            assert part.data.tobytes() == whole.data[low:high].tobytes()
            np.testing.assert_array_equal(part.labels, whole.labels[begin:end])


@pytest.mark.parametrize("wrong", [(-1, 3), (3, 2), (0, 61)])
def test_rows_that_are_not_there_are_refused(
    wrong: tuple[int, int], sample: Sample, tmp_path: Path
) -> None:
    with CsrFile(sample.write(tmp_path / "a.h5")) as data, pytest.raises(IndexError):
        data.read(*wrong)


def test_unit_rows_have_length_one_and_empty_rows_stay_empty(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with CsrWriter(path, 3, {"row_scaling": "unit"}) as writer:
        values = np.array([3.0, 4.0, 0.0, 7.0])
        writer.append(np.array([2, 0, 1, 1]), np.array([0, 2, 1, 1]), values, np.ones(4))
    with CsrFile(path) as data:
        np.testing.assert_array_equal(data.read(0, 4).data, [0.6, 0.8, 0.0, 1.0])
        np.testing.assert_array_equal(data.read(0, 4, scaled=False).data, values)


def test_chunks_are_packed_and_carry_checksums(sample: Sample, tmp_path: Path) -> None:
    with h5py.File(sample.write(tmp_path / "a.h5")) as file:
        for name in ("X/indptr", "X/indices", "X/data", "obs/label"):
            item = file[name]
            assert item.fletcher32
            assert item.shuffle
            assert (item.compression, item.compression_opts) == ("gzip", 1)
            assert item.chunks == (65536,)
        assert file["X/indptr"].dtype == np.int64
        assert (file.attrs["n"], file.attrs["d"]) == (60, 40)
        assert bytes(file.attrs["format"]) == b"mpips-data/1"


def test_unpacked_rows_are_the_same_and_carry_checksums(sample: Sample, tmp_path: Path) -> None:
    with CsrFile(sample.write(tmp_path / "a.h5")) as data:
        rows = data.read(0, data.n_rows)
        with CsrWriter(tmp_path / "b.h5", data.n_features, packed=False) as writer:
            writer.append(np.diff(rows.indptr), rows.indices, rows.data, rows.labels)
    with CsrFile(tmp_path / "b.h5") as data:
        other = data.read(0, data.n_rows)
    for name in ("indptr", "indices", "data", "labels"):
        np.testing.assert_array_equal(getattr(other, name), getattr(rows, name))
    with h5py.File(tmp_path / "b.h5") as file:
        for name in ("X/indptr", "X/indices", "X/data", "obs/label"):
            assert (file[name].fletcher32, file[name].compression) == (True, None)


@pytest.mark.parametrize("stored", [np.uint8, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("read", [np.float64, np.float32])
def test_scaled_rows_are_rounded_once(
    stored: type, read: type, rng: np.random.Generator, tmp_path: Path
) -> None:
    lengths = rng.integers(0, 6, 50)
    columns = np.concatenate([np.sort(rng.choice(9, n, replace=False)) for n in lengths])
    values = rng.integers(0, 4, len(columns))
    with CsrWriter(tmp_path / "a.h5", 9, {"row_scaling": "unit"}, stored) as writer:
        writer.append(lengths, columns, values, np.ones(50))
    with CsrFile(tmp_path / "a.h5") as data:
        found = data.read(0, 50, read)
    # A row's squares are whole numbers: their sum is exact in any order.
    row = np.repeat(np.arange(50), lengths)
    norms = np.sqrt(np.bincount(row, values.astype(float) ** 2, 50))
    norms[norms == 0] = 1.0
    assert found.data.dtype == read
    np.testing.assert_array_equal(found.data, (values / norms[row]).astype(read))


def test_the_structure_carries_checksums_too(sample: Sample, tmp_path: Path) -> None:
    # A superblock of version 3 is that of HDF5 1.10, whose headers and indices are checked.
    assert sample.write(tmp_path / "a.h5").read_bytes()[8] == 3


def test_wide_data_has_wide_indices(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with CsrWriter(path, 2**40) as writer:
        writer.append(np.array([1]), np.array([2**40 - 1]), np.ones(1), np.ones(1))
    with CsrFile(path) as data:
        indices = data.read(0, 1).indices
        assert indices.dtype == np.int64
        assert indices.tolist() == [2**40 - 1]


def test_an_index_that_would_not_fit_is_refused_before_writing(tmp_path: Path) -> None:
    one = np.ones(1)
    with pytest.raises(DataError, match="--features"), CsrWriter(tmp_path / "a.h5") as writer:
        writer.append(np.array([1]), np.array([2**31]), one, one)
    with pytest.raises(DataError, match="5 features"), CsrWriter(tmp_path / "a.h5", 5) as writer:
        writer.append(np.array([1]), np.array([5]), one, one)
    assert list(tmp_path.iterdir()) == []


def test_counts_keep_their_type(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with CsrWriter(path, 2, value_dtype=np.int32) as writer:
        writer.append(np.array([1]), np.array([0]), np.array([2**24 + 1]), np.zeros(1))
    with CsrFile(path) as data:
        assert data.value_dtype == np.int32
        assert data.read(0, 1).data.tolist() == [2.0**24 + 1]


@pytest.mark.filterwarnings("ignore")
def test_anndata_opens_the_file(sample: Sample, tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    path = sample.write(tmp_path / "a.h5")
    read = anndata.read_h5ad(path)
    with CsrFile(path) as data:
        rows = data.read(0, data.n_rows)
    np.testing.assert_array_equal(read.X.data, rows.data)
    np.testing.assert_array_equal(read.X.indices, rows.indices)
    np.testing.assert_array_equal(read.X.indptr, rows.indptr)
    assert read.shape == (60, 40)
    np.testing.assert_array_equal(read.obs["label"], rows.labels)


@pytest.mark.filterwarnings("ignore")
def test_a_plain_anndata_file_is_read(tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    sparse = pytest.importorskip("scipy.sparse")
    matrix = sparse.csr_matrix(np.array([[0.0, 2.0], [1.0, 0.0]]))
    made = anndata.AnnData(matrix, obs={"label": [0, 1]})
    made.write_h5ad(tmp_path / "a.h5ad")
    with CsrFile(tmp_path / "a.h5ad") as data:
        assert data.two_classes() == (0.0, 1.0)
        assert data.read(0, 2).data.tolist() == [2.0, 1.0]
        assert data.feature_names() == ["0", "1"]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [((0, 1), (0, 1)), ((-1, 1), (-1, 1)), ((1, 2), (1, 2)), ((1,), (0, 1)), ((2,), (1, 2))],
)
def test_the_larger_of_two_labels_is_positive(
    labels: tuple[float, ...], classes: tuple[float, float], tmp_path: Path
) -> None:
    sample = make_sample(2, labels=labels)
    with CsrFile(sample.write(tmp_path / "a.h5")) as data:
        assert data.two_classes() == classes
        signs = data.read(0, data.n_rows, classes=classes).labels
    np.testing.assert_array_equal(signs, np.where(sample.labels == classes[1], 1.0, -1.0))


def test_labels_of_more_classes_are_named_with_a_row(tmp_path: Path) -> None:
    sample = make_sample(3, labels=(1, 2, 3, 7))
    first = int(np.argmax(~np.isin(sample.labels, (-1, 0, 1))))
    with CsrFile(sample.write(tmp_path / "a.h5")) as data:
        with pytest.raises(DataError) as caught:
            data.two_classes()
        assert "has 1, 2, 3, 7" in caught.value.what
        assert f"first at row {first}" in caught.value.where
        assert "--labels 1,2" in caught.value.remedy
        row = int(np.argmax(sample.labels > 2))
        with pytest.raises(DataError, match=rf"row {row}\n"):
            data.labels(0, 60, (1.0, 2.0))


def test_labels_to_fit_are_no_classes(tmp_path: Path) -> None:
    numbers = np.random.default_rng(4).normal(size=300)
    sample = make_sample(4, n=300)
    fitted = Sample(sample.lengths, sample.indices, sample.data, numbers, 40)
    with CsrFile(fitted.write(tmp_path / "a.h5")) as data:
        assert len(data.label_values) == 0
        np.testing.assert_array_equal(data.labels(0, 300), numbers.astype(np.float32))
        with pytest.raises(DataError, match="more than 256"):
            data.two_classes()


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 60, 90])
def test_ranges_cover_all_rows_once_with_equal_work(
    parts: int, sample: Sample, tmp_path: Path
) -> None:
    with CsrFile(sample.write(tmp_path / "a.h5")) as data:
        ranges = data.row_ranges(parts)
    assert len(ranges) == parts
    assert [row for begin, end in ranges for row in range(begin, end)] == list(range(60))
    work = [int((sample.lengths[begin:end] + 1).sum()) for begin, end in ranges]
    assert max(work) <= sum(work) / parts + sample.lengths.max() + 1


def test_a_missing_file_is_told_with_the_nearest_name(sample: Sample, tmp_path: Path) -> None:
    sample.write(tmp_path / "train_small.h5")
    with pytest.raises(MissingInputError) as caught:
        CsrFile(tmp_path / "train.h5")
    assert "train.h5 does not exist" in caught.value.what
    assert str(tmp_path) in caught.value.where
    assert "train_small.h5" in caught.value.remedy


def break_file(path: Path, name: str, values: object) -> None:
    """Put other values in the place of a data set, with correct checksums."""
    with h5py.File(path, "a") as file:
        del file[name]
        if values is not None:
            file[name] = values


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("obs/label", None, "no /obs/label"),
        ("obs/label", np.ones(3), "3 elements, not 4"),
        ("obs/label", np.array(["a"] * 4, "S1"), "no plain row of numbers"),
        ("obs/label", np.array([1, 1, np.nan, 1]), "label nan.*row 2"),
        ("X/data", np.ones(5), "6 elements, not 5"),
        ("X/data", np.array([1, 1, np.nan, 1, 1, 1]), "value nan.*row 1, column 1"),
        ("X/data", np.array([1, 1, 1, 1, 1, np.inf]), "value inf.*row 3, column 2"),
        ("X/indices", np.array([0, 1, 1, 2, 0, 3]), "column 3 is not in .*row 3"),
        ("X/indices", np.array([0, 1, 1, -2, 0, 2]), "column -2 is not in .*row 1"),
        ("X/indices", np.array([1, 0, 1, 2, 0, 2]), "0 after 1.*row 0"),
        ("X/indices", np.array([0, 1, 1, 2, 2, 2]), "column 2 is there twice.*row 3"),
        ("X/indices", np.ones(6), "no plain row of numbers"),
        ("X/indptr", np.array([0, 2, 4, 4]), "4 elements, not 5"),
        ("X/indptr", np.array([1, 2, 4, 4, 6]), "begins at 1"),
        ("X/indptr", np.array([0, 4, 2, 4, 6]), "falls.*row 1"),
        ("X/indptr", np.array([0, 2, 4, 4, 5]), "ends at 5"),
        ("X/indptr", np.array([0, 2, 4, 9, 6]), "falls.*row 3"),
    ],
)
def test_wrong_content_is_named_with_its_place(
    name: str, values: object, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.h5"
    with CsrWriter(path, 3) as writer:
        indices = np.array([0, 1, 1, 2, 0, 2])
        writer.append(np.array([2, 2, 0, 2]), indices, np.ones(6), np.ones(4))
    break_file(path, name, values)
    with pytest.raises(DataError, match=f"(?s){message}"), CsrFile(path) as data:
        data.read(0, 4)


def test_foreign_hdf5_is_told_what_was_expected(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["table"] = np.ones(3)
    with pytest.raises(DataError, match="no /X") as caught:
        CsrFile(path)
    assert "csr_matrix" in caught.value.remedy
    with h5py.File(path, "w") as file:
        file["X"] = np.ones((3, 3))
    with pytest.raises(DataError, match="not a csr_matrix"):
        CsrFile(path)
    with h5py.File(path, "w") as file:
        file.attrs["format"] = "mpips-data/2"
    with pytest.raises(DataError, match="newer mpips"):
        CsrFile(path)
