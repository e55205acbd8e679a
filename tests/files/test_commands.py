"""The commands convert, info and export say what they did and what is wrong."""

import argparse
import io
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mpips.cli import convert, export, info
from mpips.errors import DataError, MpipsError, UsageError
from mpips.files.csr import CsrFile
from mpips.files.model import Model, write_model


def call(command: ModuleType, *words: str | Path) -> int:
    """Run a command as the command line does."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    command.add_arguments(parser)
    code: int = command.run(parser.parse_args([str(word) for word in words]))
    return code


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Return a small file of text."""
    path = tmp_path / "a.svm"
    path.write_text("1 1:1 3:2\n0 2:1\n1 7:1\n")
    return path


def test_convert_says_what_it_wrote(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = text.with_name("a.h5")
    assert call(convert, text, "-o", out, "--scale-rows", "--features", "9") == 0
    assert f"{out}: 3 rows, 4 nonzeros; 0.0 MB of text" in capsys.readouterr().out
    with CsrFile(out) as data:
        assert (data.n_features, data.row_scaling) == (9, "unit")


def test_convert_like_takes_columns_and_scaling(
    text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, model = text.with_name("a.h5"), text.with_name("m.h5")
    write_model(model, Model(4, np.zeros(4), row_scaling="unit"))
    assert call(convert, text, "-o", out, "--like", model) == 0
    assert f"1 values left out: their columns are not in {model}" in capsys.readouterr().out
    assert call(convert, text, "-o", text.with_name("b.h5"), "--like", out) == 0
    for name in ("a.h5", "b.h5"):
        with CsrFile(text.with_name(name)) as data:
            assert (data.n_features, data.nnz, data.row_scaling) == (4, 3, "unit")


@pytest.mark.parametrize("words", [["--features", "x"], ["--labels", "1"], ["--labels", "1,1"]])
def test_convert_refuses_options_without_sense(text: Path, words: list[str]) -> None:
    with pytest.raises(argparse.ArgumentError, match="'"):
        call(convert, text, "-o", text.with_name("a.h5"), *words)


def test_convert_never_writes_over_its_input(text: Path) -> None:
    before = text.read_bytes()
    with pytest.raises(UsageError, match="is the input"):
        call(convert, text, "-o", text)
    with pytest.raises(UsageError, match="--like already says"):
        call(convert, text, "-o", text.with_name("a.h5"), "--like", text, "--features", "3")
    assert text.read_bytes() == before


def test_progress_is_lines_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, clock = io.StringIO(), [0.0]
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    line = convert.ProgressLine()
    for second in range(1, 12):
        clock[0] = float(second)
        line.show(second * 1000, second * 10**6)
    line.clear()
    lines = stream.getvalue().splitlines()
    assert [text.split() for text in lines] == [
        ["5,000", "rows", "5", "MB", "1,000", "rows/s"],
        ["10,000", "rows", "10", "MB", "1,000", "rows/s"],
    ]


def test_info_tells_the_facts_about_data(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = text.with_name("a.h5")
    call(convert, text, "-o", out)
    capsys.readouterr()
    assert call(info, out, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["rows"], facts["features"], facts["nonzeros"]) == (3, 7, 4)
    assert facts["labels"] == {"0": 1 / 3, "1": 2 / 3}
    assert facts["density"] == 4 / 21
    assert call(info, out, "-v") == 0
    shown = capsys.readouterr().out
    assert "training data" in shown
    assert "0: 0.333333, 1: 0.666667" in shown
    assert "mpips-data/1" in shown


def test_info_tells_the_facts_about_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.h5"
    weights = np.array([0.0, -3.0, 1.0])
    write_model(path, Model(3, weights, stats='{"auc": 0.5}', config="a = 1\nb = 2"))
    assert call(info, path, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["nonzero_weights"], facts["largest_weight"]) == (2, 3.0)
    assert facts["stats"] == {"auc": 0.5}
    assert call(info, path, "-v") == 0
    assert "a = 1\n" in capsys.readouterr().out


def test_info_tells_the_result_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.toml").write_text("")
    call(info, tmp_path)
    assert "no result: interrupted or still running" in capsys.readouterr().out
    result = '{"status": "done", "auc": 0.75, "error": null, "counters": {"bytes_push": 5}}'
    (tmp_path / "result.json").write_text(result)
    call(info, tmp_path)
    shown = capsys.readouterr().out
    assert "auc" in shown
    assert not any(word in shown for word in ("error", "bytes_push", "checkpoints"))
    call(info, tmp_path, "-v")
    assert "bytes_push: 5" in capsys.readouterr().out
    call(info, tmp_path, "--json")
    facts = json.loads(capsys.readouterr().out)
    assert (facts["kind"], facts["status"], facts["auc"]) == ("run", "done", 0.75)
    (tmp_path / "result.json").write_text('{"status": ')
    with pytest.raises(DataError, match="is no JSON"):
        call(info, tmp_path)


def test_info_says_what_other_things_seem_to_be(
    text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(info, text)
    shown = capsys.readouterr().out
    assert "LIBSVM text" in shown
    assert f"mpips convert {text} -o a.h5" in shown
    with pytest.raises(MpipsError, match=r"Nearest: .*a\.svm"):
        call(info, text.with_name("b.svm"))


def test_export_gives_the_text_back(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, back = text.with_name("a.h5"), text.with_name("b.svm")
    call(convert, text, "-o", data)
    assert call(export, data, "-o", back) == 0
    assert back.read_text() == text.read_text()
    assert "--features 7" in capsys.readouterr().out
    model = text.with_name("m.h5")
    write_model(model, Model(3, np.array([0.0, -3.0, 1.5])))
    assert call(export, model, "-o", back) == 0
    assert back.read_text() == "2\t-3.0\n3\t1.5\n"
    assert call(export, model, "-o", back, "--zero-based") == 0
    assert back.read_text() == "1\t-3.0\n2\t1.5\n"
    assert "2 nonzero weights of 3" in capsys.readouterr().out
    with pytest.raises(DataError, match="neither a model nor training data"):
        call(export, text, "-o", back)
