"""`mpips demo --kill` kills the rank that was meant, once there is something to see."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpips.cli import demo_kill
from mpips.cli.demo_kill import Killer, check_victim
from mpips.config import parse
from mpips.errors import UsageError
from mpips.node.ranks import read_ranks
from tests.run.jobs import mpips, processes_of, result_of

Process = subprocess.Popen[bytes]
CONFIG = parse("", "", ["run.servers=2", "run.workers=3"])


@pytest.fixture
def sleepers() -> Iterator[list[Process]]:
    """Processes that end only if they are killed: an mpirun and two ranks."""
    command = [sys.executable, "-c", "import time; time.sleep(100)"]
    processes = [subprocess.Popen(command) for _ in range(3)]
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def write_logs(folder: Path, server: Process, worker: Process) -> None:
    (folder / "log").mkdir(parents=True)
    for number, role, process in ((1, "server", server), (2, "worker", worker)):
        said = f"mpips.node.member: {role} {number} on here, process {process.pid}, view 1048576\n"
        (folder / "log" / f"rank-{number:04d}.log").write_text(f"2030-01-01 00:00:00,0 INFO {said}")


@pytest.mark.parametrize("victim", ["scheduler", "server", "worker", "0", "5"])
def test_victim_that_is_there_is_accepted(victim: str) -> None:
    check_victim(victim, CONFIG)


@pytest.mark.parametrize(("victim", "what"), [
    ("sevrer", "the job has no sevrer to kill"),
    ("spare", "the job has no spare to kill"),
    ("6", "the job has no rank 6 to kill"),
    ("-1", "the job has no -1 to kill"),
])  # fmt: skip
def test_victim_that_is_not_there_is_refused_and_others_are_named(victim: str, what: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_victim(victim, CONFIG)
    assert caught.value.exit_code == 2
    assert caught.value.what == what
    assert "There are scheduler, server, worker, and the ranks 0 to 5." in caught.value.remedy


@pytest.mark.parametrize(("victim", "place"), [("server", 1), ("worker", 2), ("2", 2)])
def test_victim_dies_at_the_first_progress_and_nobody_else(
    victim: str, place: int, sleepers: list[Process], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_logs(tmp_path, *sleepers[1:])
    thread = threading.Thread(target=Killer(victim, tmp_path), args=(sleepers[0],), daemon=True)
    thread.start()
    time.sleep(5 * demo_kill.LOOK_S)
    assert [process.poll() for process in sleepers] == [None] * 3
    (tmp_path / "metrics.jsonl").write_text('{"kind": "progress"}\n')
    thread.join(10)
    assert sleepers[place].wait(10) == -9
    assert [process.poll() for process in sleepers].count(None) == 2
    role = "server" if place == 1 else "worker"
    rank = f"{role} {place} (rank {place}, process {sleepers[place].pid})"
    assert capsys.readouterr().out == f"kill   {rank} killed\n"


def test_killer_leaves_with_its_job_and_spares_the_processes_of_a_job_before(
    sleepers: list[Process], tmp_path: Path
) -> None:
    write_logs(tmp_path, *sleepers[1:])
    for path in (tmp_path / "log").iterdir():
        os.utime(path, (1e9, 1e9))
    assert read_ranks(tmp_path).keys() == {1, 2}
    thread = threading.Thread(target=Killer("server", tmp_path), args=(sleepers[0],), daemon=True)
    thread.start()
    (tmp_path / "metrics.jsonl").write_text('{"kind": "progress"}\n')
    time.sleep(5 * demo_kill.LOOK_S)
    assert sleepers[1].poll() is None
    sleepers[0].kill()
    thread.join(10)
    assert not thread.is_alive()


def test_last_role_that_a_rank_has_had_counts(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "rank-0004.log").write_text(
        "2030-01-01 00:00:00,0 INFO mpips.node.member: spare 4 on here, process 17, view 1\n"
        "2030-01-01 00:00:01,0 INFO mpips.node.member: server 4 on here, process 17, view 2\n")
    assert read_ranks(tmp_path)[4].role == "server"


@pytest.mark.slow
def test_demo_goes_on_when_its_scheduler_is_killed(tmp_path: Path) -> None:
    done = mpips(tmp_path, "demo", "--kill", "scheduler", "--workers", "2", "--servers", "2",
                 "--set", "run.spares=1", "--out", "out")
    assert done.code == 0, done.out + done.err
    lines = [line for line in done.out.splitlines() if line.startswith(("kill ", "lost ", "lead"))]
    assert lines[0].startswith("kill   scheduler 0 (rank 0, process ")
    assert lines[1].startswith("leader spare 3 is the scheduler now, in place of node 0, after ")
    assert lines[2].startswith("lost   scheduler 0 on ")
    result = result_of(tmp_path / "out")
    assert (result["failures"], result["recovered"], result["redundancy"]) == (1, 1, 1)
    assert result["converged"]
    assert processes_of(str(tmp_path)) == []


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "number"), [
    pytest.param("worker", 1, marks=pytest.mark.soak), ("server", 4),
])  # fmt: skip
def test_demo_goes_on_without_the_rank_that_it_kills(
    victim: str, number: int, tmp_path: Path
) -> None:
    done = mpips(tmp_path, "demo", "--kill", victim, "--workers", "2", "--servers", "2",
                 "--set", "run.spares=1", "--out", "out")
    assert done.code == 0, done.out + done.err
    lines = [line for line in done.out.splitlines() if line.startswith(("kill ", "lost ", "view "))]
    assert lines[0].startswith(f"kill   {victim} {number} (rank {number}, process ")
    assert lines[1].startswith(f"lost   {victim} {number} on ")
    assert lines[1].endswith(" has died")
    assert f"spare 3 is a {victim} now" in lines[2]
    assert ("server 5 takes over " in lines[2]) == (victim == "server")
    assert "failures 1   recovered 1   redundancy 1" in done.out
    result = result_of(tmp_path / "out")
    assert (result["failures"], result["recovered"], result["redundancy"]) == (1, 1, 1)
    assert result["converged"]
    assert processes_of(str(tmp_path)) == []
