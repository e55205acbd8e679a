"""Bounded delay over MPI: workers that wait for stragglers wait less with a larger tau."""

import json
from pathlib import Path
from typing import Any

import pytest

from mpips.testing.delays import check_delay
from tests.run.jobs import mpips, result_of, write_rows

APP = '''
"""Delayed block proximal gradient whose workers sleep: a little always, now and then five times."""

import json

from mpips.apps.linear.delayed import DelayedLinear
from mpips.core.task import Task

REST_S = 0.002


class Straggling(DelayedLinear):
    """Each worker's own turn to be slow comes from its shard's size, so that they differ."""

    def __init__(self, job):
        super().__init__(job)
        self.log = []

    async def gradient_of(self, worker, b):
        """Sleep before the work, and note when; the ranks of a host have one clock."""
        number, start = len(self.log) + 1, worker.now()
        slow = (number * 7 + len(self.shard.margins)) % 11 == 0
        await worker.sleep(5 * REST_S if slow else REST_S)
        pushed = await super().gradient_of(worker, b)
        self.log.append((worker.id, number, start, worker.now()))
        return pushed

    async def tell(self, worker):
        """Return the log."""
        return self.log

    def solve(self):
        """Add the logs to the summary."""
        summary = yield from super().solve()
        logs = yield Task(group="workers", function="tell")
        # As text, since a result has no lists.
        return {**summary, "log": json.dumps([one for log in logs for one in log])}


class Hasty(Straggling):
    """Waits for one answer too few."""

    def takes_next(self):
        """Return whether it has to wait."""
        return len(self._late) > self.max_delay + 1
'''


def run_app(folder: Path, kind: str, delay: int) -> dict[str, Any]:
    """Return the result of a job with four worker ranks."""
    write_rows(folder / "rows.h5", rows=403)
    (folder / "straggling.py").write_text(APP)
    out = f"run-{kind}-{delay}"
    settings = [f"sync.max_delay={delay}", "model.blocks=8", "model.passes=15"]
    words = [word for setting in settings for word in ("--set", setting)]
    done = mpips(
        folder, "train", "rows.h5", "--model", f"straggling:{kind}", "--servers", "1",
        "--workers", "4", "--out", out, *words,
    )  # fmt: skip
    assert done.code == 0, done.err
    result = result_of(folder / out)
    return {**result, "log": json.loads(result["log"])}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_idle_share_falls_with_the_delay_which_is_kept_and_attained(tmp_path: Path) -> None:
    idle = {}
    for delay in (0, 3):
        result = run_app(tmp_path, "Straggling", delay)
        idle[delay] = result["idle"]
        assert len(result["log"]) == 4 * result["iterations"] > 200
        assert check_delay(result["log"], delay) == ([], delay)
    assert idle[3] < idle[0], idle


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_worker_over_mpi_that_waits_for_one_answer_too_few_is_caught(tmp_path: Path) -> None:
    wrong, staleness = check_delay(run_app(tmp_path, "Hasty", 1)["log"], 1)
    assert staleness == 2
    assert wrong
