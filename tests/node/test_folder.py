"""The run folder: never another run's, and its result whole or not there."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from mpips.config import Config, load, parse
from mpips.errors import FileError, MissingInputError, OutputError
from mpips.node.folder import (
    RESULT,
    RunFolder,
    choose_folder,
    model_in,
    name_run,
    plain,
    read_result,
)


def test_folder_has_the_effective_config_and_lines_of_metrics(tmp_path: Path) -> None:
    config = parse("", "", ["run.servers=3", "model.kind=linear"])
    folder = RunFolder(tmp_path / "a" / "b", config)
    folder.note(0.12345, "progress", {"rows": np.int64(5), "loss": float("nan"), "w": np.ones(9)})
    folder.note(1.0, "test", {"auc": np.float32(0.5)})
    assert read_result(folder.path) is None
    folder.finish({})
    assert load(folder.path / "config.toml").run.servers == 3
    lines = (folder.path / "metrics.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"seconds": 0.123, "kind": "progress", "rows": 5, "loss": None},
        {"seconds": 1.0, "kind": "test", "auc": 0.5},
    ]
    assert (folder.path / "log").is_dir()


def test_result_is_written_last_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path / "run", Config())
    seen = []
    real = os.fsync

    def sync(number: int) -> None:
        real(number)
        # What can be read at this moment is not half a result.
        seen.append(read_result(folder.path))

    monkeypatch.setattr(os, "fsync", sync)
    folder.finish({"status": "done", "auc": float("inf"), "counters": {"bytes": np.int64(7)}})
    assert seen == [None]
    result = {"status": "done", "auc": None, "counters": {"bytes": 7}, "attempt": ""}
    assert read_result(folder.path) == result
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "config.toml", "log", "metrics.jsonl", RESULT]  # fmt: skip


def test_result_of_another_run_is_not_overwritten(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", Config()).finish({"status": "done"})
    with pytest.raises(OutputError, match="holds the result of another run") as error:
        RunFolder(tmp_path / "run", parse("", "", ["run.servers=9"]))
    assert error.value.exit_code == 73
    assert load(tmp_path / "run" / "config.toml").run.servers == 1


def test_folder_of_a_run_without_a_result_is_used_again(tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "run", Config())
    first.note(0.0, "progress", {})
    second = RunFolder(tmp_path / "run", Config())
    second.note(1.0, "progress", {})
    second.finish({})
    first._metrics.close()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()) == 2


@pytest.mark.parametrize("below", ["file", "file/run"])
def test_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(OutputError, match="cannot be made") as error:
        RunFolder(tmp_path / below, Config())
    assert error.value.exit_code == 73
    assert "--out" in error.value.remedy


def test_result_that_cannot_be_written_is_a_file_error(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", Config())
    (folder.path / f".{RESULT}.part").mkdir()
    with pytest.raises(FileError, match=RESULT) as error:
        folder.finish({"status": "done"})
    assert error.value.exit_code == 74


def test_folder_is_the_one_given_or_named_by_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert choose_folder(parse("", "", ["run.out=x"])) == tmp_path / "x"
    monkeypatch.setattr("mpips.node.folder.time.strftime", lambda form: "20260101-000000")
    config = parse("", "", ["run.name=night"])
    names = []
    for _ in range(3):
        folder = choose_folder(config)
        folder.mkdir(parents=True)
        names.append(folder.relative_to(tmp_path).as_posix())
    stem = "runs/night-20260101-000000"
    assert names == [stem, f"{stem}-2", f"{stem}-3"]


def test_broken_result_reads_as_none(tmp_path: Path) -> None:
    assert read_result(tmp_path) is None
    (tmp_path / RESULT).write_text('{"status": "do', "utf-8")
    assert read_result(tmp_path) is None


def test_facts_without_large_arrays_are_plain() -> None:
    facts = {"a": np.float64(1.5), "b": np.bool_(True), "c": {"d": np.int32(3), "e": np.ones(3)}}
    assert plain(facts) == {"a": 1.5, "b": True, "c": {"d": 3}}
    assert type(plain(facts)["b"]) is bool


@pytest.mark.parametrize(("given", "stem", "name"), [
    ("", "night job (2)", "night-job-2-"), ("", "ärger.v1+x", "ärger.v1+x"), ("", "", "run"),
    ("mine", "job", "mine"),
])  # fmt: skip
def test_run_is_named_by_the_user_or_after_its_file(given: str, stem: str, name: str) -> None:
    config = name_run(parse("", "", [f"run.name={given}"] if given else []), stem)
    assert config.run.name == name
    # The name is one that a config may have.
    assert parse("", "", [f'run.name="{name}"']).run.name == name


def test_model_of_a_run_folder_is_found_and_other_paths_stay(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").touch()
    with pytest.raises(MissingInputError, match="holds no model"):
        model_in(str(run))
    (run / "model.h5").touch()
    assert model_in(str(run)) == str(run / "model.h5")
    for path in (run / "model.h5", tmp_path / "data", tmp_path):
        assert model_in(str(path)) == str(path)
