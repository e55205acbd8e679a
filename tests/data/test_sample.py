"""The committed sample is what data/README.md says, and fit for an honest test."""

import functools
import hashlib
import json
import re
import tomllib
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest

FOLDER = Path(__file__).parents[2] / "data"
FILES = ("debian-train.h5", "debian-test.h5")
README = (FOLDER / "README.md").read_text(encoding="utf-8")
DATASETS = {
    "X/data": "uint8",
    "X/indices": "int32",
    "X/indptr": "int64",
    "obs/label": "int8",
    "obs/source_hash": "uint64",
    "var/_index": "S24",
}


@functools.cache
def read(name: str) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Return all arrays and the root's attributes of a file, texts decoded."""
    with h5py.File(FOLDER / name) as file:
        arrays = {key: file[key][:] for key in DATASETS}
        noted = dict(file.attrs)
    texts = {key: value.decode() for key, value in noted.items() if isinstance(value, bytes)}
    return arrays, noted | texts


def readme_digests() -> dict[str, str]:
    """Return the SHA-256 of each file that the README names."""
    return {name: digest for digest, name in re.findall(r"^ +([0-9a-f]{64})  (\S+)$", README, re.M)}


def test_readme_has_the_digests_of_all_files() -> None:
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in FOLDER.glob("*.h5")
    }
    assert readme_digests() == files
    assert set(files) == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_readme_has_the_counts_of_the_file(name: str) -> None:
    line = next(line for line in README.splitlines() if line.startswith(f"| `{name}`"))
    said = [int(number.replace(",", "")) for number in re.findall(r"\| ([\d,]+) ", line)]
    arrays, attributes = read(name)
    assert said == [
        attributes["n"],
        attributes["d"],
        attributes["nnz"],
        int(arrays["X/data"].sum(dtype=np.int64)),
        int(arrays["obs/label"].sum(dtype=np.int64)),
        len(set(arrays["obs/source_hash"].tolist())),
        (FOLDER / name).stat().st_size,
    ]


@pytest.mark.parametrize("name", FILES)
def test_layout_is_that_of_every_data_file(name: str) -> None:
    _, attributes = read(name)
    assert attributes["encoding-type"] == "anndata"
    assert attributes["encoding-version"] == "0.1.0"
    assert attributes["format"] == "mpips-data/1"
    assert attributes["row_scaling"] == "unit"
    assert attributes["label_values"].tolist() == [0, 1]
    with h5py.File(FOLDER / name) as file:
        assert file["X"].attrs["encoding-type"] == "csr_matrix"
        assert file["X"].attrs["shape"].tolist() == [attributes["n"], attributes["d"]]
        for key, dtype in DATASETS.items():
            dataset = file[key]
            assert dataset.dtype == np.dtype(dtype), key
            assert (dataset.compression, dataset.shuffle, dataset.fletcher32) == (
                "gzip",
                True,
                True,
            )


@pytest.mark.parametrize("name", FILES)
def test_attributes_have_the_digests_of_all_arrays(name: str) -> None:
    arrays, attributes = read(name)
    digests = {
        key: "sha256:" + hashlib.sha256(a.tobytes()).hexdigest() for key, a in arrays.items()
    }
    assert json.loads(attributes["checksums"]) == digests


@pytest.mark.parametrize("name", FILES)
def test_attributes_name_no_host_and_no_folder(name: str) -> None:
    # A list file's own name begins with the mirror's host and has underscores for slashes.
    _, attributes = read(name)
    said = attributes["source"] + attributes["command"]
    assert "://" not in said
    assert not re.search(r"_|\.(org|com|net)\b|(^|\s)/", attributes["source"])
    assert attributes["command"] == "python data/make_debian.py"


@pytest.mark.parametrize("name", FILES)
def test_rows_are_sorted_in_range_and_not_empty(name: str) -> None:
    arrays, attributes = read(name)
    indices, indptr = arrays["X/indices"], arrays["X/indptr"]
    assert indptr.shape == (attributes["n"] + 1,)
    assert indptr[0] == 0
    assert indptr[-1] == len(indices) == len(arrays["X/data"]) == attributes["nnz"]
    assert (np.diff(indptr) > 0).all()
    assert indices.min() >= 0
    assert indices.max() < attributes["d"]
    assert arrays["X/data"].min() >= 1

    # Columns rise everywhere but where a row begins.
    rises = np.diff(indices) > 0
    rises[indptr[1:-1] - 1] = True
    assert rises.all()


