"""Makes the first use from a bare python3 work: `.venv` beside pyproject.toml, filled once.

Only the standard library is used. An environment that has what is needed is used as it is;
otherwise `.venv` is made, filled and re-entered. Its stamp is written last and names the
interpreter and the hash of pyproject.toml, so that a broken or outdated installation is
repeated (`pip` then only adds what is missing). Inside `.venv` the stamp is believed, since to
ask for each package takes 0.1 s of every command.
"""

import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from mpips.errors import LaunchError, MissingInputError
from mpips.node import mpirun, surroundings

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / ".mpips-ok"
REENTERED = "MPIPS_BOOTSTRAPPED"
ENVIRONMENT_EXTRAS = ("test", "dev")

# Variables that put other packages before those of `.venv`, or new ones elsewhere.
SHADOWING = ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_USER",
             "PIP_REQUIRE_VIRTUALENV")


def ensure(extras: tuple[str, ...], arguments: list[str], *, may_make: bool = True) -> None:
    """Return where the requirements are met, else go on in `.venv`, which is made if need be.

    Args:
        extras: the extras of pyproject.toml that the command needs beside the dependencies.
        arguments: the command line, with which the program starts again inside `.venv`.
        may_make: False for a command that shall also run where nothing is installed.

    Raises:
        LaunchError: something is missing and `.venv` cannot be used or made.
    """
    reentered = os.environ.pop(REENTERED, None) is not None
    if Path(sys.prefix) == VENV and up_to_date():
        return
    missing = lacking(requirements(extras))
    if not missing:
        return

    # Do not touch anything inside MPI, in an installed copy, or a second time.
    if not may_make and not up_to_date():
        return
    if reentered or surroundings.under_mpi() or not is_checkout():
        refuse(missing, extras)
    with locked():
        if not up_to_date():
            make(missing)
    enter(arguments)


def explain(extras: tuple[str, ...]) -> None:
    """Say what this Python lacks, after an import that has failed; return where it lacks nothing.

    Raises:
        LaunchError: it lacks something.
    """
    if missing := lacking(requirements(extras)):
        refuse(missing, extras)


def refuse(missing: list[str], extras: tuple[str, ...]) -> NoReturn:
    """Raise the error of a Python that lacks something, and that nothing may be installed for."""
    names = ",".join(["mpi", *extras])
    source = f"-e '{ROOT}[{names}]'" if is_checkout() else f"'mpips[{names}]'"
    raise LaunchError(
        f"this Python lacks {', '.join(missing)}",
        sys.executable,
        f"{sys.executable} -m pip install {source}   (clusters: without mpi)",
    )


def is_checkout() -> bool:
    """Tell whether the package lies in a source checkout."""
    return (ROOT / "pyproject.toml").is_file()


def requirements(extras: tuple[str, ...]) -> list[str]:
    """List the requirements, as pyproject.toml or the installed package's metadata has them."""
    if is_checkout():
        import tomllib

        project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
        optional = project["optional-dependencies"]
        return [*project["dependencies"], *(line for name in extras for line in optional[name])]

    from importlib import metadata

    # Keep the lines without a marker, and those of the wanted extras.
    try:
        lines = metadata.requires("mpips") or []
    except metadata.PackageNotFoundError:
        return []
    wanted = re.compile("|".join(f"extra == ['\"]{name}['\"]" for name in extras) or "$^")
    chosen = [line for line in lines if "extra ==" not in line or wanted.search(line)]
    return [line.partition(";")[0] for line in chosen]


def lacking(lines: list[str]) -> list[str]:
    """List the requirements (`name>=version`) that this interpreter does not meet."""
    from importlib import metadata

    missing = []
    for line in lines:
        name, _, oldest = (part.strip() for part in line.partition(">="))
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if oldest and version_tuple(found) < version_tuple(oldest):
            missing.append(f"{name}>={oldest} (here {found})")
    return missing


