"""Where a run goes on: its checkpoints, written by the scheduler and found again."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from mpips.config import AUTO, Config
from mpips.core.saving import Resume, When
from mpips.errors import ConfigError, MissingInputError
from mpips.toml import to_toml
from mpips.wire.messages import Takeover
from mpips.wire.types import Table

CHECKPOINTS = "checkpoints"


def when_to_save(config: Config) -> When:
    """Return when checkpoints are taken."""
    kept = config.checkpoint
    return When(
        every_s=None if kept.every_s == AUTO else float(kept.every_s) or math.inf,
        every_iterations=kept.every_iterations,
        mtbf_s=kept.mtbf_s,
        stop_after_iterations=config.run.stop_after_iterations,
        stop_after_s=config.run.max_time_s or math.inf,
    )


def make_room(folder: Path) -> Path:
    """Return a new folder for a checkpoint of a run."""
    from mpips.files.checkpoint import new_checkpoint

    return new_checkpoint(folder)


def keep_resume(
    folder: Path,
    config: Config,
    tables: Sequence[Table],
    resume: Resume,
    parts: Sequence[Mapping[str, Any]],
) -> None:
    """Make a checkpoint whole, and remove those that are too old.

    Args:
        folder: of the checkpoint, in which servers and workers have written their parts.
        config: the effective config.
        tables: as they are cut.
        resume: the scheduler's side.
        parts: the files of the others.
    """
    from mpips.files.checkpoint import prune, write_manifest, write_results
    from mpips.files.parts import PartFact

    takeovers = [[u, one.streams, one.calls] for u, one in resume.takeovers.items()]
    kept = {"results": resume.results, "takeovers": takeovers, "dropped": resume.dropped}
    part = write_results(folder, kept)
    facts = {"logical_workers": config.logical_workers, "config": to_toml(config)}
    facts_of_parts = cast(list[PartFact], [*parts, part])
    write_manifest(folder, resume.tasks, tables, facts_of_parts, facts)
    prune(folder.parent.parent, config.checkpoint.keep, folder)


def has_checkpoint(folder: Path) -> bool:
    """Return whether a run has left a checkpoint, which may be broken."""
    return any((folder / CHECKPOINTS).glob("*/manifest.json"))


def find_resume(config: Config, folder: Path) -> Resume | None:
    """Return where a run goes on; None if it is a new one.

    Args:
        config: its `run.resume` says where to look.
        folder: the run's own folder.

    Raises:
        DataError, MissingInputError: there is no good checkpoint where there has to be one.
        ConfigError: the checkpoint is of a run with other logical workers.
    """
    if not config.run.resume:
        return None
    from mpips.files.checkpoint import find_checkpoint, load_checkpoint

    is_auto = config.run.resume == AUTO
    path = folder if is_auto else Path(config.run.resume)
    skipped: list[str] = []
    if is_auto or (path / CHECKPOINTS).exists():
        found, broken = find_checkpoint(path)
        skipped = [f"{where}: {why}" for where, why in broken]
    else:
        found = load_checkpoint(path)
    # One that was being written when the run died is nothing that anybody could miss.
    if found is None and is_auto and not has_checkpoint(path):
        return None
    # What is broken is not passed over for nothing at all without a word.
    if found is None:
        what = f"{path} has no checkpoint that is whole"
        raise MissingInputError(what, "\n".join(skipped), "Without --resume the run begins anew.")
    wanted, there = config.logical_workers, found.manifest.facts["logical_workers"]
    if wanted != there:
        what = f"run.logical_workers is {wanted}, and the checkpoint has {there}"
        raise ConfigError(what, str(found.path), f"--set run.logical_workers={there}")
    kept = found.results()
    takeovers = {
        int(worker): Takeover([(int(n), int(c)) for n, c in streams], calls)
        for worker, streams, calls in kept["takeovers"]
    }
    return Resume(
        path=str(found.path),
        tasks=found.manifest.tasks,
        results=kept["results"],
        takeovers=takeovers,
        dropped=[int(worker) for worker in kept["dropped"]],
        skipped=skipped,
    )


def fit_tables(tables: Sequence[Table], resume: Resume) -> list[Table]:
    """Return a job's tables with as many segments as they have in the checkpoint.

    Raises:
        DataError: the checkpoint has other tables.
    """
    from mpips.files.checkpoint import load_checkpoint

    found = load_checkpoint(Path(resume.path), check=False)
    return [found.fit(table) for table in tables]
