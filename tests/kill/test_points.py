"""Ranks die at named points of the protocol: before and after each message that matters."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mpips.errors import ConfigError
from mpips.files.steps import STEPS
from mpips.node.points import die_at
from mpips.wire.messages import Push, PushAck
from tests.kill.harness import run_plan
from tests.kill.plans import RIGHT, Plan

# Two servers with a copy each, two workers and a spare, all on one host.
SCHEDULER, WORKERS, SPARE, SERVERS = 0, (1, 2), 3, (4, 5)
SIZES = {"servers": 2, "workers": 2, "spares": 1, "logical_workers": 3, "replicas": 1}
POINTS = {
    SERVERS: [
        "take Push", "taken Push", "send Replicate", "sent Replicate", "take Replicate",
        "taken Replicate", "sent Replicated", "take Replicated", "send PushAck", "sent PushAck",
        "take Pull", "send Values", "sent Values", "take Call", "sent Return",
    ],
    WORKERS: [
        "take Call", "send Push", "sent Push", "take PushAck", "taken PushAck", "send Pull",
        "take Values", "send Return", "sent Return",
    ],
    (SCHEDULER,): [
        "send Propose", "sent Propose", "take Accepted", "send Call", "sent Call", "take Return",
        "taken Return",
    ],
}  # fmt: skip
EVERY = [(nodes, point) for nodes, points in POINTS.items() for point in points]
AT_ONCE = 2


def draw(seed: int) -> list[tuple[int, str, int]]:
    """Return some of the points, each with a node and a number, drawn from a seed."""
    random = np.random.default_rng([seed, 7])
    chosen = random.permutation(len(EVERY))[:AT_ONCE].tolist()
    return [
        (int(random.choice(EVERY[at][0])), EVERY[at][1], int(random.integers(0, 40)))
        for at in chosen
    ]


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("place", "shrink"), [
    (0, "never"), pytest.param(1, "quiet", marks=pytest.mark.soak),
])  # fmt: skip
def test_job_ends_right_wherever_a_rank_dies(
    place: int, shrink: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    seed = request.config.getoption("--seed")
    node, point, count = draw(seed)[place]
    plan = Plan("point", seed, **SIZES, expected=RIGHT, strikes=())
    report = run_plan(plan, tmp_path / "job", f"recovery.shrink={shrink}",
                      die_at=f"{node} {point} {count}")  # fmt: skip
    print(node, point, count)
    assert report.is_as_expected, f"node {node} at {point} {count}\n{report}"
    assert shrink == "quiet" or report.shrinks == 0


def test_process_dies_at_its_point_and_at_no_other() -> None:
    program = (
        "from mpips.node.points import die_at\n"
        "from mpips.wire.messages import PushAck, Return\n"
        "reach = die_at('4 sent PushAck 2', 4)\n"
        "reach('send', PushAck(request=1)); reach('sent', Return(request=1, result=0))\n"
        "for number in range(5):\n"
        "    reach('sent', PushAck(request=number)); print(number, flush=True)\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          cwd=root, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.split() == ["0", "1"]
    assert die_at("4 sent PushAck 2", 5) is None


@pytest.mark.parametrize("text", ["", "4", "4 sent", "4 sent PushAck", "x sent PushAck 1",
                                  "4 gone PushAck 1", "4 sent Letter 1", "4 sent PushAck -1",
                                  "4 at PushAck 1", "4 sent flushed 1"])
def test_wrong_point_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="names no point"):
        die_at(text, 4)


def test_every_point_is_one() -> None:
    messages = {Push.__name__, PushAck.__name__}
    assert all(die_at(f"4 {point} 0", 4) is not None for _, point in EVERY)
    assert all(die_at(f"4 at {step} 0", 4) is not None for step in STEPS)
    assert messages <= {point.split()[1] for _, point in EVERY}
