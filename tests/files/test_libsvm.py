"""Text becomes the rows that it says, wrong lines are named, and rows become text again."""

import gzip
import io
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mpips.errors import DataError, MissingInputError
from mpips.files import libsvm
from mpips.files.csr import CsrFile, CsrRows
from mpips.files.libsvm import TextOptions, convert, export
from tests.files.samples import make_sample


def rows_of(folder: Path, text: str | bytes, options: TextOptions | None = None) -> CsrRows:
    """Return the rows that some text becomes."""
    content = text.encode() if isinstance(text, str) else text
    (folder / "a.svm").write_bytes(content)
    convert([str(folder / "a.svm")], folder / "a.h5", options or TextOptions())
    with CsrFile(folder / "a.h5") as data:
        return data.read(0, data.n_rows)


def test_text_becomes_rows(tmp_path: Path) -> None:
    text = "+1 1:0.5 3:-2e1\n\n# a comment\n-1\t2:1 # another\r\n  3.5 \n0 4:.25 7:1e2"
    rows = rows_of(tmp_path, text)
    assert rows.indptr.tolist() == [0, 2, 3, 3, 5]
    assert rows.indices.tolist() == [0, 2, 1, 3, 6]
    assert rows.data.tolist() == [0.5, -20.0, 1.0, 0.25, 100.0]
    assert rows.labels.tolist() == [1.0, -1.0, 3.5, 0.0]


def test_zero_based_text_counts_from_zero(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "1 0:5 3:6\n", TextOptions(first_index=0))
    assert rows.indices.tolist() == [0, 3]


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n"])
def test_text_without_rows_becomes_a_file_without_rows(text: str, tmp_path: Path) -> None:
    rows = rows_of(tmp_path, text)
    assert rows.indptr.tolist() == [0]
    with CsrFile(tmp_path / "a.h5") as data:
        assert (data.n_rows, data.n_features, data.nnz) == (0, 0, 0)
        assert data.row_ranges(2) == [(0, 0), (0, 0)]


def test_numbers_are_rounded_as_python_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    words = [f"{value:.{digits}g}" for digits in (3, 9, 17, 25) for value in rng.normal(size=200)]
    words += [f"{m}e{e}" for m in ("1", "7.25", "123456789012345678901") for e in range(-44, 18)]
    words += ["9007199254740993", "0.1", "1e-45", "-0", "00012.5", "3.4028234e38", ".5", "5."]
    rows = rows_of(tmp_path, "".join(f"1 1:{word}\n" for word in words))
    expected = np.array([float(word) for word in words]).astype(np.float32)
    np.testing.assert_array_equal(rows.data.astype(np.float32), expected)
    labels = rows_of(tmp_path, "".join(f"{word} 1:1\n" for word in words)).labels
    np.testing.assert_array_equal(labels.astype(np.float32), expected)


