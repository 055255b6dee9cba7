"""A report over many long runs: how long it takes, and how large the page is.

    python -m benchmarks.report

The runs are synthetic: what a run folder of a study holds, with losses made here. Figures go to benchmarks/results/report.json.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import Figures, finish, row, run_measures
from ligo.core.files import write_json, write_text
from ligo.reports.html import write_report, write_study_report

NUM_RUNS, POINTS, NUM_SEEDS = 40, 2000, 5
MOST_SECONDS, MOST_BYTES = 5.0, 5_000_000


def make_study(folder: Path) -> list[Path]:
    """Seven grown arms and one from scratch, each at five seeds; training loss at every step, validation loss at every fifth."""
    runs: dict[str, Any] = {}
    for number in range(NUM_RUNS):
        arm, seed = number // NUM_SEEDS, number % NUM_SEEDS
        name, stage = (f"arm{arm}", "train") if arm else ("scratch", "scratch")
        trains, run = "grown" if arm else "scratch", folder / f"{name}-{seed}"
        lines, at = [], {}
        for step in range(POINTS):
            at = {"step": step, "tokens": 1024 * step, "flops": 1e9 * step, "wall_s": 0.1 * step}
            loss = 3 + (3 if arm else 6) / (1 + 0.01 * step) + 0.01 * math.sin(step + seed)
            lines.append(json.dumps({"arm": trains, **at, "lr": 1e-3, "grad_norm": 1.0, "train/loss": loss,
                                     **({"eval/loss": loss} if step % 5 == 0 else {})}))  # fmt: skip
        write_text(run / "metrics.jsonl", "\n".join(lines) + "\n")
        write_json(run / "stages.json", {stage: {"loss": loss, **at}})
        write_json(run / "manifest.json", {"inputs": {"text": "synthetic"}})
        write_text(run / "config.yaml", "data: {sequence_length: 128, validation_tokens: 16384}\n")
        write_json(run / "summary.json", {"name": run.name})
        runs[run.name] = {"arm": name, "size": "", "seed": seed, "rate": None, "stages": [stage]}
    write_json(folder / "study.json", {"name": "synthetic", "question": "", "runs": runs})
    return [folder / name for name in runs]


def report_rows() -> Figures:
    """The study over its seeds, and the same runs side by side."""
    rows, details = {}, {"runs": NUM_RUNS, "points": POINTS}
    with tempfile.TemporaryDirectory() as root:
        folders = make_study(Path(root))
        reports = {
            "study": lambda out: write_study_report(Path(root), out)[0],
            "side by side": lambda out: write_report(folders, out),
        }
        for name, write in reports.items():
            started = time.perf_counter()
            page = write(Path(root) / "out" / "report.html")
            seconds, size = time.perf_counter() - started, page.stat().st_size
            what = f"report over {NUM_RUNS} runs of {POINTS} points, {name}"
            rows[f"{what}, s"] = row(round(seconds, 2), MOST_SECONDS, seconds < MOST_SECONDS)
            rows[f"{what}, MB"] = row(round(size / 1e6, 2), MOST_BYTES / 1e6, size < MOST_BYTES)
    return rows, details


MEASURES = (report_rows,)


if __name__ == "__main__":
    finish("report", *run_measures(MEASURES))
