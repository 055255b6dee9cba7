"""The options of the `operator` group, and the operator that they stand for."""

from __future__ import annotations

from dataclasses import dataclass, field

from ligo.core.checks import check_between, check_choice
from ligo.core.errors import ConfigError, nearest
from ligo.operators.base import DEPTH_OPERATORS, WIDTH_OPERATORS, DepthOperator, Shapes, WidthOperator
from ligo.operators.exactness import check_gains
from ligo.operators.maps import GrowthMaps
from ligo.operators.noise_level import NOISE_UNITS, NoiseLevel

FORMS = ("dense", "new_rows", "low_rank", "vera")
OPTIMIZERS = ("adamw", "muon")
OPTIMIZER_STATES = ("reset", "keep_old", "grow")


@dataclass(kw_only=True)
class OperatorConfig:
    """`operator=...`: a width operator and a depth operator, and whether their maps are then learned."""

    name: str = "exact"
    width: str | None = None
    """Width operator. null: that of init, else scaled_duplication."""
    depth: str | None = None
    """Depth operator. null: that of init, else zero_block."""
    noise: float = 1.0
    """Null-space noise, in the unit below; 0 keeps copies equal for ever."""
    noise_unit: str = "own"
    """own: what answers as large as the small model's tensor does; fresh: the target's fresh-init deviation."""
    optimizer_state: str = "reset"
    """The small run's Adam moments: reset, keep_old (zero for new coordinates) or grow (by the same maps)."""
    init: str | None = None
    """Learned operators: the unlearned operator to start from. None: this operator is not learned."""
    form: str = "dense"
    """Learned operators: what of a map is learned: dense, new_rows ([I; M]), low_rank (start + U V^T) or vera."""
    rank: int = 16
    """Learned operators: rank of low_rank and vera."""
    per_layer: bool = False
    """Learned operators: maps of heads and FFN of each target layer's own, instead of shared by all layers."""
    steps: int = 40
    """Learned operators: gradient steps."""
    batch_tokens: int = 2048
    """Learned operators: tokens per step."""
    eta: float = 0.05
    """Learned operators: relative (spectral) step size; a map of r x c entries learns at eta / sqrt(r c)."""
    optimizer: str = "adamw"
    """Learned operators: adamw, or muon (maps by Muon, whose steps are near orthogonal, of spectral norm eta; the
    rest by AdamW)."""
    lr: float | None = None
    """Learned operators: one learning rate for all maps instead of eta, as in the original recipe."""
    depth_lr: float = 2e-3
    """Learned operators: learning rate of the depth coefficients; 0: layers stay mixed as the start mixes them."""
    warmup_fraction: float = 0.1
    """Learned operators: part of the steps spent warming up; a cosine to zero follows."""
    evaluate_every: int = 20
    """Learned operators: steps between evaluations; the best maps seen are kept."""
    candidates: list[str] = field(default_factory=list)
    """operator=auto: the operators to try; each is trained for `trial_steps` steps, and the best goes on."""
    trial_steps: int = 20
    """operator=auto: training steps that each candidate gets."""

    @property
    def noise_level(self) -> NoiseLevel:
        return NoiseLevel(self.noise, self.noise_unit)


def check(config: OperatorConfig) -> None:
    """Refuse values outside their range.

    Raises:
        ConfigError: the key, the value and the range are named.
    """
    check_between("operator.noise", config.noise, 0)
    for key, choices in (
        ("noise_unit", NOISE_UNITS), ("form", FORMS), ("optimizer", OPTIMIZERS), ("optimizer_state", OPTIMIZER_STATES),
    ):  # fmt: skip
        check_choice(f"operator.{key}", getattr(config, key), choices)
    if config.init is not None:
        if config.name in STARTS and config.name != "ligo_original":
            raise ConfigError(
                f"operator={config.name} is not learned, and operator.init={config.init} says what maps are learned from.\n"
                f"  Try: operator=ligo operator.init={config.init}, or operator={config.name} operator.init=null"
            )
        for key in ("steps", "batch_tokens", "eta", "evaluate_every", "rank"):
            check_between(f"operator.{key}", getattr(config, key), 0, above=True)
        if config.lr is not None:
            check_between("operator.lr", config.lr, 0, above=True)
        check_between("operator.depth_lr", config.depth_lr, 0)
        check_between("operator.warmup_fraction", config.warmup_fraction, 0, 1)
    if config.name == "auto" or config.candidates:
        check_between("operator.trial_steps", config.trial_steps, 0, above=True)
        if len(set(config.candidates)) < max(2, len(config.candidates)):
            raise ConfigError(
                f"operator.candidates={config.candidates} leaves nothing to choose: it must name two operators or more, "
                "each once.\n  Try: operator.candidates=[exact,stack]"
            )
        if config.width or config.depth or config.init:
            raise ConfigError(
                "operator.width, operator.depth and operator.init cannot be set beside operator.candidates, each of "
                "which has its own.\n  Try: leave them out"
            )
        for candidate in config.candidates:
            _pair(candidate, "operator.candidates")


STARTS = {
    "exact": ("scaled_duplication", "zero_block"),
    "stack": ("scaled_duplication", "stack"),
    "interpolate": ("scaled_duplication", "interpolate"),
    "pad": ("pad", "zero_block"),
    "hypercloning": ("hypercloning", "zero_block"),
    "lemon": ("lemon", "zero_block"),
    "isometry": ("isometry", "zero_block"),
    "bert2bert": ("aki", "stack"),
    "fpi": ("net2net", "stack"),
    "net2net": ("net2net", "zero_block"),
    "solar": ("scaled_duplication", "solar"),
    "midas": ("scaled_duplication", "middle"),
    "stackbert": ("scaled_duplication", "stack"),
    "g_stack": ("scaled_duplication", "stack"),
    "llama_pro": ("scaled_duplication", "zero_block"),
    "staged": ("hypercloning", "interpolate"),
    "random": ("random", "stack"),
    "shrink_perturb": ("shrink_perturb", "stack"),
    "ligo_original": ("original_rows", "noisy_stack"),
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
        layers = self.depth.layer_map(shapes.small.dims.num_layers, shapes.target.dims.num_layers)
        maps = GrowthMaps(self.width.space_maps(shapes), layers, self.width.fill(shapes))
        check_gains(shapes, maps, WIDTH_OPERATORS.name_of(type(self.width)))
        return maps

    def references(self) -> list[str]:
        return [str(self.width.reference), str(self.depth.reference)]


def build(config: OperatorConfig, chosen: str | None = None) -> Operator:
    """The operator of a config; for a learned one, the operator that it starts from.

    Args:
        chosen: operator=auto: one of the candidates; None: the first.

    Raises:
        ConfigError: an unknown start, width or depth operator.
    """
    candidate = chosen or next(iter(config.candidates), None)
    width, depth = _pair(candidate or config.init or "exact", "operator.init")
    return Operator(
        WIDTH_OPERATORS.get(config.width or width)(), DEPTH_OPERATORS.get(config.depth or depth)()
    )


def _pair(name: str, option: str) -> tuple[str, str]:
    if name not in STARTS:
        raise ConfigError(
            f"{option}={name} is not an operator to start from.\n"
            f"  Known: {', '.join(STARTS)}.\n  Try: {option}={nearest(name, STARTS) or 'exact'}"
        )
    return STARTS[name]
