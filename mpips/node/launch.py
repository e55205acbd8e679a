"""A rank from MPI's start to its end: its role, its loop, its exit code.

How ranks end is measured, not guessed: under ULFM by flushing and `os._exit`, since MPI_Finalize
may hang after a death; without ULFM by MPI_Finalize, since `_exit` would kill the job. A rank
that cannot go on kills itself with SIGKILL under ULFM, the only death that the others are told
of, and calls Abort elsewhere.
"""

import logging
import os
import signal
import socket
import sys
import time
import traceback
from functools import partial
from types import ModuleType
from typing import NoReturn

import mpi4py

from mpips import __version__
from mpips.config import Config
from mpips.errors import LaunchError, MpipsError, OutputError
from mpips.files import steps
from mpips.node import kernels, mpirun, points, surroundings
from mpips.node.app import App, check_model
from mpips.node.console import Console, show_count
from mpips.node.folder import RunFolder, choose_folder
from mpips.node.local import MEMBERS
from mpips.node.log import introduce, open_log
from mpips.node.loop import Node, run_loop
from mpips.node.member import Member
from mpips.node.places import Places, find_places
from mpips.node.pulse import Pulse, shared_path
from mpips.node.resume import find_resume
from mpips.node.roles import assign_roles, size_config
from mpips.node.scheduler import ACCEPTORS_MAX, SchedulerNode
from mpips.transport.backoff import Backoff

log = logging.getLogger(__name__)


def run_rank(kind: type[App], config: Config, name: str) -> NoReturn:
    """Be a rank of a job, and end the process with the job's exit code.

    Args:
        kind: the app.
        config: the effective config, the same on all ranks.
        name: what the job is called on the screen.
    """
    mpi = start_mpi()
    try:
        places = find_places(mpi.COMM_WORLD)
        node = _make_node(mpi, kind, config, name, places)
        kernels.await_kernels(_local_rank(mpi) == 0, _say)
        if text := os.environ.get(points.VARIABLE):
            node.reach = points.die_at(text, node.transport.node)
            if node.reach is not None:
                steps.watch(partial(node.reach, points.AT))
        node = run_loop(node, Backoff(places.is_crowded))
        code, error = node.exit_code or 0, None
        # The others believe that this rank is dead: let it be true.
        if node.is_fenced:
            _give_up(mpi)
        office = node.office if isinstance(node, Member) else node
        if isinstance(office, SchedulerNode) and not office.is_told:
            error = office.machine.error
    except MpipsError as wrong:
        # Every rank meets a wrong config or too few ranks; the first one says it.
        code, error = wrong.exit_code, None if mpi.COMM_WORLD.Get_rank() else wrong
    except Exception:
        traceback.print_exc()
        _give_up(mpi)
    if error is not None:
        print(error.explain(), file=sys.stderr, flush=True)
    leave(mpi, code)


def has_recovery() -> bool:
    """Return whether this job was started so that it survives deaths (`--with-ft ulfm`)."""
    return os.environ.get("OMPI_MCA_mpi_ft_enable") == "1"  # noqa: SIM112


def start_mpi() -> ModuleType:
    """Initialise MPI and return its module.

    Raises:
        LaunchError: there is no MPI library, or the launcher is another one's.
    """
    mpi4py.rc.finalize = False
    mpi4py.rc.initialize = False
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        what = f"mpi4py found no MPI library: {str(error).splitlines()[0]}"
        remedy = "Laptop: pip install 'mpips[mpi]'. Cluster: load the MPI module first."
        raise LaunchError(what, "", remedy) from None
    if surroundings.under_open_mpi() and MPI.get_vendor()[0] in mpirun.HYDRA:
        # This library would end the process in its own words.
        _refuse(MPI, "Open MPI's mpirun started ranks whose library is another's")
    # A program that imports mpi4py itself has started MPI already.
    if not MPI.Is_initialized():
        MPI.Init_thread(MPI.THREAD_SERIALIZED)
    promised, seen = surroundings.world_size_promised(), MPI.COMM_WORLD.Get_size()
    if promised is not None and promised > 1 and seen == 1:
        _refuse(MPI, f"the launcher started {promised} ranks, but MPI sees 1")
    return MPI


def _refuse(mpi: ModuleType, what: str) -> NoReturn:
    """Raise the error of ranks that were started by another MPI's launcher."""
    where = f"MPI library: {mpi.Get_library_version().splitlines()[0]}"
    remedy = "Launcher and library differ; mpips doctor shows both. With Slurm: use mpirun."
    raise LaunchError(what, where, remedy)


