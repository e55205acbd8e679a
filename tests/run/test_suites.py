"""`mpips test` runs what there is, in order, and its last line is true."""

import argparse
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from mpips.cli import test as suites
from mpips.errors import UsageError
from mpips.node import surroundings
from mpips.node.mpirun import Start

GOOD = "def test_good():\n    pass\n"
MIXED = GOOD + ("import pytest\ndef test_bad():\n    assert 0\n"
                "@pytest.mark.skip\ndef test_left():\n    pass\n")
UNSTEADY = """
from pathlib import Path
def test_good():
    with Path("good").open("a") as file:
        file.write("x")
def test_unsteady():
    path = Path("been here")
    seen = path.exists()
    path.touch()
    assert seen and {may_pass}
"""
SLOW = """
import time
def test_long():
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
def test_short():
    pass
"""
CRASH = "import os\ndef test_crash():\n    os._exit(0)\n"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the command work on a checkout with this project's test harness and no tests."""
    root = Path(__file__).resolve().parents[2]
    (tmp_path / "mpips").mkdir()
    (tmp_path / "tests").mkdir()
    for name in ("pyproject.toml", "tests/conftest.py"):
        (tmp_path / name).write_bytes((root / name).read_bytes())
    monkeypatch.setattr(suites, "ROOT", tmp_path)
    # Workers take longer to start than these tests run.
    monkeypatch.setattr(surroundings, "cores", lambda: 1)
    monkeypatch.setenv("PYTHONPATH", str(root))
    return tmp_path


def write(root: Path, folder: str, text: str) -> None:
    """Write a test file into a folder of tests."""
    path = root / "tests" / folder / "test_it.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, "utf-8")


def arguments(*words: str) -> argparse.Namespace:
    """Parse arguments of the command."""
    parser = argparse.ArgumentParser()
    suites.add_arguments(parser)
    return parser.parse_args(words)


def names(steps: list[suites.Step]) -> list[tuple[str, str]]:
    """Return suite and name of each step."""
    return [(step.suite, step.name) for step in steps]


