"""FTRL whose steps workers take: one worker's pass is the serial one, however it is cut."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mpips.apps.find import find_app
from mpips.apps.linear.kernels.local import add_common, learn_rows
from mpips.apps.linear.local import LocalFtrlLinear
from mpips.config import parse
from mpips.files.csr import CsrFile, CsrWriter
from mpips.files.model import read_model
from mpips.node.app import Job
from mpips.node.folder import RunFolder
from mpips.node.local import run_local
from mpips.testing.cluster import Simulation
from mpips.testing.faults import CALM
from tests.apps.test_ftrl import stream, write

ALPHA, L1, L2 = 0.2, 2.0, 0.25


def configure(data, *settings):
    """Return the config of a job."""
    model = [f"model.alpha={ALPHA}", f"model.l1={L1}", f"model.l2={L2}"]
    return parse("", "", [f"data.train={data}", "model.solver=local-ftrl", *model, *settings])


def train(data, *settings, folder=None):
    """Train in this process, and return the result."""
    config = configure(data, *settings)
    return run_local(find_app(config), config, RunFolder(folder, config) if folder else None)


@pytest.mark.parametrize(("mode", "delay"), [("eventual", 0), ("bounded", 0), ("bounded", 3)])
@pytest.mark.parametrize("minibatch", [1, 7, 50, 430])
def test_one_worker_takes_the_steps_of_a_serial_program(
    minibatch: int, mode: str, delay: int, rng: np.random.Generator, tmp_path: Path
) -> None:
    # A worker that forgets what it has pushed just now takes other steps, unless all is in one.
    data = write(tmp_path / "a.h5", rng, 430)
    settings = [f"model.minibatch={minibatch}", f"sync.mode={mode}", "run.servers=2"]
    settings += [f"sync.max_delay={delay}"] if mode == "bounded" else []
    result = train(data, *settings, folder=tmp_path / "run")
    w, loss = stream(data, 1, ALPHA, L1, ahead=1)
    model = read_model(tmp_path / "run" / "model.h5")
    assert model.weights is not None
    np.testing.assert_allclose(model.weights, w, rtol=2e-4, atol=1e-5)
    assert result["progressive_logloss"] == pytest.approx(loss, rel=1e-5)
    assert result["nonzeros"] == np.count_nonzero(w) > 0
    assert result["iterations"] == -(-430 // minibatch)


def test_steps_over_minibatches_are_others(rng: np.random.Generator, tmp_path: Path) -> None:
    data = write(tmp_path / "a.h5", rng, 430)
    loss = train(data)["progressive_logloss"]
    assert stream(data, 50, ALPHA, L1)[1] > loss * 1.02


def test_pieces_and_passes_are_what_they_are_for_a_serial_program(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "a.h5", rng, 300)
    settings = ["model.minibatch=10", "model.passes=2"]
    whole = train(data, *settings, folder=tmp_path / "whole")
    monkeypatch.setattr("mpips.apps.linear.stream.PIECE_ROWS", 70)
    parts = train(data, *settings, folder=tmp_path / "parts")
    first, second = (read_model(tmp_path / name / "model.h5") for name in ("whole", "parts"))
    np.testing.assert_allclose(first.weights, second.weights, rtol=1e-4, atol=1e-6)
    assert whole["progressive_logloss"] == pytest.approx(parts["progressive_logloss"], rel=1e-6)


def test_several_workers_learn_as_servers_steps_do_or_more(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    data, test = write(tmp_path / "a.h5", rng, 3000), write(tmp_path / "t.h5", rng, 1000)
    more = [f"data.test={test}", "run.workers=3", "run.servers=2"]
    local = train(data, *more)
    config = configure(data, *more, "model.solver=ftrl")
    remote = run_local(find_app(config), config)
    assert local["logloss"] < remote["logloss"] + 0.01
    assert local["progressive_logloss"] < remote["progressive_logloss"] + 0.01
    assert local["auc"] > 0.8


def test_pass_goes_on_when_a_worker_dies(rng: np.random.Generator, tmp_path: Path) -> None:
    data = write(tmp_path / "a.h5", rng, 900)
    settings = ["run.workers=3", "run.servers=2", "run.spares=1", "model.minibatch=20"]
    config = configure(data, *settings)
    calm = Simulation(find_app(config), config, 1, CALM)
    loss = calm.run()["progressive_logloss"]
    for share in (0.4, 0.7):
        kills = ((share * calm.network.now, 4),)
        simulation = Simulation(find_app(config), config, 1, replace(CALM, kills=kills))
        assert simulation.run()["progressive_logloss"] == pytest.approx(loss, rel=0.1)
        assert len(simulation.dead) == 1


@pytest.mark.parametrize(("workers", "rows"), [(1, 4000), (2, 500), (8, 125), (64, 100)])
def test_minibatches_are_as_large_as_the_others_allow(workers: int, rows: int) -> None:
    config = configure("a.h5", f"run.logical_workers={workers}")
    app = LocalFtrlLinear(Job(config, {"features": 5}))
    assert app.minibatch == rows


def test_changes_are_added_to_shared_keys_alone(rng: np.random.Generator) -> None:
    for n, m in ((0, 3), (3, 0), (40, 60), (60, 5), (1, 1)):
        keys, others = (np.sort(rng.choice(70, k, replace=False)).astype(np.uint64) for k in (n, m))
        change = rng.normal(size=(n, 2)).astype(np.float32)
        sums = rng.normal(size=(m, 2)).astype(np.float32)
        expected = sums.copy()
        for i, key in enumerate(others.tolist()):
            if key in keys.tolist():
                expected[i] += change[keys.tolist().index(key)]
        add_common(keys, change, others, sums)
        assert np.array_equal(sums, expected)


@pytest.mark.parametrize(("value", "loss"), [(1e15, 0.0), (-1e15, 0.95e15)])
def test_huge_margins_do_no_harm(value: float, loss: float) -> None:
    # A weight of 0.95, and then a row far on one side.
    sums = np.array([[-20.0, 1.0]], np.float32)
    found = learn_rows(np.array([0, 1]), np.zeros(1, np.int32), np.array([value], np.float32),
                       np.ones(1), sums, 0.1, 1.0, 1.0, 0.0)  # fmt: skip
    assert found == pytest.approx(loss)
    assert np.isfinite(sums).all()


def test_unpacked_data_gives_the_same_bits(rng: np.random.Generator, tmp_path: Path) -> None:
    data = write(tmp_path / "a.h5", rng, 430)
    with CsrFile(data) as file, CsrWriter(tmp_path / "b.h5", 40, packed=False) as writer:
        part = file.read(0, 430)
        writer.append(np.diff(part.indptr), part.indices, part.data, part.labels)
    for name in ("a", "b"):
        train(tmp_path / f"{name}.h5", folder=tmp_path / f"run-{name}")
    first, second = (read_model(tmp_path / f"run-{name}" / "model.h5") for name in ("a", "b"))
    assert first.weights is not None
    assert second.weights is not None
    assert first.weights.tobytes() == second.weights.tobytes()
