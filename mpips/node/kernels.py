"""Where compiled kernels are kept, and compiling them before ranks start.

Numba checks the file of a kernel's caller only, and would run stale code after a change of
another file. So the cache folder is named by a hash of all files that hold kernels.
"""

import contextlib
import functools
import importlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
HOLDS_KERNELS = re.compile(rb"@(compiled|njit|numba\.njit|nb\.njit)\b|= (compiled|njit)\(")
STAMP = "complete"
WAIT_S_MAX = 300.0


@functools.cache
def kernel_files() -> tuple[Path, ...]:
    """Return the files of this package that hold kernels, sorted."""
    files = sorted(PACKAGE.rglob("*.py"))
    return tuple(path for path in files if HOLDS_KERNELS.search(path.read_bytes()))


@functools.cache
def cache_folder() -> Path:
    """Return the folder for compiled kernels, in the user's cache folder."""
    import hashlib

    digest = hashlib.sha256(str(PACKAGE).encode())
    for path in kernel_files():
        digest.update(path.read_bytes())
    home = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return Path(home, "mpips", f"kernels-{digest.hexdigest()[:12]}")


def use_cache() -> None:
    """Have Numba keep kernels in the cache folder, unless the user has chosen another.

    Must come before Numba is imported; ranks inherit it.
    """
    if "NUMBA_CACHE_DIR" not in os.environ:
        os.environ["NUMBA_CACHE_DIR"] = str(cache_folder())


def compile_kernels(say: Callable[[str], None]) -> None:
    """Compile all kernels into the cache, if that has not been done for these files.

    One process does it before the ranks start, so that they need not all do it at once.

    Args:
        say: told when it will take a while.
    """
    use_cache()
    folder = Path(os.environ["NUMBA_CACHE_DIR"])
    if (folder / STAMP).exists():
        return
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    say("compiling kernels, once (half a minute) ...")
    for path in kernel_files():
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        importlib.import_module(".".join(parts))
    # Without a writable cache every rank compiles for itself, which is slow but right.
    if folder.is_dir() and os.access(folder, os.W_OK):
        (folder / STAMP).touch()


def await_kernels(is_first: bool, say: Callable[[str], None]) -> None:
    """Compile the kernels on the first rank of a host, and let its other ranks wait for that.

    Args:
        is_first: whether this is the first rank of its host.
        say: told when it will take a while.
    """
    use_cache()
    if is_first:
        compile_kernels(say)
        return
    folder = Path(os.environ["NUMBA_CACHE_DIR"])
    end = time.monotonic() + WAIT_S_MAX
    while not (folder / STAMP).exists() and time.monotonic() < end:
        # Where nothing can be written there is nothing to wait for.
        if not os.access(next(p for p in (folder, *folder.parents) if p.exists()), os.W_OK):
            return
        time.sleep(0.1)
