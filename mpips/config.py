"""The config: TOML, checked key by key, with `--set a.b=value` on top.

>>> config = parse('[run]\\nservers = 2', "job.toml", ["model.kind=linear", "run.workers=4"])
>>> config.run.servers, config.run.workers, config.model
(2, 4, {'kind': 'linear'})
"""

import difflib
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from mpips.errors import ConfigError, MissingInputError

Count = Annotated[int, msgspec.Meta(ge=1)]
CountOrNone = Annotated[int, msgspec.Meta(ge=0)]

# How users call the types that msgspec names.
TYPES = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false",
         "array": "a list", "object": "a section", "null": "nothing"}  # fmt: skip


PATHS = (("data", "train"), ("data", "test"), ("run", "out"), ("run", "resume"))
AUTO = "auto"


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all sections have in common: an unknown key is an error."""


class Run(Section, frozen=True, kw_only=True):
    """The section [run]: the size of the job, and where it leaves its files.

    Attributes:
        name: names the run folder `runs/NAME-TIME`; empty: after the config, the data or the app.
        out: the run folder; empty: `runs/NAME-TIME` in the current folder.
        servers: ranks that hold the model. Too few: the model does not fit, or they are the
            bottleneck; too many: fewer ranks compute.
        workers: ranks that compute. 0: all other ranks under mpirun, else 1.
        logical_workers: parts of the data, each with its own random stream and clock; fixed for
            the life of a run, so that its result does not depend on the ranks. 0: `workers`.
        spares: ranks that wait until another one dies, and take its role.
        server_cores: cores of each server for long messages. More: update functions with roots and
            divisions take less time, where cores are idle; ranks are bound to none then.
        seed: of everything random.
        resume: a run folder or one of its checkpoints, where this run goes on; "auto": the last
            checkpoint in its own folder, if there is one.
        stop_after_iterations: stop at a checkpoint at this clock (streams: minibatch); 0: never.
        relief_s: compare servers' loads so long until hot segments move; 0: they never do.
        max_time_s: stop at a checkpoint after so many seconds; 0: never.
        debug: whether the ranks' logs tell of all that they do, not of warnings alone (--debug).
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[\w.+-]*$")] = ""
    out: str = ""
    servers: Count = 1
    workers: CountOrNone = 0
    logical_workers: CountOrNone = 0
    spares: CountOrNone = 0
    server_cores: Count = 1
    seed: CountOrNone = 1
    resume: str = ""
    stop_after_iterations: CountOrNone = 0
    relief_s: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    max_time_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    debug: bool = False


class Data(Section, frozen=True, kw_only=True):
    """The section [data]: HDF5 files made by `mpips convert`, relative to the config's folder.

    Attributes:
        train: the file that is trained on.
        test: the file that the finished model is measured on; empty: none.
    """

    train: str = ""
    test: str = ""


class Sync(Section, frozen=True, kw_only=True):
    """The section [sync]: how stale the values may be that workers compute with.

    Attributes:
        mode: "sequential": the result is bitwise that of a serial program; "bounded": values may
            be `max_delay` tasks old; "eventual": nobody waits. "": what the model's solver is
            made for.
        max_delay: of "bounded": tau in the paper. Larger: workers wait less and compute with older
            values: more steps. "auto": picked from how long workers wait, so that runs differ.
    """

    mode: Literal["", "sequential", "bounded", "eventual"] = ""
    max_delay: CountOrNone | Literal["auto"] = 0


class Filters(Section, frozen=True, kw_only=True):
    """The section [filters]: what makes messages smaller.

    Attributes:
        compress: "lz4" packs keys and values without loss: for slow networks, not within one host.
    """

    compress: Literal["off", "lz4"] = "off"


class Recovery(Section, frozen=True, kw_only=True):
    """The section [recovery]: what happens when ranks die.

    Attributes:
        mode: "in-place": the job goes on without them, where MPI allows it (Open MPI 5, started
            with ULFM); "restart": the job ends with exit code 76.
        worker: what becomes of a dead worker's part of the data: "replace": a spare takes it, or
            else the other workers do; "spread": they do at once; "drop": it is left out.
        restarts: how often a job that deaths have ended is started again from its last checkpoint.
        shrink: "quiet": after deaths all go on on a smaller communicator; "never": on the first.
        silence_s: after how many seconds without a sign of life (long computations are some) a rank
            is taken for stopped, and killed. Smaller: busy machines lose ranks more easily.
    """

    mode: Literal["in-place", "restart"] = "in-place"
    worker: Literal["replace", "spread", "drop"] = "replace"
    restarts: CountOrNone = 3
    shrink: Literal["quiet", "never"] = "quiet"
    silence_s: Annotated[float, msgspec.Meta(gt=0)] = 30.0


