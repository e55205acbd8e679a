"""Copies of machines that can go on apart, and what tells their states apart."""

import copy
import types
from collections import deque
from collections.abc import Iterable
from typing import Any, Final

import msgspec
import numpy as np

from mpips.store.base import Store
from mpips.store.update import Update

UNSEEN: Final = frozenset(
    ("_story", "_pushes", "_pulls", "_duplicates", "_parked", "_refused", "refused", "_repeats",
     "generation", "_buffers", "snapshots", "stopped_pushes", "moved", "_told", "orders",
     "_settled")
)
"""Attributes that nothing depends on but statistics, views of stores, and what is known to be
settled."""

SHARED: Final = (
    type(None), bool, int, float, str, bytes, frozenset, type, types.FunctionType,
    types.MethodType, range,
)  # fmt: skip


def freeze(value: Any, seen: dict[int, int] | None = None) -> Any:
    """Return something hashable that is equal for values that behave the same.

    It has all attributes of all objects but those of `UNSEEN`; objects that are reached on more
    than one way stay one.
    """
    seen = {} if seen is None else seen
    match value:
        case None | bool() | int() | float() | str() | bytes():
            return value
        case np.ndarray():
            return value.dtype.str, value.shape, value.tobytes()
        case np.generic():
            return value.item()
        case type() | types.FunctionType() | types.MethodType():
            return value.__qualname__
        case list() | tuple():
            return tuple(freeze(one, seen) for one in value)
        case set() | frozenset():
            return "set", tuple(sorted(value))
        case dict():
            return tuple((freeze(key), freeze(one, seen)) for key, one in value.items())
    if isinstance(value, msgspec.Struct) and value.__struct_config__.frozen:
        names = value.__struct_fields__
        return type(value).__name__, tuple(freeze(getattr(value, n), seen) for n in names)
    if id(value) in seen:
        return "again", seen[id(value)]
    seen[id(value)] = len(seen)
    if isinstance(value, Store):
        # What lies between the rows is not told apart.
        return "store", value.owned, [freeze(value.snapshot(s)) for s in value.held].__repr__()
    if isinstance(value, Iterable):
        return type(value).__name__, tuple(freeze(one, seen) for one in value)
    fields = (
        (n, freeze(getattr(value, n), seen)) for n in sorted(names_of(value)) if n not in UNSEEN
    )
    return type(value).__name__, tuple(fields)


def clone(value: Any, memo: dict[int, Any] | None = None) -> Any:
    """Return a copy of a machine; what never changes, such as messages and tables, is shared."""
    memo = {} if memo is None else memo
    known = memo.get(id(value))
    if known is not None:
        return known
    kind: Any = type(value)
    if kind in SHARED or isinstance(value, Update | np.dtype):
        return value
    # Structs that may change are copied; the others are messages and tables.
    if isinstance(value, msgspec.Struct) and value.__struct_config__.frozen:
        return value
    if kind is list:
        copied = memo[id(value)] = []
        copied += [clone(one, memo) for one in value]
        return copied
    if issubclass(kind, dict):
        copied = memo[id(value)] = copy.copy(value)
        for key, one in value.items():
            copied[key] = clone(one, memo)
        return copied
    if kind in (tuple, deque):
        items = [clone(one, memo) for one in value]
        return tuple(items) if kind is tuple else deque(items, value.maxlen)
    if kind in (set, np.ndarray):
        copied = memo[id(value)] = value.copy()
        return copied
    if isinstance(value, msgspec.Struct):
        changed: Any = copy.copy(value)
        memo[id(value)] = changed
        for name in value.__struct_fields__:
            setattr(changed, name, clone(getattr(value, name), memo))
        return changed
    copied = memo[id(value)] = kind.__new__(kind)
    for name in names_of(value):
        object.__setattr__(copied, name, clone(getattr(value, name), memo))
    return copied


def names_of(value: Any) -> Iterable[str]:
    """Return the names of an object's attributes."""
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    return list(vars(value) if hasattr(value, "__dict__") else type(value).__slots__)
