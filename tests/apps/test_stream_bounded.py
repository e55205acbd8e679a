"""Streams in bounded mode: no minibatch begins before those that it may not miss are pushed."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from mpips.apps.find import find_app
from mpips.apps.linear.stream import StreamLinear
from mpips.config import parse
from mpips.errors import ConfigError, ProtocolError
from mpips.files.csr import CsrWriter
from mpips.files.model import read_model
from mpips.node.folder import RunFolder
from mpips.node.kv import Worker
from mpips.node.local import run_local
from mpips.testing.cluster import Simulation
from mpips.testing.delays import Ran, check_delay
from mpips.testing.faults import CALM, Faults
from mpips.wire.types import Table
from tests.apps.test_adagrad import ALPHA, BETA, L1, serial
from tests.apps.test_ftrl import stream, write

SOLVERS = ["ftrl", "adagrad", "adarevision"]
SLOW = Faults(stragglers={3: 0.02}, delay_s=1e-3, heal_s=1e6)
BOUNDED = "sync.mode=bounded"


def uneven(path: Path, rng: np.random.Generator) -> Path:
    """Write rows of which the first have many columns: workers have different numbers of rows."""
    lengths = np.where(np.arange(400) < 100, 12, 2)
    indices = [np.sort(rng.choice(40, n, replace=False)) for n in lengths]
    with CsrWriter(path, n_features=40) as writer:
        columns = np.concatenate(indices)
        writer.append(lengths, columns, np.ones(len(columns)), rng.random(400) < 0.5)
    return path


def simulate(
    data: Path, solver: str, *settings: str, seed: int = 1, faults: Faults = SLOW, **broken: Any
) -> tuple[Simulation, list[Ran]]:
    """Run a job of two servers and three workers, and note when minibatches were computed."""
    more = ["run.workers=3", "run.servers=2", "model.minibatch=20", f"model.solver={solver}"]
    config = parse("", "", [f"data.train={data}", *more, *settings])
    log: list[Ran] = []
    kind = type("Logged", (Logged, find_app(config)), {"log": log, **broken})
    simulation = Simulation(kind, config, seed, faults)
    simulation.run()
    return simulation, log


class Logged(StreamLinear):
    """Notes when the weights of each minibatch were there, and when its gradient was.

    Attributes:
        log: what ran, of all workers.
    """

    log: ClassVar[list[Ran]]
    worker: Worker | None = None

    async def stream(
        self, worker: Worker, begin: int, end: int, first: int = 0, last: int = 0
    ) -> dict[str, float]:
        """Note whose minibatches these are."""
        self.worker, self.task = worker, first - 1 if first else getattr(self, "task", 0)
        done = await super().stream(worker, begin, end, first, last)
        self.worker = None
        return done

    def weights(self, pulled: Any) -> Any:
        """Note the beginning of a minibatch."""
        if self.worker is not None:
            self.start, self.task = self.worker.now(), self.task + 1
        return super().weights(pulled)

    def pushed(self, gradient: Any, pulled: Any) -> Any:
        """Note the end of one; who says only that it has none any more does not count."""
        if self.worker is not None and len(gradient):
            self.log.append(Ran(self.worker.id, self.task, self.start, self.worker.now()))
        return super().pushed(gradient, pulled)


def fill(log: list[Ran]) -> list[Ran]:
    """Return a log in which those who have fewer minibatches are done with the others at once."""
    tasks = max(one.task for one in log)
    there = {(one.worker, one.task) for one in log}
    every = [(worker, task) for worker in range(3) for task in range(1, tasks + 1)]
    return log + [Ran(*one, 0.0, 0.0) for one in every if one not in there]


def check(log: list[Ran], max_delay: float) -> tuple[list[str], int]:
    """Return what breaks the bound, and the largest staleness, of all minibatches."""
    whole = fill(log)
    starts = {(one.worker, one.task): one for one in log}
    # A minibatch that does not exist begins when it would be fresh: after everything.
    late = max(one.finish for one in log) + 1
    return check_delay(
        [starts.get((one.worker, one.task), one._replace(start=late)) for one in whole], max_delay
    )


@pytest.mark.parametrize("max_delay", [0, 1, 2, 5])
def test_staleness_is_at_most_max_delay_and_attains_it(
    max_delay: int, rng: np.random.Generator, tmp_path: Path
) -> None:
    data, worst = write(tmp_path / "a.h5", rng, 800), 0
    for seed in range(3):
        solver = SOLVERS[seed]
        settings = [BOUNDED, f"sync.max_delay={max_delay}", "model.passes=2"]
        _, log = simulate(data, solver, *settings, seed=seed)
        violations, staleness = check(log, max_delay)
        assert violations == []
        worst = max(worst, staleness)
    assert worst == max_delay


def test_eventual_stream_knows_no_bound(rng: np.random.Generator, tmp_path: Path) -> None:
    simulation, log = simulate(write(tmp_path / "a.h5", rng, 800), "ftrl")
    assert check(log, np.inf)[1] > 5
    # There are no clocks that anybody would have to be told.
    result = simulation.scheduler.result
    assert result["counters"]["worker_pushes"] == result["iterations"]


def test_table_that_allows_one_more_is_caught(rng: np.random.Generator, tmp_path: Path) -> None:
    def tables(app: StreamLinear) -> list[Table]:
        app.max_delay += 1
        return StreamLinear.tables(app)

    data = write(tmp_path / "a.h5", rng, 800)
    _, log = simulate(data, "ftrl", BOUNDED, "sync.max_delay=2", tables=tables)
    violations, staleness = check(log, 2)
    assert violations
    assert staleness == 3


@pytest.mark.parametrize("max_delay", [0, 3])
def test_worker_with_fewer_minibatches_blocks_nobody(
    max_delay: int, rng: np.random.Generator, tmp_path: Path
) -> None:
    data = uneven(tmp_path / "a.h5", rng)
    settings = [BOUNDED, f"sync.max_delay={max_delay}", "model.passes=2"]
    simulation, log = simulate(data, "adarevision", *settings, faults=CALM)
    counts = [sum(one.worker == worker for one in log) for worker in range(3)]
    assert min(counts) * 2 < max(counts)
    assert simulation.scheduler.result["iterations"] == sum(counts)
    assert check(log, max_delay)[0] == []


def test_worker_that_does_not_say_that_it_has_no_more_is_waited_for(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    async def stream(app: StreamLinear, worker: Worker, **task: int) -> dict[str, float]:
        return await StreamLinear.stream(app, worker, **{**task, "last": 0})

    data = uneven(tmp_path / "a.h5", rng)
    with pytest.raises(ProtocolError, match="stands still, waiting for worker"):
        simulate(data, "ftrl", BOUNDED, faults=CALM, stream=stream)


@pytest.mark.parametrize("max_delay", [0, 4])
@pytest.mark.parametrize("solver", SOLVERS)
def test_bounded_streams_learn_as_much_as_eventual_ones(
    solver: str, max_delay: int, rng: np.random.Generator, tmp_path: Path
) -> None:
    data, test = write(tmp_path / "a.h5", rng, 1500), write(tmp_path / "t.h5", rng, 700)
    bounds = [BOUNDED, f"sync.max_delay={max_delay}"]
    settings = [f"data.test={test}", "model.l1=0.1"]
    eventual = simulate(data, solver, *settings, faults=CALM)[0].scheduler.result
    bounded = simulate(data, solver, *settings, *bounds, faults=CALM)[0].scheduler.result
    # Weights that are less stale may be better ones.
    assert 0.9 < bounded["logloss"] / eventual["logloss"] < 1.03
    assert bounded["auc"] > eventual["auc"] - 0.02
    assert bounded["iterations"] == eventual["iterations"]


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_worker_without_delay_is_the_serial_program(
    solver: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    data = write(tmp_path / "a.h5", rng, 430)
    settings = [f"data.train={data}", f"model.solver={solver}", "model.minibatch=40",
                f"model.alpha={ALPHA}", f"model.l1={L1}", BOUNDED, "run.servers=2"]  # fmt: skip
    settings += ["model.l2=0.25"] if solver == "ftrl" else [f"model.beta={BETA}"]
    config = parse("", "", settings)
    result = run_local(find_app(config), config, RunFolder(tmp_path / "run", config))
    model = read_model(tmp_path / "run" / "model.h5")
    if solver == "ftrl":
        w, loss = stream(data, 40, ALPHA, L1, ahead=1)
    else:
        w, loss = serial(data, 40, solver == "adarevision", ahead=1)
    np.testing.assert_allclose(model.weights, w, rtol=1e-3, atol=1e-5)
    assert result["progressive_logloss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["replace", "spread", "drop"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_bounded_streams_learn_as_much_whoever_dies(
    solver: str, policy: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    data = write(tmp_path / "a.h5", rng, 800)
    settings = [BOUNDED, "sync.max_delay=2", "model.passes=2", "model.l1=0.1", "run.spares=1",
                f"recovery.worker={policy}"]  # fmt: skip
    calm, _ = simulate(data, solver, *settings, faults=CALM)
    end, expected = calm.network.now, calm.scheduler.result
    deaths = 0
    for node in (1, 4):
        kills = ((float(rng.uniform(0.3, 0.8)) * end, node),)
        simulation, _ = simulate(data, solver, *settings, faults=replace(CALM, kills=kills))
        result = simulation.scheduler.result
        deaths += len(simulation.dead)
        if policy != "drop" or node == 1:
            assert result["iterations"] == expected["iterations"]
            assert result["progressive_logloss"] == pytest.approx(
                expected["progressive_logloss"], rel=0.15
            )
    assert deaths == 2


@pytest.mark.parametrize(("setting", "place"), [
    ("sync.mode=sequential", "sync.mode"), ("sync.max_delay=auto", "sync.max_delay"),
])  # fmt: skip
def test_other_modes_are_refused_by_name(setting: str, place: str, tmp_path: Path) -> None:
    settings = [BOUNDED, setting, "model.solver=ftrl"]
    with pytest.raises(ConfigError, match="the solver ftrl") as caught:
        simulate(write(tmp_path / "a.h5", np.random.default_rng(1), 30), "ftrl", *settings)
    assert caught.value.where == place
    assert caught.value.remedy
