"""Runs an app from a Python program: in one process, under mpirun, or as the ranks of one."""

import argparse
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mpips.config import Config, parse
from mpips.errors import MpipsError, UsageError
from mpips.node import kernels, surroundings
from mpips.node.app import App, check_model
from mpips.node.folder import choose_folder, name_run, read_result, settle_paths
from mpips.toml import assign

INTERRUPTED = 130


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
        raise SystemExit(INTERRUPTED) from None


def refuse_no_workers(workers: int | None) -> None:
    """Refuse a number of workers on the command line that can do nothing.

    Raises:
        UsageError: it is given, and below 1.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"--workers is {workers}, and a job needs one at least", "", "--workers 1")


def _run_here(kind: type[App], config: Config) -> dict[str, Any]:
    import time

    from mpips.node.console import Console
    from mpips.node.folder import RunFolder
    from mpips.node.local import run_local

    folder = RunFolder(choose_folder(config), config)
    return run_local(kind, config, folder, Console(time.monotonic()))


def _run_under_mpirun(config: Config, arguments: Sequence[str]) -> dict[str, Any]:
    from mpips.node.supervisor import launch

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
