"""One simulated run: everything drawn from a seed, run, and checked."""

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from mpips.config import Config, parse
from mpips.errors import MpipsError, RanksLostError
from mpips.node.member import Member
from mpips.node.scheduler import SchedulerNode
from mpips.testing.checkers import CHECKS, Expected
from mpips.testing.cluster import Simulation, office_of
from mpips.testing.faults import Faults, draw_end, draw_faults, draw_kills, draw_stops
from mpips.testing.ledger import SEGMENTS, Ledger, Settings
from mpips.testing.network import DELAY_S_MAX
from mpips.testing.orders import draw_orders, draw_transfers
from mpips.wire.types import NOBODY
from mpips.wire.voting import Begun, Changed, Done, Entry, Kept, Over

SERVERS_MAX: Final = 4
WORKERS_MAX: Final = 4
STEPS_MAX: Final = 3
PUSHES_MAX: Final = 4
SILENCES_S: Final = (0.4, 3.0)
NEVER_S: Final = 1e9
DEADLINE_S: Final = 2 * DELAY_S_MAX
DELAYS_TO_MISHAPS: Final = (1.0, 1000.0)
"""When nodes die or stop, in mean delays of a frame; jobs take some hundreds."""

AFTER_BEGIN: Final = 0.95
"""The share of runs in which nobody dies before the job has begun."""

COUNTERS: Final = (
    "calls",
    "worker_pushes",
    "worker_pulls",
    "server_pushes",
    "server_pulls",
    "server_duplicate_slices",
    "server_parked_slices",
    "reissued_calls",
    "moved_segments",
    "server_stopped_pushes",
)


@dataclass(frozen=True)
class Shape:
    """How many nodes of each kind, and copies, a run has; 0 or None: drawn from the seed."""

    servers: int = 0
    workers: int = 0
    logical_workers: int = 0
    spares: int | None = None
    replicas: int | None = None

    @property
    def nodes(self) -> int:
        """Return how many nodes there are, the scheduler among them."""
        return 1 + self.servers + self.workers + (self.spares or 0)


