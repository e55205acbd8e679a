"""The supervisor: one process above mpirun, which starts a job again when deaths have ended it."""

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from mpips.config import AUTO, Config
from mpips.core.scheduler import STOPPED_AT_CHECKPOINT
from mpips.errors import LaunchError, MpipsError, RanksLostError
from mpips.node import kernels, mpirun, surroundings
from mpips.node.folder import ATTEMPT, make_folder, read_result
from mpips.node.hosts import Choice, Hosts
from mpips.node.resume import has_checkpoint
from mpips.node.roles import rank_count
from mpips.node.signals import Child, Signals, end
from mpips.toml import assign

# What a launcher ends with that was told to end: by HUP, INT or TERM.
INTERRUPTED = (129, 130, 143)
# From here on a signal has ended it, or its own processes have failed.
SIGNALS = 128
# The first pause before a job starts again, in seconds; each one is twice as long.
RESTART_S = 1.0
# So long after the result an mpirun is ended: it may wait for ranks of a lost host for ever. Ranks
# that have to send their last words first take less (`follower.FLUSH_S`).
LINGER_S = 15.0
LOOK_S = 0.5


def launch(config: Config, program: Sequence[str] | None, arguments: Sequence[str],
           watch: mpirun.Watch | None = None) -> Path:
    """Run a job under an mpirun of its own, and return the run folder once it has succeeded.

    What the result file says counts: mpirun returns 0 even if all ranks were killed. A job that
    deaths have ended, and that keeps checkpoints, is started again `recovery.restarts` times, with
    growing pauses; one that was told to stop or to end is not.

    Args:
        config: the effective config; its `run.out` names the run folder.
        program: what each rank runs; None: this very mpips.
        arguments: what follows the program.
        watch: called in a thread with the running mpirun.

    Raises:
        LaunchError: there is no mpirun, or the job ended without a result.
        RanksLostError: deaths have ended it without a result.
        SystemExit: the job failed and has said why.
    """
    folder = Path(config.run.out)
    make_folder(folder, config.run.resume == AUTO)
    kernels.compile_kernels(lambda text: print(f"mpips: {text}", flush=True))
    with Signals() as signals:
        supervisor = Supervisor(config, folder, program, arguments, watch, signals)
        result = supervisor.run()
    if result is None:
        _explain_no_result(folder, supervisor.code)
    if result["exit_code"] == STOPPED_AT_CHECKPOINT:
        print("mpips: stopped at a checkpoint; the same command with --resume auto and"
              f" --out {folder} goes on", file=sys.stderr, flush=True)  # fmt: skip
        raise SystemExit(STOPPED_AT_CHECKPOINT)
    if result["exit_code"]:
        # Ranks leave it to us, since what they print in their last moment may be lost.
        print(MpipsError(result["error"]).explain(), file=sys.stderr, flush=True)
        raise SystemExit(result["exit_code"])
    return folder


