"""What the nodes of a job say of themselves when they come."""

from collections.abc import Mapping
from typing import Any

from mpips.errors import MpipsError
from mpips.wire.messages import Hello
from mpips.wire.types import Member, make_epoch


def agree_on_facts(hellos: Mapping[int, Hello]) -> dict[str, Any]:
    """Return the facts of the data that the nodes see.

    Raises:
        MpipsError: they see different data.
    """
    facts: dict[str, Any] = {}
    for node, other in sorted(hellos.items()):
        for name, value in other.facts.items():
            if facts.setdefault(name, value) != value:
                what = f"node {node} sees {name} = {value}, another sees {facts[name]}"
                where = f"Node {node} runs on {other.host}."
                remedy = "All hosts must see the same files: use a shared file system."
                raise MpipsError(what, where, remedy)
    return facts


def first_members(scheduler: int, host: str, hellos: Mapping[int, Hello]) -> list[Member]:
    """Return all nodes as members of the first view: the scheduler, and who has come."""
    epoch = make_epoch(1, scheduler)
    others = [Member(node, hello.role, hello.host, epoch) for node, hello in hellos.items()]
    return [Member(scheduler, "scheduler", host, epoch), *others]
