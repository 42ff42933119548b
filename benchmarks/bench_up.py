"""How long `podwire up` takes, from the command to "a probe has crossed every pair of nodes".

In: drivers, nodes, rounds. Out: a table and `results/up.json`: seconds of wall clock per driver with every stage that `up` itself reports,
beside the goal. Each round makes a new cluster and removes it; images are there before the first one. The time is that of the whole
command, start of Python included.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import CLOCK, CLUSTER, keep, median, parser_for, podwire, removed, show, spread
from podwire.cli.up import engine_answers

GOAL_S = {"local": 2.0, "docker": 6.0}
STAGE = re.compile(r"^(?P<title>.+): done in (?P<number>[\d.]+) (?P<unit>ms|s)$", re.MULTILINE)


def measure(driver: str, nodes: int) -> dict[str, float]:
    """One `up` of a new cluster: seconds in all, and by stage."""
    cluster = f"{CLUSTER}-{driver}"
    with removed(cluster):
        began = CLOCK.monotonic()
        said = podwire("up", "--driver", driver, "--nodes", str(nodes), cluster=cluster)
        total = CLOCK.monotonic() - began
    stages = {
        found["title"]: float(found["number"]) / (1000 if found["unit"] == "ms" else 1)
        for found in STAGE.finditer(said.stderr)
    }
    return {"total": total, **stages}


def main() -> None:
    parser = parser_for(__doc__, rounds=5)
    parser.add_argument(
        "--driver", choices=sorted(GOAL_S), action="append", help="default: local, and docker where an engine answers"
    )
    values = parser.parse_args()
    drivers = values.driver or ["local", *(["docker"] if engine_answers() else [])]
    rounds: dict[str, list[dict[str, float]]] = {driver: [] for driver in drivers}
    for _ in range(values.rounds):
        for driver in drivers:
            rounds[driver].append(measure(driver, values.nodes))
    rows = []
    for driver, measured in rounds.items():
        totals = [one["total"] for one in measured]
        verdict = "met" if median(totals) <= GOAL_S[driver] else "missed"
        rows.append((f"{driver}: podwire up", spread(totals), f"{GOAL_S[driver]:.0f} ({verdict})"))
        stages = [stage for stage in measured[0] if stage != "total"]
        rows += [(f"  {stage}", spread([one.get(stage, 0.0) for one in measured]), "") for stage in stages]
    print(f"{values.nodes} nodes, {values.rounds} rounds, seconds: median [lowest..highest]\n")
    show(("", "seconds", "goal"), rows)
    result = {
        driver: {
            "median_s": round(median([one["total"] for one in measured]), 3),
            "goal_s": GOAL_S[driver],
            "rounds": measured,
        }
        for driver, measured in rounds.items()
    }
    print(f"\nwritten to {keep(values.results, 'up', {'nodes': values.nodes, 'drivers': result})}")


if __name__ == "__main__":
    main()
