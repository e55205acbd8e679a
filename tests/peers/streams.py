"""Compares a streaming pass of FTRL with Vowpal Wabbit's, in one run, turn by turn.

    python -m venv /tmp/vw && /tmp/vw/bin/pip install vowpalwabbit
    python -m tests.peers.streams DATA.h5 --peer /tmp/vw/bin/python

Both learn from the same rows once, by FTRL with the same settings, and read a file that was made
for fast reading before: Vowpal Wabbit its cache, mpips an unpacked copy of DATA (see `mpips convert
--unpacked`); mpips also reads DATA itself. Compared is processor time, which other jobs on the
machine disturb least: Vowpal Wabbit's of all its threads, mpips's of one worker with its reading
thread, and of one server, which are told apart although they live in one process. Loading of
programs is left out for both. Progressive losses are printed, since a fast pass that learns less
is none.
"""

import argparse
import importlib
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mpips.apps.find import find_app
from mpips.apps.linear.stream import StreamLinear
from mpips.config import parse
from mpips.files.csr import CsrFile, CsrWriter
from mpips.node import kernels
from mpips.node.local import run_local
from mpips.node.loop import Node
from mpips.node.scheduler import SchedulerNode
from mpips.node.server import ServerNode

ALPHA, BETA, L1 = 0.1, 1.0, 1.0
RUNS: Final = ["local-ftrl:1000", "ftrl:100", "ftrl:1000"]

PEER: Final = """
import sys, time
from vowpalwabbit import pyvw
begin, wall = time.process_time(), time.perf_counter()
vw = pyvw.Workspace(sys.argv[1])
print("FIGURES", time.process_time() - begin, time.perf_counter() - wall,
      vw.get_sum_loss() / vw.get_weighted_examples())
"""


class Clock:
    """The seconds of the passes so far: processor time of worker and server, and wall time."""

    def __init__(self) -> None:
        self.worker = self.server = self.wall = 0.0
        self.others = self.serving = 0.0

    def note(self, sign: int) -> None:
        """Note the beginning (-1) or end (1) of a pass: all is the worker's but others' turns."""
        self.worker += sign * (time.process_time() - self.others)
        self.server += sign * self.serving
        self.wall += sign * time.perf_counter()


clock = Clock()


def time_turns(kind: type[Node]) -> None:
    """Have the turns of servers or schedulers timed."""
    plain = kind.turn

    def turn(node: Node) -> bool:
        begin = time.thread_time()
        busy = plain(node)
        spent = time.thread_time() - begin
        clock.others += spent
        clock.serving += spent * (kind is ServerNode)
        return busy

    kind.turn = turn  # type: ignore[method-assign]


def time_streams() -> None:
    """Have the passes of streams timed."""
    plain = StreamLinear.stream

    async def stream(app: StreamLinear, *places: Any, **names: Any) -> dict[str, float]:
        clock.note(-1)
        found = await plain(app, *places, **names)
        clock.note(1)
        return found

    StreamLinear.stream = stream  # type: ignore[method-assign]


def run_mpips(path: Path, solver: str, minibatch: int) -> tuple[float, ...]:
    """Return the seconds of a pass, of the worker, the server and on the wall, and its loss."""
    global clock
    clock = Clock()
    given = {"data.train": path, "model.solver": solver, "model.minibatch": minibatch,
             "model.alpha": ALPHA, "model.beta": BETA, "model.l1": L1}  # fmt: skip
    config = parse("", "", [f"{name}={value}" for name, value in given.items()])
    result = run_local(find_app(config), config)
    return clock.worker, clock.server, clock.wall, result["progressive_logloss"]


def run_peer(python: str, text: Path, cache: Path) -> tuple[float, ...]:
    """Return the same of Vowpal Wabbit, which has no server."""
    words = f"--ftrl --ftrl_alpha {ALPHA} --ftrl_beta {BETA} --l1 {L1} --noconstant -b 24"
    words += f" --loss_function logistic --holdout_off --quiet -d {text} --cache_file {cache}"
    done = subprocess.run([python, "-c", PEER, words], capture_output=True, text=True, check=True)
    figures = next(s for s in done.stdout.splitlines() if s.startswith("FIG")).split()
    seconds, wall, loss = (float(word) for word in figures[1:])
    return seconds, 0.0, wall, loss


def write_text(data: CsrFile, path: Path) -> None:
    """Write rows as Vowpal Wabbit reads them."""
    classes = data.two_classes()
    with path.open("w", encoding="ascii") as file:
        for begin in range(0, data.n_rows, 20_000):
            part = data.read(begin, min(begin + 20_000, data.n_rows), classes=classes)
            words = [f"{c}:{v:.7g}" for c, v in zip(part.indices, part.data, strict=True)]
            for row, label in enumerate(part.labels):
                low, high = part.indptr[row : row + 2]
                file.write(f"{label:.0f} | {' '.join(words[low:high])}\n")


def unpack(data: CsrFile, path: Path) -> None:
    """Write rows as mpips reads them fastest."""
    noted = {"row_scaling": data.row_scaling}
    with CsrWriter(path, data.n_features, noted, data.value_dtype, packed=False) as file:
        for begin in range(0, data.n_rows, 20_000):
            part = data.read(begin, min(begin + 20_000, data.n_rows), scaled=False)
            file.append(np.diff(part.indptr), part.indices, part.data, part.labels)


def show(name: str, rows: int, found: list[tuple[float, ...]], base: npt.NDArray[Any]) -> None:
    """Print medians, and their ratios to the peer's."""
    worker, server, wall, loss = np.median(found, axis=0)
    rate = rows / worker
    print(f"  {name:31} {worker:7.3f} s  {rate:9,.0f} rows/s  {base[0] / worker:5.2f} of vw"
          f"  server {server:6.3f} s  both {base[0] / (worker + server):5.2f} of vw"
          f"  wall {base[2] / wall:5.2f}  loss {loss:.5f}")  # fmt: skip


def main() -> None:
    """Run both by turns, and print each one's medians and the ratio of the medians."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--peer", required=True, help="a Python that has vowpalwabbit")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", nargs="+", metavar="SOLVER:MINIBATCH", default=RUNS)
    arguments = parser.parse_args()
    kernels.compile_kernels(print)
    for path in kernels.kernel_files():
        parts = path.relative_to(kernels.PACKAGE.parent).with_suffix("").parts
        importlib.import_module(".".join(parts))
    for kind in (ServerNode, SchedulerNode):
        time_turns(kind)
    time_streams()
    figures: dict[str, list[tuple[float, ...]]] = {}
    with tempfile.TemporaryDirectory() as folder, CsrFile(arguments.data) as data:
        text, cache, fast = (Path(folder, f"rows.{end}") for end in ("vw", "cache", "h5"))
        write_text(data, text)
        unpack(data, fast)
        run_peer(arguments.peer, text, cache)
        for _ in range(arguments.rounds):
            figures.setdefault("vw", []).append(run_peer(arguments.peer, text, cache))
            for run in arguments.runs:
                solver, size = run.split(":")
                for name, path in ((run, fast), (f"{run}, packed", arguments.data)):
                    found = run_mpips(path, solver, int(size))
                    figures.setdefault(f"mpips {name}", []).append(found)
        base = np.median(figures["vw"], axis=0)
        print(f"{data.n_rows:,} rows, {data.nnz:,} nonzeros, {data.n_features:,} features")
        for name, rounds in figures.items():
            show(name, data.n_rows, rounds, base)


if __name__ == "__main__":
    main()
