"""All interleavings of small clusters that lose nodes: every promise holds in every state."""

from typing import Any

import numpy as np
import pytest

from mpips.core.server import ServerMachine
from mpips.store.table import make_store
from mpips.testing.cases import Case
from mpips.testing.explorer import Explorer
from mpips.testing.sites import digits
from mpips.testing.states import clone, freeze
from mpips.wire.messages import Push
from mpips.wire.slices import Slices
from mpips.wire.types import Table, View, make_epoch

PUSH = ("push", "wait")
TWO = ("push", "push", "wait")
READ = ("push", "pull", "wait")
SUMS: dict[str, Any] = {"workers": 2, "mode": "sequential", "answers": True}

# Node 1 owns the segment, node 2 is its first copy; workers follow the servers. The numbers are
# bounds of how many states there are at least: a case that shrinks has lost its point.
CASES = {
    "2 servers, 1 copy, 2 pushes, 1 death": (Case(2, 1, TWO, 1), 250),
    "the same, and the dead go on": (Case(2, 1, TWO, 1, liars=True), 500),
    "3 servers, 2 copies, 1 push, 2 deaths": (Case(3, 2, PUSH, 2), 1_200),
    "the same, and the dead go on ": (Case(3, 2, PUSH, 2, liars=True), 4_000),
    "2 workers aggregate, owner and worker die": (
        Case(2, 1, PUSH, 2, mortal=(1, 3), policy="spread", **SUMS),
        3_000,
    ),
    "the same, and nobody follows the worker": (
        Case(2, 1, PUSH, 2, mortal=(1, 3), policy="drop", **SUMS),
        1_300,
    ),
    # A copy that had more than its new owner goes back, and its clocks with it.
    "3 servers, 2 copies, 1 sum, 1 death": (Case(3, 2, READ, 1, mode="sequential"), 750),
    # A push that comes again waits for all copies, whichever of them has its snapshot first.
    "4 servers, 2 copies, 1 push, 1 death": (Case(4, 2, PUSH, 1), 4_000),
    "3 servers, 1 copy, 1 push, 2 deaths": (Case(3, 1, PUSH, 2), 2_500),
    "2 servers, 1 spare, 1 copy, 1 push, 2 deaths": (Case(2, 1, PUSH, 2, spares=1), 1_000),
}

# What a soak explores beside them: minutes.
LARGE = {
    "3 servers, 2 copies, 2 pushes, 2 deaths": Case(3, 2, TWO, 2),
    "3 servers, 2 copies, 1 sum, 2 deaths": Case(3, 2, READ, 2, mode="sequential"),
    "3 servers, 1 copy, 2 pushes, 2 deaths": Case(3, 1, TWO, 2),
    "2 workers aggregate, owner and worker die but go on": Case(
        2, 1, PUSH, 2, mortal=(1, 3), policy="spread", liars=True, **SUMS
    ),
    "2 workers, 2 pushes in 2 segments, 2 deaths": Case(
        2, 1, PUSH, 2, workers=2, segments=2, mortal=(1, 2, 3), policy="spread", answers=True
    ),
    "2 workers aggregate and read, owner and worker die": Case(
        2, 1, READ, 2, mortal=(1, 3), policy="spread", **SUMS
    ),
    "the same, and nobody follows the worker": Case(
        2, 1, READ, 2, mortal=(1, 3), policy="drop", **SUMS
    ),
    "4 servers, 2 copies, 1 push, 2 deaths": Case(4, 2, PUSH, 2, mortal=(1, 2)),
}
SOAK_STATES = 100_000


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_promises_hold_in_all_interleavings(name: str) -> None:
    case, states = CASES[name]
    found = Explorer(case).run()
    print(f"{name}: {found}")
    assert found.is_complete
    assert found.states >= states
    assert found.interleavings > found.states
    # Some end well; and as many deaths as there are copies lose nothing.
    assert found.ends > found.losses
    if len(case.mortal or range(case.servers)) < case.servers or case.deaths <= case.copies:
        assert not found.losses


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", LARGE)
def test_promises_hold_in_larger_clusters(name: str) -> None:
    found = Explorer(LARGE[name], SOAK_STATES).run()
    print(f"{name}: {found}")
    assert found.is_complete or found.states == SOAK_STATES


@pytest.mark.parametrize(("pushes", "orders"), [(1, 1), (2, 5)])
def test_orders_are_counted(pushes: int, orders: int) -> None:
    # Two pushes and their acks: P1 A1 P2 A2, P1 P2 A1 A2, P1 P2 A2 A1, P2 P1 A1 A2, P2 P1 A2 A1.
    found = Explorer(Case(1, 0, ("push",) * pushes + ("wait",), 0)).run()
    assert (found.interleavings, found.ends, found.is_complete) == (orders, 1, True)


def test_exploration_can_be_bounded() -> None:
    found = Explorer(Case(2, 1, TWO, 1), states_max=100).run()
    assert (found.states, found.is_complete) == (100, False)


def test_job_without_copies_says_what_it_has_lost() -> None:
    found = Explorer(Case(2, 0, PUSH, 1, mortal=(1,))).run()
    assert 0 < found.losses < found.ends


def test_all_may_be_acknowledged_before_the_first_death() -> None:
    found = Explorer(Case(2, 1, TWO, 1)).run()
    assert found.acks == {2: found.ends}


def server() -> ServerMachine:
    """Return a server that owns a table of one key."""
    table = Table(name="t", size=1, segments=1)
    machine = ServerMachine(1, [make_store(table)], 1)
    owners = (np.ones(1, np.int32),)
    machine.install(View(make_epoch(1, 0), (), owners, ()))
    return machine


def push(machine: ServerMachine, number: int) -> None:
    """Let a server take a push of 1."""
    values = np.ones((1, 1))
    slices = Slices.of([(0, number - 1, 0, 1)])
    machine.step(0.0, 2, Push(request=number, table=0, stream=0, number=number, clock=number,
                              pull=False, slices=slices, keys=None, values=values))  # fmt: skip


def test_copies_of_machines_are_equal_and_apart() -> None:
    machine = server()
    push(machine, 1)
    copied, before = clone(machine), freeze(machine)
    assert freeze(copied) == before
    push(copied, 2)
    assert freeze(copied) != before == freeze(machine)
    push(machine, 2)
    assert freeze(copied) == freeze(machine)


def test_states_differ_where_anything_differs_but_statistics() -> None:
    one, other = server(), server()
    push(one, 1)
    # Its values alone; and what is early alone.
    assert freeze(one) != freeze(other)
    push(other, 2)
    with_early = freeze(other)
    assert with_early != freeze(server())
    other._duplicates += 1
    assert freeze(other) == with_early


def test_digits_tell_how_often_each_push_is_there() -> None:
    assert digits(8.0**2 + 3 * 8.0, 3) == [0, 3, 1]
