"""The right mpirun is found, and ranks are started with the settings that were measured."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpips.errors import LaunchError
from mpips.node import mpirun, surroundings

OPEN_MPI_5 = "mpirun (Open MPI) 5.0.11\n\nReport bugs to https://www.open-mpi.org/\n"
OPEN_MPI_4 = "mpirun (Open MPI) 4.1.4\n"
MPICH = "HYDRA build details:\n    Version:                                 4.2.1\n"
INTEL = "Intel(R) MPI Library for Linux* OS, Version 2021.18 Build 20260101\n"
UNKNOWN = "a launcher\n"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start each test outside of any job."""
    for name in list(os.environ):
        if name.startswith(("OMPI_", "PMIX_", "PRTE_", "PMI_", "SLURM_", "MPIPS_MPI",
                            "MPI_LOCAL", "MPI4PY_")):
            monkeypatch.delenv(name)
    monkeypatch.delenv(surroundings.MARKER, raising=False)


def fake_launcher(folder: Path, text: str, name: str = "mpirun") -> Path:
    """Write a program that prints what an mpirun prints about itself."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\n", "utf-8")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(("text", "flavour", "version", "recovers"), [
    (OPEN_MPI_5, "Open MPI", (5, 0, 11), True),
    (OPEN_MPI_4, "Open MPI", (4, 1, 4), False),
    (MPICH, "MPICH", (4, 2, 1), False),
    (INTEL, "Intel MPI", (2021, 18), False),
    (UNKNOWN, "unknown", (), False),
])
def test_flavour_and_version_are_read(
    text: str, flavour: str, version: tuple[int, ...], recovers: bool
) -> None:
    launcher = mpirun.parse_version("/x/bin/mpirun", text)
    assert (launcher.flavour, launcher.version, launcher.can_recover) == (
        flavour, version, recovers)


def test_mpirun_beside_the_library_of_the_environment_beats_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = fake_launcher(tmp_path / "env" / "bin", OPEN_MPI_5)
    other = fake_launcher(tmp_path / "other", OPEN_MPI_4)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
    monkeypatch.setenv("PATH", f"{other.parent}:{os.environ['PATH']}")

    # Without its libmpi, mpi4py would load another one: then the PATH's counts.
    assert mpirun.find().path == str(other)
    (tmp_path / "env" / "lib").mkdir()
    (tmp_path / "env" / "lib" / "libmpi.so.40").touch()
    assert mpirun.find().path == str(mine)


def test_mpirun_beside_the_library_that_the_user_names_beats_the_environments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("env", "mpich"):
        (tmp_path / name / "lib").mkdir(parents=True)
        (tmp_path / name / "lib" / "libmpi.so").touch()
    fake_launcher(tmp_path / "env" / "bin", OPEN_MPI_5)
    named = fake_launcher(tmp_path / "mpich" / "bin", MPICH)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
    for library in ("mpich/lib", "mpich/lib/libmpi.so"):
        monkeypatch.setenv("MPI4PY_LIBMPI", str(tmp_path / library))
        assert mpirun.find().path == str(named)


def test_named_mpirun_beats_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fake_launcher(tmp_path, MPICH, "mpiexec.hydra")
    monkeypatch.setenv("MPIPS_MPIRUN", str(path))
    assert mpirun.find() == mpirun.Launcher(str(path), "MPICH", (4, 2, 1))


def test_named_mpirun_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPIPS_MPIRUN", "/none/mpirun")
    with pytest.raises(LaunchError, match="/none/mpirun"):
        mpirun.find()


def test_no_mpirun_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mpirun, "library_folders", list)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match="pip install") as caught:
        mpirun.find()
    assert caught.value.exit_code == 69


def prepared(
    text: str, ranks: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **options: object
) -> mpirun.Start:
    """Prepare a start of `prog` under a launcher that prints a text."""
    monkeypatch.setenv("MPIPS_MPIRUN", str(fake_launcher(tmp_path, text)))
    return mpirun.prepare(ranks, ["prog"], **options)  # type: ignore[arg-type]


def test_open_mpi_5_gets_recovery_and_the_settings_without_wrong_sums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mpirun, "cores", lambda: 4)
    start = prepared(OPEN_MPI_5, 7, tmp_path, monkeypatch)
    assert start.command[1:] == (
        "-n", "7", "--stdin", "none", "--with-ft", "ulfm", "--bind-to", "none", "prog")
    assert start.environment["OMPI_MCA_coll"] == "^hcoll,portals4,han"
    assert "put" not in start.environment["OMPI_MCA_btl_tcp_flags"].split(",")
    assert start.environment["OMPI_MCA_pml"] == "ob1"
    assert start.environment["OMPI_MCA_mpi_yield_when_idle"] == "1"
    assert start.environment["OMP_NUM_THREADS"] == os.environ.get("OMP_NUM_THREADS", "1")


def test_ranks_are_bound_where_each_has_a_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mpirun, "cores", lambda: 4)
    start = prepared(OPEN_MPI_5, 4, tmp_path, monkeypatch)
    assert start.command[-3:] == ("--bind-to", "core", "prog")
    start = prepared(OPEN_MPI_5, 4, tmp_path, monkeypatch, bind=False)
    assert start.command[-3:] == ("--bind-to", "none", "prog")
    assert "OMPI_MCA_mpi_yield_when_idle" not in start.environment


@pytest.mark.parametrize("text", [OPEN_MPI_4, MPICH, INTEL, UNKNOWN])
def test_others_get_no_option_that_they_do_not_know(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = prepared(text, 2, tmp_path, monkeypatch)
    assert "--with-ft" not in start.command
    if text != OPEN_MPI_4:
        assert start.command[1:] == ("-n", "2", "prog")
    own = {name for name in start.changes if name.startswith(("OMPI_", "PRTE_"))}
    assert bool(own) == (text in (OPEN_MPI_4, UNKNOWN))


def in_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str = "RUNNING") -> None:
    """Pretend a Slurm allocation."""
    fake_launcher(tmp_path / "slurm", "", "srun")
    fake_launcher(tmp_path / "slurm", f"{state}\n" if state else "", "squeue")
    monkeypatch.setenv("PATH", f"{tmp_path / 'slurm'}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-3]")


def test_in_slurm_the_fabric_and_the_slots_are_left_to_the_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_slurm(tmp_path, monkeypatch)
    start = prepared(OPEN_MPI_5, None, tmp_path, monkeypatch)
    assert start.command[1:] == (
        "--stdin", "none", "--with-ft", "ulfm", "--bind-to", "core:overload-allowed",
        "--prtemca", "plm_slurm_args", "--no-kill", "prog")
    assert not {"OMPI_MCA_pml", "OMPI_MCA_btl", "PRTE_MCA_rmaps_default_mapping_policy",
                "SLURM_NO_KILL"} & set(start.environment)
    assert start.environment["OMPI_MCA_coll"] == "^hcoll,portals4,han"
    assert not start.notes


def test_restart_in_slurm_shares_the_processors_of_the_lost_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_slurm(tmp_path, monkeypatch)
    start = prepared(OPEN_MPI_5, 4, tmp_path, monkeypatch, attempt=2, hosts=["n1", "n3"])
    assert start.command[1:5] == ("-n", "4", "--host", "n1,n3")
    assert start.command[-2] == "--overlap --no-kill"


@pytest.mark.parametrize("state", ["", "COMPLETING"])
def test_stale_job_id_is_said_and_left_out(
    state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_slurm(tmp_path, monkeypatch, state)
    start = prepared(OPEN_MPI_5, 2, tmp_path, monkeypatch)
    assert "SLURM_JOB_ID=17 is set, but" in start.notes[0]
    assert not [name for name in start.environment if name.startswith("SLURM_")]
    assert start.environment["OMPI_MCA_pml"] == "ob1"


def test_setting_of_the_user_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMPI_MCA_pml", "ucx")
    start = prepared(OPEN_MPI_5, 2, tmp_path, monkeypatch)
    assert start.environment["OMPI_MCA_pml"] == "ucx"
    assert "OMPI_MCA_pml" not in start.changes


def test_start_inside_a_rank_forgets_the_outer_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PRTE_LAUNCHED", surroundings.MARKER,
                 "OMPI_MCA_mpi_ft_enable"):
        monkeypatch.setenv(name, "1")
    start = prepared(OPEN_MPI_5, 2, tmp_path, monkeypatch)
    assert not {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PRTE_LAUNCHED", surroundings.MARKER,
                "OMPI_MCA_mpi_ft_enable"} & set(start.environment)


def test_ranks_of_mpips_run_this_package_and_know_their_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPIPS_MPIRUN", str(fake_launcher(tmp_path, OPEN_MPI_5)))
    start = mpirun.prepare_mpips(3, ["train", "c.toml"], attempt=4)
    assert start.command[-5:] == (
        sys.executable, "-P", str(mpirun.PACKAGE), "train", "c.toml")
    assert start.environment[surroundings.MARKER] == "4"
    assert f"{surroundings.MARKER}=4" in start.describe()


def python(code: str) -> mpirun.Start:
    """Prepare a start of this Python in place of an mpirun."""
    return mpirun.Start((sys.executable, "-c", code), dict(os.environ), {})


def test_exit_code_of_mpirun_is_returned() -> None:
    assert mpirun.run(python("raise SystemExit(75)")) == 75


@pytest.mark.parametrize(("code", "passed", "expected"), [
    (0, 0, 0), (75, 0, 75), (1, 0, 1), (2, 0, 2), (137, 0, 137), (-9, 0, 137),
    (9, 0, 137), (11, 0, 139), (1, signal.SIGTERM, 143), (2, signal.SIGINT, 130),
    (9, signal.SIGINT, 130), (-9, signal.SIGTERM, 143),
    (0, signal.SIGTERM, 0), (76, signal.SIGTERM, 76),
])  # fmt: skip
def test_exit_codes_of_all_launchers_mean_the_same(
    code: int, passed: int, expected: int
) -> None:
    # Open MPI ends with 137 where a rank was killed, Hydra with 9; after ^C with 1, and 2 or 9.
    assert mpirun.explain_code(code, passed) == expected


def test_child_reads_nothing_from_the_terminal() -> None:
    assert mpirun.run(python("import sys; sys.exit(len(sys.stdin.read()))")) == 0


def test_missing_network_interface_has_a_remedy() -> None:
    with pytest.raises(LaunchError, match="ip link set lo up"):
        mpirun.run(python("raise SystemExit(213)"))


def test_signal_is_passed_on_and_the_job_goes_on(tmp_path: Path) -> None:
    # The child tells its parent that it is ready by the signal that it waits for itself.
    code = ("import os, signal, sys\n"
            "got = []\n"
            "signal.signal(signal.SIGUSR1, lambda *a: got.append(1))\n"
            "os.kill(os.getppid(), signal.SIGUSR1)\n"
            "while not got: signal.pause()\n"
            "sys.exit(5)")
    assert mpirun.run(python(code)) == 5


def test_handlers_are_back_after_the_job() -> None:
    before = signal.getsignal(signal.SIGTERM)
    mpirun.run(python(""))
    assert signal.getsignal(signal.SIGTERM) is before


def test_child_ends_with_its_parent(tmp_path: Path) -> None:
    # The launcher is killed without a chance to pass anything on.
    ready = tmp_path / "ready"
    inner = (f"import os, time; open({str(ready)!r}, 'w').write(str(os.getpid()));"
             "time.sleep(60)")
    outer = ("import os, sys; from mpips.node import mpirun\n"
             f"mpirun.run(mpirun.Start((sys.executable, '-c', {inner!r}), dict(os.environ), {{}}))")
    with subprocess.Popen([sys.executable, "-c", outer], cwd=mpirun.PACKAGE.parent) as process:
        deadline = time.monotonic() + 20
        while not (ready.is_file() and ready.read_text()) and time.monotonic() < deadline:
            time.sleep(0.01)
        child = int(ready.read_text())
        process.kill()
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(child)


def alive(process: int) -> bool:
    """Tell whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(("variables", "expected"), [
    ({}, False),
    ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "7"}, True),
    ({"PMI_RANK": "0", "PMI_SIZE": "7"}, True),
    ({"MPIPS_RANK_OF": "1"}, True),
    ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "7", "SLURM_PROCID": "0"}, False),
    ({"SLURM_STEP_NUM_TASKS": "7", "SLURM_PROCID": "3"}, True),
    ({"SLURM_STEP_NUM_TASKS": "1", "PMIX_RANK": "0"}, False),
    ({"SLURM_STEP_NUM_TASKS": "1", "PMIX_RANK": "0", "OMPI_COMM_WORLD_RANK": "0"}, True),
])
def test_ranks_are_told_from_shells(
    variables: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert surroundings.under_mpi() is expected


@pytest.mark.parametrize(("rank", "size"), [
    ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
])
def test_place_on_the_host_is_what_the_launcher_tells(
    rank: str, size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (surroundings.local_rank(), surroundings.local_size()) == (None, None)
    monkeypatch.setenv(rank, "0")
    monkeypatch.setenv(size, "3")
    assert (surroundings.local_rank(), surroundings.local_size()) == (0, 3)


def test_world_size_is_what_the_launcher_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    assert surroundings.world_size_promised() is None
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert surroundings.world_size_promised() == 2
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "7")
    assert surroundings.world_size_promised() == 7
