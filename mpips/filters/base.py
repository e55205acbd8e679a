"""What every filter can do."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from mpips.wire.messages import Coding, Pull, Push, Values

Filtered = Push | Pull | Values


@dataclass(slots=True)
class Saved:
    """Counts the bytes of the arrays that a filter saw, before and after."""

    bytes_before: int = 0
    bytes_after: int = 0


class Filter(ABC):
    """One stage of a chain; `decode` undoes `encode`, up to the loss that its class states.

    Attributes:
        name: what messages and the config call it.
        saved: its byte counts.
    """

    name: str

    def __init__(self) -> None:
        self.saved = Saved()

    @abstractmethod
    def encode(self, message: Filtered) -> Filtered:
        """Return the message to send; `message` itself if there is nothing to gain."""

    @abstractmethod
    def decode(self, message: Filtered, coding: Coding) -> Filtered:
        """Return the message with the array that `coding` names as it was."""
