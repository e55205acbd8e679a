"""The script that makes the sample, on index files of a small archive made up here."""

import hashlib
import importlib.util
import itertools
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import h5py
import pytest

SCRIPT = Path(__file__).parents[2] / "data" / "make_debian.py"

# Name, source with version, section, long description. The summary's words must not be counted.
PACKAGES = [
    (
        "libalpha1",
        "alpha",
        "libs",
        "Shared library of libalpha, see libalpha-dev. Uses libbeta. Greek.",
    ),
    (
        "alpha-utils",
        "alpha (1.2)",
        "utils",
        "Greek tools for libalpha.\n .\n Tools, and tools again.",
    ),
    ("libbeta-dev", "beta", "libdevel", "Header of the shared library libbeta."),
    ("gamma", "gamma", "games", "Tools for a game, uses libbeta and libalpha. In Dev."),
    ("zeta", "zeta", "misc", "Tools of the shared library."),
    ("odd", "odd", "misc", "Unheard."),
]


def load() -> ModuleType:
    """Import the script, which is in no package."""
    spec = importlib.util.spec_from_file_location("make_debian", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_debian"] = module
    spec.loader.exec_module(module)
    return module


make_debian = load()


def write_indexes(folder: Path) -> Path:
    """Write the index files of the small archive as apt keeps them, and return their folder."""
    packages, translations = "", ""
    for name, source, section, text in PACKAGES:
        key = hashlib.md5(text.encode()).hexdigest()
        packages += f"Package: {name}\nSource: {source}\nTag: some::tag,\n other::tag\n"
        packages += f"Section: {section}\nDescription-md5: {key}\n\n"
        translations += f"Package: {name}\nDescription-md5: {key}\n"
        translations += f"Description-en: summary words\n {text}\n\n"
    start = "mirror.example_debian_dists_testing_"
    release = "Version: 1.0\nCodename: testing\nDate: Sat, 11 Jul 2026 10:16:37 UTC\nSHA256:\n"
    folder.mkdir()
    for name, content in (
        ("main_binary-amd64_Packages", packages),
        ("main_i18n_Translation-en", translations),
    ):
        (folder / f"{start}{name}").write_text(content, encoding="utf-8")
        release += f" {hashlib.sha256(content.encode()).hexdigest()} 1 {name}\n"
    (folder / f"{start}InRelease").write_text(release, encoding="utf-8")
    return folder


def make(lists: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the script's main function as the command line would, and return its exit code."""
    output.mkdir(exist_ok=True)
    arguments = ["make_debian.py", "--lists", str(lists), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", arguments)
    code: int = make_debian.main()
    return code


def rows_of(path: Path) -> list[tuple[int, str]]:
    """Return label and word counts of each row of a file, words in the order of their columns."""
    with h5py.File(path) as file:
        words = [word.decode() for word in file["var/_index"][:]]
        data, indices, indptr = (file["X"][key][:] for key in ("data", "indices", "indptr"))
        label = file["obs/label"][:].tolist()
    rows = []
    for number, (begin, end) in enumerate(itertools.pairwise(indptr)):
        cells = zip(indices[begin:end], data[begin:end], strict=True)
        rows.append((label[number], " ".join(f"{words[cell]}:{count}" for cell, count in cells)))
    return rows


def test_counts_are_of_long_descriptions_without_the_giveaways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Put zeta alone on the test side.
    monkeypatch.setattr(make_debian, "is_test", lambda source: source == "zeta")
    assert make(write_indexes(tmp_path / "lists"), tmp_path / "out", monkeypatch) == 0
    train = rows_of(tmp_path / "out" / "debian-train.h5")
    # alpha's rows lack libalpha, beta's libbeta, all lack dev; odd has no word of another source.
    assert sorted(train) == [
        (0, "and:1 for:1 libbeta:1 tools:1 uses:1"),
        (0, "and:1 for:1 tools:3"),
        (1, "libbeta:1 library:1 of:1 shared:1 uses:1"),
        (1, "library:1 of:1 shared:1"),
    ]

    # Only alpha's two packages have "greek", so it is no column.
    # The test side does not choose words: "the" is in beta and zeta, so in one training source.
    assert rows_of(tmp_path / "out" / "debian-test.h5") == [(0, "library:1 of:1 shared:1 tools:1")]


def test_same_indexes_give_the_same_bytes_without_the_mirrors_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_debian, "is_test", lambda source: source == "zeta")
    lists = write_indexes(tmp_path / "lists")
    for output in ("one", "two"):
        assert make(lists, tmp_path / output, monkeypatch) == 0
    for name in ("debian-train.h5", "debian-test.h5"):
        content = (tmp_path / "one" / name).read_bytes()
        assert content == (tmp_path / "two" / name).read_bytes()
        assert b"mirror" not in content
        assert str(tmp_path).encode() not in content
    with h5py.File(tmp_path / "one" / "debian-train.h5") as file:
        assert file.attrs["created"] == b"2026-07-11T10:16:37+00:00"
        assert file.attrs["source"].startswith(b"Debian 1.0 (testing): InRelease ")
        assert b"; main/binary-amd64/Packages " in file.attrs["source"]


def test_split_follows_the_hash_of_the_source_package() -> None:
    sides = [make_debian.is_test(f"package-{number}") for number in range(1000)]
    assert 150 < sum(sides) < 250
    assert make_debian.hash_of("") == 0xE3B0C44298FC1C14


def test_indexes_that_do_not_belong_together_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = write_indexes(tmp_path / "lists")
    index = next(lists.glob("*_Packages"))
    index.write_text(index.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert make(lists, tmp_path / "out", monkeypatch) == 65
    assert "is not the one that its release file lists" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def test_missing_index_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = write_indexes(tmp_path / "lists")
    next(lists.glob("*_Translation-en")).unlink()
    assert make(lists, tmp_path / "out", monkeypatch) == 66
    assert "*_main_i18n_Translation-en" in capsys.readouterr().err


def test_machine_without_apt_gets_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["make_debian.py", "--output", str(tmp_path)])
    assert make_debian.main() == 66
    assert "there is no apt-get" in capsys.readouterr().err


def test_failing_apt_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(command: list[str], **_: object) -> None:
        raise subprocess.CalledProcessError(100, command, stderr="W: first\nE: no route\n")

    monkeypatch.setattr(subprocess, "run", fail)
    monkeypatch.setattr(sys, "argv", ["make_debian.py", "--output", str(tmp_path)])
    assert make_debian.main() == 74
    assert "apt-get indextargets failed: E: no route" in capsys.readouterr().err
