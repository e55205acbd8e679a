"""The share of communication hidden, by clocks that the tests turn."""

from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpips.apps.linear.ftrl import FtrlLinear
from mpips.apps.linear.kernels import stream as kernels
from mpips.apps.linear.overlap import Overlap, share_hidden
from mpips.config import parse
from mpips.files.csr import CsrFile
from mpips.node.app import Job
from mpips.node.kv import Pending
from mpips.node.shard import Shard
from tests.apps.test_ftrl import train, write

ROWS, MINIBATCH = 60, 10
PULLS = ROWS // MINIBATCH


class Net:
    """A worker's verbs, each answered a fixed time later, on a clock that is turned by hand."""

    def __init__(self, shard: Shard, latency: float) -> None:
        self.shard, self.latency, self.seconds = shard, latency, 0.0
        self.due: dict[Pending, tuple[float, Any]] = {}

    def now(self) -> float:
        """Return what the clock shows."""
        return self.seconds

    def pull(self, table: str, keys: np.ndarray[Any, Any], clocks: bool = False) -> Pending:
        """Start something that will be answered by zeros."""
        pending = Pending(len(self.due), 0)
        self.due[pending] = self.seconds + self.latency, np.zeros(len(keys), np.float32)
        return pending

    def push_pull(
        self,
        table: str,
        keys: np.ndarray[Any, Any],
        values: Any,
        clock: int = 0,
        clocks: bool = False,
    ) -> Pending:
        """Start a pull; the values go nowhere."""
        return self.pull(table, keys)

    push = push_pull

    async def wait(self, *pending: Pending) -> None:
        """Wait for all."""
        for one in pending:
            await one

    def run(self, coroutine: Coroutine[Pending, None, dict[str, float]]) -> dict[str, float]:
        """Run the worker, the clock standing still but where it waits or computes."""
        while True:
            try:
                awaited = coroutine.send(None)
            except StopIteration as stop:
                result: dict[str, float] = stop.value
                return result
            self.seconds = max(self.seconds, self.due[awaited][0])
            for one, (when, answer) in self.due.items():
                if when <= self.seconds:
                    one.is_done, one.result = True, answer


@pytest.mark.parametrize(
    ("latency", "computing", "hidden", "whole"),
    [
        # The first two answers come before there is anything to compute.
        (1.0, 4.0, (PULLS - 2) * 4.0, 2 * 1.0 + (PULLS - 2) * 4.0),
        # Of each later one, a minibatch's computing is hidden.
        (10.0, 4.0, (PULLS - 2) * 4.0, PULLS * 10.0),
        (3.0, 0.0, 0.0, PULLS * 3.0),
        (0.0, 0.0, 0.0, 0.0),
    ],
)
def test_what_is_hidden_is_the_computing_while_a_pull_is_on_its_way(
    latency: float, computing: float, hidden: float, whole: float,
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    config = parse("", "", [f"model.minibatch={MINIBATCH}", "model.solver=ftrl"])
    app = FtrlLinear(Job(config, {"features": 40, "rows": ROWS}))
    with CsrFile(write(tmp_path / "a.h5", rng, ROWS)) as data:
        net = Net(Shard(data, 0, ROWS), latency)

        def compute(*arrays: Any) -> float:
            net.seconds += computing
            return 0.0

        monkeypatch.setattr(kernels, "add_gradient", compute)
        done = net.run(app.stream(net))  # type: ignore[arg-type]
    assert (done["hidden_s"], done["pull_s"]) == pytest.approx((hidden, whole))
    assert done["minibatches"] == PULLS
    assert share_hidden([done]) == pytest.approx(hidden / whole if whole else 0.0)


def test_waiting_for_one_pull_does_not_hide_another() -> None:
    now = 0.0
    first, second = Pending(1, 0), Pending(2, 0)
    overlap = Overlap(lambda: now)
    overlap.start(first)
    now = 2.0
    overlap.start(second)
    now = 3.0

    # Both answers come while the first is awaited, from 3 to 8.
    waits = overlap.wait(first)
    waits.send(None)
    now = 8.0
    first.is_done = second.is_done = True
    with pytest.raises(StopIteration):
        waits.send(None)
    assert (overlap.hidden_s, overlap.pull_s) == (3.0 + 1.0, 8.0 + 6.0)

    # The second pull is over; working on before looking at it hides nothing more.
    now = 20.0
    with pytest.raises(StopIteration):
        overlap.wait(second).send(None)
    assert (overlap.hidden_s, overlap.pull_s) == (4.0, 14.0)


def test_long_pulls_count_for_more_than_short_ones() -> None:
    parts = [{"hidden_s": 9.0, "pull_s": 90.0}, {"hidden_s": 10.0, "pull_s": 10.0}]
    assert share_hidden(parts) == 0.19
    assert share_hidden([{"hidden_s": -1e-18, "pull_s": 1.0}]) == 0.0
    assert share_hidden([]) == 0.0


def test_the_summary_has_the_share_of_all_workers_and_passes(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([(1.0, 2.0), (0.0, 4.0), (2.0, 2.0), (0.0, 0.0)])
    whole_stream = FtrlLinear.stream

    async def timed(self: FtrlLinear, worker: Any, **piece: int) -> dict[str, float]:
        done = await whole_stream(self, worker, **piece)
        hidden, whole = next(times)
        return {**done, "hidden_s": hidden, "pull_s": whole}

    monkeypatch.setattr(FtrlLinear, "stream", timed)
    settings = ["model.passes=2", "run.logical_workers=2"]
    assert train(write(tmp_path / "a.h5", rng, 100), *settings)["overlap"] == 3.0 / 8.0
