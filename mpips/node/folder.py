"""The run folder: effective config, metrics, logs, and the result, which is written last."""

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import msgspec

from mpips.config import AUTO, Config
from mpips.errors import FileError, MissingInputError, OutputError
from mpips.node.surroundings import attempt
from mpips.toml import to_toml

CONFIG, METRICS, RESULT = "config.toml", "metrics.jsonl", "result.json"
MODEL = "model.h5"
# In the result: which attempt of its launcher has written it; empty: the ranks had none.
ATTEMPT = "attempt"


def choose_folder(config: Config) -> Path:
    """Return the run folder that the config names, or `runs/NAME-TIME` in the current folder."""
    if config.run.out:
        return Path(config.run.out).absolute()
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = config.run.name or "run"
    folder = Path("runs", f"{name}-{stamp}").absolute()
    number = 2
    while folder.exists():
        folder = folder.with_name(f"{name}-{stamp}-{number}")
        number += 1
    return folder


def name_run(config: Config, name: str) -> Config:
    """Return the config with `run.name`, after `name` where the user has given none."""
    chosen = config.run.name or re.sub(r"[^\w.+-]+", "-", name) or "run"
    return msgspec.structs.replace(config, run=msgspec.structs.replace(config.run, name=chosen))


def model_in(path: str) -> str:
    """Return the model of a run folder; the path of anything else as it is.

    Raises:
        MissingInputError: the run has left no model.
    """
    if not Path(path).is_dir() or not Path(path, CONFIG).exists():
        return path
    model = Path(path, MODEL)
    if not model.exists():
        what = f"the run folder {path} holds no {MODEL}"
        raise MissingInputError(what, "", f"mpips info {path} says how the run has ended.")
    return str(model)


def put_aside(path: Path) -> None:
    """Give the result of a run that goes on another name: result-1.json, and so on."""
    number = 1
    while (other := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
        number += 1
    path.rename(other)


def check_folder(path: Path, is_resumed: bool = False) -> None:
    """Refuse a run folder that is another run's, or holds what no run has written.

    Args:
        path: the folder, which need not be there.
        is_resumed: whether the run in it goes on.

    Raises:
        OutputError: so.
    """
    remedy = "Give another folder with --out, or remove that one."
    if (path / RESULT).exists() and not is_resumed:
        raise OutputError(f"{path} holds the result of another run", "", remedy)
    # With --out . a job would write over the very config that it was started with.
    if (path / CONFIG).exists() and not (path / METRICS).exists():
        raise OutputError(f"{path} holds a {CONFIG} that no run has written", "", remedy)


def make_folder(path: Path, is_resumed: bool = False) -> None:
    """Make a run folder, or take one that an unfinished run has left.

    Args:
        path: the folder.
        is_resumed: whether the run in it goes on.

    Raises:
        OutputError: the folder cannot be made, or holds another run's result or other things.
    """
    try:
        check_folder(path, is_resumed)
        if (path / RESULT).exists():
            put_aside(path / RESULT)
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        (path / "log").mkdir(exist_ok=True)
    except OSError as error:
        raise _cannot_make(path, error) from None


def _cannot_make(path: Path, error: OSError) -> OutputError:
    remedy = "Give another folder with --out."
    return OutputError(f"{path} cannot be made: {error.strerror}", "", remedy)


def settle_paths(config: Config) -> Config:
    """Return the config with absolute paths: it is also read from the run folder."""
    data = msgspec.structs.replace(
        config.data,
        **{
            name: str(Path(path).absolute())
            for name, path in msgspec.structs.asdict(config.data).items()
            if path
        },
    )
    return msgspec.structs.replace(config, data=data)


class RunFolder:
    """What one run leaves on disk; the scheduler writes it.

    Attributes:
        path: the folder.
        is_new: whether no other scheduler of this job has written to it.

    Raises:
        OutputError: the folder cannot be made, or holds another run's result.
    """

    def __init__(self, path: Path, config: Config) -> None:
        self.path, self.is_new = path, True
        make_folder(path, config.run.resume == AUTO)
        try:
            (path / CONFIG).write_text(to_toml(config), encoding="utf-8")
            self._metrics = open(path / METRICS, "a", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise _cannot_make(path, error) from None

    @classmethod
    def reopen(cls, path: Path) -> "RunFolder":
        """Go on with the folder of a job whose scheduler has died."""
        folder = cls.__new__(cls)
        folder.path, folder.is_new = path, False
        try:
            folder._metrics = open(path / METRICS, "a", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise FileError(f"{path / METRICS}: {error.strerror}") from None
        return folder

    def note(self, seconds: float, kind: str, facts: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl."""
        line = {"seconds": round(seconds, 3), "kind": kind, **plain(facts)}
        try:
            self._metrics.write(json.dumps(line) + "\n")
            self._metrics.flush()
        except OSError as error:
            raise FileError(f"{self.path}/metrics.jsonl: {error.strerror}") from None

    def finish(self, result: dict[str, Any]) -> None:
        """Write result.json, whole or not at all.

        Raises:
            FileError: it cannot be written.
        """
        target, temporary = self.path / RESULT, self.path / f".{RESULT}.part"
        try:
            self._metrics.close()
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump(plain({**result, ATTEMPT: attempt()}), file, indent=2)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except OSError as error:
            raise FileError(f"{target}: {error.strerror}") from None


def read_result(folder: Path) -> dict[str, Any] | None:
    """Return what result.json says, or None if the run has not finished."""
    try:
        result: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result


def plain(facts: dict[str, Any]) -> dict[str, Any]:
    """Return facts without NumPy's types and without large arrays, as JSON can hold them."""
    kept: dict[str, Any] = {}
    for name, value in facts.items():
        if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
            value = value.item()
        if isinstance(value, str | int | float | bool | None):
            # JSON knows no infinity.
            finite = not isinstance(value, float) or abs(value) < float("inf")
            kept[name] = value if finite else None
        elif isinstance(value, dict):
            kept[name] = plain(value)
    return kept
