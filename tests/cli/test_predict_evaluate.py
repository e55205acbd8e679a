"""`predict` and `evaluate` agree with the formulas and the run, and refuse what does not fit."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mpips import bootstrap
from mpips.apps.linear import scoring
from mpips.apps.linear.ftrl import FtrlLinear
from mpips.cli.main import main
from mpips.config import parse
from mpips.files.csr import CsrFile, CsrWriter
from mpips.files.model import Model, write_model
from mpips.node.folder import RunFolder, read_result
from mpips.node.local import run_local

COLUMNS = 6


@pytest.fixture(autouse=True)
def _in_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in an empty folder, with the Python that runs the tests."""
    monkeypatch.setattr(bootstrap, "ensure", lambda *a, **k: None)
    monkeypatch.chdir(tmp_path)


def write(
    name: str, rng: np.random.Generator, labels: Sequence[float], columns: int = COLUMNS,
    **attributes: str | int,
) -> str:  # fmt: skip
    """Write random rows with these labels."""
    lengths = rng.integers(0, 4, len(labels))
    indices = [np.sort(rng.choice(columns, n, replace=False)) for n in lengths]
    joined = np.concatenate([np.zeros(0, np.int64), *indices])
    with CsrWriter(name, columns, attributes) as writer:
        writer.append(lengths, joined, rng.normal(size=len(joined)), np.array(labels, float))
    return name


@pytest.fixture
def model(rng: np.random.Generator) -> Model:
    """Write `model.h5` and return it."""
    weights = rng.normal(size=COLUMNS)
    weights[2] = 0
    made = Model(n_features=COLUMNS, weights=weights, label_values=(0.0, 1.0))
    write_model("model.h5", made)
    return made


def margins_of(path: str, model: Model) -> np.ndarray:
    """Return the margins of a file, by dense arithmetic."""
    assert model.weights is not None
    with CsrFile(path) as data:
        rows = data.read(0, data.n_rows)
    dense = np.zeros((len(rows.labels), model.n_features))
    dense[np.repeat(np.arange(len(dense)), np.diff(rows.indptr)), rows.indices] = rows.data
    return dense @ model.weights


def test_predict_writes_a_probability_for_each_row_in_order(
    rng: np.random.Generator, model: Model, capfdbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(scoring, "READ_ROWS", 7)
    write("a.h5", rng, rng.integers(0, 2, 30).tolist())
    assert main(["predict", "model.h5", "a.h5", "-o", "out.tsv", "--margins"]) == 0
    assert b"out.tsv: 30 rows" in capfdbinary.readouterr().out
    both = np.loadtxt("out.tsv", delimiter="\t")
    np.testing.assert_allclose(both[:, 1], margins_of("a.h5", model), rtol=1e-14, atol=1e-15)
    np.testing.assert_array_equal(both[:, 0], scoring.probabilities(both[:, 1]))
    # Without -o the lines, and nothing else, go to the standard output.
    assert main(["predict", "model.h5", "a.h5"]) == 0
    shown = capfdbinary.readouterr().out
    assert shown == b"".join(b"%s\n" % line.split(b"\t")[0]
                             for line in Path("out.tsv").read_bytes().splitlines())  # fmt: skip


def test_predict_packs_and_reads_folders(rng: np.random.Generator, model: Model) -> None:
    Path("many").mkdir()
    for name in ("many/1.h5", "many/2.h5"):
        write(name, rng, [0, 1, 1])
    assert main(["predict", "model.h5", "many", "-o", "out.gz"]) == 0
    found = np.array(gzip.decompress(Path("out.gz").read_bytes()).split(), float)
    margins = np.concatenate([margins_of("many/1.h5", model), margins_of("many/2.h5", model)])
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-margins)), rtol=1e-12)


def test_predict_needs_no_classes(rng: np.random.Generator, model: Model) -> None:
    write("a.h5", rng, [3.5, 7, 11])
    assert main(["predict", "model.h5", "a.h5", "-o", "out.tsv"]) == 0
    assert len(Path("out.tsv").read_text().splitlines()) == 3


