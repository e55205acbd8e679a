"""The messages by which all traffic is stopped for a moment, to make the communicator smaller.

None of them is counted among the frames of which `Drained` tells, and none is held back.
"""

from mpips.wire.messages import Message


class Halt(Message, frozen=True, tag=50):
    """Scheduler to all: send nothing but answers to this, and say what you have sent and got.

    `attempt` counts how often that is asked: frames may still be on their way.
    """

    number: int
    attempt: int


class Drained(Message, frozen=True, tag=51):
    """Node to scheduler: I send nothing; by node, the frames that I have sent to it, and got of it.

    They are counted since the start of this communicator. `dead` is whom MPI calls dead.
    """

    number: int
    attempt: int
    sent: dict[int, int]
    received: dict[int, int]
    dead: list[int]


class GoOn(Message, frozen=True, tag=52):
    """Scheduler to all: it is called off; send as before."""

    number: int


class Shrink(Message, frozen=True, tag=53):
    """Scheduler to all: go on, all together, on a communicator without these dead."""

    number: int
    dead: list[int]


class Shrunk(Message, frozen=True, tag=54):
    """Node to scheduler: this comes over the new communicator."""

    number: int


QUIET = (Halt, Drained, GoOn, Shrink, Shrunk)
