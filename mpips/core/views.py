"""OSDI's server manager: makes the views and tells everybody, after deaths and when copies join."""

from collections.abc import Collection, Mapping, Sequence

from mpips.core.machine import Effect, Send
from mpips.core.membership import (
    Change,
    admit,
    fail_over,
    first_view,
    missing_copies,
    reassign,
)
from mpips.core.news import tell_of_copies
from mpips.errors import MpipsError, RanksLostError
from mpips.wire.messages import Joined, NewView
from mpips.wire.types import NOBODY, Member, Table, View, make_epoch

EPOCH = make_epoch(1, 0)
"""From one epoch of a proposer to its next."""


class Views:
    """The view of a job, one after the other.

    Args:
        node: who proposes them.
        replicas: copies wanted of each segment, beside its owner's.
        policy: what becomes of dead workers' logical workers; see `membership.fail_over`.

    Attributes:
        view: the newest; None before the first.
        tables: as they are cut.
        has_joined: whether a copy waits to be admitted.
    """

    def __init__(self, node: int, replicas: int, policy: str) -> None:
        self.view: View | None = None
        self.tables: Sequence[Table] = ()
        self._node, self._replicas, self._policy = node, replicas, policy
        # By table and copy: the segments that it has.
        self._joins: dict[tuple[int, int], set[int]] = {}
        self._incomplete_since: float | None = None

    @property
    def has_joined(self) -> bool:
        """Return whether a copy waits to be admitted."""
        return bool(self._joins)

    @property
    def number(self) -> int:
        """Return the number of the view, as people count them."""
        return self.view.epoch // EPOCH if self.view else 0

    @property
    def dropped(self) -> list[int]:
        """Return the logical workers that nobody acts for any more."""
        actors = self.view.actors if self.view else ()
        return [worker for worker, node in enumerate(actors) if node == NOBODY]

    def begin(
        self,
        members: Sequence[Member],
        tables: Sequence[Table],
        workers: int,
        dropped: Collection[int] = (),
    ) -> View:
        """Make the first view, for so many logical workers, some of which are left out."""
        self.tables = tables
        epoch = make_epoch(1, self._node)
        self.view = first_view(epoch, members, tables, workers, self._replicas, dropped)
        return self.view

    def fail_over(self, now: float, dead: Collection[int]) -> Change:
        """Return the view without some nodes, which is the newest once it is announced."""
        assert self.view is not None
        # What has joined in time is in sync; what owners of before have said counts no more.
        if self._joins:
            self.view, self._joins = admit(self.view, self.view.epoch, self._joins), {}
        if self._incomplete_since is None:
            self._incomplete_since = now
        return fail_over(self.view, self._next(), dead, self._policy)

    def find_loss(self, change: Change, names: Sequence[str]) -> MpipsError | None:
        """Return the error that ends the job if not all that it needs is left."""
        died = ", ".join(names)
        if change.lost:
            held = {t: [s for table, s in change.lost if table == t] for t, _ in change.lost}
            where = [
                f"table {self.tables[table].name}: {len(segments)} segments, the first with the"
                f" keys [{', '.join(map(str, self.tables[table].segment_range(segments[0])))})"
                for table, segments in held.items()
            ]
            what = f"all copies of a part of the model died: {died}"
            remedy = "Run again; more copies survive more deaths: --set replicas=2."
            return RanksLostError(what, "\n".join(where), remedy)
        if all(actor == NOBODY for actor in change.view.actors):
            return RanksLostError(f"no worker is left: {died} died", "", "Run again.")
        return None

    def note_joined(self, source: int, message: Joined) -> None:
        """Note the segments that a copy has, if their owner says so."""
        assert self.view is not None
        owners, since = self.view.owners[message.table], self.view.since[message.table]
        told = message.segments
        segments = [s for s in told if owners[s] == source and message.epoch >= since[s]]
        if segments:
            self._joins.setdefault((message.table, message.copy), set()).update(segments)

    def admit(self, now: float) -> list[Effect]:
        """Put the copies that have joined in sync."""
        assert self.view is not None
        effects = self.announce(admit(self.view, self._next(), self._joins))
        self._joins = {}
        if not missing_copies(self.view, self._replicas) and self._incomplete_since is not None:
            seconds = now - self._incomplete_since
            self._incomplete_since = None
            effects.append(tell_of_copies(seconds))
        return effects

    def reassign(self, actors: Mapping[int, int]) -> list[Effect]:
        """Have other nodes act for some logical workers."""
        assert self.view is not None
        return self.announce(reassign(self.view, self._next(), actors))

    def announce(self, view: View) -> list[Effect]:
        """Tell all nodes of a view, servers first, since the others will send them requests."""
        self.view = view
        members = sorted(view.members, key=lambda member: member.role != "server")
        nodes = [member.node for member in members if member.node != self._node]
        return [Send(node, NewView(epoch=view.epoch, view=view)) for node in nodes]

    def _next(self) -> int:
        assert self.view is not None
        return self.view.epoch + EPOCH
