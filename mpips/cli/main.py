"""The frame of the command line: finds the command, runs it, and turns errors into sentences.

A command is a module `mpips/cli/NAME.py` with `add_arguments(parser)` and
`run(arguments) -> int`. Only the chosen one is imported, so that help is instant.
"""

import argparse
import importlib
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

from mpips import __version__
from mpips.errors import MpipsError, UsageError

COMMANDS = {
    "demo": "train on the data that comes with mpips, and show what happens",
    "test": "run the project's tests, serial and under MPI",
    "doctor": "check Python, MPI, recovery, HDF5 and Slurm, and say what to do",
    "convert": "turn libsvm text into the HDF5 that training reads",
    "info": "say what a data file, a model or a run folder holds",
    "check": "check a config and its data without starting anything",
    "train": "train a model on servers and workers",
    "predict": "write a model's prediction for each row of a data file",
    "evaluate": "measure a model on a data file",
    "export": "write a model or a data file as text",
    "report": "draw what happened in a run",
    "slurm": "write a batch script for Slurm",
    "ctl": "add or remove servers and workers of a running job",
    "bench": "measure push and pull against raw MPI",
    "sim": "run the protocol in a simulated cluster with failures",
}

# Name what a command needs beside the dependencies; an empty tuple is the usual case.
EXTRAS = {"test": ("test", "dev")}

EXIT_CODES = """exit codes:
  0   done                               70  internal error: a bug in mpips
  1   your app raised an error,          73  cannot create output
      or a test failed                   74  reading or writing failed
  2   usage or config                    75  stopped at a checkpoint, as asked
  65  bad data                           76  a rank was lost
  66  missing input                      130 interrupted
  69  no usable MPI or environment"""

INTERRUPTED, BROKEN_PIPE, INTERNAL = 130, 141, 70
PATIENCE_S = 30.0


class Parser(argparse.ArgumentParser):
    """A parser whose errors are `UsageError`s, with the option that was probably meant."""

    def error(self, message: str) -> NoReturn:
        """Raise a `UsageError` in place of leaving the program."""
        remedy = f"{self.prog} --help shows what there is"
        if message.startswith("unrecognized arguments: -"):
            wrong = message.split()[2].partition("=")[0]
            remedy = did_you_mean(wrong, list(self._option_string_actions)) or remedy
        raise UsageError(message, f"in: {self.prog} ...", remedy)


def did_you_mean(wrong: str, known: list[str]) -> str:
    """Name the known word that is closest to a wrong one, or return an empty string.

    >>> did_you_mean("tran", ["train", "test"])
    'did you mean train?'
    """
    import difflib

    close = difflib.get_close_matches(wrong, known, n=1, cutoff=0.55)
    return f"did you mean {close[0]}?" if close else ""


def program() -> str:
    """Return how the user has started mpips, for commands that are shown to try next."""
    started = Path(sys.argv[0])
    is_script = started.name == "mpips" and started.is_file()
    return "mpips" if is_script else "python3 -m mpips"


def commands() -> dict[str, str]:
    """Return the commands that exist, each with its help of one line."""
    folder = Path(__file__).parent
    return {name: text for name, text in COMMANDS.items() if (folder / f"{name}.py").is_file()}


def overview() -> str:
    """Return the text of `mpips --help`."""
    lines = [f"  {name:<10}{text}" for name, text in commands().items()]
    return "\n".join([
        "usage: mpips COMMAND ...",
        "",
        "A parameter server for MPI supercomputers.",
        "",
        "commands:",
        *lines,
        "",
        "mpips COMMAND --help, or mpips help COMMAND, shows a command's options;",
        "--version the version;",
        "--debug, with any command, the place in the code where an error was raised; logs",
        "of ranks then have all that these do, not warnings alone.",
        "",
        EXIT_CODES,
    ])


def parser_for(name: str) -> tuple[argparse.ArgumentParser, object]:
    """Import a command's module and return its parser and the module."""
    module = importlib.import_module(f"mpips.cli.{name}")
    parser = Parser(
        prog=f"mpips {name}",
        description=(module.__doc__ or "").partition("\n\n")[0],
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true",
                        help="show where in the code an error was raised; log all")
    return parser, module


def dispatch(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    if arguments[:1] == ["help"] and len(arguments) > 1:
        arguments = [arguments[1], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if arguments else 2
    name = arguments[0]
    if name in ("-V", "--version"):
        print(f"mpips {__version__}")
        return 0
    if name not in commands():
        remedy = did_you_mean(name, list(commands())) or "mpips --help shows the commands"
        raise UsageError(f"there is no command {name}", "", remedy)

    from mpips.node import kernels, surroundings

    # Go where the packages are. The doctor also looks at a Python that has none. A rank's launcher
    # has looked for it: that takes a fifth of all that a rank does before it starts MPI.
    if not surroundings.started_by_mpips():
        from mpips import bootstrap

        bootstrap.ensure(EXTRAS.get(name, ()), arguments, may_make=name != "doctor")
    kernels.use_cache()
    try:
        parser, module = parser_for(name)
        code: int = module.run(parser.parse_args(arguments[1:]))  # type: ignore[attr-defined]
    except ModuleNotFoundError:
        # A rank's host may lack what its launcher's has, and `.venv` what its stamp promises.
        from mpips import bootstrap

        bootstrap.explain(EXTRAS.get(name, ()))
        raise
    return code


def report(error: MpipsError) -> None:
    """Print an error as three lines: what, where, remedy.

    Every rank of a job meets the same wrong command line or config: the first one says it. The
    others wait for the launcher to end them after it, since the first to exit ends all; one
    that is still there after `PATIENCE_S` says it too.
    """
    from mpips.node import surroundings

    rank = surroundings.rank_promised()
    if rank and isinstance(error, UsageError):
        time.sleep(PATIENCE_S)
    prefix = f"[rank {rank}] " if rank else ""
    text = "\n".join(prefix + line for line in error.explain().splitlines())
    print(text, file=sys.stderr, flush=True)


def print_traceback() -> None:
    """Print where in the code the error was raised that is being handled."""
    import traceback

    traceback.print_exc()


def main(arguments: list[str]) -> int:
    """Run the command line and return the exit code; no error leaves as a traceback.

    Args:
        arguments: what follows the program's name.
    """
    debug = "--debug" in arguments
    if arguments[:1] == ["--debug"]:
        arguments = [*arguments[1:2], "--debug", *arguments[2:]] if arguments[1:] else []
    try:
        code = dispatch(arguments)
        sys.stdout.flush()
        return code
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone: let the interpreter's last flush go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except MpipsError as error:
        if debug:
            print_traceback()
        report(error)
        return error.exit_code
    except Exception as error:
        if debug:
            print_traceback()
        what = f"{type(error).__name__}: {error}".partition("\n")[0]
        print(f"mpips: internal error: {what}; please report; --debug shows where", file=sys.stderr)
        return INTERNAL
