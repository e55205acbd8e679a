"""The rules of "Scaling Distributed Machine Learning with the Parameter Server" (OSDI 2014).

One test for each rule that is built, its section in the docstring. Rules that are not built yet:

- 3.2 a task from the scheduler to any single node;
- 3.5 filters: significantly modified, random skip, KKT as a filter; users' own filters;
- 4.1 clocks of ranges merged and moved when segments change hands;
- 4.2 key lists cached by their receivers, zeros left out, compression in both directions combined
  with them.

A worker's tasks for servers (3.2) are in `tests/sim/test_worker_calls.py`; bounded delay that the
scheduler changes, and other predicates (3.4), in `test_set_delay.py`, `test_auto_delay.py` and
`test_predicate.py` there; what clocks say of a pull (4.1) in both `test_pull_clocks.py`.
Replication, deaths and successors (4.2 to 4.5) are in `test_osdi14_faults.py`, their traffic in
`test_traffic.py`.
"""

from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest

from mpips.core.clock import RangeClock
from mpips.core.task import Plan, Task
from mpips.filters.chain import FilterChain
from mpips.node.app import App
from mpips.node.kv import Worker
from mpips.node.worker import WorkerNode
from mpips.testing.checkers import Expected, check_sums
from mpips.testing.cluster import Simulation
from mpips.testing.ledger import Ledger, Settings
from mpips.wire.messages import Call, Pull, Push, PushAck, Return, Values
from mpips.wire.types import Table, make_epoch
from tests.node.test_calls import Stage
from tests.paper.cast import Cast
from tests.sim.jobs import job

ONE = Table(name="w", size=4, segments=1)
MANY = Table(name="w", size=16, segments=8)
SUMS = Table(name="w", size=16, segments=4, aggregate=True, mode="sequential")
SPARSE = Table(name="w", kind="sparse", segments=8)


def keys_of(*keys: int) -> np.ndarray:
    """Return a key list."""
    return np.array(keys, np.uint64)


# -- 3.2 Asynchronous tasks and dependency -----------------------------------------------------


def test_caller_returns_at_once_and_goes_on_before_any_answer() -> None:
    """Section 3.2: a task is issued asynchronously; the caller can do something else at once."""
    cast = Cast(ONE)
    timestamps = [cast.push((0, 4), 1.0), cast.pull((0, 4)), cast.push((0, 4), 1.0)]
    assert timestamps == [1, 2, 3]
    # All three are on their way, and nobody has answered anything.
    assert [type(message) for _, _, message in cast.letters] == [Push, Pull, Push]
    assert cast.finished == {}


def test_caller_marks_a_task_as_finished_when_it_has_the_reply() -> None:
    """Section 3.2: the reply is an empty acknowledgement for a push, the pairs for a pull."""
    cast = Cast(ONE)
    push, pull = cast.push((0, 4), 2.0), cast.pull((0, 4))
    cast.deliver()
    assert cast.read(0) == 2.0
    # The server has done it, but the caller does not know.
    assert cast.finished == {}
    pulled = cast.letters[0]
    _, _, ack = cast.deliver(cast.letters[1])
    assert isinstance(ack, PushAck)
    assert cast.finished == {push: None}
    cast.deliver(pulled)
    _, _, values = cast.deliver()
    assert isinstance(values, Values)
    assert cast.finished[pull].tolist() == [[2.0]] * 4


def test_task_is_finished_with_the_last_reply_of_all_servers() -> None:
    """Section 3.2 with 4.2: a task that is split is finished when all of its parts are."""
    cast = Cast(MANY, servers=3)
    push = cast.push((0, 16), 1.0)
    assert len(cast.letters) == 3
    for _ in range(5):
        cast.deliver()
        assert push not in cast.finished
    cast.deliver()
    assert push in cast.finished


