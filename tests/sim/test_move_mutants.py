"""Moves of segments: all interleavings with a push and a death hold, and broken builds do not."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mpips.core import views
from mpips.core.held import Held
from mpips.core.machine import Effect
from mpips.core.moving import Levels, hand_over
from mpips.core.replication import Replicator
from mpips.core.server import ServerMachine
from mpips.store.base import Store
from mpips.testing.cases import Case
from mpips.testing.explorer import Explorer
from mpips.testing.sites import ServerSite, Violation
from mpips.wire.types import View

PUSH = ("push", "wait")
READ = ("push", "pull", "wait")
SUMS: dict[str, Any] = {"workers": 2, "mode": "sequential", "answers": True}
STATES_MAX = 150_000

# Node 1 owns the segment, and node 2 is its copy, where there is one. Any server may die.
TO_NEW, TO_COPY = ((0, 3),), ((0, 2),)
CASES = {
    "to a newcomer": (Case(3, 1, PUSH, 0, moves=TO_NEW), 2_000),
    "to a newcomer, 1 death": (Case(3, 1, PUSH, 1, moves=TO_NEW), 30_000),
    "to a copy, 1 death": (Case(2, 1, ("push", "push", "wait"), 1, moves=TO_COPY), 8_000),
    "to and fro, without copies": (Case(2, 0, PUSH, 0, moves=((0, 2), (0, 1))), 1_000),
    "2 workers aggregate, to a copy, 1 death": (
        Case(2, 1, PUSH, 1, moves=TO_COPY, **SUMS),
        20_000,
    ),
}
# What a soak explores beside them.
LARGE = {
    "to a newcomer, 1 death, and the dead go on": Case(3, 1, PUSH, 1, moves=TO_NEW, liars=True),
    "1 sum and a pull, to a newcomer, 1 death": Case(
        3, 1, READ, 1, moves=TO_NEW, mode="sequential"
    ),
    "2 workers aggregate, to a newcomer": Case(3, 1, PUSH, 0, moves=TO_NEW, **SUMS),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_promises_hold_while_a_segment_moves(name: str) -> None:
    case, states = CASES[name]
    found = Explorer(case).run()
    print(f"{name}: {found}")
    assert found.is_complete
    assert found.states >= states
    assert not found.losses


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", LARGE)
def test_promises_hold_in_larger_moves(name: str) -> None:
    found = Explorer(LARGE[name], STATES_MAX).run()
    print(f"{name}: {found}")
    assert found.is_complete or found.states == STATES_MAX


def caught(machine: type[ServerMachine], case: Case) -> str:
    """Return what the exploration of a case says, without the way that leads there."""
    broken = type("Broken", (ServerSite,), {"kind": machine})
    changed = Case(**{**vars(case), "server": broken})
    with pytest.raises(Violation) as error:
        Explorer(changed, STATES_MAX).run()
    return str(error.value).partition("\n")[0]


class NothingOnItsWay(Replicator):
    """Calls segments level before all copies have the last updates."""

    def busy(self, held: Held) -> set[int]:
        """Return nothing."""
        return set()


class WithoutDelta(ServerMachine):
    """Hands a segment over without the updates that are on their way."""

    def __init__(self, node: int, stores: Sequence[Store], streams: int) -> None:
        super().__init__(node, stores, streams)
        self._replicator = NothingOnItsWay()


@pytest.mark.slow
@pytest.mark.parametrize("moves", [pytest.param(TO_NEW, marks=pytest.mark.soak), TO_COPY])
def test_hand_over_without_the_delta_is_caught(moves: Any) -> None:
    case = Case(3, 1, PUSH, 0, workers=2, moves=moves)
    assert caught(WithoutDelta, case)


class Drops(ServerMachine):
    """Drops what comes while it is stopped."""

    def install(self, view: View) -> list[Effect]:
        """Forget what is parked, as if it never had been."""
        for held in self._held:
            held.parked.clear()
        return super().install(view)


def test_push_that_is_dropped_and_not_parked_is_caught() -> None:
    # The heir dies: the owner goes on, and clients do not send again what it has got.
    case = Case(3, 1, PUSH, 1, mortal=(3,), moves=TO_NEW)
    assert "waits for ever" in caught(Drops, case)


class NeverUnparks(ServerMachine):
    """Leaves parked what was parked for a move that is called off."""

    def _unpark(self, held: Held) -> list[Effect]:
        return []


def test_move_that_is_called_off_and_unparks_nothing_is_caught() -> None:
    case = Case(3, 1, PUSH, 1, mortal=(3,), moves=TO_NEW)
    assert "waits for ever" in caught(NeverUnparks, case)


class NeverStops(ServerMachine):
    """Says that a segment is level, and goes on with it."""

    def install(self, view: View) -> list[Effect]:
        """Serve what is stopped."""
        stopped = super().install(view)
        for held in self._held:
            held.stopped = set()
        return stopped


@pytest.mark.slow
def test_source_that_goes_on_before_the_view_is_caught() -> None:
    case = Case(3, 1, PUSH, 0, workers=2, moves=TO_COPY)
    assert caught(NeverStops, case)


class KeepsServing(ServerMachine):
    """Takes a segment for its own that it has handed over."""

    def install(self, view: View) -> list[Effect]:
        """Own what it owned."""
        before = [list(held.reign) for held in self._held]
        effects = super().install(view)
        for held, reign in zip(self._held, before, strict=True):
            held.reign = [min(pair) for pair in zip(held.reign, reign, strict=True)]
        return effects


def test_source_that_goes_on_after_the_view_is_caught() -> None:
    assert "UniqueOwner" in caught(KeepsServing, Case(2, 1, PUSH, 0, moves=TO_COPY))


class KeepsWhatItAccepted(ServerMachine):
    """Takes again no push that it has accepted, though its sum went with the segment."""

    def install(self, view: View) -> list[Effect]:
        """Remember all numbers."""
        before = [[list(row) for row in held.accepted] for held in self._held]
        effects = super().install(view)
        for held, rows in zip(self._held, before, strict=True):
            held.accepted = [np.maximum(*pair).tolist() for pair in zip(held.accepted, rows,
                                                                        strict=True)]  # fmt: skip
        return effects


def test_sum_that_was_left_behind_and_is_missed_is_caught() -> None:
    case = Case(2, 1, PUSH, 0, moves=((0, 2), (0, 1)), **SUMS)
    assert caught(KeepsWhatItAccepted, case)


def at_any_time(view: View, epoch: int, levels: Levels) -> View:
    """Hand over all that is stopped, whatever its owner has said."""
    stopped = {table: np.flatnonzero(stops).tolist() for table, stops in enumerate(view.stops)}
    return hand_over(view, epoch, stopped)


def test_heir_that_does_not_wait_for_the_owner_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "hand_over", at_any_time)
    with pytest.raises(Violation):
        Explorer(Case(3, 1, PUSH, 0, workers=2, moves=TO_NEW), STATES_MAX).run()

