"""Broken builds of nodes and machines: the checks of simulated runs must notice each of them."""

import copy
from typing import Any

import numpy as np
import pytest

from mpips.core.attendance import Attendance
from mpips.core.client import ClientMachine
from mpips.core.machine import Effect
from mpips.core.scheduler import SchedulerMachine
from mpips.core.server import ServerMachine
from mpips.node.calls import Calls
from mpips.node.member import Member
from mpips.testing import trial
from mpips.testing.checkers import CHECKS, Expected
from mpips.testing.cluster import Simulation
from mpips.testing.faults import draw_faults
from mpips.testing.ledger import Ledger, Settings
from mpips.testing.trial import Shape, run_trial
from mpips.wire.messages import Call, Message, Push, Return, Start
from tests.core import test_mutants
from tests.sim.jobs import job

# Runs in which messages come again, of two servers and two workers: the others would only cost.
SEEDS = [s for s in range(60) if draw_faults(np.random.default_rng([s, 1]), 5).copies >= 0.3]
SMALL = Shape(servers=2, workers=2)


def is_caught() -> bool:
    """Return whether some seed notices that a promise is broken."""
    return any(fails(seed) for seed in SEEDS)


def fails(seed: int, shape: Shape = SMALL) -> bool:
    """Return whether a run fails; a broken scheduler may fail in any way."""
    try:
        return run_trial(seed, shape).has_failed
    except (KeyError, IndexError, StopIteration):
        return True


def test_the_same_runs_of_the_real_build_hold() -> None:
    # Else the tests below would show nothing; `test_trials` runs many more.
    assert not any(fails(seed) for seed in SEEDS[:2])


def test_call_that_runs_each_time_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def take(calls: Calls, call: Call) -> bool:
        original(calls, call)
        return True

    original = Calls.take
    monkeypatch.setattr(Calls, "take", take)
    monkeypatch.setattr(Calls, "note", lambda calls, answer: None)
    assert is_caught()


def test_call_forgotten_with_the_next_one_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    # Knows the last call only, so that late copies of others run again.
    def take(calls: Calls, call: Call) -> bool:
        calls._known = {w: known for w, known in calls._known.items() if call.request in known.seen}
        return original(calls, call)

    original = Calls.take
    monkeypatch.setattr(Calls, "take", take)
    monkeypatch.setattr(Calls, "note", lambda calls, answer: None)
    assert is_caught()


def test_second_start_that_prepares_again_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def receive(node: Member, source: int, message: Message) -> None:
        if isinstance(message, Start):
            node._epoch = 0
        original(node, source, message)

    original = Member.receive
    monkeypatch.setattr(Member, "receive", receive)
    assert is_caught()


def test_return_that_counts_twice_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(machine: SchedulerMachine, now: float, message: Return) -> list[Effect]:
        if machine._open is not None and message.request not in machine._open.places:
            # Takes any answer for one that it waits for.
            request = next(iter(machine._open.places))
            message = Return(request=request, result=message.result)
        return original(machine, now, message)

    original = SchedulerMachine._step_return
    monkeypatch.setattr(SchedulerMachine, "_step_return", step)
    assert is_caught()


class Twice(dict[int, Any]):
    """A dict that counts an entry each time that it is set."""

    entries = 0

    def __setitem__(self, key: int, value: Any) -> None:
        self.entries += 1
        super().__setitem__(key, value)

    def add(self, key: int) -> None:
        """Set an entry, as in a set."""
        self[key] = None

    def __len__(self) -> int:
        return self.entries


@pytest.mark.parametrize("counted", ["hellos", "stopped"])
def test_node_that_is_counted_each_time_it_speaks_is_caught(
    monkeypatch: pytest.MonkeyPatch, counted: str
) -> None:
    def make(nodes: Attendance, expected: dict[int, str]) -> None:
        original(nodes, expected)
        setattr(nodes, counted, Twice())

    def count(nodes: Attendance, here: Any) -> bool:
        return len(here) >= len(nodes.expected)

    original = Attendance.__init__
    monkeypatch.setattr(Attendance, "__init__", make)
    monkeypatch.setattr(Attendance, "are_all", count)
    # Somebody has to be late: sizes and faults of all kinds.
    assert any(fails(seed, Shape()) for seed in range(20))


def test_push_applied_twice_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpips.node.server.ServerMachine", test_mutants.NoDuplicateCheck)
    assert is_caught()


def test_push_lost_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpips.node.server.ServerMachine", test_mutants.DropsEarly)
    assert is_caught()


def test_pull_not_held_back_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whoever looks too early is seen where others are late: many workers, and none that dies.
    monkeypatch.setattr("mpips.node.server.ServerMachine", test_mutants.PullNotHeldBack)
    crowd = Shape(servers=2, workers=4)
    assert any(run_trial(seed, crowd, has_kills=False).has_failed for seed in range(20))


