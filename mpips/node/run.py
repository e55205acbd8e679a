"""Runs an app from a Python program: in one process, under mpirun, or as the ranks of one."""

import argparse
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mpips.config import AUTO, Config, assign, parse
from mpips.core.scheduler import STOPPED_AT_CHECKPOINT
from mpips.errors import LaunchError, MpipsError, RanksLostError, UsageError
from mpips.node import kernels, mpirun, surroundings
from mpips.node.app import App, check_model
from mpips.node.folder import choose_folder, make_folder, name_run, read_result, settle_paths
from mpips.node.resume import has_checkpoint
from mpips.node.roles import rank_count

# What a launcher ends with that was told to end: by HUP, INT or TERM.
INTERRUPTED = (129, 130, 143)
# From here on a signal has ended it, or its own processes have failed.
SIGNALS = 128
# The first pause before a job starts again, in seconds; each one is twice as long.
RESTART_S = 1.0


def run(
    kind: type[App],
    *,
    data: str | Path = "",
    test: str | Path = "",
    settings: Mapping[str, Any] | None = None,
    arguments: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Run an app and return its result, as result.json has it.

    The program `python my_app.py` that calls it runs the job in its own process; with
    `--workers W` (and `--servers S`) it starts itself under mpirun; under `mpirun -n N` it is one
    of the ranks, and does not return.

    Args:
        kind: the app.
        data: HDF5 file with training data, as `mpips convert` makes it; empty: none.
        test: the same for test data.
        settings: config keys, such as `{"run.logical_workers": 4, "model.rate": 0.1}`.
        arguments: the command line; None: the program's own.

    Raises:
        MpipsError: whatever ended the job. The program `my_app.py` need not catch it.
    """
    kernels.use_cache()
    options = _parser(kind).parse_args(arguments)
    given = {"data.train": str(data), "data.test": str(test), **(settings or {})}
    given |= {f"run.{key}": getattr(options, key) for key in ("servers", "workers", "out")}
    texts = [assign(key, value) for key, value in given.items() if value not in (None, "")]
    try:
        refuse_no_workers(options.workers)
        config = settle_paths(parse("", "", [*texts, *options.set]))
        config = name_run(check_model(kind, config), kind.__name__)
        if surroundings.under_mpi():
            from mpips.node.launch import run_rank

            run_rank(kind, config, kind.__name__)
        if options.workers is None:
            return _run_here(kind, config)
        return _run_under_mpirun(config, sys.argv[1:] if arguments is None else arguments)
    except MpipsError as error:
        print(error.explain(), file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        # Functions of the app that had not begun are dropped, which is as it should be.
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        print("mpips: interrupted", file=sys.stderr, flush=True)
        raise SystemExit(INTERRUPTED[1]) from None


def refuse_no_workers(workers: int | None) -> None:
    """Refuse a number of workers on the command line that can do nothing.

    Raises:
        UsageError: it is given, and below 1.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"--workers is {workers}, and a job needs one at least", "", "--workers 1")


