"""Runs a job under mpirun, does to its ranks what a plan says, and tells how it ended.

Whatever happens, no process is left behind. A job that does not end is asked where its ranks are.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from mpips.node import surroundings
from mpips.node.folder import ATTEMPT, CONFIG, METRICS, read_result
from mpips.node.log import STACK_SIGNAL
from mpips.node.points import VARIABLE
from mpips.node.ranks import Rank, read_ranks
from tests.kill import app
from tests.kill.judge import judge
from tests.kill.plans import (
    GO_ON,
    HANGS,
    KILL,
    RIGHT,
    SILENCE_S,
    STOP,
    WRONG,
    Plan,
    Strike,
)  # fmt: skip
from tests.run.jobs import environment, processes_of, write_rows

START_S, PATIENCE_S, LEAVING_S, ENDING_S = 120.0, 100.0, 10.0, 20.0
STACK_LINES = 80
# How often processes are looked for, and how often the files of a job are read, whose ranks need
# the processor themselves.
LOOK_S, READ_S = 0.01, 0.03
MODEL = "tests.kill.app:KeptLedger"


@dataclass
class Report:
    """How a job under a plan ended.

    Attributes:
        plan: what was to be done.
        outcome: a word of `OUTCOMES`.
        problems: what is not as it must be, whatever the outcome.
        struck: what was done, and when, in seconds since the start.
        ranks: what became of each rank.
        stacks: where the ranks were that did not end, by number.
        seconds: from the start to the end.
        output: what the launcher printed.
        attempts: how often it was started.
        shrinks: how often its communicator was made smaller, in its last attempt.
    """

    plan: Plan
    outcome: str = WRONG
    problems: list[str] = field(default_factory=list)
    struck: list[str] = field(default_factory=list)
    ranks: list[str] = field(default_factory=list)
    stacks: dict[int, str] = field(default_factory=dict)
    seconds: float = 0.0
    output: str = ""
    attempts: int = 0
    shrinks: int = 0

    @property
    def is_as_expected(self) -> bool:
        """Return whether the job ended as its plan wants, and left nothing to complain of."""
        return self.outcome == self.plan.expected and not self.problems

    def __str__(self) -> str:
        lines = [f"{self.plan}", f"ended: {self.outcome}, in {self.seconds:.1f} s; expected:"
                 f" {self.plan.expected}"]
        for name in ("problems", "struck", "ranks"):
            lines += [f"{name}:", *(f"  {line}" for line in getattr(self, name))]
        for rank, stack in self.stacks.items():
            lines += [f"rank {rank} hangs here:", stack]
        return "\n".join([*lines, "output:", self.output])


class Job:
    """A job of the ledger in a folder of its own, and the end of all its processes.

    Args:
        plan: its size and seed.
        home: an empty folder.
        settings: further settings, such as `model.steps=100`.
        die_at: the point at which a rank dies; see `mpips.node.points`.
    """

    def __init__(self, plan: Plan, home: Path, *settings: str, die_at: str = "") -> None:
        self.plan, self.home, self.folder = plan, home, home / "out"
        self.ranks: dict[int, Rank] = {}
        self.victims: set[int] = set()
        self._shared: set[Path] = set()
        self._settings = settings
        self._die_at = die_at
        if die_at:
            self.victims.add(int(die_at.split()[0]))

    def __enter__(self) -> "Job":
        write_rows(self.home / "rows.h5", rows=20)
        (self.home / "job.toml").write_text(self.plan.config(), "utf-8")
        command = [sys.executable, "-m", "mpips", "train", "job.toml", "--model", MODEL]
        # Logs tell all, for whoever looks at what went wrong.
        command += ["--out", str(self.folder), "--set", "run.debug=true"]
        command += [word for setting in self._settings for word in ("--set", setting)]
        die = {VARIABLE: self._die_at} if self._die_at else {}
        self.began = time.monotonic()
        with open(self.home / "output", "wb") as output:
            self.launcher = subprocess.Popen(
                command, cwd=self.home, env=environment() | die, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True,
                preexec_fn=surroundings.end_with_parent)  # fmt: skip
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 at: TracebackType | None) -> None:
        """Kill whatever is left of the job, stopped or not, and its shared memory."""
        self.launcher.kill()
        self.launcher.wait(ENDING_S)
        self.end_processes()
        for path in self._shared:
            path.unlink(missing_ok=True)

    def end_processes(self) -> None:
        """Kill until there is nothing to kill: an mpirun may be starting ranks just now."""
        deadline = time.monotonic() + ENDING_S
        while left := processes_of(str(self.folder)):
            assert time.monotonic() < deadline, f"processes {left} cannot be killed"
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(LOOK_S)

    def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait for a condition, and return whether it came before the job's end or a deadline."""
        deadline = time.monotonic() + seconds
        while not condition():
            if not self.lasts(min(READ_S, deadline - time.monotonic())):
                return False
            if time.monotonic() > deadline:
                return False
        return True

    def lasts(self, seconds: float) -> bool:
        """Wait for a while, and return whether the job is not over by then."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.launcher.wait(max(0.0, seconds))
        return self.launcher.returncode is None

    def await_work(self) -> bool:
        """Learn who has which role and process, once some of the work is done."""

        def is_working() -> bool:
            self.ranks = read_ranks(self.folder)
            return len(self.ranks) == self.plan.ranks and self.share() > 0

        if not self.until(is_working, START_S):
            return False
        self._shared = {path for rank in self.ranks.values() for path in shared(rank.process)}
        return True

    def share(self) -> float:
        """Return which share of all pushes of marks is acknowledged."""
        if not (self.folder / CONFIG).exists():
            return 0.0
        settings = app.settings_of(self.folder)
        workers = range(self.plan.logical_workers)
        done = sum(len(app.finished(self.folder, worker)) for worker in workers)
        return done / (settings.steps * settings.pushes * self.plan.logical_workers)

    def await_moment(self, strike: Strike) -> bool:
        """Wait until a strike is due; return False if the job is over before."""
        if strike.healed and not self.until(self.is_healed, PATIENCE_S):
            return False
        if strike.shrunk and not self.until(self.is_shrunk, PATIENCE_S):
            return False
        if strike.after_s:
            return self.lasts(strike.after_s)
        return self.until(lambda: self.share() >= strike.share, PATIENCE_S)

    def is_healed(self) -> bool:
        """Return whether the scheduler has said that there are as many copies as there can be."""
        return '"kind": "copies"' in (self.folder / METRICS).read_text("utf-8")

    def is_shrunk(self) -> bool:
        """Return whether the scheduler has said that the communicator is smaller."""
        return '"kind": "shrink"' in (self.folder / METRICS).read_text("utf-8")

    def strike(self, strike: Strike) -> str:
        """Send a signal to some ranks, and return what was done."""
        said = []
        for role, place in strike.targets:
            mine = [rank for rank in self.ranks.values() if rank.role == role]
            said.append(f"{strike.number.name} {mine[place]}")
            # Who is stopped for longer than anybody may be silent is given up by the others.
            goes_on = any(other.number == GO_ON and other.after_s < SILENCE_S
                          for other in self.plan.strikes)
            if strike.number == KILL or (strike.number == STOP and not goes_on):
                self.victims.add(mine[place].number)
            try:
                os.kill(mine[place].process, strike.number)
            except ProcessLookupError:
                # Who was stopped for too long has been killed by the others.
                self.victims.add(mine[place].number)
                said[-1] += ", which is gone"
        return f"{time.monotonic() - self.began:6.2f} s  {', '.join(said)}"

    def stacks(self) -> dict[int, str]:
        """Ask all ranks that live where they are, and return what they say."""
        asked = {}
        for number, rank in read_ranks(self.folder).items():
            log = self.folder / "log" / f"rank-{number:04d}.log"
            if state(rank.process) not in ("", "T", "Z") and catches(rank.process, STACK_SIGNAL):
                asked[number] = log, log.stat().st_size
                os.kill(rank.process, STACK_SIGNAL)
        time.sleep(0.5)
        said = {number: log.read_bytes()[size:].decode("utf-8", "replace").splitlines()
                for number, (log, size) in asked.items()}
        # The innermost places tell most, and come first.
        return {number: "\n".join(lines[:STACK_LINES]) for number, lines in said.items()}

    def fates(self) -> list[str]:
        """Return what has become of each rank, and what it said last."""
        lines = []
        words = {"": "gone", "Z": "gone", "T": "stopped"}
        for number, rank in read_ranks(self.folder).items():
            fate = words.get(state(rank.process), "alive")
            fate += " (struck)" if number in self.victims else ""
            log = (self.folder / "log" / f"rank-{number:04d}.log").read_text("utf-8", "replace")
            dated = [line for line in log.splitlines() if re.match(r"\d{4}-\d\d-\d\d ", line)]
            lines.append(f"{rank}: {fate}; said last: {dated[-1]}")
        return lines


def run_plan(
    plan: Plan, home: Path, *settings: str, patience_s: float = PATIENCE_S, die_at: str = ""
) -> Report:
    """Run a job, do what the plan says, and return how it ended.

    Args:
        plan: what to do.
        home: a folder for the job, which is made.
        settings: further settings of the job.
        patience_s: a job that has not ended so long after the last strike hangs.
        die_at: the point at which a rank dies, also without strikes; see `mpips.node.points`.
    """
    home.mkdir(parents=True)
    report, late = Report(plan), list(map(str, plan.strikes))
    with Job(plan, home, *settings, die_at=die_at) as job:
        if die_at and not plan.strikes:
            job.lasts(START_S + patience_s)
        elif job.await_work():
            for strike in plan.strikes:
                if not job.await_moment(strike):
                    break
                report.struck.append(job.strike(strike))
                del late[0]
            job.lasts(patience_s)
        has_ended = job.launcher.poll() is not None
        report.seconds = time.monotonic() - job.began
        report.ranks = job.fates()
        if has_ended:
            report.problems += left_behind(job)
            report.outcome, wrong = judge(plan, job.folder, job.victims, job.launcher.returncode)
            report.problems += wrong
            result = read_result(job.folder) or {}
            report.attempts = int(result.get(ATTEMPT, 0))
            report.shrinks = int(result.get("counters", {}).get("shrinks", 0))
        else:
            report.outcome, report.stacks = HANGS, job.stacks()
        report.output = (home / "output").read_text("utf-8", "replace")

    # What was not done has not been survived.
    if late and report.outcome == RIGHT:
        report.problems.append(f"the job was over before {late[0]}")
    return report


def left_behind(job: Job) -> list[str]:
    """Return the processes of a job that are still there a while after its end."""
    deadline = time.monotonic() + LEAVING_S
    while (left := processes_of(str(job.folder))) and time.monotonic() < deadline:
        time.sleep(LOOK_S)
    return [f"processes {left} are left behind"] if left else []


def state(process: int) -> str:
    """Return a process's state as Linux names it, by a letter; empty if there is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def catches(process: int, number: signal.Signals) -> bool:
    """Return whether a process has a handler for a signal."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def shared(process: int) -> set[Path]:
    """Return the files of shared memory that a process has open."""
    try:
        maps = Path(f"/proc/{process}/maps").read_text().splitlines()
    except OSError:
        return set()
    names = {line.split(maxsplit=5)[-1] for line in maps if "/dev/shm/sm_segment" in line}
    return {Path(name.removesuffix(" (deleted)")) for name in names}
