"""Parts of checkpoints are written while the job works on, and are of the moment all the same."""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpips.core.server import ServerMachine
from mpips.errors import FileError, MpipsError, ProtocolError
from mpips.files import parts
from mpips.files.checkpoint import load_checkpoint
from mpips.node import loop, scheduler, surroundings, writing
from mpips.node.folder import read_result
from mpips.node.kv import Worker
from mpips.node.resume import keep_resume
from mpips.node.server import ServerNode
from mpips.node.worker import WorkerNode
from mpips.node.writing import Parts, Writer, Writing, may_go_on
from mpips.store.frozen import CalledOffError
from mpips.store.table import make_store
from mpips.transport.loop import LoopTransport
from mpips.wire.types import Table
from tests.node.test_resume import Walk, job, run, same, stop_after

ALWAYS = ("checkpoint.every_s=0.000001", "checkpoint.keep=100")
# How often a node looks until a late part is written: some tasks go by meanwhile.
LOOKS = 12


class LateWriter:
    """Stands in for a thread that is slow: it writes when the job has gone on for a while."""

    begun = 0

    def __init__(self, number: int, write: Callable[[], Parts]) -> None:
        LateWriter.begun += 1
        self.number, self._write, self._left = number, write, LOOKS

    @property
    def is_done(self) -> bool:
        """Return whether it is time to write."""
        self._left -= 1
        return self._left <= 0

    def result(self) -> Parts:
        """Write now."""
        return self._write()


class InPlace(Walk):
    """Changes the very array that it has kept."""

    async def step(self, worker: Worker, shift: float) -> float:
        """Walk on, in the same array."""
        array = getattr(self, "at", None)
        total = await super().step(worker, shift)
        if array is not None:
            array[:] = self.at
            self.at = array
        return total


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the run gives that keeps no checkpoints."""
    return run(Walk, tmp_path_factory.mktemp("whole") / "run", job())


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all parts written long after the job has gone on."""
    LateWriter.begun = 0
    monkeypatch.setattr(writing, "Writer", LateWriter)
    monkeypatch.setattr(writing, "may_go_on", lambda size: True)
    monkeypatch.setattr(writing, "LOOK_S", 0.0)
    monkeypatch.setattr(loop, "TICK_S", 0.0)


def resumed(folder: Path, checkpoint: Path) -> dict[str, Any]:
    """Return what a run gives that goes on from a checkpoint."""
    return run(Walk, folder, job(f"run.resume={checkpoint}", servers=3, workers=1))


def checkpoints(folder: Path) -> list[Path]:
    """Return the whole checkpoints of a run."""
    return sorted(path.parent for path in folder.glob("checkpoints/*/manifest.json"))


@pytest.mark.slow
@pytest.mark.usefixtures("late")
def test_what_is_written_later_is_of_the_moment_of_the_checkpoint(
    tmp_path: Path, whole: dict[str, Any]
) -> None:
    assert same(run(InPlace, tmp_path / "run", job(*ALWAYS)), whole)
    found = checkpoints(tmp_path / "run")
    assert found
    for number, path in enumerate(found):
        assert same(resumed(tmp_path / f"again-{number}", path), whole), path