@pytest.mark.parametrize(
    ("line", "what", "remedy"),
    [
        ("x 1:1", "x is no label", "LABEL INDEX:VALUE"),
        ("1,2 1:1", "1,2 is no label", "LABEL INDEX:VALUE"),
        ("3:1 4:1", "3:1 is no label", "LABEL INDEX:VALUE"),
        ("nan 1:1", "label nan", "finite"),
        ("1 5", "no colon in 5", "LABEL INDEX:VALUE"),
        ("1 a:1", "a:1 does not begin with an index", "whole number"),
        ("1 -3:1", "-3:1 does not begin with an index", "whole number"),
        ("1 1234567890123456789:1", "does not begin with an index", "whole number"),
        ("1 2:", "2: has no number", "A value is like"),
        ("1 2:1x", "2:1x has no number", "A value is like"),
        ("1 2:1_0", "2:1_0 has no number", "A value is like"),
        ("1 2:1e", "2:1e has no number", "A value is like"),
        ("1 2:nano", "2:nano has no number", "A value is like"),
        ("1 2:- 3:1", "2:- has no number", "A value is like"),
        ("1 0:1", "feature 0", "use --zero-based"),
        ("1 22:1 17:1", "17:1 after a larger index", "use --sort"),
        ("1 5:1 5:2", "feature 5 is there twice", "one of them"),
        ("1 qid:3 5:1", "qid:3: ranking queries are not supported", "qid"),
        ("1 5:nan", "value nan for feature 5", "--nan drop|zero|error"),
        ("1 5:-INF", "value -inf for feature 5", "--nan drop|zero|error"),
        ("1 5:1e39", "value 1e+39 for feature 5", "float32"),
        ("1e39 5:1", "label 1e+39", "float32"),
    ],
)
def test_a_wrong_line_is_named_by_its_number(
    line: str, what: str, remedy: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        rows_of(tmp_path, f"1 1:1\n# note\n\n{line}\n1 1:1\n")
    assert what in caught.value.what
    assert caught.value.where == f"line 4 of {tmp_path}/a.svm"
    assert remedy in caught.value.remedy
    assert [path.name for path in tmp_path.iterdir()] == ["a.svm"]


def test_lines_are_counted_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = [f"{i % 2} {i + 1}:{i}" for i in range(90)]
    monkeypatch.setattr(libsvm, "BLOCK", 64)
    rows = rows_of(tmp_path, "\n".join(good))
    assert rows.indices.tolist() == list(range(90))
    assert rows.data.tolist() == list(range(90))
    with pytest.raises(DataError, match="line 71 of"):
        rows_of(tmp_path, "\n".join([*good[:70], "1 0:1", *good[70:]]))
    monkeypatch.setattr(libsvm, "LONGEST_LINE", 500)
    with pytest.raises(DataError, match="has a line of more than"):
        rows_of(tmp_path, "1 " + " ".join(f"{i}:1" for i in range(1, 200)))


def test_sorting_puts_columns_and_their_values_in_order(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "1 9:9 2:2 5:1e-30\n1 1:1 2:2\n", TextOptions(sort=True))
    assert rows.indices.tolist() == [1, 4, 8, 0, 1]
    np.testing.assert_array_equal(
        rows.data.astype(np.float32), np.array([2, 1e-30, 9, 1, 2], np.float32)
    )
    with pytest.raises(DataError, match=r"(?s)twice.*line 2 of"):
        rows_of(tmp_path, "1 1:1\n1 5:1 2:1 5:2\n", TextOptions(sort=True))


def test_values_that_are_no_numbers_can_be_dropped_or_zeroed(tmp_path: Path) -> None:
    text = "1 1:1 2:nan\n2 3:3\n3 1:inf 4:4\n"
    dropped = rows_of(tmp_path, text, TextOptions(nan="drop"))
    assert (dropped.labels.tolist(), dropped.indices.tolist()) == ([2.0], [2])
    zeroed = rows_of(tmp_path, text, TextOptions(nan="zero"))
    assert zeroed.labels.tolist() == [1.0, 2.0, 3.0]
    assert zeroed.data.tolist() == [1.0, 0.0, 3.0, 0.0, 4.0]


def test_two_labels_are_kept_and_mapped(tmp_path: Path) -> None:
    text = "7 1:1\n3 2:1 4:1\n5 3:1\n7 4:1\n"
    rows = rows_of(tmp_path, text, TextOptions(labels=(7.0, 3.0)))
    assert rows.labels.tolist() == [-1.0, 1.0, -1.0]
    assert rows.indices.tolist() == [0, 1, 3, 3]
    assert rows.indptr.tolist() == [0, 1, 3, 4]


def test_labels_are_recorded_as_they_were_met(tmp_path: Path) -> None:
    rows_of(tmp_path, "3 1:1\n1 1:1\n7 1:1\n3 1:1\n")
    with CsrFile(tmp_path / "a.h5") as data:
        assert data.attributes["label_values"].tolist() == [1.0, 3.0, 7.0]
        assert "a.svm (24 bytes of text, crc32 " in data.attributes["source"]


def test_columns_beyond_the_given_number_are_refused_or_clipped(tmp_path: Path) -> None:
    text = "1 1:1 9:1\n1 3:1\n1 9:2\n"
    with pytest.raises(DataError, match=r"(?s)feature 9 of 8.*line 1 of.*--features 9"):
        rows_of(tmp_path, text, TextOptions(n_features=8))
    rows = rows_of(tmp_path, text, TextOptions(n_features=8, clip=True))
    assert rows.indptr.tolist() == [0, 1, 2, 2]
    assert rows.indices.tolist() == [0, 2]
    with CsrFile(tmp_path / "a.h5") as data:
        assert data.n_features == 8


def test_packed_text_and_standard_input_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = b"1 1:1\n-1 2:1\n"
    (tmp_path / "b.gz").write_bytes(gzip.compress(text))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(text))))
    done = convert([str(tmp_path / "b.gz"), "-"], tmp_path / "a.h5", TextOptions())
    assert (done.rows, done.nonzeros, done.bytes) == (4, 4, 2 * len(text))
    with CsrFile(tmp_path / "a.h5") as data:
        assert data.read(0, 4).indices.tolist() == [0, 1, 0, 1]


