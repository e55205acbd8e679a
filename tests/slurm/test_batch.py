"""The script that `mpips slurm` writes, in a real Slurm: it stops in time, and goes on."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.run.jobs import environment, write_rows


def has_slurm() -> bool:
    """Return whether there is a Slurm that answers."""
    if shutil.which("sbatch") is None:
        return False
    done = subprocess.run(["sinfo"], capture_output=True, timeout=60, check=False)
    return done.returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.slurm,
    pytest.mark.skipif(not has_slurm(), reason="needs Slurm"),
    pytest.mark.timeout(900),
]

SECONDS, LOOK_S = 400.0, 0.5


def ask(*words: str, folder: Path) -> str:
    """Return what a command says."""
    done = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True,
                          timeout=60, check=True)  # fmt: skip
    return done.stdout


@pytest.fixture
def job(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Return the folder and the number of a job that is submitted; it is cancelled at the end."""
    write_rows(tmp_path / "rows.h5", rows=300)
    settings = ["model.solver=delayed", "model.passes=300", "model.tolerance=1e-300",
                "checkpoint.every_s=2", "run.logical_workers=2", "run.name=test"]  # fmt: skip
    words = [word for one in settings for word in ("--set", one)]
    ask(sys.executable, "-m", "mpips", "slurm", "rows.h5", "--workers", "2", "--time", "10",
        "--out", "run", "-o", "job.sbatch", *words, folder=tmp_path)  # fmt: skip
    number = ask("sbatch", "--parsable", "job.sbatch", folder=tmp_path).strip()
    yield tmp_path, number
    subprocess.run(["scancel", number], timeout=60, check=False)


def wait_for(path: Path, pattern: str) -> None:
    """Wait until a file of the run folder has a text."""
    deadline = time.monotonic() + SECONDS
    while not path.exists() or not re.search(pattern, path.read_text("utf-8")):
        assert time.monotonic() < deadline, f"{path} never had {pattern}"
        time.sleep(LOOK_S)


def test_job_stops_at_a_signal_and_goes_on_from_the_queue(job: tuple[Path, str]) -> None:
    folder, number = job
    wait_for(folder / "run" / "metrics.jsonl", '"kind": "saved"')
    # What --signal=B:USR1 does before the end of the time.
    subprocess.run(["scancel", "--batch", "-s", "USR1", number], timeout=60, check=True)
    wait_for(folder / "run" / "metrics.jsonl", '"kind": "resume"')
    wait_for(folder / "run" / "result.json", '"status": "done"')
    first = json.loads((folder / "run" / "result-1.json").read_text("utf-8"))
    assert (first["status"], first["exit_code"]) == ("stopped", 75)
