"""How MPI tells of deaths, if it does."""

from typing import Final

from mpi4py import MPI

DEATHS: Final = (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING)
"""The classes of errors that tell of deaths."""


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
