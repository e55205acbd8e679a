"""The exact solver reaches the optimum, with the same bits whoever computes."""

import itertools
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpips.apps.linear import exact, scoring
from mpips.apps.linear.app import violations
from mpips.apps.linear.finish import MODEL_FILE
from mpips.files.model import Model, read_model
from tests.apps.linear_problems import (
    Floats,
    Problem,
    certify,
    make_labels,
    make_matrix,
    run,
    solve_serially,
    write_problem,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    """A problem of 300 rows and 40 columns."""
    matrix = make_matrix(1)
    folder = tmp_path_factory.mktemp("linear")
    return write_problem(folder / "train.h5", matrix, make_labels(1, matrix))


def weights(
    folder: Path, problem: Problem | Path, l1: float, **options: Any
) -> tuple[Floats, dict[str, Any]]:
    """Run a job; return the weights that it has saved, and its result."""
    result = run(problem, l1, folder=folder, **options)
    found = read_model(folder / MODEL_FILE).weights
    assert found is not None
    return found, result


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_result_has_the_bits_of_a_serial_program(
    tmp_path: Path, problem: Problem, workers: int
) -> None:
    w, result = weights(tmp_path, problem, 1.0, workers=workers, block=12)
    expected, objective, steps = solve_serially(problem.path, 1.0, parts=4, block=12)
    assert steps > 20
    assert w.tobytes() == expected.tobytes()
    assert (result["objective"], result["iterations"]) == (objective, steps)


def test_number_of_servers_does_not_change_a_bit(tmp_path: Path, problem: Problem) -> None:
    one, _ = weights(tmp_path / "1", problem, 3.0, servers=1)
    three, _ = weights(tmp_path / "3", problem, 3.0, servers=3)
    assert one.tobytes() == three.tobytes()


@pytest.mark.parametrize("l1", [10.0, 1.0, 0.1])
def test_objective_is_the_optimum(tmp_path: Path, problem: Problem, l1: float) -> None:
    w, result = weights(tmp_path, problem, l1, tolerance=1e-9)
    assert result["converged"]
    assert problem.objective(w, l1) == pytest.approx(result["objective"], rel=1e-12)
    assert certify(problem, w, l1) <= 1e-8
    assert result["nonzeros"] == np.count_nonzero(w)


def test_gap_bounds_the_distance_to_the_optimum(problem: Problem) -> None:
    optimum = run(problem, 1.0, tolerance=1e-9)["objective"]
    for passes in (1, 3):
        result = run(problem, 1.0, tolerance=1e-12, passes=passes, block=8)
        assert (result["converged"], result["passes"]) == (False, passes)
        assert (result["objective"] - optimum) / result["objective"] <= result["gap"]


@pytest.mark.parametrize("block", [3, 16])
def test_objective_never_rises(tmp_path: Path, problem: Problem, block: int) -> None:
    run(problem, 1.0, block=block, tolerance=1e-3, folder=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    objectives = [line["objective"] for line in lines if line["kind"] == "progress"]
    assert len(objectives) > 3
    assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(objectives))


def test_blocks_of_many_segments_reach_the_optimum(
    monkeypatch: pytest.MonkeyPatch, problem: Problem
) -> None:
    whole = run(problem, 1.0, servers=3, tolerance=1e-9)
    monkeypatch.setattr(exact, "SEGMENT_KEYS", 20)
    parts = run(problem, 1.0, servers=3, tolerance=1e-9)
    assert parts["iterations"] > whole["iterations"]
    assert parts["objective"] == pytest.approx(whole["objective"], rel=1e-9)


def test_a_block_step_bothers_the_server_of_its_segment_alone(
    monkeypatch: pytest.MonkeyPatch, problem: Problem
) -> None:
    monkeypatch.setattr(exact, "SEGMENT_KEYS", 5)
    result = run(problem, 3.0, servers=3, passes=3)
    # One push a logical worker for each step, each check, and the scales at the start.
    pushes = 4 * (result["iterations"] + result["checks"] + 1)
    assert result["counters"]["server_pushes"] == pushes


def test_violation_is_the_distance_from_the_optimality_condition() -> None:
    w, g = np.array([0.0, 0.0, 2.0, -2.0]), np.array([0.5, -3.0, -0.5, 1.0])
    assert violations(w, g, 1.0).tolist() == [0.0, 2.0, 0.5, 0.0]


def test_more_logical_workers_than_rows_is_fine(tmp_path: Path) -> None:
    matrix = make_matrix(2, n=5, d=12)
    labels = np.array([1.0, -1.0, 1.0, 1.0, -1.0])
    small = write_problem(tmp_path / "small.h5", matrix, labels)
    many, one = run(small, 0.1, logical=9, workers=3), run(small, 0.1, logical=1, workers=1)
    assert many["converged"]
    assert many["objective"] == pytest.approx(one["objective"], rel=1e-5)


def test_large_penalty_leaves_all_weights_at_zero(problem: Problem) -> None:
    result = run(problem, 1e4)
    assert (result["converged"], result["nonzeros"], result["iterations"]) == (True, 0, 0)
    assert result["objective"] == pytest.approx(300 * np.log(2))
    assert result["gap"] <= 1e-15


def test_without_penalty_the_gradient_vanishes(tmp_path: Path, problem: Problem) -> None:
    w, result = weights(tmp_path, problem, 0.0, tolerance=1e-8)
    assert result["converged"]
    z = problem.matrix.toarray() * problem.labels[:, None]
    assert np.abs(z.T @ (1 / (1 + np.exp(z @ w)))).max() < 1e-5


def test_test_data_is_scored_alike_by_any_number_of_workers(
    tmp_path: Path, problem: Problem
) -> None:
    matrix = make_matrix(11, n=90)
    test = write_problem(tmp_path / "test.h5", matrix, make_labels(1, matrix))
    w, first = weights(tmp_path / "run", problem, 1.0, test=test.path)
    margins, labels = scoring.score_file(test.path, read_model(tmp_path / "run" / MODEL_FILE))
    assert first["logloss"] == scoring.logloss(margins, labels)
    assert first["auc"] == scoring.auc(margins, labels)
    assert first["logloss"] == pytest.approx(np.logaddexp(0, -labels * (matrix @ w)).mean())
    assert first["auc"] > 0.55
    # With another number of parts the weights have other last digits.
    other = run(problem, 1.0, logical=3, test=test.path)
    assert other["logloss"] == pytest.approx(first["logloss"], rel=1e-3)


def test_saved_model_says_what_it_is(tmp_path: Path, problem: Problem) -> None:
    run(problem, 2.0, folder=tmp_path)
    model: Model = read_model(tmp_path / MODEL_FILE)
    assert (model.kind, model.n_features, model.label_values) == ("linear", 40, (-1.0, 1.0))
    assert tomllib.loads(model.config)["model"]["l1"] == 2.0
    stats, result = json.loads(model.stats), json.loads((tmp_path / "result.json").read_text())
    assert stats["objective"] == result["objective"]
    assert stats["logloss"] is None


@pytest.mark.slow
@pytest.mark.parametrize(("l1", "servers"), [(10.0, 1), (3.0, 3)])
def test_sample_reaches_its_reference(l1: float, servers: int) -> None:
    reference = tomllib.loads((ROOT / "data" / "reference.toml").read_text())
    optimum = next(one for one in reference["optimum"] if one["lambda"] == l1)
    result = run(ROOT / "data" / "debian-train.h5", l1, servers=servers,
                 test=ROOT / "data" / "debian-test.h5")
    assert result["converged"]
    assert result["objective"] == pytest.approx(optimum["f_star"], rel=1e-9)
    assert result["nonzeros"] == optimum["nonzeros"]
    assert result["logloss"] == pytest.approx(optimum["test_logloss"], rel=1e-4)
    assert result["auc"] == pytest.approx(optimum["test_auc"], rel=1e-4)
