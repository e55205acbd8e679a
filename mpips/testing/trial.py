"""One simulated run: everything drawn from a seed, run, and checked."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from mpips.config import Config, parse
from mpips.errors import MpipsError
from mpips.testing.checkers import CHECKS, Expected
from mpips.testing.cluster import Simulation
from mpips.testing.faults import Faults, draw_faults
from mpips.testing.ledger import Ledger, Settings
from mpips.testing.network import DELAY_S_MAX

SERVERS_MAX: Final = 4
WORKERS_MAX: Final = 4
DEADLINE_S: Final = 2 * DELAY_S_MAX
COUNTERS: Final = (
    "calls",
    "worker_pushes",
    "worker_pulls",
    "server_pushes",
    "server_pulls",
    "server_duplicate_slices",
    "server_parked_slices",
)


@dataclass(frozen=True)
class Shape:
    """How many nodes of each kind a run has; 0: drawn from the seed."""

    servers: int = 0
    workers: int = 0
    logical_workers: int = 0


@dataclass
class Trial:
    """A run of the ledger under faults.

    Attributes:
        seed: decides everything.
        shape: the numbers of nodes.
        faults: what went wrong.
        simulation: the cluster, as it was in the end.
        error: what ended the job too early; empty if nothing did.
        violations: by check, what did not hold.
        counters: some of the job's counters.
    """

    seed: int
    shape: Shape
    faults: Faults
    simulation: Simulation
    error: str
    violations: dict[str, list[str]]
    counters: dict[str, int]

    @property
    def has_failed(self) -> bool:
        """Return whether something did not hold."""
        return bool(self.error) or any(self.violations.values())

    def replay(self) -> str:
        """Return the command that does exactly this again."""
        shape = self.shape
        return (
            f"mpips sim --seed {self.seed} --servers {shape.servers}"
            f" --workers {shape.workers} --logical-workers {shape.logical_workers}"
        )


def run_trial(seed: int, shape: Shape | None = None) -> Trial:
    """Draw a run from a seed, run it, and check it; the same seed gives the same one.

    Raises:
        ConfigError: the shape makes no sense.
    """
    # Faults and sizes have streams of their own: a given size changes no other draw.
    sizes, mishaps = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    shape = _draw_shape(sizes, shape or Shape())
    settings = Settings(steps=int(sizes.integers(1, 5)), pushes=int(sizes.integers(1, 5)))
    compress = "lz4" if sizes.random() < 0.2 else "off"
    config = _configure(seed, shape, settings, compress)
    faults = draw_faults(mishaps, 1 + shape.servers + shape.workers)
    simulation = Simulation(Ledger, config, seed, faults)
    result: dict[str, Any] = {}
    error = ""
    try:
        result = simulation.run(DEADLINE_S)
    except (MpipsError, AssertionError) as problem:
        error = f"{type(problem).__name__}: {problem}"
    error = error or _check_ends(simulation)
    expected = Expected(settings, config)
    violations = {name: [] if error else check(expected, result) for name, check in CHECKS.items()}
    counters = {name: result.get("counters", {}).get(name, 0) for name in COUNTERS}
    return Trial(seed, shape, faults, simulation, error, violations, counters)


def _check_ends(simulation: Simulation) -> str:
    """Return what is wrong with how the nodes came and left; empty if nothing is."""
    view, nodes = simulation.scheduler.machine.view, simulation.nodes
    if view is None or len(view.members) != len(nodes):
        return "the job began before all nodes had come"
    codes = [node.exit_code for node in nodes]
    return f"the scheduler left before others: {codes}" if any(c != 0 for c in codes) else ""


def _draw_shape(random: np.random.Generator, shape: Shape) -> Shape:
    """Return a shape with what is open drawn; a logical worker can have a node of its own."""
    servers = int(random.integers(1, SERVERS_MAX, endpoint=True))
    workers = int(random.integers(1, WORKERS_MAX, endpoint=True))
    extra = int(random.integers(0, 3))
    workers = shape.workers or workers
    return Shape(shape.servers or servers, workers, shape.logical_workers or workers + extra)


def _configure(seed: int, shape: Shape, settings: Settings, compress: str) -> Config:
    return parse(
        "",
        "",
        [
            f"run.seed={seed}",
            f"run.servers={shape.servers}",
            f"run.workers={shape.workers}",
            f"run.logical_workers={shape.logical_workers}",
            f"model.steps={settings.steps}",
            f"model.pushes={settings.pushes}",
            f"model.keys={settings.keys}",
            f"filters.compress={compress}",
        ],
    )
