"""A run whose dead workers' part of the data was left out goes on without it."""

import time
from pathlib import Path
from typing import Any

import pytest

from mpips.config import Config
from mpips.core.views import Views
from mpips.node.app import check_model
from mpips.node.folder import RunFolder
from mpips.node.local import make_nodes
from mpips.node.resume import find_resume
from mpips.node.scheduler import SchedulerNode
from mpips.transport.loop import LoopTransport
from tests.node.test_resume import Walk, job, run, same

SETTINGS = ("recovery.worker=drop", "checkpoint.every_iterations=1", "checkpoint.keep=100")
VICTIM, AFTER = 5, 3


def lose_a_worker(folder: Path, config: Config) -> dict[str, Any]:
    """Run a job in which the last worker's node dies after some tasks, and return its result."""
    config = check_model(Walk, config)
    transports = LoopTransport.world(1 + config.run.servers + config.run.workers)
    made = RunFolder(folder, config)
    nodes = make_nodes(list(transports), time.monotonic, Walk, config, made)
    scheduler = nodes[0]
    assert isinstance(scheduler, SchedulerNode)
    while scheduler.exit_code is None:
        for node in nodes:
            if node.exit_code is None:
                node.turn()
        plan = scheduler.machine._plan
        if len(nodes) > VICTIM and plan is not None and len(plan.results) == AFTER:
            transports[VICTIM].die()
            del nodes[VICTIM]
    return scheduler.result


@pytest.fixture
def left(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a run with a worker that was dropped, and its result."""
    folder = tmp_path / "first"
    result = lose_a_worker(folder, job(*SETTINGS, workers=3))
    assert (result["status"], result["failures"]) == ("done", 1)
    return folder, result


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_who_was_dropped_stays_dropped(
    left: tuple[Path, dict[str, Any]], tmp_path: Path, workers: int
) -> None:
    folder, result = left
    seen = []
    for path in sorted((folder / "checkpoints").iterdir()):
        # Whatever the policy is now.
        again = job(f"run.resume={path}", workers=workers)
        resume = find_resume(again, tmp_path)
        assert resume is not None
        seen.append(resume.dropped)
        same_end = same(run(Walk, tmp_path / path.name, again), result)
        assert same_end == bool(resume.dropped), path
        told = (tmp_path / path.name / "metrics.jsonl").read_text("utf-8")
        assert ('"left out": "2"' in told) == bool(resume.dropped)
    # Those from before the death have all.
    assert [] in seen
    assert seen[-1] == [2]


@pytest.mark.slow
def test_dropped_worker_that_comes_back_is_noticed(
    left: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # After the last one comes no task for all.
    path = sorted((left[0] / "checkpoints").iterdir())[-2]
    begin = Views.begin
    monkeypatch.setattr(Views, "begin", lambda views, *args: begin(views, *args[:3]))
    with pytest.raises(Exception, match="state of logical worker 2"):
        run(Walk, tmp_path / "second", job(f"run.resume={path}", workers=3))
