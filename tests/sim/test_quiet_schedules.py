"""Schedules of nodes that halt and shrink while frames fly and nodes die; broken builds fail."""

from collections.abc import Callable

import msgspec
import pytest

from mpips.core.machine import Effect
from mpips.core.quieting import Quieting
from mpips.node.stillness import Stillness
from mpips.wire.messages import Message
from mpips.wire.quiet import Drained, Shrunk
from tests.sim.quiet_world import Peer, World

FEW, MANY = 150, 5000


def play(seed: int) -> World:
    """Play one schedule."""
    world = World(seed)
    world.play()
    return world


def play_far(seed: int) -> World:
    """Play one schedule in which a node answers so late that it has been given up."""
    world = World(seed, is_far=True)
    world.play(steps=900)
    return world


def check(worlds: list[World]) -> None:
    """Hold schedules to it that nothing went wrong in any, and that all kinds of them came."""
    for seed, world in enumerate(worlds):
        assert world.wrong == [], (seed, world.wrong)
    shrinks = [max(peer.shrinks for peer in world.peers) for world in worlds]
    assert {1, 2} <= set(shrinks)
    lost = sum(world.is_lost for world in worlds)
    assert 0 < lost < len(worlds) / 2
    assert any(0 in world.dead and shrunk for world, shrunk in zip(worlds, shrinks, strict=True))


@pytest.mark.slow
def test_nothing_is_lost_and_all_go_on() -> None:
    check([play(seed) for seed in range(FEW)])
    for seed in range(FEW, FEW + 20):
        assert play_far(seed).wrong == [], seed


def test_halt_of_before_that_comes_late_does_not_hide_the_one_that_is_on() -> None:
    assert play(1255).wrong == []


@pytest.mark.slow
def test_nothing_is_lost_in_many_schedules(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--seed") == 1:
        pytest.skip("for soaks: mpips test sim --soak 2")
    start = MANY * request.config.getoption("--seed")
    check([play(seed) for seed in range(start, start + MANY)])
    for seed in range(start, start + MANY // 10):
        assert play_far(seed).wrong == [], seed


def counts_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quieting, "_is_drained", lambda quieting: True)


def held_messages_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(stillness: Stillness) -> None:
        stillness.is_on = False
        stillness._over = max(stillness._over, stillness._mark)
        stillness._held = []

    monkeypatch.setattr(Stillness, "end", end)


def nothing_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stillness, "holds", lambda *others: False)


def deaths_call_nothing_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def cancel(quieting: Quieting) -> list[Effect]:
        return []

    monkeypatch.setattr(Quieting, "cancel", cancel)


def late_halts_count(monkeypatch: pytest.MonkeyPatch) -> None:
    take = Stillness.take

    def forget(stillness: Stillness, node: Peer, source: int, message: Message) -> None:
        stillness._over = (0, 0)
        take(stillness, node, source, message)  # type: ignore[arg-type]

    monkeypatch.setattr(Stillness, "take", forget)


def answers_of_before_count(monkeypatch: pytest.MonkeyPatch) -> None:
    take = Quieting.take

    def believe(quieting: Quieting, now: float, source: int, message: Drained | Shrunk) -> None:
        new = msgspec.structs.replace(message, epoch=quieting._epoch, number=quieting._number)
        if isinstance(new, Drained):
            new = msgspec.structs.replace(new, attempt=quieting._attempt)
        take(quieting, now, source, new)

    monkeypatch.setattr(Quieting, "take", believe)


def successors_do_not_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    lose = Peer.lose

    def sleep(peer: Peer, node: int) -> None:
        end, peer.stillness.end = peer.stillness.end, lambda: None  # type: ignore[method-assign]
        lose(peer, node)
        peer.stillness.end = end  # type: ignore[method-assign]

    monkeypatch.setattr(Peer, "lose", sleep)


@pytest.mark.slow
@pytest.mark.parametrize("broken", [
    counts_are_not_compared, held_messages_are_forgotten, nothing_is_held,
    deaths_call_nothing_off, late_halts_count, answers_of_before_count,
    successors_do_not_wake,
])  # fmt: skip
def test_broken_build_is_caught(
    broken: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)
    far, near = range(FEW, FEW + 20), range(2 * FEW)
    assert any(play_far(seed).wrong for seed in far) or any(play(seed).wrong for seed in near)
