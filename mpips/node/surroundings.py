"""What a process can know about where it runs: whose rank it is, and in which allocation.

Only the standard library is used, since this runs before MPI and outside of it. Whoever starts
ranks sets `MPIPS_RANK_OF`, so that a rank knows whose it is, and a second mpirun started inside a
rank is not taken for the first.
"""

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

MARKER = "MPIPS_RANK_OF"

# Variables in which launchers tell a rank its number and the size of its world.
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")
SIZE_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "PALS_NRANKS")

# The same on the rank's host; MPI_* are Hydra's, which MPICH and Intel MPI start ranks with.
LOCAL_RANK_VARIABLES = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID",
                        "MV2_COMM_WORLD_LOCAL_RANK", "PALS_LOCAL_RANKID", "SLURM_LOCALID")
LOCAL_SIZE_VARIABLES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS",
                        "MV2_COMM_WORLD_LOCAL_SIZE", "PALS_LOCAL_SIZE")

# What an outer launcher leaves in the environment of its ranks. A user's own OMPI_MCA_* look the
# same, so that only a start from inside a job drops them.
OUTER = re.compile(r"^(OMPI|PMIX|PRTE|OPAL|PMI|HYDRA|HYDI|MPIR?|MV2)_")


def under_mpi() -> bool:
    """Tell whether this process is a rank: of mpips itself, of an mpirun, or of a parallel srun.

    A shell inside `srun --pty` has a rank's variables too: a step of one task is no MPI job.
    """
    if MARKER in os.environ or "OMPI_COMM_WORLD_RANK" in os.environ:
        return True
    if os.environ.get("SLURM_STEP_NUM_TASKS") == "1":
        return False
    return inside() or (world_size_promised() or 1) > 1


def inside() -> bool:
    """Tell whether a launcher has left its traces in the environment."""
    return any(name in os.environ for name in (MARKER, *RANK_VARIABLES))


def under_open_mpi() -> bool:
    """Tell whether it is Open MPI's mpirun that started this process."""
    return "OMPI_COMM_WORLD_SIZE" in os.environ and "PMI_SIZE" not in os.environ


def started_by_mpips() -> bool:
    """Tell whether `start` started this process as a rank."""
    return MARKER in os.environ


def attempt() -> str:
    """Return the attempt that this rank belongs to; empty for ranks of a foreign mpirun."""
    return os.environ.get(MARKER, "")


def world_size_promised() -> int | None:
    """Return the number of ranks that the launcher's variables speak of; None if they do not.

    MPI must see as many: fewer means that launcher and library do not belong together.
    """
    return _first_number(*SIZE_VARIABLES, "SLURM_STEP_NUM_TASKS")


def rank_promised() -> int:
    """Return this process's rank as the launcher's variables have it; 0 if there are none."""
    return _first_number(*RANK_VARIABLES) or 0


def local_rank() -> int | None:
    """Return this rank's number on its host; None if the launcher does not tell."""
    return _first_number(*LOCAL_RANK_VARIABLES)


def local_size() -> int | None:
    """Return how many ranks this host has; None if the launcher does not tell."""
    return _first_number(*LOCAL_SIZE_VARIABLES)


def _first_number(*names: str) -> int | None:
    """Return the first of some variables that holds a number."""
    found = (os.environ.get(name, "") for name in names)
    return next((int(text) for text in found if text.isdigit()), None)


def slurm_problem() -> str:
    """Say why SLURM_JOB_ID cannot be trusted; empty in a working allocation or outside of one."""
    job = os.environ.get("SLURM_JOB_ID", "")
    if not job:
        return ""
    if shutil.which("srun") is None:
        return f"SLURM_JOB_ID={job} is set, but there is no srun on the PATH"
    if not (os.environ.get("SLURM_JOB_NODELIST") or os.environ.get("SLURM_NODELIST")):
        return f"SLURM_JOB_ID={job} is set, but SLURM_JOB_NODELIST is not"

    # Ask Slurm itself: a shell may outlive its allocation.
    if shutil.which("squeue") is None:
        return ""
    try:
        done = subprocess.run(["squeue", "-h", "-j", job, "-o", "%T"], capture_output=True,
                              text=True, timeout=10, stdin=subprocess.DEVNULL, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"SLURM_JOB_ID={job} is set, but squeue gives no answer: {error}"
    state = done.stdout.strip()
    return "" if state == "RUNNING" else (
        f"SLURM_JOB_ID={job} is set, but Slurm knows no such running job")


def allocated() -> bool:
    """Tell whether a resource manager has given this process a set of nodes."""
    other = ("PBS_NODEFILE", "LSB_HOSTS", "LSB_DJOB_HOSTFILE")
    in_slurm = "SLURM_JOB_ID" in os.environ and not slurm_problem()
    return in_slurm or any(name in os.environ for name in other)


def inner_environment(changes: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the traces of an outer mpirun, plus some changes.

    Inside an outer job everything of OMPI_*, PMIX_*, PRTE_* is dropped; elsewhere these are the
    user's own settings and stay.
    """
    nested = inside()
    kept = {name: value for name, value in os.environ.items()
            if not (nested and OUTER.match(name)) and name != MARKER}
    return {**kept, **changes}


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def free_memory() -> int:
    """Return the bytes of memory that this host could give to new processes."""
    try:
        text = Path("/proc/meminfo").read_text("ascii")
    except OSError:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # What is free, and what Linux keeps of files as long as nobody wants the memory.
    found = {line.split(":")[0]: int(line.split()[1]) << 10 for line in text.splitlines()}
    return found["MemAvailable"]


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Ask the kernel to signal this process when its parent dies, so that no orphans stay.

    A rank calls it with SIGKILL at its start. Linux only; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        set_death_signal = 1  # PR_SET_PDEATHSIG in sys/prctl.h
        ctypes.CDLL(None).prctl(set_death_signal, int(number), 0, 0, 0)
