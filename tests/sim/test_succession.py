"""Whole simulated jobs whose scheduler is killed, stopped or cut off: another one goes on."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mpips.core import leader as leading
from mpips.core.leader import Candidate
from mpips.core.mandate import Mandate
from mpips.errors import MpipsError
from mpips.node.member import Member
from mpips.testing import trial
from mpips.testing.cluster import Simulation
from mpips.testing.faults import CALM
from mpips.testing.trial import Shape, Trial, draw_setup, play_trial
from mpips.wire.messages import NewView
from mpips.wire.types import make_epoch
from mpips.wire.voting import Claim

SEEDS = 6
KINDS = ("kills", "stops", "isolations")
SHAPE = Shape(servers=2, workers=2, spares=1, replicas=1)
ROUNDS = 25


class Record:
    """The views that members have heard of, with who sent them, and who else acted in them."""

    def __init__(self) -> None:
        self.views: dict[int, int] = {}
        self.seen: dict[int, list[int]] = {}
        self.wrong: list[str] = []

    def note(self, member: Member, source: int, message: Any) -> None:
        """Note a view, and what is wrong with it."""
        if not isinstance(message, NewView):
            return
        view = message.view
        if self.views.setdefault(view.epoch, source) != source:
            self.wrong.append(f"epoch {view.epoch} is from {source} and {self.views[view.epoch]}")
        if view.scheduler != source:
            self.wrong.append(f"epoch {view.epoch} is from {source}, not from its scheduler")


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Iterator[Record]:
    """What members hear of views."""
    found, receive = Record(), Member.receive

    def note(member: Member, source: int, message: Any) -> None:
        found.note(member, source, message)
        receive(member, source, message)

    monkeypatch.setattr(Member, "receive", note)
    yield found
    assert found.wrong == []


def play(seed: int, kind: str, is_long: bool = False) -> Trial:
    """Run the ledger; the scheduler alone meets with something, while the job runs."""
    random = np.random.default_rng([seed, KINDS.index(kind)])
    setup = draw_setup(seed, SHAPE, has_kills=False)
    at, length = float(10 ** random.uniform(-2.5, -0.5)), float(random.uniform(2, 8))
    if is_long:
        at, length = at / 3, 0.9
        setup = replace(setup, settings=replace_settings(setup.settings, steps=60, pushes=2))
    mishap: dict[str, Any] = {kind: ((at, 0) if kind == "kills" else (at, 0, length),)}
    faults = replace(CALM, delay_s=0.002, heal_s=20.0, after_begin=True, **mishap)
    return play_trial(seed, replace(setup, faults=faults, silence_s=0.5))


@pytest.mark.parametrize("kind", KINDS)
def test_job_goes_on_without_its_scheduler(
    kind: str, record: Record, request: pytest.FixtureRequest
) -> None:
    outcomes: Counter[str] = Counter()
    first = SEEDS * (request.config.getoption("--seed") - 1)
    for seed in range(first, first + SEEDS):
        record.views.clear()
        run = play(seed, kind)
        assert not run.has_failed, (seed, run.error, run.violations)
        begun = run.excuse.startswith("somebody died before")
        assert not run.excuse or begun, (seed, run.excuse)
        followed = any(getattr(node, "office", None) for node in run.simulation.nodes)
        outcomes["followed" if followed else "not begun" if begun else "over before"] += 1
    assert outcomes["followed"], outcomes
    assert 0 not in record.views.values()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(4))
def test_many_drawn_runs_with_all_faults_end_right(
    part: int, record: Record, request: pytest.FixtureRequest
) -> None:
    if part and request.config.getoption("--seed") == 1:
        pytest.skip("for soaks: mpips test sim --soak 2")
    for seed in range(5000 + 50 * part, 5050 + 50 * part):
        record.views.clear()
        run = trial.run_trial(seed)
        assert not run.has_failed, (seed, run.error, run.violations)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_old_scheduler_that_goes_on_is_refused_and_ends_itself() -> None:
    for kind in ("stops", "isolations"):
        run = play(1, kind, is_long=True)
        assert not run.has_failed, (kind, run.error, run.violations)
        assert run.simulation.scheduler is not run.simulation.nodes[0]
        assert run.simulation.nodes[0].is_fenced, kind


def test_death_of_the_successor_is_survived_too() -> None:
    setup = draw_setup(3, Shape(servers=3, workers=2, spares=2, replicas=2), has_kills=False)
    # The spares stand first: the last two nodes.
    kills = ((0.02, 0), (0.12, 6))
    faults = replace(CALM, delay_s=0.002, heal_s=9.0, after_begin=True, kills=kills)
    settings = replace_settings(setup.settings, steps=20, pushes=4)
    run = play_trial(3, replace(setup, faults=faults, settings=settings, silence_s=0.5))
    assert not run.has_failed, (run.error, run.violations)
    assert run.excuse == ""
    result = run.simulation.scheduler.result
    assert (result["failures"], result["recovered"]) == (2, 2)


@pytest.fixture
def lost_promise(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let an acceptor promise to a candidate that fails; then let two others die after a while.

    The list has the ballots of the scheduler before, and when they die.
    """
    ballots: list[int] = []
    begin, rounds = Simulation._begin_round, Counter[str]()

    def strike(simulation: Simulation) -> None:
        begin(simulation)
        machine = simulation.scheduler.machine
        if not machine.is_begun or len(ballots) == 2:
            return
        # A spare, two servers, a worker.
        _, spare, lost, _, worker = machine.groups[-1]
        if not ballots:
            ballots.append(machine.ballot)
            claim = Claim(ballot=make_epoch(9, worker))
            simulation.nodes[lost]._succession.acceptor.step(claim)  # type: ignore[union-attr]
        rounds["since"] += 1
        if rounds["since"] == ROUNDS:
            ballots.append(machine.ballot)
            for node in (spare, worker):
                simulation.kill(node)

    monkeypatch.setattr(Simulation, "_begin_round", strike)
    return ballots


