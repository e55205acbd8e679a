"""Puts columns that never meet in a row into the same block, by greedy colouring."""

from mpips.apps.linear.kernels.types import INDICES, STARTS, STARTS_OUT, compiled
from mpips.apps.linear.types import Indices, Starts


@compiled((STARTS, INDICES, STARTS, STARTS_OUT, STARTS_OUT))
def colour(starts: Starts, rows: Indices, order: Starts, taken: Starts, colours: Starts) -> int:
    """Give each column the first colour that no column of its rows has, in the order given.

    Args:
        starts: of a CSC matrix.
        rows: of a CSC matrix.
        order: int64: the columns to be coloured.
        taken: int64, one for each row: scratch, all -1.
        colours: int64, one for each column: -1 on entry for those to be coloured.

    Returns:
        How many colours there are.

    Cost: for each colour a look at every column that has none yet.
    """
    left = len(order)
    count = 0
    while left:
        # Gather the colour's columns: the rows taken by it carry its number.
        for j in order:
            if colours[j] >= 0:
                continue
            is_free = True
            for k in range(starts[j], starts[j + 1]):
                if taken[rows[k]] == count:
                    is_free = False
                    break
            if is_free:
                colours[j] = count
                left -= 1
                for k in range(starts[j], starts[j + 1]):
                    taken[rows[k]] = count
        count += 1
    return count