def _make_node(
    mpi: ModuleType, kind: type[App], config: Config, name: str, places: Places
) -> Node:
    """Return this rank's node."""
    # The transport imports MPI, which must happen after its settings are made.
    from mpips.transport.mpi import MPITransport

    run = config.run
    roles = assign_roles(places.hosts, run.servers, max(1, run.workers), run.spares)
    config = size_config(config, len(roles))
    config = check_model(kind, config)
    transport = MPITransport(mpi.COMM_WORLD)
    role = roles[transport.node]
    if role != "scheduler":
        member = MEMBERS[role](transport, time.monotonic, kind, config)
        # mpirun passes it on to all ranks; only the scheduler stops the job, whoever it is.
        signal.signal(signal.SIGUSR1, lambda *_: member.stop_soon("SIGUSR1"))
        member.pulse = _start_pulse(places.token, transport.node, len(roles))
        member.console = Console(time.monotonic())
        return member
    console = Console(time.monotonic())
    try:
        folder = RunFolder(choose_folder(config), config)
        resume = find_resume(config, folder.path)
    except MpipsError as error:
        # The others are waiting for this rank: stop them properly.
        lost = SchedulerNode(transport, time.monotonic, kind, config, roles)
        lost.carry_out(lost.machine.fail(time.monotonic(), error))
        return lost
    console.say(_first_lines(mpi, config, name, folder))
    open_log(folder.path, transport.node, config.run.debug)
    introduce(f"scheduler 0 on {socket.gethostname()}", os.getpid())
    acceptors = ACCEPTORS_MAX if has_recovery() else 1
    node = SchedulerNode(
        transport, time.monotonic, kind, config, roles, folder, console, resume, acceptors
    )
    signal.signal(signal.SIGUSR1, lambda *_: node.machine.stop_soon("SIGUSR1"))
    node.pulse = _start_pulse(places.token, transport.node, len(roles))
    return node


def _start_pulse(token: str, node: int, size: int) -> Pulse | None:
    """Let the others on this host see that this process is alive; None if that cannot be."""
    # Without ULFM nobody is killed, or left behind.
    if not has_recovery():
        return None
    try:
        pulse = Pulse(shared_path(token), node, size)
    except OutputError as error:
        log.warning("stopped ranks will not be noticed: %s", error)
        return None
    pulse.start()
    return pulse


def _first_lines(mpi: ModuleType, config: Config, name: str, folder: RunFolder) -> str:
    """Return what is running where, for people."""
    vendor, version = mpi.get_vendor()
    library = f"{vendor} {'.'.join(map(str, version))}"
    recovery = "ULFM on" if has_recovery() else "no ULFM"
    run = config.run
    shares = f"{show_count(run.servers, 'server')} + {show_count(run.workers, 'worker')}"
    lines = [f"mpips {__version__}  {name}  {library} ({recovery}), 1 scheduler + {shares}"]
    lines.append(f"out    {folder.path}     seed {run.seed}")
    if not has_recovery():
        lines.append(_warn_of_deaths(library))
    return "\n".join(lines)


def _warn_of_deaths(library: str) -> str:
    """Return a line that says why deaths end the job here, and what to start instead."""
    why, whose = f"under {library}", "Open MPI 5's "
    if library.startswith("Open MPI 5"):
        why, whose = "without --with-ft ulfm", ""
    return (f"mpips: warning: deaths of ranks are not survived in place here, {why}."
            f" Start instead: {whose}{mpirun.WITH_RECOVERY}")


def _local_rank(mpi: ModuleType) -> int:
    """Return this rank's number on its host, as far as the launcher tells."""
    told = surroundings.local_rank()
    return int(mpi.COMM_WORLD.Get_rank()) if told is None else told


def _say(text: str) -> None:
    print(f"mpips: {text}", flush=True)


def _give_up(mpi: ModuleType) -> NoReturn:
    """Die so that the others are told."""
    sys.stdout.flush()
    sys.stderr.flush()
    if has_recovery():
        os.kill(os.getpid(), signal.SIGKILL)
    mpi.COMM_WORLD.Abort(70)
    # MPICH returns while its launcher is about to end everybody.
    os._exit(70)


def leave(mpi: ModuleType, code: int) -> NoReturn:
    """End this process with the job's exit code."""
    sys.stdout.flush()
    sys.stderr.flush()
    logging.shutdown()
    if has_recovery():
        os._exit(code)
    # Leave as programs do: MPICH says goodbye to its launcher in a handler at the exit, and
    # without that the launcher kills all others.
    mpi.Finalize()
    sys.exit(code)
