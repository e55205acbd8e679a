"""Measure push and pull against raw MPI, one server and one worker, in the same run.

Both sides are measured in turn, several times, and medians are compared, because machines are
noisy: quote the ratio. Raw MPI moves the same bytes and waits for an answer; it adds nothing up.
Every push and pull of mpips goes through the whole protocol.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from mpips.errors import OutputError, UsageError
from mpips.node import surroundings

ROUNDS = 7


@dataclass(frozen=True)
class Row:
    """What one operation took: medians of seconds an operation, over the rounds."""

    op: str
    bytes: int
    keys: int
    servers: int
    workers: int
    seconds: float
    mpi_seconds: float
    ratio_to_mpi: float
    replicas: int = 0
    filters: str = "off"
    cached: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--json", metavar="FILE", type=Path, help="write the rows as JSON, too")
    add("--rounds", metavar="N", type=int, default=ROUNDS, help="default: %(default)s")


def run(arguments: argparse.Namespace) -> int:
    """Start the two ranks, or be one of them."""
    if arguments.rounds < 1:
        raise UsageError(f"{arguments.rounds} rounds measure nothing", "", "--rounds 1 or more")
    if arguments.json and not arguments.json.absolute().parent.is_dir():
        what = f"{arguments.json} cannot be written: its folder does not exist"
        raise OutputError(what, "", "Make the folder first.")
    if surroundings.under_mpi():
        be_rank(arguments)
    from mpips.node import mpirun

    words = ["bench", "--rounds", str(arguments.rounds)]
    words += ["--json", str(arguments.json.absolute())] if arguments.json else []
    return mpirun.start(2, words)


def be_rank(arguments: argparse.Namespace) -> NoReturn:
    """Measure as the worker, or serve, and end the process."""
    from mpips.node.launch import leave, start_mpi

    mpi = start_mpi()
    from mpips.cli.bench_ranks import CASES, Pair

    if mpi.COMM_WORLD.Get_size() != 2:
        what = f"bench needs 2 ranks, not {mpi.COMM_WORLD.Get_size()}"
        raise UsageError(what, "", "mpirun -n 2 mpips bench")
    pair, code = Pair(mpi.COMM_WORLD), 0
    times = [pair.measure(case) for _ in range(arguments.rounds) for case in CASES]
    if not pair.is_server:
        rows = []
        for at, case in enumerate(CASES):
            mpips, raw = zip(*times[at :: len(CASES)], strict=True)
            seconds, mpi_seconds = statistics.median(mpips), statistics.median(raw)
            ratio = mpi_seconds / seconds
            rows.append(Row(case.op, case.size, case.keys, 1, 1, seconds, mpi_seconds, ratio))
        show(rows)
        code = write(rows, arguments.json) if arguments.json else 0
    leave(mpi, code)


def show(rows: list[Row]) -> None:
    """Print the rows as a table."""
    print(f"{'op':<6}{'keys':>12}{'bytes':>14}{'time':>12}{'raw MPI':>12}{'ratio':>8}")
    for row in rows:
        took, raw = show_seconds(row.seconds), show_seconds(row.mpi_seconds)
        print(f"{row.op:<6}{row.keys:>12,}{row.bytes:>14,}{took:>12}{raw:>12}"
              f"{row.ratio_to_mpi:>8.2f}")  # fmt: skip
    print("ratio: raw MPI's time by ours, so 1 is as fast as raw MPI")
    sys.stdout.flush()


def show_seconds(seconds: float) -> str:
    """Return a short duration.

    >>> show_seconds(2.05e-6), show_seconds(0.0115)
    ('2.0 us', '11.5 ms')
    """
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} us"


def write(rows: list[Row], path: Path) -> int:
    """Write the rows as JSON, and return the exit code."""
    try:
        path.write_text(json.dumps({"rows": [asdict(row) for row in rows]}, indent=2) + "\n")
    except OSError as error:
        print(OutputError(f"{path}: {error.strerror}").explain(), file=sys.stderr)
        return OutputError.exit_code
    print(f"rows in {path} ({time.strftime('%Y-%m-%d %H:%M')})")
    return 0
