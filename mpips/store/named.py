"""Finds what users name as "module:name" in a config or a table."""

import importlib

from mpips.errors import ConfigError


def import_named(name: str, what: str, remedy: str) -> object:
    """Return what "module:name" names.

    Args:
        name: module and attribute.
        what: what it shall be, for people.
        remedy: what the user can do if there is no such thing.

    Raises:
        ConfigError: it cannot be imported.

    >>> import_named("math:sqrt", "function", "")(9)
    3.0
    """
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise ConfigError(f"There is no {what} {name}.", "", remedy)
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:
        text = f"The {what} {name} cannot be imported: {type(error).__name__}: {error}."
        raise ConfigError(text, "", remedy) from error
