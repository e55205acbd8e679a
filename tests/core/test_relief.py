"""Hot segments: counted by servers, told in short, and moved only where that helps for long."""

from collections import Counter

import numpy as np
import pytest

from mpips.core import relief
from mpips.core.evening import plan_moves
from mpips.core.load import SAMPLE, TOLD_MAX, Load
from mpips.core.membership import first_view
from mpips.core.moving import Move, hand_over, name_heirs
from mpips.core.orders import decide
from mpips.core.relief import HOT_RATIO, KEYS_A_SECOND, Relief, plan_relief
from mpips.wire.messages import Pull
from mpips.wire.slices import Slices
from mpips.wire.types import Table, View, make_epoch
from tests.core.test_moving import joined
from tests.core.views import after, make_members

WINDOW_S = 10.0
MANY = int(10 * KEYS_A_SECOND * WINDOW_S)


def make(servers: int = 3, segments: int = 48, replicas: int = 0) -> View:
    """Return a view of a table whose segments are shared by the ring."""
    table = Table(name="w", size=10**6, segments=segments)
    return first_view(make_epoch(1, 0), make_members(servers), [table], 2, replicas)


def ask(load: Load, first: int, many: int, keys: int, times: int = SAMPLE) -> None:
    """Ask for keys of some segments."""
    slices = Slices(10, [(first, many, 0, 0, keys)])
    for _ in range(times):
        load.note(Pull(table=0, request=1, keys=None, slices=slices))


def test_keys_are_counted_by_segment_however_many_a_message_spans() -> None:
    load = Load([8, 3])
    ask(load, 1, 1, 30)
    ask(load, 2, 4, 400)
    ask(load, 0, 8, 80)
    told, rest = load.take()
    assert {segment: keys / SAMPLE for _, segment, keys in told} == {
        0: 10, 1: 40, 2: 110, 3: 110, 4: 110, 5: 110, 6: 10, 7: 10}
    assert rest == 0
    # It begins anew.
    assert load.take() == ([], 0)


def test_range_of_a_sparse_table_is_no_load_beyond_measure() -> None:
    load = Load([4])
    ask(load, 0, 4, 2**64)
    assert load.take() == ([(0, segment, SAMPLE) for segment in range(4)], 0)


def test_the_hottest_are_told_by_name_and_the_others_together() -> None:
    load = Load([3 * TOLD_MAX])
    for segment in range(3 * TOLD_MAX):
        ask(load, segment, 1, segment + 1)
    told, rest = load.take()
    counts = [keys // SAMPLE for _, _, keys in told]
    assert counts == list(range(3 * TOLD_MAX, 2 * TOLD_MAX, -1))
    assert sum(counts) + rest // SAMPLE == sum(range(3 * TOLD_MAX + 1))


class Job:
    """A view whose servers tell their loads, and the moves that follow."""

    def __init__(self, view: View, loads: dict[int, int]) -> None:
        self.view, self.loads = view, loads
        self.relief, self.now = Relief(WINDOW_S), 0.0
        self.settled = 0

    def tell(self) -> None:
        """Let each server tell what it was asked for in a second."""
        by_owner: dict[int, list[tuple[int, int, int]]] = {}
        for segment, keys in self.loads.items():
            owner = int(self.view.owners[0][segment])
            by_owner.setdefault(owner, []).append((0, segment, int(keys)))
        for node, told in by_owner.items():
            told.sort(key=lambda one: -one[2])
            self.relief.note(node, told[:TOLD_MAX], sum(n for _, _, n in told[TOLD_MAX:]))

    def run(self, seconds: int) -> list[Move]:
        """Let time pass, make all moves that are planned, and return them."""
        made: list[Move] = []
        for _ in range(seconds):
            self.now += 1.0
            self.tell()
            hot = self.relief.tick(self.now, self.view)
            moves = [] if hot is None else plan_relief(self.view, *hot)
            if not moves and self.view.epoch != self.settled:
                moves, self.settled = plan_moves(self.view), self.view.epoch
            if moves:
                self.move(moves)
                made += moves
        return made

    def move(self, moves: list[Move]) -> None:
        """Hand segments over."""
        view = name_heirs(self.view, after(self.view), moves)
        for one in moves:
            if not view.stops[0][one.segment]:
                view = joined(view, 0, one.segment, one.node)
        self.view = hand_over(view, after(view), {0: [one.segment for one in moves]})

    def ratio(self) -> float:
        """Return how many times the mean load the busiest server has."""
        total = Counter(dict.fromkeys(self.view.nodes("server"), 0))
        for segment, keys in self.loads.items():
            total[int(self.view.owners[0][segment])] += keys
        return max(total.values()) * len(total) / sum(total.values())


def skewed(view: View, factor: int) -> dict[int, int]:
    """Return loads of all segments, larger by a factor for those of one server."""
    hot = view.owners[0] == view.nodes("server")[0]
    base = MANY // int(WINDOW_S) // 20
    return {segment: base * (factor if hot[segment] else 1) for segment in range(len(hot))}


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [0, 1])
@pytest.mark.parametrize(("servers", "segments"), [(2, 16), (3, 24), (3, 192), (5, 320)])
def test_hot_server_is_relieved_and_nothing_goes_to_and_fro(
    servers: int, segments: int, replicas: int
) -> None:
    view = make(servers, segments, replicas)
    job = Job(view, skewed(view, 8))
    before = job.ratio()
    assert before > HOT_RATIO
    moves = job.run(400)
    assert job.ratio() < max(HOT_RATIO, 0.75 * before)
    # No segment moves twice, and in the end nothing moves any more.
    assert max(Counter((one.table, one.segment) for one in moves).values()) == 1
    assert job.run(100) == []
    assert plan_moves(job.view) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_drawn_loads_come_to_rest(seed: int) -> None:
    rng = np.random.default_rng([seed, 21])
    view = make(int(rng.integers(2, 7)), int(rng.integers(8, 300)))
    count = len(view.owners[0])
    loads = rng.zipf(1.3, count).clip(max=1000) * KEYS_A_SECOND // 10
    job = Job(view, dict(enumerate(loads.tolist())))
    before = job.ratio()
    moves = job.run(600)
    assert job.run(100) == []
    assert job.ratio() <= before
    # Hot ones may go on once those before them have found their places.
    assert max(Counter(one.segment for one in moves).values(), default=0) <= 2


