"""Finds update functions by name; the names that users import are here too."""

from collections.abc import Mapping
from typing import Final

from mpips.errors import ConfigError
from mpips.store.builtin import Add, Assign, Max
from mpips.store.named import import_named
from mpips.store.optimisers import AdaGrad, Adam, AdaRevision, Ftrl, Proximal, Sgd
from mpips.store.update import Field, Update
from mpips.store.user import UserUpdate

__all__ = ["BUILT_IN", "Field", "Update", "UserUpdate", "find_update"]

BUILT_IN: Final[dict[str, type[Update]]] = {
    kind.name: kind for kind in (Add, Assign, Max, Sgd, AdaGrad, AdaRevision, Adam, Ftrl, Proximal)
}


def find_update(
    update: str | type, settings: Mapping[str, float] | None = None, width: int = 1
) -> Update:
    """Return a table's update function.

    Args:
        update: a built-in name, "module:Class", or a subclass of `Update` or `UserUpdate`.
        settings: its settings by name.
        width: values of a key that a pull returns.

    Raises:
        ConfigError: there is no such update function, or a setting of it is wrong.

    >>> find_update("add", {}, 2).columns
    2
    """
    remedy = f"Built in are {', '.join(BUILT_IN)}; your own is named module:Class."
    kind: object = update
    if isinstance(update, str):
        kind = BUILT_IN.get(update) or import_named(update, "update function", remedy)
    if not (isinstance(kind, type) and issubclass(kind, Update)):
        raise ConfigError(
            f"{update} is no update function.",
            "",
            "A class of your own derives from mpips.store.updates.UserUpdate.",
        )
    return kind(width, settings)
