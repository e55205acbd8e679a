"""Whoever dies, the transports of the survivors know it, and go on between each other."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("survivor.py")
RANKS, FIRST, SECOND = 4, 1, 0
NOTICE_S, WENT_ON_S, END_S = 5.0, 30.0, 15.0
SETTINGS = {
    "PYTHONPATH": str(ROOT),
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_pml": "ob1",
    "OMPI_MCA_btl": "self,sm",
    "OMPI_MCA_osc": "^ucx",
    "OMPI_MCA_btl_tcp_flags": "send,inplace,need-ack,need-csum,hetero-rdma",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


class Job:
    """A world of survivors, and the files they write."""

    def __init__(self, folder: Path, traffic: str, btl: str = "self,sm") -> None:
        self.folder, self.left = folder, set(range(RANKS))
        command = [Path(sys.executable).with_name("mpirun"), "--with-ft", "ulfm", "--oversubscribe"]
        command += ["-n", str(RANKS), sys.executable, PROGRAM, folder, traffic]
        settings = {**os.environ, **SETTINGS, "OMPI_MCA_btl": btl}
        self.process = subprocess.Popen(list(map(str, command)), env=settings,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def read(self, name: str, rank: int) -> Any:
        return json.loads((self.folder / name.replace("R", str(rank))).read_text())

    def wait(self, name: str, seconds: float) -> None:
        """Wait until all that are left have written a file."""
        files = [self.folder / name.replace("R", str(rank)) for rank in self.left]
        until(lambda: all(map(Path.exists, files)) or any(self.folder.glob("error.*")), seconds)
        errors = [path.read_text() for path in self.folder.glob("error.*")]
        assert not errors, "\n".join(errors)
        assert not [path.name for path in files if not path.exists()]

    def tell(self, word: str) -> None:
        (self.folder / word).touch()

    def signal(self, rank: int, number: int) -> None:
        os.kill(self.read("pid.R", rank), number)

    def expect_loss(self, lost: list[int], since: float) -> None:
        """Hold the survivors to it that they notice, and go on."""
        self.left -= set(lost)
        self.wait(f"noticed.R.{len(lost)}", NOTICE_S)
        for rank in self.left:
            facts = self.read(f"noticed.R.{len(lost)}", rank)
            assert facts["lost"] == sorted(lost)
            assert facts["at"] - since < NOTICE_S
        self.wait(f"went_on.R.{len(lost)}", WENT_ON_S)

    def expect_end(self) -> None:
        """Hold the survivors to it that they flush, leave, and are not missed."""
        self.tell("end")
        self.wait("result.R", END_S)
        for rank in self.left:
            assert self.read("result.R", rank) == {"flushed": True, "unsent": 0}
        assert self.process.wait(END_S) == 0

    def close(self) -> None:
        """End what is left, also what has stopped."""
        for path in self.folder.glob("pid.*"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(path.read_text()), signal.SIGCONT)
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Give a function that starts a job and waits until its ranks are there."""
    jobs: list[Job] = []

    def start(*arguments: str) -> Job:
        job = Job(tmp_path, *arguments)
        jobs.append(job)
        job.wait("pid.R", 30)
        return job

    yield start
    for job in jobs:
        job.close()


@pytest.mark.parametrize(
    ("traffic", "btl"),
    [("none", "self,sm"), ("small", "self,sm"), ("large", "self,sm"), ("stuck", "self,sm"),
     ("midway", "self,sm"), ("large", "self,tcp"), ("stuck", "self,tcp"),
     pytest.param("small", "self,tcp", marks=pytest.mark.soak)],
)
def test_survivors_of_two_deaths_go_on(
    start: Callable[..., Job], traffic: str, btl: str
) -> None:
    job = start(traffic, btl)
    if traffic != "midway":
        # Let traffic begin, so that the death meets messages on their way.
        until(lambda: False, 0.3)
        job.signal(FIRST, signal.SIGKILL)
    job.expect_loss([FIRST], time.time())
    job.signal(SECOND, signal.SIGKILL)
    job.expect_loss([FIRST, SECOND], time.time())
    job.expect_end()


def test_forgotten_node_is_not_heard_when_it_wakes_up(start: Callable[..., Job]) -> None:
    job = start("stopped")
    until(lambda: state(job.read("pid.R", FIRST)) == "T", 10)
    job.tell("forget")
    job.expect_loss([FIRST], time.time())
    # It had begun to send something that must not be written any more.
    assert all(job.read("noticed.R.1", rank)["kept"] > 0 for rank in job.left)
    job.signal(FIRST, signal.SIGCONT)
    until(lambda: False, 0.5)
    job.signal(FIRST, signal.SIGKILL)
    job.signal(SECOND, signal.SIGKILL)
    job.expect_loss([FIRST, SECOND], time.time())
    job.expect_end()


def state(process: int) -> str:
    """Return the letter of a process's state, as ps shows it."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
