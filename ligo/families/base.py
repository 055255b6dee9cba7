"""What every family answers, and how a checkpoint finds its family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from ligo.core.errors import CheckpointError, PlanError
from ligo.core.registry import Registry
from ligo.families.spec import Dims, Space, TensorSpec


class Family(Protocol):
    """One architecture, described in on-disk names; configs are `config.json` as a dict."""

    model_types: tuple[str, ...]
    """The `model_type` values of config.json that this family covers."""

    def dims(self, config: Mapping[str, Any]) -> Dims:
        """Sizes from a `config.json`."""
        ...

    def spaces(self, dims: Dims) -> dict[str, Space]:
        """The spaces of a model of these sizes, by name."""
        ...

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        """Every tensor on disk, in file order; a tied head is not on disk."""
        ...

    def target_config(self, config: Mapping[str, Any], dims: Dims) -> dict[str, Any]:
        """The small model's `config.json` with the target's sizes.

        Raises:
            PlanError: the sizes break a rule of the architecture.
        """
        ...

    def attention_flops(self, dims: Dims, sequence_length: int) -> int:
        """Forward FLOPs per token of the two attention products, over the full (unmasked) length."""
        ...


FAMILIES: Registry[type[Family]] = Registry("family", "ligo.families")


def known_model_types() -> dict[str, type[Family]]:
    """`model_type` -> family, over all families."""
    return {t: FAMILIES.get(name) for name in FAMILIES.names() for t in FAMILIES.get(name).model_types}


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a `config.json`.

    Raises:
        CheckpointError: there is no `model_type`, or no family for it; the message lists those there are.
    """
    known = known_model_types()
    model_type = config.get("model_type")
    if model_type not in known:
        raise CheckpointError(
            f"no family is known for model_type {model_type!r}: its spaces and tensors are not described.\n"
            f"  Known model types: {', '.join(sorted(known))}.\n"
            f"  Try: a checkpoint whose config.json names one of these"
        )
    return known[model_type]()


def parameter_count(family: Family, dims: Dims) -> int:
    """Parameters on disk (a tied head counts once)."""
    spaces = family.spaces(dims)
    return sum(spec.num_elements(spaces) for spec in family.tensors(dims))


def target_dims(small: Dims, wanted: Mapping[str, int | None]) -> Dims:
    """The small model's sizes with those in `wanted` that are not None put in their place.

    Raises:
        PlanError: the target is smaller than the small model anywhere, with every such size named.
    """
    chosen = {key: value for key, value in wanted.items() if value is not None}
    target = Dims(**{**small.__dict__, **chosen})
    sizes = ("num_layers", "hidden_size", "num_heads", "num_kv_heads", "ffn_size")
    shrunk = [
        f"{key} {getattr(small, key)} -> {getattr(target, key)}"
        for key in sizes
        if getattr(target, key) < getattr(small, key)
    ]
    if shrunk:
        raise PlanError(
            f"the target is smaller than the small model: {', '.join(shrunk)}.\n"
            "  Growth only adds units; nothing is ever cut away.\n"
            "  Try: a larger target, or swap small= and target="
        )
    return target