@dataclass(frozen=True)
class Setup:
    """What a run is, but for the delays and the order of turns.

    Attributes:
        shape: the numbers of nodes, all of them.
        settings: of the ledger.
        faults: what goes wrong.
        compress: filter of the frames, or "off".
        silence_s: after which silence a node is taken for dead.
        has_kills: whether nodes may be killed.
        has_orders: whether segments may move, and nodes come and go by order.
    """

    shape: Shape
    settings: Settings
    faults: Faults
    compress: str
    silence_s: float
    has_kills: bool
    has_orders: bool = True


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
        has_kills: whether nodes may have been killed.
        has_orders: whether segments may have moved, and nodes have come and gone by order.
        excuse: why the job could not go on, if it ended with exit code 76 and rightly so.
    """

    seed: int
    shape: Shape
    faults: Faults
    simulation: Simulation
    error: str
    violations: dict[str, list[str]]
    counters: dict[str, int]
    has_kills: bool
    has_orders: bool = True
    excuse: str = ""

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
            f" --spares {shape.spares} --replicas {shape.replicas}"
            + ("" if self.has_kills else " --no-kills")
            + ("" if self.has_orders else " --no-orders")
        )


def run_trial(
    seed: int, shape: Shape | None = None, has_kills: bool = True, has_orders: bool = True
) -> Trial:
    """Draw a run from a seed, run it, and check it; the same seed gives the same one.

    A job may end with exit code 76 if all copies of a part of the model were killed, or nobody is
    left to work, or somebody died before the job had begun: that is checked, too.

    Raises:
        ConfigError: the shape makes no sense.
    """
    return play_trial(seed, draw_setup(seed, shape or Shape(), has_kills, has_orders))


def draw_setup(seed: int, shape: Shape, has_kills: bool, has_orders: bool = True) -> Setup:
    """Draw from a seed what the shape leaves open, and everything else of a run."""
    # Faults and sizes have streams of their own: a given size changes no other draw.
    sizes, mishaps = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    shape = _draw_shape(sizes, shape)
    steps = int(sizes.integers(1, STEPS_MAX, endpoint=True))
    pushes = int(sizes.integers(1, PUSHES_MAX, endpoint=True))
    compress = "lz4" if sizes.random() < 0.2 else "off"
    reissue_s = float(sizes.choice([0.0, 0.03, 0.3]))
    faults = draw_faults(mishaps, shape.nodes)
    if has_kills:
        faults = replace(faults, **_draw_mishaps(seed, shape.nodes, faults.delay_s))
        span = DELAYS_TO_MISHAPS[0] * faults.delay_s, DELAYS_TO_MISHAPS[1] * faults.delay_s
        faults = _end_scheduler(faults, *draw_end(np.random.default_rng([seed, 4]), span))
    if has_orders:
        faults = replace(faults, **_draw_orders(seed, shape.nodes, faults.delay_s))
    silence_s = SILENCES_S[seed % len(SILENCES_S)] if has_kills else NEVER_S
    settings = Settings(steps=steps, pushes=pushes, reissue_s=reissue_s)
    return Setup(shape, settings, faults, compress, silence_s, has_kills, has_orders)


def play_trial(seed: int, setup: Setup) -> Trial:
    """Run what was drawn, and check it; delays and the order of turns are drawn from the seed."""
    config = _configure(seed, setup)
    simulation = Simulation(Ledger, config, seed, setup.faults)
    result: dict[str, Any] = {}
    error = excuse = ""
    try:
        result = simulation.run(DEADLINE_S)
    except RanksLostError as problem:
        excuse = _find_excuse(simulation)
        error = "" if excuse else f"RanksLostError: {problem}"
    except (MpipsError, AssertionError) as problem:
        error = f"{type(problem).__name__}: {problem}"
    # Where nobody could go on, whoever notes it first ends all others.
    error = error or ("" if excuse else _check_ends(simulation)) or find_split(simulation)
    expected = Expected(setup.settings, config)
    is_over = bool(error or excuse)
    violations = {
        name: [] if is_over else check(expected, result) for name, check in CHECKS.items()
    }
    counters = {name: result.get("counters", {}).get(name, 0) for name in COUNTERS}
    return Trial(
        seed, setup.shape, setup.faults, simulation, error, violations, counters,
        setup.has_kills, setup.has_orders, excuse,
    )  # fmt: skip


def _draw_mishaps(seed: int, size: int, delay_s: float) -> dict[str, Any]:
    """Return who dies or stops when: mostly while the job runs, now and then before it begins."""
    random = np.random.default_rng([seed, 2])
    span = DELAYS_TO_MISHAPS[0] * delay_s, DELAYS_TO_MISHAPS[1] * delay_s
    return {
        "kills": draw_kills(random, size, span),
        "stops": draw_stops(np.random.default_rng([seed, 3]), size, span),
        "after_begin": bool(random.random() < AFTER_BEGIN),
        "kill_works": 0.5,
    }


def find_split(simulation: Simulation) -> str:
    """Return where two schedulers have decided different things; empty if nowhere."""
    known: dict[int, tuple[str, Any]] = {}
    for number, node in enumerate(simulation.nodes):
        office = office_of(node)
        for at, entry in enumerate(office.machine.decisions if office else ()):
            found = _tell_apart(entry)
            if known.setdefault(at, found) != found:
                return f"split brain: decision {at} is {known[at]}, and {found} for node {number}"
    return ""


def _tell_apart(entry: Entry) -> tuple[str, Any]:
    """Return what tells a decision from others, also after it has travelled."""
    match entry:
        case Begun(view=view) | Changed(view=view):
            what: Any = view.epoch
        case Done(streams=streams):
            what = {worker: [tuple(one) for one in ends] for worker, ends in streams.items()}
        case Kept(number=what) | Over(exit_code=what):
            pass
    return type(entry).__name__, what


def _end_scheduler(faults: Faults, kind: str, at: float, length: float) -> Faults:
    """Return faults with what befalls the first node."""
    if kind == "kills":
        return replace(faults, kills=tuple(sorted([*faults.kills, (at, 0)])))
    if kind == "stops":
        return replace(faults, stops=tuple(sorted([*faults.stops, (at, 0, length)])))
    return replace(faults, isolations=((at, 0, length),)) if kind else faults


def _draw_orders(seed: int, size: int, delay_s: float) -> dict[str, Any]:
    """Return who comes and goes, and what moves, while the job runs."""
    span = DELAYS_TO_MISHAPS[0] * delay_s, DELAYS_TO_MISHAPS[1] * delay_s
    transfers = draw_transfers(np.random.default_rng([seed, 7]), size, SEGMENTS, span)
    return {
        "orders": draw_orders(np.random.default_rng([seed, 6]), size, span),
        "transfers": transfers,
    }


def _find_excuse(simulation: Simulation) -> str:
    """Return why a job could not go on, as the kills tell; empty if it could."""
    # Who was suspected is as good as dead: the views have left it behind.
    view = simulation.scheduler.machine.view
    dead = simulation.dead | simulation.scheduler.machine.dead
    if view is None or not simulation.scheduler.machine.decisions:
        return "somebody died before the job had begun" if dead else ""
    for table, owners in enumerate(view.owners):
        for segment, owner in enumerate(owners.tolist()):
            if {owner, *view.copies[table][segment].tolist()} - {NOBODY} <= dead:
                return f"all copies of segment {segment} of table {table} were killed"
    for group in simulation.scheduler.machine.groups:
        if 2 * len(dead.intersection(group)) >= len(group):
            return "nobody was left who could decide"
    able = {member.node for member in view.members if member.role in ("worker", "spare")}
    return "nobody was left to work" if able <= dead else ""


def _check_ends(simulation: Simulation) -> str:
    """Return what is wrong with how the nodes came and left; empty if nothing is."""
    machine = simulation.scheduler.machine
    dead = simulation.dead | machine.dead
    left = [node for number, node in enumerate(simulation.nodes) if number not in dead]
    members = [node for node in left if not isinstance(node, SchedulerNode)]
    if machine.is_begun and machine.view and len(machine.view.members) < len(left):
        return "the job began before all nodes had come"
    gone = [node.exit_code == 0 or node.has_stopped for node in members if isinstance(node, Member)]
    return "" if all(gone) else "the scheduler left before others"


def _draw_shape(random: np.random.Generator, shape: Shape) -> Shape:
    """Return a shape with what is open drawn; a logical worker can have a node of its own."""
    servers = int(random.integers(1, SERVERS_MAX, endpoint=True))
    workers = int(random.integers(1, WORKERS_MAX, endpoint=True))
    extra = int(random.integers(0, 3))
    workers = shape.workers or workers
    spares, replicas = int(random.integers(0, 3)), int(random.integers(1, 3))
    return Shape(
        shape.servers or servers,
        workers,
        shape.logical_workers or workers + extra,
        spares if shape.spares is None else shape.spares,
        replicas if shape.replicas is None else shape.replicas,
    )


def _configure(seed: int, setup: Setup) -> Config:
    shape, settings = setup.shape, setup.settings
    return parse(
        "",
        "",
        [
            f"run.seed={seed}",
            f"run.servers={shape.servers}",
            f"run.workers={shape.workers}",
            f"run.logical_workers={shape.logical_workers}",
            f"run.spares={shape.spares}",
            f"replicas={shape.replicas}",
            f"recovery.silence_s={setup.silence_s}",
            f"recovery.worker={'spread' if seed % 2 else 'replace'}",
            f"model.steps={settings.steps}",
            f"model.pushes={settings.pushes}",
            f"model.keys={settings.keys}",
            f"model.reissue_s={settings.reissue_s}",
            f"filters.compress={setup.compress}",
        ],
    )
