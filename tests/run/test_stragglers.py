"""Bounded delay over MPI: workers that wait for stragglers wait less with a larger tau."""

from pathlib import Path

import pytest

from tests.run.jobs import mpips, result_of, write_rows

APP = '''
"""Delayed block proximal gradient whose workers sleep: a little always, now and then five times."""

from mpips.apps.linear.delayed import DelayedLinear

REST_S = 0.002


class Straggling(DelayedLinear):
    """Each worker's own turn to be slow comes from its shard's size, so that they differ."""

    steps = 0

    async def gradient_of(self, worker, b):
        """Sleep before the work."""
        self.steps += 1
        slow = (self.steps * 7 + len(self.shard.margins)) % 11 == 0
        await worker.sleep(5 * REST_S if slow else REST_S)
        return await super().gradient_of(worker, b)
'''


@pytest.mark.slow
def test_idle_share_falls_with_the_delay(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.h5", rows=403)
    (tmp_path / "straggling.py").write_text(APP)
    idle = {}
    for delay in (0, 4):
        out = f"run-{delay}"
        settings = [f"sync.max_delay={delay}", "model.blocks=8", "model.passes=25"]
        words = [word for setting in settings for word in ("--set", setting)]
        done = mpips(
            tmp_path, "train", "rows.h5", "--model", "straggling:Straggling", "--servers", "1",
            "--workers", "4", "--out", out, *words,
        )  # fmt: skip
        assert done.code == 0, done.err
        idle[delay] = result_of(tmp_path / out)["idle"]
    assert idle[4] < idle[0], idle
