"""What users order in a simulated run, and which segments move, drawn from a seed."""

from collections.abc import Sequence
from typing import Final

import numpy as np

Order = tuple[float, str, int]
"""When the user orders what, as `mpips ctl` does, of which node; -1: of whom the job likes."""

Transfer = tuple[float, int, int, int]
"""When which segment shall move to which node: time, table, segment, node."""

ORDERS: Final = ("add-server", "remove-server", "add-worker", "remove-worker")
ORDERS_MAX: Final = 4
TRANSFERS_MAX: Final = 12


def draw_orders(
    random: np.random.Generator, size: int, span: tuple[float, float]
) -> tuple[Order, ...]:
    """Return what the user orders when: in about every second run up to four orders.

    Args:
        random: its draws alone decide.
        size: number of nodes.
        span: the first and the last time, in seconds.
    """
    count = int(random.integers(1, ORDERS_MAX + 1)) if random.random() < 0.5 else 0
    names = random.choice(ORDERS, count).tolist()
    nodes = np.where(random.random(count) < 0.5, -1, random.integers(1, size, count)).tolist()
    return tuple(zip(_draw_times(random, count, span), names, nodes, strict=True))


def draw_transfers(
    random: np.random.Generator, size: int, segments: Sequence[int], span: tuple[float, float]
) -> tuple[Transfer, ...]:
    """Return which segments shall move when to whom: in more than every second run some of them.

    Args:
        random: its draws alone decide.
        size: number of nodes; some of them are no servers.
        segments: of each table.
        span: the first and the last time, in seconds.
    """
    count = int(random.integers(1, TRANSFERS_MAX + 1)) if random.random() < 0.6 else 0
    tables = random.integers(0, len(segments), count)
    places = (random.random(count) * np.array(segments)[tables]).astype(int)
    # Many moves are of the same few segments, which then go to and fro.
    places[random.random(count) < 0.5] = 0
    nodes = random.integers(1, size, count).tolist()
    times = _draw_times(random, count, span)
    return tuple(zip(times, tables.tolist(), places.tolist(), nodes, strict=True))


def tell_order(order: Order) -> str:
    """Return an order as people read it.

    >>> tell_order((0.5, "add-server", -1)), tell_order((1.0, "remove-worker", 2))
    ('add-server at 0.5', 'remove-worker 2 at 1')
    """
    seconds, name, node = order
    return f"{name}{f' {node}' if node >= 0 else ''} at {seconds:.6g}"


def tell_transfer(transfer: Transfer) -> str:
    """Return a move as people read it.

    >>> tell_transfer((0.5, 0, 3, 2))
    'segment 3 of table 0 to node 2 at 0.5'
    """
    seconds, table, segment, node = transfer
    return f"segment {segment} of table {table} to node {node} at {seconds:.6g}"


def _draw_times(
    random: np.random.Generator, count: int, span: tuple[float, float]
) -> list[float]:
    first, last = np.log10(span)
    times: list[float] = np.sort(10 ** random.uniform(first, last, count)).tolist()
    return times
