"""What the user is told when nodes die and others take over: sentences, and facts for programs."""

from collections import Counter
from collections.abc import Iterable, Sequence

from mpips.core.machine import Report
from mpips.core.membership import Change
from mpips.wire.types import NOBODY, View, make_epoch


def tell_of_deaths(view: View, names: Sequence[str], nodes: Sequence[int]) -> Report:
    """Return the report that nodes of a view, by their names and ids, have died."""
    hosts = {member.node: member.host for member in view.members}
    places = [f"{name} on {hosts[node]}" for name, node in zip(names, nodes, strict=True)]
    has = "has" if len(names) == 1 else "have"
    return Report("lost", {"text": f"{join(places)} {has} died", "deaths": len(names)})


def tell_of_succession(name: str, old: int, after_s: float) -> Report:
    """Return the report that a node is the scheduler now, so long after the last one was.

    >>> tell_of_succession("server 4", 0, 0.25).facts["text"]
    'server 4 is the scheduler now, in place of node 0, after 0.250 s'
    """
    text = f"{name} is the scheduler now, in place of node {old}, after {after_s:.3f} s"
    return Report("leader", {"text": text, "after_s": round(after_s, 6)})


def tell_of_change(change: Change) -> Report:
    """Return the report of who has taken over what."""
    view = change.view
    gained: Counter[int] = Counter()
    for owners, since in zip(view.owners, view.since, strict=True):
        gained.update(owners[since == view.epoch].tolist())
    parts = [
        f"server {node} takes over {_count(segments, 'segment')}"
        for node, segments in sorted(gained.items())
    ]
    parts += [f"spare {member.node} is a {member.role} now" for member in change.hired]
    workers: dict[int, list[int]] = {}
    for worker, node in change.moved.items():
        workers.setdefault(node, []).append(worker)
    for node, mine in sorted(workers.items()):
        noun = "logical worker" if len(mine) == 1 else "logical workers"
        whom = f"{noun} {join(map(str, mine))}"
        acts = f"worker {node} goes on for {whom}"
        parts.append(f"{whom} will be left out" if node == NOBODY else acts)
    if change.promoted and len(view.nodes("server")) == 1:
        parts.append("no server is left for copies: the next server's death will end the job")
    facts = {"epoch": view.epoch // make_epoch(1, 0), "segments": change.promoted}
    return Report("view", {"text": "; ".join(parts) or "nothing to take over", **facts})


def tell_of_copies(seconds: float) -> Report:
    """Return the report that there are all copies again, so long after a death was noticed."""
    text = f"all parts of the model have their copies again, after {seconds:.3f} s"
    return Report("copies", {"text": text, "after_s": round(seconds, 6)})


def tell_of_moves(segments: int) -> Report:
    """Return the report that so many segments have moved.

    >>> tell_of_moves(1).facts["text"]
    '1 segment has moved to another server'
    """
    verb = "has" if segments == 1 else "have"
    text = f"{_count(segments, 'segment')} {verb} moved to another server"
    return Report("moved", {"text": text, "segments": segments})


def tell_of_shrink(nodes: int, seconds: float) -> Report:
    """Return the report that the dead are gone from the communicator, and how long all stood still.

    >>> tell_of_shrink(5, 0.2).facts["text"]
    'the communicator has 5 ranks now; made in 0.200 s'
    """
    text = f"the communicator has {nodes} ranks now; made in {seconds:.3f} s"
    return Report("shrink", {"text": text, "after_s": round(seconds, 6)})


def least_copies(view: View) -> int:
    """Return how many copies in sync each segment has at least: so many servers may die now."""
    counts = [int((part != NOBODY).sum(axis=1).min()) for part in view.copies if len(part)]
    return min(counts, default=0)


def join(words: Iterable[str]) -> str:
    """Return words as a sentence has them.

    >>> join("a"), join("ab"), join("abc")
    ('a', 'a and b', 'a, b and c')
    """
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