@pytest.mark.parametrize("name", FILES)
def test_both_classes_are_there_and_mixed(name: str) -> None:
    arrays, attributes = read(name)
    label = arrays["obs/label"]
    assert label.shape == (attributes["n"],)
    assert np.isin(label, [0, 1]).all()
    assert 0.15 < label.mean() < 0.25

    # Rows are in random order: every twentieth of a file has its share of libraries.
    shares = np.array([part.mean() for part in np.array_split(label, 20)])
    assert (np.abs(shares - label.mean()) < 0.1).all()


def test_no_source_package_is_on_both_sides() -> None:
    train, test = (read(name)[0]["obs/source_hash"] for name in FILES)
    assert not set(train.tolist()) & set(test.tolist())
    assert (train % np.uint64(5) != 0).all()
    assert (test % np.uint64(5) == 0).all()


def test_both_files_have_one_vocabulary_of_plain_words() -> None:
    (train, _), (test, _) = (read(name) for name in FILES)
    words = [word.decode() for word in train["var/_index"]]
    assert (train["var/_index"] == test["var/_index"]).all()
    assert words == sorted(set(words))
    assert all(re.fullmatch("[a-z]{2,24}", word) for word in words)
    assert {"library", "header"} <= set(words)
    assert "dev" not in words


def test_each_word_is_used_by_two_training_sources() -> None:
    arrays, attributes = read("debian-train.h5")
    source = np.repeat(arrays["obs/source_hash"], np.diff(arrays["X/indptr"]))
    column = arrays["X/indices"]
    least = np.full(attributes["d"], np.iinfo(np.uint64).max, np.uint64)
    most = np.zeros(attributes["d"], np.uint64)
    np.minimum.at(least, column, source)
    np.maximum.at(most, column, source)
    assert (least < most).all()


def test_reference_belongs_to_the_files() -> None:
    reference = tomllib.loads((FOLDER / "reference.toml").read_text(encoding="utf-8"))
    assert reference["sha256"] == readme_digests()

    # All weights are zero from lambda_max on: it is the largest gradient of the loss at zero.
    arrays, attributes = read("debian-train.h5")
    indptr = arrays["X/indptr"]
    counts = arrays["X/data"].astype(np.float64)
    lengths = np.sqrt(np.add.reduceat(counts**2, indptr[:-1]))
    signs = np.where(arrays["obs/label"] == 1, 0.5, -0.5)
    cells = counts * np.repeat(signs / lengths, np.diff(indptr))
    gradient = np.bincount(arrays["X/indices"], cells, attributes["d"])
    assert reference["lambda_max"] == pytest.approx(np.abs(gradient).max(), rel=1e-12)


def test_reference_is_proven_and_plausible() -> None:
    reference = tomllib.loads((FOLDER / "reference.toml").read_text(encoding="utf-8"))
    optima = reference["optimum"]
    assert [optimum["lambda"] for optimum in optima] == [10.0, 3.0, 1.0]
    for optimum in optima:
        assert 0 <= optimum["duality_gap"] <= 1e-8 * optimum["f_star"]
        assert optimum["f_star"] <= optimum["liblinear_f"] + optimum["duality_gap"]

    # A smaller penalty has a smaller minimum and more weights; at weights zero F is n log 2.
    minima = [50511 * np.log(2.0)] + [optimum["f_star"] for optimum in optima]
    assert minima == sorted(minima, reverse=True)
    weights = [optimum["nonzeros"] for optimum in optima]
    assert weights == sorted(weights)


def test_readme_has_the_optima_of_the_reference() -> None:
    reference = tomllib.loads((FOLDER / "reference.toml").read_text(encoding="utf-8"))
    for optimum in reference["optimum"]:
        line = (
            f"| {optimum['lambda']:g} | {optimum['f_star']:.6f} | {optimum['duality_gap']:.0e} "
            f"| {optimum['nonzeros']} | {optimum['test_logloss']:.5f} | {optimum['test_auc']:.5f} |"
        )
        assert line in README


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_anndata_opens_the_file(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        anndata = pytest.importorskip("anndata")
        opened = anndata.read_h5ad(FOLDER / name)
    arrays, attributes = read(name)
    assert opened.shape == (attributes["n"], attributes["d"])
    assert (opened.X.indices == arrays["X/indices"]).all()
    assert (opened.obs["label"].to_numpy() == arrays["obs/label"]).all()
    assert opened.var_names[[0, -1]].tolist() == [
        word.decode() for word in arrays["var/_index"][[0, -1]]
    ]
