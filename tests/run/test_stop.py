"""Jobs stop at a checkpoint when they are told to, and go on where they were."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpips.node.folder import METRICS
from tests.run.jobs import (
    environment,
    mpips,
    processes_of,
    result_of,
    train_here,
    weights_of,
    write_rows,
)

pytestmark = pytest.mark.slow

SECONDS = 120
STOPPED = 75
SETTINGS = ["--servers", "2", "--workers", "2", "--set", "run.logical_workers=2"]


def test_job_stops_after_iterations_and_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.h5", rows=300)
    train = ["train", "rows.h5", *SETTINGS, "--set", "model.block=4"]
    # On any number of ranks the bits are the same, and so they are in one process.
    whole = train_here(tmp_path / "rows.h5", tmp_path / "whole", "run.logical_workers=2",
                       "model.block=4")  # fmt: skip
    command = [*train, "--out", "run", "--resume", "auto"]
    stopped = mpips(tmp_path, *command, "--set", "run.stop_after_iterations=2")
    assert stopped.code == STOPPED, stopped.err
    assert "--resume auto" in stopped.err
    assert result_of(tmp_path / "run")["status"] == "stopped"
    again = mpips(tmp_path, *command)
    assert again.code == 0, again.err
    assert weights_of(tmp_path / "run").tobytes() == weights_of(whole).tobytes()
    assert processes_of(str(tmp_path)) == []


@pytest.mark.skipif(sys.platform != "linux", reason="finds mpirun in /proc")
def test_signal_to_mpirun_stops_a_job_at_a_checkpoint(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.h5", rows=300)
    folder = tmp_path / "run"
    # So many passes that the signal comes before the end.
    command = [sys.executable, "-m", "mpips", "train", "rows.h5", *SETTINGS, "--out", str(folder)]
    for setting in ("solver=delayed", "passes=100000", "tolerance=1e-300"):
        command += ["--set", f"model.{setting}"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as job:
        try:
            deadline = time.monotonic() + SECONDS
            while not (folder / METRICS).exists() or not (folder / METRICS).stat().st_size:
                assert time.monotonic() < deadline
                assert job.poll() is None
                time.sleep(0.05)
            (mpirun,) = (one for one in processes_of(str(folder)) if parent(one) == job.pid)
            os.kill(mpirun, signal.SIGUSR1)
            _, told = job.communicate(timeout=SECONDS)
        finally:
            job.kill()
    assert job.returncode == STOPPED, told
    assert list(folder.glob("checkpoints/*/manifest.json"))


def parent(process: int) -> int:
    """Return the process that has started a process."""
    return int(Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()[1])
