"""make bench-trust: checkpoints from strangers, damaged ones of our own, and what else a user may be exposed to.

    python -m benchmarks.trust [traversal=48 mutations=10000 ...]

Campaigns are those of tests/trust; figures go to benchmarks/results/trust.json.
"""

from __future__ import annotations

import importlib.util
import sys

from benchmarks.common import Figures, finish, row, run_campaigns, run_measures

COUNTS = {"traversal": 48, "pickles": 528, "mutations": 10_000, "hostile": 110}
WORDS = {
    "traversal": "indices, links and keys that lead out of a checkpoint folder, refused with no file opened there",
    "pickles": "malicious pickles of every kind, under every name that a loader might read as one, that did not run",
    "mutations": "changed safetensors files: no crash, and no number of our own checkpoints silently another",
    "hostile": "hostile JSON refused in less than 1 s with less than 64 MB allocated",
}


def campaign_rows(counts: dict[str, int] = COUNTS) -> Figures:
    """One row for each campaign: good trials of all."""
    details = run_campaigns("tests.trust.campaigns", counts)
    rows = {
        WORDS[name]: row(found["good"], COUNTS[name], found["good"] == found["trials"] >= COUNTS[name])
        for name, found in details.items()
    }
    return rows, details


def main() -> None:
    asked = {name: int(count) for name, _, count in (word.partition("=") for word in sys.argv[1:])}
    if asked:
        finish("trust", *campaign_rows(asked))
        return
    measures = [campaign_rows]
    if importlib.util.find_spec("benchmarks.trust_faults"):
        from benchmarks.trust_faults import faults_rows

        measures.append(faults_rows)
    finish("trust", *run_measures(measures))


if __name__ == "__main__":
    main()
