"""An app's plan under way, with all that it was sent, so that it can be brought there again."""

from collections.abc import Iterator, Sequence
from typing import Any

from mpips.core.machine import Report
from mpips.core.saving import Resume
from mpips.core.task import Plan, SetDelay, Task
from mpips.errors import AppError
from mpips.wire.messages import Takeover


class Planning:
    """Runs a plan from task to task.

    A plan is deterministic: sent the same results, it asks for the same tasks.

    Attributes:
        results: what it was sent, task by task.
        task: what it wants done now; None when it has ended.
        summary: what it has returned.
    """

    def __init__(self, plan: Plan) -> None:
        self.results: list[Any] = []
        self.task: Task | None = None
        self.summary: dict[str, Any] = {}
        self._plan = plan

    def begin(self, results: Sequence[Any] = ()) -> Iterator[Report | SetDelay]:
        """Begin, and send it the results of a run before; yield what it says on the way.

        Of what it said in that run only delays are said again.
        """
        said = [self._run(None), *(self.go_on(result) for result in results)]
        for number, part in enumerate(said):
            assert number == 0 or self.task is not None, "more results than the plan has tasks"
            yield from (one for one in part if isinstance(one, SetDelay) or not results)

    def go_on(self, results: Any) -> Iterator[Report | SetDelay]:
        """Send the results of its task, and yield what it says until the next one, or its end."""
        self.results.append(results)
        yield from self._run(results)

    def point(
        self, path: str, takeovers: dict[int, Takeover], dropped: Sequence[int]
    ) -> Resume:
        """Return where a job goes on that is resumed here.

        Args:
            path: of the checkpoint.
            takeovers: what whoever acts for each logical worker needs.
            dropped: the logical workers that were left out.
        """
        results = list(self.results)
        return Resume(path=path, tasks=len(results), results=results, takeovers=takeovers,
                      dropped=list(dropped))  # fmt: skip

    def _run(self, results: Any) -> Iterator[Report | SetDelay]:
        self.task = None
        try:
            asked: Any = next(self._plan) if results is None else self._plan.send(results)
            while not isinstance(asked, Task):
                if not isinstance(asked, Report | SetDelay):
                    what = f"the plan yields {asked!r}, which is no Task"
                    raise AppError(what, "", "It yields Task, Report or SetDelay.")
                yield asked
                asked = self._plan.send(None)
            self.task = asked
        except StopIteration as stop:
            self.summary = stop.value or {}
