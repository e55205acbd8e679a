"""In a real job, the hot segments of a server move by themselves, and each push counts once."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from mpips.errors import MpipsError
from mpips.node.control import ask
from mpips.node.folder import read_result
from tests.kill.hot import SEGMENTS, Settings, hot_segments
from tests.run.jobs import environment, processes_of, write_rows

WORKERS, SERVERS = 2, (3, 4)
CONFIG = """replicas = 1
[run]
servers = 2
workers = 2
relief_s = 2.0
[data]
train = "rows.h5"
[model]
until = "enough"
"""


def loads(status: str) -> dict[int, int]:
    """Return the share of the load of each server, in percent, of the answer to `status`."""
    lines = [line.split() for line in status.splitlines()]
    head = next(line for line in lines if "load" in line)
    rows = [line for line in lines if line[0].isdigit()]
    cells = {int(row[0]): row[head.index("load")] for row in rows}
    return {node: int(cell[:-1]) for node, cell in cells.items() if cell != "-"}


def is_relieved(seen: Sequence[Mapping[int, int]]) -> bool:
    """Return whether one server had much more than its half of the load, and has not now."""
    most = [max(shares.values()) for shares in seen]
    return any(share > 65 for share in most) and 40 < most[-1] < 60


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_hot_segments_move_and_each_push_counts_once(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.h5", rows=20)
    (tmp_path / "job.toml").write_text(CONFIG, "utf-8")
    command = [sys.executable, "-m", "mpips", "train", "job.toml", "--model", "tests.kill.hot:Hot"]
    seen: list[dict[int, int]] = []
    with open(tmp_path / "output", "wb") as output, subprocess.Popen(
        [*command, "--out", "out"], cwd=tmp_path, env=environment(), stdout=output, stderr=output
    ) as job:
        try:
            deadline = time.monotonic() + 200
            while job.poll() is None and time.monotonic() < deadline:
                # A job that is not there yet gives no answer.
                with contextlib.suppress(MpipsError):
                    found = loads(ask(tmp_path / "out", "status", None))
                    seen += [found] if found and found not in seen[-1:] else []
                # A slow machine takes longer until its loads are told and evened out.
                if is_relieved(seen):
                    (tmp_path / "enough").touch()
                time.sleep(0.2)
        finally:
            job.kill()
    said = (tmp_path / "output").read_text("utf-8")
    assert is_relieved(seen), (seen, said)
    result = read_result(tmp_path / "out")
    assert result is not None, said
    assert result["exit_code"] == 0, said
    # Each key of a hot segment was pushed so often, and each other one so often.
    hot, cold = hot_segments(SERVERS), WORKERS * result["steps"]
    assert 0 < len(hot) < SEGMENTS
    pushes = Settings(until="enough").pushes
    wanted = {str(s): cold * (1 + pushes * (s in hot)) for s in range(SEGMENTS)}
    assert result["least"] == wanted
    assert result["most"] == wanted
    assert result["counters"]["moved_segments"] >= 2, (result["counters"], seen, said)
    # Users see the load of each server, which is nothing if a machine stands still for long.
    assert all(sum(shares.values()) in (0, 99, 100, 101) for shares in seen), seen
    assert processes_of(str(tmp_path)) == []
