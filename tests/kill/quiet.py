"""Jobs that make their communicator smaller after a death, while somebody else dies: plans."""

from typing import Final

import numpy as np

from tests.kill.plans import KILL, RIGHT, Plan, Strike

POINTS: Final = {
    "none": (),
    "before": ("take Halt", "sent Drained", "take Drained", "send Shrink"),
    "inside": ("sent Shrink", "take Shrink", "during Shrink", "sent Shrunk", "take Shrunk"),
}
"""Where the second one dies, if any: before the order to shrink is given, or after it."""

SCHEDULERS: Final = ("take Drained", "send Shrink", "sent Shrink", "take Shrunk")
"""What only the scheduler does."""

INSIDE_MS: Final = 20
"""How long a shrink of so few ranks takes, about, where the machine is busy."""


def draw_quiet(seed: int) -> tuple[Plan, str]:
    """Return a plan by which somebody dies, and the point at which somebody else does, if any.

    Checkpoints are kept, so that each job can end right: in place, or by a restart.
    """
    random = np.random.default_rng([seed, 5])
    servers, workers = int(random.integers(3, 5)), int(random.integers(2, 4))
    spares = int(random.integers(0, 2))
    role = str(random.choice(["server", "worker", "spare"] if spares else ["server", "worker"]))
    sizes = {"server": servers, "worker": workers, "spare": spares}
    strike = Strike(KILL, ((role, int(random.integers(sizes[role]))),),
                    float(random.uniform(0.05, 0.5)))
    where = str(random.choice([*POINTS], p=[0.3, 0.3, 0.4]))
    point = str(random.choice(POINTS[where] or [""]))
    node = 0 if point in SCHEDULERS else int(random.integers(1 + sum(sizes.values())))
    # The scheduler sends one to each, its node takes one from each.
    count = int(random.integers(servers)) if point in SCHEDULERS else 0
    count = int(random.integers(INSIDE_MS)) if point == "during Shrink" else count
    # Once one has the order, it cannot be called off.
    where = "inside" if point == "send Shrink" and count else where
    plan = Plan(where, seed, servers, workers, spares, workers, replicas=2, expected=RIGHT,
                strikes=(strike,), every_s=1.0)  # fmt: skip
    return plan, f"{node} {point} {count}" if point else ""
