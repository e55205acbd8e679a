"""Bad input and bad surroundings get a sentence, the documented exit code, and no traceback."""

import re
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from mpips import bootstrap
from mpips.apps.linear.exact import ExactLinear
from mpips.cli.main import main
from mpips.config import parse
from mpips.errors import MpipsError
from mpips.node.folder import RunFolder
from mpips.node.local import run_local
from mpips.toml import assign
from tests.run.jobs import Done, flip, mpips, result_of, run, under_mpirun, write_rows

pytestmark = pytest.mark.slow

CONFIG = """[run]
servers = 1
[data]
train = "good.h5"
[model]
kind = "linear"
"""

APPS = '''
import numpy as np
import mpips

class Base(mpips.App):
    def tables(self):
        return [mpips.Table(name="w", size=8)]

class WorkerFails(Base):
    async def work(self, worker):
        if worker.id == 1:
            raise RuntimeError("a mistake of mine")

class PlanFails(Base):
    def plan(self):
        yield mpips.Task(group="workers", function="work")
        [][3]
    async def work(self, worker):
        return 1

class Broken(mpips.UserUpdate):
    state = {"w": 0.0}
    def update(self, s, g):
        s.w -= no_such_name * g

class UpdateFails(Base):
    def tables(self):
        return [mpips.Table(name="w", size=8, update=Broken)]
    async def work(self, worker):
        await worker.push("w", None, np.ones(8))
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files, one good and the others bad."""
    folder = tmp_path_factory.mktemp("bad")
    good = write_rows(folder / "good.h5")
    write_rows(folder / "three.h5", labels=(1, 2, 3))
    write_rows(folder / "wide.h5", columns=61)
    flip(good, folder / "flipped-data.h5", "X/data")
    flip(good, folder / "flipped-starts.h5", "X/indptr")
    (folder / "cut.h5").write_bytes(good.read_bytes()[:9000])
    (folder / "rows.svm").write_text("+1 1:2 3:4\n-1 2:1\n")
    (folder / "empty.h5").touch()
    (folder / "a file").touch()
    with h5py.File(folder / "foreign.h5", "w") as file:
        file["table"] = np.arange(3)
    for name, place, value in (("nan", "X/data", np.nan), ("column", "X/indices", 1000)):
        shutil.copy(good, folder / f"{name}.h5")
        with h5py.File(folder / f"{name}.h5", "r+") as file:
            file[place][700] = value
    (folder / "my_apps.py").write_text(APPS, "utf-8")
    (folder / "job.toml").write_text(CONFIG, "utf-8")
    (folder / "unknown.toml").write_text(CONFIG.replace("servers", "servrs"), "utf-8")
    (folder / "type.toml").write_text(CONFIG.replace("servers = 1", 'servers = "one"'), "utf-8")
    for name, line in (("model", "tolerence = 1"), ("value", "l1 = 'a'"),
                       ("solver", "solver = 'exakt'")):  # fmt: skip
        (folder / f"{name}.toml").write_text(f"{CONFIG}{line}\n", "utf-8")
    (folder / "toml.toml").write_text("[run\nservers", "utf-8")
    (folder / "nothing.toml").touch()
    (folder / "own").mkdir()
    (folder / "own" / "config.toml").write_text(CONFIG, "utf-8")
    return folder


def assert_refused(done: Done, code: int, *words: str) -> None:
    """Assert that one error was told: what, then where or what to do, and nothing of the code."""
    assert done.code == code, (done.code, done.err)
    assert done.err.count("mpips: error:") == 1, done.err
    assert "Traceback" not in done.err + done.out
    told = done.err.partition("mpips: error:")[2]
    assert "\n  " in told, told
    for word in words:
        assert word in told, (word, told)


# What is refused before any rank is started: arguments, exit code, words of the message.
EARLY = [
    ("train god.h5", 66, "god.h5 does not exist", "good.h5"),
    ("train no/good.h5", 66, "does not exist", "folder no"),
    ("train good.h5 --test god.h5", 66, "god.h5 does not exist", "Nearest", "good.h5"),
    ("train rows.svm", 65, "rows.svm is LIBSVM text, not HDF5", "mpips convert", "-o rows.h5"),
    ("train cut.h5", 65, "cut.h5 is cut short: 9,000 of", "make it again"),
    ("train flipped-starts.h5", 65, "/X/indptr", "fails its checksum", "make it again"),
    ("train foreign.h5", 65, "no training data: no /X", "Expected"),
    ("train three.h5", 65, "labels 0/1, -1/1 or 1/2", "has 1, 2, 3", "--labels"),
    ("train good.h5 --test wide.h5", 65, "wide.h5 has 61 features", "60", "--like"),
    ("train unknown.toml", 2, "unknown key run.servrs", "line 2", "Did you mean run.servers"),
    ("train type.toml", 2, "run.servers", "a whole number, got text", "line 2"),
    ("train toml.toml", 2, "no TOML", "line 1", "toml.toml"),
    ("train nothing.toml", 2, "no training data", "--set data.train"),
    ("train job.toml --set model.l1=much", 2, "model.l1", "a number, got text", "command line"),
    ("train job.toml --set model.l1=-1", 2, "model.l1", "command line"),
    ("train job.toml --set model.tolerence=1", 2, "model.tolerence", "mean model.tolerance"),
    ("train job.toml --set servers", 2, "no setting: servers", "section.key=value"),
    ("train job.toml --set l1=1", 2, "no setting: l1=1", "Did you mean model.l1=1?"),
    ("train job.toml --set seed=1", 2, "no setting: seed=1", "Did you mean run.seed=1?"),
    ("train model.toml", 2, "unknown key model.tolerence", "model.toml line 7", "model.tolerance"),
    ("train value.toml", 2, "model.l1: expected a number", "value.toml line 7"),
    ("train solver.toml", 2, "there is no solver exakt", "solver.toml line 7", "mean exact?"),
    ("train job.toml --model ridge", 2, "no kind of model ridge", "linear"),
    ("train job.toml --model no_apps:App", 2, "no_apps:App cannot be imported", "model.kind"),
    ("train job.toml --model my_apps:Nope", 2, "my_apps:Nope", "model.kind"),
    ("train job.toml --dry-run --out bad\udcff", 2, "is no text in UTF-8", "Rename"),
    ("train job.toml --out own", 73, "own holds a config.toml that no run", "--out"),
    ("bench --json no/bench.json", 73, "no/bench.json cannot be written", "Make the folder"),
    ("train job.toml --workers 0", 2, "--workers is 0", "one at least"),
    ("train job.toml --set run.workers=-1", 2, "run.workers", ">= 0"),
    ("train job.toml --servers 0", 2, "run.servers", ">= 1"),
    ("train job.toml --servers two", 2, "--servers", "--help"),
    ("train job.toml --sever 2", 2, "--sever", "did you mean --servers?"),
    ("train job.toml --out file/below", 73, "cannot be made", "--out"),
]


def files_in(folder: Path) -> list[Path]:
    """Return what is in a folder, but for what Python keeps of an app that it imports."""
    return [path for path in sorted(folder.rglob("*")) if "__pycache__" not in path.parts]


@pytest.mark.parametrize("case", EARLY, ids=[case[0] for case in EARLY])
def test_wrong_input_is_told_before_any_rank_starts(
    case: tuple[str, int, str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # In this process, since they are many; others below are started as users do.
    monkeypatch.setattr(bootstrap, "ensure", lambda *a, **k: None)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(folder)
    before = files_in(folder)
    line, code, *words = case
    arguments = [word.replace("file/", "a file/") for word in line.split()]
    ended = main(arguments)
    out, err = capfd.readouterr()
    assert_refused(Done(ended, out, err), code, *words)
    assert files_in(folder) == before
    assert out == ""


@pytest.mark.parametrize(("line", "what"), [
    ("train empty.h5", "empty.h5 is an empty file, not HDF5"),
    ("predict good.h5 good.h5", "good.h5 is no model: its format is mpips-data/1"),
    ("evaluate good.h5 good.h5", "good.h5 is no model: its format is mpips-data/1"),
])  # fmt: skip
def test_file_of_another_kind_is_called_by_its_own(line: str, what: str, folder: Path) -> None:
    done = mpips(folder, *line.split())
    assert done.code == 65
    assert done.err.startswith("mpips: error: ")
    assert what in done.err
    assert "Traceback" not in done.err


# -- What ranks meet ----------------------------------------------------------------------------


def test_damage_that_a_worker_meets_ends_the_whole_job(folder: Path) -> None:
    done = mpips(folder, "train", "flipped-data.h5", "--servers", "1", "--workers", "2",
                 "--out", "run-flipped")
    assert_refused(done, 65, "flipped-data.h5 /X/data, rows", "fails its checksum", "worker",
                   "make it again")
    result = result_of(folder / "run-flipped")
    assert (result["status"], result["exit_code"]) == ("failed", 65)
    assert "fails its checksum" in result["error"]
    assert not (folder / "run-flipped" / "model.h5").exists()


def test_value_that_is_no_number_ends_a_job_in_one_process(folder: Path) -> None:
    config = parse("", "", ["run.logical_workers=2", assign("data.train", f"{folder}/nan.h5")])
    with pytest.raises(MpipsError, match=r"value nan\n/X/data, row .*column") as error:
        run_local(ExactLinear, config, RunFolder(folder / "run-nan", config))
    assert error.value.exit_code == 65
    assert error.value.remedy
    assert result_of(folder / "run-nan")["status"] == "failed"


def test_mpirun_with_too_few_ranks(folder: Path) -> None:
    done = under_mpirun(3, folder, "-m", "mpips", "train", "job.toml", "--servers", "2",
                        "--workers", "4", "--out", "few")
    assert_refused(done, 2, "3 ranks cannot hold 1 scheduler, 2 servers and 4 workers",
                   "mpirun -n 7 or more")
    assert not (folder / "few").exists()


def test_all_ranks_end_where_the_run_folder_cannot_be_made(folder: Path) -> None:
    done = under_mpirun(4, folder, "-m", "mpips", "train", "job.toml", "--workers", "2",
                        "--out", "a file/below")
    assert_refused(done, 73, "a file/below cannot be made", "--out")


def test_ranks_meet_a_column_that_does_not_exist(folder: Path) -> None:
    done = under_mpirun(3, folder, "-m", "mpips", "train", "column.h5", "--out", "run-column")
    assert_refused(done, 65, "column 1000 is not in [0, 60)", "/X/indices, row")
    assert result_of(folder / "run-column")["status"] == "failed"


def test_ranks_of_a_job_without_data_say_so_once(folder: Path) -> None:
    done = under_mpirun(3, folder, "-m", "mpips", "train", "nothing.toml", "--out", "none")
    assert_refused(done, 2, "no training data", "--set data.train")
    assert not (folder / "none").exists()


def test_the_first_rank_tells_what_is_wrong_even_if_it_comes_last(folder: Path) -> None:
    late = ("import runpy, time; from mpips.node import surroundings;"
            "time.sleep(0 if surroundings.rank_promised() else 2);"
            "runpy.run_module('mpips', run_name='__main__', alter_sys=True)")
    done = under_mpirun(3, folder, "-c", late, "train", "nothing.toml", "--out", "none")
    assert_refused(done, 2, "no training data", "--set data.train")


@pytest.mark.parametrize(("app", "words"), [
    ("WorkerFails", ("your app WorkerFails.work raised RuntimeError: a mistake of mine",
                     "worker", "in work")),
    ("UpdateFails", ("your update function my_apps:Broken raised NameError: name 'no_such_name'",
                     "server", "in update")),
])  # fmt: skip
def test_failure_in_a_users_app_shows_where(
    app: str, words: tuple[str, ...], folder: Path
) -> None:
    done = mpips(folder, "train", "good.h5", "--workers", "2", "--model", f"my_apps:{app}",
                 "--out", app)
    assert done.code == 1
    assert done.err.count("mpips: error:") == done.err.count("Traceback") == 1
    # What mpips did in between is no concern of the user.
    assert f"{Path(bootstrap.__file__).parent}/" not in done.err
    for word in (*words, "my_apps.py"):
        assert word in done.err
    assert result_of(folder / app)["exit_code"] == 1


def test_failure_in_a_users_plan_ends_a_job_in_one_process(folder: Path) -> None:
    program = "import mpips, my_apps; mpips.run(my_apps.PlanFails)"
    done = run([sys.executable, "-c", program, "--out", "alone",
                "--set", "run.logical_workers=2"], folder)
    assert done.code == 1
    told = "mpips: error: your app PlanFails.plan raised IndexError: list index out of range"
    assert done.err.count(told) == 1
    assert re.search(r"scheduler\n.*my_apps\.py.*in plan", done.err, re.DOTALL)
    assert result_of(folder / "alone")["status"] == "failed"


# -- MPI that is not there, or another one -------------------------------------------------------


def test_mpirun_that_is_named_and_not_there(folder: Path) -> None:
    done = mpips(folder, "train", "good.h5", MPIPS_MPIRUN="nonsense")
    assert_refused(done, 69, "MPIPS_MPIRUN", "nonsense", "unset it")


def test_no_mpirun_at_all(folder: Path, tmp_path: Path) -> None:
    # A Python without one beside it: the prefix is another one, the packages are the same.
    program = ("import sys; sys.prefix = sys.base_prefix = sys.argv[1];"
               "from mpips.cli.main import main;"
               "sys.exit(main(['train', 'good.h5', '--out', 'unstarted']))")
    done = run([sys.executable, "-s", "-c", program, str(tmp_path)], folder, PATH=str(tmp_path))
    assert_refused(done, 69, "no mpirun", str(tmp_path), "pip install 'mpips[mpi]'", "module load")
    assert not (folder / "unstarted" / "result.json").exists()


def test_no_mpi_library(folder: Path) -> None:
    done = mpips(folder, "train", "good.h5", "--out", "unstarted", OMPI_COMM_WORLD_SIZE="1",
                 OMPI_COMM_WORLD_RANK="0", MPI4PY_LIBMPI="/nowhere/libmpi.so")
    assert_refused(done, 69, "no MPI library", "pip install 'mpips[mpi]'", "load the MPI module")
    assert not (folder / "unstarted" / "result.json").exists()


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD", "PMI"])
def test_launcher_of_another_mpi(name: str, folder: Path) -> None:
    done = mpips(folder, "train", "good.h5", "--out", "unstarted",
                 **{f"{name}_SIZE": "4", f"{name}_RANK": "0"})
    assert_refused(done, 69, "the launcher started 4 ranks, but MPI sees 1", "MPI library",
                   "mpips doctor")
    assert not (folder / "unstarted" / "result.json").exists()
