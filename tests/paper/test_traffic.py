"""What replication costs on the wire, measured, against OSDI 2014, section 4.4 and figure 8."""

from functools import partial
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest

from mpips.core import client, replication
from mpips.core.task import Plan, Task
from mpips.filters.caching import SentLists
from mpips.node.app import App
from mpips.node.kv import Worker
from mpips.node.local import run_local
from mpips.wire.types import KeyArray, Table
from tests.sim.jobs import job

KEYS, CLOCKS, SERVERS = 20_000, 2, 3
PUSHES = ("range", "equal", "half", "disjoint")


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What logical workers push: all the same range or keys, or half or none the same."""

    push: str
    aggregate: bool = True
    clocks: int = CLOCKS


def keys_of(push: str, worker: int) -> KeyArray:
    """Return a logical worker's keys, spread over the table."""
    keys = np.arange(KEYS, dtype=np.uint64) * np.uint64(16)
    if push == "half":
        # Every other key is the worker's own.
        keys[1::2] += np.uint64(worker + 1)
    elif push == "disjoint":
        keys += np.uint64(worker)
    return keys


class Traffic(App):
    """Pushes in a few clocks, and does nothing else."""

    Settings: ClassVar[type[msgspec.Struct]] = Shape

    def tables(self) -> list[Table]:
        """Return one table."""
        size = KEYS if self.settings.push == "range" else 16 * KEYS
        mode = "sequential" if self.settings.aggregate else "eventual"
        return [Table(name="w", size=size, aggregate=self.settings.aggregate, mode=mode)]

    def plan(self) -> Plan:
        """Let all push."""
        for _ in range(self.settings.clocks):
            yield Task(group="workers", function="push")
        return {}

    async def push(self, worker: Worker) -> None:
        """Push ones."""
        if self.settings.push == "range":
            await worker.push("w", None, np.ones(KEYS))
        else:
            await worker.push("w", keys_of(self.settings.push, worker.id), np.ones(KEYS))


def measure(push: str, workers: int, replicas: int, *more: str) -> dict[str, Any]:
    """Run a job of some logical workers, and return its counters."""
    settings = (f"model.push={push}", f"replicas={replicas}", *more)
    config = job(*settings, servers=SERVERS, workers=min(2, workers), logical=workers)
    counters: dict[str, Any] = run_local(Traffic, config)["counters"]
    return counters


@pytest.fixture
def _all_keys_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no list be long enough to be remembered."""
    for module in (client, replication):
        monkeypatch.setattr(module, "SentLists", partial(SentLists, 10**9))


def ratio(counters: dict[str, Any]) -> float:
    """Return the bytes that went to copies, in those that clients have pushed."""
    pushed = counters["bytes_push"] + counters["bytes_keys"]
    return float(counters["bytes_replication"] / pushed)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("workers", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("push", PUSHES)
@pytest.mark.usefixtures("_all_keys_travel")
def test_replication_after_aggregation_costs_the_union_over_the_sum_of_keys(
    push: str, workers: int, replicas: int
) -> None:
    """Section 4.4: k/n of the push traffic; if keys differ, k times the union over the sum."""
    union = KEYS
    if push in ("half", "disjoint"):
        union = len(set().union(*(keys_of(push, worker).tolist() for worker in range(workers))))
    expected = replicas * union / (workers * KEYS)
    assert push not in ("range", "equal") or expected == replicas / workers
    assert ratio(measure(push, workers, replicas)) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.usefixtures("_all_keys_travel")
def test_replication_of_each_push_costs_k_times_the_pushes(replicas: int) -> None:
    """Section 4.4, figure 8, left: without aggregation each push goes to all copies."""
    counters = measure("equal", 4, replicas, "model.aggregate=false")
    assert ratio(counters) == pytest.approx(replicas, rel=0.05)


@pytest.mark.usefixtures("_all_keys_travel")
def test_traffic_is_that_of_the_roofline() -> None:
    """Each key of 8 bytes and each value of 8 bytes travels once per push, and once per copy."""
    workers = 4
    counters = measure("equal", workers, 1)
    once = 8 * KEYS * CLOCKS
    assert counters["bytes_push"] == pytest.approx(workers * once, rel=0.05)
    assert counters["bytes_keys"] == workers * once
    assert counters["bytes_replication"] == pytest.approx(2 * once, rel=0.05)
    assert counters["bytes_pull"] == 0
    # Views say of each segment who has it; their size does not depend on the keys.
    assert 0 < counters["bytes_control"] < 0.3 * once
    without = measure("equal", workers, 0)
    assert without["bytes_replication"] == 0


@pytest.mark.parametrize("replicas", [0, 1])
def test_keys_of_repeated_lists_travel_twice(replicas: int) -> None:
    """Section 5.1, key caching: the second time a list is remembered, then its signature goes."""
    workers, clocks = 2, 6
    counters = measure("equal", workers, replicas, f"model.clocks={clocks}")
    once = 8 * KEYS
    assert counters["bytes_push"] == pytest.approx(workers * clocks * once, rel=0.05)
    # Nobody forgets a list, so that nobody says so: of keys there are the lists, and no more.
    assert counters["bytes_keys"] == 2 * workers * once
    # To copies the values go each time, and the keys twice.
    assert counters["bytes_replication"] == pytest.approx(
        replicas * (clocks + 2) * once, rel=0.05
    )
