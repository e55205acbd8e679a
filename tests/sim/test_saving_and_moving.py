"""Checkpoints are of one moment while segments move, nodes come and go by order, and some die."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from mpips.errors import MpipsError
from mpips.files.checkpoint import load_checkpoint
from mpips.node import writing
from mpips.node.folder import RunFolder
from mpips.node.kv import Worker
from mpips.node.local import run_local
from mpips.store.frozen import FrozenRows
from mpips.testing.cluster import Simulation
from mpips.testing.faults import CALM, Faults
from mpips.testing.orders import draw_transfers
from mpips.wire.types import Table
from tests.node.test_resume import SIZE, Walk, job, same

SIZES = {"servers": 3, "workers": 2}
NODES, SEGMENTS = 7, (5, 16, 1)
SPAN = (0.002, 2.0)
SEEDS = (0, 4)
WRITE_S = 0.1
"""How long a part is being written: much longer than a segment moves."""


class Steps(Walk):
    """Walks in whole steps, so that the order in which pushes of an eventual table come is one."""

    def tables(self) -> list[Table]:
        """Return the tables of a walk, with sums in the sparse one."""
        w, z, b = super().tables()
        return [w, Table(name=z.name, kind="sparse", segments=16, width=2), b]

    async def step(self, worker: Worker, shift: float) -> float:
        """Walk on, pushing whole numbers to the sparse table, and sleep for a while."""
        self.at = getattr(self, "at", np.zeros(SIZE)) + worker.random.normal(size=SIZE)
        w = await worker.pull("w")
        for _ in range(4):
            keys = np.sort(worker.random.choice(200, 20, replace=False)).astype(np.uint64)
            values = worker.random.integers(0, 9, (20, 2)).astype(np.float64)
            await worker.push("z", keys * np.uint64(2**56), values)
            await worker.sleep(0.05)
        worker.push("b", None, self.at)
        await worker.push("w", None, self.at - w / 3 + shift / 100)
        return float(self.at.sum() + w.sum())


class LateWriter:
    """Stands in for a thread that writes while the job goes on for `WRITE_S`."""

    simulation: ClassVar[Simulation]
    overlaps: ClassVar[int] = 0

    def __init__(self, number: int, write: Any) -> None:
        self.number, self._write = number, write
        self._until = LateWriter.simulation.network.now + WRITE_S
        self._owners = self._map()

    def _map(self) -> list[list[int]]:
        view = LateWriter.simulation.scheduler.machine.view
        assert view is not None
        return [owners.tolist() for owners in view.owners]

    @property
    def is_done(self) -> bool:
        """Return whether it is time to write."""
        return LateWriter.simulation.network.now >= self._until

    def result(self) -> Any:
        """Write, and note whether segments have moved since it was asked for."""
        LateWriter.overlaps += self._owners != self._map()
        return self._write()


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have parts written while the job goes on."""
    LateWriter.overlaps = 0
    monkeypatch.setattr(writing, "Writer", LateWriter)
    monkeypatch.setattr(writing, "may_go_on", lambda size: True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the run gives in which nothing happens."""
    return run_local(Steps, job(**SIZES), RunFolder(tmp_path_factory.mktemp("w") / "run", job()))


def faults_of(seed: int, kills: int = 0) -> Faults:
    """Return a run in which many segments move all the time, and a server comes or goes."""
    random = np.random.default_rng(seed)
    transfers = [t for _ in range(4) for t in draw_transfers(random, NODES, SEGMENTS, SPAN)]
    # Workers stay: a walk has no way to be done again.
    orders = ((0.2, "add-server", -1), (0.6, "remove-server", -1))
    deaths = tuple((float(random.uniform(0.1, 1.5)), 1 + at) for at in range(kills))
    return replace(CALM, transfers=tuple(sorted(transfers)), orders=orders, kills=deaths,
                   after_begin=True, heal_s=3.0, kill_works=1.0)  # fmt: skip


def simulate(folder: Path, seed: int, faults: Faults) -> dict[str, Any]:
    """Run a simulated job that keeps all checkpoints."""
    config = job("checkpoint.every_s=0.05", "checkpoint.keep=100", "run.spares=1", "replicas=1",
                 **SIZES)  # fmt: skip
    LateWriter.simulation = Simulation(Steps, config, seed, faults, RunFolder(folder, config))
    return LateWriter.simulation.run()


def check(folder: Path, whole: dict[str, Any]) -> int:
    """Return how many checkpoints a run has left, each of which goes on to the same end."""
    found = sorted(path.parent for path in folder.glob("checkpoints/*/manifest.json"))
    for number, path in enumerate(found):
        load_checkpoint(path)
        again = folder.parent / f"again-{number}"
        config = job(f"run.resume={path}", servers=1 + number % 3, workers=1)
        assert same(run_local(Steps, config, RunFolder(again, config)), whole), path
    return len(found)


@pytest.mark.slow
@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("kills", [pytest.param(0, marks=pytest.mark.soak), 1])
def test_checkpoint_is_of_its_moment_while_segments_move(
    kills: int, tmp_path: Path, whole: dict[str, Any]
) -> None:
    saved = moved = 0
    for seed in SEEDS:
        folder = tmp_path / str(seed) / "run"
        folder.parent.mkdir()
        assert same(simulate(folder, seed, faults_of(seed, kills)), whole)
        saved += check(folder, whole)
        moved += LateWriter.simulation.scheduler.result["counters"]["moved_segments"]
    # Checkpoints were asked for while segments moved, and these moved while one was written.
    assert saved >= 6
    assert moved >= 30
    assert LateWriter.overlaps >= 3


@pytest.mark.slow
@pytest.mark.usefixtures("late")
def test_segments_that_move_before_they_are_kept_are_caught(
    tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FrozenRows, "keep", lambda *_: None)
    assert same(simulate(tmp_path / "run", 0, faults_of(0)), whole)
    with pytest.raises((AssertionError, MpipsError)):
        check(tmp_path / "run", whole)
