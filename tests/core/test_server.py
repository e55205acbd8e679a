"""The server's rules, one message after the other."""

from typing import Any

import numpy as np
import pytest

from mpips.core import server as server_module
from mpips.core.machine import Effect, Send
from mpips.core.server import ServerMachine
from mpips.errors import ProtocolError
from mpips.store.table import make_store
from mpips.wire.messages import Message, Pull, Push, PushAck, Ready, Slice, Values
from mpips.wire.slices import Slices
from mpips.wire.types import Table, View, make_epoch

CLIENT, SERVER = 2, 1
SUMS = Table(name="w", size=8, segments=2, aggregate=True, mode="sequential")


def make_server(table: Table, streams: int = 2) -> ServerMachine:
    """Return a server that owns all segments of a table."""
    machine = ServerMachine(SERVER, [make_store(table)], streams)
    owners = np.full(table.segments, SERVER, np.int32)
    machine.install(View(make_epoch(1, 0), (), (owners,), ()))
    return machine


def push(stream: int, number: int, slices: list[Slice], **more: Any) -> Push:
    """Return a push of a range, each value its stream's id and the number."""
    count = sum(count for _, _, _, count in slices)
    fields = {
        "request": 100 * stream + number,
        "table": 0,
        "stream": stream,
        "number": number,
        "clock": number,
        "pull": False,
        "keys": None,
        "values": np.full((count, 1), 10.0 * stream + number),
    }
    return Push(slices=Slices.of(slices), **{**fields, **more})


def pull(request: int, slices: list[Slice]) -> Pull:
    """Return a pull of a range, of a reader that has pushed what it wants to see."""
    clock = max(mark for _, mark, _, _ in slices)
    return Pull(request=request, table=0, slices=Slices.of(slices), keys=None, clock=clock)


def answers(effects: list[Effect]) -> list[Message]:
    """Return the messages of effects, all of which go to the client."""
    assert all(isinstance(effect, Send) and effect.dest == CLIENT for effect in effects)
    return [effect.message for effect in effects if isinstance(effect, Send)]


def step(machine: ServerMachine, message: Message) -> list[Message]:
    """Step the server and check its invariants."""
    effects = machine.step(0.0, CLIENT, message)
    machine.validate()
    return answers(effects)


def test_ack_comes_with_the_push_of_the_last_logical_worker() -> None:
    machine = make_server(SUMS)
    assert step(machine, push(0, 1, [(0, 0, 0, 4)])) == []
    acks = step(machine, push(1, 1, [(0, 0, 0, 4)]))
    assert [ack.request for ack in acks if isinstance(ack, PushAck)] == [1, 101]


def test_ack_waits_for_every_slice_of_its_request() -> None:
    machine = make_server(SUMS)
    assert step(machine, push(0, 1, [(0, 0, 0, 4), (1, 0, 4, 4)])) == []
    first = step(machine, push(1, 1, [(0, 0, 0, 4)]))
    second = step(machine, push(1, 2, [(1, 0, 4, 4)], clock=1))
    assert [ack.request for ack in first + second] == [101, 1, 102]  # type: ignore[attr-defined]


def test_duplicate_is_answered_again_before_and_after_its_sum() -> None:
    machine = make_server(SUMS)
    one, other = push(0, 1, [(0, 0, 0, 4)]), push(1, 1, [(0, 0, 0, 4)])
    assert step(machine, one) == step(machine, one) == []
    assert len(step(machine, other)) == 3
    assert len(step(machine, one)) == 1
    (values,) = step(machine, pull(9, [(0, 1, 0, 4)]))
    assert isinstance(values, Values)
    assert values.values.ravel().tolist() == [12.0] * 4


def test_pull_waits_until_the_clock_of_each_slice_has_come() -> None:
    machine = make_server(SUMS, streams=1)
    assert step(machine, pull(9, [(0, 1, 0, 4), (1, 2, 4, 4)])) == []
    assert len(step(machine, push(0, 1, [(0, 0, 0, 4), (1, 0, 4, 4)]))) == 1
    ack, values = step(machine, push(0, 2, [(1, 1, 4, 4)]))
    assert (ack.request, values.request) == (2, 9)  # type: ignore[attr-defined]
    assert machine.statistics()["waiting"] == 0


