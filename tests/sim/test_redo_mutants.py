"""Whole simulated jobs notice broken builds of what survives deaths: numbers, bases, old values."""

import pytest

from mpips.config import Config, parse
from mpips.core.client import ClientMachine
from mpips.core.server import ServerMachine
from mpips.core.undo import Undo
from mpips.testing.checkers import CHECKS, Expected
from mpips.testing.cluster import Simulation
from mpips.testing.faults import Faults
from mpips.testing.ledger import Ledger, Settings
from mpips.testing.trial import Shape, run_trial
from tests.core import broken_builds

SEEDS = 60
SMALL = Shape(servers=2, workers=3, logical_workers=3, spares=1, replicas=1)


def some_run_fails() -> bool:
    """Return whether the run of some seed fails; broken builds may fail in any way."""
    for seed in range(SEEDS):
        try:
            if run_trial(seed, SMALL).has_failed:
                return True
        except (KeyError, IndexError):
            return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("server", "client"),
    [
        (broken_builds.ClockAsMaximum, ClientMachine),
        (ServerMachine, broken_builds.NumbersAfterFilters),
        (ServerMachine, broken_builds.BaseForgotten),
        (ServerMachine, broken_builds.NumbersContinued),
        (broken_builds.RoomForStreams, broken_builds.StreamOfItsOwn),
    ],
    ids=lambda machine: machine.__name__,
)
def test_broken_build_is_caught(
    monkeypatch: pytest.MonkeyPatch, server: type[ServerMachine], client: type[ClientMachine]
) -> None:
    monkeypatch.setattr("mpips.node.server.ServerMachine", server)
    monkeypatch.setattr("mpips.node.worker.ClientMachine", client)
    assert some_run_fails()


def test_same_runs_hold_with_room_for_more_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    # The build that is not broken, but for what a new stream needs: else it would be caught so.
    monkeypatch.setattr("mpips.node.server.ServerMachine", broken_builds.RoomForStreams)
    for seed in range(2):
        assert not run_trial(seed, SMALL).has_failed, seed


# -- A redo that reads newer values --------------------------------------------------------------

STRAGGLER = 5
LEDGER = Settings(steps=2, pushes=1)
DRAWS = 3


def make_config(seed: int) -> Config:
    """Return a small job, with a spare that follows the straggler."""
    sizes = ["servers=3", "workers=2", "logical_workers=2", "spares=1", f"seed={seed}"]
    silence = "recovery.silence_s=1000"
    settings = [*(f"run.{size}" for size in sizes), "replicas=1", silence]
    return parse("", "", [*settings, "model.steps=2", "model.pushes=1"])


def make_run(seed: int, *kills: tuple[float, int]) -> Simulation:
    """Return a run in which a worker is always the last to push, unless it dies."""
    faults = Faults(delay_s=0.05, stragglers={STRAGGLER: 0.1}, kills=kills, heal_s=1e9)
    return Simulation(Ledger, make_config(seed), seed, faults)


def times_of_pushes(seed: int) -> list[float]:
    """Return when the straggler's pushes come to servers in the run in which it lives."""
    calm = make_run(seed)
    calm.run(600.0)
    arrivals = calm.network.trace
    return [at.seconds for at in arrivals if (at.source, at.message) == (STRAGGLER, "Push")]


def runs_that_fail(times: dict[int, list[float]]) -> list[tuple[int, float]]:
    """Return the seeds and when the straggler was killed of those runs that go wrong."""
    failed = []
    for seed, moments in times.items():
        expected = Expected(LEDGER, make_config(seed))
        for at in moments:
            result = make_run(seed, (at, STRAGGLER)).run(600.0)
            if any(check(expected, result) for check in CHECKS.values()):
                failed.append((seed, at))
    return failed


@pytest.mark.slow
def test_redo_that_reads_newer_values_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    # When a push comes its sums may be complete on one server, and not yet on another: in the
    # runs of some seeds they lie on several, wherever the ring puts segments.
    times = {seed: times_of_pushes(seed) for seed in range(DRAWS)}
    assert runs_that_fail(times) == []
    monkeypatch.setattr(Undo, "rewind", lambda *arguments: {})
    assert len(runs_that_fail(times)) >= 2
