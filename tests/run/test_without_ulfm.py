"""MPI without ULFM: everything runs, and one line says that deaths are not survived in place.

MPICH comes from its wheel, in an environment of its own, which is kept in the user's cache folder.
All else comes from this environment.
"""

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np
import pytest

from mpips.errors import MissingInputError
from mpips.fetch import fetch_pip
from mpips.node import mpirun
from tests.run.jobs import (
    ROOT,
    Done,
    mpips,
    result_of,
    run,
    train_here,
    under_mpirun,
    weights_of,
    write_rows,
)

# One process has the module's fixtures.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("mpich")]

WHEEL = "mpich==5.0.2"
SECONDS_TO_FETCH = 60
INSTALL = ("install", "-qq", "--no-input", "--no-deps", "--only-binary=:all:", "--retries=1",
           "--disable-pip-version-check", WHEEL)
WARNING = "mpips: warning: deaths of ranks are not survived in place here, "
INSTEAD = "mpirun --with-ft ulfm ..., as mpips train does by itself"
JOB = ("train", "rows.h5", "--set", "run.logical_workers=2")
PLAIN = (*JOB, "--model", "my_app:Plain", "--workers", "2")

APP = """
import os, signal
import mpips

class Plain(mpips.App):
    def tables(self):
        return [mpips.Table(name="w", size=8)]

    async def work(self, worker):
        await worker.push("w", [0], [1.0])

class Fatal(Plain):
    async def work(self, worker):
        if worker.id == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        await worker.pull("w", [0])

if __name__ == "__main__":
    if "PMI_RANK" in os.environ:
        from mpi4py import MPI
    mpips.run(Plain, settings={"run.logical_workers": 2})
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and an app."""
    folder = tmp_path_factory.mktemp("without-ulfm")
    write_rows(folder / "rows.h5", rows=200, columns=30)
    (folder / "my_app.py").write_text(APP, "utf-8")
    return folder


@pytest.fixture(scope="module")
def right(folder: Path) -> Path:
    """The run folder of the same job in one process, which needs no MPI."""
    found = train_here(folder / "rows.h5", folder / "right", "run.logical_workers=2")
    assert weights_of(found).any()
    return found


def check(done: Done, out: Path, right: Path) -> None:
    """Hold a job to the right weights, bit for bit."""
    assert done.code == 0, done.err
    assert result_of(out)["status"] == "done"
    np.testing.assert_array_equal(weights_of(out), weights_of(right))


def warnings(done: Done) -> list[str]:
    """Return the lines of all ranks that speak of deaths."""
    lines = (done.out + done.err).splitlines()
    return [line for line in lines if "in place" in line or "--with-ft" in line]


# A rank's end, with an MPI that tells whether it was finalized.
LEAVE = """
import atexit
from types import SimpleNamespace
from mpips.node.launch import leave

atexit.register(print, "exit handler")
leave(SimpleNamespace(Finalize=lambda: print("finalize", flush=True)), 75)
"""


@pytest.mark.parametrize(("ulfm", "told"), [("0", "finalize\nexit handler\n"), ("1", "")])
def test_ranks_run_exit_handlers_where_no_rank_may_die(
    ulfm: str, told: str, tmp_path: Path
) -> None:
    # MPICH's launcher kills all ranks when one leaves without its exit handler, now and then.
    done = run([sys.executable, "-c", LEAVE], tmp_path, OMPI_MCA_mpi_ft_enable=ulfm)
    assert (done.code, done.out) == (75, told)


# -- Open MPI ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def open_mpi() -> None:
    """Skip where this environment's MPI is another one, or too old."""
    if not mpirun.find().can_recover:
        pytest.skip(f"{mpirun.find()} has no ULFM to be left out")


@pytest.mark.usefixtures("open_mpi")
def test_open_mpi_without_the_flag_runs_and_warns_once(folder: Path, right: Path) -> None:
    done = under_mpirun(4, folder, "-m", "mpips", *JOB, "--out", "plain")
    check(done, folder / "plain", right)
    assert warnings(done) == [f"{WARNING}without --with-ft ulfm. Start instead: {INSTEAD}"]
    # It comes right after the first lines.
    assert done.out.splitlines()[2] == warnings(done)[0]


@pytest.mark.usefixtures("open_mpi")
def test_open_mpi_with_the_flag_does_not_warn(folder: Path) -> None:
    done = mpips(folder, *PLAIN, "--out", "flag")
    assert done.code == 0, done.err
    assert "(ULFM on)" in done.out
    assert not warnings(done)


def test_job_in_one_process_does_not_warn(folder: Path) -> None:
    done = run([sys.executable, "my_app.py", "--out", "alone"], folder)
    assert done.code == 0, done.err
    assert not warnings(done)


# -- MPICH ---------------------------------------------------------------------------------------


