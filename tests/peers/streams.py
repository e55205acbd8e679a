"""Compares a streaming pass of FTRL with Vowpal Wabbit's, in one run, turn by turn.

    python -m venv /tmp/vw && /tmp/vw/bin/pip install vowpalwabbit
    python -m tests.peers.streams DATA.h5 --peer /tmp/vw/bin/python

Both learn from the same rows once, by FTRL with the same settings; Vowpal Wabbit reads the cache
file that it has made before, mpips its HDF5 file. Compared is processor time, which other jobs on
the machine disturb least: Vowpal Wabbit's of all its threads, and mpips's of one worker and one
server in one process, whose loop ends when both have no more to do. Loading of programs is left
out for both. Progressive losses are printed, since a fast pass that learns less is none.
"""

import argparse
import importlib
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from mpips.apps.linear.ftrl import FtrlLinear
from mpips.config import parse
from mpips.files.csr import CsrFile
from mpips.node import kernels
from mpips.node.kv import Worker
from mpips.node.local import run_local

ALPHA, BETA, L1 = 0.1, 1.0, 1.0

PEER: Final = """
import sys, time
from vowpalwabbit import pyvw
begin = time.process_time()
vw = pyvw.Workspace(sys.argv[1])
spent = time.process_time() - begin
print("FIGURES", spent, vw.get_sum_loss() / vw.get_weighted_examples())
"""


class Timed(FtrlLinear):
    """FTRL that says how long its pass took."""

    async def stream(self, worker: Worker, *places: Any, **names: Any) -> dict[str, float]:
        """Stream as ever, and note the time of this process."""
        begin = time.process_time()
        found = await super().stream(worker, *places, **names)
        spent.append(time.process_time() - begin)
        return found


spent: list[float] = []


def run_mpips(path: Path, minibatch: int) -> tuple[float, float]:
    """Return the seconds of a pass, and its progressive loss."""
    spent.clear()
    given = {"data.train": path, "model.solver": "ftrl", "model.minibatch": minibatch,
             "model.alpha": ALPHA, "model.beta": BETA, "model.l1": L1}  # fmt: skip
    config = parse("", "", [f"{name}={value}" for name, value in given.items()])
    result = run_local(Timed, config)
    return sum(spent), result["progressive_logloss"]


def run_peer(python: str, text: Path, cache: Path) -> tuple[float, float]:
    """Return the same of Vowpal Wabbit."""
    words = f"--ftrl --ftrl_alpha {ALPHA} --ftrl_beta {BETA} --l1 {L1} --noconstant -b 24"
    words += f" --loss_function logistic --holdout_off --quiet -d {text} --cache_file {cache}"
    done = subprocess.run([python, "-c", PEER, words], capture_output=True, text=True, check=True)
    _, seconds, loss = next(s for s in done.stdout.splitlines() if s.startswith("FIG")).split()
    return float(seconds), float(loss)


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


def main() -> None:
    """Run both by turns, and print each one's medians and the ratio of the medians."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--peer", required=True, help="a Python that has vowpalwabbit")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minibatch", type=int, nargs="+", default=[100, 1000])
    arguments = parser.parse_args()
    kernels.compile_kernels(print)
    for path in kernels.kernel_files():
        parts = path.relative_to(kernels.PACKAGE.parent).with_suffix("").parts
        importlib.import_module(".".join(parts))
    figures: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder, CsrFile(arguments.data) as data:
        text, cache = Path(folder, "rows.vw"), Path(folder, "rows.cache")
        write_text(data, text)
        run_peer(arguments.peer, text, cache)
        for _ in range(arguments.rounds):
            figures.setdefault("vw", []).append(run_peer(arguments.peer, text, cache))
            for size in arguments.minibatch:
                name = f"mpips, minibatch {size}"
                figures.setdefault(name, []).append(run_mpips(arguments.data, size))
        base = median(seconds for seconds, _ in figures["vw"])
        print(f"{data.n_rows:,} rows, {data.nnz:,} nonzeros, {data.n_features:,} features")
        for name, found in figures.items():
            seconds, loss = np.median(found, axis=0)
            rate = data.n_rows / seconds
            print(f"  {name:22} {seconds:7.3f} s  {rate:9,.0f} rows/s  {base / seconds:5.2f} of vw"
                  f"  loss {loss:.5f}")  # fmt: skip


if __name__ == "__main__":
    main()
