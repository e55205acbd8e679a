"""A run that stops at a checkpoint and goes on is the run that never stopped, to the last bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpips.config import Config, parse
from mpips.core.calling import Calling
from mpips.core.machine import Report
from mpips.core.task import Plan, SetDelay, Task
from mpips.errors import ConfigError, DataError, MissingInputError
from mpips.files.checkpoint import load_checkpoint
from mpips.node.app import App
from mpips.node.folder import RunFolder, read_result
from mpips.node.kv import Worker
from mpips.node.local import run_local
from mpips.wire.types import Table

TASKS, SIZE = 6, 50


class Walk(App):
    """Random walks: everything that a run has, tables, workers' objects and the plan, goes on."""

    mode = "sequential"

    def tables(self) -> list[Table]:
        """Return dense and sparse tables with states, one of them sequential."""
        return [
            Table(name="w", size=SIZE, segments=5, update="adagrad", aggregate=True,
                  mode="sequential", settings={"lr": 0.3}),
            Table(name="z", kind="sparse", segments=16, width=2, update="ftrl", dtype="f4"),
            Table(name="b", size=SIZE, aggregate=True, mode="bounded", max_delay=1),
        ]

    def plan(self) -> Plan:
        """Run tasks whose arguments depend on all results so far."""
        total = 0.0
        for number in range(TASKS):
            if number == 2:
                yield SetDelay("b", 3)
            sums = yield Task(group="workers", function="step", arguments={"shift": total})
            total += sum(sums)
            yield Report("progress", {"total": total})
        (found,) = yield Task(group="workers", function="collect", only=0)
        return {"total": total, **found}

    async def step(self, worker: Worker, shift: float) -> float:
        """Walk on from where the last call of this object was."""
        self.at = getattr(self, "at", np.zeros(SIZE)) + worker.random.normal(size=SIZE)
        w = await worker.pull("w")
        keys = np.sort(worker.random.choice(10**6, 20, replace=False)).astype(np.uint64)
        worker.push("z", keys, worker.random.normal(size=(20, 2)).astype(np.float32))
        worker.push("b", None, self.at)
        await worker.push("w", None, self.at - w / 3 + shift / 100)
        return float(self.at.sum() + w.sum())

    async def collect(self, worker: Worker) -> dict[str, Any]:
        """Return all tables."""
        w, (keys, z), b = await worker.wait(*(worker.pull(name) for name in "wzb"))
        return {"w": w, "keys": keys, "z": z, "b": b}

    def keep(self) -> dict[str, Any]:
        """Return where this one is."""
        return {"at": self.at}

    async def restore(
        self, worker: Worker, calls: dict[str, dict[str, Any]], state: dict[str, Any]
    ) -> None:
        """Go on there."""
        self.at = state["at"]


class Forgetful(Walk):
    """Restores nothing."""

    async def restore(
        self, worker: Worker, calls: dict[str, dict[str, Any]], state: dict[str, Any]
    ) -> None:
        """Leave the object as it was made."""


class Uneven(Walk):
    """Has tasks for one logical worker between those for all."""

    def plan(self) -> Plan:
        """Let all walk, then one alone, and so on."""
        total = 0.0
        for number in range(TASKS):
            for only in (None, number % 3):
                sums = yield Task(
                    group="workers", function="stroll", arguments={"shift": total}, only=only)
                total += sum(sums)
        (found,) = yield Task(group="workers", function="collect", only=0)
        return {"total": total, **found}

    async def stroll(self, worker: Worker, shift: float) -> float:
        """Walk on without the others."""
        self.at = getattr(self, "at", np.zeros(SIZE)) + worker.random.normal(size=SIZE)
        keys = np.arange(worker.id, SIZE, 3, dtype=np.uint64)
        values = np.stack([self.at, self.at + shift / 100], axis=1).astype(np.float32)
        await worker.push("z", keys, values[worker.id :: 3])
        return float(self.at.sum())

    def keep(self) -> dict[str, Any]:
        """Return where this one is, be it at the beginning."""
        return {"at": getattr(self, "at", np.zeros(SIZE))}


def job(*settings: str, servers: int = 2, workers: int = 2) -> Config:
    return parse("", "", [f"run.servers={servers}", f"run.workers={workers}",
                          "run.logical_workers=3", *settings])


def run(kind: type[App], folder: Path, config: Config) -> dict[str, Any]:
    made = RunFolder(folder, config)
    try:
        return run_local(kind, config, made)
    finally:
        made._metrics.close()


