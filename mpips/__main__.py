"""Entry of ``python3 -m mpips``, ``python3 path/to/mpips`` and the command ``mpips``.

It parses on every Python, needs the standard library only, and tells an old Python what is
wrong before anything that an old Python cannot read is imported.
"""

import os
import sys

OLDEST = (3, 11)


def newer_python():
    """Name the newest Python on the PATH that mpips can use, or return an empty string."""
    # Try from the newest, of versions to come also.
    for minor in range(19, OLDEST[1] - 1, -1):
        for folder in os.environ.get("PATH", "").split(os.pathsep):
            name = "python3.%d" % minor
            if os.access(os.path.join(folder, name), os.X_OK) and works(name):
                return name
    return ""


def works(program):
    """Tell whether a Python starts: version managers leave programs on the PATH that do not."""
    import subprocess

    with open(os.devnull, "w") as nowhere:
        return subprocess.call([program, "-c", ""], stdout=nowhere, stderr=nowhere) == 0


def refuse_old_python():
    """Tell the user which Python is needed and return the exit code for it."""
    found = newer_python()
    remedy = "use %s, which is here" % found if found else "install one, or load a module with one"
    sys.stderr.write(
        "mpips: error: mpips needs Python %d.%d or newer\n" % OLDEST
        + "  this is Python %d.%d: " % sys.version_info[:2]
        + "%s\n" % sys.executable
        + "  %s\n" % remedy
    )
    return 69


def use_this_package():
    """Make `import mpips` find the package that this file belongs to, wherever it lies."""
    package = os.path.dirname(os.path.abspath(__file__))
    root = os.path.dirname(package)

    # Drop the package's own folder: it would make `errors` or `store` top-level modules.
    sys.path[:] = [p for p in sys.path if os.path.abspath(p or os.curdir) != package]
    if root not in [os.path.abspath(p or os.curdir) for p in sys.path]:
        sys.path.insert(0, root)


def main():
    """Run the command line in `sys.argv` and return the exit code."""
    if sys.version_info < OLDEST:
        return refuse_old_python()
    from mpips.cli.main import main as run

    return run(sys.argv[1:])


if __name__ == "__main__":
    if not __package__:
        use_this_package()
    sys.exit(main())