@pytest.mark.parametrize("output", ["model.h5", "a.h5"])
def test_predict_does_not_write_over_its_inputs(
    output: str, rng: np.random.Generator, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    write("a.h5", rng, [0, 1])
    before = Path(output).read_bytes()
    assert main(["predict", "model.h5", "a.h5", "-o", output]) == 2
    assert f"{output} is an input" in capsys.readouterr().err
    assert Path(output).read_bytes() == before


def test_predict_leaves_no_output_when_a_row_is_damaged(
    rng: np.random.Generator, model: Model, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(scoring, "READ_ROWS", 10)
    with CsrWriter("a.h5", COLUMNS) as writer:
        writer.append(np.ones(40, int), np.zeros(40, int), np.full(40, 0.5), np.ones(40))
    import h5py

    with h5py.File("a.h5", "r+") as file:
        file["X/data"][25] = np.inf
    assert main(["predict", "model.h5", "a.h5", "-o", "out.tsv"]) == 65
    assert "row 25" in capsys.readouterr().err
    assert not Path("out.tsv").exists()


def test_evaluate_gives_the_digits_of_the_run(
    rng: np.random.Generator, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write("a.h5", rng, rng.integers(0, 2, 60).tolist())
    write("t.h5", rng, rng.integers(0, 2, 31).tolist())
    config = parse("", "", ["data.train=a.h5", "data.test=t.h5", "model.solver=ftrl",
                            "model.l1=0.1", "run.logical_workers=3"])  # fmt: skip
    run_local(FtrlLinear, config, RunFolder(tmp_path / "run", config))
    assert main(["evaluate", "run/model.h5", "t.h5", "--json"]) == 0
    found, result = json.loads(capsys.readouterr().out), read_result(tmp_path / "run")
    assert result is not None
    assert result["logloss"] != pytest.approx(np.log(2))
    for name in ("logloss", "auc", "nonzeros"):
        assert found[name] == result[name], name
    assert found["rows"] == 31


def test_evaluate_measures(
    rng: np.random.Generator, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = rng.integers(0, 2, 200)
    write("a.h5", rng, labels.tolist())
    assert main(["evaluate", "model.h5", "a.h5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    margins, signs = margins_of("a.h5", model), np.where(labels == 1, 1.0, -1.0)
    assert found["accuracy"] == np.mean((margins > 0) == (labels == 1))
    assert found["logloss"] == pytest.approx(np.mean(np.log1p(np.exp(-signs * margins))))
    assert found["auc"] == pytest.approx(scoring.auc(margins, signs))
    assert found["nonzeros"] == COLUMNS - 1
    assert main(["evaluate", "model.h5", "a.h5"]) == 0
    shown = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert list(shown) == ["rows", "logloss", "auc", "accuracy", "nonzeros"]
    assert float(shown["accuracy"]) == pytest.approx(found["accuracy"])


@pytest.mark.parametrize(("labels", "rows"), [([1, 1, 1], 3), ([0], 1), ([], 0)])
def test_measures_that_the_rows_do_not_allow_are_null(
    labels: list[float], rows: int, rng: np.random.Generator, model: Model,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write("a.h5", rng, labels)
    assert main(["evaluate", "model.h5", "a.h5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["auc"]) == (rows, None)
    assert (found["logloss"] is None) == (found["accuracy"] is None) == (rows == 0)
    assert main(["evaluate", "model.h5", "a.h5"]) == 0
    assert "auc       -" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["predict", "evaluate"])
@pytest.mark.parametrize(("arguments", "code", "words"), [
    (["none.h5", "a.h5"], 66, "a model: none.h5 does not exist"),
    (["model.h5", "none.h5"], 66, "training data: none.h5 does not exist"),
    (["a.h5", "a.h5"], 65, "a.h5 is no model: its format is mpips-data/1"),
    (["model.h5", "model.h5"], 65, "model.h5: its format is mpips-model/1, not mpips-data/1"),
    (["a.h5", "model.h5"], 65, "a.h5 is no model"),
    (["model.h5", "hashed.h5"], 65, "hashed.h5 was hashed with xxh3_64, 22 bits, the model uses"
                                    " none, 0 bits: predictions would be noise"),
    (["model.h5", "wide.h5"], 65, "wide.h5 has 7 features, the model 6"),
    (["model.h5", "unit.h5"], 65, "unit.h5 has row_scaling unit, the model none"),
    (["lda.h5", "a.h5"], 65, "lda.h5 is a model of kind lda, not linear"),
    (["model.h5", "text.svm"], 65, "text.svm is LIBSVM text, not HDF5"),
    (["model.h5"], 2, "required: DATA.h5"),
    (["model.h5", "a.h5", "--probability"], 2, "unrecognized arguments"),
])  # fmt: skip
def test_bad_input_is_a_sentence_and_an_exit_code(
    command: str, arguments: list[str], code: int, words: str, rng: np.random.Generator,
    model: Model, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write("a.h5", rng, [0, 1])
    write("wide.h5", rng, [0, 1], COLUMNS + 1)
    write("unit.h5", rng, [0, 1], row_scaling="unit")
    write("hashed.h5", rng, [0, 1], hash="xxh3_64", hash_bits=22)
    Path("text.svm").write_text("1 1:0.5 3:1\n")
    write_model("lda.h5", Model(n_features=COLUMNS, weights=np.ones(COLUMNS), kind="lda"))
    assert main([command, *arguments]) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_evaluate_refuses_labels_of_more_classes(
    rng: np.random.Generator, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    write("a.h5", rng, [0, 1, 3])
    assert main(["evaluate", "model.h5", "a.h5"]) == 65
    assert "/obs/label has 0, 1, 3" in capsys.readouterr().err