def test_pull_that_waits_too_long_says_for_whom_and_where() -> None:
    machine = make_server(SUMS)
    step(machine, push(0, 1, [(0, 0, 0, 4), (1, 0, 4, 4)]))
    machine.step(5.0, CLIENT, pull(9, [(0, 0, 0, 4), (1, 1, 4, 4)]))
    assert machine.stalled(5.0) == []
    lines = [f"node 2 waits for logical worker {n} on keys [4, 8) of w" for n in (0, 1)]
    assert machine.stalled(5.1) == lines


def test_push_pull_gives_the_values_after_its_sum() -> None:
    machine = make_server(SUMS)
    assert step(machine, push(0, 1, [(0, 0, 0, 4)], pull=True)) == []
    values, _ = step(machine, push(1, 1, [(0, 0, 0, 4)]))
    assert isinstance(values, Values)
    assert values.values.ravel().tolist() == [12.0] * 4


@pytest.mark.parametrize("aggregate", [False, True])
def test_thousands_of_pushes_that_come_backwards_are_taken_up(aggregate: bool) -> None:
    machine = make_server(Table(name="w", size=8, segments=2, aggregate=aggregate), streams=1)
    for number in range(3000, 1, -1):
        assert machine.step(0.0, CLIENT, push(0, number, [(0, number - 1, 0, 4)])) == []
    assert len(step(machine, push(0, 1, [(0, 0, 0, 4)]))) == 3000
    out = np.empty((4, 1))
    machine.stores[0].read_range(0, 4, out)
    assert out.ravel().tolist() == [3000 * 3001 / 2] * 4


def test_window_of_early_pushes_is_bounded_and_names_who_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "EARLY_SLICES_MAX", 3)
    machine = make_server(Table(name="w", size=8, segments=2))
    for number in (3, 4, 5):
        step(machine, push(1, number, [(0, number - 1, 0, 4)]))
    with pytest.raises(ProtocolError, match="logical worker 1 to segment 0 of w came early"):
        step(machine, push(1, 6, [(0, 5, 0, 4)]))


def test_push_that_follows_an_older_one_than_the_last_is_refused() -> None:
    """Numbers fork: push 3 says that it follows 1, though 2 has been applied."""
    machine = make_server(Table(name="w", size=8, segments=2))
    step(machine, push(1, 1, [(0, 0, 0, 4)]))
    step(machine, push(1, 2, [(0, 1, 0, 4)]))
    with pytest.raises(ProtocolError, match=r"push 3 of logical worker 1 .* follows 1, but 2"):
        step(machine, push(1, 3, [(0, 1, 0, 4)]))


def test_first_push_of_a_call_counts_though_another_attempt_has_raised_the_numbers() -> None:
    # Push 2 was in segment 1 alone. Both attempts push 3 and 4; the second one's 4 comes first.
    machine = make_server(Table(name="w", size=8, segments=2))
    step(machine, push(1, 1, [(0, 0, 0, 4)]))
    step(machine, push(1, 2, [(1, 0, 4, 4)]))
    again = {"base": 2, "request": 900}
    assert step(machine, push(1, 4, [(0, 3, 0, 4)], **again)) == []
    assert len(step(machine, push(1, 3, [(0, 1, 0, 4)]))) == 2
    assert len(step(machine, push(1, 3, [(0, 2, 0, 4)], **again))) == 1
    (read,) = step(machine, pull(1, [(0, 0, 0, 4)]))
    assert isinstance(read, Values)
    assert read.values.ravel().tolist() == [11.0 + 13.0 + 14.0] * 4


