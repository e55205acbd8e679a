"""The client's rules: what it sends for a task, and when the task is finished."""

from typing import Any

import numpy as np
import pytest

from mpips.core import slicing
from mpips.core.client import ClientMachine
from mpips.core.machine import Effect, Finished, Send
from mpips.errors import ProtocolError
from mpips.wire.messages import Pull, Push, PushAck, Ready, Values
from mpips.wire.types import Member, Table, View, make_epoch

DENSE = Table(name="w", size=12, segments=4)
SUMS = Table(name="w", size=12, segments=4, aggregate=True, mode="sequential")


def make_client(table: Table, owners: list[int] | None = None) -> ClientMachine:
    """Return a client of a table whose segments have these owners."""
    machine = ClientMachine(5, [table], [(table.width, table.width)])
    of = np.array(owners or [1] * table.segments, np.int32)
    machine.install(View(make_epoch(1, 0), (), (of,), ()))
    return machine


def sent(effects: list[Effect]) -> list[Any]:
    """Return the messages of effects that only send."""
    messages = [effect.message for effect in effects if isinstance(effect, Send)]
    assert len(messages) == len(effects)
    return messages


def ack(machine: ClientMachine, *messages: Push | Pull) -> list[Effect]:
    """Acknowledge pushes and return what follows."""
    return [e for m in messages for e in machine.step(0.0, 1, PushAck(request=m.request))]


def ones(count: int, **more: Any) -> dict[str, Any]:
    """Return the values of a push."""
    return {"values": np.ones((count, 1)), **more}


def test_slice_names_the_number_of_the_push_before_on_its_segment() -> None:
    machine = make_client(DENSE)
    ranges = [(0, 3), (0, 6), (3, 9), (0, 12)]
    pushes = [sent(machine.start(0, 0, r, **ones(r[1] - r[0]))[1])[0] for r in ranges]
    assert [push.number for push in pushes] == [1, 2, 3, 4]
    marks = [{s: mark for s, mark, _, _ in push.slices} for push in pushes]
    assert marks == [{0: 0}, {0: 1, 1: 0}, {1: 2, 2: 0}, {0: 2, 1: 3, 2: 3, 3: 0}]


def test_logical_workers_of_one_client_have_numbers_of_their_own() -> None:
    machine = make_client(DENSE)
    pushes = [sent(machine.start(0, s, (0, 3), **ones(3))[1])[0] for s in (0, 1, 0)]
    assert [(p.stream, p.number) for p in pushes] == [(0, 1), (1, 1), (0, 2)]


def test_request_goes_to_the_owner_of_its_segments() -> None:
    machine = make_client(DENSE, owners=[1, 2, 1, 2])
    _, effects = machine.start(0, 0, (0, 12), np.arange(12.0).reshape(12, 1))
    dests = [effect.dest for effect in effects if isinstance(effect, Send)]
    parts = [message.values.ravel().tolist() for message in sent(effects)]
    rows = dict(zip(dests, parts, strict=True))
    assert rows == {1: [0, 1, 2, 6, 7, 8], 2: [3, 4, 5, 9, 10, 11]}


def test_large_push_is_cut_into_several_requests_that_must_all_be_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slicing, "REQUEST_BYTES_MAX", 2 * 3 * 8)
    machine = make_client(DENSE)
    timestamp, effects = machine.start(0, 0, (0, 12), **ones(12))
    one, other = sent(effects)
    assert [len(message.slices) for message in (one, other)] == [2, 2]
    assert one.number == other.number == 1
    assert ack(machine, other) == ack(machine, other) == []
    assert ack(machine, one) == [Finished(timestamp, None)]


def test_push_to_an_aggregating_table_notes_its_clock_in_segments_without_keys() -> None:
    machine = make_client(SUMS)
    keys = np.array([4], np.uint64)
    (whole,) = sent(machine.start(0, 0, keys, **ones(1))[1])
    ack(machine, whole)
    (part,) = sent(machine.start(0, 0, keys, **ones(1, within=(3, 9)))[1])
    ack(machine, part)
    (none,) = sent(machine.start(0, 0, keys[:0], **ones(0))[1])
    assert [(s, count) for s, _, _, count in whole.slices] == [(0, 0), (1, 1), (2, 0), (3, 0)]
    assert [(s, count) for s, _, _, count in part.slices] == [(1, 1), (2, 0)]
    assert [(s, count) for s, _, _, count in none.slices] == [(0, 0), (1, 0), (2, 0), (3, 0)]


def test_pull_in_sequential_asks_for_the_own_last_clock_of_each_segment() -> None:
    machine = make_client(SUMS)
    machine.start(0, 0, (0, 12), **ones(12, clock=5))
    machine.start(0, 0, (3, 6), **ones(3, clock=8))
    (mine,) = sent(machine.start(0, 0, (0, 12), pull=True)[1])
    (other,) = sent(machine.start(0, 1, (0, 12), pull=True)[1])
    assert [mark for _, mark, _, _ in mine.slices] == [5, 8, 5, 5]
    assert [mark for _, mark, _, _ in other.slices] == [0] * 4


def test_pull_in_eventual_asks_for_no_clock() -> None:
    machine = make_client(DENSE)
    machine.start(0, 0, (0, 12), **ones(12))
    (pull,) = sent(machine.start(0, 0, (0, 12), pull=True)[1])
    assert [mark for _, mark, _, _ in pull.slices] == [0] * 4


