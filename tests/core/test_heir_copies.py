"""An owner that learns of its ownership and of an heir at once sends the heir one snapshot."""

import pytest

from mpips.core.machine import Send
from mpips.core.membership import admit, fail_over, first_view
from mpips.core.moving import Move, name_heirs
from mpips.core.server import ServerMachine
from mpips.store.table import make_store
from mpips.wire.messages import Replicated, Snapshot
from mpips.wire.types import Member, Table, make_epoch

TABLE = Table(name="w", size=40, segments=4)


def epoch(counter: int) -> int:
    """Return the epoch of a view."""
    return make_epoch(counter, 0)


@pytest.mark.parametrize("replicas", [1, 2])
def test_copy_that_is_the_heir_too_is_a_target_once(replicas: int) -> None:
    roles = {0: "scheduler", 1: "server", 2: "server", 4: "server", 5: "worker", 7: "spare"}
    members = [Member(node, role, f"h{node}", epoch(1)) for node, role in roles.items()]
    first = first_view(epoch(1), members, [TABLE], 1, replicas)
    # 7 takes the place of 1 and has its copies; then 4 owns what was 2's, and 7 shall have some.
    replaced = fail_over(first, epoch(2), [1], "replace").view
    joins = {(0, 7): [s for s in range(4) if 7 in replaced.joining[0][s]]}
    joined = admit(replaced, epoch(3), joins)
    lost = fail_over(joined, epoch(4), [2], "replace").view
    moving = next(s for s in range(4) if joined.owners[0][s] == 2 and lost.owners[0][s] == 4)
    named = name_heirs(lost, epoch(5), [Move(0, moving, 7)])
    server = ServerMachine(4, [make_store(TABLE)], 1)
    effects = []
    # It has missed the view in which it became the owner.
    for view in (first, replaced, joined, named):
        effects = server.install(view)
    while sent := [e for e in effects if isinstance(e, Send) and isinstance(e.message, Snapshot)]:
        effects = [
            further
            for one in sent
            for further in server.step(
                0.0, one.dest,
                Replicated(request=one.message.request, epoch=epoch(5), incarnation=epoch(3)),
            )
        ]  # fmt: skip
    assert server.tables[0].targets[moving].count(7) == 1
