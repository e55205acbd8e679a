"""mpips: a parameter server for MPI supercomputers.

Public names are loaded when they are first used, so that ``import mpips`` costs nothing and
works without a single dependency. The file parses on every Python, so that an old one can be
told what is wrong (`mpips.__main__`).
"""

__version__ = "0.1.0"

# Say where each public name lives.
_PUBLIC = {
    "App": "mpips.node.app",
    "Job": "mpips.node.app",
    "Plan": "mpips.core.task",
    "Reading": "mpips.core.predicate",
    "Report": "mpips.core.machine",
    "SetDelay": "mpips.core.task",
    "Table": "mpips.wire.types",
    "Task": "mpips.core.task",
    "UserUpdate": "mpips.store.user",
    "Worker": "mpips.node.kv",
    "run": "mpips.node.run",
    "MpipsError": "mpips.errors",
    "AppError": "mpips.errors",
    "UsageError": "mpips.errors",
    "ConfigError": "mpips.errors",
    "DataError": "mpips.errors",
    "MissingInputError": "mpips.errors",
    "LaunchError": "mpips.errors",
    "ProtocolError": "mpips.errors",
    "FrameError": "mpips.errors",
    "OutputError": "mpips.errors",
    "FileError": "mpips.errors",
    "RanksLostError": "mpips.errors",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name):
    """Load a public name from its module at its first use (PEP 562)."""
    if name not in _PUBLIC:
        raise AttributeError("module 'mpips' has no attribute %r" % name)
    import importlib

    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__():
    """List the public names, the loaded and the unloaded ones."""
    return sorted(set(globals()) | set(_PUBLIC))
