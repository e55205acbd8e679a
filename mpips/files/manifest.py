"""Write and read the manifest of a checkpoint, which says what its parts have to be.

It is JSON, is written last, and has a checksum of itself. A checkpoint without it does not count.
"""

import itertools
import json
import re
from pathlib import Path
from typing import Any, Final, TypedDict

import msgspec

from mpips import __version__
from mpips.errors import DataError, MissingInputError
from mpips.files.atomic import replacing
from mpips.files.guard import REMEDY, STRANGE, checksum, read_text
from mpips.files.layout import now
from mpips.files.parts import PartFact
from mpips.wire.types import Table

CHECKPOINT_FORMAT: Final = "mpips-checkpoint/2"
MANIFEST: Final = "manifest.json"
MANIFEST_BYTES_MAX: Final = 1 << 28
PART_NAME: Final = re.compile(r"(server|worker)-\d{1,10}\.h5|results\.h5")


class TableFact(TypedDict):
    """What a manifest says of a table; the fields are those of `Table`."""

    kind: str
    size: int
    segments: int
    width: int
    dtype: str
    update: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a checkpoint.

    Attributes:
        number: its running number in its run folder: the newest has the highest.
        tasks: how many tasks of the plan were done.
        created: when, in UTC; `version`: by which mpips.
        tables: by name.
        parts: its files.
        facts: whatever else the writer wanted to note.
    """

    number: int
    tasks: int
    tables: dict[str, TableFact]
    parts: list[PartFact]
    facts: dict[str, Any]
    created: str = msgspec.field(default_factory=now)
    version: str = __version__


def table_fact(table: Table) -> TableFact:
    """Return what a manifest says of a table."""
    update = table.update
    name = update if isinstance(update, str) else f"{update.__module__}:{update.__qualname__}"
    return TableFact(
        kind=table.kind,
        size=table.size,
        segments=table.segments,
        width=table.width,
        dtype=table.dtype,
        update=name,
    )


def save_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a checkpoint whose parts are all written.

    Raises:
        DataError: the parts do not hold each segment once.
        OutputError, FileError: it cannot be written, or the disk is full.
    """
    check_complete(folder, manifest)
    body = {"format": CHECKPOINT_FORMAT, **msgspec.structs.asdict(manifest)}
    # Take what a reader will see: JSON turns all keys into texts.
    body = json.loads(json.dumps(body, allow_nan=False))
    text = json.dumps({**body, "checksum": _own_checksum(body)}, allow_nan=False, indent=1)
    with replacing(folder / MANIFEST) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a checkpoint, which names each segment once, and files beside it.

    Raises:
        MissingInputError: there is none.
        DataError: it is damaged, of another version, or not safe.
        FileError: the system cannot read it.
    """
    path = folder / MANIFEST
    try:
        text = read_text(path, MANIFEST_BYTES_MAX)
    except MissingInputError:
        what = f"{folder} has no {MANIFEST}: it is no checkpoint, or was not finished"
        raise MissingInputError(what) from None
    try:
        body = json.loads(text)
        if body["format"] != CHECKPOINT_FORMAT:
            what = f"{path} has the format {body['format']!r}, not {CHECKPOINT_FORMAT}"
            raise DataError(what, "", "Use the version of mpips that wrote it.")
        stated = body.pop("checksum")
        if stated != _own_checksum(body):
            raise DataError(f"{path} fails its checksum", "", REMEDY)
        manifest = msgspec.convert(body, Manifest)
    except (ValueError, TypeError, KeyError, RecursionError, msgspec.MsgspecError) as error:
        raise DataError(f"{path} is no manifest: {error!r}", "", REMEDY) from error
    for part in manifest.parts:
        if not PART_NAME.fullmatch(part["name"]):
            raise DataError(f"{path} is refused: it names the part {part['name']!r}", "", STRANGE)
    check_complete(folder, manifest)
    return manifest


def check_complete(folder: Path, manifest: Manifest) -> None:
    """Refuse parts that do not hold each segment and each state once.

    Raises:
        DataError: so.
    """
    for name, table in manifest.tables.items():
        found = sorted(
            number
            for part in manifest.parts
            if name in part.get("tables", {})
            for number, _ in part["tables"][name]["segments"]
        )
        count = table["segments"]
        # The first number that is lacking, there twice, or too large.
        wrong = [min(at, number) for at, number in enumerate(found) if at != number]
        wrong += [min(len(found), count)] if len(found) != count else []
        if wrong:
            what = f"{folder} does not have segment {wrong[0]} of the table {name} once"
            raise DataError(what, "", REMEDY)
    trees = sorted(tree for part in manifest.parts for tree in part.get("trees", ()))
    for tree, following in itertools.pairwise(trees):
        if tree == following:
            what = "the results" if tree == "results" else f"the state of logical worker {tree}"
            raise DataError(f"{folder} has {what} twice", "", REMEDY)


def _own_checksum(body: dict[str, Any]) -> str:
    """Return the checksum of a manifest, whatever its spaces and the order of its keys."""
    return checksum(json.dumps(body, sort_keys=True, allow_nan=False).encode())
