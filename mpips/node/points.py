"""Named points of the protocol at which a rank can be made to die: for tests of recovery.

A point is "take NAME" and "taken NAME", before and after a message of that name is taken, or
"send NAME" and "sent NAME", before and after one is handed to the transport. "at STEP" is a step
of writing a checkpoint or of an order (see `mpips.files.steps`), and "during NAME" is a time after
a message is taken, whatever the rank does then.
"""

import os
import signal
import threading
from collections.abc import Callable
from typing import Final

from mpips.errors import ConfigError
from mpips.files.steps import ORDER_STEPS, STEPS
from mpips.wire.messages import MESSAGES, Message
from mpips.wire.quiet import QUIET
from mpips.wire.voting import VOTES

VARIABLE: Final = "MPIPS_DIE_AT"
ACTIONS: Final = ("take", "taken", "send", "sent")
AT: Final = "at"
DURING: Final = "during"
STOP: Final = "stop"
NAMES: Final = tuple(kind.__name__ for kind in (*MESSAGES, *VOTES, *QUIET))

Reach = Callable[[str, Message | str], None]
"""Called at each point: the action, and the message, or the name of the step."""


def die_at(text: str, node: int) -> Reach | None:
    """Return what has this process killed at the point that a text names; None for other nodes.

    Args:
        text: node, action, message or step, and how many of them are let pass: `"4 sent Replicate
            10"`, `"0 at flushed 2"`; or how many milliseconds later: `"1 during Shrink 5"`. With
            `stop` behind it, the rank is stopped there, and lives.
        node: this node.

    Raises:
        ConfigError: the text names no point.
    """
    words = text.split()
    number = signal.SIGSTOP if words[4:] == [STOP] else signal.SIGKILL
    is_point = len(words) == (5 if number == signal.SIGSTOP else 4) and (
        (words[1] in (*ACTIONS, DURING) and words[2] in NAMES)
        or (words[1] == AT and words[2] in (*STEPS, *ORDER_STEPS))
    )
    if not is_point or not (words[0] + words[3]).isdigit():
        remedy = (
            f"It reads NODE {'|'.join((*ACTIONS, DURING))} MESSAGE COUNT, as in 4 sent Replicate"
            f" 10, or NODE {AT} {'|'.join((*STEPS, *ORDER_STEPS))} COUNT, and perhaps {STOP}."
        )
        raise ConfigError(f"{VARIABLE}={text} names no point", "", remedy)
    if int(words[0]) != node:
        return None
    left = int(words[3])

    def reach(action: str, subject: Message | str) -> None:
        nonlocal left
        name = subject if isinstance(subject, str) else type(subject).__name__
        if [action, words[1]] == ["take", DURING] and name == words[2]:
            threading.Timer(left / 1000, os.kill, (os.getpid(), number)).start()
        if [action, name] != words[1:3]:
            return
        if left == 0:
            os.kill(os.getpid(), number)
        left -= 1

    return reach