@dataclass
class Supervisor:
    """Runs a job once, and again as long as it has to, on the hosts that are left.

    Attributes:
        code: what the last mpirun has ended with.
        attempt: 1, or more after restarts; ranks write it into the result, so that a result that
            comes late, of an earlier attempt, is not taken for the newest one's.
    """

    config: Config
    folder: Path
    program: Sequence[str] | None
    arguments: Sequence[str]
    watch: mpirun.Watch | None
    signals: Signals
    code: int = 0
    attempt: int = 1

    def run(self) -> dict[str, Any] | None:
        """Run the job, with restarts, and return what its result file says; None: there is none."""
        hosts = Hosts()
        result = self._try((), hosts.begin(self.config))
        for past in range(self.config.recovery.restarts):
            if not self._was_lost(result) or self.signals.came or not self._may_restart():
                break
            # Where a run goes on from another one's checkpoint, it begins there again.
            goes_on = has_checkpoint(self.folder)
            nothing = "from its beginning, since it has no checkpoint yet"
            where = "from its last checkpoint" if goes_on else nothing
            print(f"mpips: deaths have ended the job; it starts again {where}",
                  file=sys.stderr, flush=True)  # fmt: skip
            self.signals.pause(RESTART_S * 2**past)
            if self.signals.came:
                break
            choice = hosts.choose(self.config)
            if choice is None:
                print("mpips: too few hosts are left to start again", file=sys.stderr, flush=True)
                break
            self.attempt += 1
            make_folder(self.folder, is_resumed=True)
            words = ["--set", assign("run.resume", AUTO)] if goes_on else []
            result = self._try(words, choice)
        return self._judge(result) if self.signals.came and self._was_lost(result) else result

    def _judge(self, result: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return the result of a lost job that was told to stop, or to end."""
        if self.signals.ended_by:
            self.code = SIGNALS + self.signals.ended_by
            return None
        # It is where its last checkpoint is, as if it had stopped there.
        stopped = {"exit_code": STOPPED_AT_CHECKPOINT}
        return stopped if has_checkpoint(self.folder) else result

    def _try(self, more: Sequence[str], choice: Choice) -> dict[str, Any] | None:
        """Run the ranks, with more arguments, and return what they have left as their result."""
        if choice.note:
            print(f"mpips: {choice.note}", file=sys.stderr, flush=True)
        words = [*self.arguments, *more, *choice.words(self.config)]
        ranks, hosts = rank_count(choice.config), choice.hosts
        bind = choice.config.run.server_cores == 1
        if self.program is None:
            start = mpirun.prepare_mpips(
                ranks, words, hosts=hosts, attempt=self.attempt, bind=bind
            )
        else:
            marked = {surroundings.MARKER: str(self.attempt)}
            program = [*self.program, *words]
            start = mpirun.prepare(
                ranks, program, hosts=hosts, changes=marked, attempt=self.attempt, bind=bind
            )
        for note in start.notes:
            print(f"mpips: {note}", file=sys.stderr, flush=True)
        self.code = mpirun.run(start, self._watch, signals=self.signals)
        return self._result()

    def _watch(self, child: Child) -> None:
        """End an mpirun that lingers after the result is written; called in a thread."""
        if self.watch is not None:
            threading.Thread(target=self.watch, args=(child,), daemon=True).start()
        while child.poll() is None and self._result() is None:
            time.sleep(LOOK_S)
        until = time.monotonic() + LINGER_S
        while child.poll() is None and time.monotonic() < until:
            time.sleep(LOOK_S)
        if child.poll() is None:
            print(f"mpips: the result is there, and mpirun has not ended for {LINGER_S:g} s; it is"
                  " ended now", file=sys.stderr, flush=True)  # fmt: skip
            end(child)

    def _result(self) -> dict[str, Any] | None:
        result = read_result(self.folder)
        return result if result and result.get(ATTEMPT) == str(self.attempt) else None

    def _was_lost(self, result: dict[str, Any] | None) -> bool:
        if result is None:
            return is_loss(self.code)
        return bool(result["exit_code"] == RanksLostError.exit_code)

    def _may_restart(self) -> bool:
        """Return whether the job keeps checkpoints, or has one."""
        kept = self.config.checkpoint
        return bool(kept.every_s or kept.every_iterations) or has_checkpoint(self.folder)


def _explain_no_result(folder: Path, code: int) -> NoReturn:
    """Say how a job that has left no result has ended, as far as mpirun's exit code tells."""
    if code in INTERRUPTED:
        print(f"mpips: interrupted; logs in {folder / 'log'}", file=sys.stderr, flush=True)
        raise SystemExit(code)
    if is_loss(code):
        where = f"The last words of each rank are in {folder / 'log'}."
        remedy = "Run again. dmesg shows whether the system killed it for memory."
        raise RanksLostError("a rank was lost: its process has died", where, remedy)
    error = LaunchError(f"the job ended without a result; mpirun says {code}")
    error.where = f"The ranks may have said why, above or in {folder / 'log'}."
    error.exit_code = code or error.exit_code
    raise error


def is_loss(code: int) -> bool:
    """Return whether an mpirun that has left no result has ended because ranks or hosts were lost.

    A signal has ended it or a rank, or it has lost its own processes on a host: then Open MPI's
    ends with 0, or, where it finds the host gone at the start, with 250.

    >>> [code for code in (0, 2, 70, 76, 130, 137, 139, 250) if is_loss(code)]
    [0, 76, 137, 139, 250]
    """
    return code in (0, RanksLostError.exit_code) or (code > SIGNALS and code not in INTERRUPTED)
