"""Data that breaks solvers: the exact one reaches a proven optimum all the same."""

from pathlib import Path

import numpy as np
import pytest

from mpips.apps.find import find_app
from mpips.apps.linear.finish import MODEL_FILE
from mpips.config import parse
from mpips.errors import ConfigError, MpipsError
from mpips.files.model import read_model
from mpips.node.local import run_local
from tests.apps.linear_problems import (
    Floats,
    certify,
    make_labels,
    make_matrix,
    run,
    write_problem,
)

Data = tuple[Floats, Floats]


def base() -> Data:
    """Return rows and labels that are easy."""
    matrix = make_matrix(21, n=240, d=24)
    return matrix.toarray(), make_labels(21, matrix)


def duplicate_columns() -> Data:
    """Return columns that are there three times: many optima, and a singular Hessian."""
    x, y = base()
    return np.hstack([x, x[:, :12], x[:, :12]]), y


def constant_and_empty_columns() -> Data:
    """Return two constant columns, of which one suffices, and one that is empty."""
    x, y = base()
    n = len(y)
    return np.hstack([x, np.ones((n, 1)), np.full((n, 1), 5.0), np.zeros((n, 1))]), y


def empty_rows() -> Data:
    """Return rows of which some have no feature."""
    x, y = base()
    x[::5] = 0.0
    return x, y


def wild_scales() -> Data:
    """Return columns of the size 1e-3, 1e3 and, rare, 1e5."""
    x, y = base()
    rng = np.random.default_rng(22)
    n = len(y)
    large, small = 1e3 * rng.normal(size=(n, 2)), 1e-3 * rng.normal(size=(n, 1))
    return np.hstack([x, large, small, 1e5 * (rng.random((n, 1)) < 0.02)]), y


def dense_low_rank() -> Data:
    """Return dense columns of a low rank, their sizes orders of magnitude apart."""
    rng = np.random.default_rng(23)
    x = rng.normal(size=(150, 8)) @ rng.normal(size=(8, 20)) * np.exp(2 * rng.normal(size=20))
    return x, np.where(x[:, 0] / x[:, 0].std() + rng.normal(size=150) > 0, 1.0, -1.0)


def few_positives() -> Data:
    """Return labels of which one in thirty is positive."""
    x, _ = base()
    y = -np.ones(len(x))
    y[::30] = 1.0
    return x, y


def separable() -> Data:
    """Return labels that a linear model explains completely: margins grow large."""
    x, _ = base()
    return x, np.where(x @ np.random.default_rng(24).normal(size=x.shape[1]) > 0, 1.0, -1.0)


def one_class_by_a_feature() -> Data:
    """Return a feature that gives the label away."""
    x, y = base()
    return np.hstack([x, 3.0 * (y[:, None] > 0)]), y


CASES = [duplicate_columns, constant_and_empty_columns, empty_rows, wild_scales, dense_low_rank,
         few_positives, separable, one_class_by_a_feature]


@pytest.mark.parametrize("l1", [5.0, 0.1])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_optimum_is_proven_for(case: object, l1: float, tmp_path: Path) -> None:
    x, y = case()  # type: ignore[operator]
    problem = write_problem(tmp_path / "train.h5", x, y)
    result = run(problem, l1, workers=1, logical=2, passes=200, folder=tmp_path / "run")
    assert result["converged"]
    w = read_model(tmp_path / "run" / MODEL_FILE).weights
    assert w is not None
    assert certify(problem, w, l1) <= 1e-5
    assert w[~x.any(axis=0)].tolist() == [0.0] * int((~x.any(axis=0)).sum())


def test_small_blocks_reach_the_optimum_of_data_with_wild_scales(tmp_path: Path) -> None:
    problem = write_problem(tmp_path / "train.h5", *wild_scales())
    small = run(problem, 5.0, block=9, workers=1, tolerance=1e-4)
    large = run(problem, 5.0, workers=1)
    assert small["converged"]
    assert small["objective"] == pytest.approx(large["objective"], rel=1e-4)


def test_data_without_any_feature_is_a_model_of_zeros(tmp_path: Path) -> None:
    problem = write_problem(tmp_path / "train.h5", np.zeros((6, 3)), np.array([1.0, -1.0] * 3))
    for solver in ("exact", "diagonal"):
        result = run(problem, 1.0, solver=solver)
        assert (result["converged"], result["nonzeros"]) == (True, 0)
        assert result["objective"] == pytest.approx(6 * np.log(2))


def test_test_data_with_more_features_is_refused(tmp_path: Path) -> None:
    x, y = base()
    train = write_problem(tmp_path / "train.h5", x[:, :10], y)
    test = write_problem(tmp_path / "test.h5", x, y)
    with pytest.raises(MpipsError, match="features"):
        run(train, 1.0, test=test.path)


@pytest.mark.parametrize("solver", ["exact", "diagonal"])
def test_block_solvers_refuse_to_run_ahead(tmp_path: Path, solver: str) -> None:
    problem = write_problem(tmp_path / "train.h5", *base())
    model = f'[model]\nsolver = "{solver}"\n[sync]\nmode = "eventual"'
    text = f'[data]\ntrain = "{problem.path}"\n{model}'
    config = parse(text, "")
    with pytest.raises(ConfigError, match="sequential"):
        run_local(find_app(config), config)


def test_no_training_data_is_a_wrong_config() -> None:
    config = parse("", "")
    with pytest.raises(ConfigError, match="training data"):
        run_local(find_app(config), config)
