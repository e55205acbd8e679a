"""What all tests share: markers that mean something, deadlines, and one voice under mpirun.

Under mpirun rank 0 alone reports, the failure of any rank counts, the ranks agree after each
test, and a rank that never comes is named before the job is aborted: nothing hangs.
"""

import contextlib
import faulthandler
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpips.node import kernels

ROOT = Path(__file__).resolve().parent.parent
MARKERS = {"mpi", "slow", "rates", "kill", "slurm"}
LISTED_SECONDS = 0.25
UNDER_MPI = any(name in os.environ for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"))
ABORT_CODE = 70
STACK_SIGNAL = signal.SIGUSR2
TEXT_BYTES = 4000

SECONDS = "seconds above the limit"

slow_tests: list[tuple[float, str]] = []


# Set before NumPy's and Numba's first use: one thread a rank, and a cache for the kernels.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
kernels.use_cache()

# Tests start a thousand processes. Who wants no bytecode beside the sources gets it elsewhere,
# since each process would compile all modules anew: that is a third of what a rank's start costs.
if sys.dont_write_bytecode:
    sys.dont_write_bytecode = False
    sys.pycache_prefix = sys.pycache_prefix or str(kernels.cache_folder().with_name("bytecode"))
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": sys.pycache_prefix}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the deadlines, the seed, and the writing of golden scripts."""
    parser.addoption("--agree", type=float, default=30.0,
                     help="seconds to wait for the other ranks after each test")
    parser.addoption("--seed", type=int, default=1, help="seed of the fixture rng")
    parser.addoption("--rewrite", action="store_true",
                     help="write what the machines now do into tests/golden; read the difference")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests of tests/kill and tests/slurm, and refuse markers without effect.

    Those for soaks are left out with the first seed.
    """
    for item in items:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        if folder in ("kill", "slurm"):
            item.add_marker(folder)

        # A misspelled keyword would be ignored, and an unmarked test never be run.
        marks = list(item.iter_markers("mpi"))
        for mark in marks:
            if mark.args or set(mark.kwargs) - {"min_size"}:
                raise pytest.UsageError(f"{item.nodeid}: mpi takes min_size only, got {mark}")
        if (folder == "mpi") != bool(marks):
            raise pytest.UsageError(f"{item.nodeid}: the marker mpi and the folder tests/mpi "
                                    "go together")

    # Rows of similar tests are long only when somebody soaks.
    if config.getoption("--seed") == 1:
        later = [item for item in items if item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=later)
        items[:] = [item for item in items if not item.get_closest_marker("soak")]


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Return a generator whose seed is that of the option --seed and the test's name."""
    seed = request.config.getoption("--seed")
    name = hashlib.sha256(request.node.nodeid.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(name[:8], "little")])


# --- Time: an unmarked test is fast. -----------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Measure the processor time of a test, without that of imports and compilers."""
    modules, compiled, begin = len(sys.modules), compiled_files(), time.process_time()
    result = yield
    seconds = time.process_time() - begin
    if MARKERS & {mark.name for mark in item.iter_markers()} or seconds < LISTED_SECONDS:
        return result

    # The first use of a library or a kernel is slow once, whoever comes first.
    if len(sys.modules) - modules <= 20 and compiled_files() == compiled:
        item.user_properties.append((SECONDS, seconds))
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember a slow test, whichever process has run it."""
    seconds = dict(report.user_properties).get(SECONDS)
    if report.when == "call" and isinstance(seconds, float):
        slow_tests.append((seconds, report.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Compile the kernels before there are workers, which would all do it at once."""
    kernels.compile_kernels(print)


def compiled_files() -> int:
    """Count the files of compiled kernels: it grows when something was compiled."""
    folder = Path(os.environ["NUMBA_CACHE_DIR"])
    return sum(1 for _ in folder.rglob("*.nbc")) if folder.is_dir() else 0


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """List the slow tests, and hand the counts to `mpips test`."""
    if slow_tests:
        terminalreporter.section(f"tests above {LISTED_SECONDS} s of processor time")
        for seconds, name in sorted(slow_tests, reverse=True)[:10]:
            terminalreporter.write_line(f"{seconds:6.2f} s  {name}")
    path = os.environ.get("MPIPS_TEST_COUNTS")
    if path and (not UNDER_MPI or ranks.rank == 0):
        kinds = ("passed", "failed", "error", "skipped", "xfailed")
        stats = {kind: len(terminalreporter.stats.get(kind, ())) for kind in kinds}
        Path(path).write_text(json.dumps(stats), "utf-8")


