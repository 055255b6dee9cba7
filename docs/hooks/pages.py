"""The pages that are made from the code: one for each operator and family, the commands, the Python reference."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docs.hooks import figures, pictures
from ligo.core.errors import PlanError
from ligo.families.base import FAMILIES, Family, family_of
from ligo.families.spec import Axis, TensorSpec, layout_key
from ligo.growth.plan import GrowthPlan, plan_growth
from ligo.operators.base import DEPTH_OPERATORS, WIDTH_OPERATORS, DepthOperator, WidthOperator
from ligo.operators.config import STARTS, Operator
from tests.families.tiny import RMS_DECODERS
from tests.families.tiny_others import OTHERS

REPO = Path(__file__).resolve().parents[2]

EXAMPLE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 8, "hidden_size": 4,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 2,
    "intermediate_size": 4, "max_position_embeddings": 8, "tie_word_embeddings": False,
}  # fmt: skip
"""The model of the pictures: a LLaMA with a residual stream of four coordinates."""

REFERENCE = {
    "growing": ("Growing", ("growth.plan", "growth.execute", "growth.write", "growth.verify")),
    "operators": ("Operators", ("operators.base", "operators.maps", "operators.factors", "operators.exactness")),
    "families": ("Families", ("families.base", "families.spec", "families.stock")),
    "checkpoints": ("Checkpoints", ("checkpoint.reader", "checkpoint.writer", "checkpoint.optimizer")),
    "accounting": (
        "Accounting",
        ("accounting.savings", "accounting.flops", "accounting.memory", "accounting.energy"),
    ),
    "options": (
        "Options",
        (
            "config", "operators.config", "learning.config", "data.config", "training.config", "tuning.config",
            "instruction.config", "tracking.config", "accounting.hardware", "sweeps.grid", "sweeps.submit",
        ),
    ),
    "core": ("Errors, runs, registries", ("core.errors", "core.run", "core.registry")),
}  # fmt: skip
"""Page of the Python reference: its title, and the modules whose public names it shows."""


def generated() -> Iterator[tuple[str, str]]:
    """Path below docs/ and Markdown of every page that is made."""
    yield "operators/index.md", operators_page()
    for registry in (WIDTH_OPERATORS, DEPTH_OPERATORS):
        for name in registry.names():
            yield f"operators/{name}.md", operator_page(name, registry.get(name))
    yield "families/index.md", families_page()
    for name in FAMILIES.names():
        yield f"families/{name}.md", family_page(name, FAMILIES.get(name))
    yield "api/index.md", reference_index()
    for page, (title, modules) in REFERENCE.items():
        yield (
            f"api/{page}.md",
            f"# {title}\n\n" + "\n\n".join(f"::: ligo.{module}" for module in modules) + "\n",
        )
    yield "commands.md", commands_page()
    yield "figures.md", figures_page()
    yield "changelog.md", (REPO / "CHANGELOG.md").read_text(encoding="utf-8")


def navigation() -> dict[str, list[Any]]:
    """The parts of the navigation that are made: folder -> its pages."""
    widths, depths = (
        [f"operators/{name}.md" for name in r.names()] for r in (WIDTH_OPERATORS, DEPTH_OPERATORS)
    )
    return {
        "operators": ["operators/index.md", {"Width": widths}, {"Depth": depths}],
        "families": ["families/index.md", *(f"families/{name}.md" for name in FAMILIES.names())],
        "api": ["api/index.md", *(f"api/{page}.md" for page in REFERENCE)],
    }


# --- operators ------------------------------------------------------------------------------------------


def operators_page() -> str:
    """All operators in two tables, and the named pairs of them."""
    parts = [
        "# Operators\n",
        "A width operator decides a map for every space, a depth operator which small layers make each target layer. "
        "`operator.width=` and `operator.depth=` compose freely; `operator=NAME` is a named pair. "
        "[Which operator when](../which-operator.md) says what to take.\n",
    ]
    for title, registry in (("Width", WIDTH_OPERATORS), ("Depth", DEPTH_OPERATORS)):
        parts += [f"## {title}\n", "| | | exact | from |", "|---|---|---|---|"]
        for name in registry.names():
            operator = registry.get(name)
            parts.append(
                f"| [{name}]({name}.md) | {_first_line(operator)} | {operator.exact_when} | {operator.reference} |"
            )
        parts.append("")
    parts += ["## Named pairs\n", "| `operator=` | width | depth |", "|---|---|---|"]
    parts += [
        f"| {name} | [{width}]({width}.md) | [{depth}]({depth}.md) |"
        for name, (width, depth) in STARTS.items()
    ]
    parts.append(
        "\n`operator=ligo` learns the maps from any of these (`operator.init=`), as LiGO does (Wang et al., ICLR 2023, "
        "arXiv 2303.00980). `operator=auto` tries `operator.candidates=` for `operator.trial_steps=` steps each and keeps "
        "the best (LAG, arXiv 2406.02469).\n"
    )
    return "\n".join(parts)


def operator_page(name: str, operator: type[WidthOperator] | type[DepthOperator]) -> str:
    """What an operator is, its picture, and where it is exact."""
    is_width = issubclass(operator, WidthOperator)
    pairs = [pair for pair, both in STARTS.items() if name in both]
    option = f"operator.{'width' if is_width else 'depth'}={name}"
    parts = [
        f"# {name}\n",
        f"{_first_line(operator)}\n",
        "| | |",
        "|---|---|",
        f"| option | `{option}` |",
        *([f"| in | {', '.join(f'`operator={pair}`' for pair in pairs)} |"] if pairs else []),
        f"| exact | {operator.exact_when} |",
        f"| from | {operator.reference} |",
        "",
        _module_text(operator),
        "",
        "\n".join(_width_pictures(operator) if is_width else _depth_pictures(operator)),
        "## Where it is exact\n",
        f"{_signs()}\n",
        f"| family | {'five shapes' if is_width else 'three layers from two'} |",
        "|---|---|",
        *(f"| {family} | {cells[name]} |" for family, cells in _matrix().items() if name in cells),
    ]
    return "\n".join(parts) + "\n"


def _width_pictures(operator: type[WidthOperator]) -> Iterator[str]:
    plan, shape = _example_plan(operator)
    yield f"## Its maps\n\nOn a LLaMA whose stream has four coordinates, grown to {shape} coordinates.\n"
    for space, words in (("residual", "the residual stream"), ("ffn", "the units of the FFN")):
        found = plan.maps.spaces.get(space) or plan.maps.spaces[f"{space}.0"]
        yield pictures.matrices(
            ("expand: writers", found.expand.matrix()),
            ("reduce: readers", found.reduce.matrix().T),
            caption=f"{words[0].upper()}{words[1:]}: how it is written, and how it is read.",
        )


def _example_plan(operator: type[WidthOperator]) -> tuple[GrowthPlan, int]:
    """The pictures' growth, to six coordinates or, where only whole ratios will do, to eight."""
    for size, heads in ((6, 3), (8, 4)):
        wanted = {"hidden_size": size, "num_heads": heads, "num_kv_heads": heads, "ffn_size": size}
        try:
            return plan_growth(EXAMPLE, wanted, Operator(operator(), DEPTH_OPERATORS.get("identity")())), size
        except PlanError:
            continue
    raise AssertionError(f"{operator} takes neither shape")


