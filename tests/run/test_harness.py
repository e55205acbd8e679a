"""The test harness under mpirun: one voice, every rank counts, nothing hangs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mpips.node import mpirun, surroundings

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
SECONDS = 90

HEAD = """
import pytest
from mpi4py import MPI
pytestmark = pytest.mark.mpi(min_size=2)
world = MPI.COMM_WORLD
"""

ONE_RANK_FAILS = HEAD + """
def test_good():
    world.Barrier()
def test_fails_before_the_barrier_of_the_next():
    assert world.rank != 1, "said by rank 1"
def test_good_again():
    world.Barrier()
@pytest.fixture
def setup():
    assert world.rank != 1
def test_setup_fails(setup):
    pass
def test_skipped_on_one():
    if world.rank == 1:
        pytest.skip("only here")
@pytest.mark.mpi(min_size=3)
def test_needs_more():
    pass
"""

ONE_RANK_HANGS = HEAD + """
def test_waits_for_ever():
    if world.rank == 1:
        world.recv(source=1)
"""

WRONG_MARKER = """
import pytest
@pytest.mark.mpi(minsize=2)
def test_it():
    pass
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with this harness and no tests."""
    (tmp_path / "tests" / "mpi").mkdir(parents=True)
    (tmp_path / "mpips").mkdir()
    for name in ("pyproject.toml", "tests/conftest.py"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    return tmp_path


def run(project: Path, test: str, *options: str) -> tuple[int, str]:
    """Run a test file on two ranks and return the exit code and what was printed."""
    (project / "tests" / "mpi" / "test_it.py").write_text(test, "utf-8")
    start = mpirun.prepare(2, [
        sys.executable, "-m", "pytest", "-q", "--with-mpi", "-m", "mpi", "--color=no",
        "-p", "no:cacheprovider", "--timeout-method=thread", *options])
    environment = {**start.environment, "PYTHONPATH": str(ROOT),
                   "MPIPS_TEST_COUNTS": str(project / "counts.json")}
    # With CI set, pytest's last lines repeat the errors in full.
    environment.pop("CI", None)
    done = subprocess.run(start.command, cwd=project, env=environment, text=True, timeout=SECONDS,
                          stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_failure_of_any_rank_counts_and_rank_0_tells_it_once(project: Path) -> None:
    code, shown = run(project, ONE_RANK_FAILS)
    assert code == 1
    assert shown.count("AssertionError: said by rank 1") == 1
    counts = json.loads((project / "counts.json").read_text("utf-8"))
    assert counts == {"passed": 2, "failed": 2, "error": 1, "skipped": 1, "xfailed": 0}
    assert (project / "test-logs" / "rank-1.txt").is_file()


def test_hanging_rank_is_named_with_its_place_and_the_job_ends(project: Path) -> None:
    code, shown = run(project, ONE_RANK_HANGS, "--agree=1")
    assert code == 70
    assert "test_waits_for_ever (call): rank 1 did not finish within 1 s" in shown
    assert 'test_it.py", line 9 in test_waits_for_ever' in shown
    assert not (project / "counts.json").exists()


def test_misspelled_marker_is_refused(project: Path) -> None:
    code, shown = run(project, WRONG_MARKER)
    assert code != 0
    assert "mpi takes min_size only" in shown


def serial(project: Path, test: str) -> tuple[int, str]:
    """Run a unit test file without mpirun and return the exit code and what was printed."""
    (project / "tests" / "wire").mkdir()
    (project / "tests" / "wire" / "test_it.py").write_text(test, "utf-8")
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "--color=no"], cwd=project,
                          env=surroundings.inner_environment({"PYTHONPATH": str(ROOT)}),
                          text=True, timeout=SECONDS, stdin=subprocess.DEVNULL,
                          capture_output=True, check=False)
    return done.returncode, done.stdout + done.stderr


BUSY = """
import pytest, time
def work(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
def test_listed():
    work(0.4)
@pytest.mark.slow
def test_allowed():
    work(0.5)
"""


def test_slow_test_without_a_mark_is_listed(project: Path) -> None:
    code, shown = serial(project, BUSY)
    assert code == 0
    listed = shown.partition("of processor time")[2]
    assert "test_listed" in listed
    assert "test_allowed" not in shown


def test_unmarked_test_among_the_mpi_tests_is_refused(project: Path) -> None:
    (project / "tests" / "mpi" / "test_it.py").write_text("def test_it():\n    pass\n", "utf-8")
    code, shown = serial(project, "def test_it():\n    pass\n")
    assert code != 0
    assert "the marker mpi and the folder tests/mpi go together" in shown
