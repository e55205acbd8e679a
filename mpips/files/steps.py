"""Named steps at which tests end the process: whatever a kill leaves on the disk must be readable.

A step is reached by calling `reach` with its name. In an ordinary run that does nothing.
"""

from collections.abc import Callable

STEPS = (
    "made",
    "opened",
    "item",
    "filled",
    "flushed",
    "renamed",
    "settled",
    "pruning",
    "unmarked",
    "removed",
)
"""A checkpoint's folder is made; a temporary file is there, has an item more, is filled, is on the
disk, has its name, which is on the disk; an old checkpoint will go, has no manifest, is gone."""

ORDER_STEPS = ("asked", "answering")
"""A user's order is taken; what follows is decided, and it will be answered."""

_hooks: list[Callable[[str], None]] = []


def reach(step: str) -> None:
    """Tell whoever watches that a step is reached."""
    for hook in _hooks:
        hook(step)


def watch(hook: Callable[[str], None]) -> None:
    """Have a function called with the name of each step that this process reaches from now on."""
    _hooks.append(hook)


def unwatch(hook: Callable[[str], None]) -> None:
    """Call a function no more."""
    _hooks.remove(hook)
