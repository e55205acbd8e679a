"""How MPI tells of deaths, if it does."""

from collections.abc import Callable
from typing import Final

from mpi4py import MPI

from mpips.transport.watchdog import die, watchdog

DEATHS: Final = (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING)
"""The classes of errors that tell of deaths."""

SHRINK_S_MAX: Final = 10.0
"""How long a shrink may take, until the watchdog ends this process."""


def shrink_together(comm: MPI.Comm, give_up: Callable[[], None]) -> MPI.Comm:
    """Return a communicator without the dead, made together with all others of it, or die.

    Whoever dies in here leaves the others hanging, or in states that nobody knows.
    """
    with watchdog(SHRINK_S_MAX, give_up):
        try:
            new = comm.Shrink()
            new.Set_errhandler(MPI.ERRORS_RETURN)
            new.Agree(1)
        except MPI.Exception:
            die()
    return new


def reports_deaths(comm: MPI.Comm) -> bool:
    """Tell whether this MPI knows which ranks have failed.

    MPICH has the call, but it never names anybody; and the classes of errors that tell of deaths
    are there that of an unknown error.
    """
    if MPI.ERR_PROC_FAILED == MPI.ERR_UNKNOWN:
        return False
    try:
        comm.Get_failed().Free()
    except (NotImplementedError, MPI.Exception):
        return False
    return True
