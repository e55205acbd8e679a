"""Train on the data that comes with mpips: which Debian packages are libraries?

L1 logistic regression on the words of 50,511 package descriptions, by block proximal gradient, with
2 servers and 4 workers under mpirun on this machine; then the model is measured on other packages.
"""

import argparse
import os
import sys
from pathlib import Path

from mpips.bootstrap import ROOT, VENV, is_checkout
from mpips.cli import main, train
from mpips.cli.demo_kill import Killer, check_victim
from mpips.config import Config
from mpips.errors import MissingInputError
from mpips.node.folder import read_result

SERVERS, WORKERS = 2, 4
SETTINGS = ("run.name=demo", "model.kind=linear", "model.l1=1.0", "model.tolerance=1e-3")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--servers", metavar="S", type=int, default=SERVERS, help="default: %(default)s")
    add("--workers", metavar="W", type=int, default=WORKERS, help="default: %(default)s")
    add("--out", metavar="DIR", type=Path, help="the run folder (default: runs/demo-TIME)")
    add("--kill", metavar="scheduler|server|worker|spare|RANK", help=
        "kill that rank, or the first one of that role, by SIGKILL once training is under way")
    add("--set", metavar="A.B=V", action="append", default=[], help="set any key of the config")


def run(arguments: argparse.Namespace) -> int:
    """Train, measure, and say what to try next."""
    data = ROOT / "data"
    if not is_checkout() or not (data / "debian-train.h5").is_file():
        what = f"the sample data is not in {data}"
        raise MissingInputError(what, "", "Run the demo in a source checkout of mpips.")
    print("mpips demo: is this Debian package a library? L1 logistic regression on its words")
    asked = argparse.Namespace(
        input=data / "debian-train.h5",
        test=data / "debian-test.h5",
        model=None,
        servers=arguments.servers,
        workers=arguments.workers,
        out=arguments.out,
        resume=None,
        max_time=None,
        set=[*SETTINGS, *arguments.set],
        dry_run=False,
        # Who shall be killed is found by what the logs tell.
        debug=bool(arguments.debug or arguments.kill),
    )

    def killer(config: Config) -> Killer:
        check_victim(arguments.kill, config)
        return Killer(arguments.kill, Path(config.run.out))

    folder = train.start(asked, killer if arguments.kill else None)
    if folder is not None:
        say_what_next(folder)
    return 0


def say_what_next(folder: Path) -> None:
    """Print the model's quality on the test split, and commands to go on with."""
    result = read_result(folder)
    assert result is not None
    where = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    command = main.program()
    # What the demo has installed is found from any folder only in its environment.
    is_hidden = sys.prefix == str(VENV) and os.environ.get("VIRTUAL_ENV") != str(VENV)
    activate = f"  . {VENV}/bin/activate   # mpips, mpirun, python, from any folder\n"
    print(
        f"\ntest AUC {result['auc']:.4f}, log loss {result['logloss']:.4f},"
        f" {result['nonzeros']:,} words have a weight\n\n"
        "try next:\n"
        f"{activate if is_hidden else ''}"
        f"  {command} info {where}   # what the run left\n"
        f"  {command} export {where} -o w.tsv   # the words and their weights\n"
        f"  {command} demo --kill server   # what happens when a rank dies\n"
        f"  {command} demo --set model.l1=10   # a smaller model\n"
        f"  {command} demo --set model.solver=ftrl   # one streaming pass instead\n"
        f"  {command} convert my.svm -o my.h5   # your own data\n"
        f"  {command} train my.h5 --servers 2 --workers 4"
    )
