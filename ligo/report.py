"""python -m ligo.report RUN [RUN ...]: compare runs, or the arms of one study over its seeds, in one HTML file.

Beside it: results.json (docs/results.md), table.md for papers, and figures/ as SVG and PNG where matplotlib is installed.
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from ligo.core.ending import ending
from ligo.core.errors import ConfigError, check_installed
from ligo.core.log import say
from ligo.help import argument_parser
from ligo.reports.html import write_report, write_study_report

DESCRIPTION = "Compare runs, or the arms of one study over its seeds, in one HTML file."
EXAMPLES = (
    "python -m ligo.report runs/default/mine runs/default/other --out compared.html",
    "python -m ligo.report runs/STUDY",
    "python -m ligo.report runs/STUDY --earlier results.json",
)


def run_folders(paths: list[Path]) -> list[Path]:
    """Each path that is a run, and each run inside a path that is a study."""
    found: list[Path] = []
    for path in paths:
        inside = sorted(summary.parent for summary in path.glob("*/summary.json"))
        found += inside if inside and not (path / "summary.json").exists() else [path]
    return found


def default_page(paths: list[Path]) -> Path:
    """report.html in the run or the study; of several, in a folder beside the first, which has a page of its own."""
    return (paths[0] if len(paths) == 1 else paths[0].parent / "comparison") / "report.html"


def can_draw() -> bool:
    """Whether figures/ can be drawn; what is missing is said."""
    try:
        check_installed("matplotlib", extra="figures", why="figures/ is left out: it")
    except ConfigError as missing:
        say(missing)
        return False
    return True


def parser() -> ArgumentParser:
    """The command line."""
    parser = argument_parser("report", DESCRIPTION, EXAMPLES)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, or study folders with runs inside")
    parser.add_argument(
        "--out",
        type=Path,
        help="HTML file to write (default: report.html in the run or study; for several, in comparison/ beside the first)",
    )
    parser.add_argument(
        "--earlier",
        type=Path,
        metavar="RESULTS",
        help="results.json of runs of the same study whose folders are gone: they stand beside those in the folder",
    )
    return parser


def main() -> None:
    arguments = parser().parse_args()
    with ending():
        first, out, figures = arguments.runs[0], arguments.out or default_page(arguments.runs), can_draw()
        if len(arguments.runs) == 1 and (first / "study.json").exists():
            written = write_study_report(first, out, earlier=arguments.earlier, figures=figures)
        elif arguments.earlier:
            raise ConfigError(
                f"--earlier is for one study, but {' '.join(map(str, arguments.runs))} is not one: there is no study.json.\n"
                "  Try: python -m ligo.report runs/STUDY --earlier results.json"
            )
        else:
            written = write_report(run_folders(arguments.runs), out, figures=figures)
        say("\n".join(map(str, written)))


if __name__ == "__main__":
    main()
