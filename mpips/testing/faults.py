"""What goes wrong in a simulated run, drawn from a seed: each run has its own mix."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Final

import numpy as np

from mpips.testing.orders import Order, Transfer, tell_order, tell_transfer

DELAY_S_MEAN: Final = 1e-3
NOTICE_S_MEAN: Final = 0.03
COPIES_MAX: Final = 3

Span = tuple[float, float]

MISHAPS_S: Final[Span] = (0.01, 10.0)
"""When nodes die or stop, if nothing is known of how long a run takes."""


@dataclass(frozen=True)
class Faults:
    """The faults of a run until it is healed; times in virtual seconds, none by default.

    Frames always overtake each other, also between the same two nodes, since each has a delay of
    its own. None is lost: a transport's frame arrives, or somebody is gone. A copy stands for a
    frame that was sent again.

    Attributes:
        delay_s: mean delay of a frame, exponentially distributed.
        tail: share of the frames whose delay is 100 times as long.
        copies: share of the frames that come up to `COPIES_MAX` times more.
        late_s: mean delay of a copy.
        pauses: chance of each node, every `STEP_S`, to be given no turn for a while.
        pause_s: mean length of a pause.
        stragglers: for some nodes the time that a turn costs.
        slow_links: for some pairs of source and dest, by how much delays are longer.
        kills: when which nodes die.
        stops: when which nodes stop, and for how many seconds: they may be taken for dead.
        isolations: when which nodes are cut off, and for how many seconds; frames wait so long.
        orders: when the user orders what of whom.
        transfers: when which segments shall move to whom.
        after_begin: whether the times of what happens to nodes count from when the job begins.
        kill_works: the chance that a stopped process can be killed by its mates.
        notice_s: mean time until a node is told that another one has died.
        heal_s: when everything becomes well; the dead stay dead.
    """

    delay_s: float = DELAY_S_MEAN
    tail: float = 0.0
    copies: float = 0.0
    late_s: float = 0.0
    pauses: float = 0.0
    pause_s: float = 0.0
    stragglers: dict[int, float] = field(default_factory=dict)
    slow_links: dict[tuple[int, int], float] = field(default_factory=dict)
    kills: tuple[tuple[float, int], ...] = ()
    stops: tuple[tuple[float, int, float], ...] = ()
    isolations: tuple[tuple[float, int, float], ...] = ()
    orders: tuple[Order, ...] = ()
    transfers: tuple[Transfer, ...] = ()
    after_begin: bool = False
    kill_works: float = 1.0
    notice_s: float = NOTICE_S_MEAN
    heal_s: float = 0.0

    def describe(self) -> list[str]:
        """Return a line for each fault that is there."""
        lines = []
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, dict):
                items = (f"{_name(key)} {number:.3g}" for key, number in value.items())
                value = ", ".join(items)
            elif isinstance(value, tuple):
                tell = TELL.get(entry.name, lambda one: _at(*one))
                value = ", ".join(map(tell, value))
            elif value is True:
                value = "yes"
            elif value:
                value = f"{value:.3g}"
            if value:
                lines.append(f"{entry.name:<11} {value}")
        return lines


TELL: Final[dict[str, Callable[[Any], str]]] = {
    "orders": tell_order,
    "transfers": tell_transfer,
}
"""How people read entries that are not of one node alone."""

CALM: Final = Faults()
"""Delays, and nothing else."""


def draw_faults(random: np.random.Generator, size: int) -> Faults:
    """Return the faults of a run; each kind is there in about every second run.

    Args:
        random: its draws alone decide.
        size: number of nodes.
    """
    # Draw in a fixed order, whatever is then used.
    has_tail, has_copies, has_pauses, has_stragglers, has_slow_links = random.random(5) < 0.5
    delay_s = float(10 ** random.uniform(-4, -1.5))
    nodes = np.flatnonzero(random.random(size) < 0.3).tolist()
    costs = (10 ** random.uniform(-4, -1.5, len(nodes))).tolist()
    links = np.argwhere(random.random((size, size)) < 0.15).tolist()
    factors = (10 ** random.uniform(0.5, 2, len(links))).tolist()
    heal_s = float(10 ** random.uniform(-1, 1))
    return Faults(
        delay_s=delay_s,
        tail=float(random.choice([0.01, 0.1])) * has_tail,
        copies=float(random.choice([0.05, 0.3, 1.0])) * has_copies,
        late_s=delay_s * float(random.choice([1, 10, 100])) * has_copies,
        pauses=float(random.choice([0.02, 0.2])) * has_pauses,
        pause_s=float(10 ** random.uniform(-2, 0)) * has_pauses,
        stragglers=dict(zip(nodes, costs, strict=True)) if has_stragglers else {},
        slow_links={
            (source, dest): factor for (source, dest), factor in zip(links, factors, strict=True)
        }
        if has_slow_links
        else {},
        notice_s=float(10 ** random.uniform(-3, -0.5)),
        heal_s=heal_s,
    )


def _name(key: int | tuple[int, int]) -> str:
    return f"{key[0]}>{key[1]}:" if isinstance(key, tuple) else f"{key}:"


def _at(seconds: float, node: int, length: float = 0.0) -> str:
    """Return a death or a stop as people read it."""
    return f"node {node} at {seconds:.6g}" + (f" for {length:.3g}" if length else "")


def draw_stops(
    random: np.random.Generator, size: int, span: Span = MISHAPS_S
) -> tuple[tuple[float, int, float], ...]:
    """Return who stops when and for how long: in about every second run one node but the first.

    Args:
        random: its draws alone decide.
        size: number of nodes.
        span: the first and the last time at which it may happen, in seconds.
    """
    first, last = np.log10(span)
    at, length = 10 ** random.uniform(first, last), 10 ** random.uniform(0, 1.5)
    node, happens = int(random.integers(1, size)), random.random() < 0.5
    return ((float(at), node, float(length)),) if happens else ()


def draw_end(random: np.random.Generator, span: Span = MISHAPS_S) -> tuple[str, float, float]:
    """Return what befalls the scheduler, when, and for how long: nothing in every second run.

    Args:
        random: its draws alone decide.
        span: the first and the last time at which it may happen, in seconds.
    """
    first, last = np.log10(span)
    kind = str(random.choice(["", "", "", "kills", "stops", "isolations"]))
    at, length = 10 ** random.uniform(first, last), 10 ** random.uniform(0, 1.5)
    return kind, float(at), float(length)


def draw_kills(
    random: np.random.Generator, size: int, span: Span = MISHAPS_S
) -> tuple[tuple[float, int], ...]:
    """Return who dies when: up to three nodes, never the scheduler, now and then at once.

    Args:
        random: its draws alone decide.
        size: number of nodes.
        span: the first and the last time at which it may happen, in seconds.
    """
    count = min(int(random.integers(0, 4)), size - 1)
    nodes = random.permutation(np.arange(1, size))[:count].tolist()
    first, last = np.log10(span)
    times = 10 ** random.uniform(first, last, count)
    # The second one dies together with the first, or while the others still find out.
    if count > 1 and random.random() < 0.5:
        times[1] = times[0] + float(random.choice([0.0, 0.01, 0.1])) * random.random()
    return tuple(sorted(zip(times.tolist(), nodes, strict=True)))
