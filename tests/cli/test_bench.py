"""Two runs of the benchmark are compared row by row, each against raw MPI of its own run."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from mpips.cli import main
from mpips.cli.bench import Row, plot


def row(op: str, seconds: float, mpi_seconds: float, replicas: int = 0) -> Row:
    """Return a row of one server and one worker."""
    ratio = mpi_seconds / seconds
    return Row(op, 4096, 1024, "range", 1, 1, seconds, mpi_seconds, ratio, 4196.0, replicas)


def save(path: Path, *rows: Row) -> str:
    """Write rows as a run does."""
    path.write_text(json.dumps({"rows": [asdict(one) for one in rows]}))
    return str(path)


def test_runs_are_compared_by_their_ratios(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The machine was twice as slow in the second run.
    old = save(tmp_path / "a.json", row("push", 2e-4, 2e-5), row("pull", 1e-4, 1e-5))
    new = save(tmp_path / "b.json", row("push", 2e-4, 4e-5), row("push", 9e-4, 4e-5, 1))
    assert main.main(["bench", "--compare", old, new]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if line[0].startswith("1x1")] == [
        ["1x1", "push", "1,024", "range", "200.0", "us", "200.0", "us", "0.10", "0.20", "2.00"]
    ]


def test_growth_is_drawn_against_the_largest_of_its_case(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [
        Row("push", 12, 1, "fresh", servers, 1, 1e-4, 1e-5, 0.1, 24.0, cpu_seconds=servers * 1e-6)
        for servers in (1, 2, 4)
    ]
    plot(rows)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    bars = [(line[3], line[4], len(line[5])) for line in lines if line[0] == "push"]
    assert bars == [
        ("1", "1000", 8), ("2", "2000", 15), ("4", "4000", 30),
        ("1", "24", 30), ("2", "24", 30), ("4", "24", 30),
    ]  # fmt: skip


def test_run_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = save(tmp_path / "a.json", row("push", 1e-3, 1e-3))
    assert main.main(["bench", "--compare", good, str(tmp_path / "none.json")]) == 66
    broken = tmp_path / "b.json"
    for text in ("no JSON", "{}", '{"rows": [{"op": "push"}]}'):
        broken.write_text(text)
        assert main.main(["bench", "--compare", good, str(broken)]) == 65
    assert "has no rows of mpips bench" in capsys.readouterr().err
