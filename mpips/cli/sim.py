"""Run the protocol in a simulated cluster where things go wrong, all drawn from a seed.

The nodes are the ones of real jobs, in one process and virtual time. Ends with 1 if a check fails;
the same seed then fails again.
"""

import argparse
from collections import Counter
from typing import TYPE_CHECKING

from mpips.errors import UsageError

if TYPE_CHECKING:
    from mpips.testing.trial import Shape, Trial

FAILED = 1
COUNTED = (
    "server_duplicate_slices", "server_parked_slices", "moved_segments", "server_stopped_pushes",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="what to draw from")
    parser.add_argument("--seeds", type=int, default=1, metavar="K",
                        help="run K seeds from N on, and print only counts and what fails")
    parser.add_argument("--no-kills", action="store_true", help="let nobody die")
    parser.add_argument("--no-orders", action="store_true",
                        help="let no segments move, and nobody come or go by order")
    for name in ("servers", "workers", "logical-workers"):
        parser.add_argument(f"--{name}", type=int, default=0, metavar="N",
                            help="a fixed number; without it, drawn from the seed")
    for name in ("spares", "replicas"):
        parser.add_argument(f"--{name}", type=int, default=None, metavar="N",
                            help="a fixed number, which may be 0; without it, drawn from the seed")
    parser.add_argument("--story", default="", metavar="NODE",
                        help="also print all messages of a node, such as 'server 1'")


def run(arguments: argparse.Namespace) -> int:
    """Run one seed or many, and print what came of it; the same bytes for the same seed."""
    from mpips.testing.trial import Shape, run_trial

    # A wrong number must not end in a simulation that makes no sense.
    for name, least in (("seed", 0), ("seeds", 1), ("servers", 0), ("workers", 0),
                        ("logical_workers", 0), ("spares", 0), ("replicas", 0)):
        value = getattr(arguments, name) or 0
        if value < least:
            raise UsageError(f"--{name.replace('_', '-')} {value} is less than {least}")
    shape = Shape(arguments.servers, arguments.workers, arguments.logical_workers,
                  arguments.spares, arguments.replicas)
    if arguments.seeds > 1:
        if arguments.story:
            raise UsageError("--story tells of one run, --seeds makes many", "",
                             "Give --seed alone.")
        return _run_many(arguments, shape)
    trial = run_trial(arguments.seed, shape, not arguments.no_kills, not arguments.no_orders)
    messages = _story(trial, arguments.story) if arguments.story else []
    print("\n".join([*messages, *_tell(trial)]))
    return FAILED if trial.has_failed else 0


def _run_many(arguments: argparse.Namespace, shape: "Shape") -> int:
    """Run many seeds and print a line for each that fails, and one for all."""
    from mpips.testing.trial import run_trial

    totals: Counter[str] = Counter()
    first, count, failed = arguments.seed, arguments.seeds, 0
    for seed in range(first, first + count):
        trial = run_trial(seed, shape, not arguments.no_kills, not arguments.no_orders)
        if trial.has_failed:
            failed += 1
            print(f"seed {seed} failed: {_problems(trial)[0]}\n  {trial.replay()}", flush=True)
        simulation = trial.simulation
        totals["frames"] += len(simulation.network.trace)
        totals["copies"] += simulation.network.copies
        totals["pauses"] += simulation.pauses
        totals["deaths"] += len(simulation.dead)
        totals["left behind"] += len(simulation.scheduler.machine.dead - simulation.dead)
        totals["orders"] += simulation.scheduler.machine.statistics()["orders"]
        totals["ended with 76"] += bool(trial.excuse)
        for name in COUNTED:
            totals[name.removeprefix("server_").replace("_", " ")] += trial.counters[name]
    counts = ", ".join(f"{name} {number}" for name, number in totals.items())
    print(f"seeds {first} to {first + count - 1}: {count - failed} ok, {failed} failed; {counts}")
    return FAILED if failed else 0


def _tell(trial: "Trial") -> list[str]:
    """Return the lines about a run: what was drawn, what happened, what holds."""
    shape, simulation = trial.shape, trial.simulation
    lines = [
        f"seed {trial.seed}: servers {shape.servers}, workers {shape.workers},"
        f" logical workers {shape.logical_workers}, spares {shape.spares},"
        f" replicas {shape.replicas}",
        "faults drawn (virtual seconds)",
        *(f"  {line}" for line in trial.faults.describe()),
        "what happened",
        f"  {simulation.network.now:.6f} virtual seconds,"
        f" {'healed before the end' if simulation.is_healed else 'with faults to the end'}",
        f"  deaths {len(simulation.dead)}",
        f"  frames {len(simulation.network.trace)}, copies {simulation.network.copies},"
        f" pauses {simulation.pauses}",
        *(f"  {name.replace('_', ' ')} {count}" for name, count in trial.counters.items()),
        "checks",
    ]
    if trial.error:
        lines += ["  FAILED  the job ends", *(f"          {line}" for line in _problems(trial))]
    elif trial.excuse:
        lines.append(f"  ok      the job ends with exit code 76: {trial.excuse}")
    else:
        lines.append("  ok      the job ends")
        for name, found in trial.violations.items():
            lines.append(f"  {'FAILED' if found else 'ok':<6}  {name}")
            lines += [f"          {line}" for line in found]
    return lines + ([f"again: {trial.replay()}"] if trial.has_failed else [])


def _problems(trial: "Trial") -> list[str]:
    """Return what went wrong, line by line."""
    return [*trial.error.splitlines(), *(line for v in trial.violations.values() for line in v)]


def _story(trial: "Trial", name: str) -> list[str]:
    """Return what a node has got and what reached others of it, and what its machine tells.

    Raises:
        UsageError: the run has no such node.
    """
    simulation = trial.simulation
    names = [simulation.name(node) for node in range(len(simulation.nodes))]
    if name not in names:
        raise UsageError(f"there is no {name} in this run", "", f"There are {', '.join(names)}.")
    lines = [
        f"{arrival.seconds:12.6f}  {names[arrival.source]} > {names[arrival.dest]}"
        f"  {arrival.message}{f'  (copy {arrival.copy})' if arrival.copy else ''}"
        for arrival in simulation.network.trace
        if name in (names[arrival.source], names[arrival.dest])
    ]
    return [*lines, *simulation.story(names.index(name))]
