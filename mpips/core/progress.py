"""What workers tell of their progress while calls are running."""

from mpips.wire.messages import Progress


class Latest:
    """The last that each logical worker has told."""

    def __init__(self) -> None:
        self._told: dict[int, tuple[int, Progress]] = {}

    def note(self, source: int, message: Progress) -> None:
        """Take what a node tells; whoever takes over counts from the beginning."""
        last, latest = self._told.get(message.worker, (source, None))
        if latest is None or source != last or message.number > latest.number:
            self._told[message.worker] = source, message

    def total(self) -> dict[str, float]:
        """Return the latest facts, summed."""
        total: dict[str, float] = {}
        for _, latest in self._told.values():
            for name, value in latest.facts.items():
                total[name] = total.get(name, 0.0) + value
        return total
