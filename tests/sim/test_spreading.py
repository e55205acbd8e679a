"""Servers that come get copies of others' segments, and owners die: all orders, and whole jobs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from mpips.core import views
from mpips.core.machine import Effect
from mpips.core.membership import admit
from mpips.core.moving import Move
from mpips.core.replication import Replicator
from mpips.core.server import ServerMachine
from mpips.core.spreading import ask_to_join
from mpips.store.base import Store
from mpips.testing import ledger
from mpips.testing.cases import Case
from mpips.testing.explorer import Explorer, Found
from mpips.testing.faults import CALM
from mpips.testing.sites import ServerSite, Violation
from mpips.testing.trial import Shape, Trial, draw_setup, play_trial
from mpips.wire.types import NOBODY, View

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


# -- All orders of a small cluster: node 1 owns the segment, 2 is its copy, and 3 gets it ----------


class Spreading(Case):
    """A case in which the last server becomes a copy, in place of the one there is."""

    def begin(self) -> Any:
        """Begin without it; the first look at the time after that asks for the copy."""
        plan, views.plan_copies = views.plan_copies, lambda view: []
        begun = super().begin()
        views.plan_copies = plan
        begun[0].machine._views._settled = 0
        return begun


def copy_to_last(view: View) -> list[Move]:
    """Return that the last server should be a copy, unless it is one, or owns the segment."""
    last, here = 3, [*view.owners[0].tolist(), *view.copies[0].ravel().tolist()]
    is_free = (view.joining[0] == NOBODY).all() and last in view.nodes("server")
    return [Move(0, 0, last)] if is_free and last not in here else []


def explore(monkeypatch: pytest.MonkeyPatch, kind: type[ServerMachine] = ServerMachine) -> Found:
    """Try all orders of a push, the copy's coming, and the death of one of the first two."""
    monkeypatch.setattr(views, "plan_copies", copy_to_last)
    site = type("Site", (ServerSite,), {"kind": kind})
    case = Spreading(3, 1, ("push", "wait"), 1, mortal=(1, 2), server=site)
    return Explorer(case).run()


@pytest.mark.slow
def test_copy_that_takes_the_place_of_another_has_all_in_all_orders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = explore(monkeypatch)
    print(found)
    assert found.is_complete
    assert not found.losses
    assert found.states > 10_000


class TellsTooEarly(Replicator):
    """Says that a copy has joined when its snapshot has been sent, and not when it is there."""

    def join_next(self) -> list[Effect]:
        """Send the next snapshot, and tell of it."""
        effects = super().join_next()
        for shipment in self._open.values():
            effects += self._tell_joined(shipment) if effects and shipment.joins else []
        return effects


class TooEarly(ServerMachine):
    """An owner whose copies count too early."""

    def __init__(self, node: int, stores: Sequence[Store], streams: int) -> None:
        super().__init__(node, stores, streams)
        self._replicator = TellsTooEarly()


def test_copy_that_counts_before_its_snapshot_has_come_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(Violation, match="AckedDurable"):
        explore(monkeypatch, TooEarly)


def admit_at_once(view: View, epoch: int, copies: list[Move]) -> View:
    """Take servers for copies as soon as they have been asked to be."""
    asked = ask_to_join(view, epoch, copies)
    return admit(asked, epoch, {(copy.table, copy.node): [copy.segment] for copy in copies})


def test_copy_that_counts_when_it_is_asked_for_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "ask_to_join", admit_at_once)
    with pytest.raises(Violation, match="AckedDurable"):
        explore(monkeypatch)
