"""A real mpirun, started as mpips starts it: worlds, exit codes, signals, no orphans."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpips.node import mpirun

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60

# Ranks write what they see into files: what is printed at the end may be lost.
RANK = """
import json, os, signal, sys, time
from pathlib import Path
import mpi4py
mpi4py.rc.finalize = False
from mpi4py import MPI
folder, task = Path(sys.argv[1]), sys.argv[2]
world = MPI.COMM_WORLD
facts = {"size": world.size, "pid": os.getpid(), "stdin": sys.stdin.read(),
         "ft": os.environ.get("OMPI_MCA_mpi_ft_enable"), "coll": os.environ["OMPI_MCA_coll"]}
got = []
signal.signal(signal.SIGUSR1, lambda *a: got.append(1))
(folder / f"{world.rank}.part").write_text(json.dumps(facts))
(folder / f"{world.rank}.part").rename(folder / f"{world.rank}.json")
deadline = time.monotonic() + 50
while task == "wait" and not got and time.monotonic() < deadline:
    time.sleep(0.01)
(folder / f"{world.rank}.end").write_text(str(len(got)))
os._exit(int(task) if task.isdigit() else 0)
"""

OUTER = """
import sys
from mpips.node import mpirun
sys.exit(mpirun.run(mpirun.prepare(int(sys.argv[1]), [sys.executable, "-P", *sys.argv[2:]])))
"""


def launch(folder: Path, ranks: int, task: str) -> "subprocess.Popen[bytes]":
    """Start a launcher with ranks that do a task."""
    script = folder / "rank.py"
    script.write_text(RANK, "utf-8")
    command = [sys.executable, "-c", OUTER, str(ranks), str(script), str(folder), task]
    return subprocess.Popen(command, cwd=ROOT)


def facts(folder: Path, ranks: int) -> list[dict[str, object]]:
    """Wait until all ranks have written their facts, and return them."""
    paths = [folder / f"{rank}.json" for rank in range(ranks)]
    deadline = time.monotonic() + SECONDS
    while not all(path.is_file() for path in paths):
        assert time.monotonic() < deadline, f"missing: {[p for p in paths if not p.is_file()]}"
        time.sleep(0.01)
    return [json.loads(path.read_text("utf-8")) for path in paths]


def gone(process: int) -> bool:
    """Wait until a process has ended; False if it does not."""
    path = Path(f"/proc/{process}/stat")
    deadline = time.monotonic() + SECONDS / 4
    while time.monotonic() < deadline:
        try:
            if path.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def test_ranks_see_one_world_with_recovery_and_an_empty_stdin(tmp_path: Path) -> None:
    with launch(tmp_path, 3, "0") as launcher:
        seen = facts(tmp_path, 3)
        assert launcher.wait(SECONDS) == 0
    assert [one["size"] for one in seen] == [3, 3, 3]
    assert {one["stdin"] for one in seen} == {""}
    assert {one["coll"] for one in seen} == {"^hcoll,portals4,han"}
    assert {one["ft"] for one in seen} == {"1" if mpirun.find().can_recover else None}


def test_exit_code_of_the_ranks_comes_through(tmp_path: Path) -> None:
    with launch(tmp_path, 2, "75") as launcher:
        assert launcher.wait(SECONDS) == 75


def test_usr1_reaches_every_rank_and_ends_nothing(tmp_path: Path) -> None:
    with launch(tmp_path, 2, "wait") as launcher:
        facts(tmp_path, 2)
        launcher.send_signal(signal.SIGUSR1)
        assert launcher.wait(SECONDS) == 0
    assert [(tmp_path / f"{rank}.end").read_text() for rank in (0, 1)] == ["1", "1"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_launcher_that_is_ended_leaves_no_ranks(number: signal.Signals, tmp_path: Path) -> None:
    with launch(tmp_path, 2, "wait") as launcher:
        processes = [int(str(one["pid"])) for one in facts(tmp_path, 2)]
        launcher.send_signal(number)
        assert launcher.wait(SECONDS) != 0
    assert all(gone(process) for process in processes)


def test_launcher_inside_a_rank_starts_a_world_of_its_own(tmp_path: Path) -> None:
    script = tmp_path / "outer.py"
    script.write_text("from mpi4py import MPI\nimport sys\n" + OUTER, "utf-8")
    inner = tmp_path / "rank.py"
    inner.write_text(RANK, "utf-8")
    start = mpirun.prepare(1, [sys.executable, str(script), "2", str(inner), str(tmp_path), "0"],
                           changes={"PYTHONPATH": str(ROOT)})
    assert mpirun.run(start) == 0
    assert [one["size"] for one in facts(tmp_path, 2)] == [2, 2]


def test_doctor_finds_this_machine_usable_or_says_why_not() -> None:
    done = subprocess.run([sys.executable, "-m", "mpips", "doctor", "--json"], cwd=ROOT, text=True,
                          capture_output=True, timeout=SECONDS, check=False,
                          stdin=subprocess.DEVNULL)
    told = json.loads(done.stdout)
    levels = {one["name"]: one["level"] for one in told["findings"]}
    assert done.returncode == (0 if told["usable"] else 69)
    assert told["usable"]
    assert levels["two ranks"] == levels["packages"] == levels["hdf5"] == "ok"
    assert all(one["remedy"] for one in told["findings"] if one["level"] != "ok")


def test_doctor_says_when_the_launcher_is_not_the_librarys(tmp_path: Path) -> None:
    # A launcher that starts two processes which know nothing of each other.
    fake = tmp_path / "mpirun"
    fake.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "a launcher" && exit\n'
                    'shift 2\n"$@"\n"$@"\n', "utf-8")
    fake.chmod(0o755)
    done = subprocess.run([sys.executable, "-m", "mpips", "doctor"], cwd=ROOT, text=True,
                          capture_output=True, timeout=SECONDS, check=False,
                          env={**os.environ, "MPIPS_MPIRUN": str(fake)})
    assert done.returncode == 69
    assert "mpirun -n 2 gave worlds of [1, 1]" in done.stdout
    assert done.stdout.rstrip().splitlines()[-1].startswith("MPI is NOT usable")