# --- Under mpirun: one voice, one verdict, no waiting for ever. ---------------------------------


class Ranks:
    """The ranks of this test run, on a communicator that the tests do not use."""

    def __init__(self) -> None:
        from mpi4py import MPI

        self.world = MPI.COMM_WORLD
        self.comm = MPI.COMM_WORLD.Dup()
        self.rank, self.size = self.comm.rank, self.comm.size
        self.processes = self.comm.allgather(os.getpid())
        self.phases = 0

    def agree(self, name: str, mine: str, seconds: float) -> list[str]:
        """Exchange a text after a phase of a test and return all ranks' texts, in their order.

        A rank that does not come in time is named, and the job is aborted.
        """
        from mpi4py import MPI

        # Send to all and receive from all: who is missing is then known by number.
        self.phases += 1
        tag = self.phases % 30_000 + 1
        text = np.frombuffer(mine.encode()[:TEXT_BYTES], np.uint8)
        sends = [self.comm.Isend(text, peer, tag) for peer in range(self.size)]
        buffers = [np.zeros(TEXT_BYTES, np.uint8) for _ in range(self.size)]
        receives = [self.comm.Irecv(buffers[peer], peer, tag) for peer in range(self.size)]
        deadline = time.monotonic() + seconds
        waiting = set(range(self.size))
        while waiting and time.monotonic() < deadline:
            waiting = {peer for peer in waiting if not receives[peer].Test()}
            time.sleep(0.001 if waiting else 0)
        if waiting:
            self.give_up(name, mine, waiting, seconds)
        MPI.Request.Waitall(sends)
        return [bytes(buffer).rstrip(b"\0").decode("utf-8", "replace") for buffer in buffers]

    def give_up(self, name: str, mine: str, missing: Iterable[int], seconds: float) -> None:
        """Name the ranks that did not finish a test, ask them where they are, and abort."""
        who = ", ".join(map(str, sorted(missing)))
        print(f"\n[rank {self.rank}] {name}: rank {who} did not finish within {seconds:g} s; "
              f"aborting\n{mine}", file=sys.__stderr__, flush=True)
        for peer in missing:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.processes[peer], STACK_SIGNAL)
        time.sleep(0.5)
        self.world.Abort(ABORT_CODE)


if UNDER_MPI:
    ranks = Ranks()

    @pytest.hookimpl(trylast=True)
    def pytest_configure(config: pytest.Config) -> None:
        """Let ranks other than 0 report into a file, and all say where they hang if asked."""
        # Take the stream before pytest captures it. The handler is no Python code: it also runs
        # while the rank waits inside MPI.
        faulthandler.register(STACK_SIGNAL, file=os.dup(2))
        reporter = config.pluginmanager.getplugin("terminalreporter")
        if ranks.rank and reporter is not None:
            folder = ROOT / "test-logs"
            folder.mkdir(exist_ok=True)
            log = (folder / f"rank-{ranks.rank}.txt").open("w", buffering=1, encoding="utf-8")
            config.add_cleanup(log.close)
            reporter._tw._file = log

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Fail a test on every rank that failed on any, once all ranks have finished it.

        Setup, call and teardown are agreed on each: where a setup failed elsewhere, pytest then
        leaves out the call here too, and the ranks stay in step.
        """
        report = yield
        mine = f"{report.outcome} {report.longreprtext[-3000:] if report.failed else ''}"
        limit = item.config.getoption("--agree")
        texts = ranks.agree(f"{item.nodeid} ({call.when})", mine, limit)
        bad = [f"rank {n}: {text}" for n, text in enumerate(texts)
               if not text.startswith(report.outcome)]
        if bad and not report.failed:
            report.outcome = "failed"
            report.longrepr = "other ranks:\n" + "\n".join(bad)
        return report
