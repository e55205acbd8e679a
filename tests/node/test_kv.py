"""The verbs that apps use: wrong arguments are told at once, and right ones reach the servers."""

import re
from typing import Any

import numpy as np
import pytest

from mpips.config import parse
from mpips.core.task import Plan, Task
from mpips.errors import MpipsError
from mpips.node.app import App
from mpips.node.kv import Worker
from mpips.node.local import run_local
from mpips.wire.types import Table


class Verbs(App):
    """Runs a function of the test on logical worker 0, with all kinds of tables."""

    script: Any = None

    def tables(self) -> list[Table]:
        """Return a table of each kind."""
        return [
            Table(name="d", size=1000, segments=7),
            Table(name="wide", size=100, segments=3, width=3, dtype="f4"),
            Table(name="s", kind="sparse"),
            Table(name="sum", size=1000, segments=7, aggregate=True, mode="sequential"),
        ]

    def plan(self) -> Plan:
        """Run the function."""
        results = yield Task(group="workers", function="work")
        return {"result": results[0]}

    async def work(self, worker: Worker) -> Any:
        """Run the function."""
        return await type(self).script(worker)


def run(script: Any) -> Any:
    """Return what an async function of a worker gives."""
    kind = type("Verbs", (Verbs,), {"script": staticmethod(script)})
    return run_local(kind, parse("", "", ["run.servers=2"]))["result"]


def refused(table: str, keys: Any, values: Any = None, **more: Any) -> str:
    """Return what a push, or a pull without values, is refused for."""

    async def script(worker: Worker) -> str:
        arguments = (table, keys) if values is None else (table, keys, values)
        verb = worker.pull if values is None else worker.push
        with pytest.raises(ValueError) as error:
            verb(*arguments, **more)
        return str(error.value)

    return str(run(script))


ONES = np.ones(2)


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ([2, 1], "not sorted and unique"),
        ([1, 1], "not sorted and unique"),
        ([1, 1000], "there is no key 1000"),
        ([-2, 1], "are negative"),
        (np.array([-1]), "are negative"),
        ([1.5, 2.0], "no list of integers"),
        (np.array([[1, 2]]), "no list of integers"),
        (["a"], "no list of integers"),
        ([True], "no list of integers"),
        ((5, 3), r"\[5, 3\) is no range of table d"),
        ((-1, 3), r"is no range"),
        ((0, 1001), r"is no range"),
    ],
    ids=str,
)
def test_wrong_keys_are_refused(keys: Any, what: str) -> None:
    for values in (None, ONES):
        assert re.search(what, refused("d", keys, values))


@pytest.mark.parametrize(
    ("table", "keys", "values", "what"),
    [
        ("d", [1, 2], np.ones(3), "takes 1 values a key"),
        ("d", [1, 2], np.ones((1, 2)), "takes 1 values a key"),
        ("d", None, np.ones(999), "1000 x 1 for 1000 keys"),
        ("wide", [1, 2], np.ones(6), "takes 3 values a key"),
        ("wide", [1, 2], np.ones((3, 2)), "an array of 2 x 3 for 2 keys, not of 3 x 2"),
        ("wide", [1, 2], ONES, "takes 3 values a key"),
        ("s", None, ONES, "sparse: a push needs its keys"),
        ("s", (0, 2), ONES, "sparse: a push needs its keys"),
        ("v", [1], ONES, "there is no table v; there are d, wide, s, sum"),
    ],
)
def test_wrong_values_are_refused(table: str, keys: Any, values: Any, what: str) -> None:
    assert what in refused(table, keys, values)


@pytest.mark.parametrize("within", [(2, 5), (0, 1001), (-1, 5), (9, 3), (4, 10)])
def test_declared_range_must_hold_all_keys(within: tuple[int, int]) -> None:
    assert "that holds all keys" in refused("sum", [1, 3, 9], np.ones(3), within=within)


@pytest.mark.parametrize(
    "out",
    [np.ones(3), np.ones(2, np.float32), np.ones(4)[::2], np.ones((1, 2))],
    ids=["length", "dtype", "stride", "axes"],
)
def test_array_that_cannot_take_the_values_is_refused(out: np.ndarray) -> None:
    assert "fills a contiguous array" in refused("d", [1, 2], out=out)


def test_clock_that_goes_back_is_refused() -> None:
    async def script(worker: Worker) -> str:
        worker.push("sum", None, np.ones(1000), clock=5)
        with pytest.raises(ValueError, match="pushes clock 4 to table sum after clock 5") as error:
            worker.push("sum", (0, 10), np.ones(10), clock=4)
        return str(error.value)

    assert run(script)


def test_values_come_back_in_their_shape_and_dtype() -> None:
    async def script(worker: Worker) -> dict[str, Any]:
        await worker.push("wide", None, np.arange(300).reshape(100, 3))
        await worker.push("d", [1, 999], np.array([[5], [7]]))
        keys = np.array([3, 2**64 - 1], np.uint64)
        await worker.push("s", keys, [1.0, 2.0])
        out = np.zeros(3)
        result = await worker.wait(
            worker.pull("wide", (10, 12)), worker.pull("d", [0, 1, 999], out=out),
            worker.pull("s"), worker.pull("s", (4, 2**64)), worker.pull("d", []),
            worker.push_pull("d", np.array([1], np.int32), [1.0]),
        )  # fmt: skip
        assert out.tolist() == [0, 5, 7]
        assert np.shares_memory(result[1], out)
        return {"parts": result}

    wide, d, (keys, values), (late, _), nothing, after = run(script)["parts"]
    assert wide.tolist() == [[30, 31, 32], [33, 34, 35]]
    assert wide.dtype == np.float32
    assert d.tolist() == [0, 5, 7]
    assert (keys.tolist(), values.tolist()) == ([3, 2**64 - 1], [1.0, 2.0])
    assert late.tolist() == [2**64 - 1]
    assert nothing.shape == (0,)
    assert after.tolist() == [6]


def test_pull_after_a_push_sees_it_without_waiting() -> None:
    async def script(worker: Worker) -> list[float]:
        pushes = [worker.push("d", [n], [1.0 + n]) for n in range(5)]
        pull = worker.pull("d", (0, 5), after=pushes)
        assert not pull.is_done
        result: list[float] = (await pull).tolist()
        assert all(push.is_done for push in pushes)
        # What is finished can be awaited again.
        assert await pull is pull.result
        return result

    assert run(script) == [1, 2, 3, 4, 5]


def test_what_is_awaited_but_is_no_push_or_pull_ends_the_job() -> None:
    import asyncio

    async def script(worker: Worker) -> None:
        await asyncio.sleep(0)

    with pytest.raises(MpipsError, match="AttributeError"):
        run(script)


def test_random_streams_belong_to_logical_workers_and_the_seed() -> None:
    class Draws(Verbs):
        def plan(self) -> Plan:
            draws = yield Task(group="workers", function="work")
            return {"draws": draws}

        async def work(self, worker: Worker) -> float:
            return float(worker.random.random())

    def draw(*settings: str) -> list[float]:
        config = parse("", "", ["run.logical_workers=4", *settings])
        return list(run_local(Draws, config)["draws"])

    assert len(set(draw())) == 4
    assert draw("run.workers=1") == draw("run.workers=3")
    assert set(draw()).isdisjoint(draw("run.seed=2"))
