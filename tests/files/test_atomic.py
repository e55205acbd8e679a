"""A file is written whole or not at all, and failures say why."""

import contextlib
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mpips.errors import FileError, OutputError
from mpips.files.atomic import replacing
from mpips.files.csr import CsrWriter
from mpips.files.model import Model, write_model


def test_a_file_appears_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_stays_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), replacing(path) as temporary:
        temporary.write_text("half \udc80", "utf-8")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_file_and_folder_are_flushed_around_the_renaming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def flush(descriptor: int) -> None:
        steps.append(os.readlink(f"/proc/self/fd/{descriptor}").rpartition(".")[2])
        fsync(descriptor)

    def rename(source: Path, target: Path) -> None:
        steps.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", rename)
    with replacing(tmp_path / "a"):
        pass
    assert steps == ["tmp", "rename", str(tmp_path)]


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with replacing(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"


@pytest.mark.parametrize(("name", "message"), [
    ("none/a", "no such file or directory"), (".", "it is a folder"), ("file/a", "not a directory"),
    ("pipe", "not a regular file"),
])  # fmt: skip
def test_a_place_that_cannot_be_written_is_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match=message), replacing(tmp_path / name):
        pass


def test_a_folder_without_permission_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OutputError, match="permission denied"), replacing(tmp_path / "a"):
        pass


@pytest.fixture
def small_files() -> Iterator[None]:
    """Limit files to 64 KiB, which fails like a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="file too large"), replacing(tmp_path / "a") as temporary:
        temporary.write_bytes(bytes(100_000))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_stops_the_writing_of_data(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    n = 100_000
    stack = contextlib.ExitStack()
    writer = stack.enter_context(CsrWriter(tmp_path / "a"))
    values = rng.normal(size=n)
    with pytest.raises(FileError, match="file too large"):
        writer.append(np.ones(n, np.int64), rng.integers(0, 9999, n), values, np.ones(n))
    with pytest.raises(FileError, match="file too large"):
        stack.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_stops_the_writing_of_a_model(tmp_path: Path) -> None:
    weights = np.random.default_rng(1).normal(size=40_000)
    with pytest.raises(FileError, match=r"writing|cannot write"):
        write_model(tmp_path / "a", Model(len(weights), weights))
    assert list(tmp_path.iterdir()) == []