class Checkpoint(Section, frozen=True, kw_only=True):
    """The section [checkpoint]: when what a run has done is kept on disk.

    Attributes:
        every_s: seconds between two checkpoints, which are taken between tasks of the plan; 0:
            only when the run is told to stop; "auto": as they cost. More often: less is lost, and
            more time is spent.
        every_iterations: clocks (streams: minibatches) between two checkpoints; 0: none.
        mtbf_s: for "auto": after how many seconds, in the mean, something ends such a job; 0: once
            a day, and once a year for each host.
        keep: how many of them are kept.
    """

    every_s: Annotated[float, msgspec.Meta(ge=0)] | Literal["auto"] = 0.0
    every_iterations: CountOrNone = 0
    mtbf_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    keep: Count = 2


class Config(Section, frozen=True, kw_only=True):
    """A whole config. `model` has `kind` and the settings of that app, which checks them.

    Attributes:
        replicas: copies of the model's parts beside the one at their server; so many servers may
            die at once. More: every push is sent and applied once more for each.
    """

    run: Run = Run()
    data: Data = Data()
    model: dict[str, Any] = {}
    sync: Sync = Sync()
    filters: Filters = Filters()
    recovery: Recovery = Recovery()
    checkpoint: Checkpoint = Checkpoint()
    replicas: CountOrNone = 1

    @property
    def logical_workers(self) -> int:
        """Return the number of logical workers."""
        return self.run.logical_workers or self.run.workers

    def sized(self, workers: int, logical_workers: int = 0) -> "Config":
        """Return the config with the number of workers decided, and of logical ones, if open."""
        logical_workers = self.run.logical_workers or logical_workers or workers
        run = msgspec.structs.replace(self.run, workers=workers, logical_workers=logical_workers)
        return msgspec.structs.replace(self, run=run)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a config comes from, to say in which line something wrong stands.

    Attributes:
        text: the TOML.
        name: the file that it came from; empty: none.
        settings: `a.b=value`, on top of it.
    """

    text: str = ""
    name: str = ""
    settings: Sequence[str] = ()

    def place(self, key: str) -> str:
        """Return where a key of the form `section.key` was given, for people."""
        if not self.name or any(one.partition("=")[0].strip() == key for one in self.settings):
            return "in the settings of the command line"
        section, _, leaf = key.rpartition(".")
        inside = ""
        for number, line in enumerate(self.text.splitlines(), 1):
            if header := re.match(r"\s*\[([\w.]+)\]", line):
                inside = header[1]
                if inside == key:
                    return f"{self.name} line {number}"
            elif inside == section and re.match(rf"\s*{re.escape(leaf)}\s*=", line):
                return f"{self.name} line {number}"
        return self.name


def load(path: Path | None, settings: Sequence[str] = ()) -> Config:
    """Return the config of a file (None: an empty one) with `a.b=value` settings on top.

    Paths in [data] and [run] count from the file's folder; in settings, from the current one.

    Raises:
        MissingInputError: the file is not there.
        ConfigError: its text is not TOML, or a key or value is wrong.
    """
    source = read(path, settings)
    return parse(source.text, source.name, source.settings)


def read(path: Path | None, settings: Sequence[str] = ()) -> Source:
    """Return the text of a config file (None: an empty one) with settings on top.

    Raises:
        MissingInputError: the file is not there.
        ConfigError: it cannot be read.
    """
    if path is None:
        return Source(settings=settings)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MissingInputError(f"{path} does not exist", f"looked in {Path.cwd()}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    return Source(text, str(path), settings)


def parse(text: str, name: str, settings: Sequence[str] = ()) -> Config:
    """Return the config of a text that came from the file `name`.

    Raises:
        ConfigError: the text is not TOML, or a key or value is wrong.
    """
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"no TOML: {error}", name) from None
    _resolve_paths(tree, Path(name).parent)
    for setting in settings:
        _set(tree, setting)
    config: Config = convert(tree, Config, Source(text, name, settings))
    return config


def convert(tree: dict[str, Any], kind: type[Any], source: Source | None = None) -> Any:
    """Return a tree of settings as a Struct.

    Args:
        tree: sections and keys.
        kind: the msgspec Struct that says what is allowed.
        source: where the tree came from, to find the line of an error.

    Raises:
        ConfigError: a key is unknown or a value is not allowed; names line and nearest key.
    """
    source = source or Source()
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at ")
        section = place.strip("`").removeprefix("$").lstrip(".")
        unknown = re.search(r"unknown field `(.+)`", what)
        if unknown is None and (choices := _choices(kind, section)):
            close = difflib.get_close_matches(what.partition("'")[2], choices, n=1)
            remedy = f"Did you mean {close[0]}?" if close else f"There are: {', '.join(choices)}."
            what = f"{section}: {_in_words(what)}"
            raise ConfigError(what, source.place(section), remedy) from None
        if unknown is None:
            what = f"{section}: {_in_words(what)}"
            raise ConfigError(what, source.place(section)) from None
        key = f"{section}.{unknown[1]}".lstrip(".")
        # Compare without the section, which all of its keys have in common.
        fields = _fields(kind, section)
        close = difflib.get_close_matches(unknown[1], fields, n=1, cutoff=0.5)
        known = [f"{section}.{field}".lstrip(".") for field in close or fields]
        remedy = f"Did you mean {known[0]}?" if close else f"There are: {', '.join(known)}."
        raise ConfigError(f"unknown key {key}", source.place(key), remedy) from None


def _in_words(what: str) -> str:
    """Return what is wrong with a value, in a user's words.

    >>> _in_words("Expected `int`, got `str`")
    'expected a whole number, got text'
    """
    what = what.replace("Invalid enum value", "there is no")
    for name, words in TYPES.items():
        what = what.replace(f"`{name}`", words).replace(f"`{name} | str`", f"{words} or a word")
    return what[0].lower() + what[1:]


def _resolve_paths(tree: dict[str, Any], folder: Path) -> None:
    """Make the paths of a config file count from its folder."""
    for section, key in PATHS:
        path = tree.get(section, {}).get(key) if isinstance(tree.get(section), dict) else None
        if isinstance(path, str) and path and path != AUTO:
            tree[section][key] = str(folder / path)


def _set(tree: dict[str, Any], setting: str) -> None:
    """Put `a.b=value` into the tree; the value is TOML, or else a string."""
    key, equals, value = setting.partition("=")
    section, dot, name = key.strip().partition(".")
    is_whole = not dot and section in _plain_keys()
    if not equals or not (is_whole or (dot and name)):
        remedy = "A setting reads section.key=value."
        if equals and key.strip() and not dot:
            remedy += f" Did you mean {_section_of(key.strip())}.{setting.strip()}?"
        raise ConfigError(f"no setting: {setting}", "", remedy)
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    keys = tree if is_whole else tree.setdefault(section, {})
    if isinstance(keys, dict):
        keys[name or section] = parsed


def _plain_keys() -> list[str]:
    """Return the keys that are in no section."""
    known = msgspec.to_builtins(Config())
    return [key for key, value in known.items() if not isinstance(value, dict)]


def _section_of(key: str) -> str:
    """Return the section that a key is of; what no section knows is the model's."""
    fields = [field.name for field in msgspec.structs.fields(Config)]
    sections = [name for name in fields if name not in ("model", *_plain_keys())]
    return next((name for name in sections if key in _fields(Config, name)), "model")


def _fields(kind: type[Any], section: str) -> list[str]:
    """Return the keys that a section has."""
    for part in filter(None, section.split(".")):
        kind = {f.name: f.type for f in msgspec.structs.fields(kind)}[part]
    return [field.name for field in msgspec.structs.fields(kind)]


def _choices(kind: type[Any], key: str) -> list[str]:
    """Return the values that a key may have, if they are a few words."""
    *sections, leaf = key.split(".")
    for part in sections:
        kind = {f.name: f.type for f in msgspec.structs.fields(kind)}[part]
    found = {f.name: f.type for f in msgspec.structs.fields(kind)}[leaf]
    literals = [part for part in (found, *get_args(found)) if get_origin(part) is Literal]
    return [word for part in literals for word in get_args(part) if word]
