"""Broken builds of fail-over: the schedules must notice."""

import pytest

from mpips.core.undo import Undo
from mpips.errors import ProtocolError
from tests.core import test_mutants
from tests.core.broken_builds import (
    BaseForgotten,
    ClockAsMaximum,
    NumbersAfterFilters,
    NumbersContinued,
    RoomForStreams,
    StreamOfItsOwn,
)
from tests.core.redo import RedoSchedule
from tests.core.redo_kinds import BoundedRedo, FreeRedo, SumRedo

SEEDS = 60


def seed_that_catches(kind: type[RedoSchedule], **machines: type) -> int:
    """Return the first seed whose schedule notices that a promise is broken, or `SEEDS`."""
    for seed in range(SEEDS):
        try:
            kind(seed, **machines).run()
        except (AssertionError, ProtocolError):
            return seed
    return SEEDS


@pytest.mark.parametrize("kind", [FreeRedo, BoundedRedo])
@pytest.mark.parametrize(
    "mutant", [ClockAsMaximum, test_mutants.NoDuplicateCheck, test_mutants.DropsEarly]
)
def test_broken_server_is_caught(kind: type[RedoSchedule], mutant: type) -> None:
    assert seed_that_catches(kind, server=mutant) < SEEDS


@pytest.mark.parametrize("kind", [FreeRedo, BoundedRedo, SumRedo])
@pytest.mark.parametrize("mutant", [NumbersAfterFilters, BaseForgotten, NumbersContinued])
def test_broken_client_is_caught(kind: type[RedoSchedule], mutant: type) -> None:
    assert seed_that_catches(kind, client=mutant) < SEEDS


@pytest.mark.slow
def test_call_that_is_done_again_under_a_new_stream_is_caught() -> None:
    assert seed_that_catches(FreeRedo, server=RoomForStreams, client=StreamOfItsOwn) < SEEDS
    assert seed_that_catches(FreeRedo, server=RoomForStreams) == SEEDS


def test_call_that_is_done_again_and_reads_newer_values_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Undo, "rewind", lambda *arguments: {})
    assert seed_that_catches(SumRedo) < SEEDS
