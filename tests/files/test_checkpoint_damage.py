"""Damaged, incomplete and hostile checkpoints are named and refused, and the one before is used."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from mpips.errors import DataError, FileError, MissingInputError, MpipsError
from mpips.files.checkpoint import find_checkpoint, load_checkpoint
from mpips.files.guard import checksum
from mpips.files.manifest import MANIFEST
from tests.files.checkpoints import SMALL, make_checkpoint, read_all

PART = "server-1.h5"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run with two good checkpoints, after 1 and after 2 tasks."""
    for number in (1, 2):
        make_checkpoint(tmp_path, number, 1, SMALL)
    return tmp_path


def newest(run: Path) -> Path:
    """Return the folder of the newest checkpoint."""
    return run / "checkpoints" / "000002"


def seal(folder: Path, change: Callable[[dict[str, Any]], object] = lambda body: None) -> None:
    """Change a manifest as somebody would who can compute checksums; take the parts as they are."""
    body = json.loads((folder / MANIFEST).read_text())
    del body["checksum"]
    for part in body["parts"]:
        path = folder / part["name"]
        if path.is_file():
            part["bytes"] = path.stat().st_size
    change(body)
    body["checksum"] = checksum(json.dumps(body, sort_keys=True).encode())
    (folder / MANIFEST).write_text(json.dumps(body))


def passed_over(run: Path) -> str:
    """Return why the newest checkpoint was passed over for the one before."""
    found, skipped = find_checkpoint(run)
    assert found is not None
    assert found.manifest.tasks == 1
    ((path, reason),) = skipped
    assert path == newest(run)
    assert str(path) in reason
    return reason


# -- Damage ------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    """Cut a file short by one byte."""
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    """Add a byte to a file."""
    path.write_bytes(path.read_bytes() + b"\0")


def flip_last_row(path: Path) -> None:
    """Flip a bit in the values of a segment."""
    with h5py.File(path) as file:
        offset = file["tables/w/rows/000001"].id.get_offset()
    bad = bytearray(path.read_bytes())
    bad[offset] ^= 1
    path.write_bytes(bad)


def flip_in_state(path: Path) -> None:
    """Flip a bit in an array of a logical worker's state."""
    with h5py.File(path) as file:
        offset = file["trees/2/arrays/0"].id.get_offset()
    bad = bytearray(path.read_bytes())
    bad[offset + 3] ^= 1
    path.write_bytes(bad)


def make_old(path: Path) -> None:
    """Replace a part by one of another checkpoint that has the same size."""
    path.write_bytes((path.parent.parent / "000001" / path.name).read_bytes())


def other_version(path: Path) -> None:
    """Say that another version has written the manifest."""
    seal(path.parent, lambda body: body.update(format="mpips-checkpoint/1"))


def flip_in_manifest(path: Path) -> None:
    """Change a digit in what is noted."""
    path.write_text(path.read_text().replace('"epoch": 5', '"epoch": 7'))


@pytest.mark.parametrize(("name", "damage", "message"), [
    (PART, Path.unlink, "server-1.h5 is missing"),
    (PART, cut, "server-1.h5 is cut short: "),
    (PART, lengthen, "server-1.h5 has "),
    (PART, flip_last_row, "segment 1 of the table w fails its checksum"),
    (PART, make_old, "server-1.h5 /index fails its checksum"),
    ("worker-8.h5", Path.unlink, "worker-8.h5 is missing"),
    ("worker-8.h5", flip_in_state, "worker-8.h5 /trees/2 fails its checksum"),
    ("results.h5", cut, "results.h5 is cut short"),
    (MANIFEST, Path.unlink, "has no manifest.json: it is no checkpoint, or was not finished"),
    (MANIFEST, cut, ""),
    (MANIFEST, other_version, "has the format 'mpips-checkpoint/1', not mpips-checkpoint/2"),
    (MANIFEST, flip_in_manifest, "manifest.json fails its checksum"),
])  # fmt: skip
def test_damage_is_named_and_the_checkpoint_before_is_used(
    name: str, damage: Callable[[Path], None], message: str, run: Path
) -> None:
    path = newest(run) / name
    damage(path)
    if message:
        assert message in passed_over(run)
        return
    # The manifest's last byte is the end of a line.
    assert load_checkpoint(newest(run)).manifest.tasks == 2
    cut(path)
    assert "manifest.json is no manifest" in passed_over(run)


def outcome(folder: Path) -> list[tuple[Any, ...]] | None:
    """Return what is read, or None for an error that names the folder."""
    try:
        return read_all(load_checkpoint(folder))
    except (DataError, FileError) as error:
        message = str(error)
    assert str(folder) in message
    return None


