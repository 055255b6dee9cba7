"""python -m ligo.export: a checkpoint of a run as a stock Hugging Face folder."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from ligo.core.ending import ending
from ligo.core.errors import CheckpointError
from ligo.core.files import folder_aside
from ligo.core.log import say
from ligo.help import argument_parser
from ligo.training.export import export_checkpoint
from ligo.training.resume import find_problem, read_manifest

DESCRIPTION = "Write a checkpoint of a run as a stock Hugging Face folder, with Adam's moments."
EXAMPLES = (
    "python -m ligo.export RUN/checkpoints/grown/step-00000384 exported",
    "python -m ligo.export RUN/checkpoints/scratch/step-00000768 baseline",
)


def export(checkpoint: Path, folder: Path) -> None:
    """Verify a checkpoint, and write its model and Adam's moments as `folder`.

    Raises:
        CheckpointError: it does not verify, or `folder` is there already.
        ResourceError: the disk is full.
    """
    if folder.exists():
        raise CheckpointError(f"{folder} is there already.\n  Try: another name")
    try:
        manifest = read_manifest(checkpoint)
        problem = find_problem(checkpoint, manifest["config_hash"], manifest["run_id"])
    except (OSError, ValueError, KeyError):
        problem = "it has no manifest.json that verifies"
    if problem is not None:
        raise CheckpointError(
            f"{checkpoint} cannot be exported: {problem}.\n  Try: RUN/checkpoints/ARM/step-NNNNNNNN of a run"
        )
    with folder_aside(folder) as aside:
        export_checkpoint(checkpoint, aside, moments=True)


def parser() -> ArgumentParser:
    """The command line."""
    parser = argument_parser("export", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="RUN/checkpoints/ARM/step-NNNNNNNN"
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="is made")
    return parser


def main() -> None:
    arguments = parser().parse_args()
    with ending():
        export(arguments.checkpoint, arguments.folder)
    say(f"wrote {arguments.folder}")


if __name__ == "__main__":
    main()