@pytest.mark.parametrize("clock", [3, 2, 1])
def test_clock_that_does_not_rise_is_refused_and_changes_nothing(clock: int) -> None:
    machine = make_client(SUMS)
    machine.start(0, 0, (0, 3), **ones(3, clock=3))
    before = machine.statistics()
    with pytest.raises(ValueError, match=f"pushes clock {clock} to table w after clock 3"):
        machine.start(0, 0, (0, 12), **ones(12, clock=clock))
    machine.validate()
    assert machine.statistics() == before


def test_task_starts_when_all_that_it_waits_for_are_finished() -> None:
    machine = make_client(DENSE)
    first, one = machine.start(0, 0, (0, 3), **ones(3))
    second, two = machine.start(0, 0, (3, 6), **ones(3))
    third, none = machine.start(0, 0, (0, 6), pull=True, after=[first, second])
    assert none == []
    assert ack(machine, *sent(two)) == [Finished(second, None)]
    finished, send = ack(machine, *sent(one))
    assert finished == Finished(first, None)
    (pull,) = sent([send])
    values = Values(request=pull.request, table=0, keys=None, values=np.ones((6, 1)), counts=[])
    (effect,) = machine.step(0.0, 1, values)
    assert isinstance(effect, Finished)
    assert effect.timestamp == third
    machine.validate()


def test_task_after_finished_ones_starts_at_once() -> None:
    machine = make_client(DENSE)
    first, effects = machine.start(0, 0, (0, 3), **ones(3))
    ack(machine, *sent(effects))
    assert len(sent(machine.start(0, 0, (0, 3), pull=True, after=[first])[1])) == 1


def test_tasks_without_keys_are_finished_at_once_also_in_a_long_chain() -> None:
    machine = make_client(DENSE)
    first, effects = machine.start(0, 0, (0, 3), **ones(3))
    nothing = np.empty(0, np.uint64)
    assert isinstance(machine.start(0, 0, nothing, pull=True)[1][0], Finished)
    last = first
    for _ in range(3000):
        last, waiting = machine.start(0, 0, nothing, pull=True, after=[last])
        assert waiting == []
    finished = ack(machine, *sent(effects))
    assert [e.timestamp for e in finished if isinstance(e, Finished)][-1] == last
    assert machine.statistics()["open_tasks"] == 0


def test_values_are_written_where_the_caller_wants_them() -> None:
    machine, out = make_client(DENSE), np.zeros((3, 1))
    _, effects = machine.start(0, 0, (3, 6), pull=True, out=out)
    (pull,) = sent(effects)
    part = np.array([[1.0], [2.0], [3.0]])
    answer = Values(request=pull.request, table=0, keys=None, values=part, counts=[])
    (effect,) = machine.step(0.0, 1, answer)
    assert isinstance(effect, Finished)
    assert effect.result is out
    assert out.ravel().tolist() == [1, 2, 3]
    out[:] = 7
    assert machine.step(0.0, 1, answer) == []
    assert out.ravel().tolist() == [7, 7, 7]


def test_message_that_is_no_answer_is_refused() -> None:
    with pytest.raises(ProtocolError, match="no step for Ready"):
        make_client(DENSE).step(0.0, 1, Ready())


def answer_of(pull: Pull, keys: int) -> Values:
    """Return the answer to a pull without its values, as it is while they are being received."""
    return Values(request=pull.request, table=0, keys=None, values=np.empty(0), counts=[])


def test_values_are_received_in_the_callers_array() -> None:
    machine = make_client(DENSE, owners=[1, 2, 2, 1])
    out = np.zeros((12, 1))
    pulls = sent(machine.start(0, 0, (0, 12), pull=True, out=out)[1])
    # That of the first owner lies in two places.
    assert machine.place(1, answer_of(pulls[0], 6), 48) is None
    assert machine.place(1, answer_of(pulls[1], 6), 48) is None, "not its owner"
    assert machine.place(2, answer_of(pulls[1], 6), 40) is None, "of another size"
    target = machine.place(2, answer_of(pulls[1], 6), 48)
    assert target is not None
    assert np.shares_memory(target, out[3:9])
    assert machine.place(2, answer_of(pulls[1], 6), 48) is None, "taken"
    target.view(np.float64)[:] = 7
    values = target.view(np.float64).reshape(-1, 1)
    for pull, got in ((pulls[1], values), (pulls[0], np.full((6, 1), 5.0))):
        given = Values(request=pull.request, table=0, keys=None, values=got, counts=[])
        effects = machine.step(0.0, 1, given)
    assert [effect.timestamp for effect in effects if isinstance(effect, Finished)] == [1]
    assert out[:, 0].tolist() == [5] * 3 + [7] * 6 + [5] * 3


@pytest.mark.parametrize("stays", [True, False])
def test_pull_that_is_being_received_is_sent_again_only_if_its_owner_is_gone(stays: bool) -> None:
    machine = make_client(DENSE)
    (pull,) = sent(machine.start(0, 0, (0, 12), pull=True, out=np.zeros((12, 1)))[1])
    assert machine.place(1, answer_of(pull, 12), 96) is not None
    members = tuple(Member(node, "server", "", 0) for node in ((1, 2) if stays else (2,)))
    epoch = make_epoch(2, 0)
    owners, since = np.full(4, 2, np.int32), np.full(4, epoch)
    again = sent(machine.install(View(epoch, members, (owners,), (), since=(since,))))
    assert len(again) == (not stays)
    # What is not being received is sent again in any case.
    (other,) = sent(machine.start(0, 0, (0, 3), pull=True)[1])
    later = make_epoch(3, 0)
    members = tuple(Member(node, "server", "", 0) for node in (1, 2, 3))
    view = View(later, members, (np.full(4, 3, np.int32),), (), since=(np.full(4, later),))
    assert other.slices[0] in [m.slices[0] for m in sent(machine.install(view))]
