"""Measure push and pull against raw MPI in the same run, and compare two such runs.

Both sides are measured in turn, several times, and medians are compared, because machines are
noisy: quote the ratio. Raw MPI moves the same bytes and waits for an answer; it adds nothing up,
and yields while it waits, as mpips does. Every push and pull goes through the whole protocol.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

from mpips.errors import DataError, MissingInputError, OutputError, UsageError
from mpips.node import surroundings

if TYPE_CHECKING:
    from mpi4py import MPI

ROUNDS, RANKS, RANKS_TO_GROW = 5, 4, 9
SECONDS = 90.0
"""After so long no round is begun any more."""


@dataclass(frozen=True)
class Row:
    """What one operation took: medians of seconds an operation, over the rounds.

    Attributes:
        op: "push", "pull", or "burst": one of many pushes of one key that are sent at once.
        bytes: of keys and values that travel with an operation.
        keys: how many.
        lists: whether they are a "range", or a list: "repeated" each time, "fresh" but of known
            keys, or "new".
        servers: how many.
        workers: how many do it at once.
        seconds: of an operation by mpips.
        mpi_seconds: of the same bytes by MPI alone.
        ratio_to_mpi: the second by the first; 1 is as fast as raw MPI.
        bytes_sent: what all nodes handed to the transport for it, copies and answers included.
        replicas: copies beside the owner's.
        filters: which are used.
        cached: whether servers remember the key list.
        cpu_seconds: processor time of all nodes for it, with what they spin.
        bytes_copied: what clients and servers copied for it themselves.
    """

    op: str
    bytes: int
    keys: int
    lists: str
    servers: int
    workers: int
    seconds: float
    mpi_seconds: float
    ratio_to_mpi: float
    bytes_sent: float
    replicas: int = 0
    filters: str = "off"
    cached: bool = False
    cpu_seconds: float = 0.0
    bytes_copied: float = 0.0

    @property
    def name(self) -> str:
        """Return what is measured, in words."""
        where = f"{self.servers}x{self.workers}" + (f"+{self.replicas}" if self.replicas else "")
        where += "" if self.filters == "off" else self.filters
        return f"{where:<7}{self.op:<6}{self.keys:>12,} {self.lists}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--json", metavar="FILE", type=Path, help="write the rows as JSON, too")
    add("--rounds", metavar="N", type=int, default=ROUNDS, help="default: %(default)s")
    add("--growth", action="store_true", help="1, 2, 4 and 8 servers instead, and a plot")
    add("--links", action="store_true",
        help="raw MPI between all hosts instead, each with each, and which are slow")
    add("--compare", metavar=("A.json", "B.json"), nargs=2, type=Path,
        help="show two earlier runs side by side instead")  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Start the ranks, or be one of them; or compare two runs."""
    if arguments.compare:
        compare(*map(read, arguments.compare))
        return 0
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
    words += ["--growth"] if arguments.growth else []
    words += ["--links"] if arguments.links else []
    # All hosts of an allocation, if there is one.
    many = None if arguments.links else RANKS_TO_GROW if arguments.growth else RANKS
    return mpirun.start(many, words)


def be_rank(arguments: argparse.Namespace) -> NoReturn:
    """Take part in the settings that have a place for this rank, and end the process."""
    from mpips.node import kernels
    from mpips.node.launch import leave, start_mpi

    mpi = start_mpi()
    world = mpi.COMM_WORLD
    if arguments.links:
        leave(mpi, measure_links(mpi, arguments.json))
    ranks = RANKS_TO_GROW if arguments.growth else RANKS
    if world.Get_size() != ranks:
        what = f"bench needs {ranks} ranks, not {world.Get_size()}"
        raise UsageError(what, "", f"mpirun -n {ranks} mpips bench")
    kernels.await_kernels(world.Get_rank() == 0, print)
    from mpips.cli.bench_ranks import GROWTH, SETTINGS, Bench, Measured

    rows: list[Row] = []
    settings, idle = GROWTH if arguments.growth else SETTINGS, 0.0
    for setting in settings:
        size = setting.servers + setting.workers
        comm = world.Split(int(world.Get_rank() >= size))
        if world.Get_rank() < size:
            bench = Bench(comm, setting)
            rounds: list[list[Measured]] = []
            end = time.monotonic() + SECONDS / len(settings)
            while len(rounds) < arguments.rounds:
                rounds.append([bench.measure(case) for case in setting.cases])
                # On a slow machine fewer rounds have to do.
                if comm.bcast(time.monotonic() > end):
                    break
            for case, *found in zip(setting.cases, *rounds, strict=True):
                seconds, raw, sent, cpu, copied = (
                    statistics.median(getattr(one, field.name) for one in found)
                    for field in fields(Measured)
                )
                rows.append(Row(
                    case.op, case.size // case.messages, case.keys, case.name, setting.servers,
                    setting.workers, seconds, raw, raw / seconds, sent, setting.replicas,
                    setting.filters, case.is_cached, cpu, copied,
                ))  # fmt: skip
            if setting == settings[0]:
                idle = bench.idle_share()
        wait_idly(world)
    code = 0
    if world.Get_rank() == 0:
        show(rows)
        if arguments.growth:
            plot(rows)
        print(f"an idle node takes {100 * idle:.1f} % of a core")
        code = write({"rows": [asdict(row) for row in rows]}, arguments.json)
    leave(mpi, code)


