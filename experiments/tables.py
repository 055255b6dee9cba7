"""The tables of the studies, from the results.json that each has left in its folder here.

python -m experiments.tables          made anew: each study in experiments/README.md, the leading arms of all in one table of README.md
python -m experiments.tables check    nothing is written; it fails where a figure is not what the evaluations of the runs say,
                                      or the table is not what the figures say
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import fits
from ligo.accounting.savings import CHARGED, SUNK, Point, Spent, TargetSaving, savings_by_target, targets
from ligo.accounting.statistics import FEWEST_FOR_INTERVAL, estimate
from ligo.core import units
from ligo.core.files import read_json, write_text
from ligo.reports.results import stated
from ligo.reports.run_table import markdown_table
from ligo.reports.study import over_seeds
from ligo.reports.words import MET_AT_START, NOT_MEASURED, NOT_REACHED

HERE = Path(__file__).resolve().parent
README, PROJECT = HERE / "README.md", HERE.parent / "README.md"
BEGIN, END = "<!-- made by experiments.tables -->\n", "<!-- end -->"
COLUMNS = (
    "study", "arm", "saved, small model sunk", "charged", "sunk, in tokens", "sunk, against a short schedule", "final loss", "seeds",
)  # fmt: skip
PUBLISHED = {
    "bert": "44.7 %, BERT 6x512 -> 12x768 (table 1)",
    "bert-long": "44.7 %, BERT 6x512 -> 12x768 (table 1)",
    "gpt2": "22.5 %, GPT2 base -> medium (figure 3)",
    "roberta": "47.2 %, RoBERTa small -> base (figure 3)",
    "vit": "55.4 %, DeiT small -> base (table 2)",
}
"""What LiGO (Wang et al., ICLR 2023) states of the same pair at its real size, in FLOPs, the small model sunk."""
Json = Mapping[str, Any]


def main() -> None:
    studies = results()
    made = {README: tables(studies), PROJECT: brief(studies)}
    made = {file: _with_tables(file.read_text(encoding="utf-8"), text) for file, text in made.items()}
    if sys.argv[1:] != ["check"]:
        for file, text in made.items():
            write_text(file, text)
        return
    wrong = [f"{study['name']}: {what}" for study in studies for what in differences(study)]
    wrong += [
        f"{file.relative_to(HERE.parent)}: its tables are not those of the results; make them anew: python -m experiments.tables"
        for file, text in made.items()
        if file.read_text(encoding="utf-8") != text
    ]
    print(
        "\n".join(wrong)
        or f"{len(studies)} studies: every figure is what the evaluations say, every table what the figures say"
    )
    sys.exit(bool(wrong))


def results() -> list[Json]:
    """Of all studies."""
    return [
        read_json(file) for file in sorted(HERE.rglob("results.json")) if file.parent.name != "downstream"
    ]


def _with_tables(text: str, made: str) -> str:
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}{made}{END}{rest.partition(END)[2]}"


def tables(studies: Sequence[Json]) -> str:
    """Markdown of all studies one by one, each arm by its final loss."""
    parts = []
    for study in studies:
        parts += [
            f"### {study['name']}",
            study["question"],
            study["answer"],
            markdown_table(COLUMNS, _rows(study)),
        ]
        if study["name"] in PUBLISHED:
            parts.append(f"Published for LiGO, the small model sunk: {PUBLISHED[study['name']]}.")
        parts.append(f"*Made on* {_made([study])}.")
    if scaling := [study for study in studies if _of_scaling(study)]:
        parts += ["### scaling", fits.WORDS, fits.table(scaling, SUNK)]
    return _paragraphs(parts)


def brief(studies: Sequence[Json]) -> str:
    """One table of all studies but `scaling`, which asks for no arm: the controls, and of the grown arms those that have
    intervals, where a study has any."""
    studies = [study for study in studies if not _of_scaling(study)]
    rows = []
    for study in studies:
        leading = _rows(study)
        if any(_has_interval(row) for row in leading if row[2]):
            leading = [row for row in leading if _has_interval(row) or not row[2]]
        rows += [[*row, PUBLISHED.get(study["name"], "") if row[2] else ""] for row in leading]
    table = markdown_table((*COLUMNS, "published for LiGO, sunk"), rows)
    return _paragraphs([table, f"*Made on* {_made(studies)}."])


def _paragraphs(parts: Sequence[str]) -> str:
    return "".join(f"{part}\n\n" for part in parts)


def _of_scaling(study: Json) -> bool:
    return str(study["name"]).startswith("scaling-")


def _has_interval(row: Sequence[str]) -> bool:
    return int(row[7]) >= FEWEST_FOR_INTERVAL


def differences(study: Json) -> Iterator[str]:
    """Figures of the arms that are not what the evaluations of their runs come to."""
    for arm in study["arms"]:
        runs = [run for run in study["runs"] if run["run"] in arm["runs"]]
        for key, of_run, unit in (
            ("final_loss", "final_loss_nats", "nats"),
            ("final_accuracy", "final_accuracy", "fraction"),
        ):
            if stated_there := arm.get(key):
                found = stated(estimate([run[arm["trains"]][of_run] for run in runs]), unit)
                if not _equal(found, stated_there):
                    yield f"{arm['arm']}: {key.replace('_', ' ')} {stated_there}, but its runs come to {found}"
        for run in runs:
            trained = run[arm["trains"]]
            if trained["final_loss_nats"] != trained["evaluations"]["loss"][-1]:
                yield f"{run['run']}: its final loss {trained['final_loss_nats']} is not that of its last evaluation"
        if arm["trains"] != "grown":
            continue
        again = _again(study, runs, "scratch")
        for row in arm["savings"]:
            key = row["scratch_share"], row["convention"], row["measure"]
            if not _equal(again.get(key), row["saving"]):
                yield f"{arm['arm']}: {' '.join(map(str, key))}: {row['saving']}, but its runs come to {again.get(key)}"


def _again(study: Json, runs: Sequence[Json], baseline: str) -> dict[tuple[float, str, str], Json | None]:
    """What grown runs saved against the runs of their size and seed that trained the baseline."""
    found = over_seeds([_ledger(study, run, baseline) for run in runs])
    return {key: None if saved is None else stated(saved, "fraction") for key, saved in found.items()}


def _ledger(study: Json, run: Json, baseline: str) -> list[TargetSaving]:
    same = [
        other for other in study["runs"]
        if baseline in other and (other["size"], other["seed"]) == (run["size"], run["seed"])
    ]  # fmt: skip
    same = [run] if baseline in run else same  # its own goes first
    if len(same) != 1:
        return []
    theirs = _points(same[0][baseline])
    return savings_by_target(
        _points(run["grown"]),
        theirs,
        targets(theirs, baseline),
        operator=Spent(**run["operator"]),
        small=Spent(**run["small_training"]),
    )


def _points(trained: Json) -> list[Point]:
    columns = trained["evaluations"]
    return [
        Point(*row)
        for row in zip(*(columns[name] for name in ("tokens", "flops", "wall_s", "loss")), strict=True)
    ]


def _rows(study: Json) -> list[list[str]]:
    """Of the table, size by size, the lowest final loss first."""
    rows, size_of = [], {run["run"]: run["size"] for run in study["runs"]}
    for arm in sorted(
        study["arms"], key=lambda arm: (size_of[arm["runs"][0]], arm["final_loss"]["mean_nats"])
    ):
        loss = _written(arm["final_loss"], "nats", "{:.4f}".format)
        if right := arm.get("final_accuracy"):
            loss += f"; {_written(right, 'fraction', units.percent)} right"
        saved = [""] * 4
        if arm["trains"] == "grown":
            found = {
                (row["scratch_share"], row["convention"], row["measure"]): row["saving"]
                for row in arm["savings"]
            }
            runs = [run for run in study["runs"] if run["run"] in arm["runs"]]
            reached = arm["reached_final_loss_of_scratch_seeds"] == len(arm["seeds"])
            at_start = MET_AT_START if arm["met_at_start_seeds"] else NOT_REACHED
            saved = [
                _written(found.get(key), "fraction", units.percent, absent)
                for key, absent in (
                    ((1.0, SUNK, "flops"), at_start),
                    ((1.0, CHARGED, "flops"), NOT_MEASURED if reached else NOT_REACHED),
                    ((1.0, SUNK, "tokens"), at_start),
                )
            ]
            short = _again(study, runs, "short")
            ledgers = [_ledger(study, run, "short") for run in runs]
            at_start = (
                MET_AT_START if any(rows and rows[-1].met_at_start for rows in ledgers) else NOT_REACHED
            )
            saved.append(
                _written(short.get((1.0, SUNK, "flops")), "fraction", units.percent, at_start)
                if all(ledgers)  # at each of its seeds
                else "not run"
            )
        rows.append([study["name"], arm["arm"], *saved, loss, str(len(arm["seeds"]))])
    return rows


def _written(found: Json | None, unit: str, write: Any, absent: str = NOT_REACHED) -> str:
    if found is None or found[f"mean_{unit}"] is None:
        return absent
    text, interval = write(found[f"mean_{unit}"]), found[f"interval_{unit}"]
    return text if interval is None else f"{text} [{', '.join(map(write, interval))}]"


def _equal(found: Any, other: Any) -> bool:
    """Plain data, numbers to the last few bits."""
    if isinstance(found, Mapping) and isinstance(other, Mapping):
        return found.keys() == other.keys() and all(_equal(found[key], other[key]) for key in found)
    if isinstance(found, list) and isinstance(other, list):
        return len(found) == len(other) and all(map(_equal, found, other))
    if isinstance(found, float) and isinstance(other, float):
        return abs(found - other) <= 1e-12 * max(1.0, abs(found))
    return bool(found == other)


def _made(studies: Sequence[Json]) -> str:
    """On what, and when."""
    made = [run["made"] for study in studies for run in study["runs"]]
    hardware = sorted({one["hardware"] for one in made if one["hardware"]})
    days = sorted({one["started"][:10] for one in made if one["started"]})
    return f"{', '.join(hardware) or 'unknown hardware'}, {' to '.join(dict.fromkeys((days[0], days[-1]))) if days else 'unknown date'}"


if __name__ == "__main__":
    main()