def stop_after(folder: Path, clock: int, *settings: str, kind: type[App] = Walk) -> None:
    """Run until a clock, and see that the run says so."""
    result = run(kind, folder, job(f"run.stop_after_iterations={clock}", *settings))
    assert (result["status"], result["exit_code"]) == ("stopped", 75)
    assert read_result(folder) is not None


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    names = ("w", "keys", "z", "b")
    return one["total"] == other["total"] and all(
        np.asarray(one[name]).tobytes() == np.asarray(other[name]).tobytes() for name in names)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the run gives that never stops."""
    return run(Walk, tmp_path_factory.mktemp("whole") / "run", job())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clock", "servers", "workers"),
    [(1, 2, 2), (2, 1, 1), (3, 5, 3), (5, 2, 6), (TASKS, 2, 2), (4, 1, 6)],
)
def test_resumed_run_is_the_one_that_never_stopped(
    tmp_path: Path, whole: dict[str, Any], clock: int, servers: int, workers: int
) -> None:
    stop_after(tmp_path / "first", clock)
    again = job(f"run.resume={tmp_path / 'first'}", servers=servers, workers=workers)
    assert same(run(Walk, tmp_path / "second", again), whole)


@pytest.mark.slow
def test_run_may_stop_and_go_on_many_times_in_its_own_folder(
    tmp_path: Path, whole: dict[str, Any]
) -> None:
    for clock in range(1, TASKS):
        stop_after(tmp_path / "run", clock, "run.resume=auto")
    assert same(run(Walk, tmp_path / "run", job("run.resume=auto")), whole)
    # Old checkpoints are gone, old results are kept under other names.
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 2
    assert len(list((tmp_path / "run").glob("result-*.json"))) == TASKS - 1


@pytest.mark.slow
@pytest.mark.parametrize("waits", [True, False], ids=["as built", "broken"])
def test_checkpoint_waits_until_all_have_what_the_last_one_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    always = ("checkpoint.every_s=0.000001", "checkpoint.keep=100")
    whole = run(Uneven, tmp_path / "first", job(*always))
    # Next comes a task of one logical worker: the objects of the others are as they were made.
    if not waits:
        monkeypatch.setattr(Calling, "is_settled", lambda calling, view: True)
    first = tmp_path / "first" / "checkpoints" / "000001"
    run(Uneven, tmp_path / "second", job(f"run.resume={first}", *always))
    kept = sorted((tmp_path / "second" / "checkpoints").iterdir())[:3]
    again = [run(Uneven, tmp_path / path.name, job(f"run.resume={path}")) for path in kept]
    assert all(same(one, whole) for one in again) == waits


@pytest.mark.slow
def test_object_that_is_not_restored_is_noticed(tmp_path: Path, whole: dict[str, Any]) -> None:
    stop_after(tmp_path / "first", 3, kind=Forgetful)
    result = run(Forgetful, tmp_path / "second", job(f"run.resume={tmp_path / 'first'}"))
    assert not same(result, whole)


@pytest.mark.slow
def test_checkpoints_on_the_way_change_nothing(tmp_path: Path, whole: dict[str, Any]) -> None:
    result = run(Walk, tmp_path / "run", job("checkpoint.every_s=0.000001", "checkpoint.keep=3"))
    assert same(result, whole)
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 3
    assert result["counters"]["checkpoints"] >= TASKS


@pytest.mark.slow
def test_broken_checkpoint_is_passed_over_for_the_one_before(
    tmp_path: Path, whole: dict[str, Any]
) -> None:
    for clock in (2, 4):
        stop_after(tmp_path / "run", clock, "run.resume=auto")
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    part = next(newest.glob("server-*.h5"))
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    assert same(run(Walk, tmp_path / "run", job("run.resume=auto")), whole)
    # It is named, so that nobody wonders why work was done twice.
    told = (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").split('"resume"')[-1]
    assert newest.name in told


@pytest.mark.slow
def test_run_whose_checkpoints_are_all_broken_does_not_begin_anew_by_itself(
    tmp_path: Path,
) -> None:
    stop_after(tmp_path / "run", 2)
    (newest,) = (tmp_path / "run" / "checkpoints").iterdir()
    (newest / "results.h5").unlink()
    with pytest.raises(MissingInputError, match="no checkpoint that is whole"):
        run(Walk, tmp_path / "run", job("run.resume=auto"))


def test_resume_of_nothing_says_so_and_auto_begins_anew(
    tmp_path: Path, whole: dict[str, Any]
) -> None:
    with pytest.raises(MissingInputError):
        run(Walk, tmp_path / "second", job(f"run.resume={tmp_path / 'nothing'}"))
    assert same(run(Walk, tmp_path / "run", job("run.resume=auto")), whole)


@pytest.mark.slow
def test_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    stop_after(tmp_path / "first", 2)
    others = parse("", "", ["run.workers=2", "run.logical_workers=4",
                            f"run.resume={tmp_path / 'first'}"])
    with pytest.raises(ConfigError, match="logical_workers"):
        run(Walk, tmp_path / "second", others)

    class Wider(Walk):
        def tables(self) -> list[Table]:
            """Return a table that is larger than it was."""
            return [Table(name="w", size=SIZE + 1), *super().tables()[1:]]

    with pytest.raises(DataError, match="size"):
        run(Wider, tmp_path / "third", job(f"run.resume={tmp_path / 'first'}"))


class Stream(App):
    """Pushes twice a task to a table without clocks."""

    def tables(self) -> list[Table]:
        """Return an eventual table."""
        return [Table(name="w", size=SIZE)]

    def plan(self) -> Plan:
        """Run the same task again and again."""
        for _ in range(TASKS):
            yield Task(group="workers", function="step")

    async def step(self, worker: Worker) -> None:
        """Push two minibatches."""
        for _ in range(2):
            await worker.push("w", None, np.ones(SIZE))


@pytest.mark.parametrize(("iterations", "tasks"), [(1, 1), (4, 2), (5, 3)])
def test_iterations_of_tables_without_clocks_are_pushes(
    iterations: int, tasks: int, tmp_path: Path
) -> None:
    stop_after(tmp_path / "run", iterations, kind=Stream)
    (path,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert load_checkpoint(path).manifest.tasks == tasks
    # They go on to be counted where they were.
    again = job("run.resume=auto", f"run.stop_after_iterations={iterations + 2}")
    assert run(Stream, tmp_path / "run", again)["exit_code"] == 75
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    assert load_checkpoint(newest).manifest.tasks == tasks + 1


def test_checkpoints_of_tables_without_clocks_are_so_many_pushes_apart(tmp_path: Path) -> None:
    run(Stream, tmp_path / "run", job("checkpoint.every_iterations=4", "checkpoint.keep=9"))
    found = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert [load_checkpoint(path).manifest.tasks for path in found] == [2, 4]