def test_task_that_does_not_wait_for_others_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(client: ClientMachine, *arguments: Any, **more: Any) -> tuple[int, list[Effect]]:
        return original(client, *arguments, **{**more, "after": ()})

    original = ClientMachine.start
    monkeypatch.setattr(ClientMachine, "start", start)
    assert is_caught()


def test_machine_that_breaks_its_invariants_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(machine: ServerMachine) -> None:
        raise AssertionError("an invariant")

    monkeypatch.setattr(ServerMachine, "validate", break_down)
    assert "an invariant" in run_trial(0).error


def test_answer_that_is_never_sent_is_a_job_that_stands_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def step(machine: ServerMachine, now: float, source: int, message: Message) -> list[Effect]:
        effects = original(machine, now, source, message)
        return [] if isinstance(message, Push) else effects

    original = ServerMachine.step
    monkeypatch.setattr(ServerMachine, "step", step)
    monkeypatch.setattr(trial, "DEADLINE_S", 1.0)
    assert "stands still, waiting for worker 0" in run_trial(0, has_kills=False).error


RESULT: dict[str, Any] = {}


@pytest.fixture
def expected() -> Expected:
    """Return what a small ledger has to give, and note what it gave in `RESULT`."""
    config = job("model.steps=2", "model.pushes=3", logical=2)
    if not RESULT:
        RESULT.update(Simulation(Ledger, config, 1).run())
    return Expected(Settings(steps=2, pushes=3), config)


def failing(expected: Expected, **changes: Any) -> list[str]:
    """Return the names of the checks that fail when a result is changed."""
    result = {**RESULT, **changes}
    return [name.partition(",")[0] for name, check in CHECKS.items() if check(expected, result)]


def test_checks_hold_for_what_a_run_gives(expected: Expected) -> None:
    assert failing(expected) == []


@pytest.mark.parametrize("factor", [-1.0, 1.0, 2.0])
def test_one_push_more_or_less_is_named(expected: Expected, factor: float) -> None:
    # The fifth push, number 4, of logical worker 1, where it is.
    row = int(np.flatnonzero(expected.counts(24)[:, 1, 4])[0])
    marks = RESULT["marks"].copy()
    marks[row, 1] += factor * 8.0**4
    assert failing(expected, marks=marks) == ["each push is applied once"]
    (line,) = CHECKS["each push is applied once"](expected, {**RESULT, "marks": marks})
    times = f"{1 + factor:.0f} times, not 1"
    assert line == f"marks: push 4 of logical worker 1 is in row {row} {times}"


def test_one_bit_of_a_sum_is_noticed(expected: Expected) -> None:
    sums = RESULT["sums"].copy()
    place = int(np.flatnonzero(sums)[0])
    sums[place] = np.nextafter(sums[place], np.inf)
    assert failing(expected, sums=sums) == ["sequential sums are the serial program's"]


def test_one_bit_of_a_sum_on_the_way_is_noticed(expected: Expected) -> None:
    seen = copy.deepcopy(RESULT["seen"])
    seen[0][1]["sums"][0] += 1e-12
    lines = CHECKS["sequential sums are the serial program's, bit for bit"](
        expected, {**RESULT, "seen": seen}
    )
    assert lines == ["sums: logical worker 1 saw others than the serial program after step 0"]


def test_key_too_many_is_noticed(expected: Expected) -> None:
    keys = np.append(RESULT["keys"], np.uint64(2**64 - 1))
    found = np.append(RESULT["found"], np.zeros((1, 2)), axis=0)
    assert failing(expected, keys=keys, found=found) == ["each push is applied once"]


@pytest.mark.parametrize(
    ("step", "place", "change", "said"),
    [
        (0, 1, -1.0, "own is missing"),
        (1, 0, -1.0, "finished call is missing"),
        (1, 1, 1.0, "twice"),
        (1, 1, 8.0**5 * 1.0, "twice"),
    ],
)
def test_look_that_sees_too_little_or_too_much_is_noticed(
    expected: Expected, step: int, place: int, change: float, said: str
) -> None:
    row = int(np.flatnonzero(expected.counts(24)[:, 1, 0] & ~expected.counts(24)[:, 1, 5])[0])
    seen = copy.deepcopy(RESULT["seen"])
    seen[step][1]["looks"][place][row, 1] += change
    lines = CHECKS["pulls see what is finished, and never go back"](
        expected, {**RESULT, "seen": seen}
    )
    assert any(said in line for line in lines), lines


def test_look_that_goes_back_is_noticed(expected: Expected) -> None:
    # The same looks, but the last two of a step in the other order.
    seen = copy.deepcopy(RESULT["seen"])
    seen[1][0]["looks"].reverse()
    lines = CHECKS["pulls see what is finished, and never go back"](
        expected, {**RESULT, "seen": seen}
    )
    assert any("has gone" in line for line in lines)


def test_call_that_ran_twice_is_noticed(expected: Expected) -> None:
    served = [[1, 1], [2, 3]]
    assert failing(expected, served=served) == ["each call runs once"]
