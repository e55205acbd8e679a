"""Train a model on servers and workers, which are started under mpirun.

The input is a config in TOML, or a data file in HDF5. Under an mpirun of yours (mpirun -n 7 mpips
train config.toml) the ranks take part in the job; otherwise the job gets an mpirun of its own.
"""

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mpips.config import Config, Source, parse, read
from mpips.errors import ConfigError, MissingInputError, UsageError
from mpips.node import surroundings
from mpips.node.app import App, check_model
from mpips.node.folder import choose_folder, name_run, settle_paths
from mpips.node.run import refuse_no_workers
from mpips.toml import assign

if TYPE_CHECKING:
    from mpips.node.mpirun import Watch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_job_arguments(parser)
    parser.add_argument("--dry-run", action="store_true", help=
        "print mpirun's command line, and every key of the config")  # fmt: skip


def add_job_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that say what a job is."""
    add = parser.add_argument
    add("input", metavar="CONFIG.toml|DATA.h5", type=Path, help="a config, or data")
    add("--test", metavar="DATA.h5", type=Path, help="measure the model on this file at the end")
    add("--model", metavar="KIND", help=
        "linear, the default, or module:Class of your own (model.kind)")  # fmt: skip
    add("--servers", metavar="S", type=int,
        help="ranks that hold the model (run.servers; default: 1)")
    add("--workers", metavar="W", type=int,
        help="ranks that compute (run.workers; default: 1, under mpirun all others)")
    add("--out", metavar="DIR", type=Path, help="the run folder (default: runs/NAME-TIME)")
    add("--resume", metavar="auto|RUN", help=
        "go on from the last checkpoint of --out, or of another run (run.resume)")  # fmt: skip
    add("--max-time", metavar="SECONDS", type=float,
        help="stop at a checkpoint after so long, with exit code 75 (run.max_time_s)")
    add("--set", metavar="A.B=V", action="append", default=[], help="set any key of the config")


def run(arguments: argparse.Namespace) -> int:
    """Be a rank, or start the ranks and wait for their result."""
    if surroundings.under_mpi():
        from mpips.node.launch import run_rank

        run_rank(*make_job(arguments), arguments.input.name)
    start(arguments)
    return 0


def start(
    arguments: argparse.Namespace, watch_for: "Callable[[Config], Watch] | None" = None
) -> Path | None:
    """Start ranks under an mpirun of their own, and return the run folder.

    Args:
        arguments: the command line.
        watch_for: is given the effective config, and returns what watches the running mpirun.

    Returns:
        None after a dry run.
    """
    _, config = make_job(arguments)
    # Look at the data before any rank is started, so that what is wrong is told at once.
    from mpips.node.shard import data_facts

    data_facts(config)
    folder = choose_folder(config)
    own = msgspec.structs.replace(config.run, out=str(folder))
    config = msgspec.structs.replace(config, run=own).sized(max(1, config.run.workers))
    watch = watch_for(config) if watch_for is not None else None
    program = command_line(arguments, config)
    if arguments.dry_run:
        show_start(config, program)
        return None
    from mpips.node.supervisor import launch

    return launch(config, None, program, watch)


def find_source(arguments: argparse.Namespace) -> Source:
    """Return the config file and the settings that a command line names.

    Raises:
        ConfigError: the file cannot be read.
        UsageError: no worker is wanted.
        MissingInputError: the input is not there.
    """
    path: Path = arguments.input
    is_config = path.suffix == ".toml"
    settings = []
    refuse_no_workers(arguments.workers)
    if not is_config:
        settings.append(assign("data.train", str(path)))
    for key, value in (
        ("data.test", arguments.test),
        ("model.kind", arguments.model),
        ("run.servers", arguments.servers),
        ("run.workers", arguments.workers),
        ("run.out", arguments.out),
        ("run.resume", arguments.resume),
        ("run.max_time_s", arguments.max_time),
    ):
        if value is not None:
            settings.append(assign(key, str(value) if isinstance(value, Path) else value))
    if arguments.debug:
        settings.append(assign("run.debug", True))
    if not path.exists():
        raise MissingInputError(f"{path} does not exist", f"looked in {Path.cwd()}", nearest(path))
    return read(path if is_config else None, settings + arguments.set)


def nearest(path: Path) -> str:
    """Return a hint at a file that may have been meant."""
    import difflib

    try:
        names = [other.name for other in path.parent.iterdir()]
    except OSError:
        return f"The folder {path.parent} does not exist either."
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"Did you mean {path.with_name(close[0])}?" if close else ""


def nearest_word(wrong: str, known: Iterable[str]) -> str:
    """Return a hint at the word that may have been meant, or an empty text."""
    import difflib

    close = difflib.get_close_matches(wrong, known, n=1)
    return f"Did you mean {close[0]}? " if close else ""


def make_job(arguments: argparse.Namespace) -> tuple[type[App], Config]:
    """Return the app that a command line names, and the effective config.

    Raises:
        ConfigError: a key or value is wrong.
        UsageError: no training data is named, or no worker wanted.
        MissingInputError: the input is not there.
    """
    from mpips.apps.find import LINEAR, find_app

    source = find_source(arguments)
    config = settle_paths(parse(source.text, source.name, source.settings))
    if not config.data.train:
        raise UsageError("no training data", "data.train is not set", "--set data.train=FILE.h5")
    # An app of the user's own lies beside its config, or where the command is given.
    sys.path += [str(arguments.input.absolute().parent), str(Path.cwd())]
    try:
        kind = find_app(config)
    except ConfigError as error:
        if error.where.startswith("model."):
            wrong = config.model.get(error.where.removeprefix("model."))
            error.where += f", {source.place(error.where)}"
            error.remedy = f"{nearest_word(str(wrong), LINEAR)}{error.remedy}"
        raise
    config = msgspec.structs.replace(config, model={"kind": "linear", **config.model})
    config = check_model(kind, config, source)
    return kind, name_run(config, arguments.input.absolute().stem)


def command_line(arguments: argparse.Namespace, config: Config) -> list[str]:
    """Return the command line of the ranks: the same, with everything decided."""
    words = ["train", str(arguments.input), "--out", config.run.out]
    words += ["--servers", str(config.run.servers), "--workers", str(config.run.workers)]
    for name in ("test", "model", "resume", "max_time"):
        value = getattr(arguments, name)
        name = name.replace("_", "-")
        words += [f"--{name}", str(value)] if value is not None else []
    for setting in arguments.set:
        words += ["--set", setting]
    # By the key, since --debug would have each rank show where errors were raised.
    words += ["--set", assign("run.debug", True)] if arguments.debug else []
    return words


def show_start(config: Config, program: list[str]) -> None:
    """Print what would be started."""
    from mpips.node import mpirun
    from mpips.node.roles import rank_count
    from mpips.toml import to_toml

    bind = config.run.server_cores == 1
    print(mpirun.prepare_mpips(rank_count(config), program, bind=bind).describe())
    print()
    print(to_toml(config))
