"""The linear solvers end as if nothing had happened when servers and workers die on the way.

`--seed` draws other times and victims.

Jobs run in virtual time; a kill is a time and a node. A run without kills has the same seed, so
that it does the same up to the kill, and tells which task will be under way.
"""

import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from mpips.apps.find import find_app
from mpips.apps.linear.app import BlockApp
from mpips.apps.linear.exact import ExactLinear
from mpips.apps.linear.shard import Shard
from mpips.apps.linear.shares import share_out
from mpips.config import Config, parse
from mpips.core.task import Task
from mpips.errors import MpipsError
from mpips.files.csr import CsrFile
from mpips.node.server import ServerNode
from mpips.node.worker import WorkerNode
from mpips.testing.cluster import Simulation
from mpips.testing.faults import CALM, Faults
from mpips.wire.types import NOBODY
from tests.apps.linear_problems import (
    Floats,
    Problem,
    make_labels,
    make_matrix,
    run,
    write_problem,
)

ROWS, COLUMNS, LOGICAL, CLOSE = 90, 12, 4, 1e-4
SERVERS, WORKERS = (1, 2), (3, 4)
SETTINGS: Final[dict[str, list[str]]] = {
    "exact": ["model.block=4"],
    "diagonal": ["model.tolerance=1e-5"],
    "delayed": ["model.blocks=3", "model.passes=20", "sync.max_delay=2"],
}
"""Of the solvers that converge; `delayed` is stopped before, after the same number of passes."""

TASKS: Final = {
    "exact": ["load", "begin", "check", "dual", "pack", "sweep", "nonzeros", "score"],
    "diagonal": ["load", "colour", "arrange", "check", "dual", "sweep", "score"],
    "delayed": ["load", "measure", "sweep", "check", "dual", "idleness", "score"],
}
POLICIES: Final = {
    "spare": ["recovery.worker=replace", "run.spares=2"],
    "replace": ["recovery.worker=replace"],
    "spread": ["recovery.worker=spread"],
}
Kills = Sequence[tuple[float, int]]


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    """A problem of 90 rows and 12 columns."""
    matrix = make_matrix(1, n=ROWS, d=COLUMNS, mean=3.0)
    path = tmp_path_factory.mktemp("recovery") / "train.h5"
    return write_problem(path, matrix, make_labels(1, matrix))


@pytest.fixture(scope="module")
def seeds(request: pytest.FixtureRequest) -> list[int]:
    """Seeds of the kills of a test."""
    return [request.config.getoption("--seed")]


@dataclass(frozen=True)
class Ended:
    """A job that has ended, with its cluster."""

    simulation: Simulation
    result: dict[str, Any]

    @property
    def loss(self) -> float:
        """Return the objective, or of streams the mean loss of the rows."""
        found = self.result.get("objective", self.result["logloss"])
        assert isinstance(found, float)
        return found

    def tasks(self) -> list[tuple[float, str]]:
        """Return when each of the last tasks began, and its name."""
        lines = [line.split() for line in self.simulation.scheduler.machine.story("task")]
        return [(float(words[0]), words[2]) for words in lines]

    def running(self, seconds: float) -> str:
        """Return the task that was under way at a time."""
        return [name for began, name in self.tasks() if began <= seconds][-1]

    def spans(self, name: str) -> list[tuple[float, float]]:
        """Return when a task was under way, each time."""
        tasks = [*self.tasks(), (self.simulation.network.now, "")]
        pairs = itertools.pairwise(tasks)
        return [(begin, end) for (begin, found), (end, _) in pairs if found == name]

    def weights(self) -> Floats:
        """Return the weights that the servers have."""
        view = self.simulation.scheduler.machine.view
        assert view is not None
        parts = []
        for segment, owner in enumerate(view.owners[0].tolist()):
            node = self.simulation.nodes[owner]
            assert isinstance(node, ServerNode)
            assert node.machine is not None
            store = node.machine.stores[0]
            parts.append(store.read_range(*store.table.segment_range(segment))[1])
        return np.concatenate(parts).astype(np.float64)[:, 0]

    def apps(self) -> Iterator[tuple[int, BlockApp]]:
        """Yield the logical workers with the objects that act for them in the end."""
        view = self.simulation.scheduler.machine.view
        assert view is not None
        for worker, actor in enumerate(view.actors):
            if actor == NOBODY or actor in self.simulation.dead:
                continue
            node = self.simulation.nodes[actor]
            assert isinstance(node, WorkerNode)
            app = node._apps.get(worker)
            if isinstance(app, BlockApp):
                yield worker, app


