"""Whole simulated jobs that shrink after deaths: no frame is lost, and no death overlooked."""

from collections import Counter
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from mpips.core.machine import Effect
from mpips.core.quieting import Quieting
from mpips.errors import ProtocolError
from mpips.node.loop import Node
from mpips.node.scheduler import SchedulerNode
from mpips.node.worker import WorkerNode
from mpips.testing.cluster import Simulation
from mpips.testing.faults import CALM
from mpips.testing.network import DELAY_S_MAX, Network
from mpips.testing.trial import Shape, Trial, draw_setup, play_trial
from mpips.transport.base import Frame
from mpips.wire.frame import Codec
from mpips.wire.messages import Beat, Message
from mpips.wire.quiet import Drained, Halt, Shrink, Shrunk

SHAPE = Shape(servers=3, workers=3, spares=1, replicas=1)
SEEDS = 6
CALLED_OFF = range(3)
LATE = range(4)
TOO_LATE_S = 8.0


@pytest.fixture
def overlooked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Orders to shrink that schedulers have given though they knew of further deaths."""
    found: list[int] = []
    send = Node.send

    def watch(node: Node, dest: int, message: Message) -> None:
        if isinstance(node, SchedulerNode) and isinstance(message, Shrink):
            found.extend(node.transport.dead.difference(message.dead))
        send(node, dest, message)

    monkeypatch.setattr(Node, "send", watch)
    return found


@pytest.fixture
def death_in_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a worker die in the round after all counts match, as long as another one is left."""
    take, begin = Quieting.take, Simulation._begin_round
    waiting: list[float] = []

    def note(quieting: Quieting, now: float, source: int, message: Drained | Shrunk) -> None:
        take(quieting, now, source, message)
        if quieting.state == "waiting":
            waiting.append(now)

    def strike(simulation: Simulation) -> None:
        workers = [at for at, node in enumerate(simulation.nodes) if isinstance(node, WorkerNode)]
        left = set(workers) - simulation.dead
        if waiting and len(left) > 1:
            simulation.kill(max(left))
        waiting.clear()
        begin(simulation)

    monkeypatch.setattr(Quieting, "take", note)
    monkeypatch.setattr(Simulation, "_begin_round", strike)


@pytest.fixture
def late_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an order to shrink come to the last node when it has given up standing still."""
    fly = Network._fly

    def delay(network: Network, seconds: float, dest: int, copy: int, frame: Frame) -> None:
        is_order = dest == SHAPE.nodes - 1 and network._name(frame) == "Shrink"
        fly(network, TOO_LATE_S if is_order else seconds, dest, copy, frame)

    monkeypatch.setattr(Network, "_fly", delay)


def play(seed: int, shape: Shape = SHAPE) -> Trial:
    """Run a job in which one node dies, and another one soon after, or after a first shrink.

    No frame comes twice: copies look like frames that were never sent, and nothing is shrunk then.
    """
    random = np.random.default_rng([seed, 9])
    setup = draw_setup(seed, shape, has_kills=True)
    first, second = random.choice(shape.nodes, 2, replace=False).tolist()
    at = float(random.uniform(0.0, 0.1))
    later = float(random.uniform(0.02, 0.2) if random.random() < 0.6 else random.uniform(2.0, 12.0))
    kills = ((at, first), (at + later, second))
    slow = {tuple(random.choice(shape.nodes, 2).tolist()): 300.0 for _ in range(12)}
    faults = replace(CALM, after_begin=True, kills=kills, slow_links=slow, heal_s=60.0)
    settings = msgspec.structs.replace(setup.settings, steps=6, reissue_s=0.0)
    return play_trial(seed, replace(setup, faults=faults, settings=settings, silence_s=3.0))


def shrinks(trial: Trial) -> int:
    """Return how often the nodes of a run have shrunk at most."""
    return max(node.transport.shrinks for node in trial.simulation.nodes)


def test_jobs_shrink_after_deaths_and_lose_nothing(overlooked: list[int]) -> None:
    trials = [play(seed) for seed in range(SEEDS)]
    for trial in trials:
        assert not trial.has_failed, (trial.seed, trial.error, trial.violations)
    assert overlooked == []
    counts = Counter(shrinks(trial) for trial in trials)
    assert counts[1] + counts[2] >= SEEDS / 2, counts
    told = [arrival.message for trial in trials for arrival in trial.simulation.network.trace]
    # Some were called off.
    assert "GoOn" in told


@pytest.mark.slow
def test_many_more_jobs_shrink_and_lose_nothing(
    overlooked: list[int], request: pytest.FixtureRequest
) -> None:
    if request.config.getoption("--seed") == 1:
        pytest.skip("for soaks: mpips test sim --soak 2")
    start = 1000 * request.config.getoption("--seed")
    trials = [play(seed) for seed in range(start, start + 40)]
    for trial in trials:
        assert not trial.has_failed, (trial.seed, trial.error, trial.violations)
    assert overlooked == []
    counts = Counter(shrinks(trial) for trial in trials)
    assert counts[2] > 0, counts


@pytest.mark.usefixtures("late_order")
def test_who_waits_in_a_shrink_for_one_who_gave_up_is_ended_by_the_watchdog() -> None:
    ended = 0
    for seed in LATE:
        trial = play(seed)
        assert not trial.has_failed, (seed, trial.error, trial.violations)
        nodes, dead = trial.simulation.nodes, trial.simulation.dead
        inside = {at for at, node in enumerate(nodes) if node.transport.shrinks}
        if SHAPE.nodes - 1 not in dead:
            # Nobody comes out; the others go on without them, or the job starts again.
            assert inside, seed
            assert inside <= dead, seed
            ended += 1
    assert ended


def late(message: Message) -> None:
    """Let a message be sent before a shrink of two nodes, and arrive after it."""
    network = Network(2, np.random.default_rng(1))
    one, other = network.transports()
    one.send(1, Codec().encode(message)[0])
    for transport in (one, other):
        transport.shrink([], lambda: None)
    while network.advance(DELAY_S_MAX) is not None:
        pass
    assert other.poll() == []


def test_frame_that_a_shrink_loses_is_told_unless_nobody_waits_for_it() -> None:
    # One that is asked a second time answers that, and may shrink before the first comes.
    late(Halt(epoch=1, number=1, attempt=1))
    with pytest.raises(ProtocolError, match="lost a Beat of node 0 for node 1"):
        late(Beat(epoch=1, moved=[]))


def test_shrink_without_counts_that_match_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quieting, "_is_drained", lambda quieting: True)
    assert any(play(seed).has_failed for seed in range(2 * SEEDS))


@pytest.mark.usefixtures("death_in_grace")
def test_death_of_which_the_scheduler_knows_calls_a_shrink_off(overlooked: list[int]) -> None:
    trials = [play(seed) for seed in CALLED_OFF]
    for trial in trials:
        assert not trial.has_failed, (trial.seed, trial.error, trial.violations)
    assert overlooked == []
    assert all("GoOn" in [a.message for a in t.simulation.network.trace] for t in trials)


@pytest.mark.usefixtures("death_in_grace")
def test_shrink_that_no_death_calls_off_is_caught(
    monkeypatch: pytest.MonkeyPatch, overlooked: list[int]
) -> None:
    def cancel(quieting: Quieting) -> list[Effect]:
        return []

    monkeypatch.setattr(Quieting, "cancel", cancel)
    assert any(play(seed).has_failed or overlooked for seed in CALLED_OFF)
