"""Small problems for the linear solvers, and the exact solver as a serial program."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import scipy.special

from mpips.apps.find import find_app
from mpips.apps.linear.app import find_active, violations
from mpips.apps.linear.exact import cut_blocks
from mpips.apps.linear.kernels import newton
from mpips.apps.linear.shard import Block, Shard
from mpips.config import parse
from mpips.files.csr import CsrFile, CsrWriter
from mpips.node.folder import RunFolder
from mpips.node.local import run_local
from mpips.wire.types import Table

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Problem:
    """Rows and labels, and the file they are in."""

    matrix: sp.csr_array
    labels: Floats
    path: Path

    def objective(self, w: Floats, l1: float) -> float:
        """Return the objective, by the textbook."""
        return float(np.logaddexp(0, -self.labels * (self.matrix @ w)).sum() + l1 * np.abs(w).sum())


def make_matrix(seed: int, n: int = 300, d: int = 40, mean: float = 6.0) -> sp.csr_array:
    """Return random sparse rows, some columns frequent and some rare."""
    rng = np.random.default_rng(seed)
    often = rng.pareto(1.0, d) + 0.2
    found = rng.random((n, d)) < np.minimum(often * (mean / np.minimum(often, 4.0).sum()), 0.7)
    return sp.csr_array(np.where(found, rng.normal(1.0, 1.0, (n, d)), 0.0))


def make_labels(seed: int, matrix: sp.csr_array) -> Floats:
    """Return labels that a sparse model explains in part."""
    rng = np.random.default_rng(seed)
    w = rng.normal(0, 0.5, matrix.shape[1]) * (rng.random(matrix.shape[1]) < 0.4)
    return np.where(matrix @ w + rng.logistic(size=matrix.shape[0]) > 0, 1.0, -1.0)


def write_problem(path: Path, matrix: Any, labels: Floats) -> Problem:
    """Write rows to a file, values in float64."""
    matrix = sp.csr_array(matrix)
    matrix.eliminate_zeros()
    matrix.sort_indices()
    with CsrWriter(path, matrix.shape[1], value_dtype=np.float64) as writer:
        writer.append(np.diff(matrix.indptr), matrix.indices, matrix.data, labels)
    return Problem(matrix, labels, path)


def run(
    problem: Problem | Path,
    l1: float,
    *,
    workers: int = 2,
    servers: int = 1,
    logical: int = 4,
    test: Path | str = "",
    folder: Path | None = None,
    **model: Any,
) -> dict[str, Any]:
    """Run a job in this process and return its result."""
    path = problem.path if isinstance(problem, Problem) else problem
    lines = [f"{name} = {value!r}" for name, value in {"l1": l1, **model}.items()]
    text = f"""
        [run]
        servers = {servers}
        workers = {workers}
        logical_workers = {logical}
        [data]
        train = {str(path)!r}
        test = {str(test)!r}
        [model]
        {chr(10).join(lines)}
    """
    config = parse(text, "")
    return run_local(find_app(config), config, RunFolder(folder, config) if folder else None)


def solve_serially(
    path: Path, l1: float, parts: int, block: int, tolerance: float = 1e-6, seed: int = 1
) -> tuple[Floats, float, int]:
    """Return w, objective and number of steps of the exact solver without a parameter server."""
    with CsrFile(path) as data:
        classes, d = data.two_classes(), data.n_features
        shards = [Shard(data.read(*rows, classes=classes), d) for rows in data.row_ranges(parts)]
    scale = np.maximum.reduce([np.zeros(d), *(shard.scales() for shard in shards)])
    trust = np.divide(1.0, scale, out=np.zeros(d), where=scale > 0)
    w, bound, steps, table = np.zeros(d), -np.inf, 0, Table(name="w", size=d, segments=1)
    packed, blocks = np.zeros(0, np.int64), []
    random = np.random.default_rng(np.random.SeedSequence([seed]))
    while True:
        # Check all keys.
        loss = sum(shard.loss() for shard in shards)
        g = add([shard.gradient() for shard in shards])
        norm = sum(float(np.abs(w[d * i // parts : d * (i + 1) // parts]).sum())
                   for i in range(parts))
        objective = loss + l1 * norm
        top = float(np.abs(g).max())
        scale_dual = min(1.0, l1 / top)
        bound = max(bound, sum(shard.dual(scale_dual) for shard in shards))
        if (objective - bound) / objective <= tolerance:
            return w, objective, steps
        active, violation = find_active(w, g, l1), float(violations(w, g, l1).max())
        for _ in range(10):
            if not set(active) <= set(packed) or len(active) < 0.7 * len(packed):
                packed, starts = active, cut_blocks(active, table, block)
                keys = np.split(active, starts[1:-1])
                blocks = [[shard.pack(part) for shard in shards] for part in keys]
            active, worst = np.zeros(0, np.int64), 0.0
            for b in random.permutation(len(blocks)).tolist():
                keep, seen = step(shards, blocks[b], w, trust, l1)
                active, worst = np.sort(np.concatenate([active, keep])), max(worst, seen)
                steps += 1
            if worst <= 0.3 * violation:
                break


def step(
    shards: list[Shard], blocks: list[Block], w: Floats, trust: Floats, l1: float
) -> tuple[npt.NDArray[np.int64], float]:
    """Make a block step; return the block's active keys and its largest violation."""
    keys = blocks[0].keys
    models = [block.model(shard.margins, trust[keys])
              for shard, block in zip(shards, blocks, strict=True)]
    g, h = add([g for g, _ in models]), add([h for _, h in models])
    h = np.tril(h) + np.tril(h, -1).T
    old, radius = w[keys], trust[keys]
    d = newton.minimise(old, g, h, l1, radius)
    w[keys] = old + d
    trust[keys] = np.maximum(2.0 * np.abs(d), 0.25 * radius)
    for shard, block in zip(shards, blocks, strict=True):
        block.advance(w[keys] - old, shard.margins)
    return keys[find_active(w[keys], g, l1)], float(violations(old, g, l1).max())


def add(arrays: list[Any]) -> Any:
    """Return the sum of arrays, added one after the other."""
    total = arrays[0].copy()
    for array in arrays[1:]:
        total += array
    return total



def certify(problem: Problem, w: Floats, l1: float) -> float:
    """Return a relative duality gap at w, by the textbook: no optimum is further away."""
    z = problem.matrix.toarray() * problem.labels[:, None]
    t = scipy.special.expit(-z @ w)
    t *= min(1.0, l1 / np.abs(z.T @ t).max())
    bound = -(scipy.special.xlogy(t, t) + scipy.special.xlog1py(1 - t, -t)).sum()
    objective = problem.objective(w, l1)
    return float((objective - bound) / objective)
