"""`mpips slurm` writes a script that stops in time and goes on; it runs here with false tools."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpips.cli import main

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "slurm" / "train.sbatch"
SECONDS = 30

# A mpips that says how it was called, waits for USR1 if it shall, and ends as it is told to.
FALSE_PYTHON = """#!/bin/bash
echo "$@" >> called
trap 'echo signalled >> called; exit 75' USR1
[ -f waits ] || exit "$(cat code)"
touch begun
while :; do sleep 0.02; done
"""
FALSE_SCONTROL = '#!/bin/bash\necho "scontrol $*" >> called\n'


# A Slurm that says which nodes a job has left, and looks three times.
FALSE_SRUN = '#!/bin/bash\nwhile [ "$1" != bash ]; do shift; done\nexec "$@"\n'
FALSE_SQUEUE = "#!/bin/bash\ncat nodes\n"
FALSE_SLEEP = "#!/bin/bash\necho >> sleeps\n[ $(wc -l < sleeps) -lt 4 ]\n"
FALSE_HOSTNAMES = """#!/bin/bash
if [ "$1" = show ]; then tr , '\\n' <<< "$3"; else echo "scontrol $*" >> called; fi
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a config, in which this process is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    (tmp_path / "config.toml").write_text(
        '[run]\nname = "train"\nservers = 8\n[data]\ntrain = "train.h5"\n')
    return tmp_path


def write(folder: Path, *words: str) -> str:
    """Return the script that the command writes."""
    assert main.main(["slurm", "config.toml", *words, "-o", str(folder / "job.sbatch")]) == 0
    return (folder / "job.sbatch").read_text("utf-8")


def false_tools(folder: Path, **more: str) -> dict[str, str]:
    """Write programs that note how they are called, and return an environment that finds them."""
    (folder / "bin").mkdir()
    tools = {"python3": FALSE_PYTHON, "scontrol": FALSE_SCONTROL} | more
    for name, text in tools.items():
        path = folder / "bin" / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "7",
            "SLURM_SUBMIT_DIR": str(folder)}  # fmt: skip


def test_shipped_script_is_what_the_command_writes(folder: Path) -> None:
    words = ["--nodes", "4", "--tasks-per-node", "32", "--time", "4:00:00"]
    assert write(folder, *words) == SHIPPED.read_text("utf-8")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_scripts_are_ones_that_a_shell_can_read(folder: Path) -> None:
    write(folder, "--setup", "module load 'a b'", "--account", "x", "--partition", "y")
    for path in (SHIPPED, folder / "job.sbatch"):
        subprocess.run(["bash", "-n", str(path)], check=True, timeout=SECONDS)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_shellcheck_has_nothing_to_say() -> None:
    subprocess.run(["shellcheck", "-e", "SC1091", str(SHIPPED)], check=True, timeout=SECONDS)


@pytest.mark.parametrize(("code", "restarts", "is_requeued"), [
    (0, 0, False), (75, 0, True), (75, 99, True), (76, 0, True), (76, 5, False), (65, 0, False),
    (70, 0, False),
])  # fmt: skip
def test_job_goes_back_into_the_queue_if_there_is_more_to_do(
    code: int, restarts: int, is_requeued: bool, folder: Path
) -> None:
    write(folder)
    environment = false_tools(folder) | {"SLURM_RESTART_COUNT": str(restarts)}
    (folder / "code").write_text(str(code))
    done = subprocess.run(["bash", "job.sbatch"], cwd=folder, env=environment, timeout=SECONDS,
                          check=False)  # fmt: skip
    assert done.returncode == code
    first, *others = (folder / "called").read_text().splitlines()
    run = f"{folder}/runs/train-7"
    assert first.startswith("-m mpips train config.toml --servers 8 --workers 1 ")
    assert first.endswith(f"--set checkpoint.every_s=auto --resume auto --out {run}")
    assert others == (["scontrol requeue 7"] if is_requeued else [])


@pytest.mark.parametrize("signals", [1, 2])
def test_signal_reaches_the_job_and_its_exit_code_the_queue(signals: int, folder: Path) -> None:
    write(folder)
    (folder / "waits").touch()
    with subprocess.Popen(["bash", "job.sbatch"], cwd=folder, env=false_tools(folder)) as job:
        try:
            deadline = time.monotonic() + SECONDS
            while not (folder / "begun").exists():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            for _ in range(signals):
                job.send_signal(signal.SIGUSR1)
            assert job.wait(SECONDS) == 75
        finally:
            job.kill()
    called = (folder / "called").read_text().splitlines()[1:]
    assert called == ["signalled", "scontrol requeue 7"]


@pytest.mark.parametrize(("nodes", "requeues"), [("a1,b2", 0), ("b2", 3), ("a10", 3), ("", 0)])
def test_other_node_has_the_job_started_again_if_the_one_of_the_script_is_lost(
    nodes: str, requeues: int, folder: Path
) -> None:
    write(folder)
    tools = false_tools(folder, srun=FALSE_SRUN, squeue=FALSE_SQUEUE, sleep=FALSE_SLEEP,
                        scontrol=FALSE_HOSTNAMES)  # fmt: skip
    (folder / "code").write_text("0")
    (folder / "nodes").write_text(nodes)
    environment = tools | {"SLURM_JOB_NUM_NODES": "2", "SLURMD_NODENAME": "a1"}
    # What looks goes on when the script has ended, which Slurm would end.
    subprocess.run(["bash", "job.sbatch"], cwd=folder, env=environment, timeout=SECONDS,
                   stdout=subprocess.PIPE, check=True)  # fmt: skip
    assert len((folder / "sleeps").read_text().splitlines()) == 4
    called = (folder / "called").read_text().splitlines()
    assert called.count("scontrol requeue 7") == requeues


def test_ranks_of_nodes_are_shared_out(folder: Path) -> None:
    text = write(folder, "--nodes", "3", "--servers", "2", "--workers", "7")
    assert "--ntasks-per-node=4\n" in text
    assert "--servers 2 --workers 7 " in text
    text = write(folder, "--nodes", "3", "--tasks-per-node", "5", "--servers", "2")
    assert "--ntasks-per-node=5\n" in text
    assert "--workers 12 " in text
    # What the config says of checkpoints stands.
    text = write(folder, "--set", "checkpoint.every_iterations=9")
    assert "every_s" not in text
    assert "--set checkpoint.every_iterations=9" in text


@pytest.mark.parametrize(("words", "told"), [
    (["--time", "soon"], "--time is soon"),
    (["--nodes", "0"], "--nodes is 0"),
    (["--warning", "0"], "--warning is 0"),
    (["--tasks-per-node", "9"], "1 nodes with 9 ranks each are too few for 10 ranks"),
    (["--resume", "runs/a"], "resumes by itself"),
    (["--set", "run.serves=3"], "Did you mean run.servers?"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(
    words: list[str], told: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["slurm", "config.toml", *words]) == 2
    assert told in capsys.readouterr().err


def test_place_that_cannot_be_written_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["slurm", "config.toml", "-o", str(folder)]) == 73
    assert str(folder) in capsys.readouterr().err
