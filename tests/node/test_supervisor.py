"""The supervisor believes the result of its own attempt, starts lost jobs again, and ends mpiruns.

The mpiruns here are shell scripts, which do what their attempt's line says.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mpips.config import Config, parse
from mpips.errors import LaunchError, RanksLostError
from mpips.node import kernels, mpirun, signals, supervisor, surroundings
from mpips.node.folder import read_result
from mpips.node.hosts import Choice, Hosts, choose

SAVES = ("checkpoint.every_s=600",)
LOST = 76

# What an attempt may do. It knows its own number, which ranks have from `MPIPS_RANK_OF`.
FAKE = """#!/bin/sh
[ "$1" = --version ] && echo "a launcher" && exit
out={folder}
attempt=$MPIPS_RANK_OF
echo "$attempt $*" >> $out/../attempts
result() {{
  facts="\\"exit_code\\": $1, \\"error\\": \\"it failed\\""
  echo "{{$facts, \\"attempt\\": \\"${{2-$attempt}}\\"}}" > $out/part
  mv $out/part $out/result.json
}}
save() {{ mkdir -p $out/checkpoints/000001; echo > $out/checkpoints/000001/manifest.json; }}
linger() {{ echo $$ > $out/../process; sleep 60 & wait; }}
case $attempt in
{cases}
*) result 99;;
esac
"""

Runner = Callable[..., Path]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder for a job whose supervisor has no patience."""
    for name in list(os.environ):
        if name.startswith(("OMPI_", "PMIX_", "PRTE_", "SLURM_", surroundings.MARKER)):
            monkeypatch.delenv(name)
    monkeypatch.setattr(kernels, "compile_kernels", lambda say: None)
    monkeypatch.setattr(supervisor, "RESTART_S", 0.001)
    monkeypatch.setattr(supervisor, "LINGER_S", 0.05)
    monkeypatch.setattr(supervisor, "LOOK_S", 0.01)
    monkeypatch.setattr(signals, "SECONDS_TO_END", 0.2)
    return tmp_path