def configure(path: Path, solver: str, *settings: str) -> Config:
    """Return the config of a job with two servers, two workers, and four logical workers."""
    sizes = ["run.servers=2", "run.workers=2", f"run.logical_workers={LOGICAL}", "model.l1=1"]
    data = [f"data.train={path}", f"data.test={path}", "model.minibatch=5"]
    return parse("", "", [*sizes, *data, f"model.solver={solver}",
                          *SETTINGS.get(solver, []), *settings])  # fmt: skip


def simulate(path: Path, solver: str, *settings: str, kills: Kills = (), seed: int = 1) -> Ended:
    """Run a job to its end."""
    config = configure(path, solver, *settings)
    faults = Faults(kills=tuple(kills)) if kills else CALM
    simulation = Simulation(find_app(config), config, seed, faults)
    result = simulation.run()
    assert simulation.dead <= {node for _, node in kills}
    return Ended(simulation, json.loads(json.dumps(result)))


@functools.cache
def calm(path: Path, solver: str, *settings: str) -> Ended:
    """Return the run in which nobody dies."""
    return simulate(path, solver, *settings)


def draw_kills(ended: Ended, victims: str, seed: int) -> Kills:
    """Return who dies when in a job, from the first task on; both: a server and a worker."""
    random = np.random.default_rng(seed)
    first, last = ended.tasks()[0][0], ended.simulation.network.now
    # A long job's story has lost its beginning.
    first = 0.01 if len(ended.tasks()) > 150 else first
    roles = {"server": [SERVERS], "worker": [WORKERS], "both": [SERVERS, WORKERS]}[victims]
    times = random.uniform(first, last, len(roles))
    nodes = [int(random.choice(role)) for role in roles]
    return list(zip(times.tolist(), nodes, strict=True))


def assert_whole(ended: Ended) -> None:
    """Check that all that act have the servers' weights, and margins that belong to them."""
    w = ended.weights()
    found = 0
    for worker, app in ended.apps():
        found += 1
        np.testing.assert_array_equal(app.w, w)
        with CsrFile(Path(app.job.config.data.train)) as data:
            rows = data.read(*data.row_ranges(LOGICAL)[worker], classes=data.two_classes())
        order = app.permutation()
        position = None if order is None else np.argsort(order)
        fresh = Shard(rows, COLUMNS, position)
        fresh.follow(app.w)
        np.testing.assert_allclose(app.shard.margins, fresh.margins, rtol=1e-9, atol=1e-9)
    assert found == LOGICAL


def check_recovery(problem: Problem, solver: str, policy: str, victims: str, seed: int) -> None:
    """Check that a job with drawn kills ends like the one without."""
    expected = calm(problem.path, solver)
    kills = draw_kills(expected, victims, seed)
    ended = simulate(problem.path, solver, *POLICIES[policy], kills=kills)
    said = f"{solver} {policy} {kills}, {[expected.running(seconds) for seconds, _ in kills]}"
    assert abs(ended.loss / expected.loss - 1) <= CLOSE, said
    assert ended.result["logloss"] == pytest.approx(expected.result["logloss"], rel=CLOSE), said
    assert ended.result["auc"] == pytest.approx(expected.result["auc"], abs=1e-3), said
    # Who died at the very end may not have been missed.
    if ended.simulation.scheduler.machine.statistics()["deaths"] == len(kills):
        assert_whole(ended)


