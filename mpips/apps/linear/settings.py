"""The settings of logistic regression, for all of its solvers."""

from typing import Annotated, Literal

import msgspec

from mpips.config import Section

Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegativeCount = Annotated[int, msgspec.Meta(ge=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Block = Annotated[int, msgspec.Meta(ge=1, le=4096)]


class Settings(Section, frozen=True, kw_only=True):
    """The section [model] where `kind` is "linear".

    The objective is the sum over the rows of log(1 + exp(-y x w)), plus `l1` |w|_1.

    Attributes:
        solver: "exact": blocks with their whole Hessian, few steps, for every kind of data;
            "diagonal": the block proximal gradient method of Li et al. (NIPS 2014), many cheap
            steps; "delayed": plain proximal gradient steps of blocks, with `sync.max_delay` of them
            under way; "ftrl": streams over the rows once or a few times, approximate;
            "local-ftrl": the same, but the workers take the steps, row by row, which is faster;
            "adagrad": streams too, hardly any weight is zero; "adarevision": the same, revising
            its steps where gradients come late: for many workers.
        l1: the weight of |w|_1. Larger: fewer nonzero weights (adagrad, adarevision: smaller
            ones; rare columns feel little of it).
        tolerance: exact, diagonal: stop when the relative duality gap is as small (where l1 is 0:
            the largest gradient, relative to the first). The objective itself is then nearer to
            the optimum by orders of magnitude.
        passes: exact, diagonal: stop after as many passes over the blocks; 0: 1000. Streams:
            passes over the rows; 0: 1.
        block: exact: most features of a block. If all active features fit into one, steps are
            few, and the last of them are Newton's; too small: many more steps, above all where
            features depend on each other across blocks, as the categories of a field do. Each
            worker pushes block^2 / 2 numbers in each step.
        blocks: delayed: number of blocks, equal ranges of columns; 0: four for each nonzero of a
            mean row, as in the authors' code.
        step: delayed: "bound": as long as converges for the delay; "fixed": as if there were none.
        alpha: streams: length of a step. "adarevision" wants and bears longer ones: on a9a 0.3
            is best for it, 0.1 for the others.
        beta: streams: keeps the first steps short; above 0 for adagrad and adarevision.
        l2: ftrl, local-ftrl: the weight of |w|^2 / 2.
        minibatch: streams: rows that a worker computes with between a pull and a push; 0: 100; for
            local-ftrl 4000 of one worker alone, and 1000 of all logical workers together.
    """

    solver: Literal[
        "exact", "diagonal", "delayed", "ftrl", "local-ftrl", "adagrad", "adarevision"
    ] = "exact"
    l1: NotNegative = 1.0
    tolerance: Positive = 1e-6
    passes: NotNegativeCount = 0
    block: Block = 1024
    blocks: NotNegativeCount = 0
    step: Literal["bound", "fixed"] = "bound"
    alpha: Positive = 0.1
    beta: NotNegative = 1.0
    l2: NotNegative = 0.0
    minibatch: NotNegativeCount = 0