def _depth_pictures(operator: type[DepthOperator]) -> Iterator[str]:
    yield "## Its layers\n"
    for small, target in ((4, 8), (4, 6)):
        try:
            found = operator().layer_map(small, target)
        except PlanError:
            found = operator().layer_map(small, small)
        yield pictures.layers(
            found,
            caption=f"{found.num_small} layers (below) to {len(found.weights)} (above)"
            + ("; hollow ones begin as identity blocks." if found.identity_layers else "."),
        )
        if len(found.weights) == small:
            return


# --- families -------------------------------------------------------------------------------------------


def families_page() -> str:
    """All families in one table."""
    lines = [
        "# Families\n",
        "An architecture is a table of spaces and tensors by their names on disk. Every operator works on every family, "
        "or is refused with the reason ([the whole matrix](../matrix.md)).\n",
        "| | `model_type` | heads | norm | from |",
        "|---|---|---|---|---|",
    ]
    for name in FAMILIES.names():
        family = FAMILIES.get(name)
        lines.append(
            f"| [{name}]({name}.md) | {', '.join(f'`{t}`' for t in family.model_types)} | {', '.join(family.objectives)} | "
            f"{_norm(family)} | {family.reference} |"
        )
    return "\n".join(lines) + "\n\nA new one is [one file](../add-a-family.md).\n"


def family_page(name: str, family: type[Family]) -> str:
    """What a family covers, and its table for a tiny model."""
    model = _tiny_model(family)
    heads = ", ".join(f"`{ending}` ({objective})" for ending, objective in family.objectives.items())
    parts = [
        f"# {name}\n",
        f"{_first_line(family)}\n",
        "| | |",
        "|---|---|",
        f"| `model_type` | {', '.join(f'`{t}`' for t in family.model_types)} |",
        f"| heads | {heads} |",
        f"| norm | {_norm(family)} |",
        f"| from | {family.reference} |",
        "",
        _module_text(family),
        "\n## Spaces\n",
        "The axes that tensors share, in a tiny model of the tests:\n",
        "| space | units | |",
        "|---|---|---|",
        *(
            f"| {space.name} | {space.size} | {space.norm.value if space.norm else ''} |"
            for space in model.spaces.values()
        ),
        "\n## Tensors\n",
        "By their names on disk; of layers and experts, the first.\n",
        "| tensor | its axes | |",
        "|---|---|---|",
        *(_tensor_line(spec) for spec in model.tensors if not spec.layer and not spec.expert),
        "\n## Where growth is exact\n",
        f"{_signs()}\n",
        "| operator | five shapes, or three layers from two |",
        "|---|---|",
    ]
    for variant, cells in _matrix().items():
        if variant == name or (variant.startswith(f"{name} ") and variant not in FAMILIES.names()):
            parts += [
                f"| **{variant}** | |",
                *(f"| {operator} | {cell} |" for operator, cell in cells.items()),
            ]
    return "\n".join(parts) + "\n"


