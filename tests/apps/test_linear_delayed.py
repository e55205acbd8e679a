"""Delayed block proximal gradient: exactly as stale as it says, and safe with the bound's step."""

from collections import deque
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import pytest
import scipy.sparse

from mpips.apps.linear.delayed import DelayedLinear, curvatures, norm_bound
from mpips.apps.linear.exact import ExactLinear
from mpips.apps.linear.shard import Shard
from mpips.config import Config, parse
from mpips.errors import ConfigError
from mpips.files.csr import CsrFile, CsrWriter
from mpips.node.local import run_local
from mpips.testing.cluster import Simulation

BLOCKS, L1 = 6, 4.0


class Unchecked(DelayedLinear):
    """Looks at the objective at the end only: a check takes up everything that is late."""

    check_passes: ClassVar[int] = 10**6


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with 600 correlated rows of 120 features, on which long steps diverge."""
    rng = np.random.default_rng(1)
    n, d = 600, 120
    x = rng.normal(size=(n, d))
    x += 0.8 * rng.normal(size=(n, 1))
    x *= rng.random((n, d)) < 0.3
    truth = np.zeros(d)
    truth[:12] = 2 * rng.normal(size=12)
    labels = np.where(rng.random(n) < 1 / (1 + np.exp(-x @ truth)), 1.0, -1.0)
    path = tmp_path_factory.mktemp("delayed") / "problem.h5"
    matrix = scipy.sparse.csr_array(x)
    with CsrWriter(path, d, value_dtype=np.float64) as file:
        file.append(np.diff(matrix.indptr), matrix.indices, matrix.data, labels)
    return path


def config_for(path: Path, *settings: str) -> Config:
    """Return a config for the problem; further settings win."""
    base = [f"data.train={path}", "run.logical_workers=2", f"model.l1={L1}"]
    return parse("", "", [*base, f"model.blocks={BLOCKS}", "model.tolerance=1e-9", *settings])


@pytest.mark.slow
def test_bound_step_converges_at_a_delay_where_the_fixed_step_does_not(problem: Path) -> None:
    """NIPS 2014, Theorem 2, after 1,800 and 600 block updates at tau = 16; at tau = 0 both do."""
    best = run_local(ExactLinear, config_for(problem))["objective"]

    def distance(*settings: str) -> float:
        config = config_for(problem, "model.passes=300", *settings)
        return float(run_local(Unchecked, config)["objective"] / best - 1)

    # One goes down slowly, the other goes up and down, and is soon there without the delay.
    assert distance("sync.max_delay=16", "model.step=bound") < 0.1
    assert distance("sync.max_delay=16", "model.step=fixed", "model.passes=100") > 0.5
    assert distance("sync.max_delay=0", "model.step=fixed", "model.passes=100") < 5e-3


def serial_weights(path: Path, max_delay: int, passes: int, parts: int = 2) -> Any:
    """Return the weights of a plain loop over blocks in which each gradient is `max_delay` old."""
    with CsrFile(path) as data:
        ranges, classes = data.row_ranges(parts), data.two_classes()
        shards = [Shard(data.read(*r, classes=classes), data.n_features) for r in ranges]
        starts = np.linspace(0, data.n_features, BLOCKS + 1).astype(np.int64)
    keys = [np.arange(b, e) for b, e in pairwise(starts)]
    blocks = [[shard.pack(part) for part in keys] for shard in shards]
    bounds = [curvatures(list(shard.columns(starts))) for shard in shards]
    u = sum(within + 1e-10 + max_delay * between for within, between in bounds)
    w, late = np.zeros(starts[-1]), deque()
    random = np.random.default_rng(np.random.SeedSequence([1]))
    for _ in range(passes):
        for b in random.permutation(BLOCKS).tolist():
            # Let the margins see the steps that are old enough.
            while len(late) > max_delay:
                old, step = late.popleft()
                for shard, mine in zip(shards, blocks, strict=True):
                    mine[old].advance(step, shard.margins)
            parts_of_g = [
                mine[b].diagonal(shard.margins, np.zeros(len(keys[b])))[:, 0]
                for shard, mine in zip(shards, blocks, strict=True)
            ]
            g = parts_of_g[0].copy()
            for part in parts_of_g[1:]:
                g += part
            aim = w[keys[b]] - g / u
            new = np.sign(aim) * np.maximum(np.abs(aim) - L1 / u, 0.0)
            late.append((b, new - w[keys[b]]))
            w[keys[b]] = new
    return w


@pytest.mark.parametrize("max_delay", [0, 1, 4])
def test_weights_are_bitwise_those_of_a_serial_program_with_this_delay(
    problem: Path, tmp_path: Path, max_delay: int
) -> None:
    passes = 5
    expected = serial_weights(problem, max_delay, passes)
    if max_delay:
        assert not np.array_equal(expected, serial_weights(problem, max_delay - 1, passes))
    for workers, servers in ((1, 1), (2, 3)):
        sizes = [f"run.workers={workers}", f"run.servers={servers}"]
        settings = [*sizes, f"model.passes={passes}", f"sync.max_delay={max_delay}"]
        found = run_weights(problem, tmp_path / f"{workers}-{servers}", settings)
        assert found.tobytes() == expected.tobytes()


def run_weights(path: Path, folder: Path, settings: list[str]) -> Any:
    """Run a job in this process and return the weights of its model."""
    from mpips.node.folder import RunFolder

    config = config_for(path, *settings)
    run_local(Unchecked, config, RunFolder(folder, config))
    with h5py.File(folder / "model.h5") as file:
        return file["w"][:]


def test_network_does_not_change_the_result(problem: Path) -> None:
    settings = ["run.workers=2", "run.servers=2", "model.passes=3", "sync.max_delay=3"]
    config = config_for(problem, *settings)
    found = {Simulation(DelayedLinear, config, seed).run()["objective"] for seed in range(4)}
    assert len(found) == 1


def test_curvature_bounds_hold_and_are_those_of_the_data() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 12)) * (rng.random((50, 12)) < 0.5)
    parts = [scipy.sparse.csc_array(x[:, at : at + 4]) for at in (0, 4, 8)]
    norms = [[np.linalg.norm((a.T @ b).toarray(), 2) / 4 for b in parts] for a in parts]
    within, between = curvatures(parts)
    assert within == pytest.approx(max(norms[i][i] for i in range(3)))
    assert between == pytest.approx(max(norms[i][j] for i in range(3) for j in range(i)))


def test_norm_of_a_large_matrix_is_bounded_from_above() -> None:
    rng = np.random.default_rng(0)
    matrix = scipy.sparse.random_array((600, 600), density=0.01, rng=rng)
    true = np.linalg.norm(matrix.toarray(), 2)
    assert true <= norm_bound(matrix) <= 5 * true


def test_mode_in_which_nobody_waits_is_refused(problem: Path) -> None:
    with pytest.raises(ConfigError, match="delayed runs in bounded mode only"):
        run_local(DelayedLinear, config_for(problem, "sync.mode=eventual", "model.solver=delayed"))


def test_delay_that_is_picked_by_itself_grows_with_waiting_and_descends(problem: Path) -> None:
    settings = [f"data.train={problem}", "run.workers=2", "sync.max_delay=auto"]
    found = []
    for passes in (1, 5):
        config = parse("", "", [*settings, f"model.passes={passes}"])
        found.append(Simulation(DelayedLinear, config, 1).run())
    # Computing takes no time here, so that workers do nothing but wait.
    assert found[1]["max_delay"] == 8
    assert found[1]["objective"] < found[0]["objective"]
