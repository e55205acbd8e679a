"""Keep checkpoints in a run folder: begin, finish, find the newest good one, remove old ones.

`RUN/checkpoints/000012/` is the twelfth checkpoint that was begun in this run folder: the newest is
the one with the highest number, also where the run has gone on from an older one. Many processes
write its parts (`parts`); the manifest, written last, says what they have to be. Without it, or
when a part is not what it says, the checkpoint does not count.
"""

import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from mpips.errors import DataError, MpipsError, OutputError
from mpips.files.guard import REMEDY, check_file
from mpips.files.manifest import MANIFEST, Manifest, read_manifest, save_manifest, table_fact
from mpips.files.parts import PartFact, PartFile, Segment, write_trees
from mpips.files.steps import reach
from mpips.files.tree import Encoded, encode_tree
from mpips.files.view import write_view
from mpips.wire.types import Table

RESULTS = "results.h5"

FOLDER_NAME = re.compile(r"\d{6,12}")


def new_checkpoint(run_folder: Path) -> Path:
    """Make a new empty folder for a checkpoint, the user's alone, with the next number.

    Args:
        run_folder: of the run, which exists.

    Raises:
        OutputError: it cannot be made.
    """
    parent = run_folder / "checkpoints"
    try:
        parent.mkdir(mode=0o700, exist_ok=True)
        number = max((int(path.name) for path in _folders(run_folder)), default=0) + 1
        folder = parent / f"{number:06}"
        folder.mkdir(mode=0o700)
        reach("made")
        # Have the disk know the names of both folders.
        for above in (run_folder, parent):
            descriptor = os.open(above, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise OutputError(f"cannot make a checkpoint in {parent}: {reason}") from error
    return folder


def write_states(folder: Path, node: int, states: Mapping[int, Encoded]) -> PartFact:
    """Write the states of the logical workers that a node acts for to `worker-NODE.h5`.

    Args:
        folder: of the checkpoint.
        node: id of the worker.
        states: by logical worker, as `tree.encode_states` gives them.

    Raises:
        OutputError, FileError: it cannot be written, or the disk is full.
    """
    named = {str(worker): state for worker, state in states.items()}
    return write_trees(folder / f"worker-{node}.h5", named)


def write_results(folder: Path, results: Any) -> PartFact:
    """Write the plan's results so far to `results.h5`, as nested values.

    Raises:
        AppError: something in them cannot be stored.
        OutputError, FileError: it cannot be written, or the disk is full.
    """
    return write_trees(folder / RESULTS, {"results": encode_tree(results, "a result of the plan")})


def write_manifest(
    folder: Path,
    tasks: int,
    tables: Iterable[Table],
    parts: list[PartFact],
    facts: dict[str, Any],
) -> None:
    """Finish a checkpoint: write `model.h5`, for looking, and then the manifest.

    Args:
        folder: of the checkpoint, with all parts written.
        tasks: how many tasks of the plan are done.
        tables: of the job.
        parts: what the writers of the parts returned.
        facts: what else to note, as JSON can hold it; it comes back as `Checkpoint.facts`.

    Raises:
        DataError: the parts do not hold each segment once.
        OutputError, FileError: it cannot be written, or the disk is full.
    """
    described = {table.name: table_fact(table) for table in tables}
    number = int(folder.name)
    manifest = Manifest(number=number, tasks=tasks, tables=described, parts=parts, facts=facts)
    write_view(folder, {name: fact["kind"] for name, fact in described.items()}, parts)
    save_manifest(folder, manifest)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A finished checkpoint.

    Attributes:
        path: its folder.
        manifest: what it says of itself; `manifest.facts` is what `write_manifest` was given.
    """

    path: Path
    manifest: Manifest

    @property
    def workers(self) -> list[int]:
        """Return the logical workers whose state it has, ascending."""
        named = [name for part in self.manifest.parts for name in part.get("trees", ())]
        return sorted(int(name) for name in named if name != "results")

    @property
    def bytes(self) -> int:
        """Return the size of all parts."""
        return sum(part["bytes"] for part in self.manifest.parts)

    def fit(self, table: Table) -> Table:
        """Return a job's table with as many segments as it has here.

        Raises:
            DataError: the checkpoint has no such table, or it is another.
        """
        stored, wanted = self.manifest.tables.get(table.name), table_fact(table)
        remedy = "Give another folder with --out, or do not resume."
        if stored is None:
            raise DataError(f"{self.path} has no table {table.name}", "", remedy)
        for name, value in wanted.items():
            if name != "segments" and stored.get(name) != value:
                what = f"the table {table.name} of {self.path} has {name} {stored.get(name)}"
                raise DataError(f"{what}, the job's has {value}", "", remedy)
        return msgspec.structs.replace(table, segments=stored["segments"])

    def segments(self, table: str, wanted: Collection[int]) -> Iterator[Segment]:
        """Yield the wanted segments of a table, one at a time, from whichever parts hold them.

        Arrays are the caller's own. The order is that of the parts.

        Raises:
            DataError: a part is missing or damaged, or does not hold what the manifest says.
            FileError: the system cannot read it.
        """
        missing = set(wanted)
        for part in self.manifest.parts:
            if table not in part.get("tables", {}):
                continue
            held = {number for number, _ in part["tables"][table]["segments"]}
            if missing.isdisjoint(held):
                continue
            with PartFile(self.path, part) as file:
                for segment in file.segments(table, missing):
                    missing.discard(segment.segment)
                    yield segment
        if missing:
            numbers = ", ".join(map(str, sorted(missing)[:9]))
            what = f"{self.path} does not hold the segments {numbers} of the table {table}"
            raise DataError(what, "", REMEDY)

    def state(self, worker: int) -> Any:
        """Return the state of a logical worker.

        Raises:
            DataError: it is not there, or damaged.
            FileError: the system cannot read it.
        """
        return self._tree(str(worker), f"the state of logical worker {worker}")

    def results(self) -> Any:
        """Return the results of the plan.

        Raises:
            DataError: they are not there, or damaged.
            FileError: the system cannot read them.
        """
        return self._tree("results", "results")

    def check(self) -> None:
        """Read all parts and compare their checksums.

        Raises:
            DataError: one is missing, has another size, is damaged or not safe to read.
            FileError: the system cannot read it.
        """
        for part in self.manifest.parts:
            with PartFile(self.path, part) as file:
                file.check()

    def _tree(self, name: str, what: str) -> Any:
        """Return nested values from the part that holds them."""
        for part in self.manifest.parts:
            if name in part.get("trees", ()):
                with PartFile(self.path, part) as file:
                    return file.tree(name)
        raise DataError(f"{self.path} does not hold {what}", "", REMEDY)


def load_checkpoint(path: Path, check: bool = True) -> Checkpoint:
    """Return a finished checkpoint.

    Args:
        path: its folder.
        check: True: read all parts and compare their checksums; False: see that they are there,
            with the right sizes. Whatever is read later is compared in any case.

    Raises:
        MissingInputError: there is no manifest: it was never finished, or is no checkpoint.
        DataError: the manifest or a part is missing, damaged, of another version, or not safe.
        FileError: the system cannot read it.
    """
    checkpoint = Checkpoint(path, read_manifest(path))
    for part in checkpoint.manifest.parts:
        check_file(path / part["name"], part["bytes"])
    if check:
        checkpoint.check()
    return checkpoint


def find_checkpoint(run_folder: Path) -> tuple[Checkpoint | None, list[tuple[Path, str]]]:
    """Return the newest good checkpoint of a run, or None, and why newer ones were passed over.

    Returns:
        The checkpoint, all of it checked; and the path of and the reason for each one skipped.
    """
    skipped: list[tuple[Path, str]] = []
    for folder in reversed(_folders(run_folder)):
        try:
            return load_checkpoint(folder), skipped
        except MpipsError as error:
            skipped.append((folder, error.what))
    return None, skipped


def prune(run_folder: Path, keep: int, written: Path) -> list[Path]:
    """Remove all checkpoints but the newest good ones, and what was left unfinished.

    Parts are not read here: good is what has a manifest and parts of the right sizes.

    Args:
        run_folder: of the run, in which no checkpoint is being written.
        keep: how many good ones to keep, at least 1.
        written: the one just written, which is kept in any case and counts as the newest.

    Returns:
        What was removed; what cannot be removed stays, and is tried again next time.
    """
    kept = {written.name}
    removed = []
    for folder in reversed(_folders(run_folder)):
        if folder.name in kept:
            continue
        if len(kept) < keep and _is_good(folder):
            kept.add(folder.name)
            continue
        # Without its manifest, a half removed one counts no more.
        reach("pruning")
        try:
            (folder / MANIFEST).unlink(missing_ok=True)
        except OSError:
            continue
        reach("unmarked")
        shutil.rmtree(folder, ignore_errors=True)
        reach("removed")
        removed.append(folder)
    return removed


def _is_good(folder: Path) -> bool:
    """Return whether a checkpoint is finished, with parts of the right sizes."""
    try:
        load_checkpoint(folder, check=False)
    except MpipsError:
        return False
    return True


def _folders(run_folder: Path) -> list[Path]:
    """Return the folders of a run's checkpoints, finished or not, the newest last."""
    try:
        with os.scandir(run_folder / "checkpoints") as found:
            names = [entry.name for entry in found if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    numbered = sorted((int(name), name) for name in names if FOLDER_NAME.fullmatch(name))
    return [run_folder / "checkpoints" / name for _, name in numbered]
