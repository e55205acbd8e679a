"""Servers and workers come and go by order while real jobs run, and some die meanwhile."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mpips.core.ring import place
from mpips.errors import MpipsError
from mpips.files.checkpoint import load_checkpoint
from mpips.node.control import ask
from mpips.node.folder import read_result
from mpips.node.resume import CHECKPOINTS
from mpips.testing.ledger import SEGMENTS
from tests.kill.harness import PATIENCE_S, Job, left_behind
from tests.kill.judge import judge
from tests.kill.plans import KILL, RIGHT, Plan
from tests.run.jobs import processes_of

# Ranks 1 and 2 work, 3 and 4 are spares, 5 and 6 serve.
SIZES = {"servers": 2, "workers": 2, "spares": 2, "logical_workers": 4, "replicas": 1}

# The server that has three of the last table's five segments: a third one would have it give one.
SOURCE = int(np.bincount(place(len(SEGMENTS) - 1, SEGMENTS[-1], (5, 6))).argmax())


@dataclass(frozen=True)
class Story:
    """What is ordered while a job runs.

    Attributes:
        orders: each with the share of the work after which it comes; "kill NODE" is one, too.
        roles: of the nodes in the end.
        die_at: the point at which a rank dies.
        every_s: seconds between checkpoints; 0: there are none.
        steps: of the job.
    """

    orders: tuple[tuple[float, str], ...]
    roles: dict[int, str]
    die_at: str = ""
    every_s: float = 0.0
    steps: int = 45


START = {0: "scheduler", 1: "worker", 2: "worker", 3: "spare", 4: "spare", 5: "server",
         6: "server"}  # fmt: skip


def but(*dead: int, **changes: str) -> dict[int, str]:
    """Return the roles at the start, with changes such as n3="server", and without the dead."""
    roles = START | {int(name[1:]): role for name, role in changes.items()}
    return {node: role for node, role in roles.items() if node not in dead}


STORIES = {
    "a server comes": Story(((0.1, "add-server"),), but(n3="server")),
    "a server comes, another goes": Story(
        ((0.1, "add-server 4"), (0.3, "remove-server 6")), but(n4="server", n6="spare")
    ),
    "a server comes, another goes, and checkpoints are written all the time": Story(
        ((0.1, "add-server 4"), (0.3, "remove-server 6")),
        but(n4="server", n6="spare"),
        every_s=0.1,
    ),
    "a server comes and goes and comes": Story(
        ((0.1, "add-server 3"), (0.3, "remove-server 3"), (0.6, "add-server 3")),
        but(n3="server"),
    ),
    "workers come and go": Story(
        ((0.1, "add-worker 3"), (0.3, "remove-worker 1"), (0.5, "add-worker 1")),
        but(n3="worker"),
    ),
    "a server comes, and an old one is killed": Story(
        ((0.1, "add-server 3"), (0.3, "kill 5")), but(5, n3="server", n4="server")
    ),
    "the newcomer dies with the first snapshot": Story(
        ((0.1, "add-server 3"),), but(3, n4="server"), die_at="3 taken Snapshot 0"
    ),
    "the source dies before it hands over": Story(
        ((0.1, "add-server 3"),),
        but(SOURCE, n3="server", n4="server"),
        die_at=f"{SOURCE} send Handed 0",
    ),
    "the source dies when it has handed over": Story(
        ((0.1, "add-server 3"),),
        but(SOURCE, n3="server", n4="server"),
        die_at=f"{SOURCE} sent Handed 0",
    ),
    "a server dies that is leaving": Story(
        # Whoever has just come hands over nothing before it leaves.
        ((0.1, "add-server 3"), (0.3, "remove-server 3")),
        but(3),
        die_at="3 sent Handed 0",
    ),
    "the scheduler dies that has heard, before anything is decided": Story(
        ((0.1, "add-server"),), but(0, n3="server"), die_at="0 at asked 0", steps=24
    ),
    "the scheduler dies that has decided, before it answers": Story(
        ((0.1, "add-server"),), but(0, n3="server"), die_at="0 at answering 0", steps=24
    ),
}


# Parts of longer stories, and what the simulated jobs tell too.
FOR_SOAKS = ("a server comes", "a server comes, another goes", "a server comes and goes and comes",
             "the source dies before it hands over", "the source dies when it has handed over",
             "the scheduler dies that has decided, before it answers")
EACH = [pytest.param(name, marks=[pytest.mark.soak] * (name in FOR_SOAKS)) for name in STORIES]


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", EACH)
def test_job_goes_on_while_nodes_come_and_go(name: str, tmp_path: Path) -> None:
    story = STORIES[name]
    plan = Plan("orders", 1, **SIZES, expected=RIGHT, strikes=(), every_s=story.every_s)
    settings = (f"model.steps={story.steps}", "model.pause_s=0.04")
    with Job(plan, tmp_path, *settings, die_at=story.die_at) as job:
        assert job.await_work(), (tmp_path / "output").read_text()
        for share, order in story.orders:
            assert job.until(lambda share=share: job.share() >= share, PATIENCE_S), order
            follow(job, order)
        roles = last_roles(job, story.roles)
        assert not job.lasts(PATIENCE_S)
        outcome, wrong = judge(plan, job.folder, job.victims, job.launcher.returncode or 0)
        report = f"{outcome} {wrong}\n{(tmp_path / 'output').read_text()}"
        assert outcome == RIGHT, report
        assert left_behind(job) == []
    assert roles == story.roles, report
    result = read_result(job.folder)
    assert result is not None
    assert result["redundancy"] == 1, report
    if any("server" in order for _, order in story.orders):
        assert result["counters"]["moved_segments"] > 0, report
    if story.every_s:
        whole = sorted((job.folder / CHECKPOINTS).glob("*/manifest.json"))
        assert whole, report
        for path in whole:
            load_checkpoint(path.parent)
    assert processes_of(str(tmp_path)) == []


def follow(job: Job, order: str) -> None:
    """Order something of a job as `mpips ctl` does, or kill a node."""
    words = order.split()
    if words[0] == "kill":
        job.victims.add(int(words[1]))
        os.kill(job.ranks[int(words[1])].process, KILL)
        return
    # A process of its own would start slowly on a busy machine, and come when the job is over.
    said = ask(job.folder, words[0], int(words[1]) if words[1:] else None)
    assert "not decided" not in said, said


def last_roles(job: Job, wanted: dict[int, str]) -> dict[int, str]:
    """Return the roles that a job comes to before its end, as `mpips ctl RUN status` tells them."""
    found: dict[int, str] = {}

    def has_come() -> bool:
        # A job that is over gives no answer.
        with contextlib.suppress(MpipsError):
            lines = [line.split() for line in ask(job.folder, "status", None).splitlines()]
            found.clear()
            found.update({int(line[0]): line[1] for line in lines if line[0].isdigit()})
        return found == wanted

    job.until(has_come, PATIENCE_S)
    return found


