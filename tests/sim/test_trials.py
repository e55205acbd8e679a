"""Runs with faults of every kind, drawn from a seed: all promises hold, and all of them end."""

import dataclasses
import functools
from typing import Any

import numpy as np
import pytest

from mpips.errors import MpipsError, ProtocolError, RanksLostError
from mpips.node.app import App
from mpips.testing.cluster import Simulation
from mpips.testing.faults import CALM, Faults, draw_faults, draw_kills
from mpips.testing.network import Network
from mpips.testing.orders import ORDERS, draw_orders, draw_transfers
from mpips.testing.trial import Shape, Trial, run_trial
from tests.sim.jobs import Flood, Wrong, job

SEEDS, AT_ONCE, WITHOUT_SOAK = 200, 2, 80
EACH = [pytest.param(first, marks=[pytest.mark.soak] * (first >= WITHOUT_SOAK))
        for first in range(0, SEEDS, AT_ONCE)]  # fmt: skip


def explain(trial: Trial) -> str:
    """Return what went wrong and how to see it again."""
    return f"{trial.error} {trial.violations} {trial.replay()}"


@pytest.mark.parametrize("first", EACH)
def test_all_checks_hold_under_drawn_faults(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        trial = run_trial(seed)
        assert not trial.has_failed, explain(trial)


PLACES = ("server", "server data", "worker", "tables data", "end of the plan")


@functools.cache
def code_without_faults(place: str) -> int:
    """Return the exit code of a job that goes wrong at a place, and nowhere else."""
    simulation = Simulation(Wrong, job(f"model.place={place}"), 0)
    with pytest.raises(MpipsError) as error:
        simulation.run()
    return error.value.exit_code


@pytest.mark.parametrize("first", EACH)
def test_error_ends_the_job_with_its_code_under_drawn_faults(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        place = PLACES[seed % len(PLACES)]
        faults = draw_faults(np.random.default_rng([seed, 1]), 5)
        simulation = Simulation(Wrong, job(f"model.place={place}"), seed, faults)
        with pytest.raises(MpipsError) as error:
            simulation.run()
        code = simulation.scheduler.exit_code
        assert error.value.exit_code == code == code_without_faults(place) != 0, (seed, place)


def flood(seed: int, faults: Faults, app: type[App] = Flood) -> Simulation:
    """Return a job of four nodes beside the scheduler under these faults."""
    return Simulation(app, job("model.iterations=4"), seed, faults)


@pytest.mark.parametrize("first", EACH)
def test_assigned_values_are_the_last_under_drawn_faults(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        result = flood(seed, draw_faults(np.random.default_rng([seed, 2]), 5)).run()
        assert result["last"] == [[4.0, 4.0]] * 4, seed
        assert result["sum"] == [40.0] * 2, seed


@pytest.mark.parametrize("seed", range(5))
def test_same_seed_gives_the_same_run(seed: int) -> None:
    one, other = run_trial(seed), run_trial(seed)
    assert one.simulation.network.trace == other.simulation.network.trace
    assert (one.faults, one.shape, one.counters) == (other.faults, other.shape, other.counters)


def test_seeds_draw_all_kinds_of_faults_and_runs_without() -> None:
    drawn = [draw_faults(np.random.default_rng([seed, 1]), 5) for seed in range(SEEDS)]
    for entry in dataclasses.fields(Faults):
        values = {repr(getattr(faults, entry.name)) for faults in drawn}
        apart = ("kills", "stops", "isolations", "kill_works", "after_begin", "orders", "transfers")
        is_drawn_apart = entry.name in apart
        assert len(values) > 1 or is_drawn_apart, entry.name
    kills = [draw_kills(np.random.default_rng([seed, 2]), 5) for seed in range(SEEDS)]
    assert {len(one) for one in kills} == {0, 1, 2, 3}
    assert {node for one in kills for _, node in one} == {1, 2, 3, 4}
    for name in ("tail", "copies", "pauses", "stragglers", "slow_links"):
        share = sum(bool(getattr(faults, name)) for faults in drawn) / SEEDS
        assert 0.3 < share < 0.7, name


def test_seeds_draw_all_orders_and_moves_to_and_fro() -> None:
    span = (0.01, 1.0)
    orders = [draw_orders(np.random.default_rng([s, 6]), 5, span) for s in range(SEEDS)]
    assert {name for one in orders for _, name, _ in one} == set(ORDERS)
    assert {node for one in orders for *_, node in one} == {-1, 1, 2, 3, 4}
    moves = [draw_transfers(np.random.default_rng([s, 7]), 5, (4, 5), span) for s in range(SEEDS)]
    assert {place for one in moves for _, *place, _ in one for place in [tuple(place)]} == {
        *((0, segment) for segment in range(4)), *((1, segment) for segment in range(5))
    }  # fmt: skip
    for drawn in (orders, moves):
        share = sum(map(bool, drawn)) / SEEDS
        assert 0.3 < share < 0.7
        assert all(span[0] <= one[0] <= span[1] for entries in drawn for one in entries)


HEAL_S = 5.0
ONE_FAULT: dict[str, dict[str, Any]] = {
    "tail": {"tail": 0.1},
    "copies": {"copies": 0.5, "late_s": 0.05},
    "pauses": {"pauses": 0.5, "pause_s": 0.3},
    "stragglers": {"stragglers": {4: 0.2}},
    "slow links": {"slow_links": {(1, 3): 100.0}},
}


@pytest.mark.parametrize("fault", ONE_FAULT)
def test_each_fault_has_an_effect(fault: str) -> None:
    calm, faulty = flood(1, CALM), flood(1, Faults(heal_s=HEAL_S, **ONE_FAULT[fault]))
    calm.run()
    faulty.run()
    if fault == "copies":
        assert faulty.network.copies > 20
        assert any(arrival.copy == 2 for arrival in faulty.network.trace)
    else:
        assert faulty.network.now > 2 * calm.network.now
    assert (faulty.pauses > 0) == (fault == "pauses")


def test_deaths_may_be_counted_from_when_the_job_begins() -> None:
    kills = ((0.0, 1),)
    early = flood(1, Faults(heal_s=HEAL_S, kills=kills))
    with pytest.raises(RanksLostError):
        early.run()
    assert not early.scheduler.machine.is_begun
    late = flood(1, Faults(heal_s=HEAL_S, kills=kills, after_begin=True))
    assert late.run()["sum"] == [40.0] * 2
    assert late.dead == {1}
    assert late.scheduler.machine.statistics()["deaths"] == 1


def test_straggler_acts_only_when_its_own_clock_has_passed() -> None:
    simulation = flood(1, Faults(heal_s=HEAL_S, stragglers={4: 0.2}))
    turns: list[float] = []
    node, turn = simulation.nodes[4], simulation.nodes[4].turn

    def note() -> bool:
        is_busy = turn()
        if is_busy:
            turns.append(simulation.network.now)
        return is_busy

    node.turn = note  # type: ignore[method-assign]
    simulation.run()
    assert len(turns) > 3
    assert (np.diff(turns) >= 0.2 - 1e-9).all()


def test_nothing_goes_wrong_any_more_after_the_healing() -> None:
    faults = Faults(heal_s=0.2, copies=1.0, late_s=1e-3, pauses=1.0, pause_s=0.01)
    simulation = Simulation(Wrong, job("model.place=missing push"), 1, faults)
    with pytest.raises(ProtocolError):
        simulation.run()
    copies, pauses = simulation.network.copies, simulation.pauses
    assert simulation.is_healed
    simulation.network.put(1, (0, memoryview(b""), []))
    assert (simulation.network.copies, simulation.pauses) == (copies, pauses)


def test_job_that_stands_still_says_who_waits_for_whom() -> None:
    simulation = Simulation(Wrong, job("model.place=missing push"), 1)
    with pytest.raises(ProtocolError) as error:
        simulation.run(deadline_s=5.0)
    assert "waiting for worker 1, worker 2, worker 3" in error.value.what
    assert "scheduler 0: running, waits for worker 1, worker 2, worker 3" in error.value.where
    assert "worker 3: 1 open tasks" in error.value.where
    assert "worker 4: 2 open tasks" in error.value.where
    assert simulation.network.now < 6.0


def test_copies_have_memory_of_their_own() -> None:
    # Receivers decode in place.
    random = np.random.default_rng(1)
    network = Network(2, random, Faults(copies=1.0, late_s=1e-3))
    frame = 0, memoryview(b""), [np.ones(8, np.uint8)]
    network.put(1, frame)
    arrays = [entry[4][2][0] for entry in network._flying]
    assert len(arrays) >= 2
    assert not any(np.shares_memory(arrays[0], array) for array in arrays[1:])


def test_sizes_that_are_given_change_no_other_draw() -> None:
    drawn = run_trial(3)
    given = run_trial(3, drawn.shape)
    assert given.simulation.network.trace == drawn.simulation.network.trace
    shape = Shape(servers=1, workers=2, logical_workers=3, spares=0, replicas=2)
    assert run_trial(3, shape).shape == shape
