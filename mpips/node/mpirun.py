"""Starts ranks: finds the mpirun that belongs to mpi4py's libmpi, and knows its settings.

Only the standard library is used, since this runs before MPI and outside of it.
"""

import os
import re
import shlex
import shutil
import signal
import site
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mpips.errors import LaunchError
from mpips.node.signals import Signals, end
from mpips.node.surroundings import (
    MARKER,
    allocated,
    cores,
    end_with_parent,
    inner_environment,
    slurm_problem,
)

PACKAGE = Path(__file__).resolve().parent.parent
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS",
                    "NUMBA_NUM_THREADS")

Watch = Callable[["subprocess.Popen[bytes]"], None]

# What mpirun ends with where it can start nothing, as where not even the loopback interface is up.
NO_START = 213

# Hydra starts their ranks. It ends with the number of the signal that killed a rank.
HYDRA = ("MPICH", "Intel MPI")
DEATHS = (signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGKILL, signal.SIGSEGV,
          signal.SIGTERM)

WITH_RECOVERY = "mpirun --with-ft ulfm ..., as mpips train does by itself"


@dataclass(frozen=True)
class Setting:
    """One variable for mpirun and its ranks: when it is set, and why."""

    name: str
    value: str
    when: str
    why: str


# The one table of settings, Open MPI's; MPICH needs none. `when`: always, local (no resource
# manager), crowded (more ranks than cores, local), root. A variable that the user has set is left
# as it is.
SETTINGS = (
    Setting("OMPI_MCA_btl_tcp_flags", "send,inplace,need-ack,need-csum,hetero-rdma", "always",
            "no put: a rendezvous with a dead peer loops for ever or crashes over TCP"),
    Setting("OMPI_MCA_coll", "^hcoll,portals4,han", "always",
            "han gives wrong sums, without an error, after a rank has died"),
    Setting("OMPI_MCA_pml", "ob1", "local",
            "the messaging layer that survives deaths; and no search for fabrics: 1 s less"),
    Setting("OMPI_MCA_btl", "self,sm,tcp", "local", "shared memory, and TCP without a search"),
    Setting("OMPI_MCA_osc", "^ucx", "local", "one-sided transfers are not used: no search"),
    Setting("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe", "local",
            "a laptop may hold more ranks than cores"),
    Setting("OMPI_MCA_rmaps_base_oversubscribe", "1", "local", "the same for Open MPI 4"),
    Setting("OMPI_MCA_mpi_yield_when_idle", "1", "crowded", "waiting ranks give up their core"),
    Setting("OMPI_ALLOW_RUN_AS_ROOT", "1", "root", "containers run as root"),
    Setting("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", "root", "containers run as root"),
    Setting("PRTE_ALLOW_RUN_AS_ROOT", "1", "root", "containers run as root"),
    Setting("PRTE_ALLOW_RUN_AS_ROOT_CONFIRM", "1", "root", "containers run as root"),
)


@dataclass(frozen=True)
class Launcher:
    """An mpirun: where it is, whose it is, and how old."""

    path: str
    flavour: str
    version: tuple[int, ...]

    @property
    def can_recover(self) -> bool:
        """Tell whether ranks may die under it without the job."""
        return self.flavour == "Open MPI" and self.version >= (5,)

    @property
    def prefix(self) -> Path:
        """Return the folder above its `bin`, links resolved."""
        return Path(self.path).parent.resolve().parent

    def __str__(self) -> str:
        return f"{self.flavour} {'.'.join(map(str, self.version))} ({self.path})"


def library_folders() -> list[Path]:
    """List the prefixes that mpi4py searches before the loader's path, in its order.

    Those of the libraries that `MPI4PY_LIBMPI` names, which may be files or folders, are the only
    ones then.
    """
    if named := os.environ.get("MPI4PY_LIBMPI"):
        paths = [Path(entry).expanduser() for entry in named.split(os.pathsep) if entry]
        return [(path if path.is_dir() else path.parent).parent for path in paths]
    prefixes = [Path(sys.prefix)]
    if site.ENABLE_USER_SITE:
        prefixes.append(Path(site.getuserbase()))
    if sys.base_prefix not in ("/usr", sys.prefix):
        prefixes.append(Path(sys.base_prefix))
    return prefixes


