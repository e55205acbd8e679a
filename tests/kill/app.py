"""The ledger as an app of jobs under mpirun: slow enough to be hit, and with all facts on disk."""

import os
import pickle
import time
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from mpips.config import load
from mpips.core.task import Plan
from mpips.node.folder import CONFIG
from mpips.node.kv import Keys, Pending, Worker
from mpips.testing import ledger
from mpips.wire.types import ValueArray

FACTS, FINISHED = "ledger.pickle", "finished"


class Settings(ledger.Settings, frozen=True, kw_only=True):
    """How long a ledger is kept.

    Attributes:
        pause_s: how long a worker computes before each push.
    """

    steps: int = 24
    pushes: int = 3
    pause_s: float = 0.01


class KeptLedger(ledger.Ledger):
    """Writes down each push that is finished, at once, and in the end all that was seen."""

    Settings: ClassVar[type[msgspec.Struct]] = Settings

    def plan(self) -> Plan:
        """Run the ledger's plan, and leave what it found in the run folder."""
        found = yield from super().plan()
        path = Path(self.job.facts["folder"], FACTS)
        path.write_bytes(pickle.dumps(found))
        return {"steps": self.settings.steps}

    async def work(self, worker: Worker, step: int) -> dict[str, Any]:
        """Do a step of the ledger with a worker that takes its time."""
        path = Path(self.job.facts["folder"], f"{FINISHED}-{worker.id}")
        slow = SlowWorker(worker, self.settings.pause_s, path, step * self.settings.pushes)
        return await super().work(slow, step)  # type: ignore[arg-type]


class SlowWorker:
    """A logical worker that pauses before each push of marks, and notes when it is finished."""

    def __init__(self, worker: Worker, pause_s: float, path: Path, push: int) -> None:
        self._worker, self._pause_s = worker, pause_s
        self._path, self._push = path, push

    def __getattr__(self, name: str) -> Any:
        return getattr(self._worker, name)

    def push(self, table: str, keys: Keys, values: ValueArray) -> Pending:
        """Push, and have the push's number written down once it is acknowledged."""
        pending = self._worker.push(table, keys, values)
        if table == "marks":
            time.sleep(self._pause_s)
            number, self._push = self._push, self._push + 1
            pending.then(lambda result: self._note(number))
        return pending

    def _note(self, number: int) -> None:
        # A line at once: whoever is killed now has said it.
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(handle, b"%d\n" % number)
        os.close(handle)


def finished(folder: Path, worker: int) -> set[int]:
    """Return the numbers of a logical worker's pushes that were acknowledged so far."""
    try:
        lines = (folder / f"{FINISHED}-{worker}").read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return set()
    return {int(line) for line in lines if line.endswith("\n")}


def settings_of(folder: Path) -> Settings:
    """Return the settings of a run folder's ledger."""
    model = {key: value for key, value in load(folder / CONFIG).model.items() if key != "kind"}
    return msgspec.convert(model, Settings)