@pytest.mark.parametrize("solver", ["exact", "diagonal"])
def test_solver_ends_like_the_run_without_when_a_server_and_a_worker_die(
    problem: Problem, solver: str, seeds: list[int]
) -> None:
    check_recovery(problem, solver, "replace", "both", seeds[0])


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("solver", SETTINGS)
def test_solver_ends_like_the_run_without_whoever_dies(
    problem: Problem, solver: str, policy: str, seeds: list[int]
) -> None:
    # Each solver and each policy meets all victims, and with three seeds each pair does.
    place = list(SETTINGS).index(solver) + list(POLICIES).index(policy)
    for seed in seeds:
        victims = ("server", "worker", "both")[(place + seed) % 3]
        check_recovery(problem, solver, policy, victims, seed)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(("solver", "task"), [(s, task) for s in TASKS for task in TASKS[s]])
def test_worker_may_die_during_each_task(
    problem: Problem, solver: str, task: str, seeds: list[int]
) -> None:
    # A job of few passes, so that the scheduler's story has all of it.
    few = ["model.passes=6", "model.tolerance=1e-12"]
    expected = calm(problem.path, solver, *few)
    spans = expected.spans(task)
    random = np.random.default_rng([len(task), *seeds])
    # The first time that the task is run, or the last time.
    begin, end = spans[-int(random.integers(2))]
    seconds, node = float(random.uniform(begin, end)), int(random.choice(WORKERS))
    ended = simulate(problem.path, solver, *few, kills=[(seconds, node)])
    assert ended.running(seconds) == task
    assert abs(ended.loss / expected.loss - 1) <= CLOSE, (task, seconds, node)


@pytest.mark.parametrize("solver", ["exact", "diagonal"])
def test_sequential_run_with_a_killed_server_has_the_same_bits(
    problem: Problem, solver: str, seeds: list[int]
) -> None:
    check_bits(problem, solver, seeds[:1])


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("solver", SETTINGS)
@pytest.mark.parametrize("settings", [[], ["run.spares=1", "replicas=2"]], ids=str)
def test_runs_with_killed_servers_have_the_same_bits(
    problem: Problem, solver: str, settings: list[str], seeds: list[int]
) -> None:
    # The delayed solver's too: its workers use answers when they are due, not when they come.
    check_bits(problem, solver, seeds[1:], *settings)