@pytest.mark.parametrize("name", [PART, "results.h5", MANIFEST])
def test_a_flipped_byte_gives_an_error_or_the_same_bits(name: str, run: Path) -> None:
    rng = np.random.default_rng(7)
    path = newest(run) / name
    good, before = path.read_bytes(), outcome(newest(run))
    found = 0
    for position in rng.integers(0, len(good), 12).tolist():
        bad = bytearray(good)
        bad[position] ^= int(rng.integers(1, 256))
        path.write_bytes(bad)
        after = outcome(newest(run))
        assert after in (None, before), f"byte {position}"
        found += after is None
    assert before
    assert found > 4


@pytest.mark.slow
def test_each_flipped_byte_gives_an_error_or_the_same_bits(run: Path) -> None:
    path = newest(run) / PART
    good, before = path.read_bytes(), outcome(newest(run))
    for position in range(0, len(good), 7):
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        path.write_bytes(bad)
        assert outcome(newest(run)) in (None, before), f"byte {position}"


def test_damage_is_found_by_whoever_reads_only_that_segment(run: Path) -> None:
    flip_last_row(newest(run) / PART)
    checkpoint = load_checkpoint(newest(run), check=False)
    ((first),) = checkpoint.segments("w", [0])
    assert first.segment == 0
    with pytest.raises(DataError, match="segment 1 of the table w fails its checksum"):
        list(checkpoint.segments("w", [1]))


def test_no_good_checkpoint_is_none_with_all_reasons(run: Path) -> None:
    for number in ("000001", "000002"):
        (run / "checkpoints" / number / PART).unlink()
    found, skipped = find_checkpoint(run)
    assert found is None
    assert [path.name for path, _ in skipped] == ["000002", "000001"]


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(MissingInputError, match=r"has no manifest\.json"):
            load_checkpoint(path)
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(DataError, match="no regular file"):
        load_checkpoint(tmp_path)


# -- Hostility ---------------------------------------------------------------------------------


def edit(path: Path, change: Callable[[h5py.File], object]) -> None:
    """Change a part as somebody would who can compute checksums."""
    with h5py.File(path, "a") as file:
        change(file)
    seal(path.parent)


def replace_rows(file: h5py.File) -> h5py.Group:
    """Take away the rows of segment 0, and return their group."""
    del file["tables/w/rows/000000"]
    return file["tables/w/rows"]


def external_link(file: h5py.File) -> None:
    """Have a segment's rows in another file."""
    replace_rows(file)["000000"] = h5py.ExternalLink("../../secret.h5", "/rows")


def hidden_link(file: h5py.File) -> None:
    """Have an external link where no reader would look."""
    file["other/deep/link"] = h5py.ExternalLink("/etc/secret.h5", "/rows")


def soft_link(file: h5py.File) -> None:
    """Have a segment's rows by another name."""
    replace_rows(file)["000000"] = h5py.SoftLink("/tables/w/rows/000001")


def virtual(file: h5py.File) -> None:
    """Have a segment's rows be virtual."""
    layout = h5py.VirtualLayout((5, 2), "f8")
    layout[:] = h5py.VirtualSource("../../secret.h5", "rows", (5, 2))
    replace_rows(file).create_virtual_dataset("000000", layout)


def outside(file: h5py.File) -> None:
    """Have a segment's rows in a file without any format."""
    external = [(str(Path(file.filename).parents[2] / "secret.h5"), 0, 80)]
    replace_rows(file).create_dataset("000000", (5, 2), "f8", external=external)


def bomb(file: h5py.File) -> None:
    """Have a segment claim to be far larger than its file."""
    replace_rows(file).create_dataset("000000", (2**40, 2), "f8")


def packed_bomb(file: h5py.File) -> None:
    """Have a segment of zeros be packed to nearly nothing."""
    group = replace_rows(file)
    group.create_dataset("000000", (2**20, 2), "f8", compression="gzip", chunks=(2**20, 2))


def texts(file: h5py.File) -> None:
    """Have a segment be texts of variable length."""
    replace_rows(file).create_dataset("000000", (5, 2), h5py.string_dtype())


def folder_instead(file: h5py.File) -> None:
    """Have a segment be a group."""
    replace_rows(file).create_group("000000")


