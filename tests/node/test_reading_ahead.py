"""A thread reads rows ahead of the minibatches: its errors come through, and it ends with them."""

import threading
from pathlib import Path

import numpy as np
import pytest

from mpips.errors import DataError
from mpips.files.csr import CsrFile, CsrWriter
from mpips.node.shard import Shard


def readers() -> int:
    """Return the number of reading threads."""
    return sum(thread.name.startswith("reader") for thread in threading.enumerate())


@pytest.fixture
def shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shard:
    """Return 100 rows that are read ten at a time; row 35 has no number in it."""
    monkeypatch.setattr("mpips.node.shard.READ_ROWS", 10)
    values = np.arange(100.0)
    values[35] = np.nan
    with CsrWriter(tmp_path / "a.h5", 3) as writer:
        writer.append(np.ones(100, int), np.arange(100) % 3, values, np.arange(100) % 2)
    data = CsrFile(tmp_path / "a.h5")
    return Shard(data, 0, 100)


def test_an_error_comes_when_its_rows_would(shard: Shard) -> None:
    found: list[list[float]] = []
    with pytest.raises(DataError, match="nan") as caught:
        found.extend(batch.values.tolist() for batch in shard.minibatches(5))
    assert found == [[float(row + i) for i in range(5)] for row in range(0, 30, 5)]
    assert "row 35" in str(caught.value)
    assert readers() == 0


def test_rows_are_read_while_others_are_worked_on(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, second = [], threading.Event()
    plain = CsrFile.read

    def note(data: CsrFile, begin: int, *rest: object) -> object:
        read.append(begin)
        if begin == 10:
            second.set()
        return plain(data, begin, *rest)

    monkeypatch.setattr(CsrFile, "read", note)
    batches = shard.minibatches(10, 0, 3)
    next(batches)
    # Nobody has asked for it yet.
    assert second.wait(20)
    assert [len(batch.labels) for batch in batches] == [10, 10]
    assert read == [0, 10, 20]


def test_reading_ends_with_whoever_reads(shard: Shard) -> None:
    batches = shard.minibatches(5)
    next(batches)
    assert readers() == 1
    batches.close()
    assert readers() == 0


def test_a_single_piece_takes_no_thread(shard: Shard) -> None:
    batches = shard.minibatches(10, 0, 1)
    next(batches)
    assert readers() == 0


@pytest.mark.parametrize("rows", [3, 10, 25])
def test_float32_is_what_was_asked_for(rows: int, shard: Shard) -> None:
    for kind in (np.float32, np.float64):
        [batch] = shard.minibatches(rows, 0, 1, kind)
        assert batch.values.dtype == kind
        assert batch.values.tolist() == list(range(rows))
