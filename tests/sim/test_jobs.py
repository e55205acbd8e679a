"""Whole jobs in virtual time: the same nodes as over MPI, every delay from a seed."""

from typing import Any

import numpy as np
import pytest

from mpips.errors import MpipsError, ProtocolError
from mpips.node.local import run_local
from mpips.node.member import Member
from mpips.testing.cluster import Simulation
from tests.sim.jobs import Descent, Flood, Wrong, job


def bits(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result without what differs between runs, arrays as bytes."""
    apart = ("seconds", "counters", "redundancy")
    return {
        name: value.tobytes() if isinstance(value, np.ndarray) else value
        for name, value in result.items()
        if name not in apart
    }


REFERENCE: dict[str, Any] = {}


@pytest.fixture
def descent() -> dict[str, Any]:
    """Return what the sequential app gives on one server and one worker without delays."""
    if not REFERENCE:
        REFERENCE.update(bits(run_local(Descent, job(servers=1, workers=1))))
    return REFERENCE


@pytest.mark.parametrize("seed", range(3))
def test_same_seed_gives_the_same_trace_and_result(seed: int) -> None:
    one, other = (Simulation(Descent, job(), seed) for _ in range(2))
    assert bits(one.run()) == bits(other.run())
    assert one.network.trace == other.network.trace
    assert len(one.network.trace) > 50


def test_different_seeds_give_different_traces() -> None:
    one, other = (Simulation(Descent, job(), seed) for seed in range(2))
    one.run()
    other.run()
    assert one.network.trace != other.network.trace


@pytest.mark.parametrize("seed", range(20))
def test_sequential_result_does_not_depend_on_delays(seed: int, descent: dict[str, Any]) -> None:
    assert bits(Simulation(Descent, job(), seed).run()) == descent


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("servers", [1, 2, 5])
def test_sequential_result_does_not_depend_on_the_number_of_ranks(
    workers: int, servers: int, descent: dict[str, Any]
) -> None:
    config = job(servers=servers, workers=workers)
    assert bits(Simulation(Descent, config, 7 * workers + servers).run()) == descent


@pytest.mark.parametrize("seed", range(3))
def test_compression_changes_bytes_and_no_bit_of_the_result(
    seed: int, descent: dict[str, Any]
) -> None:
    plain = Simulation(Descent, job("model.features=6000"), seed).run()
    packed = Simulation(Descent, job("model.features=6000", "filters.compress=lz4"), seed).run()
    assert bits(plain) == bits(packed) != descent
    counters = packed["counters"]
    assert 0 < counters["lz4_bytes_after"] < counters["lz4_bytes_before"]
    assert "lz4_bytes_after" not in plain["counters"]


def test_result_depends_on_the_seed_and_on_the_number_of_logical_workers(
    descent: dict[str, Any],
) -> None:
    # Else the tests above would compare constants.
    assert bits(Simulation(Descent, job("run.seed=2"), 0).run()) != descent
    assert bits(Simulation(Descent, job(logical=3), 0).run()) != descent


@pytest.mark.parametrize("seed", range(3))
def test_pushes_in_flight_are_parked_and_applied_in_order(seed: int) -> None:
    result = Simulation(Flood, job("model.iterations=40", workers=4), seed).run()
    # A call is over when its pushes are: all have arrived before anybody looks.
    assert result["last"] == [[40.0, 40.0]] * 4
    assert result["sum"] == [4 * 820.0] * 2
    assert result["counters"]["server_parked_slices"] > 100
    assert result["counters"]["worker_open_tasks"] == 0


WRONG = {
    "tables": (1, "ZeroDivisionError: in tables"),
    "tables data": (65, "bad data in tables\nrow 7\nFetch it again."),
    "plan": (1, "ZeroDivisionError: in plan"),
    "plan data": (65, "bad data in plan"),
    "end of the plan": (1, "ZeroDivisionError: in end of the plan"),
    "no task": (1, "the plan yields None, which is no Task"),
    "server": (1, "ZeroDivisionError: in server"),
    "server data": (65, "bad data in server\nrow 7"),
    "worker": (1, "ZeroDivisionError: in worker"),
    "worker data": (65, "bad data in worker\nrow 7"),
    "strange result": (70, "object"),
    "no such table": (1, "there is no table v; there are w"),
    "different ranges": (70, "different ranges"),
}


@pytest.mark.parametrize("place", WRONG)
@pytest.mark.parametrize("seed", range(2))
def test_error_anywhere_ends_the_job_with_its_exit_code(place: str, seed: int) -> None:
    code, text = WRONG[place]
    simulation = Simulation(Wrong, job(f"model.place={place}"), seed)
    with pytest.raises(MpipsError) as error:
        simulation.run()
    assert text in str(error.value)
    assert error.value.exit_code == code == simulation.scheduler.exit_code
    assert simulation.scheduler.result["status"] == "failed"
    # All nodes were told, and had left before the scheduler did, which alone ends with the code.
    members = [node for node in simulation.nodes if isinstance(node, Member)]
    assert [node.has_stopped for node in members] == [True] * 4


@pytest.mark.parametrize("place", ["missing push", "missing push, not awaited"])
def test_job_that_waits_for_ever_is_ended_and_says_for_whom(place: str) -> None:
    with pytest.raises(ProtocolError, match="still, waiting for worker 1, worker 2, worker 3\n"):
        Simulation(Wrong, job(f"model.place={place}"), 0).run()
    with pytest.raises(MpipsError, match="stands still, waiting for worker 1, worker 2, worker 3"):
        run_local(Wrong, job(f"model.place={place}"))


def test_more_ranks_than_logical_workers_do_no_harm() -> None:
    results = [Simulation(Descent, job(workers=n, logical=1), n).run() for n in (1, 3)]
    assert bits(results[0]) == bits(results[1])


@pytest.mark.parametrize("iterations", [0, 1])
def test_job_with_nearly_nothing_to_do_ends(iterations: int) -> None:
    result = Simulation(Descent, job(f"model.iterations={iterations}"), 0).run()
    assert result["status"] == "done"
    assert result["held"] >= 600


def test_empty_table_is_no_trouble() -> None:
    result = Simulation(Descent, job("model.features=0"), 0).run()
    assert result["w"].shape == (0,)


@pytest.mark.slow
def test_many_more_seeds_give_the_same_result(
    rng: np.random.Generator, descent: dict[str, Any]
) -> None:
    # With another --seed these are others.
    for seed in rng.integers(10**6, 10**9, 30).tolist():
        workers, servers = rng.integers(1, 5, 2).tolist()
        config = job(workers=workers, servers=servers)
        assert bits(Simulation(Descent, config, seed).run()) == descent, (seed, workers, servers)
