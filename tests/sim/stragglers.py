"""What a straggler costs, by tau: delayed block proximal gradient in virtual time.

The mathematics, the messages and the waits are those of a real job; only the time that a gradient
takes is drawn. To see the table: `python -m tests.sim.stragglers`.
"""

import argparse
import math
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Final, Literal

import msgspec
import numpy as np
import scipy.sparse

from mpips.apps.linear.delayed import DelayedLinear, curvatures
from mpips.apps.linear.exact import ExactLinear
from mpips.apps.linear.types import Floats
from mpips.config import Config, parse
from mpips.core.task import Plan, Task
from mpips.files.csr import CsrWriter
from mpips.node import kernels
from mpips.node.app import Job
from mpips.node.kv import Worker
from mpips.node.local import run_local
from mpips.node.server import ServerNode
from mpips.testing.cluster import Simulation
from mpips.testing.delays import Ran, check_delay
from mpips.wire.types import Table

ROWS: Final = 4000
BLOCKS: Final = 12
FEATURES: Final = 5 * BLOCKS
SIGNAL: Final = 0.2
L1: Final = 20.0
CLOSE: Final = 1e-4

BASE_S: Final = 0.1
NOISE: Final = 0.1
SLOWER: Final = 5.0

EVENTUAL: Final = -1
"""In place of tau: nobody waits for anything."""

STEP_OF_EVENTUAL: Final = 16
"""No step is known to be safe if nobody waits; this tau's is taken."""


@dataclass(frozen=True)
class Problem:
    """Data in a file, its optimum, and bounds of its curvature within and between blocks."""

    path: Path
    z: Floats
    optimum: float
    within: float
    between: float

    def objective(self, w: Floats) -> float:
        """Return the objective."""
        return float(np.logaddexp(0, -self.z @ w).sum() + L1 * np.abs(w).sum())


