"""config.json of a model that is to be trained from nothing: a family and its sizes, under the same names for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ligo.core.checks import check_between
from ligo.core.errors import ConfigError, nearest
from ligo.families.base import FAMILIES

_SIZES = {
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "ffn_size",
}
"""Sizes that every shape names, and what `Family.size_keys` calls them."""
_LEAST_VOCAB = 257  # ids that every byte-level tokenizer has: the bytes and the end of a text

_TEXT: dict[str, Any] = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": None}
_ENCODER: dict[str, Any] = {
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "tie_word_embeddings": True,
    **_TEXT,
}
_TEXT_SIZES = {"vocab_size": 2048, "max_position_embeddings": 2048}


@dataclass(frozen=True)
class _Recipe:
    """What config.json says beside the sizes, and which sizes there are beside those of `_SIZES`."""

    settings: Mapping[str, Any]
    own_sizes: Mapping[str, int]
    """With their defaults."""
    own_names: dict[str, str] = field(default_factory=dict)
    """Size -> key in config.json, where that is another."""
    head_multiple: int = 1
    """The size of a head must be a multiple of this: with rotary positions, coordinates turn in pairs."""
    spare_positions: int = 0
    """Positions that no token of a text has."""


_RECIPES = {
    "llama": _Recipe(
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True,
            **_TEXT,
        },
        own_sizes=_TEXT_SIZES | {"num_key_value_heads": 0},  # 0: as many as heads
        head_multiple=2,
    ),
    "gpt2": _Recipe(
        {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "resid_pdrop": 0.0,
            "tie_word_embeddings": True,
            **_TEXT,
        },
        own_sizes=_TEXT_SIZES,
        own_names={"max_position_embeddings": "n_positions"},
    ),
    "gpt_neox": _Recipe(
        {
            "architectures": ["GPTNeoXForCausalLM"],
            "model_type": "gpt_neox",
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
            "use_parallel_residual": True,
            "tie_word_embeddings": False,
            **_TEXT,
        },
        own_sizes=_TEXT_SIZES,
        head_multiple=8,
    ),
    "bert": _Recipe(
        {
            "architectures": ["BertForMaskedLM"],
            "model_type": "bert",
            "layer_norm_eps": 1e-12,
            "type_vocab_size": 2,
            **_ENCODER,
        },
        own_sizes=_TEXT_SIZES,
    ),
    # it counts positions from behind the padding token, and has to have one: the end of a text, which no batch is padded with
    "roberta": _Recipe(
        {
            "architectures": ["RobertaForMaskedLM"],
            "model_type": "roberta",
            "layer_norm_eps": 1e-5,
            "type_vocab_size": 1,
            **_ENCODER,
            "pad_token_id": 0,
        },
        own_sizes=_TEXT_SIZES,
        spare_positions=1,
    ),
    "vit": _Recipe(
        {
            "architectures": ["ViTForImageClassification"],
            "model_type": "vit",
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
            "qkv_bias": True,
        },
        own_sizes={"num_channels": 3, "image_size": 224, "patch_size": 16, "num_labels": 1000},
    ),
}


def fresh_config(family: str, shape: Mapping[str, int]) -> dict[str, Any]:
    """config.json of a model with fresh weights, in float32 and without dropout.

    Args:
        family: llama, gpt2, gpt_neox, bert, roberta or vit.
        shape: hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, and any that the family has
            beside them.

    Raises:
        ConfigError: an unknown family, or a size that is missing, unknown, or cannot be.
    """
    if family not in _RECIPES:
        raise ConfigError(
            f"small.family={family} is none that ligo makes fresh models of.\n"
            f"  Known: {', '.join(_RECIPES)}.\n  Try: small.family={nearest(family, _RECIPES) or 'llama'}"
        )
    recipe = _RECIPES[family]
    missing = [key for key in _SIZES if key not in shape]
    if missing:
        raise ConfigError(
            f"small.shape lacks {', '.join(missing)}.\n"
            f"  Try: small.shape='{{{', '.join(f'{key}: ...' for key in _SIZES)}}}'"
        )
    for key, value in shape.items():
        known = (*_SIZES, *recipe.own_sizes)
        if key not in known:
            close = nearest(key, known) or known[0]
            raise ConfigError(
                f"small.shape has no size '{key}' for {family} models.\n  Try: small.shape.{close}={value}"
            )
        check_between(f"small.shape.{key}", value, _LEAST_VOCAB if key == "vocab_size" else 1)
    _check_heads(shape, recipe.head_multiple)

    sizes = {**recipe.own_sizes, **shape}
    if recipe.spare_positions:
        sizes["max_position_embeddings"] += recipe.spare_positions
    if "num_key_value_heads" in sizes:
        sizes["num_key_value_heads"] = sizes["num_key_value_heads"] or sizes["num_attention_heads"]
    # where the stream itself is normed, the size of the weights matters: 0.02 is for BERT's width
    deviation = 0.02 * (768 / sizes["hidden_size"]) ** 0.5 if FAMILIES.get(family).post_norm else 0.02
    config = {**recipe.settings, "initializer_range": round(deviation, 4), "dtype": "float32"}
    if "num_labels" in sizes:
        labels = [str(label) for label in range(sizes.pop("num_labels"))]
        config["id2label"] = {label: label for label in labels}
        config["label2id"] = {label: int(label) for label in labels}
    own_names = {key: FAMILIES.get(family).size_keys[size] for key, size in _SIZES.items()} | recipe.own_names
    return config | {own_names.get(key, key): size for key, size in sizes.items()}


def _check_heads(shape: Mapping[str, int], multiple: int) -> None:
    hidden, heads = shape["hidden_size"], shape["num_attention_heads"]
    kv_heads, unit = shape.get("num_key_value_heads", heads), heads * multiple
    if hidden % unit or heads % kv_heads:
        rotary = f", {multiple} coordinates at a time (rotary positions turn pairs)" if multiple > 1 else ""
        groups = f", and the heads into {kv_heads} key/value heads" if kv_heads != heads else ""
        raise ConfigError(
            f"small.shape: hidden_size {hidden} must divide into {heads} heads{rotary}{groups}.\n"
            f"  Try: small.shape.hidden_size={max(1, round(hidden / unit)) * unit}"
            + (f" small.shape.num_key_value_heads={heads}" if groups else "")
        )