def find() -> Launcher:
    """Find the mpirun that belongs to the libmpi that mpi4py will load.

    Raises:
        LaunchError: there is none.
    """
    # Take the user's word, then the wheel's, whose library is loaded first, then the PATH's.
    if named := os.environ.get("MPIPS_MPIRUN"):
        path = shutil.which(named)
        if path is None:
            raise LaunchError("MPIPS_MPIRUN names no program", named, "unset it or correct it")
        return identify(path)
    for prefix in library_folders():
        program = prefix / "bin" / "mpirun"
        if program.is_file() and any((prefix / "lib").glob("libmpi.so*")):
            return identify(str(program))
    path = shutil.which("mpirun") or shutil.which("mpiexec")
    if path is None:
        raise LaunchError(
            "no mpirun",
            f"looked in {sys.prefix}/bin and on the PATH",
            "laptop: pip install 'mpips[mpi]'; cluster: module load openmpi; or set MPIPS_MPIRUN",
        )
    return identify(path)


def identify(path: str) -> Launcher:
    """Ask an mpirun for its name and version.

    Raises:
        LaunchError: it does not start.
    """
    environment = inner_environment({})
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20,
                              stdin=subprocess.DEVNULL, env=environment, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LaunchError("mpirun does not start", f"{path}: {error}",
                          "reload its module, or set MPIPS_MPIRUN") from error
    return parse_version(path, done.stdout + done.stderr)


def parse_version(path: str, text: str) -> Launcher:
    """Read what `mpirun --version` prints.

    >>> parse_version("mpirun", "mpirun (Open MPI) 5.0.11").version
    (5, 0, 11)
    """
    patterns = {
        "Open MPI": r"(?:Open MPI|OpenRTE)\)\s+(\d+(?:\.\d+)*)",
        "Intel MPI": r"Intel\(R\) MPI Library.*?Version\s+(\d+(?:\.\d+)*)",
        "MPICH": r"HYDRA build details:\s+Version:\s+(\d+(?:\.\d+)*)",
    }
    for flavour, pattern in patterns.items():
        if found := re.search(pattern, text, re.DOTALL):
            return Launcher(path, flavour, tuple(int(n) for n in found.group(1).split(".")))
    return Launcher(path, "unknown", ())


def settings(ranks: int | None, local: bool, flavour: str = "Open MPI") -> dict[str, str]:
    """Return the variables that apply to a launcher's flavour and that the user has not set."""
    crowded = local and ranks is not None and ranks > cores()
    applies = {"always": True, "local": local, "crowded": crowded, "root": os.geteuid() == 0}
    table = () if flavour in HYDRA else SETTINGS
    chosen = {s.name: s.value for s in table if applies[s.when]}
    chosen |= dict.fromkeys(THREAD_VARIABLES, "1")
    kept = inner_environment({})
    return {name: value for name, value in chosen.items() if name not in kept}


@dataclass(frozen=True)
class Start:
    """A command line for mpirun and the environment that goes with it."""

    command: tuple[str, ...]
    environment: dict[str, str]
    changes: dict[str, str]
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return the line that does the same by hand, for `--dry-run`."""
        variables = [f"{name}={shlex.quote(value)}" for name, value in self.changes.items()]
        return " ".join([*variables, shlex.join(self.command)])


def prepare(ranks: int | None, program: Sequence[str], *, hosts: Sequence[str] = (),
            attempt: int = 1, changes: Mapping[str, str] | None = None,
            bind: bool = True) -> Start:
    """Build the command line and the environment that start a program as ranks.

    Args:
        ranks: how many; None takes all slots of the allocation.
        program: the program and its arguments.
        hosts: the nodes to use; empty for all of the allocation.
        attempt: 1, or more for a restart in the same allocation.
        changes: further variables for the ranks.
        bind: whether each rank gets a core of its own, where there are enough.

    Raises:
        LaunchError: there is no mpirun.
    """
    launcher = find()
    problem = slurm_problem()
    local = not allocated() and not hosts
    added = {**settings(ranks, local, launcher.flavour), **(changes or {})}
    environment = inner_environment(added)
    notes: list[str] = []

    # Leave a stale allocation's variables out, else mpirun asks Slurm for nodes.
    if problem:
        environment = {k: v for k, v in environment.items() if not k.startswith("SLURM_")}
        notes.append(f"{problem}; starting on this machine alone")
    command = [launcher.path, *flags(launcher, ranks, hosts, attempt, local, bind)]
    return Start((*command, *program), environment, added, tuple(notes))


def flags(launcher: Launcher, ranks: int | None, hosts: Sequence[str], attempt: int,
          local: bool, bind: bool) -> list[str]:
    """Return mpirun's own arguments, which differ by flavour."""
    chosen = [] if ranks is None else ["-n", str(ranks)]
    if hosts:
        chosen += ["--host" if launcher.flavour == "Open MPI" else "-hosts", ",".join(hosts)]
    if launcher.flavour != "Open MPI":
        return chosen

    # Give no rank an input that never ends; survive deaths; bind where each has its own core.
    chosen += ["--stdin", "none"]
    if launcher.can_recover:
        chosen += ["--with-ft", "ulfm"]
    crowded = ranks is not None and local and ranks > cores()
    # A host of an allocation may have fewer cores than Slurm gives it tasks: hyper-threads.
    binding = "core" if local else "core:overload-allowed"
    chosen += ["--bind-to", binding if bind and not crowded else "none"]

    # Let Slurm keep mpirun's daemons when a node is lost. After a loss the old step still holds
    # the processors, so that a restart has to share them.
    if launcher.can_recover and "SLURM_JOB_ID" in os.environ and not local:
        words = "--no-kill" if attempt == 1 else "--overlap --no-kill"
        chosen += ["--prtemca", "plm_slurm_args", words]
    return chosen