@pytest.fixture
def supervise(home: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Return what runs a job under a launcher that does, by attempt, what it is told."""

    def run(*doings: str, settings: tuple[str, ...] = SAVES) -> Path:
        cases = "\n".join(f"{at}) {what};;" for at, what in enumerate(doings, 1))
        fake = home / "mpirun"
        fake.write_text(FAKE.format(folder=home / "out", cases=cases), "utf-8")
        fake.chmod(0o755)
        monkeypatch.setenv("MPIPS_MPIRUN", str(fake))
        return supervisor.launch(config(home, *settings), ["job"], ["--word"])

    return run


def config(home: Path, *settings: str) -> Config:
    """Return a job's config."""
    return parse("", "", [f"run.out={home / 'out'}", *settings])


def attempts(home: Path) -> list[str]:
    """Return the numbers of the attempts."""
    return [line.split()[0] for line in (home / "attempts").read_text().splitlines()]


def words(home: Path) -> list[bool]:
    """Return whether each attempt was told to go on from a checkpoint."""
    lines = (home / "attempts").read_text().splitlines()
    return ["run.resume" in line for line in lines]


def members(group: int) -> list[str]:
    """Return the living processes of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(of) == group and state != "Z":
            found.append(path.parent.name)
    return found


# -- Restarts ------------------------------------------------------------------------------------


def test_job_that_ends_by_itself_is_run_once(supervise: Runner, home: Path) -> None:
    assert supervise("result 0; exit 0") == home / "out"
    assert attempts(home) == ["1"]


@pytest.mark.parametrize("death", ["kill -KILL $$", "exit 0", "exit 250", "result 76; exit 76"])
def test_lost_job_is_started_again_from_its_last_checkpoint(
    death: str, supervise: Runner, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    supervise(f"save; {death}", "result 0")
    assert attempts(home) == ["1", "2"]
    assert words(home) == [False, True]
    assert "starts again from its last checkpoint" in capfd.readouterr().err


def test_job_that_is_killed_before_its_first_checkpoint_begins_anew_and_says_so(
    supervise: Runner, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    supervise("kill -KILL $$", "save; kill -KILL $$", "result 0")
    assert attempts(home) == ["1", "2", "3"]
    assert words(home) == [False, False, True]
    first, second = (line for line in capfd.readouterr().err.splitlines() if "again" in line)
    assert "from its beginning, since it has no checkpoint yet" in first
    assert "from its last checkpoint" in second


@pytest.mark.parametrize("setting", ["every_s=auto", "every_iterations=7"])
def test_all_ways_to_keep_checkpoints_count(setting: str, supervise: Runner, home: Path) -> None:
    supervise("kill -KILL $$", "result 0", settings=(f"checkpoint.{setting}",))
    assert attempts(home) == ["1", "2"]


def test_lost_job_that_keeps_no_checkpoints_is_given_up(supervise: Runner, home: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        supervise("result 76; exit 76", "result 0", settings=())
    assert caught.value.code == LOST
    assert attempts(home) == ["1"]


def test_restarts_are_bounded(supervise: Runner, home: Path) -> None:
    with pytest.raises(RanksLostError):
        supervise(*["kill -KILL $$"] * 9, settings=(*SAVES, "recovery.restarts=2"))
    assert attempts(home) == ["1", "2", "3"]


def test_pauses_grow(supervise: Runner, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(supervisor, "RESTART_S", 1.0)
    monkeypatch.setattr(signals.Signals, "pause", lambda self, seconds: pauses.append(seconds))
    with pytest.raises(RanksLostError):
        supervise(*["kill -KILL $$"] * 9)
    assert pauses == [1.0, 2.0, 4.0]


def test_job_that_has_failed_for_other_reasons_is_not_started_again(
    supervise: Runner, home: Path
) -> None:
    with pytest.raises(SystemExit) as caught:
        supervise("save; result 65; exit 65", "result 0")
    assert caught.value.code == 65
    assert attempts(home) == ["1"]


def test_mpirun_that_could_not_start_the_ranks_is_not_started_again(
    supervise: Runner, home: Path
) -> None:
    with pytest.raises(LaunchError):
        supervise("exit 2", "result 0")
    assert attempts(home) == ["1"]


# -- Results -------------------------------------------------------------------------------------


def test_result_of_an_earlier_attempt_is_put_aside(supervise: Runner, home: Path) -> None:
    supervise("result 76; exit 76", "test ! -e $out/result.json && result 0")
    assert (home / "out" / "result-1.json").exists()


def test_result_that_comes_late_is_not_the_newest_attempts(supervise: Runner, home: Path) -> None:
    # A rank of the first attempt lives on, on a host that nobody has heard of for a while.
    supervise("kill -KILL $$", "result 0 1; kill -KILL $$", "result 0; exit 0")
    assert attempts(home) == ["1", "2", "3"]
    result = read_result(home / "out")
    assert result is not None
    assert result["attempt"] == "3"


# -- Mpiruns that linger -------------------------------------------------------------------------


@pytest.mark.parametrize("trap", ["trap 'kill $!; exit 1' TERM", "trap '' TERM"])
def test_mpirun_that_lingers_after_the_result_is_ended(
    trap: str, supervise: Runner, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert supervise(f"{trap}; result 0; linger") == home / "out"
    assert attempts(home) == ["1"]
    assert "mpirun has not ended" in capfd.readouterr().err
    # The processes that it has started go with it.
    process = int((home / "process").read_text())
    deadline = time.monotonic() + 10
    while members(process):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_mpirun_without_a_result_is_left_alone(supervise: Runner, home: Path) -> None:
    # It works for much longer than one may linger, and so does one with another one's result.
    supervise("result 0 7; sleep 0.2; result 0; exit 0")
    assert attempts(home) == ["1"]


def test_lost_job_whose_mpirun_lingers_is_started_again(supervise: Runner, home: Path) -> None:
    supervise("save; result 76; linger", "result 0")
    assert attempts(home) == ["1", "2"]


# -- Signals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "code"), [("TERM", 143), ("INT", 130), ("HUP", 129)])
def test_job_that_is_told_to_end_is_not_started_again(
    name: str, code: int, supervise: Runner, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # Mpirun kills ranks, which the scheduler may take for deaths.
    doing = f"save; trap 'result 76; exit 76' {name}; kill -{name} $PPID; sleep 9 & wait"
    with pytest.raises(SystemExit) as caught:
        supervise(doing, "result 0")
    assert caught.value.code == code
    assert attempts(home) == ["1"]
    said = capfd.readouterr().err
    assert "interrupted" in said
    assert "again" not in said


def test_lost_job_that_was_asked_for_a_stop_is_at_its_last_checkpoint(
    supervise: Runner, home: Path
) -> None:
    with pytest.raises(SystemExit) as caught:
        supervise("save; trap 'kill -KILL $$' USR1; kill -USR1 $PPID; sleep 9 & wait", "result 0")
    assert caught.value.code == 75
    assert attempts(home) == ["1"]


def test_signal_in_a_pause_is_not_forgotten(
    supervise: Runner, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause = signals.Signals.pause

    def interrupted(self: signals.Signals, seconds: float) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        pause(self, 60.0)

    monkeypatch.setattr(signals.Signals, "pause", interrupted)
    with pytest.raises(SystemExit) as caught:
        supervise("save; kill -KILL $$", "result 0")
    assert caught.value.code == 143
    assert attempts(home) == ["1"]


def test_handlers_are_put_back(supervise: Runner) -> None:
    before = [signal.getsignal(number) for number in signals.PASSED_ON]
    supervise("result 0")
    assert [signal.getsignal(number) for number in signals.PASSED_ON] == before


def test_watch_is_called_with_the_mpirun(home: Path) -> None:
    seen: list[object] = []
    fake = mpirun.Start(("/bin/sh", "-c", "sleep 0.1"), dict(os.environ), {})
    assert mpirun.run(fake, seen.append) == 0
    assert len(seen) == 1


def test_job_starts_again_on_the_hosts_that_are_left(
    supervise: Runner, home: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    lost: set[str] = set()
    slots = {"a": 2, "b": 2, "c": 2}

    class Known(Hosts):
        def __init__(self) -> None:
            self.looked = 0
            self._slots = slots

        def choose(self, config: Config) -> Choice | None:
            self.looked += 1
            lost.add("abc"[-self.looked])
            return choose(slots, lost, config)

    monkeypatch.setattr(supervisor, "Hosts", Known)
    settings = (*SAVES, "run.servers=2", "run.workers=3", "recovery.restarts=5")
    with pytest.raises(RanksLostError):
        supervise(*["kill -KILL $$"] * 9, settings=settings)
    lines = (home / "attempts").read_text().splitlines()
    # The third attempt would have two ranks.
    assert [line.split()[:3] for line in lines] == [["1", "-n", "6"], ["2", "-n", "4"]]
    assert "-hosts a:2,b:2 " in lines[1]
    assert "--set run.workers=1 --set run.logical_workers=3" in lines[1]
    told = capfd.readouterr().err.splitlines()
    assert [line for line in told if "reached" in line] == [
        "mpips: c cannot be reached any more; 4 ranks start on a, b, without 2 workers"
    ]
    assert "mpips: too few hosts are left to start again" in told
