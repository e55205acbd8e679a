"""What a user may order while a job runs: servers and workers that come from the spares, or go."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from mpips.core.moving import ask_for_copies, give_role, send_away
from mpips.core.news import least_copies
from mpips.errors import UsageError
from mpips.wire.types import NOBODY, View, make_epoch

COMMANDS: Final = {
    "status": "say who is in the job, and what each has",
    "add-server": "have a spare serve, with its share of the model",
    "remove-server": "have a server give all that it has to others, and become a spare",
    "add-worker": "have a spare work, from the next task on",
    "remove-worker": "have a worker become a spare, from the next task on",
}


def decide(
    view: View,
    epoch: int,
    command: str,
    node: int | None,
    replicas: int,
    iterations: int = 0,
    shares: Mapping[int, float] = MappingProxyType({}),
) -> tuple[View, str]:
    """Return the view that follows an order, the same one if nothing does, and the answer.

    Args:
        view: the view.
        epoch: of the next one.
        command: one of `COMMANDS`.
        node: whom it is about; None: whoever fits best.
        replicas: copies wanted of each segment.
        iterations: how far the job is.
        shares: by server its part of the keys that were asked for of late.

    Raises:
        UsageError: the order cannot be followed.
    """
    if command == "status":
        return view, describe(view, iterations, shares)
    verb, _, role = command.partition("-")
    if command not in COMMANDS:
        raise UsageError(f"there is no order {command}", "", f"There are {', '.join(COMMANDS)}.")
    if verb == "add":
        return _add(view, epoch, role, node)
    return _remove(view, epoch, role, node, replicas)


def _add(view: View, epoch: int, role: str, node: int | None) -> tuple[View, str]:
    spares = view.nodes("spare")
    if not spares:
        remedy = "Spares come with the job: --spares N."
        raise UsageError(f"no spare is left that could be a {role}", "", remedy)
    chosen = spares[0] if node is None else node
    if chosen not in spares:
        raise UsageError(f"node {chosen} is no spare", f"Spares are {_list(spares)}.")
    new = give_role(view, epoch, chosen, role)
    if role == "server":
        new = ask_for_copies(new, epoch)
        return new, f"spare {chosen} is a server now, and gets its share of the segments"
    return new, f"spare {chosen} is a worker now, and works from the next task on"


def _remove(
    view: View, epoch: int, role: str, node: int | None, replicas: int
) -> tuple[View, str]:
    there = view.nodes(role)
    able = [one for one in there if one not in view.leaving]
    if node is not None and node not in there:
        raise UsageError(f"node {node} is no {role}", f"The {role}s are {_list(there)}.")
    if node is not None and node not in able:
        raise UsageError(f"{role} {node} is leaving already")
    if len(able) < 2:
        raise UsageError(f"the last {role} cannot leave", "", f"Add a {role} first.")
    if role == "server" and len(able) - 1 <= replicas:
        what = f"{len(able) - 1} servers cannot have {replicas + 1} copies of all"
        raise UsageError(what, f"The config wants replicas = {replicas}.", "Add a server first.")
    # Whoever came last goes first.
    came = {member.node: (member.incarnation, member.node) for member in view.members}
    chosen = max(able, key=came.__getitem__) if node is None else node
    new = send_away(view, epoch, chosen)
    if role == "worker":
        return new, f"worker {chosen} is a spare from the next task on"
    owned = sum(int((part == chosen).sum()) for part in view.owners)
    return new, f"server {chosen} gives {owned} segments to others, and is a spare then"


def describe(view: View, iterations: int, shares: Mapping[int, float]) -> str:
    """Return a table of who is in the job, and what each has."""
    number, copies = view.epoch // make_epoch(1, 0), least_copies(view)
    lines = [f"view {number}   redundancy {copies}   iterations {iterations}"]
    head = f"{'node':>4}  {'role':<9}  {'owns':>5}  {'copies':>6}  {'load':>5}"
    lines.append(f"{head}  {'works for':<10}  host")
    for member in sorted(view.members, key=lambda member: member.node):
        node = member.node
        owned = sum(int((part == node).sum()) for part in view.owners)
        copied = sum(int((part == node).sum()) for part in view.copies)
        acts = ",".join(str(worker) for worker, actor in enumerate(view.actors) if actor == node)
        role = "leaving" if node in view.leaving else member.role
        load = f"{shares[node]:.0%}" if node in shares else "-"
        has = f"{node:>4}  {role:<9}  {owned:>5}  {copied:>6}  {load:>5}"
        lines.append(f"{has}  {acts or '-':<10}  {member.host}")
    moving = sum(int((part != NOBODY).sum()) for part in view.heirs)
    joining = sum(int((part != NOBODY).sum()) for part in view.joining)
    lines.append(f"moving {moving} segments   joining {joining} copies")
    return "\n".join(lines)


def _list(nodes: list[int]) -> str:
    return ", ".join(map(str, nodes)) or "none"
