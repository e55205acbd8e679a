"""Broken builds of replication and fail-over: an exploration of a small cluster notices each.

Some broken builds do no harm, because something else refuses what they accept; they are not here:

- An owner that accepts requests older than its reign (`Held.is_mine` without epochs): a
  client sends a slice to the owner of its view alone, so what reaches another node than a former
  owner was sent in the reign of that node. Owners change at deaths alone, and the dead do not come
  back, so that nobody owns a segment a second time.
- A copy that listens to former owners, or a member that listens to those who have left, if the
  other one of the two does not: each alone refuses them. Both together are `ListensToAll`.
- A scheduler that takes the `Return` of a dead worker: the call has another number since.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pytest

from mpips.core import views
from mpips.core.copying import Copier
from mpips.core.held import Held, Pending
from mpips.core.machine import Effect
from mpips.core.membership import Change, admit, fail_over
from mpips.core.replication import Replicator
from mpips.core.scheduler import SchedulerMachine
from mpips.core.server import ServerMachine
from mpips.store.base import Store
from mpips.testing.cases import Case
from mpips.testing.explorer import Explorer
from mpips.testing.sites import ServerSite, Violation
from mpips.wire.messages import Joined, Message, Push, Replicate, Snapshot
from mpips.wire.types import NOBODY, View
from tests.core.test_mutants import NoDuplicateCheck

STATES_MAX = 60_000
PUSH = ("push", "wait")
TWO = ("push", "push", "wait")


def site(machine: type[ServerMachine], **more: Any) -> type[ServerSite]:
    """Return the class of the sites of broken servers."""
    return type("Broken", (ServerSite,), {"kind": machine, **more})


def caught(case: Case) -> str:
    """Return what the exploration of a case says, without the way that leads there."""
    with pytest.raises(Violation) as error:
        Explorer(case, STATES_MAX).run()
    return str(error.value).partition("\n")[0]


class AckBeforeReplication(ServerMachine):
    """Acknowledges a push that its copies do not have yet."""

    def _ship_whole(self, held: Held, push: Push, pending: Pending) -> list[Effect]:
        return super()._ship_whole(held, push, pending) + self._count(held, pending)


def test_ack_before_replication_is_caught() -> None:
    case = Case(2, 1, TWO, 1, server=site(AckBeforeReplication))
    assert "AckedDurable" in caught(case)


class DuplicateAckedEarly(ServerMachine):
    """Acknowledges a push that comes again though copies do not have it yet."""

    def _release(self, held: Held, segment: int, stream: int) -> list[Effect]:
        latest = held.latest.pop(segment, None)
        effects = super()._release(held, segment, stream)
        if latest is not None:
            held.latest[segment] = latest
        return effects


def test_duplicate_acked_early_is_caught() -> None:
    case = Case(3, 2, PUSH, 1, server=site(DuplicateAckedEarly))
    assert "AckedDurable" in caught(case)


def test_push_applied_each_time_that_it_comes_is_caught() -> None:
    case = Case(2, 1, PUSH, 1, server=site(NoDuplicateCheck))
    assert "AtMostOnce" in caught(case)


def promote_any(view: View, epoch: int, dead: Collection[int], policy: str) -> Change:
    """Return the view after deaths, all that are joining being taken for copies in sync."""
    joins: dict[tuple[int, int], list[int]] = {}
    for table, part in enumerate(view.joining):
        for segment, nodes in enumerate(part.tolist()):
            for node in set(nodes) - {NOBODY}:
                joins.setdefault((table, node), []).append(segment)
    return fail_over(admit(view, view.epoch, joins), epoch, dead, policy)


def test_joining_copy_that_is_promoted_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "fail_over", promote_any)
    assert "AckedDurable" in caught(Case(3, 1, PUSH, 2))


class Gullible(Copier):
    """Takes what anybody sends for the owner's, whenever it was sent."""

    def _find_mine(self, held: Held, source: int, message: Replicate | Snapshot) -> set[int]:
        return {segment for segment, _, _, _ in message.slices}


class GullibleCopy(ServerMachine):
    """A server with such copies."""

    def __init__(self, node: int, stores: Sequence[Store], streams: int) -> None:
        super().__init__(node, stores, streams)
        self._copier = Gullible(node)


