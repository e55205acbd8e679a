"""With sync.max_delay = "auto", tau ends near the best fixed one, and steps follow it."""

from typing import Any, ClassVar

import pytest

from mpips.apps.linear.delayed import EPSILON
from mpips.apps.linear.types import Floats
from mpips.config import parse
from mpips.node.kv import Worker
from mpips.testing.cluster import Simulation
from tests.sim import stragglers
from tests.sim.stragglers import BLOCKS, L1, InPasses, Problem, measure

WORKERS, STEPS = 12, 600


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    """Return the problem."""
    return stragglers.make_problem(tmp_path_factory.mktemp("stragglers"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_auto_is_near_the_best_fixed_delay_and_idles_less_than_none(
    problem: Problem, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    # Long enough that the first passes, with tau = 0, count for little.
    monkeypatch.setattr(stragglers, "CLOSE", 1e-8)
    auto = measure(problem, "auto", WORKERS, seed, STEPS, InPasses)
    fixed = {
        tau: measure(problem, tau, WORKERS, seed, STEPS, InPasses)
        for tau in sorted({0, 2, 4, 8, auto.staleness})
    }
    best = min(row.seconds for row in fixed.values())
    assert auto.seconds < 1.2 * best < 0.95 * fixed[0].seconds, (auto, fixed)
    assert auto.idle < fixed[0].idle - 0.1, (auto, fixed)
    # It has been at a tau that is as good as the best, and at none that is much worse.
    assert fixed[auto.staleness].seconds < 1.1 * best, (auto, fixed)


class Noting(InPasses):
    """Notes the inverse of the step's length that each task pushes, by tau."""

    notes: ClassVar[list[tuple[int, float]]]

    async def gradient_of(self, worker: Worker, b: int) -> Floats:
        """Note tau, and what is pushed."""
        pushed = await super().gradient_of(worker, b)
        self.notes.append((worker.max_delay("w"), float(pushed[0, 1])))
        return pushed


def test_steps_follow_the_delay_on_all_workers(problem: Problem) -> None:
    notes: list[tuple[int, float]] = []
    more: dict[str, Any] = {"problem": problem, "steps": 6 * BLOCKS, "log": [], "notes": notes}
    settings = [f"data.train={problem.path}", f"model.l1={L1}", f"model.blocks={BLOCKS}"]
    settings += ["run.workers=4", "sync.max_delay=auto"]
    simulation = Simulation(type("Noting", (Noting,), more), parse("", "", settings), 1)
    simulation.run()
    taus = {tau for tau, _ in notes}
    assert len(taus) > 1
    assert min(taus) == 0
    for tau, pushed in notes:
        assert pushed == pytest.approx((problem.within + tau * problem.between) / 4 + EPSILON)
    # All are told the same, and the story tells from when on.
    lines = simulation.scheduler.machine.story("delay")
    assert lines[0].split()[3] == "1"
    assert all(" from task " in line for line in lines)
