"""Key lists that travel as signatures: whoever forgets one, the outcome is the same."""

from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import pytest

from mpips.core import client, known, replication, server
from mpips.core.client import ClientMachine
from mpips.core.known import KnownLists
from mpips.core.machine import Finished, Send
from mpips.core.server import ServerMachine
from mpips.errors import ProtocolError
from mpips.filters.caching import MISSES_MAX, Recent, SentLists
from mpips.store.base import Store
from mpips.store.table import make_store
from mpips.wire.messages import Forgotten, Message, Pull, Push
from mpips.wire.types import KeyArray, Table, View, make_epoch
from tests.core.redo import RedoSchedule
from tests.core.redo_kinds import BoundedRedo, FreeRedo, SumRedo
from tests.core.schedules import FreeSchedule, SumSchedule
from tests.core.world import draw_keys

SEEDS = 40
SPARSE = Table(name="s", kind="sparse", segments=4)
KEYS = np.arange(1, 200, dtype=np.uint64) * np.uint64(2**56)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let lists of any length be remembered, and servers remember a few keys."""
    sent = partial(SentLists, 1, 10**4)
    for module in (client, replication):
        monkeypatch.setattr(module, "SentLists", sent)
    monkeypatch.setattr(server, "KnownLists", partial(KnownLists, bytes_max=120))


class Repeats:
    """Draws keys from a few lists, which so come again and again."""

    def draw_where(self, kind: str) -> Any:
        """Return one of four key lists, or now and then something else."""
        here: Any = self
        if not hasattr(self, "_lists"):
            self._lists = [draw_keys(here.rng, here.keys) for _ in range(4)]
        if here.rng.random() < 0.2:
            return super().draw_where(kind)  # type: ignore[misc]
        return self._lists[int(here.rng.integers(4))]


class FreeRepeats(Repeats, FreeSchedule):
    """Pushes that are applied as they come, to a few lists."""


class FreeRedoRepeats(FreeRedo):
    """The same, while nodes die."""

    def draw_where(self, ranges: float) -> Any:
        """Return one of three key lists and its places, or now and then something else."""
        if not hasattr(self, "_lists"):
            self._lists = [FreeRedo.draw_where(self, 0.0) for _ in range(3)]
        if self.rng.random() < 0.2:
            return super().draw_where(ranges)
        return self._lists[int(self.rng.integers(3))]


# -- One server and one client, message by message -----------------------------------------------


class Pair:
    """A client and a server, joined by hand."""

    def __init__(self, table: Table = SPARSE, bytes_max: int = 10**6) -> None:
        self.store = make_store(table)
        self.server = ServerMachine(1, [self.store], 1)
        self.server.lists = KnownLists([self.store], bytes_max)
        self.client = ClientMachine(2, [table], [(1, 1)])
        owners = np.full(table.segments, 1, np.int32)
        for machine in (self.server, self.client):
            machine.install(View(make_epoch(1, 0), (), (owners,), ()))
        self.sent: list[Message] = []

    def do(self, where: KeyArray, values: Any = None, **more: Any) -> Any:
        """Push or pull to the end, and return the result; `sent` has the requests."""
        self.sent = []
        _, effects = self.client.start(0, 0, where, values, pull=values is None, **more)
        return self.go_on(effects)

    def go_on(self, effects: list[Any]) -> Any:
        """Carry messages until a task is finished."""
        while True:
            done = [e for e in effects if isinstance(e, Finished)]
            if done:
                return done[0].result
            (send,) = effects
            assert isinstance(send, Send)
            if send.dest == 1:
                self.sent.append(send.message)
                effects = self.server.step(0.0, 2, send.message)
            else:
                effects = self.client.step(0.0, 1, send.message)

    @property
    def keys_sent(self) -> list[bool]:
        """Return of the last requests whether their keys travelled."""
        return [m.keys is not None for m in self.sent if isinstance(m, Push | Pull)]


def test_repeated_list_travels_once() -> None:
    pair, ones = Pair(), np.ones((len(KEYS), 1))
    travelled = []
    for _ in range(4):
        pair.do(KEYS, ones)
        travelled += pair.keys_sent
    # The first one might be the only one; the second one is remembered.
    assert travelled == [True, True, False, False]
    assert pair.do(KEYS).ravel().tolist() == [4.0] * len(KEYS)
    assert pair.keys_sent == [False]
    assert pair.client.statistics()["list_bytes_saved"] == 3 * KEYS.nbytes


def test_list_that_was_pulled_is_known_to_the_push_after_it() -> None:
    pair = Pair()
    pair.do(KEYS)
    pair.do(KEYS, np.ones((len(KEYS), 1)))
    assert pair.keys_sent == [False]
    assert pair.do(KEYS).ravel().tolist() == [1.0] * len(KEYS)


def test_short_lists_are_left_alone() -> None:
    pair = Pair()
    for _ in range(3):
        pair.do(KEYS[:20], np.ones((20, 1)))
        assert pair.keys_sent == [True]


def test_forgotten_list_is_asked_for_and_applied_once() -> None:
    pair, other = Pair(bytes_max=KEYS.nbytes), KEYS + np.uint64(1)
    for _ in range(3):
        pair.do(KEYS, np.ones((len(KEYS), 1)))
    pair.do(other)
    pair.do(KEYS, np.ones((len(KEYS), 1)))
    assert pair.keys_sent == [False, True]
    assert pair.do(KEYS).ravel().tolist() == [4.0] * len(KEYS)
    assert pair.client.statistics()["forgotten_lists"] == 1


def test_list_that_is_always_forgotten_travels_at_last() -> None:
    pair = Pair(bytes_max=8)
    asked = []
    for _ in range(8):
        pair.do(KEYS, np.ones((len(KEYS), 1)))
        asked.append(len(pair.sent))
    assert asked.count(2) == MISSES_MAX
    assert asked[-1] == 1
    assert pair.keys_sent == [True]


def test_list_changed_in_place_is_another_list() -> None:
    pair, mine = Pair(), KEYS.copy()
    for _ in range(3):
        pair.do(mine, np.ones((len(mine), 1)))
    mine[:] = KEYS + np.uint64(7)
    pair.do(mine, np.full((len(mine), 1), 5.0))
    assert pair.do(KEYS).ravel().tolist() == [3.0] * len(KEYS)
    assert pair.do(KEYS + np.uint64(7)).ravel().tolist() == [5.0] * len(KEYS)


def test_new_server_is_given_the_list_again() -> None:
    pair = Pair()
    for _ in range(3):
        pair.do(KEYS, np.ones((len(KEYS), 1)))
    fresh = Pair()
    pair.server, pair.store = fresh.server, fresh.store
    # It answers for all numbers from here on, as a copy that was promoted would.
    pair.do(KEYS)
    assert pair.keys_sent == [False, True]


def test_late_and_repeated_answers_do_nothing() -> None:
    pair = Pair()
    for _ in range(3):
        pair.do(KEYS, np.ones((len(KEYS), 1)))
    _, effects = pair.client.start(0, 0, KEYS, np.ones((len(KEYS), 1)))
    push: Any = effects[0]
    assert push.message.keys is None
    forgotten = Forgotten(request=push.message.request, table=0, signature="")
    (again,) = pair.client.step(0.0, 1, forgotten)
    assert pair.client.step(0.0, 1, forgotten) == []
    # Both requests come in the end, the first one last.
    assert isinstance(again, Send)
    pair.go_on([again])
    for answer in pair.server.step(0.0, 2, push.message):
        assert isinstance(answer, Send)
        assert pair.client.step(0.0, 1, answer.message) == []
    assert pair.do(KEYS).ravel().tolist() == [4.0] * len(KEYS)


# -- Schedules -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FreeRepeats, SumSchedule])
@pytest.mark.usefixtures("small")
def test_pushes_are_applied_once_whatever_is_forgotten(kind: type[FreeSchedule]) -> None:
    for seed in range(SEEDS // 4):
        kind(seed).run()


@pytest.mark.parametrize("first", range(0, SEEDS, 2))
@pytest.mark.parametrize("kind", [FreeRedoRepeats, BoundedRedo, SumRedo])
@pytest.mark.usefixtures("small")
def test_pushes_are_applied_once_whoever_dies(kind: type[RedoSchedule], first: int) -> None:
    for seed in range(first, first + 2):
        kind(seed).run()


@pytest.mark.usefixtures("small")
def test_schedules_have_lists_that_are_known_and_forgotten() -> None:
    total: Counter[str] = Counter()
    for seed in range(8):
        world = FreeRepeats(seed).run()
        for machine in world.clients.values():
            total.update(machine.statistics())
    assert min(total["shortened_lists"], total["forgotten_lists"]) > 5, total


# -- Broken builds -------------------------------------------------------------------------------


def catches(kind: type[Any]) -> bool:
    """Return whether some schedule of a kind notices that something is broken."""
    for seed in range(SEEDS):
        try:
            kind(seed).run()
        except (AssertionError, ProtocolError, ValueError):
            return True
    return False


@pytest.mark.usefixtures("small")
def test_wrong_list_after_eviction_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    get = Recent.get

    def get_any(self: Any, name: Any) -> Any:
        # Whoever lacks a list takes one of the same table that is there.
        found = get(self, name)
        others = [value for value, _ in self._all.values() if isinstance(value, tuple)]
        return others[0] if found is None and others else found

    monkeypatch.setattr(Recent, "get", get_any)
    assert catches(FreeRepeats)


@pytest.mark.usefixtures("small")
def test_slots_that_stay_when_segments_go_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    locate = Store._locate

    def locate_once(self: Store, keys: KeyArray, insert: bool) -> Any:
        kept = self._kept.find(keys)
        if kept is not None and kept.generation >= 0:
            return kept.slots, kept.first
        return locate(self, keys, insert)

    monkeypatch.setattr(Store, "_locate", locate_once)
    store = make_store(SPARSE)
    store.hold_many(range(4))
    keys = KEYS.copy()
    store.keep(keys)
    store.update_keys(keys, np.ones((len(keys), 1)))
    store.drop_many([0, 1])
    store.hold_many([0, 1])
    out = np.empty((len(keys), 1))
    store.read_keys(keys, out)
    assert out.ravel().tolist() != [0.0 if k < 2**63 else 1.0 for k in keys.tolist()]


@pytest.mark.usefixtures("small")
def test_unknown_list_without_an_answer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "Forgotten", lambda **_: None)
    assert catches(FreeRepeats)