def make_environment(target: Path) -> None:
    """Make an environment that holds MPICH's wheel and nothing else; all of it or nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="new-") as new:
        made = Path(new, "environment")
        venv.create(made, symlinks=True)
        try:
            done = subprocess.run([*pip(new), "--python", str(made / "bin" / "python"), *INSTALL],
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                  timeout=SECONDS_TO_FETCH, check=False)
        except (OSError, MissingInputError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"the package index cannot be reached: {error}")
        if done.returncode:
            last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
            pytest.skip(f"the package index gave no {WHEEL}: {' '.join(last)}")
        # Whoever was faster has made the same one.
        if not target.exists():
            made.rename(target)


def pip(folder: str) -> tuple[str, ...]:
    """Return the command of this environment's pip, or of one from the index."""
    if importlib.util.find_spec("pip"):
        return (sys.executable, "-m", "pip")
    return (sys.executable, f"{fetch_pip(Path(folder))}/pip")


@pytest.fixture(scope="module")
def mpich() -> Path:
    """The programs of an environment with MPICH, which is kept for the next time."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    digest = hashlib.sha256(f"{WHEEL} {sys.base_prefix} {sys.version}".encode()).hexdigest()
    target = Path(home, "mpips", f"mpich-{digest[:12]}")
    if not target.exists():
        make_environment(target)
    return target / "bin"


def with_mpich(folder: Path, *command: str, **changes: str) -> Done:
    """Run a program where all packages but MPI are those of this environment."""
    packages = [path for path in sys.path if path.endswith("-packages")]
    path = os.pathsep.join([str(ROOT), *packages])
    return run(list(command), folder, PYTHONPATH=path, **changes)


def test_mpich_gives_the_same_bits_and_warns_once(mpich: Path, folder: Path, right: Path) -> None:
    done = with_mpich(folder, str(mpich / "mpiexec"), "-n", "4", str(mpich / "python"),
                      "-m", "mpips", *JOB, "--out", "mpich")
    check(done, folder / "mpich", right)
    [line] = warnings(done)
    assert line.startswith(f"{WARNING}under MPICH 5.")
    assert line.endswith(f". Start instead: Open MPI 5's {INSTEAD}")
    assert done.out.splitlines()[2] == line


def test_mpips_starts_mpichs_own_launcher(mpich: Path, folder: Path) -> None:
    done = with_mpich(folder, str(mpich / "python"), "-m", "mpips", *PLAIN, "--out", "own")
    assert (done.code, done.err) == (0, "")
    assert result_of(folder / "own")["status"] == "done"
    assert "1 scheduler + 1 server + 2 workers" in done.out
    assert len(warnings(done)) == 1
    shown = with_mpich(folder, str(mpich / "python"), "-m", "mpips", *PLAIN, "--dry-run")
    assert f" {mpich / 'mpirun'} -n 4 " in shown.out.splitlines()[0]
    assert "OMPI_" not in shown.out


def test_app_that_has_started_mpi_itself_runs_under_mpich(mpich: Path, folder: Path) -> None:
    done = with_mpich(folder, str(mpich / "mpiexec"), "-n", "4", str(mpich / "python"),
                      "my_app.py", "--out", "users")
    assert (done.code, done.err) == (0, "")
    assert result_of(folder / "users")["status"] == "done"


def test_death_under_mpich_has_the_exit_code_of_a_lost_rank(mpich: Path, folder: Path) -> None:
    done = with_mpich(folder, str(mpich / "python"), "-m", "mpips", *JOB, "--workers", "2",
                      "--model", "my_app:Fatal", "--out", "dead")
    assert done.code == 76
    assert "mpips: error: a rank was lost: its process has died\n" in done.err


REPORTS = """
from mpi4py import MPI
from mpips.transport.mpi_deaths import reports_deaths
print(MPI.COMM_SELF.Get_failed().size, reports_deaths(MPI.COMM_SELF))
"""


def test_mpich_is_not_asked_who_has_died(mpich: Path, folder: Path) -> None:
    # It has the call, but an error that it does not know has the number of a death's.
    done = with_mpich(folder, str(mpich / "python"), "-c", REPORTS)
    assert done.out == "0 False\n", done.err


def test_doctor_says_the_same_of_mpich(mpich: Path, folder: Path) -> None:
    done = with_mpich(folder, str(mpich / "python"), "-m", "mpips", "doctor")
    assert done.code == 0, done.out
    assert "deaths of ranks are not survived in place under MPICH 5." in done.out
    assert INSTEAD in done.out
    assert "they talk" in done.out


@pytest.mark.usefixtures("open_mpi")
def test_launcher_of_another_mpi_is_refused_before_the_library_aborts(
    mpich: Path, folder: Path
) -> None:
    done = with_mpich(folder, mpirun.find().path, "-n", "1", str(mpich / "python"), "-m", "mpips",
                      *JOB, "--out", "mixed", **mpirun.settings(1, local=True))
    assert done.code == 69
    assert "mpips: error: Open MPI's mpirun started ranks whose library is another's" in done.err
    assert "Fatal error" not in done.err
