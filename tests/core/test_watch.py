"""Silent nodes are killed by their mates, or left behind; who may compute alone is not watched."""

import math

from mpips.core.watch import KILLING_S, Suspicion, Watch
from mpips.wire.types import Member

SILENCE_S = 10.0
MEMBERS = (
    Member(0, "scheduler", "a", 1),
    Member(1, "server", "b", 1),
    Member(2, "worker", "b", 1),
    Member(3, "worker", "c", 1),
    Member(4, "worker", "a", 1),
)
PULSES = dict.fromkeys(range(5), True)


def watch_of(pulses: dict[int, bool] = PULSES, silence_s: float = SILENCE_S) -> Watch:
    watch = Watch(silence_s)
    watch.begin(0.0, MEMBERS, pulses)
    return watch


def run(
    watch: Watch, begin: float, end: float, speakers: tuple[int, ...] = ()
) -> tuple[list[Suspicion], list[tuple[float, int]]]:
    """Let time pass in steps of a quarter of a second, some nodes being heard all the time."""
    suspicions: list[Suspicion] = []
    given_up: list[tuple[float, int]] = []
    for step in range(int(begin * 4), int(end * 4)):
        now = step / 4
        for node in speakers:
            watch.heard(now, node)
        new, lost = watch.tick(now)
        suspicions += new
        given_up += [(now, node) for node in lost]
    return suspicions, given_up


def test_silent_node_is_killed_by_its_mates_and_then_given_up() -> None:
    suspicions, given_up = run(watch_of(), 0, 60, speakers=(1, 4))
    assert suspicions == [Suspicion(2, [1])]
    ((at, node),) = given_up
    assert node == 2
    assert SILENCE_S < at - KILLING_S < SILENCE_S + 1


def test_suspect_whose_death_is_known_in_time_is_not_given_up() -> None:
    watch = watch_of()
    suspicions, given_up = run(watch, 0, SILENCE_S + 1, speakers=(1, 4))
    assert [one.node for one in suspicions] == [2]
    assert given_up == []
    watch.remove(2)
    assert run(watch, SILENCE_S + 1, 60, speakers=(1, 4)) == ([], [])


def test_worker_that_is_alone_on_its_host_may_compute_for_ever() -> None:
    suspicions, _ = run(watch_of(), 0, 100, speakers=(1, 2, 4))
    assert suspicions == []


def test_node_without_a_pulse_and_its_host_are_not_watched() -> None:
    # Nobody on host b can tell of the worker, and nobody can tell of the server.
    suspicions, _ = run(watch_of({**PULSES, 1: False}), 0, 100, speakers=(4,))
    assert suspicions == []
    suspicions, _ = run(watch_of({**PULSES, 2: False}), 0, 100, speakers=(1, 4))
    assert suspicions == []


def test_mates_are_those_that_live() -> None:
    watch = watch_of()
    watch.remove(1)
    suspicions, given_up = run(watch, 0, 60, speakers=(4,))
    assert suspicions == [Suspicion(2, [])]
    assert [node for _, node in given_up] == [2]


def test_endless_silence_suspects_nobody() -> None:
    assert run(watch_of(silence_s=math.inf), 0, 100) == ([], [])
