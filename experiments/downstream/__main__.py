"""Grown, from scratch, or small: how each takes to tuning.

    python -m experiments.downstream          all runs that are missing, then results.json and table.md
    python -m experiments.downstream table    table.md made anew from results.json

Runs are those of ligo.grow and ligo.tune with the options in config.yaml, in runs/downstream; the same command goes on where it
was stopped. The rate of each model and method is searched as ligo.sweep does it (`search_rate`).
"""

from __future__ import annotations

import json
import math
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml

from ligo.config import compose
from ligo.core.errors import NumericsError
from ligo.core.files import read_json, write_json, write_text
from ligo.core.run import hardware, versions
from ligo.families.base import family_of
from ligo.grow import grow
from ligo.options import compose_options
from ligo.sweeps.grid import search_rate
from ligo.tune import OPTIONS, tune
from ligo.tune_plan import TuningPlan

HERE = Path(__file__).resolve().parent
REPO = HERE.parent.parent
DATA = REPO.parent / "shared" / "data"
RUNS = REPO / "runs" / "downstream"

Json = dict[str, Any]


def main() -> None:
    if sys.argv[1:] != ["table"]:
        torch.set_num_threads(1)  # the number of threads changes the rounding
        write_json(HERE / "results.json", study(yaml.safe_load((HERE / "config.yaml").read_text())))
    write_text(HERE / "table.md", table(read_json(HERE / "results.json")))


# --- runs -------------------------------------------------------------------------------------------


def study(config: Json) -> Json:
    """All runs, and what they came to."""
    pretraining, tuning = config["pretraining"], config["tuning"]
    trained = {
        name: pretrained(name, [*pretraining["common"], *options])
        for name, options in pretraining["runs"].items()
    }
    models = {}
    for name, model in config["models"].items():
        base = RUNS / model["folder"]
        cells = {
            method: searched(
                name,
                base,
                method,
                [*tuning["common"], *own["options"]],
                own["rates"],
                tuning["max_extensions"],
            )
            for method, own in tuning["methods"].items()
        }
        last = trained[model["runs"][-1]]
        spent = {
            key: sum(trained[run][key] for run in model["runs"]) for key in ("tokens", "flops", "wall_s")
        }
        models[name] = {**last, **spent, "tuned": cells}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(),
        "versions": versions(),
        "models": models,
    }


def pretrained(name: str, options: list[str]) -> Json:
    """Loss and cost of a run of ligo.grow that trains one model."""
    folder = RUNS / name
    run("grow", options, folder)
    stages = read_json(folder / "stages.json") if (folder / "stages.json").exists() else {}
    if "train" in stages:
        done, where = stages["train"], folder / "trained"
        write = stages["write"]["build_flops"]
    else:
        done, where, write = read_json(folder / "small" / "ligo.json")["training"], folder / "small", 0.0
    wall_s = last_record(folder)["wall_s"]
    return {
        "parameters": num_parameters(where),
        "tokens": done["tokens"],
        "flops": done["flops"] + write,
        "wall_s": wall_s,
        "loss": done["loss"],
        "stored_bytes": stored_bytes(where),
    }


def searched(
    model: str, base: Path, method: str, options: list[str], rates: list[float], max_extensions: int
) -> Json:
    """The best of the peak rates, once it has worse neighbours."""
    found: dict[float, Json] = {}

    def loss_at(rate: float) -> float | None:
        return found[rate]["loss"] if rate in found else None

    while (search := search_rate(rates, loss_at, max_extensions)).best is None:
        for rate in search.rates:
            if rate not in found:
                found[rate] = tuned(RUNS / f"{model}-{method}-{rate:g}", base, options, rate)
                print(model, method, rate, found[rate]["loss"], flush=True)
    return {
        **found[search.best],
        "rate": search.best,
        "bracketed": search.bracketed,
        "losses": {
            f"{rate:g}": each["loss"] if math.isfinite(each["loss"]) else None
            for rate, each in sorted(found.items())
        },
        "planned_bytes": planned_bytes(base, [*options, f"train.lr={rates[0]}"]),
    }


def tuned(folder: Path, base: Path, options: list[str], rate: float) -> Json:
    """What a run of ligo.tune says of itself; a loss of infinity where it diverged."""
    try:
        run("tune", [f"small.path={base}", *options, f"train.lr={rate}"], folder)
    except NumericsError:
        return {"loss": math.inf}
    summary = read_json(folder / "summary.json")
    keys = ("start_loss", "loss", "bits_per_byte", "trained_parameters", "stored_bytes")
    spent = {key: summary["arms"][0][key] for key in ("flops", "wall_s")}
    return {key: summary["tuning"][key] for key in keys} | spent


def planned_bytes(base: Path, options: list[str]) -> int:
    """What the plan says that a rank holds beyond the libraries."""
    config, _ = compose_options([f"small.path={base}", *map(filled, options)], OPTIONS)
    plan = TuningPlan(
        family_of(read_json(base / "config.json")), config.tuning, config.train, max_length=config.data.max_length,
        deepspeed=config.deepspeed, hardware=config.hardware,
    )  # fmt: skip
    return round(plan.memory.peak - plan.memory.libraries)


def run(command: str, options: list[str], folder: Path) -> None:
    """`python -m ligo.COMMAND` in this process, unless the run is done already.

    Raises:
        NumericsError: it diverged.
    """
    status = folder / "STATUS"
    if status.exists() and status.read_text().strip() == "done":
        return
    words = [*map(filled, options), f"run.dir={folder}"]
    if command == "grow":
        grow(*compose(words))
    else:
        tune(*compose_options(words, OPTIONS))


def filled(option: str) -> str:
    return option.replace("{data}", str(DATA)).replace("{runs}", str(RUNS))


def last_record(folder: Path) -> Json:
    return dict(json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1]))


def num_parameters(folder: Path) -> int:
    return family_of(read_json(folder / "config.json")).num_parameters


def stored_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("model*.safetensors"))


# --- the table --------------------------------------------------------------------------------------

COLUMNS = (
    "model", "parameters", "pretraining", "loss on stories", "tuned by", "peak rate", "response loss before", "after",
    "bits per byte", "trained", "memory", "compute", "time", "storage",
)  # fmt: skip


def table(results: Json) -> str:
    """One row for each model and method, with hardware and date."""
    rows = []
    for name, model in results["models"].items():
        for method, cell in model["tuned"].items():
            bracketed = "" if cell["bracketed"] else " (not bracketed)"
            rows.append((
                name, f"{model['parameters']:,}", f"{model['flops']:.3g} FLOPs", f"{model['loss']:.3f}", method,
                f"{cell['rate']:g}{bracketed}", f"{cell['start_loss']:.3f}", f"{cell['loss']:.3f}",
                f"{cell['bits_per_byte']:.3f}", f"{cell['trained_parameters']:,}", f"{cell['planned_bytes'] / 1e6:.1f} MB",
                f"{cell['flops']:.3g} FLOPs", f"{cell['wall_s']:.0f} s", f"{cell['stored_bytes'] / 1e3:,.0f} kB",
            ))  # fmt: skip
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    found = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    package = results["versions"]
    return (
        f"{found}\n\n{results['hardware']}, one thread, {results['date']}; torch {package['torch']}, "
        f"transformers {package['transformers']}, peft {package['peft']}, bitsandbytes {package['bitsandbytes']}.\n"
    )


if __name__ == "__main__":
    main()