@pytest.mark.slow
@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("kind", [ServerNode, WorkerNode])
def test_part_that_may_change_is_caught(
    kind: type[Any], tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    save = kind.save
    monkeypatch.setattr(kind, "save", lambda self, folder, later: save(self, folder, False))
    run(InPlace, tmp_path / "run", job(*ALWAYS))
    path = checkpoints(tmp_path / "run")[0]
    # Clocks that do not belong to the others' states may even leave the job waiting for ever.
    with contextlib.suppress(ProtocolError):
        assert not same(resumed(tmp_path / "again", path), whole)


@pytest.mark.usefixtures("late")
def test_manifest_is_written_when_all_parts_are_and_one_checkpoint_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def see(folder: Path, *rest: Any) -> None:
        keep_resume(folder, *rest)
        load_checkpoint(folder)
        seen.append(LateWriter.begun)

    monkeypatch.setattr(scheduler, "keep_resume", see)
    run(Walk, tmp_path / "run", job(*ALWAYS))
    # Each of four nodes writes once for each.
    assert seen == [4 * (number + 1) for number in range(len(seen))]
    assert seen


@pytest.mark.usefixtures("late")
def test_stop_waits_until_all_is_written(tmp_path: Path) -> None:
    stop_after(tmp_path / "run", 3)
    (path,) = checkpoints(tmp_path / "run")
    assert load_checkpoint(path).manifest.facts["logical_workers"] == 3


@pytest.mark.slow
def test_threads_write_what_is_right(
    tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "may_go_on", lambda size: True)
    stop_after(tmp_path / "run", 4, *ALWAYS)
    assert same(resumed(tmp_path / "again", checkpoints(tmp_path / "run")[-1]), whole)


def test_error_of_writing_ends_the_job_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise FileError("the disk is full")

    monkeypatch.setattr(writing, "may_go_on", lambda size: True)
    monkeypatch.setattr(parts, "write_segments", fail)
    with pytest.raises(MpipsError, match="disk is full"):
        stop_after(tmp_path / "run", 2)
    result = read_result(tmp_path / "run")
    assert result is not None
    assert result["exit_code"] == FileError.exit_code


def test_writer_works_beside_and_lets_its_copy_go() -> None:
    go_on, beside = threading.Event(), []

    def write() -> Parts:
        assert go_on.wait(10)
        beside.append(threading.current_thread())
        return [{"name": "a"}]

    writer = Writer(3, write)
    assert not beside
    go_on.set()
    assert writer.result() == [{"name": "a"}]
    assert beside != [threading.current_thread()]
    assert writer.is_done
    assert writer._write is None


class Keeper:
    """A node whose parts are written when the test says so."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.go_on = {name: threading.Event() for name in ("a", "b")}

    def weigh(self) -> int:
        """Return nothing."""
        return 0

    def save(self, folder: Path, later: bool) -> Callable[[], Parts]:
        """Return what waits for the test."""

        def write() -> Parts:
            assert self.go_on[folder.name].wait(10)
            return [{"name": folder.name}]

        return write

    def forget_part(self) -> None:
        """Note it."""
        self.events.append("forget")

    def tell(self, number: int, parts: Parts | None) -> None:
        """Note it."""
        self.events.append(f"{number} {'goes on' if parts is None else parts[0]['name']}")


def test_second_checkpoint_neither_waits_for_one_that_was_called_off_nor_hears_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writing, "may_go_on", lambda size: True)
    keeper = Keeper()
    parts = Writing(keeper, keeper.tell)
    parts.begin(1, Path("a"))
    first = parts._writer
    parts.begin(2, Path("b"))
    # What was frozen for the first is let go before the second freezes anything.
    assert keeper.events == ["forget", "1 goes on", "forget", "2 goes on"]
    keeper.go_on["a"].set()
    assert first is not None
    assert first.result() == [{"name": "a"}]
    assert not parts.look()
    keeper.go_on["b"].set()
    parts.finish()
    assert keeper.events[4:] == ["forget", "2 b"]


def test_frozen_part_that_is_called_off_leaves_no_file(tmp_path: Path) -> None:
    table = Table(name="w", size=100, segments=4)
    server = ServerNode(LoopTransport.world(2)[1], lambda: 0.0, Walk, job())
    server.machine = ServerMachine(1, [make_store(table)], 1)
    store = server.machine.stores[0]
    store.hold_many(range(4))
    store.owned = store.held
    write = server.save(tmp_path, later=True)
    server.forget_part()
    with pytest.raises(CalledOffError):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("is_mpi", "ranks", "size", "expected"), [
    (True, 1, 1000, True), (True, 1, 1001, False), (True, 4, 250, True), (True, 4, 251, False),
    (False, 1, 10, False), (True, None, 1000, True),
])  # fmt: skip
def test_jobs_go_on_where_ranks_have_the_memory(
    is_mpi: bool, ranks: int | None, size: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surroundings, "under_mpi", lambda: is_mpi)
    monkeypatch.setattr(surroundings, "local_size", lambda: ranks)
    monkeypatch.setattr(surroundings, "free_memory", lambda: 1000)
    assert may_go_on(size) is expected
