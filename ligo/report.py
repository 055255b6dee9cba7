"""python -m ligo.report RUN [RUN ...]: compare runs in one self-contained HTML file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ligo.core.errors import LigoError
from ligo.core.log import say
from ligo.reports.html import write_report


def run_folders(paths: list[Path]) -> list[Path]:
    """Each path that is a run, and each run inside a path that is a study."""
    found: list[Path] = []
    for path in paths:
        inside = sorted(summary.parent for summary in path.glob("*/summary.json"))
        found += inside if inside and not (path / "summary.json").exists() else [path]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ligo.report", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, or study folders with runs inside")
    parser.add_argument(
        "--out", type=Path, help="HTML file to write (default: report.html in the first path)"
    )
    arguments = parser.parse_args()
    try:
        say(write_report(run_folders(arguments.runs), arguments.out or arguments.runs[0] / "report.html"))
    except LigoError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