def test_callee_marks_a_task_as_finished_only_with_all_subtasks() -> None:
    """Section 3.2: when the call has returned and all subtasks it issued are finished."""
    stage = Stage(WorkerNode)
    stage.say(stage.start)
    # The function returns at once; its push, which it does not wait for, is on its way.
    call = Call(request=1, worker=0, function="push_and_leave", arguments={})
    assert stage.say(call) == []
    ((_, head, payload),) = stage.ends[1].poll()
    push = stage.codec.decode(head, payload)
    assert isinstance(push, Push)
    ack = PushAck(request=push.request, incarnation=make_epoch(1, 0))
    stage.ends[1].send(stage.me, *stage.codec.encode(ack))
    (answer,) = stage.say()
    assert isinstance(answer, Return)
    assert answer.result == "left"


@pytest.mark.parametrize("last_first", [False, True])
def test_callee_runs_tasks_in_parallel_unless_told_otherwise(last_first: bool) -> None:
    """Section 3.2: by default the callee executes tasks in parallel, for best performance."""
    cast = Cast(MANY)
    tasks = [cast.push((0, 2), 1.0), cast.push((2, 4), 1.0)]
    letters = cast.letters[:]
    if last_first:
        letters, tasks = letters[::-1], tasks[::-1]
    # One is done and finished while nothing of the other has arrived.
    cast.deliver(letters[0])
    cast.deliver(cast.letters[-1])
    assert list(cast.finished) == tasks[:1]
    cast.deliver_all()
    assert list(cast.finished) == tasks


def test_execute_after_finished_of_figure_5() -> None:
    """Section 3.2, figure 5: iterations 10 and 11 are independent, 12 depends on 11.

    12 starts only after 11's pull is done. 11 has used the same weights as 10, so that both have
    the same gradient.
    """
    cast = Cast(ONE)
    w: dict[int, Any] = {}
    gradients: dict[int, Any] = {}
    ten, eleven = cast.pull((0, 4)), cast.pull((0, 4))
    cast.deliver_all()
    for iteration, pull in ((10, ten), (11, eleven)):
        w[iteration] = cast.finished[pull]
        gradients[iteration] = 1.0 - w[iteration]
    assert np.array_equal(gradients[10], gradients[11])
    pushed = cast.push((0, 4), gradients[10])
    both = cast.push((0, 4), gradients[11], pull=True)
    twelve = cast.pull((0, 4), after=[both])
    # Deliver 10's push and its ack, then 11's push: nothing of 12 is sent before 11's reply.
    for _ in range(3):
        cast.deliver()
        assert not any(isinstance(message, Pull) for _, _, message in cast.letters)
    assert pushed in cast.finished
    cast.deliver()
    assert both in cast.finished
    assert isinstance(cast.letters[0][2], Pull)
    cast.deliver_all()
    assert np.array_equal(cast.finished[twelve], gradients[10] + gradients[11])


def test_dependencies_on_finished_tasks_cost_nothing() -> None:
    """Section 3.2: a dependency is on a task being finished, whenever that was."""
    cast = Cast(ONE)
    push = cast.push((0, 4), 1.0)
    cast.deliver_all()
    cast.pull((0, 4), after=[push])
    assert len(cast.letters) == 1


# -- 3.4 Flexible consistency ------------------------------------------------------------------


def test_tasks_that_each_depend_on_the_one_before_run_one_at_a_time() -> None:
    """Section 3.4, sequential: the next task is started only when the one before has finished."""
    cast = Cast(ONE)
    before: list[int] = []
    for _ in range(4):
        before = [cast.push((0, 4), 1.0, after=before)]
    for finished in range(4):
        assert len(cast.letters) == 1
        assert len(cast.finished) == finished
        cast.deliver()
        cast.deliver()
    assert cast.read(0) == 4.0


def test_tasks_without_dependencies_are_all_started() -> None:
    """Section 3.4, eventual: all tasks may be started simultaneously."""
    cast = Cast(ONE)
    for _ in range(4):
        cast.push((0, 4), 1.0)
    assert len(cast.letters) == 4
    assert cast.finished == {}


