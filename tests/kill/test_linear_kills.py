"""Real jobs of the exact solver: a server and then a worker are killed on the way, or all ranks."""

import contextlib
import os
import time
from pathlib import Path

import numpy as np
import pytest

from mpips.node.folder import METRICS
from tests.kill import harness
from tests.kill.harness import KILL, Job
from tests.kill.plans import RIGHT, Plan, Strike
from tests.run.jobs import mpips, processes_of, result_of, weights_of, write_rows

# One process has the calm job to compare with.
pytestmark = pytest.mark.xdist_group("linear")

CLOSE, LOGICAL = 1e-4, 3
PATIENCE_S = 60.0
SETTINGS = ["data.train=many.h5", "data.test=many.h5", "model.block=6", "model.l1=1"]
APP = '''
"""The exact solver whose block steps take long enough to be hit."""

import time

from mpips.apps.linear.exact import ExactLinear

PAUSE_S = 0.01


class Slow(ExactLinear):
    """Computes for a while before each block step."""

    async def sweep(self, worker, order):
        """Sweep with a worker that takes its time."""
        return await super().sweep(Unhurried(worker), order)


class Unhurried:
    """A logical worker that pauses before each push."""

    def __init__(self, worker):
        self.worker = worker

    def __getattr__(self, name):
        return getattr(self.worker, name)

    def push_pull(self, *values, **options):
        """Pause, then push."""
        time.sleep(PAUSE_S)
        return self.worker.push_pull(*values, **options)
'''


class LinearJob(Job):
    """A job that is under way once it has made some passes."""

    def share(self) -> float:
        """Return how many reports of progress there are: one for each check."""
        path = self.folder / METRICS
        return path.read_text("utf-8").count('"kind": "progress"') if path.exists() else 0.0

    def has_said(self, kind: str, times: int) -> bool:
        """Return whether the scheduler has noted something so often."""
        return (self.folder / METRICS).read_text("utf-8").count(f'"kind": "{kind}"') >= times


def prepare(folder: Path) -> None:
    """Write rows and the app."""
    folder.mkdir(parents=True)
    write_rows(folder / "many.h5", rows=400)
    (folder / "slow_linear.py").write_text(APP, "utf-8")


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of the job in which nobody dies."""
    home = tmp_path_factory.mktemp("calm") / "job"
    prepare(home)
    words = [word for one in [*SETTINGS, f"run.logical_workers={LOGICAL}"]
             for word in ("--set", one)]  # fmt: skip
    done = mpips(home, "train", "many.h5", "--model", "slow_linear:Slow", "--out", "calm",
                 "--servers", "2", "--workers", "2", *words)  # fmt: skip
    assert done.code == 0, done.err
    return home / "calm"


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("policy", "spares"), [
    pytest.param("replace", 1, marks=pytest.mark.soak), ("spread", 0),
])  # fmt: skip
def test_job_ends_like_the_one_without_when_a_server_and_a_worker_are_killed(
    policy: str, spares: int, calm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "MODEL", "slow_linear:Slow")
    home = tmp_path / "job"
    prepare(home)
    plan = Plan("linear", seed=1, servers=2, workers=2, spares=spares, logical_workers=LOGICAL,
                replicas=1, expected=RIGHT, strikes=())  # fmt: skip
    expected = result_of(calm)
    settings = [*SETTINGS, f"recovery.worker={policy}"]
    job = LinearJob(plan, home, *settings)
    with job:
        assert job.await_work(), (home / "output").read_text()
        # The server of the weights, which are one segment, is one of the two: kill either.
        struck = [job.strike(Strike(KILL, (("server", 0),)))]
        assert job.until(lambda: job.has_said("lost", 1), PATIENCE_S), struck
        time.sleep(0.1)
        struck.append(job.strike(Strike(KILL, (("worker", 0),))))
        assert job.until(lambda: job.has_said("lost", 2), PATIENCE_S), struck
        job.lasts(PATIENCE_S)
        said = "\n".join([*struck, *job.fates(), (home / "output").read_text("utf-8", "replace")])
        assert job.launcher.poll() == 0, said
    result = result_of(job.folder)
    assert result["converged"], said
    assert abs(result["objective"] / expected["objective"] - 1) <= CLOSE, said
    assert abs(result["logloss"] / expected["logloss"] - 1) <= CLOSE, said
    np.testing.assert_allclose(weights_of(job.folder), weights_of(calm), atol=1e-4)
    assert result["counters"]["deaths"] == 2
    assert processes_of(str(tmp_path)) == []


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("setting", "said", "checkpoints"), [
    ("checkpoint.every_iterations=4", "starts again from its last checkpoint", 1),
    pytest.param("checkpoint.every_s=600", "starts again from its beginning", 0,
                 marks=pytest.mark.soak),
])  # fmt: skip
def test_job_all_ranks_of_which_are_killed_at_once_is_started_again_and_ends_right(
    setting: str, said: str, checkpoints: int, calm: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(harness, "MODEL", "slow_linear:Slow")
    home = tmp_path / "job"
    prepare(home)
    plan = Plan("linear", seed=1, servers=2, workers=2, spares=0, logical_workers=LOGICAL,
                replicas=1, expected=RIGHT, strikes=())  # fmt: skip
    expected = result_of(calm)
    with LinearJob(plan, home, *SETTINGS, setting) as job:
        assert job.await_work(), (home / "output").read_text()
        kept = job.folder / "checkpoints"
        assert job.until(lambda: len([*kept.glob("*/manifest.json")]) >= checkpoints, PATIENCE_S)
        for rank in job.ranks.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(rank.process, KILL)
        job.lasts(PATIENCE_S)
        output = (home / "output").read_text("utf-8", "replace")
        assert job.launcher.poll() == 0, output
    assert said in output
    assert job.has_said("resume", 1) == bool(checkpoints)
    result = result_of(job.folder)
    assert result["attempt"] == "2"
    assert result["converged"], output
    assert abs(result["objective"] / expected["objective"] - 1) <= CLOSE, output
    assert weights_of(job.folder).tobytes() == weights_of(calm).tobytes()
    assert processes_of(str(tmp_path)) == []
