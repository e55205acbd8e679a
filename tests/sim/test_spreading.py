"""Simulated jobs in which a server comes, gets copies of others' segments, and then owners die."""

from collections import Counter
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from mpips.core import views
from mpips.core.moving import Move
from mpips.testing import ledger
from mpips.testing.faults import CALM
from mpips.testing.trial import Shape, Trial, draw_setup, play_trial
from mpips.wire.types import View

SHAPE = Shape(servers=3, workers=2, spares=1, replicas=1)
SEEDS = 3
MANY = 40


@pytest.fixture(autouse=True)
def more_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the tables into as many segments as make shares uneven when a server comes."""
    monkeypatch.setattr(ledger, "SEGMENTS", (16, 24, 16))


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How many copies each node was to make."""
    found: Counter[int] = Counter()
    ask = views.ask_to_join

    def count(view: View, epoch: int, copies: list[Move]) -> View:
        found.update(copy.node for copy in copies)
        return ask(view, epoch, copies)

    monkeypatch.setattr(views, "ask_to_join", count)
    return found


def play(seed: int) -> Trial:
    """Run a job to which a server comes; one of the others dies when copies have moved, or do."""
    random = np.random.default_rng([seed, 15])
    setup = draw_setup(seed, SHAPE, has_kills=True)
    at = float(random.uniform(0.1, 1.5))
    faults = replace(
        CALM, delay_s=0.002, tail=0.02, after_begin=True, heal_s=60.0,
        orders=((0.01, "add-server", -1),), kills=((at, int(random.integers(3, 6))),),
    )  # fmt: skip
    settings = msgspec.structs.replace(setup.settings, steps=12, pushes=3, reissue_s=0.0)
    return play_trial(seed, replace(setup, faults=faults, settings=settings, silence_s=3.0))


@pytest.mark.slow
def test_newcomers_copies_have_all_when_owners_die(copied: Counter[int]) -> None:
    for seed in range(SEEDS):
        trial = play(seed)
        assert not trial.has_failed, (seed, trial.error, trial.violations)
        assert not trial.excuse, (seed, trial.excuse)
    assert copied


@pytest.mark.slow
def test_many_more_jobs_spread_copies_and_lose_nothing(
    copied: Counter[int], request: pytest.FixtureRequest
) -> None:
    if request.config.getoption("--seed") == 1:
        pytest.skip("for soaks: mpips test sim --soak 2")
    start = MANY * request.config.getoption("--seed")
    for seed in range(start, start + MANY):
        trial = play(seed)
        assert not trial.has_failed, (seed, trial.error, trial.violations)
    assert copied