def play_lost_promise() -> Trial:
    """Run a long job of five acceptors, which nothing else befalls."""
    shape = Shape(servers=2, workers=3, spares=1, replicas=1)
    setup = draw_setup(4, shape, has_kills=True)
    settings = replace_settings(setup.settings, steps=60, pushes=2)
    faults = replace(CALM, delay_s=0.002, heal_s=20.0)
    return play_trial(4, replace(setup, settings=settings, faults=faults, silence_s=0.5))


@pytest.mark.slow
def test_acceptor_that_has_promised_to_a_failed_candidate_counts_when_others_die(
    lost_promise: list[int],
) -> None:
    run = play_lost_promise()
    assert not run.has_failed, (run.error, run.violations)
    assert run.excuse == ""
    before, after = lost_promise
    # It is still the first scheduler, in a ballot beyond the one that was promised.
    assert before < make_epoch(9, 0) < after
    assert run.simulation.scheduler is run.simulation.nodes[0]
    assert run.simulation.scheduler.result["failures"] == 2


@pytest.mark.slow
def test_leader_that_claims_no_higher_ballot_is_caught(
    lost_promise: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Mandate, "_claim", lambda mandate, now: [])
    run = play_lost_promise()
    assert len(lost_promise) == 2
    # It has not lost much, and yet there is no majority.
    assert run.excuse == "nobody was left who could decide"


def replace_settings(settings: Any, **changes: Any) -> Any:
    """Return settings with some changed."""
    return type(settings)(**{**{f: getattr(settings, f) for f in settings.__struct_fields__},
                             **changes})  # fmt: skip


def is_caught(kind: str, record: Record, seeds: int = 12) -> bool:
    """Return whether runs show that a build is broken: by the checkers, or by two schedulers."""
    for seed in range(seeds):
        try:
            if play(seed, kind, is_long=kind == "isolations").has_failed or record.wrong:
                record.wrong.clear()
                return True
        except (MpipsError, AssertionError):
            return True
    return False


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_entries_that_are_not_proposed_anew_are_caught(
    monkeypatch: pytest.MonkeyPatch, record: Record
) -> None:
    # The successor forgets the last finished tasks, and has them done again.
    def forget(candidate: Candidate) -> list[Any]:
        log = merge(candidate)
        return log[:2] if len(log) > 2 else log

    merge = Candidate._merge
    monkeypatch.setattr(Candidate, "_merge", forget)
    assert is_caught("kills", record)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_scheduler_that_acts_before_it_is_decided_is_caught(
    monkeypatch: pytest.MonkeyPatch, record: Record
) -> None:
    # A majority left out: one acceptor is enough, also for who is cut off, which is oneself.
    monkeypatch.setattr(leading, "is_majority", lambda nodes, group: bool(set(nodes) & set(group)))
    assert is_caught("isolations", record)


def test_record_names_two_schedulers_of_one_epoch() -> None:
    record = Record()
    view: Any = type("V", (), {"epoch": 7, "scheduler": 1})()
    for source in (1, 2):
        record.note(None, source, NewView(view=view))  # type: ignore[arg-type]
    assert record.wrong == ["epoch 7 is from 2 and 1", "epoch 7 is from 2, not from its scheduler"]


