"""Models come back as they were written and are used on the right data only."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpips.errors import DataError
from mpips.files.csr import CsrFile
from mpips.files.model import Model, check_key_space, export_weights, read_model, write_model
from tests.files.samples import make_sample


def dense(size: int = 6) -> Model:
    """Return a dense model with all of its parts."""
    rng = np.random.default_rng(size)
    weights = rng.normal(size=size) * (rng.random(size) < 0.6)
    return Model(
        n_features=size,
        weights=weights,
        permutation=rng.permutation(size),
        row_scaling="unit",
        label_values=(1.0, 2.0),
        config="[run]\nseed = 7 # größer\n",
        stats='{"objective": 2.5}',
        names=[f"wort {i} ü" for i in range(size)],
    )


def sparse(width: int = 1) -> Model:
    """Return a sparse model with values of a width, one of them zero."""
    values = np.arange(3.0 * width).reshape(3, width) / 7
    keys = np.array([3, 2**40, 2**64 - 1], np.uint64)
    return Model(n_features=2**64, keys=keys, values=values[:, 0] if width == 1 else values)


@pytest.mark.parametrize("model", [dense(), dense(0), sparse(), sparse(3)])
def test_a_model_comes_back_as_it_was_written(model: Model, tmp_path: Path) -> None:
    if model.n_features > 2**63:
        model = dataclasses.replace(model, n_features=2**62)
    write_model(tmp_path / "m.h5", model)
    back = read_model(tmp_path / "m.h5")
    assert back.path == str(tmp_path / "m.h5")
    for field in dataclasses.fields(Model):
        mine, other = getattr(model, field.name), getattr(back, field.name)
        if isinstance(mine, np.ndarray):
            assert mine.tobytes() == other.tobytes()
            assert (mine.shape, mine.dtype) == (other.shape, other.dtype)
        elif field.name != "path":
            assert mine == other, field.name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": np.zeros(5)}, "/w has the shape"),
        ({"weights": np.full(6, np.nan)}, "weight 0 is not finite"),
        ({"weights": None}, "neither weights nor keys"),
        ({"permutation": np.array([0, 1, 2, 3, 4, 4])}, "/permutation is none"),
        ({"permutation": np.array([0, 1, 2, 3, 4, 6])}, "/permutation is none"),
        ({"permutation": np.array([0, 1, 2, 3, 4, -1])}, "/permutation is none"),
        ({"permutation": np.arange(5)}, "/permutation is none"),
        ({"names": ["a"]}, "1 names for 6 features"),
        ({"weights": None, "keys": np.array([2, 1], np.uint64), "values": np.ones(2)}, "not rise"),
        ({"weights": None, "keys": np.array([1], np.uint64), "values": np.ones(2)}, "belong"),
    ],
)
def test_a_model_that_makes_no_sense_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        write_model(tmp_path / "m.h5", dataclasses.replace(dense(), **changes))
    assert list(tmp_path.iterdir()) == []


def test_training_data_is_no_model_and_a_model_no_training_data(tmp_path: Path) -> None:
    path = make_sample(1).write(tmp_path / "a.h5")
    with pytest.raises(DataError, match="is no model: its format is mpips-data/1"):
        read_model(path)
    write_model(tmp_path / "m.h5", dense())
    with pytest.raises(DataError, match="its format is mpips-model/1"):
        CsrFile(tmp_path / "m.h5")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hash": "xxh3_64", "hash_bits": 24}, "the model uses xxh3_64, 24 bits"),
        ({"n_features": 39}, "has 40 features, the model 39"),
        ({"row_scaling": "unit"}, "row_scaling none, the model unit"),
    ],
)
def test_data_of_another_key_space_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = Model(n_features=40, weights=np.zeros(40), path="m.h5")
    with CsrFile(make_sample(1).write(tmp_path / "a.h5")) as data:
        check_key_space(model, data)
        check_key_space(dataclasses.replace(model, n_features=41), data)
        with pytest.raises(DataError, match=message) as caught:
            check_key_space(dataclasses.replace(model, **changes), data)
    assert caught.value.remedy == "Convert the data with --like m.h5."


def test_weights_are_written_a_line_each(tmp_path: Path) -> None:
    names = ["a", "b\tc", "d", "ü", "e"]
    weights = np.array([0.0, 0.1, 0.0, -2.0, 1e-300])
    path = tmp_path / "w.tsv"
    assert export_weights(Model(5, weights, names=names), path) == 3
    assert path.read_text() == "2\t0.1\tb c\n4\t-2.0\tü\n5\t1e-300\te\n"
    assert export_weights(Model(5, weights, names=names), path, 0) == 3
    assert path.read_text() == "1\t0.1\tb c\n3\t-2.0\tü\n4\t1e-300\te\n"
    assert export_weights(Model(5, weights), path) == 3
    assert path.read_text() == "2\t0.1\n4\t-2.0\n5\t1e-300\n"
    assert export_weights(Model(0, np.zeros(0)), path) == 0
    assert path.read_text() == ""
    # A sparse model's keys are no numbers of columns.
    assert export_weights(sparse(2), path) == 3
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    assert lines[2] == [str(2**64 - 1), repr(4 / 7), repr(5 / 7)]
