"""summary.json of a tuning run: what the report and the tracker show of it, as plain data."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ligo.core.run import Run, command_line, hardware, versions
from ligo.tracking.jsonl import read_records
from ligo.training.loop import Progress
from ligo.tuning.export import Tuned


def summarise(
    run: Run, arm: str, tuned: Tuned, done: Progress, *, parameters: int, left: Path
) -> dict[str, Any]:
    """The summary of a run that is done.

    Args:
        arm: name of the run's records in metrics.jsonl.
        parameters: of the checkpoint that was tuned.
        left: the folder that the run leaves, a model's or an adapter's.
    """
    records = [record for record in read_records(run.metrics) if record["arm"] == arm]
    words = tuned.method if tuned.quantization == "none" else f"{tuned.method}, base in {tuned.quantization}"
    return {
        "name": run.folder.name,
        "command": command_line(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": versions(),
        "hardware": hardware(),
        "tuning": {
            **asdict(tuned),
            "parameters": parameters,
            "stored_bytes": sum(file.stat().st_size for file in left.glob("*.safetensors")),
            "peak_memory_bytes": max(
                (r["memory_bytes"] for r in records if "memory_bytes" in r), default=None
            ),
        },
        "arms": [
            {
                "name": arm,
                "label": f"tuned ({words})",
                "final_loss": tuned.loss,
                "tokens": done.tokens,
                "flops": done.flops,
                "wall_s": done.wall_s,
                "peak_lr": tuned.peak_lr,
            }
        ],
        "not_measured": [
            "several seeds",
            f"whether {tuned.peak_lr:g} is the best peak rate: one run does not tell",
        ],
        "notes": ["Tokens are those of full batches of the longest examples; FLOPs are of what was read."],
    }