def test_other_files_are_not_taken_for_text(tmp_path: Path) -> None:
    make_sample(1).write(tmp_path / "b.h5")
    with pytest.raises(DataError, match=r"b\.h5 is HDF5, not libsvm text"):
        convert([str(tmp_path / "b.h5")], tmp_path / "a.h5", TextOptions())
    with pytest.raises(MissingInputError, match="does not exist"):
        convert([str(tmp_path / "none")], tmp_path / "a.h5", TextOptions())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["b.svm", "b.svm.gz"])
def test_rows_survive_the_way_to_text_and_back(seed: int, name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    sample = make_sample(seed, n=80, d=50)
    # Mix whole numbers with floats of all sizes, zeros of both signs among them.
    sizes = rng.integers(-38, 38, len(sample.data))
    sample.data[:] = sample.data * 10.0**sizes
    sample.data[rng.random(len(sample.data)) < 0.2] = 0.0
    sample.data[rng.random(len(sample.data)) < 0.1] = -0.0
    if seed % 2:
        sample.data[:] = rng.integers(-5, 99, len(sample.data))
    path = sample.write(tmp_path / "a.h5", row_scaling="unit")
    with CsrFile(path) as data:
        size = export(data, tmp_path / name)
    text = (tmp_path / name).read_bytes()
    assert len(gzip.decompress(text) if name.endswith(".gz") else text) == size
    convert([str(tmp_path / name)], tmp_path / "b.h5", TextOptions(n_features=50))
    with CsrFile(path) as data, CsrFile(tmp_path / "b.h5") as back:
        assert back.n_features == 50
        mine, other = data.read(0, 80, np.float32, scaled=False), back.read(0, 80, np.float32)
    for part in ("indptr", "indices", "data", "labels"):
        assert getattr(mine, part).tobytes() == getattr(other, part).tobytes(), part


def test_whole_numbers_are_written_without_a_point(tmp_path: Path) -> None:
    text = "1 1:1 3:99\n-1 2:0.1 4:2\n0.5\n"
    rows_of(tmp_path, text)
    with CsrFile(tmp_path / "a.h5") as data:
        export(data, tmp_path / "b.svm")
        assert (tmp_path / "b.svm").read_text() == text
        export(data, tmp_path / "b.svm", first_index=0)
        assert (tmp_path / "b.svm").read_text().startswith("1 0:1 2:99\n")


@pytest.mark.rates
def test_speed_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    columns = np.cumsum(rng.integers(1, 16, (100_000, 14)), axis=1)
    lines = ["-1 " + " ".join(f"{column}:1" for column in row) for row in columns.tolist()]
    (tmp_path / "a.svm").write_text("\n".join(lines))
    begin = time.process_time()
    done = convert([str(tmp_path / "a.svm")], tmp_path / "a.h5", TextOptions())
    seconds = time.process_time() - begin
    assert done.rows == 100_000
    with capsys.disabled():
        print(f"\nlibsvm text like a9a: {done.bytes / 1e6 / seconds:.0f} MB/s of processor time")
