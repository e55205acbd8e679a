"""Streaming FTRL does what its formulas say, learns in a pass, and leaves a model that agrees."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpips.apps.linear import scoring
from mpips.apps.linear.ftrl import FtrlLinear
from mpips.apps.linear.kernels.stream import add_gradient
from mpips.apps.linear.stream import StreamLinear
from mpips.config import parse
from mpips.errors import ConfigError, DataError, MpipsError
from mpips.files.csr import CsrFile, CsrWriter
from mpips.files.model import Model, read_model
from mpips.node.folder import RunFolder
from mpips.node.local import run_local
from mpips.node.shard import Shard

COLUMNS = 40


def write(path: Path, rng: np.random.Generator, rows: int, columns: int = COLUMNS) -> Path:
    """Write rows of 0/1 features whose labels follow a logistic model; some rows are empty."""
    w = np.random.default_rng(3).normal(size=columns) * 1.5
    dense = (rng.random((rows, columns)) < 0.15) * 1.0
    dense[::17] = 0
    positive = rng.random(rows) < 1 / (1 + np.exp(-(dense @ w)))
    with CsrWriter(path, n_features=columns) as writer:
        nnz = np.nonzero(dense)[1]
        writer.append((dense > 0).sum(axis=1), nnz, np.ones(len(nnz)), positive)
    return path


def train(data: Path, *settings: str, folder: Path | None = None) -> dict[str, Any]:
    """Train in this process, and return the result."""
    config = parse("", "", [f"data.train={data}", "model.solver=ftrl", *settings])
    return run_local(FtrlLinear, config, RunFolder(folder, config) if folder else None)


def stream(
    path: Path, rows: int, alpha: float, l1: float, ahead: int = 2, piece: int = 10**9
) -> tuple[np.ndarray, float]:
    """Return weights and mean progressive loss of one pass, written out without any server."""
    beta, l2 = 1.0, 0.25
    with CsrFile(path) as data:
        part = data.read(0, data.n_rows, classes=(0.0, 1.0))
        count, columns = data.n_rows, data.n_features
    dense = np.zeros((count, columns))
    dense[np.repeat(np.arange(count), np.diff(part.indptr)), part.indices] = part.data
    z, n = np.zeros(columns), np.zeros(columns)

    def weights() -> np.ndarray:
        step = -(z - np.sign(z) * l1) / ((beta + np.sqrt(n)) / alpha + l2)
        return np.where(np.abs(z) <= l1, 0.0, step)

    def learn(g: np.ndarray) -> None:
        nonlocal z, n
        z = z + g - (np.sqrt(n + g * g) - np.sqrt(n)) / alpha * weights()
        n = n + g * g

    loss, begins = 0.0, range(0, count, rows)
    waiting: list[np.ndarray] = []
    for number, begin in enumerate(begins):
        # The pull of this minibatch was sent before the last one's push, unless only one is, or
        # that was of the task before.
        x, y = dense[begin : begin + rows], part.labels[begin : begin + rows]
        if waiting and (ahead == 1 or number % piece == 0):
            learn(waiting.pop())
        w = weights()
        if waiting:
            learn(waiting.pop())
        agreement = y * (x @ w)
        loss += np.log1p(np.exp(-agreement)).sum()
        waiting.append(-(y / (1 + np.exp(agreement))) @ x)
    learn(waiting.pop())
    return weights(), loss / count


@pytest.mark.parametrize(("minibatch", "minibatches"), [(4, 108), (50, 9), (430, 1)])
def test_one_worker_gives_what_a_serial_program_gives(
    minibatch: int, minibatches: int, rng: np.random.Generator, tmp_path: Path
) -> None:
    # Few rows have few of the columns: what is pushed and what is pulled then differ.
    data = write(tmp_path / "a.h5", rng, 430)
    settings = [f"model.minibatch={minibatch}", "model.alpha=0.2", "model.l1=2.0", "model.l2=0.25"]
    result = train(data, *settings, "run.servers=2", folder=tmp_path / "run")
    w, loss = stream(data, minibatch, 0.2, 2.0)
    model = read_model(tmp_path / "run" / "model.h5")
    assert model.weights is not None
    # The servers' sums are float32.
    np.testing.assert_allclose(model.weights, w, rtol=1e-4, atol=1e-6)
    assert result["progressive_logloss"] == pytest.approx(loss, rel=1e-6)
    assert result["nonzeros"] == np.count_nonzero(w) > 0
    assert result["iterations"] == minibatches


def test_the_gradient_is_the_derivative_of_the_loss(rng: np.random.Generator) -> None:
    lengths = rng.integers(0, 5, 30)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    columns = rng.integers(0, 8, indptr[-1]).astype(np.int32)
    values, labels = rng.normal(size=len(columns)), rng.choice([-1.0, 1.0], 30)
    w = rng.normal(size=8).astype(np.float32)
    dense = np.zeros((30, 8))
    np.add.at(dense, (np.repeat(np.arange(30), lengths), columns), values)
    gradient = np.full(8, 0.5)
    loss = add_gradient(indptr, columns, values, labels, w, gradient)
    margins = dense @ w.astype(np.float64)
    assert loss == pytest.approx(scoring.losses(margins, labels).sum())
    expected = 0.5 - (labels / (1 + np.exp(labels * margins))) @ dense
    np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("margin", "loss", "slope"), [(1e30, 0.0, 0.0), (-1e30, 1e30, -1.0)])
def test_huge_margins_give_finite_losses_and_gradients(
    margin: float, loss: float, slope: float
) -> None:
    gradient, w = np.zeros(1), np.array([margin], np.float32)
    one = np.ones(1)
    found = add_gradient(np.array([0, 1]), np.zeros(1, np.int32), one, one, w, gradient)
    assert (found, gradient[0]) == (pytest.approx(loss), slope)


def test_a_pass_learns_and_more_passes_learn_more(rng: np.random.Generator, tmp_path: Path) -> None:
    data, test = write(tmp_path / "a.h5", rng, 3000), write(tmp_path / "t.h5", rng, 1000)
    once = train(data, f"data.test={test}")
    often = train(data, f"data.test={test}", "model.passes=4")
    # The loss of no model at all is log 2.
    assert often["logloss"] < once["logloss"] < once["progressive_logloss"] < 0.6 < np.log(2)
    assert once["auc"] > 0.8
    # The first pass alone is honest about new rows, and it is the same.
    assert often["progressive_logloss"] == once["progressive_logloss"]
    assert (once["passes"], often["passes"], often["iterations"]) == (1, 4, 120)


def test_a_large_l1_leaves_no_weights(rng: np.random.Generator, tmp_path: Path) -> None:
    result = train(write(tmp_path / "a.h5", rng, 300), "model.l1=300.0")
    assert result["nonzeros"] == 0
    assert result["progressive_logloss"] == pytest.approx(np.log(2))


@pytest.mark.parametrize("workers", [1, 3])
def test_each_row_is_streamed_once_whoever_streams_it(
    workers: int, rng: np.random.Generator, tmp_path: Path
) -> None:
    data, test = write(tmp_path / "a.h5", rng, 1000), write(tmp_path / "t.h5", rng, 500)
    result = train(data, f"data.test={test}", f"run.workers={workers}", "run.logical_workers=3",
                   "run.servers=2", "model.minibatch=1000")  # fmt: skip
    assert result["iterations"] == 3
    # Nobody has seen another's push: all rows met the model without weights.
    assert result["progressive_logloss"] == pytest.approx(np.log(2))
    assert result["logloss"] < np.log(2)


def test_logical_workers_without_rows_do_nothing(rng: np.random.Generator, tmp_path: Path) -> None:
    data, test = write(tmp_path / "a.h5", rng, 3), write(tmp_path / "t.h5", rng, 2)
    result = train(data, f"data.test={test}", "run.logical_workers=8", "model.minibatch=1")
    assert result["iterations"] == 3


def test_the_saved_model_measures_as_the_run_did_to_the_last_bit(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    data, test = write(tmp_path / "a.h5", rng, 700), write(tmp_path / "t.h5", rng, 301)
    result = train(data, f"data.test={test}", "run.logical_workers=3", folder=tmp_path / "run")
    model = read_model(tmp_path / "run" / "model.h5")
    margins, labels = scoring.score_file(test, model)
    assert scoring.logloss(margins, labels) == result["logloss"]
    assert scoring.auc(margins, labels) == result["auc"]
    assert len(model.nonzeros()[0]) == result["nonzeros"] == json.loads(model.stats)["nonzeros"]
    assert (model.label_values, model.row_scaling) == ((0.0, 1.0), "none")
    assert "ftrl" in model.config


def test_test_data_of_another_key_space_is_refused_before_the_work(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "a.h5", rng, 30)
    test = write(tmp_path / "t.h5", rng, 30, COLUMNS + 1)
    monkeypatch.delattr(StreamLinear, "stream")
    with pytest.raises(MpipsError, match="41 features, the model 40") as caught:
        train(data, f"data.test={test}")
    assert caught.value.exit_code == DataError.exit_code


def test_sequential_mode_is_refused(rng: np.random.Generator, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="eventual"):
        train(write(tmp_path / "a.h5", rng, 30), "sync.mode=sequential")


@pytest.mark.parametrize(("rows", "batch"), [(0, 5), (23, 5), (23, 23), (23, 100), (40, 1)])
def test_minibatches_are_the_rows_with_columns_renumbered(
    rows: int, batch: int, rng: np.random.Generator, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("mpips.node.shard.READ_ROWS", 10)
    # Wide keys, of which many have the same low bits.
    lengths = rng.integers(0, 6, rows)
    columns = [np.sort(rng.choice(9, n, replace=False)) * 2**33 for n in lengths]
    indices = np.concatenate([np.zeros(0, np.int64), *columns])
    with CsrWriter(tmp_path / "a.h5", n_features=2**40) as writer:
        writer.append(lengths, indices, rng.normal(size=len(indices)), rng.integers(0, 2, rows))
    begin, end = min(rows, 2), rows
    with CsrFile(tmp_path / "a.h5") as data:
        whole = data.read(begin, end, classes=data.two_classes())
        batches = list(Shard(data, begin, end).minibatches(batch))
    assert [len(b.labels) for b in batches[:-1]] == [batch] * (len(batches) - 1)
    for b in batches:
        assert b.keys.dtype == np.uint64
        assert (b.keys[1:] > b.keys[:-1]).all()
        assert set(b.columns.tolist()) == set(range(len(b.keys)))
        assert (b.indptr[0], b.indptr[-1]) == (0, len(b.columns))
    join = [np.concatenate([np.zeros(0), *parts]) for parts in (
        [b.keys[b.columns] for b in batches], [b.values for b in batches],
        [b.labels for b in batches], [np.diff(b.indptr) for b in batches])]  # fmt: skip
    for found, expected in zip(join, (whole.indices, whole.data, whole.labels,
                                      np.diff(whole.indptr)), strict=True):  # fmt: skip
        np.testing.assert_array_equal(found, expected)


def test_the_model_has_the_names_of_the_features(rng: np.random.Generator, tmp_path: Path) -> None:
    with CsrWriter(tmp_path / "a.h5", n_features=2, names=["age", "income"]) as writer:
        writer.append(np.array([1, 1]), np.array([0, 1]), np.ones(2), np.array([0, 1]))
    train(tmp_path / "a.h5", folder=tmp_path / "run")
    model: Model = read_model(tmp_path / "run" / "model.h5")
    assert model.names == ["age", "income"]
