"""The page of the matrix, docs/matrix.md: python -m tests.contract.page

What it says is what `matrix.declared` says, and `test_contract.py` holds every cell of that to measurements.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ligo.operators.base import DEPTH_OPERATORS, WIDTH_OPERATORS
from tests.contract.matrix import DEPTHS, FAMILIES, RATIOS, WIDTHS, Outcome, declared, wanted

PAGE = Path(__file__).resolve().parents[2] / "docs" / "matrix.md"
_SIGNS = {"exact": "●", "approximate": "≈", "refused": "✗"}

INTRODUCTION = f"""# Operators x families

Every width operator on every family at {len(RATIOS)} shapes, and every depth operator; made by `python -m tests.contract.page`.

| | |
|---|---|
| {_SIGNS["exact"]} | exact: the grown model computes the small one's function, noise included: logits equal to 1e-12 in float64 |
| {_SIGNS["approximate"]} | approximate: it does not, by more than 1e-7 |
| {_SIGNS["refused"]} | refused before any weight is read, with the rule that is broken |

Each cell is declared from shapes alone, and `tests/contract` holds it to what is measured on tiny random models. The
signs of a cell stand for, in this order: {", ".join(RATIOS)}. Uneven is 1.25 times wide (1.5 times with grouped
heads); the sizes are at the end. Where the size of a head is hidden size / heads, the stream grows with the heads.
"""


def render() -> str:
    """The page as Markdown."""
    reasons: dict[str, None] = {}
    parts = [INTRODUCTION, "## Width operators (depth: zero_block)\n"]
    parts.append(
        _table(WIDTHS, lambda family, width: {r: declared(family, r, width) for r in RATIOS}, reasons)
    )
    parts.append("## Depth operators (width: unchanged)\n")
    parts.append(
        _table(
            DEPTHS,
            lambda family, depth: {"depth only": declared(family, "depth only", "scaled_duplication", depth)},
            reasons,
        )
    )
    parts.append("## Why not\n\nThe reasons behind every cell that is not exact, as the plan prints them:\n")
    parts.append("\n".join(f"* {reason}" for reason in sorted(reasons)) + "\n")
    parts.append("## Where the operators come from\n")
    parts += [
        "\n".join(f"* `{name}`: {registry.get(name).reference}" for name in registry.names()) + "\n"
        for registry in (WIDTH_OPERATORS, DEPTH_OPERATORS)
    ]
    parts.append("## The shapes\n")
    parts.append(
        "\n".join(
            f"* {family}: " + "; ".join(f"{r}: {_sizes(wanted(family, r))}" for r in RATIOS)
            for family in FAMILIES
        )
    )
    return "\n".join(parts) + "\n"


def _table(operators: Iterable[str], outcomes_of, reasons: dict[str, None]) -> str:  # type: ignore[no-untyped-def]
    names = list(operators)
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for family in FAMILIES:
        cells = []
        for name in names:
            outcomes = outcomes_of(family, name)
            cells.append(_cell(outcomes))
            for outcome in outcomes.values():
                if outcome.verdict != "exact":
                    reasons |= {reason: None for reason in _reasons(outcome)}
        lines.append(f"| {family} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(outcomes: dict[str, Outcome]) -> str:
    return " ".join(_SIGNS[outcome.verdict] for outcome in outcomes.values())


def _reasons(outcome: Outcome) -> Iterable[str]:
    if outcome.verdict == "refused":
        return ["refused: " + " ".join(outcome.reasons[0].split("\n")[0].split())]
    return outcome.reasons


def _sizes(sizes: dict[str, int]) -> str:
    return ", ".join(f"{key} {size}" for key, size in sizes.items())


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
