"""Runs many jobs under plans of all kinds, and counts how they ended.

python tests/kill/soak.py --runs 200 --seed 1
python tests/kill/soak.py --runs 100 --quiet
"""

import argparse
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from tests.kill.harness import Report, run_plan  # noqa: E402
from tests.kill.plans import KINDS, OUTCOMES, draw_plan  # noqa: E402
from tests.kill.quiet import POINTS, draw_quiet  # noqa: E402


def main() -> int:
    """Run the jobs, and return 1 if one did not end as it must."""
    options = parse()
    # Leave by an exception, so that the job that runs is ended.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    folder = Path(tempfile.mkdtemp(prefix="mpips-soak-"))
    reports: list[Report] = []
    try:
        for run in range(options.runs):
            reports.append(one(run, options, folder))
            shown = "as expected" if reports[-1].is_as_expected else "NOT AS EXPECTED"
            print(f"{run + 1:>4} {reports[-1].seconds:6.1f} s  {reports[-1].outcome:<6} {shown}: "
                  f"{reports[-1].plan}; attempts {reports[-1].attempts}, shrinks"
                  f" {reports[-1].shrinks}", flush=True)
            if not reports[-1].is_as_expected:
                print(f"\n{reports[-1]}\n", flush=True)
    finally:
        print(table(reports))
    if all(report.is_as_expected for report in reports):
        shutil.rmtree(folder)
        return 0
    print(f"what the bad runs left is in {folder}")
    return 1


def parse() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--runs", type=int, default=200, help="how many jobs (default: %(default)s)")
    add("--seed", type=int, default=1, help="the first seed (default: %(default)s)")
    add("--quiet", action="store_true", help=
        "jobs that shrink after a death, many with another one before that or inside it")
    add("kinds", nargs="*", metavar="KIND", default=list(KINDS), help=
        f"in turn: {', '.join(KINDS)} (default: all)")  # fmt: skip
    options = parser.parse_args()
    if wrong := [kind for kind in options.kinds if kind not in KINDS]:
        parser.error(f"there is no kind {wrong[0]}; there are {', '.join(KINDS)}")
    return options


def one(run: int, options: argparse.Namespace, folder: Path) -> Report:
    """Run one plan; keep the job's files only if it did not end as it must."""
    if options.quiet:
        plan, die_at = draw_quiet(options.seed + run)
        settings = ["recovery.mode=in-place", "recovery.shrink=quiet"]
    else:
        turn, place = divmod(run, len(options.kinds))
        plan, die_at, settings = draw_plan(options.kinds[place], options.seed + turn), "", []
    home = folder / f"{plan.kind}-{plan.seed}"
    report = run_plan(plan, home, *settings, die_at=die_at)
    report.struck += [f"dies at {die_at}"] if die_at else []
    if report.is_as_expected:
        shutil.rmtree(home)
    return report


def table(reports: list[Report]) -> str:
    """Return how often each outcome came, by kind."""
    lines = [f"\n{'kind':<12}{'runs':>6}" + "".join(f"{name:>8}" for name in OUTCOMES)
             + f"{'restarted':>11}{'shrunk':>8}{'not as expected':>18}"]
    for kind in [*KINDS, *POINTS, "all"]:
        mine = [report for report in reports if kind in (report.plan.kind, "all")]
        counts = Counter(report.outcome for report in mine)
        bad = sum(not report.is_as_expected for report in mine)
        again = sum(report.attempts > 1 for report in mine)
        shrunk = sum(report.shrinks > 0 for report in mine)
        if mine:
            lines.append(f"{kind:<12}{len(mine):>6}"
                         + "".join(f"{counts[name]:>8}" for name in OUTCOMES)
                         + f"{again:>11}{shrunk:>8}{bad:>18}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