def launch(config: Config, program: Sequence[str] | None, arguments: Sequence[str],
           watch: mpirun.Watch | None = None) -> Path:
    """Run a job under an mpirun of its own, and return the run folder once it has succeeded.

    What the result file says counts: mpirun returns 0 even if all ranks were killed.

    Args:
        config: the effective config; its `run.out` names the run folder.
        program: what each rank runs; None: this very mpips.
        arguments: what follows the program.
        watch: called in a thread with the running mpirun.

    Raises:
        LaunchError: there is no mpirun, or the job ended without a result.
        SystemExit: the job failed and has said why.
    """
    folder = Path(config.run.out)
    make_folder(folder, config.run.resume == AUTO)
    kernels.compile_kernels(lambda text: print(f"mpips: {text}", flush=True))
    code = _start(config, program, arguments, watch, 1)
    result = read_result(folder)
    # Deaths that the job did not survive cost what was done since its last checkpoint.
    for attempt in range(config.recovery.restarts):
        lost = RanksLostError.exit_code
        was_lost = is_loss(code) if result is None else result["exit_code"] == lost
        if not was_lost or not has_checkpoint(folder):
            break
        print("mpips: deaths have ended the job; it starts again from its last checkpoint",
              file=sys.stderr, flush=True)  # fmt: skip
        time.sleep(RESTART_S * 2**attempt)
        make_folder(folder, is_resumed=True)
        words = [*arguments, "--set", assign("run.resume", AUTO)]
        code = _start(config, program, words, watch, attempt + 2)
        result = read_result(folder)
    if result is None and code in INTERRUPTED:
        print(f"mpips: interrupted; logs in {folder / 'log'}", file=sys.stderr, flush=True)
        raise SystemExit(code)
    if result is None and is_loss(code):
        where = f"The last words of each rank are in {folder / 'log'}."
        remedy = "Run again. dmesg shows whether the system killed it for memory."
        raise RanksLostError("a rank was lost: its process has died", where, remedy)
    if result is None:
        error = LaunchError(f"the job ended without a result; mpirun says {code}")
        error.where = f"The ranks may have said why, above or in {folder / 'log'}."
        error.exit_code = code or error.exit_code
        raise error
    if result["exit_code"] == STOPPED_AT_CHECKPOINT:
        print("mpips: stopped at a checkpoint; the same command with --resume auto and"
              f" --out {folder} goes on", file=sys.stderr, flush=True)  # fmt: skip
        raise SystemExit(STOPPED_AT_CHECKPOINT)
    if result["exit_code"]:
        # Ranks leave it to us, since what they print in their last moment may be lost.
        print(MpipsError(result["error"]).explain(), file=sys.stderr, flush=True)
        raise SystemExit(result["exit_code"])
    return folder


def is_loss(code: int) -> bool:
    """Return whether an mpirun that has left no result has ended because ranks or hosts were lost.

    A signal has ended it or a rank, or it has lost its own processes on a host: then Open MPI's
    ends with 0, or, where it finds the host gone at the start, with 250.

    >>> [code for code in (0, 2, 70, 76, 130, 137, 139, 250) if is_loss(code)]
    [0, 76, 137, 139, 250]
    """
    return code in (0, RanksLostError.exit_code) or (code > SIGNALS and code not in INTERRUPTED)


def _start(config: Config, program: Sequence[str] | None, arguments: Sequence[str],
           watch: mpirun.Watch | None, attempt: int) -> int:
    """Run the ranks for the first time, or another one, and return what mpirun ends with."""
    ranks = rank_count(config)
    if program is None:
        return mpirun.start(ranks, arguments, watch=watch, attempt=attempt)
    marked = {surroundings.MARKER: str(attempt)}
    words = [*program, *arguments]
    return mpirun.run(mpirun.prepare(ranks, words, changes=marked, attempt=attempt), watch)


def _run_here(kind: type[App], config: Config) -> dict[str, Any]:
    import time

    from mpips.node.console import Console
    from mpips.node.folder import RunFolder
    from mpips.node.local import run_local

    folder = RunFolder(choose_folder(config), config)
    return run_local(kind, config, folder, Console(time.monotonic()))


def _run_under_mpirun(config: Config, arguments: Sequence[str]) -> dict[str, Any]:
    folder = choose_folder(config)
    config = msgspec.structs.replace(
        config, run=msgspec.structs.replace(config.run, out=str(folder))
    )
    launch(config, [sys.executable, sys.argv[0]], [*arguments, "--out", str(folder)])
    result = read_result(folder)
    assert result is not None
    return result


def _parser(kind: type[App]) -> argparse.ArgumentParser:
    description = (kind.__doc__ or "").partition("\n\n")[0]
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    add = parser.add_argument
    add("--workers", type=int, metavar="W", help="start under mpirun with so many worker ranks")
    add("--servers", type=int, metavar="S", help="ranks that hold the model (default: 1)")
    add("--out", metavar="DIR", help="the run folder (default: runs/NAME-TIME)")
    add("--set", action="append", default=[], metavar="A.B=V", help="set any key of the config")
    return parser
