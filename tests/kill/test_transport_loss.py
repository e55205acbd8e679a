"""The death of a rank is raised by the transport of every survivor, and names the rank."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VICTIM, RANKS = 1, 3
NOTICE_S = 5.0

PROGRAM = """
import json, os, pathlib, sys, time
import mpi4py
mpi4py.rc.finalize = False
from mpi4py import MPI
import numpy as np
from mpips.errors import RanksLostError
from mpips.transport.backoff import Backoff
from mpips.transport.mpi import MPITransport

folder, traffic = pathlib.Path(sys.argv[1]), sys.argv[2]
end = MPITransport(MPI.COMM_WORLD)
backoff, received, survivor = Backoff(), 0, 2 - end.node
(folder / f"pid.{end.node}.new").write_text(str(os.getpid()))
os.replace(folder / f"pid.{end.node}.new", folder / f"pid.{end.node}")
try:
    while True:
        # Keep small frames, or large ones that the victim never fetches, on their way.
        if traffic == "small" and end.unsent() < 10:
            for peer in range(end.size):
                end.send(peer, b"x")
        if traffic == "large" and received == 0 and end.unsent() == 0 and end.node != 1:
            end.send(1, b"x", [np.zeros(50_000_000, np.uint8)])
        frames = [] if traffic == "large" and end.node == 1 else end.poll()
        received += len(frames)
        backoff.busy() if frames else backoff.wait()
except RanksLostError as error:
    again = 0
    try:
        end.poll()
    except RanksLostError:
        again = 1
    end.close()
    facts = {"lost": sorted(end.lost), "text": str(error), "at": time.time(), "again": again}
    (folder / f"result.{end.node}").write_text(json.dumps(facts))
# Whoever leaves looks dead: stay until the other survivor has written what it saw.
deadline = time.monotonic() + 5
while not (folder / f"result.{survivor}").exists() and time.monotonic() < deadline:
    time.sleep(0.01)
os._exit(0)
"""


@pytest.mark.parametrize("traffic", ["none", "small", "large"])
def test_survivors_learn_who_died(tmp_path: Path, traffic: str) -> None:
    command = [Path(sys.executable).with_name("mpirun"), "--with-ft", "ulfm", "--oversubscribe"]
    command += ["-n", str(RANKS), sys.executable, "-c", PROGRAM, str(tmp_path), traffic]
    settings = {"PYTHONPATH": str(ROOT), "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_MCA_pml": "ob1",
                "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_btl": "self,sm,tcp",
                "OMPI_MCA_osc": "^ucx"}
    job = subprocess.Popen(list(map(str, command)), env={**os.environ, **settings},
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        pids = [tmp_path / f"pid.{rank}" for rank in range(RANKS)]
        until(lambda: all(path.exists() for path in pids), 30)
        # Let traffic begin, so that the death meets messages on their way.
        until(lambda: False, 0.3)
        killed = time.time()
        os.kill(int(pids[VICTIM].read_text()), signal.SIGKILL)
        job.wait(NOTICE_S + 15)
    finally:
        job.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            job.wait(10)
    for rank in set(range(RANKS)) - {VICTIM}:
        facts = json.loads((tmp_path / f"result.{rank}").read_text())
        assert VICTIM in facts["lost"]
        assert f"node {VICTIM}" in facts["text"] or f"{VICTIM}," in facts["text"]
        assert facts["again"] == 1
        assert facts["at"] - killed < NOTICE_S


def until(condition: object, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.01)
