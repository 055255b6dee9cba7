"""config.json of every RMSNorm decoder, small enough for a test; nothing of ligo is needed to read them."""

from __future__ import annotations

from typing import Any

_SHARED: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "hidden_act": "silu",
    "max_position_embeddings": 64,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def _config(model_type: str, architecture: str, **changes: Any) -> dict[str, Any]:
    return {"architectures": [architecture], "model_type": model_type, **_SHARED, **changes}


def _without_head_dim(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "head_dim"}


_LLAMA = _config("llama", "LlamaForCausalLM")
_MISTRAL = _config("mistral", "MistralForCausalLM", sliding_window=None)
_QWEN2 = _without_head_dim(_config("qwen2", "Qwen2ForCausalLM"))
_QWEN3 = _config("qwen3", "Qwen3ForCausalLM")
_GEMMA2 = _config(
    "gemma2",
    "Gemma2ForCausalLM",
    hidden_activation="gelu_pytorch_tanh",
    tie_word_embeddings=True,
    query_pre_attn_scalar=16,
    sliding_window=8,
)
_GEMMA3 = _config(
    "gemma3_text",
    "Gemma3ForCausalLM",
    hidden_activation="gelu_pytorch_tanh",
    tie_word_embeddings=True,
    query_pre_attn_scalar=16,
    sliding_window=8,
)
_PHI3 = _without_head_dim(_config("phi3", "Phi3ForCausalLM"))
_OLMO2 = _without_head_dim(_config("olmo2", "Olmo2ForCausalLM"))
_MIXTRAL = _config("mixtral", "MixtralForCausalLM", num_local_experts=4, num_experts_per_tok=2)
_QWEN3_MOE = _config(
    "qwen3_moe",
    "Qwen3MoeForCausalLM",
    moe_intermediate_size=24,
    num_experts=4,
    num_experts_per_tok=2,
    norm_topk_prob=True,
    decoder_sparse_step=1,
    mlp_only_layers=[],
)

_SLIDING = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}

RMS_DECODERS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "llama tied": {**_LLAMA, "tie_word_embeddings": True},
    "llama biases": {**_LLAMA, "attention_bias": True, "mlp_bias": True},
    "llama large heads": {**_LLAMA, "head_dim": 16},
    "llama every head its own keys": {**_LLAMA, "num_key_value_heads": 4},
    "mistral": _MISTRAL,
    "mistral sliding": {**_MISTRAL, "sliding_window": 8},
    "qwen2": _QWEN2,
    "qwen2 tied": {**_QWEN2, "tie_word_embeddings": True},
    "qwen2 sliding": {**_QWEN2, **_SLIDING},
    "qwen3": _QWEN3,
    "qwen3 tied": {**_QWEN3, "tie_word_embeddings": True},
    "qwen3 biases": {**_QWEN3, "attention_bias": True},
    "qwen3 sliding": {**_QWEN3, **_SLIDING},
    "gemma2": _GEMMA2,
    "gemma2 untied": {**_GEMMA2, "tie_word_embeddings": False},
    "gemma2 biases": {**_GEMMA2, "attention_bias": True},
    "gemma3": _GEMMA3,
    "gemma3 every second layer full": {**_GEMMA3, "sliding_window_pattern": 2},
    "phi3": _PHI3,
    "phi3 tied": {**_PHI3, "tie_word_embeddings": True},
    "phi3 turned in part": {**_PHI3, "partial_rotary_factor": 0.5},
    "olmo2": _OLMO2,
    "olmo2 tied": {**_OLMO2, "tie_word_embeddings": True},
    "olmo2 biases": {**_OLMO2, "attention_bias": True},
    "mixtral": _MIXTRAL,
    "mixtral tied": {**_MIXTRAL, "tie_word_embeddings": True},
    "qwen3_moe": _QWEN3_MOE,
    "qwen3_moe sliding": {**_QWEN3_MOE, "use_sliding_window": True, "sliding_window": 8},
}

TINY = RMS_DECODERS