@pytest.mark.parametrize(("change", "message"), [
    (external_link, "/tables/w/rows/000000 is an external link"),
    (hidden_link, "/other/deep/link is an external link"),
    (soft_link, "/tables/w/rows/000000 is a link by name"),
    (virtual, "/tables/w/rows/000000 is refused: it is virtual"),
    (outside, "/tables/w/rows/000000 is refused: it lies in other files"),
    (bomb, "is refused: it claims 17,592,186,044,416 bytes"),
    (packed_bomb, "is refused: it does not hold numbers in one piece"),
    (texts, "is refused: it does not hold numbers in one piece"),
    (folder_instead, "is refused: it is no data set"),
])  # fmt: skip
def test_a_hostile_part_is_refused_by_name(
    change: Callable[[h5py.File], object], message: str, run: Path
) -> None:
    # The file outside is there, with fitting rows: only refusing can keep it from being read.
    with h5py.File(run / "secret.h5", "w") as file:
        file["rows"] = np.ones((5, 2))
    path = newest(run) / PART
    edit(path, change)
    with pytest.raises(DataError) as caught:
        load_checkpoint(newest(run))
    assert message in caught.value.what
    assert str(path) in caught.value.what
    with pytest.raises(DataError) as caught:
        list(load_checkpoint(newest(run), check=False).segments("w", [0, 1]))
    assert message in caught.value.what


def test_groups_that_hold_themselves_end(run: Path) -> None:
    def change(file: h5py.File) -> None:
        file["tables/again"] = file["/"]

    edit(newest(run) / PART, change)
    assert load_checkpoint(newest(run)).manifest.tasks == 2


@pytest.mark.parametrize("name", [
    "../000001/server-1.h5", "/etc/passwd", "server-1.h5/..", "model.h5", "server-x.h5",
    "server-1.h5\n", "",
])  # fmt: skip
def test_a_manifest_can_name_only_parts_beside_it(name: str, run: Path) -> None:
    seal(newest(run), lambda body: body["parts"][0].update(name=name))
    with pytest.raises(DataError, match="it names the part"):
        load_checkpoint(newest(run))


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
@pytest.mark.parametrize("name", [PART, MANIFEST])
def test_only_regular_files_are_opened(name: str, kind: str, run: Path) -> None:
    path = newest(run) / name
    path.rename(run / "elsewhere")
    if kind == "link":
        path.symlink_to(run / "elsewhere")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(DataError, match=f"{name} is refused: .*no regular file"):
        load_checkpoint(newest(run))


@pytest.mark.parametrize("change", [
    {"parts": None}, {"parts": [{}]}, {"parts": ["server-1.h5"]}, {"number": "x"}, {"tables": 3},
    {"tables": {"w": {"segments": 10**15}}}, {"facts": None}, {"created": []},
])  # fmt: skip
def test_a_manifest_without_sense_is_refused(change: dict[str, Any], run: Path) -> None:
    seal(newest(run), lambda body: [body.pop("parts") if "parts" in change else 0,
                                    body.update(change)])  # fmt: skip
    with pytest.raises(DataError, match=r"manifest\.json is no manifest"):
        load_checkpoint(newest(run))


def test_a_manifest_of_endless_segments_costs_no_memory(run: Path) -> None:
    seal(newest(run), lambda body: body["tables"]["w"].update(segments=10**15))
    with pytest.raises(DataError, match="does not have segment 2 of the table w once"):
        load_checkpoint(newest(run))


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"format"', b"\xff", b"[" * 99_999, b"1"])
def test_a_text_that_is_no_manifest_is_refused(text: bytes, run: Path) -> None:
    (newest(run) / MANIFEST).write_bytes(text)
    with pytest.raises(DataError, match=r"manifest\.json is no manifest"):
        load_checkpoint(newest(run))


def test_an_index_without_sense_is_refused(run: Path) -> None:
    folder = newest(run)
    for text in (b"{", b"[]", b'{"segments": [{}]}', b'{"segments": [{"table": 3}]}'):
        with h5py.File(folder / PART, "a") as file:
            del file["index"]
            file["index"] = np.frombuffer(text, np.uint8)
        crc = checksum(text)
        seal(folder, lambda body, crc=crc: body["parts"][0].update(checksum=crc))
        with pytest.raises(DataError, match=r"server-1\.h5 /index makes no sense"):
            load_checkpoint(folder)


def test_a_part_that_lies_about_its_segments_is_refused(run: Path) -> None:
    folder = newest(run)
    with h5py.File(folder / PART, "a") as file:
        text = file["index"][()].tobytes().replace(b'"segment":1', b'"segment":7')
        del file["index"]
        file["index"] = np.frombuffer(text, np.uint8)
    crc = checksum(text)
    seal(folder, lambda body: body["parts"][0].update(checksum=crc))
    with pytest.raises(MpipsError, match="server-1"):
        load_checkpoint(folder)
    with pytest.raises(DataError, match="does not hold the segments 1 of the table w"):
        list(load_checkpoint(folder, check=False).segments("w", [1]))
