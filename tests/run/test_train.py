"""Whole training jobs: what they leave, and that the weights do not depend on who computes."""

import json
from pathlib import Path

import numpy as np
import pytest

from mpips.apps.find import LINEAR, find_app
from mpips.apps.linear.exact import ExactLinear
from mpips.config import parse
from mpips.node.app import check_model
from mpips.node.folder import RunFolder
from mpips.node.local import run_local
from mpips.toml import assign, to_toml
from tests.run.jobs import Done, mpips, result_of, under_mpirun, weights_of, write_rows

# One process has the module's fixtures.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("train")]

SIZES = [(1, 1, "off"), (1, 2, "off"), (3, 4, "off"), (3, 4, "lz4")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder, its name as people give names, with data."""
    folder = tmp_path_factory.mktemp("train") / "my data ü"
    folder.mkdir()
    write_rows(folder / "small rows.h5")
    write_rows(folder / "test.h5", rows=200, seed=2)
    return folder


@pytest.fixture(scope="module")
def job(folder: Path) -> Done:
    """A job on 2 servers and 4 workers, which leaves `first`; a shell outlived its allocation."""
    return mpips(folder, "train", "small rows.h5", "--servers", "2", "--workers", "4",
                 "--test", "test.h5", "--out", "first", "--set", "model.tolerance=1e-8",
                 SLURM_JOB_ID="77")


@pytest.fixture(scope="module")
def first(job: Done, folder: Path) -> Path:
    """The run folder of that job."""
    assert job.code == 0, job.err
    return folder / "first"


def test_job_says_what_runs_and_how_it_ended(job: Done) -> None:
    assert job.code == 0
    assert "SLURM_JOB_ID=77 is set, but" in job.err
    assert "starting on this machine alone" in job.err
    assert "error:" not in job.err
    lines = job.out.splitlines()
    assert any("1 scheduler + 2 servers + 4 workers" in line for line in lines)
    assert any(line.startswith("done in") for line in lines)


def test_run_folder_is_complete(first: Path) -> None:
    assert sorted(path.name for path in first.iterdir()) == [
        "config.toml", "ctl", "log", "metrics.jsonl", "model.h5", "result.json"]
    assert sorted(path.name for path in (first / "log").iterdir()) == [
        f"rank-{rank:04d}.log" for rank in range(7)]
    # Nobody had to be warned of anything.
    said = [path.read_text("utf-8").splitlines() for path in sorted((first / "log").iterdir())]
    assert all(len(lines) == 1 for lines in said), said
    result = result_of(first)
    assert (result["status"], result["exit_code"], result["error"]) == ("done", 0, None)
    assert result["converged"]
    assert result["gap"] <= 1e-8
    assert result["nonzeros"] == np.count_nonzero(weights_of(first)) > 0
    # The last line of the metrics is what the result says.
    metrics = [json.loads(line) for line in (first / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["objective"] == result["objective"] < metrics[0]["objective"]


def test_config_of_the_run_folder_gives_the_same_bits_from_another_folder(
    first: Path, tmp_path: Path
) -> None:
    done = mpips(tmp_path, "train", str(first / "config.toml"), "--out", "again")
    assert done.code == 0, done.err
    np.testing.assert_array_equal(weights_of(tmp_path / "again"), weights_of(first))
    again, before = result_of(tmp_path / "again"), result_of(first)
    for name in ("objective", "gap", "auc", "logloss", "iterations"):
        assert again[name] == before[name], name


@pytest.mark.parametrize("solver", sorted(LINEAR))
def test_effective_config_of_each_solver_gives_the_same_bits(
    solver: str, folder: Path, tmp_path: Path
) -> None:
    data = assign("data.train", str(folder / "small rows.h5"))
    asked = parse("", "", [data, f"model.solver={solver}", "model.l1=0.5", "run.workers=2"])
    kind = find_app(asked)
    for name, config in (
        ("asked", asked.sized(2)),
        ("effective", parse(to_toml(check_model(kind, asked.sized(2))), "")),
    ):
        run_local(kind, config, RunFolder(tmp_path / name, config))
    assert config.sync.mode
    assert len(config.model) > len(asked.model)
    weights = weights_of(tmp_path / "asked")
    assert weights.any()
    np.testing.assert_array_equal(weights_of(tmp_path / "effective"), weights)


def test_mpirun_of_the_users_gives_the_same_bits(first: Path, tmp_path: Path) -> None:
    config = str(first / "config.toml")
    done = under_mpirun(7, tmp_path, "-m", "mpips", "train", config, "--out", "mine")
    assert done.code == 0, done.err
    np.testing.assert_array_equal(weights_of(tmp_path / "mine"), weights_of(first))


def test_surplus_ranks_work_too_and_the_bits_stay(first: Path, tmp_path: Path) -> None:
    config = str(first / "config.toml")
    done = under_mpirun(5, tmp_path, "-m", "mpips", "train", config, "--servers", "1",
                        "--workers", "2", "--set", "run.logical_workers=4", "--out", "more",
                        "--set", "filters.compress=lz4")
    assert done.code == 0, done.err
    assert "1 scheduler + 1 server + 3 workers" in done.out
    np.testing.assert_array_equal(weights_of(tmp_path / "more"), weights_of(first))


@pytest.mark.parametrize(("servers", "workers", "compress"), SIZES)
def test_weights_are_the_same_bits_on_any_number_of_ranks(
    servers: int, workers: int, compress: str, first: Path, tmp_path: Path
) -> None:
    config = parse((first / "config.toml").read_text("utf-8"), "", [
        f"run.servers={servers}", f"run.workers={workers}", f"filters.compress={compress}"])
    assert config.run.logical_workers == 4
    result = run_local(ExactLinear, config, RunFolder(tmp_path / "out", config))
    np.testing.assert_array_equal(weights_of(tmp_path / "out"), weights_of(first))
    assert result["objective"] == result_of(first)["objective"]
    # The test's size is real: lz4 has done something.
    assert any("lz4" in name for name in result["counters"]) == (compress == "lz4")


def test_evaluate_agrees_with_the_run_to_the_last_digit(first: Path, folder: Path) -> None:
    done = mpips(folder, "evaluate", "first/model.h5", "test.h5", "--json")
    assert done.code == 0, done.err
    measured, result = json.loads(done.out), result_of(first)
    assert measured["auc"] == result["auc"] > 0.6
    assert measured["logloss"] == result["logloss"] < np.log(2)
    assert measured["nonzeros"] == result["nonzeros"]


def test_dry_run_shows_the_start_and_makes_nothing(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    done = mpips(folder, "train", "small rows.h5", "--servers", "2", "--workers", "4",
                 "--dry-run", "--set", "model.l1=2.5", "--out", "2024")
    assert done.code == 0, done.err
    assert "-n 7" in done.out.splitlines()[0]
    assert sorted(folder.rglob("*")) == before
    # What follows the command line is the effective config.
    config = parse(done.out.partition("\n\n")[2], "")
    assert config.model["l1"] == 2.5
    assert config.model["tolerance"] == 1e-6
    assert set(config.model) == {"kind", *ExactLinear.Settings.__struct_fields__}
    assert config.sync.mode == "sequential"
    assert (config.run.servers, config.run.workers, config.run.name) == (2, 4, "small-rows")
    assert config.run.out == str(folder / "2024")
    assert config.data.train == str(folder / "small rows.h5")


def test_folder_of_another_run_is_not_taken(first: Path, folder: Path) -> None:
    result = (first / "result.json").read_bytes()
    done = mpips(folder, "train", "small rows.h5", "--out", "first")
    assert done.code == 73
    assert "holds the result of another run" in done.err
    assert (first / "result.json").read_bytes() == result


@pytest.mark.parametrize(("rows", "columns", "labels", "workers"), [
    (0, 5, (), 2), (1, 5, (), 3), (40, 1, (), 2), (40, 0, (-1, 1), 2), (40, 5, (1,), 2),
])  # fmt: skip
def test_odd_data_is_trained_on_with_empty_shards_too(
    rows: int, columns: int, labels: tuple[float, ...], workers: int, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "odd.h5", rows, columns, labels=labels)
    config = parse("", "", [assign("data.train", str(data)), "run.workers=2",
                            f"run.logical_workers={workers}", "model.l1=0.01"])
    result = run_local(ExactLinear, config, RunFolder(tmp_path / "out", config))
    assert result["converged"]
    # Without columns nothing can be learnt, with one class everything.
    assert result["objective"] <= rows * np.log(2) * (1 + 1e-12)
    assert (result["nonzeros"] > 0) == (rows > 0 and columns > 0)
    assert len(weights_of(tmp_path / "out")) == columns
