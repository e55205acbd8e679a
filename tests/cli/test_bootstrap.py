"""The first use makes an environment once, and anything that is missing is said in a sentence."""

import ast
import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from mpips import bootstrap, fetch
from mpips.errors import LaunchError, MissingInputError

ROOT = Path(__file__).resolve().parents[2]
OLD_PYTHONS = ("python2.7", "python3.6", "python3.7", "python3.8", "python3.9", "python3.10")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let `bootstrap` work on a checkout of its own, outside of MPI, with nothing installed."""
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setattr(bootstrap, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(bootstrap, "STAMP", tmp_path / ".venv" / ".mpips-ok")
    monkeypatch.setattr("mpips.bootstrap.surroundings.under_mpi", lambda: False)
    monkeypatch.delenv(bootstrap.REENTERED, raising=False)
    return tmp_path


def fill(checkout: Path) -> None:
    """Make a `.venv` that looks complete."""
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch(0o755)
    bootstrap.STAMP.write_text(bootstrap.stamp(), "utf-8")


@pytest.mark.parametrize(("have", "lines", "missing"), [
    ("2.0.1", ["numpy>=2.0"], []),
    ("2.0", ["numpy>=2.0"], []),
    ("10.0", ["numpy>=2.0"], []),
    ("1.26.4", ["numpy>=2.0"], ["numpy>=2.0 (here 1.26.4)"]),
    ("2.0", ["numpy"], []),
    (None, ["numpy>=2.0"], ["numpy"]),
])
def test_requirements_are_compared_by_version(
    have: str | None, lines: list[str], missing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if have is None:
            raise metadata.PackageNotFoundError(name)
        return have

    monkeypatch.setattr(metadata, "version", version)
    assert bootstrap.lacking(lines) == missing


def test_requirements_of_a_checkout_are_those_of_pyproject() -> None:
    names = {line.partition(">=")[0] for line in bootstrap.requirements(("test",))}
    assert {"mpi4py", "numpy", "h5py", "pytest"} <= names
    assert "ruff" not in names


def test_requirements_of_an_installed_copy_are_those_of_its_metadata(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkout / "pyproject.toml").unlink()
    lines = ["numpy>=2.0", "ruff>=0.12; extra == 'dev'", 'pytest>=9; extra == "test"']
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    assert bootstrap.requirements(()) == ["numpy>=2.0"]
    assert bootstrap.requirements(("test",)) == ["numpy>=2.0", "pytest>=9"]


def test_environment_that_has_all_is_used_as_it_is(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "lacking", lambda lines: [])
    monkeypatch.setattr(bootstrap, "make", lambda missing: pytest.fail("made a .venv"))
    monkeypatch.setattr(bootstrap, "enter", lambda arguments: pytest.fail("left"))
    bootstrap.ensure((), ["demo"])


def test_stamp_of_the_own_environment_is_believed(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def lacking(lines: list[str]) -> list[str]:
        asked.append(lines)
        return []

    monkeypatch.setattr(bootstrap, "lacking", lacking)
    fill(checkout)
    bootstrap.ensure((), ["demo"])
    assert len(asked) == 1
    monkeypatch.setattr("sys.prefix", str(checkout / ".venv"))
    bootstrap.ensure((), ["demo"])
    assert len(asked) == 1
    bootstrap.STAMP.write_text("another", "utf-8")
    bootstrap.ensure((), ["demo"])
    assert len(asked) == 2


def test_import_that_has_failed_is_explained_by_what_is_missing(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "lacking", lambda lines: [])
    bootstrap.explain(())
    monkeypatch.setattr(bootstrap, "lacking", lambda lines: ["numba"])
    with pytest.raises(LaunchError, match="this Python lacks numba") as caught:
        bootstrap.explain(())
    assert "pip install" in caught.value.remedy


def test_missing_packages_make_and_enter_the_environment_once(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[object] = []

    def make(missing: list[str]) -> None:
        done.append("make")
        fill(checkout)

    monkeypatch.setattr(bootstrap, "lacking", lambda lines: ["numpy"])
    monkeypatch.setattr(bootstrap, "make", make)
    monkeypatch.setattr(bootstrap, "enter", done.append)
    bootstrap.ensure((), ["demo"])
    bootstrap.ensure((), ["test", "unit"])
    assert done == ["make", ["demo"], ["test", "unit"]]


def test_changed_pyproject_or_missing_python_makes_it_again(checkout: Path) -> None:
    fill(checkout)
    assert bootstrap.up_to_date()
    with (checkout / "pyproject.toml").open("a") as file:
        file.write("\n")
    assert not bootstrap.up_to_date()
    bootstrap.STAMP.write_text(bootstrap.stamp(), "utf-8")
    (checkout / ".venv" / "bin" / "python").unlink()
    assert not bootstrap.up_to_date()


def test_stamp_is_written_only_after_all_is_installed(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(checkout)
    monkeypatch.setattr(bootstrap, "wanted_extras", lambda: "mpi,test,dev")
    monkeypatch.setattr(bootstrap, "make_venv", lambda: ["false"])
    with pytest.raises(LaunchError, match="could not be installed") as caught:
        bootstrap.make(["numpy"])
    assert caught.value.exit_code == 69
    assert not bootstrap.up_to_date()
    monkeypatch.setattr(bootstrap, "make_venv", lambda: ["true"])
    bootstrap.make(["numpy"])
    assert bootstrap.up_to_date()


@pytest.mark.parametrize("why", ["reentered", "rank", "installed copy"])
def test_environment_is_not_made_where_it_must_not(
    why: str, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "lacking", lambda lines: ["numpy"])
    monkeypatch.setattr(bootstrap, "make", lambda missing: pytest.fail("made a .venv"))
    if why == "reentered":
        monkeypatch.setenv(bootstrap.REENTERED, "1")
    elif why == "rank":
        monkeypatch.setattr("mpips.bootstrap.surroundings.under_mpi", lambda: True)
    else:
        (checkout / "pyproject.toml").unlink()
        monkeypatch.setattr(bootstrap, "requirements", lambda extras: ["numpy>=2.0"])
    with pytest.raises(LaunchError, match="lacks numpy") as caught:
        bootstrap.ensure(("test",), ["test"])
    assert "pip install" in caught.value.remedy
    assert bootstrap.REENTERED not in os.environ


def test_doctor_looks_at_a_python_that_has_nothing(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[object] = []
    monkeypatch.setattr(bootstrap, "lacking", lambda lines: ["numpy"])
    monkeypatch.setattr(bootstrap, "make", lambda missing: pytest.fail("made a .venv"))
    monkeypatch.setattr(bootstrap, "enter", entered.append)
    bootstrap.ensure((), ["doctor"], may_make=False)
    assert not entered
    fill(checkout)
    bootstrap.ensure((), ["doctor"], may_make=False)
    assert entered == [["doctor"]]


def test_pythonpath_is_dropped_with_a_word(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/old/packages")
    calls: list[tuple[str, list[str], dict[str, str]]] = []
    bootstrap.enter(["demo", "-x"], lambda *call: calls.append(call))
    python = str(checkout / ".venv" / "bin" / "python")
    assert calls[0][:2] == (python, [python, str(checkout / "mpips"), "demo", "-x"])
    assert "PYTHONPATH" not in calls[0][2]
    assert calls[0][2][bootstrap.REENTERED] == "1"
    assert "ignoring PYTHONPATH=/old/packages" in capsys.readouterr().err


def test_python_without_ensurepip_uses_the_pip_that_there_is(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(bootstrap, "run", lambda command, what: commands.append(command))
    monkeypatch.setattr("importlib.util.find_spec",
                        lambda name: None if name == "ensurepip" else object())
    pip = bootstrap.make_venv()
    assert "--without-pip" in commands[0]
    assert pip[:4] == [sys.executable, "-m", "pip", "--python"]


def test_python_without_pip_and_network_is_told_what_to_install(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "run", lambda command, what: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(LaunchError, match="apt install python3-venv"):
        bootstrap.make_venv()


class Index(http.server.BaseHTTPRequestHandler):
    """A package index with two releases of pip, one of them without a checksum."""

    wheel, checksum = b"a wheel", hashlib.sha256(b"a wheel").hexdigest()

    def do_GET(self) -> None:
        """Answer the page of links, or the wheel."""
        page = (f'<a href="../../files/pip-9.0.1-py3-none-any.whl#sha256={"0" * 64}">9</a>'
                f'<a href="../../files/pip-24.10-py3-none-any.whl#sha256={self.checksum}">24</a>'
                '<a href="../../files/pip-99.0-py3-none-any.whl">99</a>')
        content = {"/simple/pip/": page.encode(),
                   "/files/pip-24.10-py3-none-any.whl": self.wheel}.get(self.path)
        self.send_response(404 if content is None else 200)
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *arguments: object) -> None:
        """Keep quiet."""


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve the index on this machine."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple/")
        yield
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("index")
def test_newest_pip_with_a_checksum_is_fetched(tmp_path: Path) -> None:
    wheel = fetch.fetch_pip(tmp_path)
    assert wheel == tmp_path / "pip-24.10-py3-none-any.whl"
    assert wheel.read_bytes() == Index.wheel


@pytest.mark.usefixtures("index")
def test_pip_with_another_checksum_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Index, "wheel", b"another wheel")
    with pytest.raises(MissingInputError, match="checksum"):
        fetch.fetch_pip(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["__init__.py", "__main__.py"])
def test_entry_parses_on_old_pythons(name: str) -> None:
    text = (ROOT / "mpips" / name).read_text("utf-8")
    text.encode("ascii")
    tree = ast.parse(text, feature_version=(3, 7))
    modern = (ast.AnnAssign, ast.JoinedStr, ast.AsyncFunctionDef, ast.NamedExpr, ast.Nonlocal)
    assert not [node for node in ast.walk(tree) if isinstance(node, modern)]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.returns is None
            assert not node.args.kwonlyargs
            assert not [a for a in node.args.args if a.annotation]


def working(name: str) -> str | None:
    """Find a Python on the PATH or among a version manager's, one that starts."""
    managed = Path("~/.pyenv/versions").expanduser().glob(f"*/bin/{name}")
    for program in (shutil.which(name), *map(str, managed)):
        if program and subprocess.run([program, "-c", ""], capture_output=True, timeout=20,
                                      check=False).returncode == 0:
            return program
    return None


@pytest.mark.parametrize("name", OLD_PYTHONS)
def test_old_python_is_told_which_one_is_needed(name: str) -> None:
    program = working(name)
    if program is None:
        pytest.skip(f"no {name} here")
    done = subprocess.run([program, "-B", "-m", "mpips", "demo"], cwd=ROOT, text=True,
                          capture_output=True, timeout=20, check=False)
    assert done.returncode == 69
    assert done.stderr.splitlines()[0] == "mpips: error: mpips needs Python 3.11 or newer"


def test_package_folder_runs_from_anywhere(tmp_path: Path) -> None:
    # A module in the working folder, or of the package's own names, must not be taken.
    (tmp_path / "argparse.py").write_text("raise ImportError('the wrong argparse')", "utf-8")
    for options in ([], ["-P"]):
        done = subprocess.run([sys.executable, *options, str(ROOT / "mpips"), "--version"],
                              cwd=tmp_path, capture_output=True, text=True, timeout=20, check=True)
        assert done.stdout.startswith("mpips ")
