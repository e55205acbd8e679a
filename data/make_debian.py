#!/usr/bin/env python3
"""Make the real sample of mpips from the package metadata of Debian's archive area main.

A row is a binary package, a column is a word, a value says how often the word stands in the
package's English long description. The label says whether the package is a library (its section is
libs, libdevel, oldlibs or introspection). Only counts and the vocabulary are kept, no sentence.
README.md beside this script says what is left out and why, and holds the files' checksums.

The script stands alone: it needs apt-get, NumPy and h5py. It asks the mirror that apt is set up
with, or reads index files that are already there (`--lists`). The same index files give the same
bytes as long as the HDF5 and zlib libraries are the same.
"""

import argparse
import contextlib
import email.utils
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

MPIPS_VERSION = "0.1.0"
LIBRARY_SECTIONS = frozenset({"libs", "libdevel", "oldlibs", "introspection"})
WORD = re.compile("[a-z]+")
WORD_LETTERS_MIN, WORD_LETTERS_MAX = 2, 24
WORD_SOURCES_MIN = 2  # A word that only one source package uses is mostly that package's name.
TEST_SHARE = 5  # One source package in five goes to the test file.
CHUNK = 65536
STORED = {"shuffle": True, "compression": "gzip", "compression_opts": 9, "fletcher32": True}

FAMILIES = {
    "InRelease": "*InRelease",
    "Packages": "*_main_binary-*_Packages",
    "Translation-en": "*_main_i18n_Translation-en",
}


