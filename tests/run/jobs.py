"""Starts mpips as a user does, and reads what a job leaves."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from mpips.apps.linear.exact import ExactLinear
from mpips.config import parse
from mpips.files.csr import CsrWriter
from mpips.node import mpirun, surroundings
from mpips.node.folder import RunFolder
from mpips.node.local import run_local
from mpips.toml import assign

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 200


@dataclass(frozen=True)
class Done:
    """How a program ended."""

    code: int
    out: str
    err: str


def environment(**changes: str) -> dict[str, str]:
    """Return the environment of a user's shell, in which Python finds this mpips."""
    return surroundings.inner_environment({"PYTHONPATH": str(ROOT), **changes})


def run(command: list[str], folder: Path, **changes: str) -> Done:
    """Run a program to its end in a folder."""
    done = subprocess.run(command, cwd=folder, env=environment(**changes), timeout=SECONDS,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def mpips(folder: Path, *arguments: str, **changes: str) -> Done:
    """Run `mpips ARGUMENTS` in a folder, with changes of the environment."""
    return run([sys.executable, "-m", "mpips", *arguments], folder, **changes)


def under_mpirun(ranks: int, folder: Path, *program: str) -> Done:
    """Run a Python program as ranks of an mpirun of the user's, which knows nothing of mpips."""
    command = [mpirun.find().path, "-n", str(ranks), sys.executable, *program]
    return run(command, folder, **mpirun.settings(ranks, local=True))


def train_here(rows: Path, out: Path, *settings: str) -> Path:
    """Train as `mpips train ROWS` does, but in this process, to the same bits as on any ranks."""
    config = parse("", "", [assign("data.train", str(rows)), *settings])
    run_local(ExactLinear, config, RunFolder(out, config))
    return out


def write_rows(
    path: Path, rows: int = 400, columns: int = 60, seed: int = 1,
    labels: tuple[float, ...] = (),
) -> Path:
    """Write random rows, with labels of a random linear model or as given, in turn."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(min(1, columns), min(8, columns) + 1, rows)
    chosen = [np.sort(rng.choice(columns, size, replace=False)) for size in lengths]
    indices = np.concatenate([np.zeros(0, np.int64), *chosen])
    data = rng.normal(size=len(indices)).astype(np.float32)
    weights = np.random.default_rng(0).normal(size=columns)
    owners = np.repeat(np.arange(rows), lengths)
    margins = np.bincount(owners, weights=data * weights[indices], minlength=rows)
    drawn = np.where(margins + rng.logistic(size=rows) > 0, 1.0, -1.0)
    with CsrWriter(path, columns) as writer:
        writer.append(lengths, indices, data, np.resize(labels, rows) if labels else drawn)
    return path


def flip(source: Path, target: Path, name: str) -> Path:
    """Copy a data file with one bit flipped in the first chunk of a data set."""
    with h5py.File(source) as file:
        chunk = file[name].id.get_chunk_info(0)
    content = bytearray(source.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 1
    target.write_bytes(content)
    return target


def weights_of(folder: Path) -> npt.NDArray[np.float64]:
    """Return the weights of a run's model."""
    with h5py.File(folder / "model.h5") as file:
        weights: npt.NDArray[np.float64] = file["w"][()]
    return weights


def result_of(folder: Path) -> dict[str, Any]:
    """Return a run's result."""
    result: dict[str, Any] = json.loads((folder / "result.json").read_text("utf-8"))
    return result


def processes_of(word: str) -> list[int]:
    """Return the processes whose command line has a word, but for this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if word.encode() in line and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found
