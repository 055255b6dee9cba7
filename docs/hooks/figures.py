"""The numbers of the pages: each is read from a committed result when the site is built, so none can drift."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


@cache
def result(topic: str) -> dict[str, Any]:
    """One file of benchmarks/results."""
    return json.loads((RESULTS / f"{topic}.json").read_text(encoding="utf-8"))


def row(topic: str, name: str) -> Any:
    """The value of a row, by its name."""
    return result(topic)["rows"][name]["value"]


def percent(topic: str, name: str) -> str:
    """A row as percent, one decimal."""
    return f"{100 * row(topic, name):.1f} %"


def loss(name: str) -> str:
    """A validation loss of the demo, in nats per token."""
    return f"{result('demo')['validation_losses'][name]:.3f}"


def measured_on(topic: str) -> str:
    """Where, when and with what a topic was measured."""
    found = result(topic)
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return f"{found['hardware']}, {found['date']}; {versions}"


def all_rows() -> str:
    """Every row of every result as Markdown."""
    parts = []
    for file in sorted(RESULTS.glob("*.json")):
        topic = file.stem
        if "rows" not in result(topic):
            continue
        parts += [
            f"## {topic}\n",
            f"{measured_on(topic)}.\n",
            "| | measured | to reach | |",
            "|---|---|---|---|",
        ]
        for name, found in result(topic)["rows"].items():
            sign = {True: "✓", False: "not reached", None: ""}[found["ok"]]
            parts.append(f"| {name} | {_value(found['value'])} | {_cell(found['reach'])} | {sign} |")
        parts.append("")
    return "\n".join(parts)


def studies() -> str:
    """What the studies found, as Markdown."""
    from experiments import tables

    return tables.tables(tables.results())


def compatibility() -> str:
    """The tests that ran with the lowest and with the highest versions, as Markdown."""
    found = result("compat")
    ends = found["ends"]
    lines = ["| package | range | " + " | ".join(ends) + " |", "|---|---|" + "---|" * len(ends)]
    for package, asked in found["ranges"].items():
        versions = " | ".join(end["versions"].get(package, "-") for end in ends.values())
        lines.append(f"| {package} | `{asked}` | {versions} |")
    passed = " | ".join(f"{end['passed']} passed, {end['failed']} failed" for end in ends.values())
    return "\n".join([*lines, f"| tests | | {passed} |"])


def _value(value: Any) -> str:
    if value is None:
        return "no GPU here"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1e5 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else _cell(value)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("<", "&lt;")