def admit_all(site: ServerSite, source: int, message: Message) -> bool:
    """Admit messages of whoever has left, and of former incarnations."""
    return True


@pytest.mark.slow
def test_messages_older_than_the_reign_are_caught() -> None:
    # Two updates have the same log number: that of the dead owner, and that of the next one.
    listens_to_all = site(GullibleCopy, admits=admit_all)
    case = Case(3, 2, PUSH, 1, workers=2, server=listens_to_all, mortal=(1,))
    assert caught(case)


@pytest.mark.parametrize("broken", [site(GullibleCopy), site(ServerMachine, admits=admit_all)])
def test_either_refusal_is_enough(broken: type[ServerSite]) -> None:
    assert Explorer(Case(3, 2, PUSH, 1, server=broken)).run().is_complete


def test_old_incarnation_is_caught() -> None:
    # The push of a worker that was dropped, after the sum without it.
    case = Case(2, 1, TWO, 1, workers=2, mode="sequential", policy="drop", mortal=(3,),
                server=site(ServerMachine, admits=admit_all))  # fmt: skip
    assert "OneSum" in caught(case)


class WaitsForDead(ServerMachine):
    """Waits for the pushes of logical workers that nobody acts for."""

    def install(self, view: View) -> list[Effect]:
        """Take a view as if all logical workers took part."""
        effects = super().install(view)
        for held in self._held:
            held.active = [True] * len(held.active)
        return effects

    def _resume_sums(self, held: Held) -> list[Effect]:
        return []


def test_aggregation_that_waits_for_a_dead_worker_is_caught() -> None:
    case = Case(2, 1, PUSH, 1, workers=2, mode="sequential", policy="drop", mortal=(3,),
                answers=True, server=site(WaitsForDead))  # fmt: skip
    assert "waits for ever" in caught(case)


class BelievesFormerOwners(SchedulerMachine):
    """Takes a copy for joined, whoever says so."""

    def step(self, now: float, source: int, message: Message) -> list[Effect]:
        """Listen to the dead."""
        if isinstance(message, Joined):
            key = message.table, message.copy
            self._views._joins.setdefault(key, set()).update(message.segments)
            return []
        return super().step(now, source, message)


@pytest.mark.slow
def test_former_owner_that_is_believed_is_caught() -> None:
    # A copy dies, another one joins, the owner dies: what it said of the join comes late.
    case = Case(4, 2, PUSH, 2, scheduler=BelievesFormerOwners, mortal=(1, 2))
    assert "AckedDurable" in caught(case)


class NoLevelling(Replicator):
    """Takes copies for level with the new owner."""

    def level(self, held: Held, segments: Any, copies: np.ndarray) -> list[Effect]:
        """Send nothing."""
        for segment in segments:
            held.targets[segment] = tuple(n for n in copies[segment].tolist() if n != NOBODY)
        return []


class DoesNotLevel(ServerMachine):
    """Does not level the other copies when it becomes an owner; as a copy it needs no levelling."""

    def __init__(self, node: int, stores: Sequence[Store], streams: int) -> None:
        super().__init__(node, stores, streams)
        self._replicator = NoLevelling()

    def install(self, view: View) -> list[Effect]:
        """Take a view, level with whoever owns what."""
        effects = super().install(view)
        for held in self._held:
            held.level |= held.sync
        return effects


def test_new_owner_that_does_not_level_is_caught() -> None:
    case = Case(3, 2, PUSH, 1, server=site(DoesNotLevel))
    assert "AckedDurable" in caught(case)


class WithGaps(Copier):
    """Applies updates in the order of their coming."""

    def take_updates(self, held: Held, source: int, message: Replicate) -> list[Effect]:
        """Take each update for the next one."""
        for segment, log, _, _ in message.slices:
            held.logs[segment] = max(held.logs[segment], log - 1)
        return super().take_updates(held, source, message)


class CopyWithGaps(ServerMachine):
    """A server with such copies."""

    def __init__(self, node: int, stores: Sequence[Store], streams: int) -> None:
        super().__init__(node, stores, streams)
        self._copier = WithGaps(node)


def test_copy_that_applies_with_gaps_is_caught() -> None:
    case = Case(2, 1, TWO, 0, server=site(CopyWithGaps))
    assert "AckedDurable" in caught(case)
