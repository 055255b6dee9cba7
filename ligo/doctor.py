"""python -m ligo.doctor [DIR]: look at what a run will need, on this machine and, under a launcher, on all ranks."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path

from ligo.core.distributed import adopt_launcher_variables, rank, world_size
from ligo.core.ending import ending
from ligo.core.log import say
from ligo.help import argument_parser
from ligo.preflight.finding import Finding, redact
from ligo.preflight.machine import machine_findings
from ligo.preflight.ranks import rank_findings

DESCRIPTION = "Look at what a run will need, on this machine and, under a launcher, on all ranks."
EXAMPLES = (
    "python -m ligo.doctor runs",
    "torchrun --standalone --nproc_per_node 8 -m ligo.doctor runs --timeout 30",
)


def look(folder: Path, timeout_s: float) -> list[Finding]:
    """Look at everything, and say each finding as it comes.

    Raises:
        ConfigError: this rank cannot reach rank 0.
    """
    adopt_launcher_variables()
    findings = []
    for findings_of in (machine_findings(folder), rank_findings(folder, timeout_s)):
        for finding in findings_of:
            say(finding)
            findings.append(finding)
            if rank() and finding.level == "failed":
                print(f"rank {rank()}: {finding}", file=sys.stderr, flush=True)
    return findings


def parser() -> ArgumentParser:
    """The command line."""
    parser = argument_parser("doctor", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("runs"), help="where runs are to lie (default: runs)"
    )
    parser.add_argument(
        "--timeout", type=float, default=60.0, help="seconds to wait for each rank (default: 60)"
    )
    return parser


def main() -> None:
    arguments = parser().parse_args()
    with ending():
        report(arguments.folder, arguments.timeout)


def report(folder: Path, timeout_s: float) -> None:
    """Look, and end with a block for a bug report and the exit code of the first thing that would not work."""
    findings = look(folder, timeout_s)
    failed = [finding for finding in findings if finding.level == "failed"]
    say("\nfor a bug report (no names, paths or secrets in it):\n")
    say("```\n" + redact(f"ligo.doctor, {world_size()} rank(s)\n" + "\n".join(map(str, findings))) + "\n```")
    sys.exit(failed[0].exit_code if failed else 0)


if __name__ == "__main__":
    main()
