"""Whole simulated jobs whose hot segments move by themselves: no update is lost or doubled."""

from collections.abc import Iterable
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from mpips.core import load, relief, views
from mpips.core.moving import Levels, hand_over
from mpips.core.relief import Relief
from mpips.testing.faults import CALM
from mpips.testing.trial import Shape, Trial, draw_setup, play_trial
from mpips.wire.types import View

SHAPE = Shape(servers=3, workers=3, spares=0, replicas=1)
SEEDS, MANY = 6, 12


@pytest.fixture(autouse=True)
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let servers tell of each message, and segments move for little, and soon."""
    begin = Relief.__init__
    monkeypatch.setattr(load, "SAMPLE", 1)
    monkeypatch.setattr(relief, "KEYS_A_SECOND", 1)
    monkeypatch.setattr(relief, "HOT_RATIO", 1.02)
    monkeypatch.setattr(Relief, "__init__", lambda self, window_s: begin(self, 0.2))


def play(seed: int, kills: int = 0) -> Trial:
    """Run a job, in which some die if that is wanted, and nothing is ordered."""
    setup = draw_setup(seed, SHAPE, has_kills=kills > 0, has_orders=False)
    random = np.random.default_rng([seed, 31])
    victims = random.choice(np.arange(1, SHAPE.nodes), kills, replace=False).tolist()
    at = random.uniform(0.0, 3.0, kills).tolist()
    slow = {tuple(random.choice(SHAPE.nodes, 2).tolist()): 60.0 for _ in range(6)}
    faults = replace(CALM, after_begin=True, slow_links=slow, heal_s=60.0,
                     kills=tuple(sorted(zip(at, victims, strict=True))))  # fmt: skip
    settings = msgspec.structs.replace(setup.settings, steps=8, pushes=4, reissue_s=0.0)
    return play_trial(seed, replace(setup, faults=faults, settings=settings, silence_s=2.0))


def moved(trials: Iterable[Trial]) -> int:
    """Return how many segments have moved, after checking that nothing went wrong."""
    count = 0
    for trial in trials:
        assert not trial.has_failed, (trial.seed, trial.error, trial.violations)
        count += trial.simulation.scheduler.machine.statistics()["moved_segments"]
    return count


@pytest.mark.slow
def test_nothing_is_lost_or_doubled_while_hot_segments_move() -> None:
    assert moved(play(seed) for seed in range(SEEDS)) >= SEEDS


@pytest.mark.slow
def test_nor_in_many_jobs_in_which_nodes_die(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--seed") == 1:
        pytest.skip("for soaks: mpips test sim --soak 2")
    start = MANY * request.config.getoption("--seed")
    assert moved(play(seed, kills=seed % 2) for seed in range(start, start + MANY)) >= MANY


@pytest.mark.slow
def test_segment_that_does_not_wait_for_its_last_updates_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def at_any_time(view: View, epoch: int, levels: Levels) -> View:
        stopped = {table: np.flatnonzero(stops).tolist() for table, stops in enumerate(view.stops)}
        return hand_over(view, epoch, stopped)

    monkeypatch.setattr(views, "hand_over", at_any_time)
    assert any(play(seed).has_failed for seed in range(3 * SEEDS))