def test_logical_worker_that_pushes_a_later_clock_adds_nothing_to_the_one_before() -> None:
    """Worker 1 has no task 3: its push of clock 4 says so, and waits for worker 0's."""
    machine = make_server(SUMS)
    assert step(machine, push(0, 1, [(0, 0, 0, 4)], clock=3)) == []
    (first,) = step(machine, push(1, 1, [(0, 0, 0, 4)], clock=4))
    assert first.request == 1  # type: ignore[attr-defined]
    (read,) = step(machine, pull(9, [(0, 3, 0, 4)]))
    assert read.values.ravel().tolist() == [1.0] * 4  # type: ignore[attr-defined]
    assert step(machine, pull(10, [(0, 4, 0, 4)])) == []
    both = step(machine, push(0, 2, [(0, 1, 0, 4)], clock=4))
    assert sorted(answer.request for answer in both) == [2, 10, 101]  # type: ignore[attr-defined]
    (read,) = step(machine, pull(11, [(0, 4, 0, 4)]))
    assert read.values.ravel().tolist() == [1.0 + 2.0 + 11.0] * 4  # type: ignore[attr-defined]


def test_key_list_without_keys_is_a_note_of_the_clock_beside_ranges() -> None:
    machine = make_server(SUMS)
    nothing = {"keys": np.empty(0, np.uint64), "values": np.zeros((0, 1))}
    step(machine, push(1, 1, [(0, 0, 0, 0)], **nothing))
    assert len(step(machine, push(0, 1, [(0, 0, 0, 4)]))) == 2
    (read,) = step(machine, pull(9, [(0, 1, 0, 4)]))
    assert read.values.ravel().tolist() == [1.0] * 4  # type: ignore[attr-defined]


def test_logical_workers_that_push_different_ranges_are_refused() -> None:
    machine = make_server(SUMS)
    step(machine, push(0, 1, [(0, 0, 0, 4)]))
    with pytest.raises(ProtocolError, match="different ranges"):
        step(machine, push(1, 1, [(0, 0, 1, 3)]))


@pytest.mark.parametrize("keys", [[1], [1, 2], [0, 1, 2, 3]])
@pytest.mark.parametrize("range_first", [False, True])
def test_range_and_key_list_in_one_clock_are_refused(keys: list[int], range_first: bool) -> None:
    machine = make_server(SUMS)
    listed = {"keys": np.array(keys, np.uint64), "values": np.zeros((len(keys), 1))}
    whole = push(int(not range_first), 1, [(0, 0, 0, 4)])
    part = push(int(range_first), 1, [(0, 0, 0, len(keys))], **listed)
    step(machine, whole if range_first else part)
    with pytest.raises(ProtocolError, match="ranges and key lists"):
        step(machine, part if range_first else whole)


def test_keys_left_out_take_the_clock_and_keep_their_value() -> None:
    machine = make_server(SUMS, streams=1)
    keys, values = np.array([1, 3], np.uint64), np.array([[5.0], [7.0]])
    step(machine, push(0, 1, [(0, 0, 0, 2), (1, 0, 0, 0)], keys=keys, values=values))
    (answer,) = step(machine, pull(9, [(0, 1, 0, 4), (1, 1, 4, 4)]))
    assert isinstance(answer, Values)
    assert answer.values.ravel().tolist() == [0, 5, 0, 7, 0, 0, 0, 0]


def test_pull_of_a_sparse_range_says_how_many_keys_each_slice_has() -> None:
    table = Table(name="s", kind="sparse", segments=2)
    machine = make_server(table, streams=1)
    keys = np.array([3, 5, 2**63 + 1], np.uint64)
    step(machine, push(0, 1, [(0, 0, 0, 2), (1, 0, 0, 1)], keys=keys, values=np.ones((3, 1))))
    (answer,) = step(machine, pull(9, [(0, 0, 4, 2**63 - 4), (1, 0, 2**63, 2**63)]))
    assert isinstance(answer, Values)
    assert answer.keys is not None
    assert (answer.keys.tolist(), answer.counts) == ([5, 2**63 + 1], [1, 1])


def test_message_that_is_for_somebody_else_is_refused() -> None:
    with pytest.raises(ProtocolError, match="no step for Ready"):
        step(make_server(SUMS), Ready())


def test_view_must_be_newer_than_the_one_before() -> None:
    machine = make_server(SUMS)
    with pytest.raises(AssertionError):
        machine.install(View(make_epoch(1, 0), (), (np.zeros(2, np.int32),), ()))