@pytest.mark.parametrize("workers", [1, 3])
def test_sequential_consistency_gives_the_result_of_one_thread(workers: int) -> None:
    """Section 3.4: "identical to the single-thread implementation", here bit for bit."""
    config = job("model.steps=3", servers=2, workers=workers, logical=3)
    result = Simulation(Ledger, config, workers).run()
    assert check_sums(Expected(Settings(steps=3), config), result) == []


# -- 3.5 Filters -------------------------------------------------------------------------------


def test_filters_are_undone_in_the_opposite_order() -> None:
    """Section 3.5: filters are placed one upon another; what is left is the message itself."""
    values = np.zeros((5000, 1))
    push = Push(
        request=1,
        table=0,
        stream=0,
        number=1,
        clock=1,
        pull=False,
        slices=[(0, 0, 0, 5000)],
        keys=None,
        values=values,
    )
    sender, receiver = FilterChain(["lz4", "lz4"]), FilterChain(["lz4", "lz4"])
    coded = sender.encode(push)
    assert isinstance(coded, Push)
    assert coded.values.nbytes < values.nbytes / 20
    back = receiver.decode(coded)
    assert isinstance(back, Push)
    assert np.array_equal(back.values.reshape(values.shape), values)


# -- 4.1 Vector clock --------------------------------------------------------------------------


def test_range_clock_is_one_range_at_first() -> None:
    """Section 4.1: initially there is one range, the whole key space, at time 0."""
    clock = RangeClock(2**64)
    assert list(clock.pieces(0, 2**64)) == [(0, 2**64, 0)]


def test_range_clock_splits_as_in_algorithm_2() -> None:
    """Section 4.1, algorithm 2: what the range covers takes the time, the rest keeps its own."""
    clock = RangeClock(100)
    clock.advance(20, 60, 1)
    clock.advance(40, 80, 2)
    assert list(clock.pieces(0, 100)) == [(0, 20, 0), (20, 40, 1), (40, 80, 2), (80, 100, 0)]


@pytest.mark.parametrize("seed", range(20))
def test_range_clock_is_the_dense_clock_in_less_memory(seed: int) -> None:
    """Section 4.1: equal to a clock for each key; each range splits others by two at the most."""
    random = np.random.default_rng(seed)
    clock, dense, ranges = RangeClock(50), np.zeros(50, np.int64), set()
    for time in range(1, 40):
        begin, end = np.sort(random.choice(51, 2, replace=False)).tolist()
        before = len(clock)
        clock.advance(begin, end, time)
        dense[begin:end] = time
        ranges.add((begin, end))
        assert len(clock) <= min(before + 2, 2 * len(ranges) + 1)
        low, high = np.sort(random.choice(51, 2, replace=False)).tolist()
        assert clock.least(low, high) == dense[low:high].min()
    for begin, end, time in clock.pieces(0, 50):
        assert (dense[begin:end] == time).all()


@pytest.mark.parametrize("times", [1, 2, 3])
def test_data_that_is_sent_twice_is_rejected_and_acknowledged(times: int) -> None:
    """Section 4.1: clocks serve to reject data sent doubly; here numbers do (DESIGN, section 4)."""
    cast = Cast(ONE)
    push = cast.push((0, 4), 1.0)
    letter = cast.letters[0]
    for _ in range(times):
        cast.deliver(letter, keep=True)
    cast.deliver(letter)
    assert cast.read(0) == 1.0
    # Each copy was answered; the caller takes one of the answers.
    assert len(cast.letters) == times + 1
    cast.deliver_all()
    assert cast.finished == {push: None}


def test_data_that_comes_early_is_kept_until_its_turn() -> None:
    """Section 4.1: data of one node are applied in the order of its time."""
    table = msgspec.structs.replace(ONE, update="assign")
    cast = Cast(table)
    cast.push((0, 4), 1.0)
    cast.push((0, 4), 2.0)
    first, second = cast.letters
    cast.deliver(second)
    assert cast.read(0) == 0.0
    cast.deliver(first)
    assert cast.read(0) == 2.0


