"""Faults on purpose: how many of the kills, cuts, flipped bits and bad batches training survives.

    python -m benchmarks.faults [kills=120 saves=60 ...]

A quarter of an hour on two cores. Campaigns are those of tests/faults; figures go to benchmarks/results/faults.json.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.common import finish, row, run_campaigns

COUNTS = {
    "kills": 120,
    "saves": 60,
    "disks": 8,
    "launchers": 20,
    "flips": 500,
    "ranks": 8,
    "bad": 17,
    "parity": 4,
}
WORDS = {
    "kills": "runs that end as if never killed, kill -9 of both ranks at a random instant, ZeRO-1 to 3, fp32 and bf16",
    "saves": "saves killed at every step of theirs that leave a verified checkpoint, at most one interval old",
    "disks": "disks that are full on one rank: all ranks stop with words, the checkpoint before is whole, the same start goes on",
    "launchers": "launchers killed whose ranks are gone within 10 s",
    "flips": "flipped bits and cut files found before the first forward pass, the file named, the one before taken",
    "ranks": "runs on 2, 1 and 2 ranks with the windows and losses of one on 2 (1e-6 in fp32, 1e-3 in bf16)",
    "bad": "batches with a loss or gradient that is not finite that change no bit; the third in a row ends the run",
    "parity": "ZeRO stages with plain torch's losses over 50 steps, fp32, to 1e-5",
}


def fault_rows(counts: dict[str, int] = COUNTS) -> tuple[dict[str, Any], dict[str, Any]]:
    """One row for each campaign: good trials of all."""
    details = run_campaigns("tests.faults.campaigns", counts)
    rows = {
        WORDS[name]: row(found["good"], found["trials"], found["good"] == found["trials"])
        for name, found in details.items()
    }
    return rows, details


def main() -> None:
    asked = {name: int(count) for name, _, count in (word.partition("=") for word in sys.argv[1:])}
    finish("faults", *fault_rows(asked or COUNTS))


if __name__ == "__main__":
    main()
