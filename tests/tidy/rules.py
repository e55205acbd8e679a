"""The project's rules as functions: each takes the root of a tree and returns the violations."""

import ast
import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

FILE_LINES, FUNCTION_LINES, COLUMNS = 400, 70, 100

# What each layer may import of mpips and of others. This table is the architecture.
BELOW_NODE = ("errors", "toml", "config", "compiler", "wire", "filters", "store", "core",
              "transport", "files")
LAYERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "errors": ((), ()),
    "compiler": ((), ("numba",)),
    "toml": (("errors",), ("msgspec",)),
    "config": (("errors",), ("msgspec",)),
    "wire": (("errors",), ("numpy", "msgspec")),
    "filters": (("errors", "wire"), ("numpy", "msgspec", "lz4", "xxhash")),
    "store": (("errors", "compiler", "wire"), ("numpy", "msgspec")),
    "core": (("errors", "config", "wire", "filters", "store"), ("numpy", "msgspec")),
    "transport": (("errors",), ("numpy", "mpi4py")),
    # xxhash: a checksum must not take longer than the disk.
    "files": (("errors", "compiler", "wire"), ("numpy", "h5py", "msgspec", "xxhash")),
    "node": (BELOW_NODE, ("numpy", "mpi4py", "msgspec", "scipy")),
    "testing": ((*BELOW_NODE, "node"), ("numpy", "msgspec", "pytest", "hypothesis")),
    "apps": ((*BELOW_NODE, "node"), ("numpy", "scipy", "msgspec")),
    "fetch": (("errors",), ()),
    "bootstrap": (("errors", "fetch", "node"), ()),
    "cli": ((*BELOW_NODE, "node", "apps", "testing", "bootstrap"),
            ("numpy", "mpi4py", "msgspec")),
    "__main__": (("cli",), ()),
}
PURE = ("wire", "filters", "store", "core")
IMPURE = {"time", "random", "os", "threading", "socket", "logging"}
MPI_FILES = re.compile(r"mpips/(transport/mpi\w*|node/launch|cli/bench\w*)(\.py|/)")

# Who may print: the commands, the console, and what runs before or after it.
PRINTERS = ("mpips/cli/", "mpips/node/console.py", "mpips/node/mpirun.py", "mpips/node/run.py",
            "mpips/node/supervisor.py",
            "mpips/node/launch.py", "mpips/bootstrap.py")

DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")
FOLDERS = r"(?:mpips|tests|data|docs|slurm|examples|\.ci)"


def sources(root: Path, folder: str = "mpips") -> Iterator[tuple[str, ast.Module, list[str]]]:
    """Yield each Python file of a folder: its name from the root, its tree, its lines."""
    for path in sorted((root / folder).rglob("*.py")):
        text = path.read_text("utf-8")
        yield path.relative_to(root).as_posix(), parse(text), text.splitlines()


@functools.cache
def parse(text: str) -> ast.Module:
    """Parse a text once for all rules."""
    return ast.parse(text)


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and full name of all that a module imports, at the top or inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{alias.name}" if module == "mpips" else module)
                        for alias in node.names)


def arrows(root: Path) -> list[str]:
    """Find imports that `LAYERS` does not allow."""
    found = []
    for name, tree, _ in sources(root):
        layer = name.split("/")[1].removesuffix(".py")
        if layer == "__init__":
            continue
        if layer not in LAYERS:
            found.append(f"{name}: {layer} is no layer of tests/tidy/rules.py")
            continue
        allowed, others = LAYERS[layer]
        for line, module in imported(tree):
            top, *rest = module.split(".")
            if top == "mpips" and rest and rest[0].startswith("__"):
                continue
            ok = (rest[0] in (layer, *allowed) if rest else False) if top == "mpips" else (
                top in others or top in sys.stdlib_module_names)
            if not ok:
                found.append(f"{name}:{line}: {layer} may not import {module}")
    return found


def purity(root: Path) -> list[str]:
    """Find clocks, randomness, files and threads in the layers that are pure."""
    return [
        f"{name}:{line}: {module} in a pure layer"
        for name, tree, _ in sources(root)
        if name.split("/")[1] in PURE
        for line, module in imported(tree)
        if module.split(".")[0] in IMPURE
    ]