def test_burst_moves_nothing() -> None:
    view = make()
    job = Job(view, skewed(view, 1))
    assert job.run(51) == []
    # It fills one of the times in which loads are added up.
    job.loads = skewed(view, 20)
    assert job.run(9) == []
    job.loads = skewed(view, 1)
    assert job.run(50) == []


def test_busiest_that_changes_moves_nothing() -> None:
    view = make()
    job = Job(view, {})
    nodes = view.nodes("server")
    for turn in range(12):
        hot = view.owners[0] == nodes[turn % len(nodes)]
        job.loads = {s: MANY if hot[s] else 1 for s in range(len(hot))}
        assert job.run(int(WINDOW_S)) == []


def test_one_hot_segment_that_would_only_change_places_stays() -> None:
    view = make()
    job = Job(view, {5: MANY, 6: 1, 7: 1})
    assert job.run(100) == []


def test_idle_job_moves_nothing() -> None:
    view = make()
    job = Job(view, {s: n // 1000 for s, n in skewed(view, 8).items()})
    assert job.ratio() > HOT_RATIO
    assert job.run(200) == []


def test_time_begins_anew_with_each_view() -> None:
    view = make()
    job = Job(view, skewed(view, 8))
    for _ in range(20):
        assert job.run(15) == []
        job.view = name_heirs(job.view, after(job.view), [Move(0, 0, view.nodes("server")[-1])])
        job.view = hand_over(job.view, after(job.view), {})
        # A move is called off, for some reason.
        job.view.heirs[0][0] = -1
        job.view.asked[0][0] = 0


def test_nothing_moves_where_that_is_not_wanted() -> None:
    view = make()
    job = Job(view, skewed(view, 8))
    job.relief = Relief(0.0)
    assert job.run(200) == []


def test_status_tells_shares_of_the_load() -> None:
    view = make(servers=2, segments=16)
    job = Job(view, skewed(view, 9))
    job.relief = Relief(WINDOW_S)
    for second in range(12):
        job.tell()
        job.relief.tick(float(second), view)
    shares = job.relief.shares()
    assert sum(shares.values()) == pytest.approx(1.0)
    _, text = decide(view, 2, "status", None, 0, 3, shares)
    cells = {int(line.split()[0]): line.split() for line in text.splitlines()[2:-1]}
    head = text.splitlines()[1].split()
    for node, share in shares.items():
        assert cells[node][head.index("load")] == f"{share:.0%}"
    assert cells[0][head.index("load")] == "-"


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["no patience", "no look at numbers", "too much at once"])
def test_broken_planner_moves_to_and_fro(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if broken == "no patience":
        monkeypatch.setattr(relief.Relief, "_find_hot", lambda self, view: self._hot_or(view))
        monkeypatch.setattr(relief.Relief, "_hot_or", eager, raising=False)
        with pytest.raises(AssertionError):
            test_burst_moves_nothing()
    elif broken == "no look at numbers":
        monkeypatch.setattr(relief._Board, "would_be_uneven", lambda *others: False)
        with pytest.raises(AssertionError):
            test_hot_server_is_relieved_and_nothing_goes_to_and_fro(2, 16, 0)
    else:
        find = relief._Board.find_hot
        monkeypatch.setattr(relief._Board, "find_hot",
                            lambda self, node, most: find(self, node, 1e18))
        with pytest.raises(AssertionError):
            test_one_hot_segment_that_would_only_change_places_stays()


FIND_HOT = Relief._find_hot


def eager(self: Relief, view: View) -> int:
    """Find the busiest, as if it had been so before."""
    self._hot = FIND_HOT(self, view)
    return self._hot