def make_problem(folder: Path, seed: int = 1) -> Problem:
    """Return logistic regression on independent normal features, a quarter of which matter."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(ROWS, FEATURES))
    truth = np.zeros(FEATURES)
    some = random.choice(FEATURES, FEATURES // 4, replace=False)
    truth[some] = SIGNAL * random.normal(size=len(some))
    labels = np.where(random.random(ROWS) < 1 / (1 + np.exp(-x @ truth)), 1.0, -1.0)
    path, matrix = folder / f"stragglers-{seed}.h5", scipy.sparse.csr_array(x)
    with CsrWriter(path, FEATURES, value_dtype=np.float64) as file:
        file.append(np.diff(matrix.indptr), matrix.indices, matrix.data, labels)
    settings = [f"data.train={path}", f"model.l1={L1}", "model.tolerance=1e-10"]
    optimum = run_local(ExactLinear, parse("", "", settings))["objective"]
    # The bound of the sum is far below the sum of the shards' bounds, and holds as well: all
    # workers compute with the same w.
    starts = cut_blocks()
    within, between = curvatures([scipy.sparse.csc_array(x[:, b:e]) for b, e in pairwise(starts)])
    return Problem(path, x * labels[:, None], optimum, within, between)


def cut_blocks() -> list[int]:
    """Return where blocks begin, and the end."""
    return np.linspace(0, FEATURES, BLOCKS + 1).astype(int).tolist()


class Straggling(DelayedLinear):
    """The delayed solver in one sweep, whose gradients take a time that is drawn.

    It is `BASE_S` x exp(`NOISE` x a normal number); and `SLOWER` times that with probability 1 /
    (number of workers), so that on average one worker is a straggler, each time another one. The
    draws depend on the seed, the worker and the task, and not on tau.

    Attributes:
        steps: blocks of the sweep.
        log: what ran.
    """

    problem: ClassVar[Problem]
    steps: ClassVar[int]
    log: ClassVar[list[Ran]]

    def plan(self) -> Plan:
        """Visit all blocks in an order that is drawn anew for each pass, without a pause."""
        yield from self.prepare()
        random = np.random.default_rng(self.job.config.run.seed)
        passes = [random.permutation(BLOCKS) for _ in range(-(-self.steps // BLOCKS))]
        arguments = {"order": np.concatenate(passes)[: self.steps]}
        yield Task(group="workers", function="sweep", arguments=arguments)
        return {}

    def bounds(self) -> tuple[float, float]:
        """Return this worker's part of the bounds of all data's curvature."""
        parts = self.job.logical_workers
        return self.problem.within / parts, self.problem.between / parts

    async def gradient_of(self, worker: Worker, b: int) -> Floats:
        """Take some time, and note it."""
        start, random = worker.now(), worker.random
        seconds = BASE_S * float(np.exp(NOISE * random.normal()))
        is_slow = random.random() < 1 / self.job.logical_workers
        await worker.sleep(SLOWER * seconds if is_slow else seconds)
        self.task: int = getattr(self, "task", 0) + 1
        self.log.append(Ran(worker.id, self.task, start, worker.now()))
        return await super().gradient_of(worker, b)


class InPasses(Straggling):
    """The same, a sweep for each two passes, so that the delay can change in between."""

    def plan(self) -> Plan:
        """Visit all blocks in an order that is drawn anew for each pass."""
        yield from self.prepare()
        random = np.random.default_rng(self.job.config.run.seed)
        for _ in range(-(-self.steps // (2 * BLOCKS))):
            yield from self.adapt()
            order = np.concatenate([random.permutation(BLOCKS) for _ in range(2)])
            yield Task(group="workers", function="sweep", arguments={"order": order})
        return {}


class Careless(Straggling):
    """The same, but nobody waits: what has come by the beginning of a task is used."""

    mode: ClassVar[str] = "eventual"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.max_delay = STEP_OF_EVENTUAL

    def weight_table(self) -> Table:
        """Return the table without clocks that are waited for."""
        return msgspec.structs.replace(super().weight_table(), mode="eventual", max_delay=0)

    def takes_next(self) -> bool:
        """Return whether the oldest answer is there."""
        return bool(self._late) and self._late[0][0].is_done


class Reached(Exception):
    """The objective is close to its optimum."""


class Watched(Simulation):
    """A simulation of one server, after each update of which the objective is computed.

    Attributes:
        objectives: after each update.
    """

    def __init__(self, kind: type[Straggling], config: Config, seed: int) -> None:
        super().__init__(kind, config, seed)
        self.problem = kind.problem
        self.objectives: list[float] = []
        self._w = np.zeros(FEATURES)

    def _turn(self, number: int) -> None:
        super()._turn(number)
        node = self.nodes[number]
        if not isinstance(node, ServerNode) or node.machine is None:
            return
        w = node.machine.stores[0].read_range(0, FEATURES)[1][:, 0]
        if not np.array_equal(w, self._w):
            self._w = w
            self.objectives.append(self.problem.objective(w))
            if self.objectives[-1] <= self.problem.optimum * (1 + CLOSE):
                raise Reached


@dataclass(frozen=True)
class Row:
    """What a tau has given.

    Attributes:
        idle: share of their time that workers have waited.
        steps: block steps to `CLOSE`; infinite if it was not reached.
        seconds: virtual seconds to `CLOSE`.
        staleness: the largest of any task.
        violations: of bounded delay.
    """

    idle: float
    steps: float
    seconds: float
    staleness: int
    violations: list[str]


def measure(
    problem: Problem,
    tau: int | Literal["auto"],
    workers: int,
    seed: int,
    steps: int,
    base: type[Straggling] = Straggling,
) -> Row:
    """Return what a tau gives, with a worker rank for each logical worker."""
    log: list[Ran] = []
    parts = {"problem": problem, "steps": steps, "log": log}
    kind = type("Straggling", (Careless if tau == EVENTUAL else base,), parts)
    settings = [f"run.workers={workers}", f"run.seed={seed}", f"data.train={problem.path}"]
    settings += [f"model.l1={L1}", f"model.blocks={BLOCKS}"]
    settings += [] if tau == EVENTUAL else [f"sync.max_delay={tau}"]
    simulation = Watched(kind, parse("", "", settings), seed)
    try:
        simulation.run()
        reached = math.inf
    except Reached:
        reached = simulation.network.now
    first = min(one.start for one in log)
    bound = math.inf if tau in (EVENTUAL, "auto") else float(tau)
    violations, staleness = check_delay(log, bound)
    count = len(simulation.objectives) if reached < math.inf else math.inf
    return Row(idle_share(log), count, reached - first, staleness, violations)


def idle_share(log: list[Ran]) -> float:
    """Return the share of the time between each worker's first start and last finish."""
    worked = sum(one.finish - one.start for one in log)
    lasts = {one.worker: one.finish for one in log}
    whole = sum(lasts.values()) - sum(one.start for one in log if one.task == 1)
    return 1 - worked / whole


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    kernels.use_cache()
    print("| tau | idle | block steps | seconds | against tau 0 | staleness |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        problem, first = make_problem(Path(folder)), 0.0
        for tau in (0, 1, 2, 4, 8, 16, EVENTUAL):
            row = measure(problem, tau, options.workers, options.seed, options.steps)
            assert not row.violations, row.violations
            first = first or row.seconds
            name = "eventual" if tau == EVENTUAL else tau
            print(
                f"| {name} | {100 * row.idle:.1f} % | {row.steps} | {row.seconds:.1f}"
                f" | {first / row.seconds:.2f} x | {row.staleness} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
