"""A long pass of a stream is several tasks, with checkpoints between them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpips.apps.find import find_app
from mpips.apps.linear import stream as module
from mpips.config import parse
from mpips.files.csr import CsrFile
from mpips.files.model import read_model
from mpips.node.folder import RunFolder
from mpips.node.local import run_local
from mpips.node.shard import Shard
from tests.apps.test_ftrl import stream, write


@pytest.fixture
def data(rng: np.random.Generator, tmp_path: Path) -> Path:
    """Write rows that are no multiple of anything."""
    return write(tmp_path / "a.h5", rng, 997)


def train(data: Path, folder: Path, *settings: str) -> tuple[dict[str, Any], np.ndarray]:
    """Return result and weights of a run."""
    config = parse("", "", [f"data.train={data}", "model.kind=linear", *settings])
    made = RunFolder(folder, config)
    try:
        result = run_local(find_app(config), config, made)
    finally:
        made._metrics.close()
    return result, np.asarray(read_model(folder / "model.h5").weights)


@pytest.mark.parametrize("rows", [1, 7, 100, 2000])
@pytest.mark.parametrize("size", [1, 3, 10, 1000])
def test_pieces_have_the_minibatches_of_the_whole(
    rows: int, size: int, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpips.node.shard.READ_ROWS", 64)
    with CsrFile(data) as file:
        shard = Shard(file, 900, 997)
        whole = list(shard.minibatches(rows))
        begins = range(0, len(whole) + size, size)
        parts = [list(shard.minibatches(rows, begin, begin + size)) for begin in begins]
    assert max(map(len, parts)) <= size
    found = [batch for part in parts for batch in part]
    assert len(found) == len(whole)
    for one, other in zip(found, whole, strict=True):
        assert one.keys.tobytes() == other.keys.tobytes()
        assert one.labels.tobytes() == other.labels.tobytes()
        assert one.values.tobytes() == other.values.tobytes()


@pytest.mark.parametrize("mode", ["eventual", "bounded"])
@pytest.mark.parametrize(("piece_rows", "pieces"), [(10**6, 1), (500, 2), (110, 10), (5, 100)])
def test_pass_in_pieces_is_what_a_serial_program_gives(
    piece_rows: int,
    pieces: int,
    mode: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PIECE_ROWS", piece_rows)
    settings = ["model.solver=ftrl", "model.minibatch=10", "model.alpha=0.2", "model.l1=2.0"]
    settings += [f"sync.mode={mode}", f"sync.max_delay={int(mode == 'bounded')}"]
    result, weights = train(data, tmp_path / "run", *settings, "model.l2=0.25")
    # Counting comes before, and saving after it.
    assert result["counters"]["calls"] == pieces + 2
    expected, loss = stream(data, 10, 0.2, 2.0, piece=max(1, piece_rows // 10))
    np.testing.assert_allclose(weights, expected, rtol=1e-4, atol=1e-6)
    assert result["progressive_logloss"] == pytest.approx(loss, rel=1e-6)
    assert (result["iterations"], result["passes"]) == (100, 1)


@pytest.mark.parametrize("max_delay", [0, 1, 4])
def test_uneven_workers_stream_all_rows_in_pieces_of_bounded_tasks(
    max_delay: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE_ROWS", 110)
    result, _ = train(data, tmp_path / "run", "model.solver=ftrl", "model.minibatch=7",
                      "run.logical_workers=3", "run.workers=2", "sync.mode=bounded",
                      f"sync.max_delay={max_delay}", "model.passes=2")  # fmt: skip
    with CsrFile(data) as file:
        minibatches = sum(-(-(end - begin) // 7) for begin, end in file.row_ranges(3))
    assert result["iterations"] == 2 * minibatches
    assert 0.0 < result["progressive_logloss"] < np.log(2)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["ftrl", "adagrad", "adarevision"])
def test_run_goes_on_inside_a_pass_to_the_same_bits(
    solver: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE_ROWS", 250)
    settings = [f"model.solver={solver}", "model.passes=2", "model.minibatch=10"]
    always = ["checkpoint.every_s=0.000001", "checkpoint.keep=100"]
    result, weights = train(data, tmp_path / "whole", *settings, *always)
    kept = sorted((tmp_path / "whole" / "checkpoints").iterdir())
    # Four pieces a pass.
    assert len(kept) >= 7
    for path in (kept[0], kept[2], kept[5]):
        again, same = train(data, tmp_path / path.name, *settings, f"run.resume={path}")
        assert same.tobytes() == weights.tobytes()
        assert again["progressive_logloss"] == result["progressive_logloss"]
