"""OSDI's server manager: makes the views and tells everybody: after deaths, joins, and by plan."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import msgspec
import numpy as np

from mpips.core.evening import plan_moves
from mpips.core.forming import choose_acceptors
from mpips.core.machine import Answer, Decide, Effect, Report, Send
from mpips.core.membership import (
    Change,
    admit,
    fail_over,
    first_view,
    missing_copies,
    reassign,
)
from mpips.core.moving import (
    Move,
    ask_for_copies,
    dismiss,
    hand_over,
    is_possible,
    is_wanted,
    name_heirs,
    share_logical_workers,
)
from mpips.core.news import tell_of_copies, tell_of_moves
from mpips.core.orders import decide
from mpips.core.spreading import ask_to_join, plan_copies
from mpips.errors import MpipsError, RanksLostError
from mpips.wire.messages import Handed, Joined, NewView
from mpips.wire.types import NOBODY, Member, Table, View, make_epoch
from mpips.wire.voting import Changed

NO_ANSWER: Final = Answer("", "")

EPOCH = make_epoch(1, 0)
"""From one epoch of a proposer to its next."""


class Views:
    """The view of a job, one after the other.

    Args:
        node: who proposes them.
        replicas: copies wanted of each segment, beside its owner's.
        policy: what becomes of dead workers' logical workers; see `membership.fail_over`.
        acceptors: how many nodes store the decisions at most.

    Attributes:
        view: the newest; None before the first.
        tables: as they are cut.
        moved: how many segments have been handed over.
        orders: how many of the user's orders have changed something.
        wishes: moves that are wanted for another reason than to even out.
    """

    def __init__(self, node: int, replicas: int, policy: str, acceptors: int = 1) -> None:
        self.view: View | None = None
        self.tables: Sequence[Table] = ()
        self._node, self._replicas, self._policy = node, replicas, policy
        self._acceptors = acceptors
        # By table and copy: the segments that it has.
        self._joins: dict[tuple[int, int], set[int]] = {}
        self._incomplete_since: float | None = None
        self.moved = self.orders = self._told = 0
        self.wishes: list[Move] = []
        # By table: stopped segments of which all copies are level. The epoch without any moves.
        self._levels: dict[int, set[int]] = {}
        self._settled = 0

    @property
    def is_at_rest(self) -> bool:
        """Return whether there are all the copies that there can be, and nothing moves."""
        if self.view is None or missing_copies(self.view, self._replicas):
            return False
        return not any((part != NOBODY).any() for part in (*self.view.heirs, *self.view.joining))

    @property
    def number(self) -> int:
        """Return the number of the view, as people count them."""
        return self.view.epoch // EPOCH if self.view else 0

    def roles(self) -> dict[int, str]:
        """Return the role of each other node of the view."""
        members = self.view.members if self.view else ()
        return {member.node: member.role for member in members if member.role != "scheduler"}

    def statistics(self) -> dict[str, int]:
        """Return counters, by name."""
        return {"moved_segments": self.moved, "orders": self.orders}

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
        first = first_view(epoch, members, tables, workers, self._replicas, dropped)
        self.view = self._staff(first)
        return self.view

    def go_on(self, now: float, view: View, tables: Sequence[Table]) -> None:
        """Go on from another scheduler's view."""
        self.view = view
        self.tables = [
            msgspec.structs.replace(table, segments=len(owners))
            for table, owners in zip(tables, view.owners, strict=True)
        ]
        if missing_copies(view, self._replicas):
            self._incomplete_since = now

    def fail_over(self, now: float, dead: Collection[int]) -> Change:
        """Return the view without some nodes, which is the newest once it is announced."""
        assert self.view is not None
        # What has joined in time is in sync; what owners of before have said counts no more.
        if self._joins:
            self.view, self._joins = admit(self.view, self.view.epoch, self._joins), {}
        self._levels = {}
        if self._incomplete_since is None:
            self._incomplete_since = now
        change = fail_over(self.view, self._next(), dead, self._policy)
        return replace(change, view=self._staff(change.view))

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
        table, view = message.table, self.view
        # Whoever was asked once more since that was said may have dropped what it had.
        latest = np.maximum(view.since[table], view.asked[table])
        is_told = (view.owners[table] == source) & (message.epoch >= latest)
        segments = [segment for segment in message.segments if is_told[segment]]
        if segments:
            self._joins.setdefault((message.table, message.copy), set()).update(segments)

    def note_handed(self, source: int, message: Handed) -> None:
        """Note the segments that their owner has stopped, and that are the same on all copies."""
        assert self.view is not None
        owners, stops = self.view.owners[message.table], self.view.stops[message.table]
        level = {s for s in message.segments if owners[s] == source and stops[s]}
        # What was said of a move that was called off does not count for the next one.
        level = {s for s in level if message.epoch >= stops[s]}
        if level:
            self._levels.setdefault(message.table, set()).update(level)

    def tick(self, now: float, may_move: bool = True) -> list[Effect]:
        """Put the copies that have joined in sync, hand segments over, and let others move.

        Args:
            now: seconds.
            may_move: whether segments may change hands: not while something is done with what
                each server owns.
        """
        assert self.view is not None
        view, epoch = self.view, self._next()
        view = admit(view, epoch, self._joins) if self._joins else view
        self._joins = {}
        view = self._move(view, epoch) if may_move else view
        if view is self.view:
            return []
        effects = self.announce(view)
        if not missing_copies(view, self._replicas) and self._incomplete_since is not None:
            seconds = now - self._incomplete_since
            self._incomplete_since = None
            effects.append(tell_of_copies(seconds))
        if self.moved > self._told and not any((part != NOBODY).any() for part in view.heirs):
            effects.append(tell_of_moves(self.moved - self._told))
            self._told = self.moved
        return effects

    def _move(self, view: View, epoch: int) -> View:
        """Return the view in which moves have gone a step further."""
        self.moved += sum(map(len, self._levels.values()))
        view = hand_over(view, epoch, self._levels)
        self._levels = {}
        if view.epoch == self._settled and not self.wishes:
            return view
        view = dismiss(ask_for_copies(view, epoch), epoch)
        view = name_heirs(view, epoch, plan_moves(view))
        for move in self.wishes:
            view = name_heirs(view, epoch, [move] if is_possible(view, move) else [])
        self.wishes = [move for move in self.wishes if is_wanted(view, move)]
        view = ask_to_join(view, epoch, plan_copies(view))
        self._settled = view.epoch
        return view

    def order(
        self,
        name: str,
        command: str,
        node: int | None,
        iterations: int,
        shares: Mapping[int, float] = MappingProxyType({}),
    ) -> list[Effect]:
        """Follow a user's order; the answer comes when what follows is decided.

        Args:
            name: of the order.
            command: as of `orders.decide`, as are the others.
            node: whom it is about.
            iterations: how far the job is.
            shares: of the load, by server.

        Raises:
            UsageError: it cannot be followed.
        """
        assert self.view is not None
        view, text = decide(
            self.view, self._next(), command, node, self._replicas, iterations, shares
        )
        answer = Answer(name, text)
        if view is self.view:
            return [answer]
        self.orders += 1
        return [*self.announce(view, answer), Report("order", {"text": text}), answer]

    def settle(self) -> list[Effect]:
        """Give logical workers to who is new, and take them from who leaves, between two calls."""
        assert self.view is not None
        epoch = self._next()
        view = dismiss(share_logical_workers(self.view, epoch), epoch)
        return [] if view is self.view else self.announce(view)

    def reassign(self, actors: Mapping[int, int]) -> list[Effect]:
        """Have other nodes act for some logical workers."""
        assert self.view is not None
        return self.announce(reassign(self.view, self._next(), actors))

    def announce(self, view: View, answer: Answer = NO_ANSWER) -> list[Effect]:
        """Decide a view, then tell all nodes, servers first: the others will ask them.

        Args:
            view: the newest from now on.
            answer: to the user's order that it follows.
        """
        self.view = view
        members = sorted(view.members, key=lambda member: member.role != "server")
        nodes = [member.node for member in members if member.role != "scheduler"]
        news = [Send(node, NewView(epoch=view.epoch, view=view)) for node in nodes]
        return [Decide(Changed(view, answer.order, answer.text)), *news]

    def _staff(self, view: View) -> View:
        """Return a view with its scheduler, and with acceptors among its members."""
        before = self.view.acceptors if self.view else ()
        acceptors = choose_acceptors(view.members, self._node, before, self._acceptors)
        return msgspec.structs.replace(view, scheduler=self._node, acceptors=acceptors)

    def _next(self) -> int:
        """Return the next epoch, which is nobody else's."""
        assert self.view is not None
        return make_epoch(self.view.epoch // EPOCH + 1, self._node)