def version_tuple(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version.

    >>> version_tuple("4.1.2") >= version_tuple("4.1"), version_tuple("2.0rc1")
    (True, (2, 0))
    """
    numbers = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in numbers.group().split(".")) if numbers else ()


def stamp() -> str:
    """Return what the stamp of an up-to-date `.venv` says."""
    content = (ROOT / "pyproject.toml").read_bytes()
    return f"{ROOT}\n{hashlib.sha256(content).hexdigest()}\n"


def up_to_date() -> bool:
    """Tell whether `.venv` was filled to the end, by this pyproject.toml, and still starts."""
    try:
        return STAMP.read_text("utf-8") == stamp() and os.access(VENV / "bin" / "python", os.X_OK)
    except OSError:
        return False


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Let one process at a time make `.venv`; a second one waits and finds it made."""
    import fcntl

    with (ROOT / "pyproject.toml").open("rb") as file:
        # Go on without a lock where the file system has none.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make(missing: list[str]) -> None:
    """Make and fill `.venv` and write its stamp last."""
    extras = wanted_extras()
    say(f"this Python lacks {missing[0]}{' and more' if missing[1:] else ''}; first use: "
        f"installing mpips[{extras}] into {VENV} (about a minute, 700 MB)")
    pip = make_venv()
    STAMP.unlink(missing_ok=True)
    install = [*pip, "install", "-qq", "--no-input", "--retries=2",
               "--disable-pip-version-check"]
    if subprocess.call([*install, "-e", f"{ROOT}[{extras}]"], stdin=subprocess.DEVNULL,
                       stdout=sys.stderr, env=clean()):
        raise LaunchError(
            "the packages that mpips needs could not be installed",
            f"{VENV}; the lines above say why (no network?)",
            f"with a network: python3 -m mpips again; or in an environment of your own: "
            f"pip install -e '{ROOT}[{extras}]'",
        )
    STAMP.write_text(stamp(), "utf-8")


def wanted_extras() -> str:
    """Name the extras to install: no Open MPI wheel where a cluster brings an Open MPI 5.

    The wheel's library would be loaded before the site's, silently.
    """
    site = shutil.which("mpirun")
    on_cluster = shutil.which("srun") is not None and site is not None
    if on_cluster and site and mpirun.identify(site).can_recover:
        return ",".join(ENVIRONMENT_EXTRAS)
    return ",".join(("mpi", *ENVIRONMENT_EXTRAS))


def make_venv() -> list[str]:
    """Make the folder `.venv` and return the command of a pip that installs into it."""
    python = str(VENV / "bin" / "python")
    have_ensurepip = importlib.util.find_spec("ensurepip") is not None
    have_pip = importlib.util.find_spec("pip") is not None
    command = [sys.executable, "-m", "venv", str(VENV)]
    if not have_ensurepip:
        command.insert(3, "--without-pip")
    run(command, f"cannot make {VENV}")

    # Prefer the environment's pip, then this Python's, then one from the index.
    if (VENV / "bin" / "pip").exists():
        return [python, "-m", "pip"]
    if have_pip:
        return [sys.executable, "-m", "pip", "--python", python]
    return [python, fetched(VENV)]


def fetched(folder: Path) -> str:
    """Fetch pip's wheel into a folder and return the path that runs it."""
    from mpips.fetch import fetch_pip

    try:
        return f"{fetch_pip(folder)}/pip"
    except (OSError, MissingInputError) as error:
        raise LaunchError(
            "this python3 has neither ensurepip nor pip, and the package index gave none",
            str(error).splitlines()[0],
            "Debian, Ubuntu: apt install python3-venv python3-pip; then python3 -m mpips again",
        ) from error


def run(command: list[str], what: str) -> None:
    """Run a command and turn its failure into a sentence."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, env=clean(), check=False)
    if done.returncode:
        last = [line for line in done.stdout.splitlines() if line.strip()][-1:]
        raise LaunchError(what, " ".join([*last, "from", *command]),
                          "Debian, Ubuntu: apt install python3-venv; or use your own environment: "
                          f"pip install -e '{ROOT}[mpi,test,dev]'")


def clean() -> dict[str, str]:
    """Return the environment without what would shadow the packages of `.venv`."""
    return {name: value for name, value in os.environ.items() if name not in SHADOWING}


def enter(arguments: list[str], execute: Callable[..., None] = os.execve) -> None:
    """Replace this process by the same command under `.venv`'s Python."""
    if os.environ.get("PYTHONPATH"):
        say(f"ignoring PYTHONPATH={os.environ['PYTHONPATH']}: it would shadow {VENV}")
    python = str(VENV / "bin" / "python")
    environment = {**clean(), REENTERED: "1"}
    sys.stdout.flush()
    execute(python, [python, str(ROOT / "mpips"), *arguments], environment)


def say(sentence: str) -> None:
    """Print a line on the standard error."""
    print(f"mpips: {sentence}", file=sys.stderr, flush=True)
