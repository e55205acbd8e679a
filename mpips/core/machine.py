"""What all machines have in common: steps in, effects out, and a closed set of effects."""

from abc import ABC, abstractmethod
from collections import deque
from typing import Any, Final

import msgspec

from mpips.wire.messages import Message
from mpips.wire.voting import Entry

STORY_ENTRIES_MAX: Final = 200


class Send(msgspec.Struct, frozen=True, array_like=True):
    """Effect: hand `message` to the transport for node `dest`."""

    dest: int
    message: Message


class Finished(msgspec.Struct, frozen=True, array_like=True):
    """Effect: the task `timestamp` of this node's client is finished, with this result.

    `clocks` says which pushes are in it, if that was asked for: by logical worker, key ranges and
    clocks.
    """

    timestamp: int
    result: Any
    clocks: list[list[tuple[int, int, int]]] | None = None


class Report(msgspec.Struct, frozen=True, array_like=True):
    """Effect: tell the user facts about the running job."""

    kind: str
    facts: dict[str, Any]


class End(msgspec.Struct, frozen=True, array_like=True):
    """Effect: this node's part in the job is over; leave with this exit code."""

    exit_code: int


class Prepare(msgspec.Struct, frozen=True, array_like=True):
    """Effect: make room for a checkpoint, and tell the machine where."""


class Keep(msgspec.Struct, frozen=True, array_like=True):
    """Effect: a checkpoint is whole once what is in here, a `saving.Resume`, is on disk too."""

    parts: list[dict[str, Any]]
    resume: Any


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """Effect: answer a user's order, which is known by its name."""

    order: str
    text: str


class Decide(msgspec.Struct, frozen=True, array_like=True):
    """Effect: what follows happens once a majority has stored this; see `core/gate.py`."""

    entry: Entry


Effect = Send | Finished | Report | End | Prepare | Keep | Answer | Decide


class Machine(ABC):
    """A protocol role as a pure state machine.

    `step` and `tick` take the time and what came in, change the state, and return what the driver
    shall do. They never block, never log, read no clock and draw no random number, so the same
    inputs give the same effects. A message that breaks the protocol raises `ProtocolError`.
    """

    def __init__(self, node: int) -> None:
        self.node = node
        self._story: deque[tuple[float, str, str]] = deque(maxlen=STORY_ENTRIES_MAX)

    @abstractmethod
    def step(self, now: float, source: int, message: Message) -> list[Effect]:
        """Take one message from node `source` at `now` seconds and return the effects."""

    def tick(self, now: float) -> list[Effect]:
        """Return the effects of time having come to `now` seconds."""
        return []

    @abstractmethod
    def validate(self) -> None:
        """Assert all invariants; tests call it after every step."""

    @abstractmethod
    def statistics(self) -> dict[str, int]:
        """Return counters, by name."""

    def tell(self, now: float, name: str, what: str) -> None:
        """Add a line about `name` to the bounded story."""
        self._story.append((now, name, what))

    def story(self, name: str = "") -> list[str]:
        """Return the last lines about `name`, or all."""
        return [f"{t:.6f} {n}: {w}" for t, n, w in self._story if name in ("", n)]
