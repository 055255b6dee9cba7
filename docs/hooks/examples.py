"""The pictures of `how-growth-works.md`, drawn from the operators' own maps."""

from __future__ import annotations

from docs.hooks import pictures
from docs.hooks.pages import EXAMPLE
from ligo.growth.plan import plan_growth
from ligo.operators.base import DEPTH_OPERATORS
from ligo.operators.config import OperatorConfig, build


def picture(name: str) -> str:
    """One picture, by the name of a function below."""
    return {"width": width, "depth": depth, "learning": learning, "whole": whole}[name]()


def width() -> str:
    """The worked example: a stream of two coordinates, grown to three."""
    sizes = {"hidden_size": 2, "head_dim": 2, "num_attention_heads": 1, "num_key_value_heads": 1}
    small = {**EXAMPLE, **sizes, "intermediate_size": 2}
    plan = plan_growth(small, {"hidden_size": 3}, build(OperatorConfig()))
    found = plan.maps.spaces["residual"]
    expand, reduce = found.expand.matrix(), found.reduce.matrix().T
    return pictures.matrices(
        ("expand", expand),
        ("reduce", reduce),
        ("reduce · expand", reduce @ expand),
        caption="Two coordinates to three, exact under RMSNorm: the first coordinate gets two copies of 0.87, the second one "
        "of 1.22, and reading undoes writing.",
    )


def depth() -> str:
    """Three ways from four layers to eight."""
    shown = {
        "zero_block": "zero_block: every second layer begins as an identity block (hollow). Exact.",
        "stack": "stack: the whole stack once more on top of itself. Not exact.",
        "interpolate": "interpolate: each layer repeated in place. Not exact.",
    }
    return "".join(
        pictures.layers(DEPTH_OPERATORS.get(name)().layer_map(4, 8), caption=caption)
        for name, caption in shown.items()
    )


def whole() -> str:
    """The way of a run."""
    return pictures.flow(
        [
            ("plan\nshapes alone", "learn\nthe maps", "write\na stock folder", "verify\nagainst the small"),
            ("train\nthe grown model", "scratch\nthe baseline", "report\nwhat it saved"),
        ],
        caption="The stages of python -m ligo.grow; each can be left out, and a run goes on where it was cut.",
    )


def learning() -> str:
    """What is frozen and what moves while an operator is learned."""
    return pictures.flow(
        [
            ("maps\nlearned", "grown layer\nmade from frozen\nsmall layers", "loss of\nthe text"),
            ("gradients reach\nthe maps alone", "best maps seen\nare kept", "write with\nthese maps"),
        ],
        caption="Learning an operator: the small model is frozen, the large one is made layer by layer and never held whole.",
    )