def measure_links(mpi: ModuleType, path: Path | None) -> int:
    """Measure all hosts and the links between them, and return the exit code."""
    from mpips.cli import bench_links
    from mpips.node.places import find_places

    world = mpi.COMM_WORLD
    names = bench_links.choose(find_places(world).hosts)
    name = names.get(world.Get_rank())
    comm = world.Split(int(name is None))
    code = 0
    if name is not None:
        places, links = bench_links.measure(comm, name)
        if world.Get_rank() == 0:
            bench_links.show(places, links)
            found = {"places": [place._asdict() for place in places],
                     "links": [link._asdict() for link in links]}  # fmt: skip
            code = write(found, path)
    wait_idly(world)
    return code


def wait_idly(world: "MPI.Comm") -> None:
    """Wait until all ranks have come here, without taking a core."""
    done = world.Ibarrier()
    while not done.Test():
        time.sleep(0.02)


def show(rows: list[Row]) -> None:
    """Print the rows as a table."""
    print(f"{'servers x workers + copies':<36}{'time':>11}{'raw MPI':>11}{'ratio':>7}"
          f"{'keys/s':>10}{'sent/B':>8}{'copied':>7}{'CPU':>11}")  # fmt: skip
    for row in rows:
        took, raw = show_seconds(row.seconds), show_seconds(row.mpi_seconds)
        print(f"{row.name:<36}{took:>11}{raw:>11}{row.ratio_to_mpi:>7.2f}"
              f"{row.workers * row.keys / row.seconds:>10.3g}{row.bytes_sent / row.bytes:>8.2f}"
              f"{row.bytes_copied / row.bytes:>7.2f}"
              f"{show_seconds(row.cpu_seconds):>11}")  # fmt: skip
    print("ratio: raw MPI's time by ours, so 1 is as fast as raw MPI; a burst is told for each"
          " push;\nsent/B: bytes that all nodes have sent, for each byte of keys and values;"
          " copied: those that\nclients and servers have copied themselves, beside the copy by"
          " which they travel and those\nof messages of up to 4 KiB; CPU: processor time of all"
          " nodes, with what they spin")
    sys.stdout.flush()


def plot(rows: list[Row]) -> None:
    """Print processor time and bytes of a key as bars, against the number of servers."""
    kinds = dict.fromkeys((row.op, row.keys, row.lists) for row in rows)
    for name, unit, factor in (("cpu_seconds", "ns", 1e9), ("bytes_sent", "bytes", 1.0)):
        print(f"{name} a key, by servers ({unit}; bars: against the largest of a case)")
        for op, keys, lists in kinds:
            same = [row for row in rows if (row.op, row.keys, row.lists) == (op, keys, lists)]
            each = [factor * getattr(row, name) / keys for row in same]
            for row, value in zip(same, each, strict=True):
                bar = "#" * round(30 * value / max(each)) if max(each) else ""
                print(f"{op:<6}{keys:>10,} {lists:<9}{row.servers:>2} {value:>12.4g} {bar}")
    sys.stdout.flush()


def read(path: Path) -> list[Row]:
    """Return the rows of an earlier run.

    Raises:
        MissingInputError: there is no such file.
        DataError: it has no rows of this version.
    """
    try:
        return [Row(**row) for row in json.loads(path.read_text())["rows"]]
    except OSError as error:
        what = f"{path}: {error.strerror}"
        raise MissingInputError(what, "", "mpips bench --json FILE") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} has no rows of mpips bench", str(error)) from error


def compare(before: list[Row], after: list[Row]) -> None:
    """Print what both runs have, side by side."""
    found = {row.name: row for row in before}
    print(f"{'servers x workers + copies':<36}{'before':>11}{'after':>11}{'ratio':>7}{'ratio':>7}"
          f"{'gain':>7}")  # fmt: skip
    for row in after:
        old = found.get(row.name)
        if old is None:
            continue
        times = f"{show_seconds(old.seconds):>11}{show_seconds(row.seconds):>11}"
        gain = row.ratio_to_mpi / old.ratio_to_mpi
        print(f"{row.name:<36}{times}{old.ratio_to_mpi:>7.2f}{row.ratio_to_mpi:>7.2f}{gain:>7.2f}")
    print("gain: how much closer to raw MPI, each in its own run")


def show_seconds(seconds: float) -> str:
    """Return a short duration.

    >>> show_seconds(2.05e-6), show_seconds(0.0115)
    ('2.0 us', '11.5 ms')
    """
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} us"


def write(found: dict[str, list[dict[str, object]]], path: Path | None) -> int:
    """Write what was found as JSON, if it is wanted, and return the exit code."""
    if path is None:
        return 0
    try:
        path.write_text(json.dumps(found, indent=2) + "\n")
    except OSError as error:
        print(OutputError(f"{path}: {error.strerror}").explain(), file=sys.stderr)
        return OutputError.exit_code
    print(f"all figures in {path} ({time.strftime('%Y-%m-%d %H:%M')})")
    return 0
