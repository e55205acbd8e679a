"""Streaming AdaGrad, plain and adapting to delays, does what the formulas say, and learns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpips.apps.find import find_app
from mpips.config import parse
from mpips.errors import ConfigError
from mpips.files.csr import CsrFile
from mpips.files.model import read_model
from mpips.node.app import Job
from mpips.node.folder import RunFolder
from mpips.node.local import run_local
from mpips.testing.cluster import Simulation
from tests.apps.test_ftrl import write

Array = np.ndarray[Any, Any]
SOLVERS = ["adagrad", "adarevision"]
ALPHA, BETA, L1 = 0.4, 0.5, 3.0


def train(data: Path, *settings: str, folder: Path | None = None) -> dict[str, Any]:
    """Train in this process, and return the result."""
    config = parse("", "", [f"data.train={data}", *settings])
    return run_local(find_app(config), config, RunFolder(folder, config) if folder else None)


def serial(path: Path, minibatch: int, revise: bool, ahead: int = 2) -> tuple[Array, float]:
    """Return weights and mean progressive loss of one pass, written out without any server."""
    with CsrFile(path) as data:
        part = data.read(0, data.n_rows, classes=(0.0, 1.0))
        count, columns = data.n_rows, data.n_features
    x = np.zeros((count, columns))
    x[np.repeat(np.arange(count), np.diff(part.indptr)), part.indices] = part.data
    l1 = L1 * minibatch / count
    w, total, z, top = (np.zeros(columns) for _ in range(4))

    def learn(g: Array, known: Array) -> None:
        nonlocal w, total, z, top
        missed = total - known if revise else 0.0
        before = ALPHA / (BETA + np.sqrt(top))
        grown = z + g * g + 2 * g * missed
        highest = np.maximum(grown, top)
        step = ALPHA / (BETA + np.sqrt(highest))
        moved = w - step * g + (before - step) * missed
        moved = np.sign(moved) * np.maximum(np.abs(moved) - step * l1, 0)
        # Columns that are not in the minibatch stay.
        w, z, top = (np.where(g == 0, a, b) for a, b in ((w, moved), (z, grown), (top, highest)))
        total = total + g

    loss, late = 0.0, []
    for begin in range(0, count, minibatch):
        rows, labels = x[begin : begin + minibatch], part.labels[begin : begin + minibatch]
        # These are pulled while the gradient before is still being computed, unless only one is.
        if late and ahead == 1:
            learn(*late.pop())
        pulled, known = w, total
        if late:
            learn(*late.pop())
        agreement = labels * (rows @ pulled)
        loss += np.log1p(np.exp(-agreement)).sum()
        late.append((-(labels / (1 + np.exp(agreement))) @ rows, known))
    learn(*late.pop())
    return w, loss / count


@pytest.mark.parametrize("minibatch", [3, 40, 430])
@pytest.mark.parametrize("solver", SOLVERS)
def test_one_worker_gives_what_a_serial_program_gives(
    solver: str, minibatch: int, rng: np.random.Generator, tmp_path: Path
) -> None:
    data = write(tmp_path / "a.h5", rng, 430)
    settings = [f"model.solver={solver}", f"model.minibatch={minibatch}", f"model.alpha={ALPHA}",
                f"model.beta={BETA}", f"model.l1={L1}"]  # fmt: skip
    result = train(data, *settings, "run.servers=2", folder=tmp_path / "run")
    w, loss = serial(data, minibatch, revise=solver == "adarevision")
    model = read_model(tmp_path / "run" / "model.h5")
    # The servers' state is float32.
    np.testing.assert_allclose(model.weights, w, rtol=1e-3, atol=1e-5)
    assert result["progressive_logloss"] == pytest.approx(loss, rel=1e-5)
    # The two solvers differ by far more than that where anything is late.
    other, _ = serial(data, minibatch, revise=solver == "adagrad")
    assert np.allclose(w, other, atol=0.01) == (minibatch == 430)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_pass_learns_and_more_passes_learn_more(
    solver: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    data, test = write(tmp_path / "a.h5", rng, 1600), write(tmp_path / "t.h5", rng, 700)
    settings = [f"data.test={test}", f"model.solver={solver}", "run.workers=2"]
    once, often = train(data, *settings), train(data, *settings, "model.passes=2")
    # The loss of no model at all is log 2.
    assert often["logloss"] < once["logloss"] < 0.65 < np.log(2)
    assert once["auc"] > 0.8
    assert 0.0 <= once["overlap"] <= 1.0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("solver", SOLVERS)
def test_streams_end_and_learn_whatever_the_network_does(
    solver: str, seed: int, rng: np.random.Generator, tmp_path: Path
) -> None:
    data, test = write(tmp_path / "a.h5", rng, 1000), write(tmp_path / "t.h5", rng, 500)
    config = parse("", "", [f"data.train={data}", f"data.test={test}", f"model.solver={solver}",
                            "run.workers=3", "run.servers=2", "model.minibatch=20"])  # fmt: skip
    result = Simulation(find_app(config), config, seed).run()
    # Each of three workers has a last minibatch that may be short.
    assert 50 <= result["iterations"] <= 52
    assert result["auc"] > 0.75


@pytest.mark.parametrize(
    ("passes", "minibatch", "share"), [(1, 10, 1 / 30), (2, 10, 1 / 60), (1, 1000, 1.0)]
)
@pytest.mark.parametrize("solver", SOLVERS)
def test_l1_counts_against_all_rows_of_all_passes(
    solver: str, passes: int, minibatch: int, share: float
) -> None:
    settings = [f"model.solver={solver}", f"model.passes={passes}", f"model.minibatch={minibatch}"]
    config = parse("", "", [*settings, "model.l1=6.0"])
    [table] = find_app(config)(Job(config, {"rows": 300, "features": 40})).tables()
    assert table.settings["l1"] == pytest.approx(6.0 * share)


@pytest.mark.parametrize("setting", ["beta=0.0", "l2=0.5"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_settings_of_ftrl_alone_are_refused(
    solver: str, setting: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    data = write(tmp_path / "a.h5", rng, 30)
    with pytest.raises(ConfigError, match=f"the solver {solver}") as caught:
        train(data, f"model.solver={solver}", f"model.{setting}")
    assert caught.value.remedy
