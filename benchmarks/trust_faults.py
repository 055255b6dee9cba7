"""What may go wrong around a run, on purpose: how often it ends in words and a state to go on from.

    python -m benchmarks.trust_faults [config_edits=2000 starts=100 ...]

Campaigns are those of `tests.faults.trust`; figures go to benchmarks/results/trust.json, where those of other campaigns stay.
"""

from __future__ import annotations

import sys

from benchmarks.common import RESULTS, Figures, finish, row, run_campaigns
from ligo.core.files import read_json

NAMESPACES = ("unshare", "--map-root-user", "--mount", "--net")
"""Small disks are mounted and the network is taken away for the campaigns alone."""
COUNTS = {
    "config_edits": 2000,
    "shape_lattice": 500,
    "secrets": 12,
    "fills": 10,
    "starts": 100,
    "soak": 2000,
    "offline": 1,
    "endings": 42,
}
WORDS = {
    "config_edits": "random edits of options and config files without a traceback, every unknown key with the nearest",
    "shape_lattice": "random pairs of small model, target and operator that are grown and right, or refused with the rule",
    "secrets": "shapes of secrets planted in environment, options, addresses and config files, in no file of the output tree; no place or host in what is published",
    "fills": "fill levels of a full disk: exit 5 with words, what was there before whole, the same start goes on to the same losses",
    "starts": "times eight starts at once: one run folder, the work done once, no crash",
    "soak": "long run with a save every 20 steps: memory grows by less than 2 %, open files do not",
    "offline": "commands without a network: grow, tune and report pass; what only the network has is refused",
    "endings": "pairs of command and trouble (full or read-only disk, no memory, Ctrl-C): words, a documented code, then it goes on",
}


def faults_rows(counts: dict[str, int] = COUNTS) -> Figures:
    """One row for each campaign: good trials of all; a process for each, so that none inherits another's memory."""
    rows, details = {}, {}
    for name, count in counts.items():
        found = run_campaigns("tests.faults.trust", {name: count}, NAMESPACES)[name]
        is_whole = count >= COUNTS[name]  # a sample is no campaign
        reach = found["trials"] if is_whole else COUNTS[name]
        rows[WORDS[name]] = row(found["good"], reach, is_whole and found["good"] == found["trials"])
        details[name] = found
    return rows, details


def main() -> None:
    asked = {name: int(count) for name, _, count in (word.partition("=") for word in sys.argv[1:])}
    rows, details = faults_rows(asked or COUNTS)
    kept = RESULTS / "trust.json"
    before = read_json(kept) if kept.exists() else {"rows": {}}  # the other campaigns stay
    figures = {"campaign": before.get("campaign", {}), "faults": before.get("faults", {}) | details}
    finish("trust", before["rows"] | rows, figures)


if __name__ == "__main__":
    main()
