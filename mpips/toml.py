"""Settings written as TOML."""

from typing import Any

import msgspec

from mpips.errors import ConfigError


def to_toml(config: msgspec.Struct) -> str:
    """Return a config as TOML, every key with its effective value.

    >>> class Job(msgspec.Struct):
    ...     replicas: int = 1
    ...     run: dict[str, str] = {"name": "a"}
    >>> to_toml(Job()).splitlines()
    ['replicas = 1', '', '[run]', 'name = "a"']
    """
    tree = msgspec.to_builtins(config)
    lines = [f"{k} = {_value(v)}" for k, v in tree.items() if not isinstance(v, dict)]
    lines += [""] if lines else []
    for section, keys in tree.items():
        if not isinstance(keys, dict):
            continue
        lines.append(f"[{section}]")
        lines += [f"{key} = {_value(value)}" for key, value in keys.items()]
        lines.append("")
    return "\n".join(lines)


def assign(key: str, value: Any) -> str:
    """Return the setting that gives a key exactly this value, a text that looks like a number too.

    >>> assign("run.out", "2024"), assign("run.servers", 2)
    ('run.out="2024"', 'run.servers=2')
    """
    return f"{key}={_value(value)}"


def _value(value: Any) -> str:
    # JSON's strings, integers and booleans are TOML's; its floats know no infinity.
    match value:
        case float():
            return repr(value)
        case list():
            return f"[{', '.join(map(_value, value))}]"
        case dict():
            pairs = [f"{_value(key)} = {_value(item)}" for key, item in value.items()]
            return f"{{{', '.join(pairs)}}}"
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        remedy = "Rename the file or folder: a config holds text in UTF-8."
        raise ConfigError(f"{value!r} is no text in UTF-8", "", remedy) from None
