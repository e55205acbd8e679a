"""One straggler at a time: the larger tau, the less workers wait, and the more steps they need."""

import pytest

from tests.sim import stragglers
from tests.sim.stragglers import EVENTUAL, Problem, Straggling, measure

WORKERS, STEPS = 12, 250


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    """Return the problem."""
    return stragglers.make_problem(tmp_path_factory.mktemp("stragglers"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_time_is_least_between_no_delay_and_a_large_one(problem: Problem, seed: int) -> None:
    rows = [measure(problem, tau, WORKERS, seed, STEPS) for tau in (0, 4, 32)]
    assert [row.violations for row in rows] == [[], [], []]
    assert rows[0].idle > rows[1].idle + 0.1 > rows[2].idle + 0.2, rows
    assert rows[0].steps < rows[1].steps < rows[2].steps < STEPS, rows
    assert rows[1].seconds < 0.9 * min(rows[0].seconds, rows[2].seconds), rows
    # The bound is kept, and tight.
    assert [row.staleness for row in rows] == [0, 4, 32]


@pytest.mark.slow
def test_nobody_waits_in_eventual_mode_and_nothing_bounds_the_staleness(problem: Problem) -> None:
    row = measure(problem, EVENTUAL, WORKERS, 1, STEPS)
    assert row.idle == pytest.approx(0, abs=1e-9)
    assert row.staleness > 16


def test_worker_that_waits_for_one_answer_too_few_is_caught(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Straggling, "takes_next", lambda self: len(self._late) > 3)
    row = measure(problem, 2, 4, 1, 12)
    assert row.staleness == 3
    assert row.violations[0].endswith("with 3 of the tasks before it unfinished")


def test_same_seed_gives_the_same_figures(problem: Problem) -> None:
    assert measure(problem, 1, 3, 5, 4) == measure(problem, 1, 3, 5, 4)
