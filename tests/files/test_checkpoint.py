"""Checkpoints come back to the bit, on any number of servers, and the newest good one is found."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import h5py
import msgspec
import numpy as np
import pytest

from mpips.cli import info
from mpips.errors import AppError, DataError, FileError, OutputError
from mpips.files.checkpoint import (
    find_checkpoint,
    load_checkpoint,
    new_checkpoint,
    prune,
    write_manifest,
    write_states,
)
from mpips.files.manifest import MANIFEST
from mpips.files.parts import Segment, write_segments
from mpips.files.tree import encode_states
from mpips.store.table import make_store
from mpips.wire.types import Table
from tests.files.checkpoints import (
    FACTS,
    RESULTS,
    SMALL,
    STATES,
    TABLES,
    all_bits,
    bits,
    make_checkpoint,
    make_segments,
    read_all,
)
from tests.files.test_tree import same


@pytest.mark.parametrize("servers", [1, 2, 5])
def test_segments_come_back_to_the_bit_on_any_number_of_servers(
    servers: int, tmp_path: Path
) -> None:
    folder, segments = make_checkpoint(tmp_path, 12, servers)
    checkpoint = load_checkpoint(folder)
    assert read_all(checkpoint) == all_bits(segments)
    for table in TABLES:
        mine = [s for s in segments if s.table == table.name]
        for first in (0, 3):
            found = {s.segment: bits(s) for s in checkpoint.segments(table.name, {first, first + 2}
                     & set(range(table.segments)))}  # fmt: skip
            wanted = [s for s in mine if s.segment in (first, first + 2)]
            assert found == {s.segment: bits(s) for s in wanted}
    assert list(checkpoint.segments("w", [])) == []


def test_states_and_results_come_back(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(make_checkpoint(tmp_path, 12)[0])
    assert checkpoint.workers == [0, 1, 2]
    assert all(same(checkpoint.state(worker), STATES[worker]) for worker in STATES)
    assert same(checkpoint.results(), RESULTS)
    assert checkpoint.manifest.tasks == 12
    # JSON turns numbers into texts where they are keys.
    assert checkpoint.manifest.facts == FACTS | {"positions": {"2": 7, "10": 8}}
    with pytest.raises(DataError, match="does not hold the state of logical worker 3"):
        checkpoint.state(3)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_a_store_goes_on_from_its_segments(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    size = {"size": 500} if kind == "dense" else {}
    table = Table(name="w", kind=kind, segments=4, update="adagrad",
                  settings={"lr": 0.1}, **size)  # fmt: skip
    step = 1 if kind == "dense" else 2**64 // 500
    keys = np.sort(rng.choice(500, 99, replace=False)).astype(np.uint64) * np.uint64(step)
    old, new = make_store(table), make_store(table)
    old.hold_many(range(4))
    new.hold_many(range(4))
    old.update_keys(keys, rng.normal(size=(99, 1)))
    marks = np.zeros(2, np.int64)
    segments = (Segment("w", at, 0, marks, marks, *old.snapshot(at)) for at in range(4))
    folder = new_checkpoint(tmp_path)
    write_manifest(folder, 1, [table], [write_segments(folder, 1, segments)], {})
    for segment in load_checkpoint(folder, check=False).segments("w", range(4)):
        new.load(segment.segment, segment.keys, segment.rows)
    more = rng.normal(size=(99, 1))
    outs = []
    for store in (old, new):
        store.update_keys(keys, more)
        out = np.empty((99, 1))
        store.read_keys(keys, out)
        outs.append(out.tobytes())
    assert outs[0] == outs[1]


def test_arrays_of_a_checkpoint_are_the_callers_own(tmp_path: Path) -> None:
    folder, segments = make_checkpoint(tmp_path, 1)
    checkpoint = load_checkpoint(folder)
    for segment in checkpoint.segments("w", range(7)):
        segment.rows[:] = 0
        segment.clocks[:] = 0
    assert read_all(checkpoint) == all_bits(segments)


def test_a_table_takes_the_number_of_segments_and_another_table_is_refused(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(make_checkpoint(tmp_path, 1)[0])
    table = msgspec.structs.replace(TABLES[0], segments=128)
    assert checkpoint.fit(table) == TABLES[0]
    for name, value in (("size", 999), ("dtype", "f4"), ("width", 3), ("update", "ftrl")):
        other = msgspec.structs.replace(table, **{name: value})
        with pytest.raises(DataError, match=f"table w of .* has {name} .*, the job's has {value}"):
            checkpoint.fit(other)
    with pytest.raises(DataError, match="has no table v"):
        checkpoint.fit(msgspec.structs.replace(table, name="v"))


def test_parts_that_lack_a_segment_get_no_manifest(tmp_path: Path) -> None:
    folder, segments = new_checkpoint(tmp_path), make_segments(1)
    lacking = write_segments(folder, 1, segments[1:])
    with pytest.raises(DataError, match="segment 0 of the table w once"):
        write_manifest(folder, 1, TABLES, [lacking], {})
    doubled = [write_segments(folder, 1, segments), write_segments(folder, 2, segments[-1:])]
    with pytest.raises(DataError, match="segment 4 of the table short once"):
        write_manifest(folder, 1, TABLES, doubled, {})
    states = [write_states(folder, node, encode_states({3: None})) for node in (4, 5)]
    with pytest.raises(DataError, match="the state of logical worker 3 twice"):
        write_manifest(folder, 1, [], states, {})
    assert not (folder / MANIFEST).exists()


def test_a_state_that_cannot_be_stored_names_worker_and_place(tmp_path: Path) -> None:
    folder = new_checkpoint(tmp_path)
    with pytest.raises(AppError, match=r"the state of logical worker 4\['a'\] is a set"):
        write_states(folder, 1, encode_states({4: {"a": {1}}}))
    assert list(folder.iterdir()) == []


def test_segments_are_written_one_at_a_time(tmp_path: Path) -> None:
    alive: list[int] = []

    class Counted(Segment):
        def __del__(self) -> None:
            alive.pop()

    def segments() -> Iterator[Segment]:
        for segment in make_segments(1):
            alive.append(1)
            assert len(alive) <= 2
            yield Counted(*(getattr(segment, name) for name in Segment.__slots__))

    write_segments(new_checkpoint(tmp_path), 1, segments())
    assert alive == []


# -- Folders -----------------------------------------------------------------------------------


def test_folders_are_the_users_alone(tmp_path: Path) -> None:
    folder = new_checkpoint(tmp_path)
    assert folder == tmp_path / "checkpoints" / "000001"
    assert {path.stat().st_mode & 0o777 for path in (folder, folder.parent)} == {0o700}


def test_the_disk_knows_a_new_folder_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda d: flushed.append(os.readlink(f"/proc/self/fd/{d}")))
    folder = new_checkpoint(tmp_path)
    assert flushed == [str(tmp_path), str(folder.parent)]


def test_the_newest_is_the_one_written_last_whatever_it_has_done(tmp_path: Path) -> None:
    # The run has gone on from its first checkpoint, and is not as far as it was.
    for tasks in (5, 9, 6):
        folder, segments = make_checkpoint(tmp_path, tasks, 1, SMALL)
    found, skipped = find_checkpoint(tmp_path)
    assert found is not None
    assert (found.path, found.manifest.number, found.manifest.tasks) == (folder, 3, 6)
    assert (read_all(found), skipped) == (all_bits(segments), [])
    # Old ones go in the order in which they were written, and their numbers are not used again.
    assert [path.name for path in prune(tmp_path, 1, folder)] == ["000002", "000001"]
    assert new_checkpoint(tmp_path).name == "000004"


def test_an_unfinished_checkpoint_leaves_the_one_before_the_newest(tmp_path: Path) -> None:
    old, segments = make_checkpoint(tmp_path, 7, 1, SMALL)
    unfinished = new_checkpoint(tmp_path)
    found, skipped = find_checkpoint(tmp_path)
    assert found is not None
    assert (found.path, [path for path, _ in skipped]) == (old, [unfinished])
    assert read_all(found) == all_bits(segments)


def test_a_place_where_no_folder_can_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(OutputError, match="checkpoints: file exists"):
        new_checkpoint(tmp_path)


def test_numbers_of_many_digits_are_numbers(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path) == (None, [])
    make_checkpoint(tmp_path, 1, 1, SMALL)[0].rename(tmp_path / "checkpoints" / "999999")
    (tmp_path / "checkpoints" / "notes").mkdir()
    last, _ = make_checkpoint(tmp_path, 2, 1, SMALL)
    found, skipped = find_checkpoint(tmp_path)
    assert found is not None
    assert (found.path, last.name, skipped) == (last, "1000000", [])


def test_a_crash_at_any_step_leaves_the_one_before_or_the_whole_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, seen = tmp_path / "run", tmp_path / "seen"
    run.mkdir()
    seen.mkdir()
    _, first = make_checkpoint(run, 1, 1, SMALL)
    copies: list[Path] = []

    def keep_before(call: object) -> object:
        def wrapped(*args: object) -> object:
            # What is on the disk now is what a crash here would leave.
            copies.append(shutil.copytree(run, seen / str(len(copies))))
            return call(*args)

        return wrapped

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, keep_before(getattr(os, name)))
    folder, second = make_checkpoint(run, 2, 1, SMALL)
    monkeypatch.undo()
    copies.append(run)
    numbers = []
    for copy in [*copies[:-3:2], *copies[-3:]]:
        found, skipped = find_checkpoint(copy)
        assert found is not None
        numbers.append(found.manifest.tasks)
        if numbers[-2:-1] != numbers[-1:]:
            assert read_all(found) == all_bits(first if numbers[-1] == 1 else second)
        assert [path.name for path, _ in skipped] in ([], [folder.name])
    # Before the manifest is renamed, after that, and when all is done.
    assert numbers[-3:] == [1, 2, 2]
    assert set(numbers[:-3]) == {1}


def test_a_half_written_part_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_checkpoint(tmp_path, 1, 1, SMALL)
    folder, leftovers = new_checkpoint(tmp_path), []
    pwrite = os.pwrite

    def kill(*args: object) -> int:
        leftovers.append([path.name for path in folder.iterdir()])
        (folder / ".server-1.h5.1234.tmp").write_bytes(bytes(100))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", kill)
    segments = iter(make_segments(2, TABLES))
    with pytest.raises(FileError, match="no space left"):
        write_segments(folder, 1, segments)
    assert len(list(segments)) > 10, "it went on after the disk was full"
    monkeypatch.setattr(os, "pwrite", pwrite)
    assert [name.startswith(".server-1.h5.") for name in leftovers[0]] == [True]
    found, skipped = find_checkpoint(tmp_path)
    assert found is not None
    assert found.manifest.tasks == 1
    assert [(path, "was not finished" in why) for path, why in skipped] == [(folder, True)]
    # What a killed process has left harms nobody.
    parts = [write_segments(folder, 1, make_segments(2, SMALL))]
    write_manifest(folder, 1, SMALL, parts, {})
    found, _ = find_checkpoint(tmp_path)
    assert found is not None
    assert found.path == folder


def test_prune_keeps_the_newest_good_ones(tmp_path: Path) -> None:
    folders = [make_checkpoint(tmp_path, number, 1, SMALL)[0] for number in range(1, 7)]
    (folders[4] / "results.h5").unlink()
    unfinished = new_checkpoint(tmp_path)
    (unfinished / ".server-1.h5.1234.tmp").write_bytes(b"x")
    (folders[0].parent / "notes").mkdir()
    removed = prune(tmp_path, 2, folders[5])
    assert set(removed) == {*folders[:3], folders[4], unfinished}
    left = {path.name for path in folders[0].parent.iterdir()}
    assert left == {folders[3].name, folders[5].name, "notes"}
    assert prune(tmp_path, 1, folders[3]) == [folders[5]]
    assert load_checkpoint(folders[3]).manifest.tasks == 4


def test_prune_follows_no_links(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("")
    folders = [make_checkpoint(tmp_path, number, 1, SMALL)[0] for number in (2, 3)]
    (folders[0].parent / "000009").symlink_to(elsewhere)
    (folders[0] / "link").symlink_to(elsewhere)
    assert prune(tmp_path, 1, folders[1]) == [folders[0]]
    assert (elsewhere / "file").exists()


# -- Looking -----------------------------------------------------------------------------------


def test_tables_read_as_one_array_with_plain_hdf5(tmp_path: Path) -> None:
    folder, segments = make_checkpoint(tmp_path, 1)
    moved = folder.rename(tmp_path / "moved")
    with h5py.File(moved / "model.h5") as file:
        names = {group.attrs["table"]: name for name, group in file.items()}
        assert names["w"] == "w"
        for table in TABLES:
            mine = [s for s in segments if s.table == table.name]
            rows = file[f"{names[table.name]}/rows"]
            assert rows.dtype == np.dtype(table.dtype)
            np.testing.assert_array_equal(rows[()], np.concatenate([s.rows for s in mine]))
            if table.kind == "sparse":
                keys = file[f"{names[table.name]}/keys"][()]
                assert (keys[1:] > keys[:-1]).all()
                np.testing.assert_array_equal(keys, np.concatenate([s.keys for s in mine]))
        assert not any(Path(s.file_name).name != s.file_name
                       for s in file["w/rows"].virtual_sources())  # fmt: skip
    (moved / "server-2.h5").unlink()
    with h5py.File(moved / "model.h5") as file:
        assert np.isnan(file["w/rows"][()]).any()


def test_info_says_what_a_checkpoint_is(tmp_path: Path) -> None:
    folder, _ = make_checkpoint(tmp_path, 12, 1, SMALL)
    for path in (folder, folder / MANIFEST):
        facts = info.gather(path)
        assert (facts["kind"], facts["tasks"]) == ("checkpoint, all parts are good", 12)
        assert (facts["workers"], facts["parts"]) == (3, 4)
        assert facts["tables"] == {"w": "dense f8, 2 segments"}
        parts = [path for path in folder.glob("*.h5") if path.name != "model.h5"]
        assert facts["bytes"] == sum(part.stat().st_size for part in parts)
    assert info.gather(folder, verbose=True)["noted"]["epoch"] == 5
    (folder / "results.h5").unlink()
    with pytest.raises(DataError, match=r"results\.h5 is missing"):
        info.gather(folder)
