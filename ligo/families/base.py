"""What every family answers, and how a checkpoint finds its family.

A family object describes *one* model: `family_of(config)` reads a `config.json`, and `.dims`, `.spaces` and
`.tensors` say what that model is made of. The target of a growth is described by an object of its own.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

from ligo.core.errors import CheckpointError, PlanError
from ligo.core.registry import Registry
from ligo.families.spec import (
    HEADS,
    KEY_DIM,
    KV_HEADS,
    QUERY_DIM,
    VALUE_DIM,
    Axis,
    Dims,
    Norm,
    Space,
    TensorSpec,
)


class Family(ABC):
    """One model of one architecture, described in on-disk names; configs are `config.json` as a dict.

    A family is a class with the constants below, `spaces` and `tensors`.
    """

    model_types: ClassVar[tuple[str, ...]]
    """The `model_type` values of config.json that this family covers."""
    reference: ClassVar[str]
    """Where the architecture was published."""
    norm: ClassVar[Norm]
    """What the residual stream goes through."""
    post_norm: ClassVar[bool] = False
    """True where the residual stream itself is normed after each addition (BERT), so that no layer can be
    made to do nothing."""
    objectives: ClassVar[Mapping[str, str]] = {"ForCausalLM": "causal_lm"}
    """End of the class name in `architectures` -> what that head is trained on: causal_lm, masked_lm,
    classes or image_classes; none for a model without a head. The first is taken where config.json names no class."""
    body: ClassVar[str] = "model"
    """What names below the head begin with (`base_model_prefix` of transformers); without a head they lack it."""
    other_heads: ClassVar[tuple[str, ...]] = ()
    """What names of other heads begin with: such tensors are left out where the model's own head is not theirs."""
    size_keys: ClassVar[Mapping[str, str]] = {
        "num_layers": "num_hidden_layers",
        "hidden_size": "hidden_size",
        "num_heads": "num_attention_heads",
        "ffn_size": "intermediate_size",
        "vocab_size": "vocab_size",
    }
    """Size -> key in config.json, for the sizes that every model must have."""
    kv_heads_key: ClassVar[str | None] = None
    """Key of the number of key/value heads; None: every query head has its own."""
    head_dim_key: ClassVar[str | None] = None
    """Key of the size of a head; None: it is hidden_size / heads, and cannot be chosen."""
    per_layer_keys: ClassVar[tuple[str, ...]] = ("layer_types",)
    """Keys of config.json that hold a list with an entry for each layer."""
    defaults: ClassVar[Mapping[str, Any]] = {}
    """What the configuration class of transformers fills in where config.json has no such key."""
    deviation_key: ClassVar[str] = "initializer_range"
    """Key of the deviation that fresh weights are drawn with."""
    dense_model_types: ClassVar[tuple[str, ...]] = ()
    """Mixtures of experts: the `model_type` values of dense models that can grow into one."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """
        Raises:
            CheckpointError: the config lacks a size, or describes a variant that this family does not.
        """
        self.config: dict[str, Any] = dict(config)
        self._check_forms()
        self.check_variant()
        self.dims = self._dims()
        self.architecture  # noqa: B018 - a head that is not known is refused now

    # --- what a family file says -------------------------------------------------------------------

    @abstractmethod
    def _spaces(self) -> list[Space]:
        """The spaces of this model, in the order in which they are shown."""

    @abstractmethod
    def _tensors(self) -> list[TensorSpec]:
        """Every tensor on disk, in file order; a tied head is not on disk."""

    def check_variant(self) -> None:  # noqa: B027 - most families describe all their variants
        """Refuse a config that this file does not describe.

        Raises:
            CheckpointError: the key, its value, and what to use instead.
        """

    def check_target(self, target: Family) -> None:  # noqa: B027 - most have no rule of their own
        """Refuse a target that breaks a rule of the architecture beyond those of `resized`.

        Raises:
            PlanError: the rule is named.
        """

    @classmethod
    def config_from_dense(cls, small: Family, dims: Dims) -> dict[str, Any]:
        """Mixtures of experts: the `config.json` of one whose experts are all copies of a dense model's block.

        Raises:
            PlanError: the dense model has something that this mixture cannot have; this is no mixture.
        """
        known = (f"{dense} -> {mixture.model_types[0]}" for dense, mixture in sorted(mixtures().items()))
        raise PlanError(
            f"target.num_experts={dims.num_experts}: no mixture of experts takes the tensors of {small.name} models.\n"
            f"  Known: {', '.join(known)}.\n  Try: leave target.num_experts out"
        )

    # --- what follows from it ----------------------------------------------------------------------

    @cached_property
    def spaces(self) -> dict[str, Space]:
        """By name, in the order in which they are shown."""
        return {space.name: space for space in self._spaces()}

    @cached_property
    def tensors(self) -> list[TensorSpec]:
        """Every tensor on disk, in file order."""
        return self._tensors()

    @cached_property
    def by_name(self) -> dict[str, TensorSpec]:
        return {spec.name: spec for spec in self.tensors}

    @property
    def num_parameters(self) -> int:
        """Parameters on disk (a tied head counts once)."""
        return sum(spec.num_elements(self.spaces) for spec in self.tensors)

    @property
    def architecture(self) -> str:
        """End of the class name in `architectures`: which head the model has."""
        classes = self.config.get("architectures") or [""]
        named = str((classes[0] if isinstance(classes, list) else classes) or "")
        endings = [ending for ending in self.objectives if named.endswith(ending)]
        if named and not endings:
            raise CheckpointError(
                f"config.json names the class {named}, and of {self.name} models ligo knows those with "
                f"{', '.join(self.objectives)}.\n  Try: load it with one of these classes and save it again"
            )
        return endings[0] if endings else next(iter(self.objectives))

    @property
    def objective(self) -> str:
        """What this model's head is trained on."""
        return self.objectives[self.architecture]

    @property
    def has_head(self) -> bool:
        """False for a bare model, which gives hidden states and no logits."""
        return self.objective != "none"

    @property
    def name(self) -> str:
        return type(self).__name__

    def setting(self, key: str, default: Any = None) -> Any:
        """A key of config.json, with transformers' own default where it is absent."""
        value = self.config.get(key)
        return self.defaults.get(key, default) if value is None else value

    def refuse(self, key: str, why: str, instead: str) -> CheckpointError:
        """A variant that is not described: the key with its value, the reason, what to use instead."""
        return CheckpointError(
            f"config.json says {key}={self.config.get(key)!r}, which is not described for {self.name} models: {why}.\n"
            f"  Try: {instead}"
        )

    def attention_flops(self, sequence_length: int) -> int:
        """Forward FLOPs per token of the two attention products, over the full (unmasked) length."""
        # scores and weighted sum, each 2 FLOPs per (key, coordinate)
        return 4 * self.dims.num_layers * sequence_length * self.dims.num_heads * self.dims.head_dim

    @property
    def head_flops(self) -> int:
        """Forward FLOPs per token of a tied output head, which is on disk as a lookup table only."""
        return 2 * self.dims.vocab_size * self.dims.hidden_size if self.dims.tied else 0

    def resized(self, dims: Dims) -> dict[str, Any]:
        """This model's `config.json` with other sizes.

        Raises:
            PlanError: the sizes break a rule of the architecture.
        """
        self._check_heads(dims)
        changed = {key: getattr(dims, size) for size, key in self.size_keys.items()}
        if self.kv_heads_key is not None:
            changed[self.kv_heads_key] = dims.num_kv_heads
        if self.head_dim_key is not None:
            changed[self.head_dim_key] = dims.head_dim
        if dims.tied != self.dims.tied:
            changed["tie_word_embeddings"] = dims.tied
        # a size that config.json leaves to the default (GPT-2's n_inner: 4 n_embd) is still written out
        return {**self.config, **changed}

    def mixture_config(self, dims: Dims) -> dict[str, Any]:
        """The `config.json` of the mixture of experts that this dense model grows into.

        Raises:
            PlanError: no family of mixtures takes its tensors, or not with the variants that it has.
        """
        return mixtures().get(self.config["model_type"], Family).config_from_dense(self, dims)

    def target_dims(self, wanted: Mapping[str, int | None]) -> Dims:
        """These sizes with those in `wanted` that are not None put in their place.

        Where the size of a head cannot be chosen it follows from the others.

        Raises:
            PlanError: the target is smaller anywhere, with every such size named.
        """
        chosen = {key: value for key, value in wanted.items() if value is not None}
        if self.kv_heads_key is None:
            asked = chosen.get("num_kv_heads")
            if asked is not None and asked != chosen.get("num_heads", self.dims.num_heads):
                raise PlanError(
                    f"target.num_key_value_heads={asked}: in {self.name} models every query head has its own keys "
                    "and values.\n  Try: leave target.num_key_value_heads out"
                )
            chosen["num_kv_heads"] = chosen.get("num_heads", self.dims.num_heads)
        if self.head_dim_key is None:
            hidden, heads = (chosen.get(k, getattr(self.dims, k)) for k in ("hidden_size", "num_heads"))
            if hidden % heads:
                raise PlanError(
                    f"hidden_size {hidden} does not divide into {heads} heads, and in {self.name} models the size of "
                    f"a head is hidden_size / heads.\n  Try: target.hidden_size={-(-hidden // heads) * heads}"
                )
            if chosen.get("head_dim", hidden // heads) != hidden // heads:
                raise PlanError(
                    f"target.head_dim={chosen['head_dim']}: in {self.name} models the size of a head is hidden_size "
                    f"/ heads, here {hidden // heads}.\n  Try: target.hidden_size={chosen['head_dim'] * heads}"
                )
            chosen["head_dim"] = hidden // heads
        if chosen.get("experts_per_token") and not (self.dims.num_experts or chosen.get("num_experts")):
            raise PlanError(
                f"target.experts_per_token={chosen['experts_per_token']}: neither the small model nor the target has "
                "experts.\n  Try: target.num_experts=8, or leave target.experts_per_token out"
            )
        target = Dims(**{**self.dims.__dict__, **chosen})
        shrunk = [
            f"{key} {getattr(self.dims, key)} -> {getattr(target, key)}"
            for key in (*self.size_keys, "num_kv_heads", "head_dim", "num_experts", "experts_per_token")
            if getattr(target, key) < getattr(self.dims, key)
        ]
        if shrunk:
            raise PlanError(
                f"the target is smaller than the small model: {', '.join(shrunk)}.\n"
                "  Growth only adds units; nothing is ever cut away.\n"
                "  Try: a larger target, or swap small= and target="
                + (
                    f", or keep heads of {self.dims.head_dim}: target.hidden_size="
                    f"{self.dims.head_dim * target.num_heads}"
                    if self.head_dim_key is None and target.head_dim < self.dims.head_dim
                    else ""
                )
            )
        return target

    # --- what family files share -------------------------------------------------------------------

    def attention_spaces(
        self,
        *,
        rotary: int = 0,
        score_scale: float | None = None,
        head_norm: Norm | None = None,
        all_heads_norm: bool = False,
    ) -> list[Space]:
        """Heads, key/value heads, and the coordinates of one head.

        Args:
            rotary: leading coordinates of a head that are turned in pairs.
            score_scale: what scores are multiplied by; None: 1 / sqrt(head_dim).
            head_norm: norm on each head's queries and keys.
            all_heads_norm: whether that norm is over all heads at once.
        """
        d = self.dims
        scale = d.head_dim**-0.5 if score_scale is None else score_scale
        over_heads = head_norm if all_heads_norm else None
        sizes: dict[str, Any] = {
            "size": d.head_dim,
            "rotary": rotary,
            "score_scale": scale,
            "norm": head_norm,
        }
        groups = [Space(name=KV_HEADS, size=d.num_kv_heads, norm=over_heads)] if self.kv_heads_key else []
        return [
            Space(name=HEADS, size=d.num_heads, norm=over_heads),
            *groups,
            Space(name=QUERY_DIM, **sizes),
            Space(name=KEY_DIM, **sizes),
            Space(name=VALUE_DIM, size=d.head_dim),
        ]

    def linear_specs(
        self,
        name: str,
        out: Axis,
        in_: Axis,
        layer: int | None = None,
        *,
        norm: str | None = None,
        bias: bool = False,
        ends_block: bool = False,
        in_first: bool = False,
        **more: Any,
    ) -> list[TensorSpec]:
        """Weight and, where there is one, bias of a linear layer.

        Args:
            norm: the gain between the stream and this layer.
            in_first: the weight is stored [in, out].
            more: fields of `TensorSpec` for the weight alone.
        """
        kind = kind_of(name, layer)
        weight = TensorSpec(
            name=f"{name}.weight",
            kind=kind,
            layer=layer,
            axes=(in_, out) if in_first else (out, in_),
            gain=norm,
            ends_block=ends_block,
            **more,
        )
        offset = TensorSpec(
            name=f"{name}.bias", kind=f"{kind}.bias", layer=layer, axes=(out,), ends_block=ends_block
        )
        return [weight, offset] if bias else [weight]

    def _dims(self) -> Dims:
        sizes = {size: self._size(key) for size, key in self.size_keys.items()}
        heads = sizes["num_heads"]
        key = self.kv_heads_key or ""
        kv_heads = self.config.get(key, self.defaults.get(key))  # null: one for each query head
        free = self.head_dim_key is not None and self.setting(self.head_dim_key) is not None
        return Dims(
            **sizes,
            num_kv_heads=heads if kv_heads is None else self._size(key),
            head_dim=self._size(self.head_dim_key or "") if free else sizes["hidden_size"] // heads,
            tied=bool(self.setting("tie_word_embeddings", False)),
            **self.extra_dims(),
        )

    def extra_dims(self) -> dict[str, int]:
        """Further sizes: those of a mixture of experts."""
        return {}

    def _check_forms(self) -> None:
        """
        Raises:
            CheckpointError: a key that everything reads is not of the form that it must have.
        """
        forms: dict[str, tuple[Any, str]] = {
            "architectures": (list, "a list of class names"),
            "rope_parameters": (Mapping, "an object"),
            "rope_scaling": (Mapping, "an object"),
            "max_position_embeddings": (int, "a whole number"),
            "initializer_range": (int | float, "a number"),
            **dict.fromkeys(self.per_layer_keys, (list, "a list with an entry for each layer")),
        }
        for key, (form, words) in forms.items():
            value = self.config.get(key)
            if value is not None and not isinstance(value, form):
                raise CheckpointError(
                    f"config.json says {key}={value!r}, and it must be {words}.\n"
                    "  Try: save the model again with save_pretrained"
                )

    def check_per_layer(self) -> None:
        """
        Raises:
            CheckpointError: a list that must have an entry for each layer has more or fewer.
        """
        for key in self.per_layer_keys:
            value = self.config.get(key)
            if value and len(value) != self.dims.num_layers:
                raise CheckpointError(
                    f"config.json has {len(value)} entries in {key}, and {self.dims.num_layers} layers.\n"
                    "  Try: save the model again with save_pretrained"
                )

    def _size(self, key: str) -> int:
        size = self.setting(key)
        if size is None:
            raise CheckpointError(
                f"config.json lacks {key!r}, which a {self.name} checkpoint needs.\n"
                "  Try: save the model again with save_pretrained"
            )
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise CheckpointError(
                f"config.json says {key}={size!r}, which is no size: it must be a whole number above zero.\n"
                "  Try: save the model again with save_pretrained"
            )
        return size

    def _check_heads(self, dims: Dims) -> None:
        if dims.num_heads % dims.num_kv_heads:
            most = max(d for d in range(1, dims.num_kv_heads + 1) if dims.num_heads % d == 0)
            raise PlanError(
                f"{dims.num_heads} query heads do not divide into {dims.num_kv_heads} key/value heads: "
                "each key/value head serves a whole group of query heads.\n"
                f"  Try: target.num_attention_heads={-(-dims.num_heads // dims.num_kv_heads) * dims.num_kv_heads}"
                f" or target.num_key_value_heads={most}"
            )
        rotary = next((space.rotary for space in self._spaces() if space.rotary), 0)
        if rotary and dims.head_dim % self.dims.head_dim:
            raise PlanError(
                f"heads of {self.dims.head_dim} coordinates cannot become heads of {dims.head_dim}: rotary "
                "frequencies of the two coincide only where the size grows by a whole factor.\n"
                f"  Try: target.head_dim={math.ceil(dims.head_dim / self.dims.head_dim) * self.dims.head_dim}"
            )


def kind_of(name: str, layer: int | None) -> str:
    """The name without what says where: "self_attn.q_proj"."""
    return name if layer is None else name.partition(f".{layer}.")[2]


FAMILIES: Registry[type[Family]] = Registry("family", "ligo.families")


def known_model_types() -> dict[str, type[Family]]:
    """`model_type` -> family, over all families."""
    return {t: FAMILIES.get(name) for name in FAMILIES.names() for t in FAMILIES.get(name).model_types}


def mixtures() -> dict[str, type[Family]]:
    """`model_type` of a dense model -> the mixture of experts that it can grow into."""
    return {dense: family for family in known_model_types().values() for dense in family.dense_model_types}


def family_of(config: Mapping[str, Any]) -> Family:
    """The family object of a `config.json`.

    Raises:
        CheckpointError: there is no `model_type`, or no family for it; the message lists those there are.
    """
    known = known_model_types()
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in known:
        raise CheckpointError(
            f"no family is known for model_type {model_type!r}: its spaces and tensors are not described.\n"
            f"  Known model types: {', '.join(sorted(known))}.\n"
            f"  Try: a checkpoint whose config.json names one of these"
        )
    return known[model_type](config)
