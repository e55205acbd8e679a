"""Change by plan: what the user orders, and segments that move while nobody needs them to stay."""

from mpips.core.calling import Calling
from mpips.core.machine import Effect
from mpips.core.moving import Move
from mpips.core.relief import Relief, plan_relief
from mpips.core.saving import Saver
from mpips.core.views import Views
from mpips.errors import UsageError
from mpips.wire.messages import Beat


class Steering:
    """Lets views change when the job allows it.

    Args:
        views: of the job.
        calling: the tasks.
        saver: the checkpoints.
        roles: by node; kept as the views say.
        relief_s: how long servers' loads are compared until hot segments move; 0: they never do.
    """

    def __init__(
        self, views: Views, calling: Calling, saver: Saver, roles: dict[int, str], relief_s: float
    ) -> None:
        self._views, self._calling, self._saver = views, calling, saver
        self._roles = roles
        self._relief = Relief(relief_s)

    def begin_anew(self, calling: Calling, roles: dict[int, str]) -> None:
        """Go on from another scheduler's view."""
        self._calling, self._roles = calling, roles

    def tick(self, now: float) -> list[Effect]:
        """Admit copies, and take moves a step further.

        Nothing changes hands while servers do something with what each owns: a task of theirs, or
        their copies of parts of a checkpoint.
        """
        is_busy = self._calling.is_among_servers or self._saver.is_pausing
        assert self._views.view is not None
        if not is_busy and (hot := self._relief.tick(now, self._views.view)) is not None:
            self._views.wishes += plan_relief(self._views.view, *hot)
        effects = self._views.tick(now, not is_busy)
        # Whoever comes or goes by order has its role from this view on.
        self._roles.update(self._views.roles())
        return effects

    def settle(self) -> list[Effect]:
        """Give logical workers to who comes, and take them from who leaves, between two calls."""
        before = self._views.view
        effects = self._views.settle()
        if effects and before is not None and self._views.view is not None:
            self._calling.release(before.actors, self._views.view.actors)
        return effects

    def order(self, name: str, command: str, node: int | None) -> list[Effect]:
        """Follow a user's order, as `mpips.core.orders` says; return what follows, and the answer.

        Raises:
            UsageError: it cannot be followed.
        """
        if self._views.view is None or self._calling.is_over:
            raise UsageError("the job is not running", "", "It forms still, or has done its work.")
        shares = self._relief.shares()
        return self._views.order(name, command, node, self._calling.iterations, shares)

    def note_load(self, source: int, beat: Beat) -> None:
        """Note what a server was asked for."""
        self._relief.note(source, beat.busy, beat.rest)

    def wish(self, move: Move) -> None:
        """Let a segment move, if it can, as soon as it can."""
        self._views.wishes.append(move)
