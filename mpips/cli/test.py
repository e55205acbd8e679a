"""Run the project's tests: style, units, simulations, MPI, whole runs, killed ranks, Slurm."""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mpips.bootstrap import ROOT, is_checkout
from mpips.errors import UsageError
from mpips.node import mpirun, surroundings

SUITES = {
    "tidy": "ruff, mypy, and the project's own rules",
    "unit": "everything that needs no second process",
    "sim": "the protocol in a simulated cluster, with failures",
    "mpi": "inside MPI worlds of 2 and of 4 ranks",
    "run": "whole jobs, started as a user starts them",
    "kill": "jobs whose ranks are killed",
    "slurm": "jobs under Slurm, where there is one",
}
# Their tests share the machine with others, and race against clocks that are not ours.
UNSTEADY = ("run", "kill", "slurm")
# Their tests are alone in their process, so that each core can run some of them.
PARALLEL = ("unit", "sim")
# Their tests start jobs of about six ranks, which wait half of the time.
JOBS = ("run", "kill")
JOB_CORES = 4
MPI_SIZES = (2, 4)
APART = ("tidy", "sim", "mpi", "run", "kill", "slurm")
FAILED = 1
NO_TESTS_COLLECTED = 5


@dataclass
class Outcome:
    """What one step of a suite gave: counts of tests, and how long it took.

    Attributes:
        unsteady: of those that passed, how many had failed when they were run first.
    """

    suite: str
    step: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    unsteady: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Step:
    """A program to run: pytest, which counts its tests, or a checker, which counts as one.

    Attributes:
        again: the command that runs what has failed a second time, if there is one.
    """

    suite: str
    name: str
    command: tuple[str, ...]
    environment: dict[str, str]
    counts: bool = True
    again: tuple[str, ...] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    text = "\n".join(f"{name}: {what}" for name, what in SUITES.items())
    parser.add_argument("suites", nargs="*", metavar="SUITE",
                        help=f"what to run, all in this order by default: {', '.join(SUITES)}")
    parser.add_argument("-k", metavar="EXPR", default="", help="run matching tests only, as pytest")
    parser.add_argument("--soak", type=int, default=1, metavar="N",
                        help="repeat N times, each time with another seed")
    parser.add_argument("-x", action="store_true", help="stop at the first failing step")
    parser.description = f"{parser.description}\n\n{text}"


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen suites and return 0 if all tests passed, else 1."""
    chosen = arguments.suites or list(SUITES)
    if wrong := [name for name in chosen if name not in SUITES]:
        raise UsageError(f"there is no suite {wrong[0]}", "", f"there are {', '.join(SUITES)}")
    if not (is_checkout() and (ROOT / "tests").is_dir()):
        raise UsageError("the tests are not installed with the package", str(ROOT),
                         "get the sources, and there: python3 -m mpips test")
    if arguments.soak < 1:
        raise UsageError(f"--soak is {arguments.soak}", "", "use 1 or more")

    # Run step by step; a suite's failure does not hide the next one's.
    outcomes: list[Outcome] = []
    for seed in range(1, arguments.soak + 1):
        for step in steps(chosen, arguments.k, arguments.x, seed):
            outcomes.append(execute_patiently(step))
            if arguments.x and outcomes[-1].failed:
                return summarise(outcomes)
    return summarise(outcomes)


def steps(suites: Sequence[str], expression: str, stop: bool, seed: int) -> Iterator[Step]:
    """Yield the steps of the suites that exist here, in the order of `SUITES`."""
    options = ["-q", f"--seed={seed}"] + (["-k", expression] if expression else [])
    options += ["-x"] if stop else []
    environment = surroundings.inner_environment(mpirun.settings(max(MPI_SIZES), local=True))
    for suite in (name for name in SUITES if name in suites):
        folder = ROOT / "tests" / suite
        if suite == "tidy" and not expression:
            yield from checkers(environment)
        if suite == "unit":
            ignored = [f"--ignore={ROOT / 'tests' / name}" for name in APART]
            ignored += ["-m", "not rates"]
            command = pytest(*options, *spread(suite), *ignored, "tests")
            yield Step(suite, "pytest", command, environment)
        elif suite == "mpi" and any(folder.rglob("test_*.py")):
            yield from (mpi_step(size, options) for size in MPI_SIZES)
        elif suite == "slurm" and shutil.which("sbatch") is None:
            continue
        elif any(folder.rglob("test_*.py")):
            command = pytest(*options, *spread(suite), str(folder))
            alone = pytest(*options, str(folder), "--last-failed")
            again = alone if suite in UNSTEADY else ()
            yield Step(suite, "pytest", command, environment, again=again)


def spread(suite: str) -> tuple[str, ...]:
    """Return the options that let pytest use all cores, each for a part of a suite's tests."""
    cores = surroundings.cores()
    if cores > 1 and suite in PARALLEL:
        return ("-n", str(cores), "--dist", "worksteal")
    if cores > 1 and suite in JOBS:
        # Tests are given out one by one, since some take as long as many others.
        count = str(max(2, cores // JOB_CORES))
        return ("-n", count, "--dist", "loadgroup", "--maxschedchunk=1")
    return ()


def pytest(*options: str) -> tuple[str, ...]:
    """Return the command that runs pytest with some options."""
    return (sys.executable, "-m", "pytest", *options)


def checkers(environment: dict[str, str]) -> Iterator[Step]:
    """Yield the steps that run ruff and mypy."""
    ruff = (sys.executable, "-m", "ruff", "check", "--quiet", ".")
    yield Step("tidy", "ruff", ruff, environment, counts=False)
    mypy = (sys.executable, "-m", "mypy", "--no-error-summary")
    yield Step("tidy", "mypy", mypy, environment, counts=False)


def mpi_step(size: int, options: Sequence[str]) -> Step:
    """Return the step that runs the MPI tests on `size` ranks.

    A signal cannot enter a blocked MPI call, therefore the time limit is a thread's.
    """
    extra = ("--with-mpi", "-m", "mpi", "-p", "no:cacheprovider", "--timeout-method=thread",
             str(ROOT / "tests" / "mpi"))
    start = mpirun.prepare(size, pytest(*options, *extra))
    name = f"{size} ranks"
    return Step("mpi", name, start.command, start.environment, again=start.command)


def execute_patiently(step: Step) -> Outcome:
    """Run a step, and what failed of it once more if it is one of real processes.

    What passes only then is counted as unsteady: a defect to be found, in the test or in mpips,
    yet no reason to refuse a change.
    """
    first = execute(step)
    if not (first.failed and step.again):
        return first
    # A step that died has counted nothing, and noted nothing of what failed.
    command = step.again if first.passed else step.command
    second = execute(replace(step, name=f"{step.name}, again", command=command))
    mended = max(0, first.failed - second.failed) if second.passed else 0
    first.failed, first.unsteady = first.failed - mended, mended
    first.passed = max(first.passed + mended, second.passed)
    first.seconds += second.seconds
    return first


def execute(step: Step) -> Outcome:
    """Run a step in the foreground and return its counts."""
    print(f"\n== {step.suite}: {step.name}", flush=True)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mpips-test-") as folder:
        path = Path(folder) / "counts.json"
        environment = {**step.environment, "MPIPS_TEST_COUNTS": str(path)}
        code = mpirun.run(mpirun.Start(step.command, environment, {}), folder=ROOT)
        counts = json.loads(path.read_text("utf-8")) if path.is_file() else {}

    # Believe the worse of exit code and counts: who dies early counts nothing, with any code.
    outcome = Outcome(step.suite, step.name, seconds=time.monotonic() - begin)
    outcome.passed = counts.get("passed", 0) + counts.get("xfailed", 0)
    outcome.failed = counts.get("failed", 0) + counts.get("error", 0)
    outcome.skipped = counts.get("skipped", 0)
    ended_well = code == 0 and (bool(counts) or not step.counts)
    ended_well = ended_well or (code == NO_TESTS_COLLECTED and bool(counts))
    if not step.counts:
        outcome.passed, outcome.failed = int(ended_well), int(not ended_well)
    elif not ended_well:
        outcome.failed = max(outcome.failed, 1)
    return outcome


def summarise(outcomes: Sequence[Outcome]) -> int:
    """Print a line for each step and the sum in the last line; return the exit code."""
    print(f"\n{'suite':<8}{'step':<10}{'passed':>8}{'failed':>8}{'skipped':>9}"
          f"{'unsteady':>10}{'minutes':>9}")
    for one in outcomes:
        print(f"{one.suite:<8}{one.step:<10}{one.passed:>8}{one.failed:>8}{one.skipped:>9}"
              f"{one.unsteady:>10}{one.seconds / 60:>9.1f}")
    passed, failed, skipped = (sum(getattr(one, name) for one in outcomes)
                               for name in ("passed", "failed", "skipped"))
    minutes = sum(one.seconds for one in outcomes) / 60
    print(f"{minutes:.1f} minutes in all")
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)

    # Say no success where nothing was tested.
    return 0 if passed and not failed else FAILED
