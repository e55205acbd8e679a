"""Compares the exact block solver with liblinear's L1 logistic regression, in one run, by turns.

    python -m venv /tmp/lib && /tmp/lib/bin/pip install liblinear-official numpy scipy
    python -m tests.peers.blocks DATA.h5 --peer /tmp/lib/bin/python --l1 1

Both minimise the same objective over the same rows, which are in memory; reading them and
compiling are left out. What counts is the shortest run that ends within `--relative` of the least
objective that anybody has found. liblinear is run once for each of `--peer-tolerances`. mpips is
run once, to `--tolerance` or `--passes`, and each of its checks stands for the run that would have
stopped there, with that check's gap as its tolerance: such runs are the same up to their ends. A
line is printed as soon as its figures are there, so that a long comparison tells something even if
it is stopped; large sets take `--rounds 1`, and tolerances that are few and loose.

Compared is processor time: liblinear's, and mpips's of two workers and one server in one process,
which are told apart. Two workers work at the same time where they have cores of their own: so the
time "with 2 workers" is that of the busier one, with the server's and the scheduler's.
"""

import argparse
import importlib
import json
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import scipy.sparse

from mpips.apps.find import find_app
from mpips.apps.linear.app import Check, Step
from mpips.apps.linear.exact import ExactLinear
from mpips.apps.linear.types import Starts
from mpips.config import parse
from mpips.files.csr import CsrFile
from mpips.node import kernels
from mpips.node.local import run_local
from mpips.node.loop import Node
from mpips.node.scheduler import SchedulerNode
from mpips.node.server import ServerNode
from mpips.node.worker import WorkerNode

ROLES: Final[dict[str, type[Node]]] = {
    "scheduler": SchedulerNode, "server": ServerNode, "worker": WorkerNode,
}  # fmt: skip
TOLERANCE: Final = 1e-3
PEER_TOLERANCES: Final = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4)

PEER: Final = """
import json, sys, time
import numpy as np, scipy.sparse as sp
from liblinear.liblinearutil import problem, parameter, train
x, labels, l1 = sp.load_npz(sys.argv[1]), np.load(sys.argv[2]), float(sys.argv[4])
rows = problem(labels, x)
for tolerance in map(float, sys.argv[5:]):
    options = parameter(f"-s 6 -c {1 / l1!r} -e {tolerance} -q")
    begin = time.process_time()
    model = train(rows, options)
    spent = time.process_time() - begin
    w = np.array(model.get_decfun()[0]) * (1 if model.get_labels()[0] == 1 else -1)
    # The reader answers each line, so that the next weights may take the place of these.
    np.save(sys.argv[3], w)
    print("FIGURES", json.dumps([tolerance, spent]), flush=True)
    sys.stdin.readline()
"""


class Found(NamedTuple):
    """How a run of a solver ended, or would have ended at a check.

    Attributes:
        tolerance: at which it stopped; of mpips the gap.
        objective: what it reached.
        seconds: the time that is compared.
        total: processor time of all nodes.
        nonzeros: weights that are not 0; of mpips those that are not 0 or should not be.
        steps: block steps; 0: it has none.
        parts: processor time by node.
    """

    tolerance: float
    objective: float
    seconds: float
    total: float
    nonzeros: int
    steps: int = 0
    parts: str = ""

    def tell(self, name: str) -> None:
        """Print it."""
        print(f"    {name:17} {self.seconds:9.3f} s, {self.objective:.6f}, tolerance"
              f" {self.tolerance:.3g}, {self.nonzeros:,} not 0, {self.steps} block steps",
              flush=True)  # fmt: skip


spent: Counter[str] = Counter()
checks: list[Found] = []


def time_turns(role: str, kind: type[Node]) -> None:
    """Have the turns of a role's nodes timed, each node by itself."""
    plain = kind.turn

    def turn(node: Node) -> bool:
        begin = time.thread_time()
        busy = plain(node)
        spent[f"{role} {node.transport.node}"] += time.thread_time() - begin
        return busy

    kind.turn = turn  # type: ignore[method-assign]


def time_solving() -> None:
    """Have the time begin when the rows are in memory, and be noted at each check."""
    prepare, choose = ExactLinear.prepare, ExactLinear.choose
    check_all = ExactLinear.check_all
    steps = 0

    def prepared(app: ExactLinear) -> Step:
        nonlocal steps
        found = yield from prepare(app)
        steps = 0
        spent.clear()
        checks.clear()
        return found

    def chosen(app: ExactLinear, active: Starts) -> Step:
        nonlocal steps
        blocks: int = yield from choose(app, active)
        steps += blocks
        return blocks

    def checked(app: ExactLinear) -> Step:
        check: Check = yield from check_all(app)
        checks.append(note_check(check, steps))
        checks[-1].tell("mpips, 2 workers")
        return check

    ExactLinear.prepare = prepared  # type: ignore[method-assign]
    ExactLinear.choose = chosen  # type: ignore[method-assign]
    ExactLinear.check_all = checked  # type: ignore[method-assign]


