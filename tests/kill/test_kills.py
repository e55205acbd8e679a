"""Ranks of real jobs are killed at drawn moments: each ends as it must, and nothing is left."""

from pathlib import Path

import numpy as np
import pytest

from mpips.config import parse
from mpips.testing.checkers import Expected
from mpips.testing.ledger import BASE
from tests.kill.app import Settings
from tests.kill.harness import run_plan
from tests.kill.judge import check_acknowledged, check_names
from tests.kill.plans import HANGS, KINDS, STOP, Plan, Strike, draw_plan
from tests.run.jobs import processes_of

SHRINKS = {"server": 1, "worker": 1, "spare": 1, "scheduler": 1, "shrunk": 2}
"""How often jobs of the first seed go on on a smaller communicator; others may end before."""

# Parts of longer stories: `pause` without a mistake is calm, `shrunk` kills a server and then a
# worker, `two` and `during` kill two at once and two servers.
FOR_SOAKS = ("calm", "server", "worker", "servers")
EACH = [pytest.param(kind, marks=[pytest.mark.soak] * (kind in FOR_SOAKS)) for kind in KINDS]


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", EACH)
def test_job_ends_as_it_must(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    seed = request.config.getoption("--seed")
    report = run_plan(draw_plan(kind, seed), tmp_path / "job")
    print(report.plan)
    assert report.is_as_expected, str(report)
    assert seed > 1 or report.shrinks == SHRINKS.get(kind, report.shrinks), str(report)
    assert report.struck or kind == "calm"
    assert processes_of(str(tmp_path)) == []


@pytest.mark.slow
def test_job_that_hangs_says_where_and_leaves_no_process(tmp_path: Path) -> None:
    # A server is stopped, for longer than the harness waits.
    strikes = (Strike(STOP, (("server", 0),), share=0.1),)
    plan = Plan("stop", seed=1, servers=1, workers=1, spares=0, logical_workers=1, replicas=0,
                expected=HANGS, strikes=strikes)
    report = run_plan(plan, tmp_path / "job", patience_s=1.0)
    assert report.is_as_expected, str(report)
    assert {name.partition(" ")[0]: ": stopped" in name for name in report.ranks} == {
        "scheduler": False, "worker": False, "server": True}
    assert sorted(report.stacks) == [0, 1]
    assert all("run_loop" in stack for stack in report.stacks.values()), report.stacks
    assert processes_of(str(tmp_path)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_seed_draws_the_same_plan_with_ranks_that_are_there(kind: str) -> None:
    for seed in range(200):
        plan = draw_plan(kind, seed)
        assert plan == draw_plan(kind, seed)
        sizes = {"server": plan.servers, "worker": plan.workers, "spare": plan.spares,
                 "scheduler": 1}
        assert all(0 <= place < sizes[role]
                   for strike in plan.strikes for role, place in strike.targets)
    assert len({str(draw_plan(kind, seed)) for seed in range(200)}) > 190


def test_push_counts_once_if_acknowledged_and_else_at_most_once() -> None:
    settings = Settings(steps=2, pushes=2)
    expected = Expected(settings, parse("", "", ["run.workers=1", "run.logical_workers=1"]))
    counts = expected.counts(settings.keys)[:, 0]
    powers = BASE ** np.arange(4)
    marks = (counts @ powers)[:, None]
    key = int(np.flatnonzero(counts[:, 2])[0])
    without, twice = marks.copy(), marks.copy()
    without[key] -= powers[2]
    twice[key] += powers[2]
    acknowledged = {0, 1}
    assert check_acknowledged(expected, {"marks": marks}, 0, acknowledged) == []
    assert check_acknowledged(expected, {"marks": without}, 0, acknowledged) == []
    (line,) = check_acknowledged(expected, {"marks": without}, 0, {2})
    assert line == "push 2 of logical worker 0, acknowledged, is in [0] times"
    (line,) = check_acknowledged(expected, {"marks": twice}, 0, acknowledged)
    assert line == "push 2 of logical worker 0, not acknowledged, is in [2] times"


@pytest.mark.parametrize(("error", "wrong"), [
    ("a rank was lost\nserver, rank 4, on vm", 0),
    ("a rank was lost\nserver, rank 4, on vm\nserver, rank 2, on vm", 1),
    ("a rank was lost", 1),
    ("a rank was lost\nserver, rank 3, on vm", 1),
])  # fmt: skip
def test_error_has_to_name_the_dead_and_nobody_else(error: str, wrong: int) -> None:
    assert len(check_names(error, {4, 5})) == wrong
