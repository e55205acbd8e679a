"""Whole jobs in one process: data in, result and files out, and every end is an end."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpips.config import Config, parse
from mpips.core.machine import Report
from mpips.core.task import Plan, Task
from mpips.errors import ConfigError, DataError, FileError, MissingInputError, MpipsError
from mpips.files.csr import CsrWriter
from mpips.node.app import App, Stores
from mpips.node.console import Console
from mpips.node.folder import RESULT, RunFolder, read_result
from mpips.node.kv import Worker
from mpips.node.local import run_local
from mpips.node.shard import Shard
from mpips.wire.types import Table
from tests.sim.jobs import Flood, Wrong

ROWS, COLUMNS = 500, 60


@pytest.fixture
def dense(rng: np.random.Generator) -> np.ndarray:
    """Return rows of small integers, many of them zero, some rows empty."""
    matrix = rng.integers(1, 9, (ROWS, COLUMNS)) * (rng.random((ROWS, COLUMNS)) < 0.1)
    matrix[::23] = 0
    return matrix.astype(np.float64)


@pytest.fixture
def labels(rng: np.random.Generator) -> np.ndarray:
    """Return labels of both classes."""
    return rng.choice([-1.0, 1.0], ROWS)


@pytest.fixture
def data(tmp_path: Path, dense: np.ndarray, labels: np.ndarray) -> Path:
    """Return a data file with these rows."""
    path = tmp_path / "data.h5"
    with CsrWriter(path, n_features=COLUMNS) as writer:
        values, columns = dense[dense != 0], np.nonzero(dense)[1]
        writer.append((dense != 0).sum(axis=1), columns, values, labels)
    return path


class ColumnSums(App):
    """Sums the columns, each row times its label, minibatch by minibatch."""

    def tables(self) -> list[Table]:
        """Return the sums."""
        return [Table(name="w", size=self.job.facts["features"])]

    def plan(self) -> Plan:
        """Sum, then collect."""
        rows = yield Task(group="workers", function="work")
        yield Report("progress", {"rows": sum(rows)})
        sums = yield Task(group="workers", function="collect", only=0)
        kept = yield Task(group="servers", function="norm")
        return {"rows": rows, "sums": sums[0], "norm": float(sum(kept))}

    async def work(self, worker: Worker) -> int:
        """Push the sums of minibatches."""
        assert worker.shard is not None
        count = 0
        for batch in worker.shard.minibatches(33):
            worker.push("w", batch.keys, batch.matrix.T @ batch.labels)
            count += len(batch.labels)
        return count

    async def collect(self, worker: Worker) -> Any:
        """Return all sums."""
        return await worker.pull("w")

    def norm(self, stores: Stores) -> float:
        """Return the sum of absolute values that a server holds."""
        part = stores["w"]
        ranges = (part.table.segment_range(segment) for segment in part.held)
        return sum(float(np.abs(part.read_range(*one)[1]).sum()) for one in ranges)


def job(data: Path | None, *settings: str) -> Config:
    """Return a config with training data."""
    return parse("", "", [*([f"data.train={data}"] if data else []), *settings])


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 1, 3), (1, 3, 3), (3, 2, 5)])
def test_job_reads_each_row_once_and_leaves_result_and_metrics(
    tmp_path: Path, data: Path, dense: np.ndarray, labels: np.ndarray, sizes: tuple[int, int, int]
) -> None:
    names = ("servers", "workers", "logical_workers")
    config = job(data, *(f"run.{n}={size}" for n, size in zip(names, sizes, strict=True)))
    folder = RunFolder(tmp_path / "run", config)
    result = run_local(ColumnSums, config, folder)
    # Sums of integers are exact in any order.
    assert np.array_equal(result["sums"], labels @ dense)
    assert result["norm"] == np.abs(labels @ dense).sum()
    assert sum(result["rows"]) == ROWS
    assert len(result["rows"]) == sizes[2]
    assert max(result["rows"]) < 2 * ROWS / sizes[2]
    kept = read_result(folder.path)
    assert kept is not None
    assert (kept["status"], kept["exit_code"], kept["norm"]) == ("done", 0, result["norm"])
    assert kept["counters"]["server_pushes"] >= ROWS // 33
    (line,) = (folder.path / "metrics.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line)["rows"] == ROWS


def test_minibatches_hold_the_rows_in_order_with_columns_renumbered(
    data: Path, dense: np.ndarray, labels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mpips.files.csr import CsrFile
    from mpips.node import shard as module

    monkeypatch.setattr(module, "READ_ROWS", 64)
    shard = Shard(CsrFile(data), 100, 407)
    for rows in (1, 10, 64, 100, 1000):
        at = 100
        for batch in shard.minibatches(rows):
            count = len(batch.labels)
            assert count == min(rows, 407 - at)
            part = dense[at : at + count]
            assert np.array_equal(batch.keys, np.flatnonzero((part != 0).any(axis=0)))
            assert np.array_equal(batch.matrix.toarray(), part[:, batch.keys.astype(int)])
            assert np.array_equal(batch.labels, labels[at : at + count])
            at += count
        assert at == 407
    assert shard.n_rows == 307


def test_compression_changes_no_bit(data: Path) -> None:
    plain = run_local(ColumnSums, job(data))
    packed = run_local(ColumnSums, job(data, "filters.compress=lz4"))
    assert plain["sums"].tobytes() == packed["sums"].tobytes()


def test_missing_and_wrong_data_end_the_job_with_their_exit_codes(tmp_path: Path) -> None:
    with pytest.raises(MpipsError, match=r"none.h5 does not exist") as error:
        run_local(ColumnSums, job(tmp_path / "none.h5"))
    assert error.value.exit_code == MissingInputError.exit_code
    (tmp_path / "bad.h5").write_bytes(b"this is no HDF5")
    with pytest.raises(MpipsError) as error:
        run_local(ColumnSums, job(tmp_path / "bad.h5"))
    assert error.value.exit_code == DataError.exit_code


def test_wrong_setting_of_the_model_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key model.speed"):
        run_local(Flood, job(None, "model.speed=1"))


def test_failed_job_leaves_a_result_that_says_why(tmp_path: Path) -> None:
    config = job(None, "model.place=server data")
    folder = RunFolder(tmp_path / "run", config)
    with pytest.raises(MpipsError, match="bad data in server"):
        run_local(Wrong, config, folder)
    kept = read_result(folder.path)
    assert kept is not None
    assert (kept["status"], kept["exit_code"]) == ("failed", 65)
    assert kept["error"].startswith("bad data in server")


def test_result_that_cannot_be_written_ends_the_job_all_the_same(tmp_path: Path) -> None:
    config = job(None, "model.iterations=1")
    folder = RunFolder(tmp_path / "run", config)
    (folder.path / f".{RESULT}.part").mkdir()
    with pytest.raises(MpipsError, match=RESULT) as error:
        run_local(Flood, config, folder)
    assert error.value.exit_code == FileError.exit_code


def test_metrics_that_cannot_be_written_end_the_job(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = job(data)
    folder = RunFolder(tmp_path / "run", config)

    def full(*arguments: Any) -> None:
        raise FileError("metrics.jsonl: No space left on device")

    monkeypatch.setattr(folder, "note", full)
    with pytest.raises(MpipsError, match="No space left"):
        run_local(ColumnSums, config, folder)
    kept = read_result(folder.path)
    assert kept is not None
    assert kept["exit_code"] == 74


def test_summary_that_is_no_dictionary_ends_the_job() -> None:
    class Odd(Flood):
        def plan(self) -> Plan:
            yield Report("progress", {})
            return [1]  # type: ignore[return-value]

    with pytest.raises(MpipsError, match="TypeError"):
        run_local(Odd, job(None))


def test_console_shows_rows_and_the_end(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_local(ColumnSums, job(data), None, Console(0.0))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["time", "rows"]
    assert lines[1].split()[1] == str(ROWS)
    assert lines[-1].startswith("done in ")
    assert "norm" in lines[-1]