def places(root: Path) -> list[str]:
    """Find mpi4py and h5py outside of the few files that may use them."""
    found = []
    for name, tree, _ in sources(root):
        for line, module in imported(tree):
            top = module.split(".")[0]
            if top == "mpi4py" and not MPI_FILES.match(name):
                found.append(f"{name}:{line}: mpi4py belongs to transport/mpi and node/launch")
            if top == "h5py" and not name.startswith("mpips/files/"):
                found.append(f"{name}:{line}: h5py belongs to files")
    return found


def sizes(root: Path) -> list[str]:
    """Find long files, long functions and wide lines."""
    found = []
    for name, tree, lines in (*sources(root), *sources(root, "tests")):
        if len(lines) > FILE_LINES:
            found.append(f"{name}: {len(lines)} lines, more than {FILE_LINES}")
        found += [f"{name}:{number}: {len(line)} columns"
                  for number, line in enumerate(lines, 1) if len(line) > COLUMNS]
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES:
                    found.append(f"{name}:{node.lineno}: {node.name} has {length} lines")
    return found


def docstrings(root: Path) -> list[str]:
    """Find modules, classes and functions for users without a first line that is a sentence."""
    found = []
    for name, tree, _ in sources(root):
        for where, node in documented(tree):
            first = (ast.get_docstring(node) or "").partition("\n")[0]
            if not first.endswith((".", "?")):
                found.append(f"{name}: {where or 'the module'} has {first!r} as its first line")
    return found


def documented(
    parent: ast.Module | ast.ClassDef, path: str = ""
) -> Iterator[tuple[str, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield what needs a docstring: the module, and public classes, methods and functions."""
    if isinstance(parent, ast.Module):
        yield path, parent
    for node in parent.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
        repeats = any(d.endswith((".setter", "overload", "override")) for d in decorators)
        if node.name.startswith("_") or repeats:
            continue
        where = f"{path}.{node.name}".lstrip(".")
        yield where, node
        if isinstance(node, ast.ClassDef):
            yield from documented(node, where)


def habits(root: Path) -> list[str]:
    """Find bare excepts, prints outside of commands, `np.unique` and `fastmath`."""
    found = []
    for name, tree, _ in sources(root):
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                found.append(f"{name}:{node.lineno}: a bare except")
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called == "print" and not name.startswith(PRINTERS):
                found.append(f"{name}:{node.lineno}: print outside of cli")
            if called in ("np.unique", "numpy.unique"):
                found.append(f"{name}:{node.lineno}: np.unique is slow: sort, compare neighbours")
            if any(keyword.arg == "fastmath" for keyword in node.keywords):
                found.append(f"{name}:{node.lineno}: fastmath gives other bits elsewhere")
    return found


def paths(root: Path) -> list[str]:
    """Find paths in the documents that do not exist; `*` stands for any name."""
    pattern = re.compile(rf"[`(]({FOLDERS}/[\w./*-]*)")
    found = []
    for document in DOCUMENTS:
        file = root / document
        named = pattern.findall(file.read_text("utf-8")) if file.is_file() else ()
        found += [f"{document}: {path} does not exist" for path in named
                  if not any(root.glob(path.rstrip("/.")))]
    return found


def definitions(root: Path) -> list[str]:
    """Find rows like `mpips/core/client.py: Client.push` that name what is not in the code."""
    pattern = re.compile(r"`(mpips/[\w/]+\.py): ([\w.]+)`")
    found = []
    for document in DOCUMENTS:
        file = root / document
        for path, name in pattern.findall(file.read_text("utf-8")) if file.is_file() else ():
            if not (root / path).is_file():
                found.append(f"{document}: {path} does not exist")
            elif name not in defined(ast.parse((root / path).read_text("utf-8"))):
                found.append(f"{document}: {path} defines no {name}")
    return found


def defined(parent: ast.Module | ast.ClassDef, path: str = "") -> set[str]:
    """Return the full names of all functions, classes and constants of a module."""
    names = set()
    for node in parent.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(f"{path}{node.name}")
        if isinstance(node, ast.ClassDef):
            names |= defined(node, f"{path}{node.name}.")
        if isinstance(node, ast.Assign):
            names |= {f"{path}{target.id}" for target in node.targets
                      if isinstance(target, ast.Name)}
    return names


RULES = (arrows, purity, places, sizes, docstrings, habits, paths, definitions)
