"""Ranks die while they write checkpoints: the job goes on, or is started again, and ends right."""

from pathlib import Path

import numpy as np
import pytest

from mpips.node.folder import read_result
from mpips.node.points import VARIABLE
from tests.kill.harness import run_plan
from tests.kill.plans import RIGHT, Plan
from tests.kill.test_points import SIZES
from tests.run.jobs import mpips, train_here, weights_of, write_rows

# Steps of those who write a part; one file each.
STEPS = ("opened", "filled", "flushed", "renamed", "settled")
LOST = 76


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_job_goes_on_when_a_server_dies_in_a_checkpoint(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    seed = request.config.getoption("--seed")
    random = np.random.default_rng([seed, 13])
    node, step, count = random.choice([4, 5]), random.choice(STEPS), random.integers(0, 4)
    plan = Plan("save", seed, **SIZES, expected=RIGHT, strikes=(), every_s=0.2)
    report = run_plan(plan, tmp_path / "job", die_at=f"{node} at {step} {count}")
    assert report.is_as_expected, f"node {node} at {step} {count}\n{report}"
    result = read_result(tmp_path / "job" / "out")
    assert result is not None
    assert result["counters"]["checkpoints"] > count
    assert result["failures"] == 1


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_job_whose_scheduler_dies_in_a_checkpoint_is_started_again_to_the_same_bits(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    random = np.random.default_rng([request.config.getoption("--seed"), 17])
    write_rows(tmp_path / "rows.h5", rows=300)
    train = ["train", "rows.h5", "--servers", "2", "--workers", "2", "--resume", "auto"]
    train += ["--set", "run.logical_workers=2", "--set", "model.block=4"]
    train += ["--set", "checkpoint.every_iterations=1", "--set", "recovery.restarts=0"]
    train += ["--set", "recovery.mode=restart"]
    # On any number of ranks the bits are the same, and so they are in one process.
    whole = train_here(tmp_path / "rows.h5", tmp_path / "whole", "run.logical_workers=2",
                       "model.block=4")  # fmt: skip
    # Results, view and manifest of each checkpoint, so that the third one is not whole yet.
    point = f"0 at {random.choice(STEPS)} {random.integers(6, 9)}"
    died = mpips(tmp_path, *train, "--out", "run", **{VARIABLE: point})
    assert died.code == LOST, (point, died.err)
    assert list((tmp_path / "run").glob("checkpoints/*/manifest.json"))
    again = mpips(tmp_path, *train, "--out", "run")
    assert again.code == 0, (point, again.err)
    assert "resume" in (tmp_path / "run" / "metrics.jsonl").read_text("utf-8")
    assert weights_of(tmp_path / "run").tobytes() == weights_of(whole).tobytes()