# -- 4.2 Messages ------------------------------------------------------------------------------


def test_message_with_a_subset_of_the_keys_leaves_the_others_as_they_are() -> None:
    """Section 4.2: a missing key takes the same time and keeps its value.

    So the clock of the whole range has come when some keys, or none, were pushed: pulls that
    wait for it are answered.
    """
    cast = Cast(SUMS, workers=2)
    cast.push(keys_of(1, 9), 1.0, worker=0)
    pull = cast.pull((0, 16), worker=0)
    cast.push(keys_of(), 5.0, worker=1)
    cast.deliver_all()
    assert np.flatnonzero(cast.finished[pull]).tolist() == [1, 9]
    assert cast.finished[pull].sum() == 2.0


@pytest.mark.parametrize("servers", [1, 2, 3])
def test_message_is_split_by_key_range_to_the_owners(servers: int) -> None:
    """Section 4.2: a message to the server group is split, each part with its part of keys."""
    cast = Cast(MANY, servers=servers)
    keys = keys_of(0, 3, 4, 7, 8, 15)
    cast.push(keys, np.arange(1.0, 7.0))
    parts = [(dest, message) for _, dest, message in cast.letters]
    assert len({dest for dest, _ in parts}) == len(parts)
    sent = []
    for dest, message in parts:
        assert isinstance(message, Push)
        assert message.keys is not None
        segments = message.keys.astype(int) // MANY.segment_size
        assert (cast.owners[segments] == dest).all()
        assert len(message.values) == len(message.keys)
        sent += message.keys.tolist()
    assert sorted(sent) == keys.tolist()
    cast.deliver_all()
    assert [cast.read(int(key)) for key in keys] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


@pytest.mark.parametrize("servers", [1, 3])
def test_range_pull_gives_all_keys_that_exist_in_it(servers: int) -> None:
    """Section 3.1: all existing entries in a range of keys; a key that is absent is 0."""
    cast = Cast(SPARSE, servers=servers)
    keys = keys_of(3, 2**40, 2**62, 2**63 + 5)
    cast.push(keys, np.array([1.0, 2.0, 3.0, 4.0]))
    cast.deliver_all()
    some, absent = cast.pull((4, 2**63)), cast.pull(keys_of(4, 2**62))
    cast.deliver_all()
    found, values = cast.finished[some]
    assert found.tolist() == [2**40, 2**62]
    assert values.ravel().tolist() == [2.0, 3.0]
    assert cast.finished[absent].ravel().tolist() == [0.0, 3.0]


class Echo(App):
    """Has tasks with arguments and results."""

    Settings: ClassVar[type[msgspec.Struct]] = Settings

    def tables(self) -> list[Table]:
        """Return none."""
        return []

    def plan(self) -> Plan:
        """Ask all workers, and hand the answers back to one."""
        answers = yield Task(group="workers", function="say", arguments={"word": np.arange(3.0)})
        (last,) = yield Task(group="workers", function="say", arguments={"word": answers}, only=1)
        return {"answers": answers, "last": last}

    async def say(self, worker: Worker, word: Any) -> Any:
        """Return who this is and what it was told."""
        return {"id": worker.id, "word": word}


def test_message_of_a_task_carries_its_arguments_and_its_result() -> None:
    """Section 4.2: tasks use the same format: the task's id, and arguments or return value."""
    result = Simulation(Echo, job(), 1).run()
    assert [answer["id"] for answer in result["answers"]] == [0, 1, 2, 3]
    assert all(answer["word"].tolist() == [0.0, 1.0, 2.0] for answer in result["answers"])
    assert result["last"]["id"] == 1
    assert [answer["id"] for answer in result["last"]["word"]] == [0, 1, 2, 3]
