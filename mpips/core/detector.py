"""Failure detection by silence: who has not been heard of for too long is suspected.

MPI tells of killed ranks, but never of stopped or hung ones. Such a rank is known by its silence
alone, and silence is measured by a scheduler that may itself be stopped or starved of its core. A
detector that did not know of its own pauses would then suspect everybody.
"""

from collections.abc import Iterable
from typing import Final

PAUSE_S_MAX: Final = 0.5
PAUSES_IN_A_SILENCE: Final = 8


class Detector:
    """Suspects nodes that are silent for too long on the scheduler's own clock.

    That clock stands still while the scheduler is paused: between two ticks it goes on by
    `PAUSE_S_MAX` at most, or an eighth of the silence if that is less. All deadlines are thus
    shifted by what a longer gap has too much. Who calls `tick` less often suspects later, and
    nobody wrongly.

    A node is never suspected if signs of its life are taken less than `silence_s` apart on that
    clock: beats must come so often that one pause and a turn or two of the event loop fit in.

    A suspicion is final, as a view may already leave the node behind: it is told once, and what
    is heard of the node later counts for nothing.

    Args:
        nodes: who is watched; their silence begins with the first tick.
        silence_s: seconds of silence after which a node is suspected; `inf`: never.

    >>> detector = Detector([1, 2], silence_s=10)
    >>> for now in (step / 4 for step in range(240)):
    ...     detector.heard(now, 1)
    ...     for node in detector.tick(now):
    ...         print(f"node {node} at {now} s")
    node 2 at 10.25 s
    >>> detector.tick(1000), detector.tick(1000.25)
    ([], [])
    """

    def __init__(self, nodes: Iterable[int], silence_s: float) -> None:
        assert silence_s > 0, silence_s
        self._silence_s = silence_s
        self._pause_s = min(PAUSE_S_MAX, silence_s / PAUSES_IN_A_SILENCE)
        self._ticked: float | None = None
        self._awake = 0.0
        # When each was last heard of, on the scheduler's own clock; who is silent longest first.
        self._heard = dict.fromkeys(nodes, 0.0)

    def add(self, now: float, node: int) -> None:
        """Watch a node; its silence begins at `now` seconds, also if it was watched before."""
        self._heard.pop(node, None)
        self._heard[node] = self._own_clock(now)

    def remove(self, node: int) -> None:
        """Watch a node no more, if it is watched: it has left, or its death is known."""
        self._heard.pop(node, None)

    def heard(self, now: float, node: int) -> None:
        """Note that a node was alive at `now` seconds: a message of it came, or of its pulse.

        Who is not watched is ignored: late messages of the dead do not bring them back.
        """
        if node in self._heard:
            self.add(now, node)

    def tick(self, now: float) -> list[int]:
        """Return the nodes newly suspected, who was silent longest first; they are forgotten.

        Args:
            now: seconds that never go back, in all calls.

        Cost: O(suspects), however many nodes are watched.
        """
        self._awake, self._ticked = self._own_clock(now), now
        suspects = []
        for node, heard in self._heard.items():
            if self._awake - heard <= self._silence_s:
                break
            suspects.append(node)
        for node in suspects:
            del self._heard[node]
        return suspects

    def _own_clock(self, now: float) -> float:
        """Return seconds without the pauses since the first tick."""
        if self._ticked is None:
            return 0.0
        return self._awake + min(now - self._ticked, self._pause_s)
