"""What a user writes: an algorithm, with a half for each role."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from mpips.config import Config, Section, Source, convert
from mpips.core.machine import Report
from mpips.core.task import Plan, Task
from mpips.store.part import Part
from mpips.wire.types import Table

if TYPE_CHECKING:
    from mpips.node.kv import Worker


@dataclass(frozen=True, slots=True)
class Job:
    """What all nodes of a job know.

    Attributes:
        config: the effective config.
        facts: of the data, agreed on by all workers: `rows`, `features`, `nonzeros`, and so on.
    """

    config: Config
    facts: Mapping[str, Any]

    @property
    def logical_workers(self) -> int:
        """Return the number of logical workers."""
        return self.config.logical_workers


@dataclass(frozen=True, slots=True)
class Needs:
    """What an app's workers take, as far as it can tell before they run; see `App.needs`.

    Attributes:
        worker_bytes: of memory for each logical worker, beside what the library takes.
        state_bytes: of what `App.keep` returns, for each logical worker.
        push_keys: by table, the most keys that one push names; a table that is not here is pushed
            whole.
    """

    worker_bytes: int = 0
    state_bytes: int = 0
    push_keys: Mapping[str, int] = field(default_factory=dict)


class NoSettings(Section, frozen=True, kw_only=True):
    """The settings of an app that has none."""


class App(ABC):
    """One algorithm: its tables, the scheduler's plan, and what workers and servers do.

    Every logical worker, every server and the scheduler has an object of its own, made from the
    same job. Methods that tasks name are:

    - on workers: `async def NAME(self, worker, **arguments)`, `worker` being a
      `mpips.node.kv.Worker`; `await` waits for pushes and pulls;
    - on servers: `def NAME(self, stores, **arguments)`, `stores` being the server's part of each
      table by name, `dict[str, mpips.store.part.Part]`; it may be called again if a server dies;
    - on workers, if other workers ask (`Worker.call`): `def NAME(self, worker, **arguments)`, which
      neither waits nor pushes nor pulls.

    What they return goes to the plan: numbers, strings, lists, dicts and arrays.

    To survive the death of servers an app needs nothing. To survive that of workers it needs
    nothing either, if its calls leave nothing in the object that later ones use: another node makes
    an object and does the unfinished call from its beginning, drawing the same numbers from
    `worker.random`. Otherwise it gives `recover`. Where dead workers' logical workers are dropped
    (recovery.worker = "drop"), the plan gets fewer results, and must not rely on those of a certain
    worker.

    Attributes:
        Settings: the msgspec Struct of the config's section [model], without `kind`.
        mode: the value of sync.mode that the algorithm is made for.
        job: the job.
        settings: the settings, checked.
    """

    Settings: ClassVar[type[msgspec.Struct]] = NoSettings
    mode: ClassVar[str] = "eventual"

    def __init__(self, job: Job) -> None:
        self.job = job
        keys = {key: value for key, value in job.config.model.items() if key != "kind"}
        self.settings: Any = convert({"model": keys}, _model_section(self.Settings)).model

    @abstractmethod
    def tables(self) -> list[Table]:
        """Return the tables; the same on every node."""

    def plan(self) -> Plan:
        """Run the workers' method `work` once, and return the sums of what they return."""
        results = yield Task(group="workers", function="work")
        total: dict[str, Any] = {}
        for result in results:
            for name, value in (result or {}).items():
                total[name] = total.get(name, 0) + value
        yield Report("progress", total)
        return total

    async def recover(self, worker: "Worker", calls: dict[str, dict[str, Any]]) -> None:
        """Make again what a logical worker's earlier calls have left in its object.

        Called on a new object, before the unfinished call of a worker that has died is done again
        from its beginning, or the next one is begun. It may pull and may not push. The call's
        pushes that have been applied before are applied no second time; the answer of such a
        push_pull is what is there now. So a call must push as often, and to the same keys, whatever
        it pulls: what it pushes may be another.

        Args:
            worker: the logical worker.
            calls: the arguments of the last finished call of each function.
        """
        return

    def keep(self) -> dict[str, Any]:
        """Return what a logical worker's object must have to go on exactly where it is.

        Arrays, numbers, texts, None, and lists and dicts of them. An app whose calls leave nothing
        in the object need not have this.
        """
        return {}

    async def restore(
        self, worker: "Worker", calls: dict[str, dict[str, Any]], state: dict[str, Any]
    ) -> None:
        """Make a new object go on where `keep` was called, in a job that is resumed.

        Called as `recover` is, which it calls: that is enough where `keep` returns nothing.

        Args:
            worker: the logical worker.
            calls: the arguments of the last finished call of each function.
            state: what `keep` has returned.
        """
        await self.recover(worker, calls)

    def needs(self, rows: int, nonzeros: int) -> Needs:
        """Return what a logical worker takes that has so many rows and nonzeros, for `mpips check`.

        An app need not have this; the estimate is then of what servers take alone.
        """
        return Needs()

    def progress(self, totals: dict[str, float]) -> dict[str, Any]:
        """Return what the user shall see of the workers' progress, given the sums of its facts."""
        return {name: int(n) if n == int(n) else n for name, n in totals.items()}

    @property
    def sync_mode(self) -> str:
        """Return the config's sync.mode, or the one that the algorithm is made for."""
        return self.job.config.sync.mode or self.mode


def _model_section(kind: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """Return a Struct with the one section `model`, so that errors name it."""
    return msgspec.defstruct("Sections", [("model", kind)], forbid_unknown_fields=True)


def check_model(kind: type[App], config: Config, source: Source | None = None) -> Config:
    """Check the section [model], and return the config with all that the app decides.

    These are the values of all settings, and sync.mode.

    Args:
        kind: the app.
        config: the config.
        source: where it came from, to find the line of an error.

    Raises:
        ConfigError: a setting is unknown or its value not allowed.
    """
    keys = {key: value for key, value in config.model.items() if key != "kind"}
    settings = convert({"model": keys}, _model_section(kind.Settings), source).model
    effective = {key: value for key, value in config.model.items() if key == "kind"}
    # TOML has no word for None: a setting that is not there.
    found = msgspec.to_builtins(settings).items()
    effective |= {key: value for key, value in found if value is not None}
    sync = msgspec.structs.replace(config.sync, mode=config.sync.mode or kind.mode)
    return msgspec.structs.replace(config, model=effective, sync=sync)


Stores = dict[str, Part]
