"""python -m ligo.sync: the metrics.jsonl of runs as W&B runs, and a study as a W&B report.

However often a run was stopped or went back, it is replayed as one row of jobs with their artifacts. A study is all of its
runs, and its comparison as `wandb_report.json`, which `--mode online` publishes.
"""

from __future__ import annotations

import hashlib
import shlex
from argparse import ArgumentParser
from pathlib import Path

import yaml

from ligo.core.ending import ending
from ligo.core.errors import DataError
from ligo.core.files import read_json
from ligo.core.log import progress, say
from ligo.core.run import Run
from ligo.help import argument_parser
from ligo.tracking.jsonl import read_records
from ligo.tracking.wandb import WandbTracker

DESCRIPTION = "Replay metrics.jsonl of a run as W&B runs, however often it was stopped or went back; a study with its report."
EXAMPLES = (
    "python -m ligo.sync runs/default/mine",
    "python -m ligo.sync runs/STUDY --mode online",
)


def sync(folder: Path, mode: str) -> WandbTracker:
    """Replay a run's records into W&B runs of their own; the same records give the same runs again.

    Args:
        mode: offline (runs under `wandb/` of the folder, for `wandb sync`) or online.

    Returns:
        The tracker that did it: in which mode, and where the W&B runs lie.

    Raises:
        DataError: the folder holds no records.
        ConfigError: wandb is not installed.
    """
    from ligo.checkpoint.reader import Checkpoint

    run = Run(folder)
    records = read_records(run.metrics)
    if not records or not (folder / "config.yaml").is_file():
        raise DataError(
            f"{folder} holds no metrics.jsonl with records in it.\n  Try: the run.dir of a python -m ligo.grow"
        )
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    tracking = config["tracking"]
    tracker = WandbTracker(
        folder, mode=mode, project=tracking["project"], group=config["run"]["study"], name=folder.resolve().name,
        config=config, artifacts=tracking.get("artifacts", "reference"),
        fingerprint=lambda model: Checkpoint.open(model).fingerprint(),
        identity=hashlib.sha256(run.id.encode() + run.metrics.read_bytes()).hexdigest(),
    )  # fmt: skip
    with progress("replaying", len(records)) as bar:
        for record in records:
            tracker.log(record)
            bar.advance()
    if run.summary.is_file():
        tracker.summary(read_json(run.summary))
    tracker.finish()
    return tracker


def sync_study(folder: Path, mode: str) -> list[WandbTracker]:
    """Replay the finished runs of a study, and write its comparison as a W&B report beside report.html.

    Raises:
        DataError: as `load_study` does.
        ConfigError: wandb or wandb-workspaces is not installed.
    """
    from ligo.reports.study import load_study
    from ligo.reports.study_table import markdown
    from ligo.tracking.wandb import job_of, wandb_name
    from ligo.tracking.wandb_report import publish, study_report, write_report

    study = load_study(folder)
    first = yaml.safe_load((study.members[0].record.folder / "config.yaml").read_text(encoding="utf-8"))
    runs = [
        wandb_name(member.record.folder.name, job_of(arm))
        for member in study.members
        for arm in member.record.arms
    ]
    report = study_report(
        study.name, question=study.question, table=markdown(study), runs=runs, project=first["tracking"]["project"]
    )  # fmt: skip
    trackers = [sync(member.record.folder, mode) for member in study.members]
    say(f"{write_report(report, folder / 'wandb_report.json')}")
    if all(tracker.mode == "online" for tracker in trackers):
        say(f"published: {publish(report)}")
    return trackers


def parser() -> ArgumentParser:
    """The command line."""
    parser = argument_parser("sync", DESCRIPTION, EXAMPLES)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, or that of a study")
    parser.add_argument("--mode", choices=("offline", "online"), default="offline", help="(default: offline)")
    return parser


def main() -> None:
    arguments = parser().parse_args()
    with ending():
        if (arguments.run / "study.json").is_file():
            trackers = sync_study(arguments.run, arguments.mode)
        else:
            trackers = [sync(arguments.run, arguments.mode)]
    offline = [str(folder) for tracker in trackers if tracker.mode == "offline" for folder in tracker.folders]
    if offline:  # one after another: what a job takes is to be known as the output of the one that made it
        say(
            "to send it, in this order: "
            + " && ".join(f"wandb sync {shlex.quote(folder)}" for folder in offline)
        )


if __name__ == "__main__":
    main()
