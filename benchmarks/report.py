"""A report over many long runs: how long it takes, how large the page is, and how soon a browser shows it.

    python -m benchmarks.report

The runs are synthetic: what a run folder of a study holds, with losses made here. The first paint is Chromium's own figure
for the page from its file, and is left open where there is no Chromium. Figures go to benchmarks/results/report.json.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from benchmarks.common import Figures, finish, row, run_measures
from ligo.config import compose
from ligo.core.files import write_json, write_text
from ligo.plan import known_config, make_plan, plan_json
from ligo.reports.html import write_report, write_study_report
from tests.reports.browser import MISSING, browser, first_paint_ms, opened

NUM_RUNS, POINTS, NUM_SEEDS, OPENINGS = 40, 2000, 5, 5
MOST_SECONDS, MOST_BYTES, MOST_PAINT_MS = 5.0, 5_000_000, 1000.0
MODULES = (
    "embed_tokens",
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
    "norm",
)


def make_study(folder: Path) -> list[Path]:
    """Seven grown arms and one from scratch, each at five seeds; training loss at every step, validation loss at every fifth."""
    config, config_yaml = compose(["small=tiny-llama", "target=tiny-llama-2x"])
    known = known_config(config.small)
    assert known is not None
    plan = plan_json(config, make_plan(config, known))
    size = {"rms": 0.02, "variance": 4e-4}
    modules = [{"module": name, "small": size, "grown": size} for name in MODULES]
    runs: dict[str, Any] = {}
    for number in range(NUM_RUNS):
        arm, seed = number // NUM_SEEDS, number % NUM_SEEDS
        name, stage = (f"arm{arm}", "train") if arm else ("scratch", "scratch")
        trains, run = "grown" if arm else "scratch", folder / f"{name}-{seed}"
        lines, at = [], {}
        for step in range(POINTS):
            at = {"step": step, "tokens": 1024 * step, "flops": 1e9 * step, "wall_s": 0.1 * step}
            loss = 3 + (3 if arm else 6) / (1 + 0.01 * step) + 0.01 * math.sin(step + seed)
            evaluated = {"eval/loss": loss} if step % 5 == 0 or step == POINTS - 1 else {}
            lines.append(json.dumps({"arm": trains, **at, "lr": 1e-3, "grad_norm": 1.0, "train/loss": loss,
                                     **evaluated}))  # fmt: skip
        write_text(run / "metrics.jsonl", "\n".join(lines) + "\n")
        grown = {"learn": {"best_step": 1}, "write": {"build_flops": 1e6}, "verify": {"modules": modules}}
        write_json(run / "stages.json", {stage: {"loss": loss, **at}, **(grown if arm else {})})
        write_json(run / "manifest.json", {"inputs": {"text": "synthetic"}})
        write_text(run / "config.yaml", config_yaml)
        write_json(run / "plan.json", plan)
        write_json(run / "summary.json", {"name": run.name, "growth": {"modules": modules if arm else None}})
        if arm:
            write_operator(run / "operator.safetensors")
        runs[run.name] = {"arm": name, "size": "", "seed": seed, "rate": None, "stages": [stage]}
    write_json(folder / "study.json", {"name": "synthetic", "question": "", "runs": runs})
    return [folder / name for name in runs]


def write_operator(path: Path) -> None:
    """Coefficients of layers for each module but the embedding, 12 layers to 24."""
    rng = np.random.default_rng(0)
    maps = {f"depth.{name}": rng.normal(size=(24, 12)).astype(np.float32) for name in MODULES[1:]}
    save_file(
        maps,
        path,
        {"growth": json.dumps({"operator.form": "dense"}), "learning": json.dumps({"best_step": 1})},
    )


def report_rows() -> Figures:
    """The study over its seeds, and the same runs side by side, each with its numbers and its table; then the figures for papers."""
    rows, details = {}, {"runs": NUM_RUNS, "points": POINTS}
    with tempfile.TemporaryDirectory() as root:
        folders = make_study(Path(root))
        reports = {
            "study": lambda out: write_study_report(Path(root), out)[0],
            "side by side": lambda out: write_report(folders, out)[0],
        }
        for name, write in reports.items():
            started = time.perf_counter()
            page = write(Path(root) / "out" / "report.html")
            seconds, size = time.perf_counter() - started, page.stat().st_size
            what = f"report over {NUM_RUNS} runs of {POINTS} points, {name}"
            rows[f"{what}, s"] = row(round(seconds, 2), MOST_SECONDS, seconds < MOST_SECONDS)
            rows[f"{what}, MB"] = row(round(size / 1e6, 2), MOST_BYTES / 1e6, size < MOST_BYTES)
            rows[f"{what}, first paint, ms"], details[f"first paints of {name}, ms"] = paint_row(page)
        figures_s = seconds_of_figures(Path(root))
        rows[f"figures over {NUM_RUNS} runs of {POINTS} points, s"] = figures_s
    return rows, details


def seconds_of_figures(study: Path) -> dict[str, Any]:
    """Of drawing a study's figures as SVG and PNG, once it is read."""
    if find_spec("matplotlib") is None:
        return row(None, MOST_SECONDS, None)
    from ligo.reports.paper import write_study_figures
    from ligo.reports.study import load_study

    found, started = load_study(study), time.perf_counter()
    write_study_figures(found, study / "figures")
    seconds = time.perf_counter() - started
    return row(round(seconds, 2), MOST_SECONDS, seconds < MOST_SECONDS)


def paint_row(page: Path) -> tuple[dict[str, Any], list[float] | str]:
    """The median of several openings, each in a fresh context of one browser, and all of them."""
    if MISSING:
        return row(None, MOST_PAINT_MS, None), MISSING
    paints = []
    with browser() as running:
        for _ in range(OPENINGS):
            with opened(running, page) as found:
                paints.append(round(first_paint_ms(found.page), 1))
    median = statistics.median(paints)
    return row(median, MOST_PAINT_MS, median < MOST_PAINT_MS), paints


MEASURES = (report_rows,)


if __name__ == "__main__":
    finish("report", *run_measures(MEASURES))