def test_suites_run_in_their_order_and_only_where_they_exist(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("run", "sim", "wire", "mpi", "slurm"):
        write(checkout, folder, GOOD)
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("mpips.node.mpirun.prepare", lambda size, program: Start((), {}, {}))
    asked = ["run", "slurm", "mpi", "kill", "sim", "unit", "tidy"]
    found = names(list(suites.steps(asked, "", False, 1)))
    assert found == [("tidy", "ruff"), ("tidy", "mypy"), ("unit", "pytest"), ("sim", "pytest"),
                     ("mpi", "2 ranks"), ("mpi", "4 ranks"), ("run", "pytest")]


def test_unit_leaves_out_what_has_a_suite_of_its_own(checkout: Path) -> None:
    step, = suites.steps(["unit"], "some", True, 3)
    ignored = {word.rpartition("/")[2] for word in step.command if word.startswith("--ignore=")}
    assert ignored == set(suites.SUITES) - {"unit"}
    assert {"-k", "some", "-x", "--seed=3"} <= set(step.command)


@pytest.mark.slow
def test_counts_are_those_of_pytest_and_the_last_line_says_them(
    checkout: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(checkout, "wire", MIXED)
    write(checkout, "sim", GOOD)
    assert suites.run(arguments("unit", "sim")) == 1
    last = capfd.readouterr().out.splitlines()[-1]
    assert last == "2 passed, 1 failed, 1 skipped"
    assert suites.run(arguments("sim", "--soak", "2")) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "2 passed, 0 failed, 0 skipped"


@pytest.mark.slow
def test_tests_for_soaks_run_with_later_seeds_alone(
    checkout: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(checkout, "sim", f"import pytest\n{GOOD}@pytest.mark.soak\ndef test_more():\n    pass\n")
    assert suites.run(arguments("sim", "--soak", "2")) == 0
    table = capfd.readouterr().out.splitlines()
    assert [line.split()[2:6] for line in table[-4:-2]] == [list("1000"), list("2000")]


@pytest.mark.slow
def test_first_failing_step_ends_the_run_if_asked(
    checkout: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(checkout, "wire", MIXED)
    write(checkout, "sim", GOOD)
    assert suites.run(arguments("unit", "sim", "-x")) == 1
    assert "== sim" not in capfd.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("cores", [1, 2])
def test_run_that_dies_without_a_word_is_a_failure(
    cores: int, checkout: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(surroundings, "cores", lambda: cores)
    write(checkout, "wire", CRASH)
    assert suites.run(arguments("unit")) == 1
    out = capfd.readouterr().out
    assert out.splitlines()[-1].startswith("0 passed, 1 failed")
    # Who dies alone is named by the others.
    assert "FAILED tests/wire/test_it.py::test_crash" in out or cores == 1


@pytest.mark.parametrize(("cores", "jobs"), [(1, 0), (2, 2), (16, 4)])
def test_tests_use_all_cores_and_those_of_jobs_fewer_at_a_time(
    cores: int, jobs: int, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surroundings, "cores", lambda: cores)
    for folder in ("sim", "run", "kill"):
        write(checkout, folder, GOOD)
    found = {}
    for step in suites.steps(list(suites.SUITES), "", False, 1):
        found[step.suite] = [int(b) for a, b in pairwise(step.command) if a == "-n"]
        # What has failed is run again alone.
        assert "-n" not in step.again or step.suite == "mpi"
    many, some = ([cores], [jobs]) if cores > 1 else ([], [])
    assert [found[suite] for suite in ("unit", "sim", "run", "kill")] == [many, many, some, some]


@pytest.mark.slow
@pytest.mark.parametrize("cores", [1, 2])
def test_slow_tests_are_listed_whichever_process_has_run_them(
    cores: int, checkout: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(surroundings, "cores", lambda: cores)
    write(checkout, "wire", SLOW)
    assert suites.run(arguments("unit")) == 0
    out = capfd.readouterr().out
    assert out.count("test_it.py::test_long") == 1
    assert "test_short" not in out


@pytest.mark.slow
@pytest.mark.parametrize(("may_pass", "code", "last", "counts"), [
    (1, 0, "2 passed, 0 failed, 0 skipped", ["2", "0", "0", "1"]),
    (0, 1, "1 passed, 1 failed, 0 skipped", ["1", "1", "0", "0"]),
])  # fmt: skip
def test_what_passes_only_the_second_time_is_told_and_what_never_passes_is_a_failure(
    checkout: Path, may_pass: int, code: int, last: str, counts: list[str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    write(checkout, "run", UNSTEADY.format(may_pass=may_pass))
    assert suites.run(arguments("run")) == code
    table = capfd.readouterr().out.splitlines()
    assert table[-1] == last
    assert table[-3].split()[2:-1] == counts
    # Only what failed was run again.
    assert (checkout / "good").read_text() == "x"


@pytest.mark.slow
def test_nothing_tested_is_no_success(checkout: Path) -> None:
    assert suites.run(arguments("unit", "-k", "none_of_this_name")) == 1


def test_checker_counts_as_one(checkout: Path) -> None:
    for code, counts in ((0, (1, 0)), (1, (0, 1))):
        step = suites.Step("tidy", "ruff", (sys.executable, "-c", f"raise SystemExit({code})"), {},
                           counts=False)
        outcome = suites.execute(step)
        assert (outcome.passed, outcome.failed) == counts


@pytest.mark.parametrize("words", [["units"], ["--soak", "0"]])
def test_wrong_arguments_are_usage_errors(words: list[str], checkout: Path) -> None:
    with pytest.raises(UsageError):
        suites.run(arguments(*words))


def test_installed_copy_says_where_the_tests_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suites, "ROOT", tmp_path)
    with pytest.raises(UsageError, match="get the sources"):
        suites.run(arguments())