class SampleError(Exception):
    """The sample cannot be made: what is wrong, what to do, and the exit code."""

    def __init__(self, what: str, remedy: str, code: int) -> None:
        """Keep the sentence for the user and the code for the shell."""
        super().__init__(f"make_debian: error: {what}\n  {remedy}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Package:
    """A binary package: its names, its label and the key of its description."""

    name: str
    source: str
    is_library: bool
    description: str


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one file in compressed sparse row form, columns sorted within each row."""

    data: npt.NDArray[np.uint8]
    indices: npt.NDArray[np.int32]
    indptr: npt.NDArray[np.int64]
    label: npt.NDArray[np.int8]
    source_hash: npt.NDArray[np.uint64]


def show(text: str, end: str = "\n") -> None:
    """Print a line of progress; a carriage return as `end` lets the next line cover it."""
    if end == "\n" or sys.stderr.isatty():
        print(f"make_debian: {text:<60}", end=end, file=sys.stderr, flush=True)


def ask_apt(*arguments: str) -> str:
    """Run apt-get and return what it printed; raises SampleError when it fails."""
    try:
        done = subprocess.run(["apt-get", *arguments], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        remedy = "Run this on a Debian machine, or give --lists with index files from one."
        raise SampleError("there is no apt-get.", remedy, 66) from None
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip() or "no reason given").splitlines()[-1]
        remedy = "Look at the machine's apt sources and network, then run this again."
        raise SampleError(f"apt-get {arguments[0]} failed: {reason}", remedy, 74) from None
    return done.stdout


def fetch_indexes(folder: Path, release: str | None) -> None:
    """Let apt fetch the indexes of main into `folder`, from the mirror that the machine uses."""
    # Find the mirror: the first configured source of Debian's main.
    wanted = ("Created-By: Packages", "Component: main", "Origin: Debian")
    listed = ask_apt("indextargets", "--format", "$(REPO_URI) $(RELEASE)", *wanted)
    if not listed.strip():
        remedy = "Run apt-get update once, on a Debian machine whose sources name main."
        raise SampleError("apt knows no source of Debian's main.", remedy, 66)
    mirror, configured = listed.splitlines()[0].split()

    # Name nothing but main in a source list of our own, so that no other index is fetched.
    (folder / "partial").mkdir()
    sources = folder / "sources.list"
    sources.write_text(f"deb {mirror} {release or configured} main\n", encoding="utf-8")
    folder.chmod(0o755)  # apt downloads as a user of its own, who must be able to look in.
    options = {
        "Dir::State::lists": folder,
        "Dir::Cache": folder,
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "-",
        "Acquire::Languages": "en",
        "Acquire::GzipIndexes": "false",
        "APT::Update::Error-Mode": "any",
    }
    ask_apt("update", *(f"-o{key}={value}" for key, value in options.items()))


def find_indexes(folder: Path) -> dict[str, Path]:
    """Return the paths of the release file, the package index and the translations in `folder`."""
    found = {}
    for family, pattern in FAMILIES.items():
        paths = sorted(folder.glob(pattern))
        if len(paths) != 1:
            remedy = "Use a folder with the uncompressed indexes of one release, main only."
            raise SampleError(f"{len(paths)} files {pattern} in {folder}, not one.", remedy, 66)
        found[family] = paths[0]
    return found


def read_stanzas(path: Path, wanted: frozenset[str], stage: str) -> Iterator[dict[str, str]]:
    """Yield the wanted fields of each stanza of a deb822 file, continued lines behind newlines."""
    stanza: dict[str, str] = {}
    field, done = "", 0
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            # An empty line ends a stanza, an indented line continues a field.
            if line == "\n":
                if stanza:
                    yield stanza
                stanza, field, done = {}, "", done + 1
                if done % 5000 == 0:
                    show(f"{stage}: {done:,}", end="\r")
            elif line[0] in " \t":
                if field in wanted:
                    stanza[field] += "\n" + line.strip()
            else:
                field, _, value = line.partition(":")
                if field in wanted:
                    stanza[field] = value.strip()
    if stanza:
        yield stanza


def read_descriptions(path: Path) -> dict[str, Counter[str]]:
    """Return the word counts of each long description, by the MD5 sum that packages name."""
    counts = {}
    wanted = frozenset({"Description-md5", "Description-en"})
    for stanza in read_stanzas(path, wanted, "descriptions"):
        _, _, text = stanza.get("Description-en", "").partition("\n")
        words = WORD.findall(text.lower())
        counts[stanza.get("Description-md5", "")] = Counter(
            word for word in words if WORD_LETTERS_MIN <= len(word) <= WORD_LETTERS_MAX
        )
    show(f"descriptions: {len(counts):,}")
    return counts


def read_packages(path: Path) -> list[Package]:
    """Return the packages, each name once (its first version), shuffled by a hash of the name."""
    packages: dict[str, Package] = {}
    wanted = frozenset({"Package", "Source", "Section", "Description-md5"})
    for stanza in read_stanzas(path, wanted, "packages"):
        if not {"Package", "Section", "Description-md5"} <= stanza.keys():
            remedy = "The file is no package index of Debian, or was cut short: fetch it again."
            raise SampleError(f"a stanza of {path} lacks fields: {stanza}", remedy, 65)
        name = stanza["Package"]
        source = stanza.get("Source", name).split()[0]
        is_library = stanza["Section"] in LIBRARY_SECTIONS
        packages.setdefault(name, Package(name, source, is_library, stanza["Description-md5"]))
    show(f"packages: {len(packages):,}")
    return sorted(packages.values(), key=lambda package: hash_of(package.name))


def hash_of(name: str) -> int:
    """Return the first 8 bytes of the SHA-256 of `name` as an unsigned number, big end first."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def is_test(source: str) -> bool:
    """Say on which side of the split all packages of a source package are."""
    return hash_of(source) % TEST_SHARE == 0


def find_giveaways(packages: list[Package]) -> dict[str, set[str]]:
    """Return, for each source package, the words that would give its rows' labels away.

    Library packages are called libNAME or NAME-dev by policy, and descriptions repeat names. So the
    words of the source's and of all its packages' names that begin with "lib" are out, and "dev".
    """
    giveaways: dict[str, set[str]] = defaultdict(lambda: {"dev"})
    for package in packages:
        words = WORD.findall(f"{package.name} {package.source}")
        giveaways[package.source].update(word for word in words if word.startswith("lib"))
    return giveaways


def count_words(
    packages: list[Package], counts: dict[str, Counter[str]]
) -> tuple[list[tuple[Package, Counter[str]]], list[str]]:
    """Return each package with its word counts, and the vocabulary of the training rows, sorted."""
    # Join packages with descriptions, without the words that give the label away.
    giveaways = find_giveaways(packages)
    counted = []
    users: dict[str, set[str]] = defaultdict(set)
    for package in packages:
        own = giveaways[package.source]
        found = counts.get(package.description, Counter())
        words = Counter({word: count for word, count in found.items() if word not in own})
        counted.append((package, words))
        if not is_test(package.source):
            for word in words:
                users[word].add(package.source)

    # Words of several training sources become columns; rows without such a word are left out.
    kept = {word for word, sources in users.items() if len(sources) >= WORD_SOURCES_MIN}
    return [row for row in counted if not kept.isdisjoint(row[1])], sorted(kept)


def build_rows(counted: list[tuple[Package, Counter[str]]], vocabulary: list[str]) -> Rows:
    """Return the rows as arrays, columns sorted within a row, counts clipped at 255."""
    column = {word: number for number, word in enumerate(vocabulary)}
    cells = [
        sorted((column[word], count) for word, count in words.items() if word in column)
        for _, words in counted
    ]
    lengths = np.fromiter((len(row) for row in cells), np.int64, len(cells))
    flat = np.array([cell for row in cells for cell in row], np.int64).reshape(-1, 2)
    packages = [package for package, _ in counted]
    return Rows(
        data=np.minimum(flat[:, 1], 255).astype(np.uint8),
        indices=flat[:, 0].astype(np.int32),
        indptr=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        label=np.array([package.is_library for package in packages], np.int8),
        source_hash=np.array([hash_of(package.source) for package in packages], np.uint64),
    )


def describe_origin(paths: dict[str, Path]) -> dict[str, str]:
    """Return the attributes that say where and when the index files come from, without any host."""
    # The release file is signed, so a field may stand anywhere in its first paragraph.
    text = paths["InRelease"].read_text(encoding="utf-8")
    fields = dict(re.findall(r"^(Version|Codename|Date): (.+)$", text, re.MULTILINE))
    if len(fields) < 3:
        remedy = "It is no release file of Debian, or was cut short: fetch it again."
        raise SampleError(f"{paths['InRelease']} lacks version, codename or date.", remedy, 65)

    # Keep of the names what follows the mirror's part. The signed release file has all digests.
    parts = []
    for family, path in paths.items():
        content = path.read_bytes()
        name = re.sub(r"^.*_dists_[^_]+_", "", path.name).replace("_", "/")
        digest = hashlib.sha256(content).hexdigest()
        if family != "InRelease" and digest not in text:
            remedy = "The indexes are of two releases, or were cut short: fetch them again."
            raise SampleError(f"{path} is not the one that its release file lists.", remedy, 65)
        parts.append(f"{name} {len(content)} bytes sha256:{digest}")
    release = f"Debian {fields['Version']} ({fields['Codename']})"
    created = email.utils.parsedate_to_datetime(fields["Date"]).isoformat()
    return {"created": created, "source": f"{release}: {'; '.join(parts)}"}


def mark(node: h5py.HLObject, kind: str, version: str) -> None:
    """Write the two attributes by which AnnData knows what an HDF5 object is."""
    node.attrs["encoding-type"] = kind
    node.attrs["encoding-version"] = version


def write_file(path: Path, rows: Rows, vocabulary: list[str], origin: dict[str, str]) -> None:
    """Write one data file in the layout mpips-data/1, under a temporary name first."""
    n, d = len(rows.label), len(vocabulary)
    arrays: dict[str, npt.NDArray[Any]] = {
        "X/data": rows.data,
        "X/indices": rows.indices,
        "X/indptr": rows.indptr,
        "obs/label": rows.label,
        "obs/source_hash": rows.source_hash,
        "var/_index": np.array(vocabulary, f"S{WORD_LETTERS_MAX}"),
    }
    checksums = {
        name: "sha256:" + hashlib.sha256(a.tobytes()).hexdigest() for name, a in arrays.items()
    }
    attributes = {
        "format": "mpips-data/1",
        "mpips-version": MPIPS_VERSION,
        **origin,
        "command": "python data/make_debian.py",
        "n": n,
        "d": d,
        "nnz": len(rows.data),
        "label_values": np.array([0, 1], np.int8),
        "row_scaling": "unit",
        "checksums": json.dumps(checksums),
    }

    # HDF5 1.10 and its own filters: every reader opens the file, and most damage is found.
    temporary = path.with_name(path.name + ".part")
    with h5py.File(temporary, "w", libver=("v110", "v110")) as file:
        mark(file, "anndata", "0.1.0")
        for name, value in attributes.items():
            # Texts of fixed length lie under a checksum of HDF5, others do not.
            file.attrs[name] = np.bytes_(value) if isinstance(value, str) else value
        for name, array in arrays.items():
            chunks = (min(CHUNK, len(array)),)
            stored = file.create_dataset(name, data=array, chunks=chunks, **STORED)
            if name.startswith("obs/"):
                mark(stored, "array", "0.2.0")

        # What AnnData wants to know; the string columns are fixed in length, which compresses well.
        mark(file["X"], "csr_matrix", "0.1.0")
        file["X"].attrs["shape"] = np.array([n, d], np.int64)
        mark(file["var"], "dataframe", "0.2.0")
        file["var"].attrs["_index"] = "_index"
        file["var"].attrs["column-order"] = np.array([], "S1")
        mark(file["var/_index"], "string-array", "0.2.0")
    temporary.replace(path)


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    summary = (__doc__ or "").split("\n\n")[0]
    parser = argparse.ArgumentParser(description=summary)
    parser.set_defaults(output=Path(__file__).parent)
    add = parser.add_argument
    add("--output", type=Path, metavar="DIR", help="where the files go (default: beside this)")
    add("--lists", type=Path, metavar="DIR", help="read apt's uncompressed indexes from here")
    add("--release", metavar="NAME", help="fetch this release (default: the machine's)")
    return parser.parse_args()


def make(options: argparse.Namespace) -> None:
    """Fetch or find the indexes, count the words and write both files."""
    if not options.output.is_dir():
        raise SampleError(f"{options.output} is no folder.", "Give another --output.", 73)
    with contextlib.ExitStack() as stack:
        folder = options.lists
        if folder is None:
            show("apt-get update (15 MB)", end="\r")
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            fetch_indexes(folder, options.release)
        paths = find_indexes(folder)
        origin = describe_origin(paths)
        counts = read_descriptions(paths["Translation-en"])
        packages = read_packages(paths["Packages"])
    counted, vocabulary = count_words(packages, counts)
    show(f"words: {len(vocabulary):,}; packages left out: {len(packages) - len(counted):,}")

    # One file a side of the split.
    for name, side in (("debian-train.h5", False), ("debian-test.h5", True)):
        rows = build_rows([row for row in counted if is_test(row[0].source) == side], vocabulary)
        path = options.output / name
        write_file(path, rows, vocabulary, origin)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        share = f"{rows.label.mean():.2%} libraries"
        show(f"{name}: {len(rows.label):,} rows, {share}, {len(rows.data):,} counts")
        print(f"{digest}  {name}")


def main() -> int:
    """Run the script and return its exit code."""
    try:
        make(parse_arguments())
    except SampleError as error:
        print(error, file=sys.stderr)
        return error.code
    except OSError as error:
        remedy = "Look at the disk and at the permissions."
        print(f"make_debian: error: {error}\n  {remedy}", file=sys.stderr)
        return 74
    return 0


if __name__ == "__main__":
    sys.exit(main())
