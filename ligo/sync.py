"""python -m ligo.sync: metrics.jsonl of a run as one W&B run, however often the run was stopped or went back."""

from __future__ import annotations

import hashlib
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

DESCRIPTION = "Replay metrics.jsonl of a run as one W&B run, however often the run was stopped or went back."
EXAMPLES = (
    "python -m ligo.sync runs/default/mine",
    "python -m ligo.sync runs/default/mine --mode online",
)


def sync(folder: Path, mode: str) -> str:
    """Replay a run's records into a W&B run of their own; the same records give the same run again.

    Args:
        mode: offline (a run under `wandb/` of the folder, for `wandb sync`) or online.

    Returns:
        The W&B id of the run.

    Raises:
        DataError: the folder holds no records.
        ConfigError: wandb is not installed.
    """
    run = Run(folder)
    records = read_records(run.metrics)
    if not records or not (folder / "config.yaml").is_file():
        raise DataError(
            f"{folder} holds no metrics.jsonl with records in it.\n  Try: the run.dir of a python -m ligo.grow"
        )
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    content = run.id.encode() + run.metrics.read_bytes()
    wandb_id = hashlib.sha256(content).hexdigest()[:12]
    tracker = WandbTracker(
        folder, mode=mode, project=config["tracking"]["project"], group=config["run"]["study"],
        name=folder.resolve().name, config=config, wandb_id=wandb_id,
    )  # fmt: skip
    with progress("replaying", len(records)) as bar:
        for record in records:
            tracker.log(record)
            bar.advance()
    if run.summary.is_file():
        tracker.summary(read_json(run.summary))
    tracker.finish()
    return wandb_id


def parser() -> ArgumentParser:
    """The command line."""
    parser = argument_parser("sync", DESCRIPTION, EXAMPLES)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument("--mode", choices=("offline", "online"), default="offline", help="(default: offline)")
    return parser


def main() -> None:
    arguments = parser().parse_args()
    with ending():
        wandb_id = sync(arguments.run, arguments.mode)
    if arguments.mode == "offline":
        say(f"to send it: wandb sync {arguments.run}/wandb/offline-run-*-{wandb_id}")


if __name__ == "__main__":
    main()