def _tiny_model(family: type[Family]) -> Family:
    models = (family_of(config) for config in {**RMS_DECODERS, **OTHERS}.values())
    return next(model for model in models if type(model) is family)


def _tensor_line(spec: TensorSpec) -> str:
    notes = [
        *([f"after `{spec.gain}`"] if spec.gain else []),
        *(["zero in identity blocks"] if spec.ends_block else []),
        *(["a lookup, which costs no FLOPs"] if spec.lookup else []),
        *([f"also `{alias}`" for alias in spec.aliases]),
    ]
    return f"| `{spec.name}` | {', '.join(map(_axis, spec.axes))} | {'; '.join(notes)} |"


def _axis(axis: Axis) -> str:
    words = {"write": "writes", "read": "reads", "gain": "gain on", "shift": "shift on"}[axis.role.value]
    return f"{words} {layout_key(axis.layout)}".replace("*", " x ")


def _norm(family: type[Family]) -> str:
    return family.norm.value + (", after each block" if family.post_norm else "")


# --- commands, reference, figures -----------------------------------------------------------------------


def commands() -> list[str]:
    """The commands, `python -m ligo.NAME`, in the order of the README."""
    order = ("grow", "plan", "launch", "sweep", "doctor", "report", "export", "sync", "tune", "instruct")
    runnable = [
        file.stem
        for file in sorted((REPO / "ligo").glob("*.py"))
        if '\nif __name__ == "__main__":' in file.read_text(encoding="utf-8")
    ]
    return sorted(runnable, key=lambda name: order.index(name) if name in order else len(order))


def help_of(name: str) -> str:
    """What `--help` of a command prints."""
    command = [sys.executable, "-m", f"ligo.{name}", "--help"]
    return subprocess.run(command, cwd=REPO, check=True, capture_output=True, text=True).stdout


def commands_page() -> str:
    """The help of every command."""
    parts = ["# Commands\n", "What `--help` says. Every key of every group can be set as `key=value`.\n"]
    for name in commands():
        parts += [f"## python -m ligo.{name}\n", f"```text\n{help_of(name).strip()}\n```\n"]
    return "\n".join(parts)


def figures_page() -> str:
    """All measured figures."""
    return (
        "# Measured figures\n\n"
        "Every row of `benchmarks/results/`, with what it was meant to reach. What was not reached is said; what needs a "
        "GPU has no number until one has measured it. `make bench-demo` and the other `bench-` targets measure anew.\n\n"
        f"{figures.all_rows()}"
    )


def reference_index() -> str:
    """Which page has which module."""
    lines = ["# Python\n", "`import ligo` needs no torch; what does is imported where it is used.\n"]
    for page, (title, modules) in REFERENCE.items():
        lines.append(f"* [{title}]({page}.md): " + ", ".join(f"`ligo.{module}`" for module in modules))
    return "\n".join(lines) + "\n"


# --- texts ----------------------------------------------------------------------------------------------


def _first_line(thing: type) -> str:
    return (inspect.getdoc(thing) or "").splitlines()[0]


def _module_text(thing: type) -> str:
    """The docstring of the module; its indented and tabular lines stay as they are."""
    text = inspect.getdoc(inspect.getmodule(thing)) or ""
    blocks = [
        f"```text\n{block}\n```" if re.search(r"\S {3,}\S", block) or block.startswith("    ") else block
        for block in text.split("\n\n")
    ]
    return "\n\n".join(blocks)


def _matrix() -> dict[str, dict[str, str]]:
    """Variant of a family -> operator -> its cell, out of docs/matrix.md, which tests hold to measurements."""
    cells: dict[str, dict[str, str]] = {}
    names: list[str] = []
    for line in (REPO / "docs" / "matrix.md").read_text(encoding="utf-8").splitlines():
        parts = [part.strip() for part in line.strip("|").split("|")]
        if line.startswith("| | ") and len(parts) > 2:
            names = parts[1:]
        elif line.startswith("| ") and len(parts) == len(names) + 1 and names:
            cells.setdefault(parts[0], {}).update(zip(names, parts[1:], strict=True))
    return cells


def _signs() -> str:
    return (
        "● exact, ≈ approximate, ✗ refused, for [2x, 2x width, uneven width, depth only, heads only](../matrix.md#the-shapes), "
        "each held to a measurement in float64."
    )
