"""Work of stragglers is given to others on demand, and the first to finish counts."""

from typing import Any

import numpy as np

from mpips.config import parse
from mpips.core.task import Plan, Task
from mpips.node.app import App
from mpips.node.kv import Worker
from mpips.testing.cluster import Simulation
from mpips.wire.types import Table

SLOW_S, FAST_S = 100.0, 1.0


class Uneven(App):
    """Counts in a table, one key for each logical worker; node 2 is slow from task 1 on."""

    def tables(self) -> list[Table]:
        """Return a key for each logical worker."""
        return [Table(name="w", size=self.job.logical_workers, segments=3)]

    def plan(self) -> Plan:
        """Run three tasks, and return all counts."""
        for step in range(3):
            nodes = yield Task(group="workers", function="work", arguments={"step": step},
                               reissue_s=5.0 if self.job.config.run.seed == 1 else None)
        (counts,) = yield Task(group="workers", function="look", only=0)
        return {"counts": counts, "nodes": nodes}

    async def work(self, worker: Worker, step: int) -> int:
        """Push twice, with a pause that depends on the node."""
        node = worker._node.client.node  # type: ignore[attr-defined]
        for _ in range(2):
            worker.push("w", np.array([worker.id], np.uint64), np.array([1.0]))
            await worker.sleep(SLOW_S if node == 2 and step else FAST_S)
        return int(node)

    async def look(self, worker: Worker) -> Any:
        """Return all counts."""
        return await worker.pull("w")


def run(seed: int) -> tuple[Simulation, dict[str, Any]]:
    simulation = Simulation(Uneven, parse("", "", [f"run.seed={seed}", "run.workers=4"]), seed)
    return simulation, simulation.run()


def test_straggler_is_not_waited_for_and_no_push_counts_twice() -> None:
    patient, waited = run(2)
    hasty, reissued = run(1)
    for result in (waited, reissued):
        assert result["counts"].tolist() == [6.0] * 4
    assert patient.network.now > 4 * SLOW_S
    assert hasty.network.now < SLOW_S
    # Whoever was faster goes on in its place, so that it is reissued once.
    assert reissued["counters"]["reissued_calls"] == 1
    assert waited["nodes"][0] == 2
    assert 2 not in reissued["nodes"]
