"""What a server answers to a pull."""

from collections.abc import Iterable

from mpips.core.held import Applied, Held
from mpips.core.reading import read_slices
from mpips.wire.buffers import Buffers
from mpips.wire.messages import Pull, Push, Values


def read_values(
    held: Held,
    message: Push | Pull,
    updates: Iterable[Applied],
    buffers: Buffers,
    epoch: int,
    incarnation: int,
) -> Values:
    """Return the values that a pull, or a push with a pull, gets now.

    Args:
        held: the table.
        message: the request.
        updates: those that are here and not on all copies yet.
        buffers: where large values are put.
        epoch: of the answer.
        incarnation: of the answer.
    """
    keys, values, counts = read_slices(held.store, message, buffers)
    rewound: dict[int, int] = {}
    # A reader is behind only where another attempt of its task has pushed.
    if held.undo is not None:
        rewound = held.undo.rewind(message, keys, values)
    clocks = []
    if message.wants_clocks:
        clocks = held.contained(message.slices.segments(), updates, rewound)
    return Values(
        message.request, message.table, keys, values, counts, clocks, epoch=epoch,
        incarnation=incarnation,
    )  # fmt: skip
