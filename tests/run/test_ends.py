"""A job that waits costs nothing, and ends with all its ranks when it is told to."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.run.jobs import (
    SECONDS,
    environment,
    mpips,
    processes_of,
    result_of,
    run,
    under_mpirun,
    write_rows,
)

pytestmark = pytest.mark.slow

WATCHED_S = 2.0
# A rank that spins takes a quarter of two cores or more; one that sleeps takes under 1 %, in ticks
# of 10 ms, and some more where the machine is busy.
SHARE_MAX = 0.1

SLEEPER = """
import time
import mpips

class Sleeper(mpips.App):
    def tables(self):
        return [mpips.Table(name="w", size=8)]

    async def work(self, worker):
        time.sleep(300)
"""


@dataclass
class Waiting:
    """A job whose worker sleeps: its launcher, and the process of each rank by role."""

    launcher: "subprocess.Popen[str]"
    folder: Path
    processes: dict[str, list[int]]


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Waiting]:
    """A job that waits for its worker."""
    write_rows(tmp_path / "rows.h5", rows=20)
    (tmp_path / "my_sleeper.py").write_text(SLEEPER, "utf-8")
    folder = tmp_path / "waiting-job"
    command = [sys.executable, "-m", "mpips", "train", "rows.h5", "--servers", "2",
               "--model", "my_sleeper:Sleeper", "--out", str(folder),
               "--set", "run.debug=true"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                          text=True) as launcher:
        try:
            yield Waiting(launcher, folder, wait_until_it_works(folder, launcher))
        finally:
            launcher.kill()


def wait_until_it_works(
    folder: Path, launcher: "subprocess.Popen[str]"
) -> dict[str, list[int]]:
    """Return the processes by role, from the logs, once the worker has been called."""
    deadline = time.monotonic() + SECONDS
    text = ""
    while "call 1: work" not in text:
        assert time.monotonic() < deadline, text
        assert launcher.poll() is None, text
        time.sleep(0.05)
        text = "".join(path.read_text("utf-8") for path in folder.glob("log/rank-*.log"))
    found: dict[str, list[int]] = {}
    for role, process in re.findall(r"(scheduler|server|worker) \d+ on .*process (\d+)", text):
        found.setdefault(role, []).append(int(process))
    return found


def processor_seconds(process: int) -> float:
    """Return how many seconds of processor time a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_waiting_ranks_leave_the_processor_to_others_and_ctrl_c_ends_all(waiting: Waiting) -> None:
    assert {role: len(them) for role, them in waiting.processes.items()} == {
        "scheduler": 1, "server": 2, "worker": 1}
    idle = waiting.processes["scheduler"] + waiting.processes["server"]
    # Silence makes sleeps longer, after a second.
    time.sleep(1.5)
    before = {process: processor_seconds(process) for process in idle}
    time.sleep(WATCHED_S)
    shares = [(processor_seconds(one) - before[one]) / WATCHED_S for one in idle]
    assert max(shares) <= SHARE_MAX, shares

    # The same job is then interrupted, as a terminal does it.
    everybody = processes_of(str(waiting.folder))
    assert len(everybody) >= 5
    waiting.launcher.send_signal(signal.SIGINT)
    _, told = waiting.launcher.communicate(timeout=SECONDS)
    assert waiting.launcher.returncode == 130
    assert "Traceback" not in told
    assert told.endswith(f"mpips: interrupted; logs in {waiting.folder}/log\n")
    deadline = time.monotonic() + 10
    while left := processes_of(str(waiting.folder)):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    assert not (waiting.folder / "result.json").exists()


@pytest.mark.parametrize("arguments", [("--help",), ("train", "--help"), ("demo", "--help")])
def test_help_imports_no_numpy_and_no_mpi(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "mpips", *arguments],
                          cwd=tmp_path, env=environment(), capture_output=True, text=True,
                          timeout=SECONDS, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: mpips")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "mpips.cli.main" in imported
    assert not imported & {"mpi4py", "h5py", "numba", "scipy"}
    if arguments == ("--help",):
        assert not imported & {"numpy", "msgspec"}


# -- The demo ------------------------------------------------------------------------------------

DEMO = ("demo", "--set", "model.tolerance=0.5", "--set", "model.passes=2")


def test_demo_runs_in_any_folder_and_inside_an_mpirun_as_a_job_of_its_own(tmp_path: Path) -> None:
    done = under_mpirun(1, tmp_path, "-m", "mpips", *DEMO, "--servers", "1", "--workers", "2")
    assert done.code == 0, done.err
    assert "1 scheduler + 1 server + 2 workers" in done.out
    [folder] = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("demo-")
    result = result_of(folder)
    assert result["status"] == "done"
    assert f"test AUC {result['auc']:.4f}" in done.out
    assert result["auc"] > 0.6
    assert "try next:" in done.out
    assert f"info runs/{folder.name}" in done.out


# -- Deaths and interrupts -----------------------------------------------------------------------

FATAL = """
import os, signal, sys, time
import mpips

class Fatal(mpips.App):
    def tables(self):
        return [mpips.Table(name="w", size=8)]

    async def work(self, worker):
        if worker.id == 1:
            os.kill(os.getpid(), signal.SIGKILL)

class FatalPlan(Fatal):
    def plan(self):
        os.kill(os.getpid(), signal.SIGKILL)
        yield

class Interrupted(Fatal):
    async def work(self, worker):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(300)

if __name__ == "__main__":
    mpips.run(Interrupted, settings={"run.logical_workers": 3})
"""


@pytest.mark.parametrize(("app", "begin", "words"), [
    # Whoever takes over for a worker that kills itself does so, too.
    ("Fatal", "no worker is left: worker ", ("\n  worker, rank ", "out/log/rank-000")),
    ("FatalPlan", "a rank was lost: its process has died\n", ("out/log",)),
])  # fmt: skip
def test_death_of_a_rank_says_who_and_where_to_look(
    app: str, begin: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    write_rows(tmp_path / "rows.h5", rows=20)
    (tmp_path / "my_fatal.py").write_text(FATAL, "utf-8")
    done = mpips(tmp_path, "train", "rows.h5", "--model", f"my_fatal:{app}", "--workers", "2",
                 "--servers", "1", "--out", "out")
    assert done.code == 76, done.err
    told = done.err.partition("mpips: error: ")[2]
    assert told.startswith(begin)
    for word in (*words, "Run again", "dmesg"):
        assert word in told, (word, told)


def test_interrupt_of_a_job_in_one_process_is_quiet(tmp_path: Path) -> None:
    (tmp_path / "my_fatal.py").write_text(FATAL, "utf-8")
    done = run([sys.executable, "my_fatal.py"], tmp_path)
    assert (done.code, done.err) == (130, "mpips: interrupted\n")
    [folder] = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("Interrupted-")
    told = mpips(tmp_path, "info", str(folder))
    assert "no result: interrupted or still running" in told.out
