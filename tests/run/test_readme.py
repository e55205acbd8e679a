"""What the README shows works as it stands there."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from mpips.cli.main import commands, parser_for
from tests.run.jobs import ROOT, mpips, result_of, run, under_mpirun, write_rows

pytestmark = pytest.mark.slow

README = (ROOT / "README.md").read_text("utf-8")
LINES_MAX = 40


def program() -> str:
    """Return the README's algorithm."""
    [block] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    return str(block)


def shell_commands() -> list[list[str]]:
    """Return all commands of mpips that the README shows, without the program's name."""
    shown = re.findall(r"^    (?:python3 -m |mpirun -n \d+ )?mpips (\w.*)$", README, re.MULTILINE)
    shown += re.findall(r"`(?:mpirun -n \d+ )?mpips ([a-z]+[^`]*)`", README)
    return [shlex.split(line, comments=True) for line in shown]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the README's program and its data."""
    folder = tmp_path_factory.mktemp("readme")
    write_rows(folder / "train.h5")
    (folder / "my_app.py").write_text(program(), "utf-8")
    return folder


def test_algorithm_is_short() -> None:
    assert 20 < len(program().splitlines()) <= LINES_MAX


def test_algorithm_gives_the_same_bits_in_one_process_and_on_ranks(folder: Path) -> None:
    here = run([sys.executable, "my_app.py", "--out", "here"], folder)
    started = run([sys.executable, "my_app.py", "--workers", "4", "--out", "started"], folder)
    inside = under_mpirun(6, folder, "my_app.py", "--out", "inside")
    for done in (here, started, inside):
        assert done.code == 0, done.err
    # It has learnt, and has been through all its passes.
    results = [result_of(folder / name) for name in ("here", "started", "inside")]
    assert 0 < results[0]["loss"] < 0.8 * 400 * 0.693
    assert results[0]["loss"] == results[1]["loss"] == results[2]["loss"]
    # The jobs were what the README says.
    assert "1 scheduler + 1 server + 4 workers" in started.out
    assert "1 scheduler + 1 server + 4 workers" in inside.out
    assert [len(list((folder / name / "log").iterdir()))
            for name in ("here", "started", "inside")] == [0, 6, 6]


def test_algorithm_shows_its_options(folder: Path) -> None:
    done = run([sys.executable, "my_app.py", "--help"], folder)
    assert done.code == 0
    assert "Logistic regression by distributed subgradient descent." in done.out
    for command in re.findall(r"python my_app\.py *(--\w+)", README):
        assert command in done.out


def test_commands_exist_with_their_options() -> None:
    found = shell_commands()
    assert {words[0] for words in found} >= {"demo", "test", "doctor", "convert", "train",
                                             "evaluate", "predict", "export"}
    for words in found:
        if words[0] == "COMMAND":
            continue
        assert words[0] in commands(), words
        parser, _ = parser_for(words[0])
        # What follows is for the shell.
        end = words.index(">") if ">" in words else len(words)
        parser.parse_args(words[1:end])


def test_section_train_works_as_shown(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.h5")
    write_rows(tmp_path / "test.h5", rows=50, seed=2)
    for name in ("train", "test"):
        assert mpips(tmp_path, "export", f"{name}.h5", "-o", f"{name}.svm.gz").code == 0
        (tmp_path / f"{name}.h5").unlink()
    section = README.partition("\n## Train\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^    mpips (.*)$", section, re.MULTILINE)
    assert [line.split()[0] for line in lines] == [
        "convert", "convert", "train", "evaluate", "predict", "export"]
    for line in lines:
        done = mpips(tmp_path, *shlex.split(line, comments=True))
        assert done.code == 0, (line, done.err)
    assert len((tmp_path / "predictions.tsv").read_text().splitlines()) == 50
    assert (tmp_path / "weights.tsv").stat().st_size > 0


def test_config_is_one_that_train_takes(tmp_path: Path) -> None:
    block = README.partition("    # config.toml\n")[2].partition("\n\n")[0]
    (tmp_path / "config.toml").write_text(re.sub(r"^    ", "", block, flags=re.MULTILINE))
    write_rows(tmp_path / "train.h5")
    write_rows(tmp_path / "test.h5", rows=50, seed=2)
    done = mpips(tmp_path, "train", "config.toml", "--dry-run")
    assert done.code == 0, done.err
    assert "-n 7" in done.out.splitlines()[0]
    assert f'train = "{tmp_path}/train.h5"' in done.out
