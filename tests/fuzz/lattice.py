"""Random pairs of a small model and a target over all families, with a random operator: grown and right, or refused with the rule."""

from __future__ import annotations

import random
import traceback
from contextlib import suppress
from typing import Any

from ligo.core.errors import LigoError
from ligo.families.base import Family, family_of
from ligo.growth.plan import plan_growth
from tests.contract.matrix import DEPTHS, FAMILIES, WIDTHS
from tests.faults.tally import Tally
from tests.growing import EXACT_FLOAT64, grow_model, operator

SIZES = {
    "hidden_size": (32, 36, 40, 48, 60, 64, 72, 80, 96), "num_heads": (4, 5, 6, 8, 9, 10, 12), "num_kv_heads": (1, 2, 3, 4, 5, 6, 8),
    "head_dim": (8, 10, 12, 16), "ffn_size": (48, 50, 64, 72, 96, 100), "num_layers": (2, 3, 4, 5), "vocab_size": (96, 97, 128),
    "num_experts": (2, 4, 6, 8),
}  # fmt: skip
"""Of small models and targets: small enough for a test, with and without common divisors."""


def random_sizes(draw: random.Random, family: Family, least: int) -> dict[str, int]:
    """Some of the sizes that the family has, none below its own."""
    dims = {key: getattr(family.dims, key) for key in SIZES}
    if draw.random() < 0.5:
        return {
            **together(draw, dims),
            **({"num_layers": dims["num_layers"] + draw.randint(1, 3)} if draw.random() < 0.5 else {}),
        }
    there = [key for key, size in dims.items() if size]
    chosen = draw.sample(there, draw.randint(least, len(there)))
    wanted = {
        key: draw.choice([size for size in SIZES[key] if size >= dims[key]] or [dims[key]]) for key in chosen
    }
    if "hidden_size" in wanted and draw.random() < 0.6:  # heads that go with it, as most models have
        wanted["num_heads"] = max(dims["num_heads"], wanted["hidden_size"] // 8)
        if dims["num_kv_heads"] == dims["num_heads"]:
            wanted["num_kv_heads"] = wanted["num_heads"]
    return wanted


def together(draw: random.Random, dims: dict[str, int]) -> dict[str, int]:
    """Width and heads larger by one factor, as a person would have them; the feed-forward block by another."""
    factor, other = draw.choice((1.25, 1.5, 2, 3)), draw.choice((1, 1.25, 1.5, 2, 3))
    wanted = {key: round(dims[key] * factor) for key in ("hidden_size", "num_heads")}
    groups = dims["num_heads"] // (dims["num_kv_heads"] or dims["num_heads"])
    wanted["num_heads"] -= wanted["num_heads"] % groups
    if dims["num_kv_heads"] and dims["num_heads"] != dims["num_kv_heads"]:
        wanted["num_kv_heads"] = wanted["num_heads"] // groups
    return {**wanted, "ffn_size": round(dims["ffn_size"] * other)}


def random_small(draw: random.Random) -> tuple[str, dict[str, Any]]:
    """A family's tiny config, or one that the family can have with other sizes."""
    name = draw.choice(sorted(FAMILIES))
    config = FAMILIES[name]
    if draw.random() < 0.5:
        with suppress(LigoError):  # where those sizes cannot be, the tiny one
            config = plan_growth(config, random_sizes(draw, family_of(config), 1), operator()).target_config
    return name, config


def shape_lattice(tally: Tally, trials: int, seed: int = 0) -> None:
    """Each pair is grown and, where that is declared exact, equal in float64; or refused with what to type instead."""
    draw = random.Random(seed)
    outcomes = {"exact": 0, "approximate": 0, "refused": 0}
    families = set[str]()
    for _ in range(trials):
        name, config = random_small(draw)
        families.add(name)
        wanted = random_sizes(draw, family_of(config), 1)
        width, depth = draw.choice(WIDTHS), draw.choice(DEPTHS)
        what = f"{name} -> {wanted}, {width}, {depth}"
        try:
            plan = plan_growth(config, wanted, operator(width, depth))
        except LigoError as refusal:
            outcomes["refused"] += 1
            tally.count("Try: " in str(refusal), f"{what}: {refusal}")
            continue
        except Exception:
            tally.count(False, f"{what}: {traceback.format_exc()[-900:]}")
            continue
        try:
            difference = grow_model(plan).difference()  # finite, and every tensor of the stock model there
        except Exception:
            tally.count(False, f"{what}: {traceback.format_exc()[-900:]}")
            continue
        verdict = "exact" if plan.exactness.exact else "approximate"
        outcomes[verdict] += 1
        tally.count(
            verdict == "approximate" or difference <= EXACT_FLOAT64, f"{what}: {verdict}, {difference:.1e}"
        )
    tally.notes |= {**outcomes, "families": len(families)}