def prepare_mpips(ranks: int | None, arguments: Sequence[str], *, hosts: Sequence[str] = (),
                  attempt: int = 1, changes: Mapping[str, str] | None = None,
                  bind: bool = True) -> Start:
    """Build the start of ranks that run `mpips ARGUMENTS` from this very package.

    The package is named by its path and `-P` keeps the working folder off `sys.path`: the ranks
    run the code that the launcher runs, installed or not, whatever lies about.
    """
    program = [sys.executable, "-P", str(PACKAGE), *arguments]
    marked = {**(changes or {}), MARKER: str(attempt)}
    return prepare(ranks, program, hosts=hosts, attempt=attempt, changes=marked, bind=bind)


def start(ranks: int | None, arguments: Sequence[str], *, hosts: Sequence[str] = (),
          attempt: int = 1, changes: Mapping[str, str] | None = None) -> int:
    """Run `mpips ARGUMENTS` on that many ranks under an mpirun and return its exit code.

    USR1, TERM, INT and HUP are passed on; mpirun ends when this process does. Its exit code is
    no proof of success where ranks may die: read the result that the job wrote.

    Args:
        ranks: how many; None takes all slots of the allocation.
        arguments: what follows `mpips`.
        hosts: the nodes to use; empty for all of the allocation.
        attempt: 1, or more for a restart; the ranks find it in `MPIPS_RANK_OF`.
        changes: further variables for the ranks.

    Raises:
        LaunchError: there is no mpirun, or it cannot start here.
    """
    prepared = prepare_mpips(ranks, arguments, hosts=hosts, attempt=attempt, changes=changes)
    for note in prepared.notes:
        print(f"mpips: {note}", file=sys.stderr, flush=True)
    return run(prepared)


def run(prepared: Start, watch: Watch | None = None, folder: Path | None = None,
        signals: Signals | None = None) -> int:
    """Run a prepared start as a child and return its exit code; 128 + n where a signal ended it.

    Args:
        prepared: what to run.
        watch: called in a thread with the running child; it may end it with `terminate()`.
        folder: the folder to run it in; None is the current one.
        signals: passes on those that come, and is entered; None: they are passed on meanwhile.

    Raises:
        LaunchError: mpirun cannot start here.
    """
    with ExitStack() as stack:
        signals = signals or stack.enter_context(Signals())
        child = stack.enter_context(subprocess.Popen(
            prepared.command, env=prepared.environment, stdin=subprocess.DEVNULL, cwd=folder,
            process_group=0, preexec_fn=end_with_parent))  # fmt: skip
        try:
            if watch is not None:
                threading.Thread(target=watch, args=(child,), daemon=True).start()
            with signals.passed_to(child):
                code = child.wait()
        finally:
            # Leave no mpirun behind, whatever happened here.
            if child.poll() is None:
                end(child)
        ended_by = signals.ended_by
    if code == NO_START:
        raise LaunchError("mpirun could not start the ranks",
                          "exit code 213; what it has said above tells why",
                          "If it found no network interface: ip link set lo up")
    return explain_code(code, ended_by)


def explain_code(code: int, passed: int) -> int:
    """Return how mpirun ended as a shell tells it: 128 + n where signal n ended it or a rank.

    Args:
        code: its exit code; negative where a signal ended it.
        passed: the signal that was passed on to it so that it ends; 0: none.

    >>> explain_code(1, signal.SIGINT), explain_code(9, 0), explain_code(75, 0)
    (130, 137, 75)
    """
    # After a signal Open MPI's mpirun ends with 1, Hydra with that signal's number or with that of
    # what it kills the last ranks with, and one that did not end by itself was killed.
    if passed and (code < 0 or code in (1, passed, *DEATHS)):
        return 128 + passed
    return 128 + abs(code) if code < 0 or code in DEATHS else code
