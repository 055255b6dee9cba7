"""The options of the `operator` group, and the operator that they stand for."""

from __future__ import annotations

from dataclasses import dataclass

from ligo.core.checks import check_between
from ligo.core.errors import ConfigError, nearest
from ligo.operators.base import (
    DEPTH_OPERATORS,
    WIDTH_OPERATORS,
    DepthOperator,
    Exactness,
    Shapes,
    WidthOperator,
)
from ligo.operators.maps import GrowthMaps


@dataclass(kw_only=True)
class OperatorConfig:
    """`operator=...`: a width operator and a depth operator, and whether their maps are then learned."""

    name: str = "exact"
    width: str | None = None
    """Width operator. null: that of init, else scaled_duplication."""
    depth: str | None = None
    """Depth operator. null: that of init, else zero_block."""
    noise: float = 1.0
    """Null-space noise, in units of the target's fresh-init deviation; 0 keeps copies equal for ever."""
    init: str | None = None
    """Learned operators: the unlearned operator to start from. None: this operator is not learned."""
    steps: int = 40
    """Learned operators: gradient steps."""
    batch_tokens: int = 2048
    """Learned operators: tokens per step."""
    eta: float = 0.05
    """Learned operators: relative (spectral) step size; a map of r x c entries learns at eta / sqrt(r c)."""
    depth_lr: float = 2e-3
    """Learned operators: learning rate of the depth coefficients."""
    warmup_fraction: float = 0.1
    """Learned operators: part of the steps spent warming up; a cosine to zero follows."""
    evaluate_every: int = 20
    """Learned operators: steps between evaluations; the best maps seen are kept."""


def check(config: OperatorConfig) -> None:
    """Refuse values outside their range.

    Raises:
        ConfigError: the key, the value and the range are named.
    """
    check_between("operator.noise", config.noise, 0)
    if config.init is not None:
        for key in ("steps", "batch_tokens", "eta", "evaluate_every"):
            check_between(f"operator.{key}", getattr(config, key), 0, above=True)
        check_between("operator.depth_lr", config.depth_lr, 0)
        check_between("operator.warmup_fraction", config.warmup_fraction, 0, 1)


STARTS = {
    "exact": ("scaled_duplication", "zero_block"),
    "stack": ("scaled_duplication", "stack"),
    "interpolate": ("scaled_duplication", "interpolate"),
    "pad": ("pad", "zero_block"),
    "hypercloning": ("hypercloning", "zero_block"),
    "bert2bert": ("net2net", "stack"),
    "solar": ("scaled_duplication", "solar"),
    "midas": ("scaled_duplication", "middle"),
}
"""Named pairs of (width, depth) operator."""


@dataclass(frozen=True)
class Operator:
    """A width operator and a depth operator together."""

    width: WidthOperator
    depth: DepthOperator

    def maps(self, shapes: Shapes) -> GrowthMaps:
        """The maps at the start of growth.

        Raises:
            PlanError: the shapes cannot be grown this way.
        """
        layers = self.depth.layer_map(shapes.small.num_layers, shapes.target.num_layers)
        return GrowthMaps(self.width.space_maps(shapes), layers)

    def exactness(self, shapes: Shapes) -> Exactness:
        depth = self.depth.exactness(shapes.small.num_layers, shapes.target.num_layers)
        return self.width.exactness(shapes) & depth

    def references(self) -> list[str]:
        return [str(self.width.reference), str(self.depth.reference)]


def build(config: OperatorConfig) -> Operator:
    """The operator of a config; for a learned one, the operator that it starts from.

    Raises:
        ConfigError: an unknown start, width or depth operator.
    """
    start = config.init or "exact"
    if start not in STARTS:
        raise ConfigError(
            f"operator.init={start} is not an operator to start from.\n"
            f"  Known: {', '.join(STARTS)}.\n  Try: operator.init={nearest(start, STARTS) or 'exact'}"
        )
    width, depth = STARTS[start]
    return Operator(
        WIDTH_OPERATORS.get(config.width or width)(), DEPTH_OPERATORS.get(config.depth or depth)()
    )