def note_check(check: Check, steps: int) -> Found:
    """Return how a run would end that stopped at a check."""
    workers = [seconds for name, seconds in spent.items() if name.startswith("worker")]
    total = sum(spent.values())
    told = ", ".join(f"{name} {seconds:.3f}" for name, seconds in sorted(spent.items()))
    return Found(
        tolerance=check.gap,
        objective=check.objective,
        seconds=total - sum(workers) + max(workers),
        total=total,
        nonzeros=len(check.active),
        steps=steps,
        parts=told,
    )


def run_mpips(path: Path, l1: float, tolerance: float, passes: int) -> list[Found]:
    """Return how a job of two workers and one server stands at each of its checks."""
    given = {
        "data.train": path,
        "model.l1": l1,
        "model.tolerance": tolerance,
        "model.passes": passes,
        "run.workers": 2,
    }
    config = parse("", "", [f"{name}={value}" for name, value in given.items()])
    run_local(find_app(config), config)
    return [*checks]


def run_peer(
    python: str, folder: Path, l1: float, x: Any, labels: Any, tolerances: list[float]
) -> list[Found]:
    """Return how liblinear ends at each tolerance."""
    files = [str(folder / name) for name in ("x.npz", "y.npy", "w.npy")]
    words = [python, "-c", PEER, *files, repr(l1), *map(str, tolerances)]
    found = []
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as peer:
        assert peer.stdin is not None
        assert peer.stdout is not None
        for line in peer.stdout:
            if not line.startswith("FIGURES"):
                continue
            tolerance, seconds = json.loads(line.removeprefix("FIGURES"))
            w = np.load(files[-1])
            print(file=peer.stdin, flush=True)
            objective = float(np.logaddexp(0, -labels * (x @ w)).sum() + l1 * np.abs(w).sum())
            found.append(Found(tolerance, objective, seconds, seconds, int(np.count_nonzero(w))))
            found[-1].tell("liblinear -s 6")
    if peer.returncode:
        raise SystemExit(f"liblinear ended with {peer.returncode}")
    return found


def pick(runs: list[Found], goal: float) -> Found | None:
    """Return the shortest run, by the median of each tolerance's, that has reached the goal."""
    best: Found | None = None
    for tolerance in sorted({run.tolerance for run in runs}):
        same = sorted((r for r in runs if r.tolerance == tolerance), key=lambda run: run.seconds)
        middle = same[len(same) // 2]
        if middle.objective <= goal and (best is None or middle.seconds < best.seconds):
            best = middle
    return best


def main() -> None:
    """Run both by turns, and print what each needs to come as near to the optimum."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--peer", required=True, help="a Python that has liblinear")
    parser.add_argument("--l1", type=float, nargs="+", default=[1.0])
    parser.add_argument("--relative", type=float, default=1e-4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="mpips's, the tightest")
    parser.add_argument("--passes", type=int, default=0, help="mpips stops after so many; 0: none")
    parser.add_argument("--peer-tolerances", type=float, nargs="+", default=PEER_TOLERANCES)
    arguments = parser.parse_args()
    kernels.compile_kernels(print)
    for path in kernels.kernel_files():
        parts = path.relative_to(kernels.PACKAGE.parent).with_suffix("").parts
        importlib.import_module(".".join(parts))
    for role, kind in ROLES.items():
        time_turns(role, kind)
    time_solving()
    with CsrFile(arguments.data) as data:
        part = data.read(0, data.n_rows, classes=data.two_classes())
        shape = data.n_rows, data.n_features
    x = scipy.sparse.csr_array((part.data, part.indices, part.indptr), shape=shape)
    print(f"{shape[0]:,} rows, {x.nnz:,} nonzeros, {shape[1]:,} features", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        scipy.sparse.save_npz(Path(folder, "x.npz"), scipy.sparse.csr_matrix(x), compressed=False)
        np.save(Path(folder, "y.npy"), part.labels)
        for l1 in arguments.l1:
            print(f"  lambda {l1:g}", flush=True)
            peer: list[Found] = []
            mine: list[Found] = []
            for _ in range(arguments.rounds):
                inputs = arguments.peer, Path(folder), l1, x, part.labels
                peer += run_peer(*inputs, arguments.peer_tolerances)
                mine += run_mpips(arguments.data, l1, arguments.tolerance, arguments.passes)
            show(l1, peer, mine, arguments.relative)


def show(l1: float, peer: list[Found], mine: list[Found], relative: float) -> None:
    """Print the shortest runs of both, and their ratio."""
    least = min(run.objective for run in (*peer, *mine))
    goal = least * (1 + relative)
    theirs, ours = pick(peer, goal), pick(mine, goal)
    print(f"  lambda {l1:g}, least objective {least:.6f}")
    for name, run in (("liblinear -s 6", theirs), ("mpips, 2 workers", ours)):
        if run is None:
            print(f"    {name:17} did not come within {relative:g}")
            continue
        print(f"    {name:17} {run.seconds:8.3f} s, stopped at {run.tolerance:.3g}:"
              f" {run.objective / least - 1:.1e} above the least")  # fmt: skip
    if theirs and ours:
        ratio, whole = ours.seconds / theirs.seconds, ours.total / theirs.seconds
        step = 1e6 * ours.seconds / max(ours.steps, 1)
        print(f"    mpips takes {ratio:.2f} times as long ({whole:.2f} with all nodes' time);"
              f" {ours.steps} block steps, {step:,.0f} us a step; {ours.parts}")  # fmt: skip


if __name__ == "__main__":
    main()