def check_bits(problem: Problem, solver: str, seeds: list[int], *settings: str) -> None:
    """Check that killed servers do not change a bit of the weights."""
    expected = calm(problem.path, solver)
    for seed in seeds:
        kills = draw_kills(expected, "server", seed)
        ended = simulate(problem.path, solver, *settings, kills=kills, seed=seed + 1)
        assert ended.weights().tobytes() == expected.weights().tobytes(), (solver, kills)
        assert ended.result["objective"] == expected.result["objective"]
        assert ended.result["iterations"] == expected.result["iterations"]


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(("solver", "node"), [
    ("exact", WORKERS[0]),
    ("diagonal", WORKERS[1]),
    ("delayed", WORKERS[0]),
    pytest.param("exact", WORKERS[1], marks=pytest.mark.soak),
    pytest.param("diagonal", WORKERS[0], marks=pytest.mark.soak),
    pytest.param("delayed", WORKERS[1], marks=pytest.mark.soak),
])
def test_when_workers_are_dropped_the_rest_finds_the_optimum_of_its_rows(
    problem: Problem, solver: str, node: int, seeds: list[int], tmp_path: Path
) -> None:
    # The first logical workers are those of the first node: nothing may hang on the very first.
    with CsrFile(problem.path) as data:
        middle = data.row_ranges(LOGICAL)[LOGICAL // 2][0]
    left = np.arange(middle, ROWS) if node == WORKERS[0] else np.arange(middle)
    rest = write_problem(tmp_path / "rest.h5", problem.matrix[left], problem.labels[left])
    optimum = run(rest, 1.0, tolerance=1e-9)["objective"]
    # The distance is far below the gap.
    more = ["recovery.worker=drop", "model.tolerance=1e-3", "model.passes=1000"]
    expected = calm(problem.path, solver, *more)
    random = np.random.default_rng([node, *seeds])
    kills = [(float(random.uniform(0.01, expected.simulation.network.now / 2)), node)]
    ended = simulate(problem.path, solver, *more, kills=kills)
    assert ended.result["converged"], kills
    assert ended.loss == pytest.approx(optimum, rel=CLOSE), kills
    # All test data is scored all the same.
    w = ended.weights()
    order = next(ended.apps())[1].permutation()
    if order is not None:
        w = w[np.argsort(order)]
    losses = np.logaddexp(0, -problem.labels * (problem.matrix @ w))
    assert ended.result["logloss"] == pytest.approx(losses.mean(), rel=1e-9)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(("solver", "policy"), [
    ("ftrl", "spare"), ("ftrl", "drop"), ("adagrad", "spread"), ("adarevision", "replace"),
    ("adarevision", "drop"),
])  # fmt: skip
def test_streams_learn_as_much_whoever_dies(
    solver: str, policy: str, seeds: list[int], tmp_path: Path
) -> None:
    matrix, random = make_matrix(2, n=600, d=COLUMNS, mean=4.0), np.random.default_rng(2)
    margins = matrix @ random.normal(0, 1.5, COLUMNS)
    labels = np.where(margins + random.logistic(size=len(margins)) > 0, 1.0, -1.0)
    problem = write_problem(tmp_path / "rows.h5", matrix, labels)
    runs = [simulate(problem.path, solver, "model.alpha=0.5", seed=seed) for seed in range(1, 4)]
    losses = [ended.loss for ended in runs]
    for seed in seeds:
        kills = draw_kills(runs[0], "both", seed)
        settings = [*POLICIES.get(policy, ["recovery.worker=drop"]), "model.alpha=0.5"]
        ended = simulate(problem.path, solver, *settings, kills=kills)
        # Rows that come after all others have more weight, and others less: the loss, which was
        # log 2, is another one by that. Half of the rows may be missing where workers are dropped.
        noise = 0.25 if policy == "drop" else 0.06
        assert ended.loss == pytest.approx(np.mean(losses), rel=noise), kills
        assert ended.loss < 0.5 * np.log(2)
        if policy != "drop":
            assert ended.result["iterations"] == runs[0].result["iterations"]


def worker_dies_in(problem: Problem, task: str) -> Ended:
    """Return a run of the exact solver with a worker that dies during a late task."""
    begin, end = calm(problem.path, "exact").spans(task)[-1]
    few = ["model.passes=40"]
    return simulate(problem.path, "exact", *few, kills=[((begin + end) / 2, WORKERS[0])])


def test_recovery_that_forgets_the_margins_is_caught(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = calm(problem.path, "exact")
    good = worker_dies_in(problem, "sweep")
    assert good.loss == pytest.approx(expected.loss, rel=CLOSE)
    monkeypatch.setattr(Shard, "follow", lambda shard, w: None)
    bad = worker_dies_in(problem, "sweep")
    assert bad.loss != pytest.approx(expected.loss, rel=CLOSE)


def test_recovery_that_does_not_restore_blocks_is_caught(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ExactLinear, "remade", ("begin",))
    with pytest.raises(MpipsError, match="_blocks"):
        worker_dies_in(problem, "sweep")


def test_recovery_that_pushes_is_refused(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExactLinear, "remade", ("load", "begin", "pack"))
    with pytest.raises(MpipsError, match="it may only pull"):
        worker_dies_in(problem, "sweep")


def test_shares_are_done_again_by_those_that_are_left() -> None:
    among = [0, 2, 5]
    plan = share_out("score", among)
    assert next(plan) == Task(group="workers", function="score", arguments={"among": [0, 2, 5]})
    again = plan.send([{"worker": 0}, {"worker": 5}])
    assert again.arguments == {"among": [0, 5]}
    with pytest.raises(StopIteration) as caught:
        plan.send([{"worker": 0, "found": 1}, {"worker": 5, "found": 2}])
    assert [part["found"] for part in caught.value.value] == [1, 2]
    assert among == [0, 5]
