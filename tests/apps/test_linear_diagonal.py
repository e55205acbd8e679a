"""The diagonal solver: features that never meet share a block, and the objective goes down."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from mpips.apps.linear.diagonal import order_features
from mpips.apps.linear.finish import MODEL_FILE
from mpips.apps.linear.shard import Shard
from mpips.files.csr import CsrRows
from mpips.files.model import read_model
from tests.apps.linear_problems import (
    Floats,
    Problem,
    make_labels,
    make_matrix,
    run,
    write_problem,
)


def make_fields(seed: int, n: int = 300, fields: int = 5, choices: int = 4) -> Floats:
    """Return rows that have one feature of each field, columns shuffled; the last is unused."""
    rng = np.random.default_rng(seed)
    matrix = np.zeros((n, fields * choices + 1))
    shuffled = rng.permutation(fields * choices)
    for field in range(fields):
        matrix[np.arange(n), shuffled[field * choices + rng.integers(0, choices, n)]] = 1.0
    return matrix


def as_rows(matrix: Floats, labels: Floats) -> CsrRows:
    """Return a dense matrix as rows."""
    rows, columns = np.nonzero(matrix)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(matrix)))])
    return CsrRows(indptr, columns.astype(np.int32), matrix[rows, columns], labels)


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    """A problem of categories: 5 fields of 4, and a column that is empty."""
    matrix = make_fields(1)
    labels = make_labels(1, matrix)
    return write_problem(tmp_path_factory.mktemp("diagonal") / "train.h5", matrix, labels)


def test_features_of_a_block_never_meet_in_the_sample() -> None:
    for seed in range(5):
        matrix = make_matrix(seed).toarray()
        permutation, starts = order_features(as_rows(matrix, np.ones(len(matrix))), 40)
        assert sorted(permutation.tolist()) == list(range(40))
        for begin, end in itertools.pairwise(starts.tolist()[:-1]):
            assert (matrix[:, permutation[begin:end]] != 0).sum(axis=1).max() == 1


def test_categories_of_a_field_are_as_few_blocks_as_there_are_fields() -> None:
    matrix = make_fields(2)
    _, starts = order_features(as_rows(matrix, np.ones(len(matrix))), matrix.shape[1])
    # Each row has a feature of each field, so fewer blocks cannot be; the last is the unused.
    assert 5 <= len(starts) - 2 <= 7
    assert starts[-1] - starts[-2] == 1


def test_diagonal_model_lies_above_the_loss_though_features_meet() -> None:
    rng = np.random.default_rng(3)
    matrix = make_matrix(3, 80, 30)
    labels = make_labels(3, matrix)
    z = matrix.toarray() * labels[:, None]
    shard = Shard(as_rows(matrix.toarray(), labels), 30)
    block = shard.pack(np.arange(30))
    for radius in (1e-3, 0.3, 3.0):
        shard.margins[:] = z @ rng.normal(size=30)
        g, u = block.diagonal(shard.margins, np.full(30, radius)).T
        now = np.logaddexp(0, -shard.margins).sum()
        for _ in range(50):
            d = radius * np.sign(rng.normal(size=30)) * rng.choice([0.2, 1.0])
            then = np.logaddexp(0, -shard.margins - z @ d).sum()
            assert then <= now + g @ d + u @ (d * d) / 2 + 1e-9
        np.testing.assert_allclose(g, -z.T @ (1 / (1 + np.exp(shard.margins))), atol=1e-12)


def test_diagonal_solver_reaches_the_optimum_of_the_exact_one(
    tmp_path: Path, problem: Problem
) -> None:
    expected = run(problem, 0.3, tolerance=1e-9)["objective"]
    result = run(problem, 0.3, solver="diagonal", tolerance=1e-5, folder=tmp_path)
    assert result["converged"]
    assert result["objective"] == pytest.approx(expected, rel=1e-6)
    # The weights are saved in the order of columns, not of blocks.
    model = read_model(tmp_path / MODEL_FILE)
    assert model.weights is not None
    assert problem.objective(model.weights, 0.3) == pytest.approx(result["objective"], rel=1e-12)
    assert model.permutation is not None
    assert (model.permutation != np.arange(21)).any()
    # The objective never rises from check to check.
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    objectives = [line["objective"] for line in lines if line["kind"] == "progress"]
    assert len(objectives) > 2
    assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(objectives))


def test_ranks_do_not_change_a_bit_of_the_diagonal_solver(
    tmp_path: Path, problem: Problem
) -> None:
    found = []
    for number, (workers, servers) in enumerate([(1, 1), (4, 1), (2, 3)]):
        folder = tmp_path / str(number)
        run(problem, 2.0, solver="diagonal", workers=workers, servers=servers, passes=6,
            folder=folder)
        weights = read_model(folder / MODEL_FILE).weights
        assert weights is not None
        assert weights.any()
        found.append(weights.tobytes())
    assert found[0] == found[1] == found[2]


def test_diagonal_solver_takes_parts_without_rows(tmp_path: Path) -> None:
    small = write_problem(tmp_path / "small.h5", make_fields(4, n=3), np.array([1.0, -1.0, 1.0]))
    result = run(small, 0.1, solver="diagonal", logical=5, workers=2, passes=40)
    assert result["objective"] < 3 * np.log(2)
