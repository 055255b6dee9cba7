"""config.json of every family with LayerNorm, small enough for a test; nothing of ligo is needed to read them."""

from __future__ import annotations

from typing import Any

_TOKENS: dict[str, Any] = {
    "vocab_size": 96,
    "initializer_range": 0.02,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}

_GPT2: dict[str, Any] = {
    **_TOKENS,
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_inner": 48,
    "n_positions": 64,
}
_GPT_NEOX: dict[str, Any] = {
    **_TOKENS,
    **_SIZES,
    "architectures": ["GPTNeoXForCausalLM"],
    "model_type": "gpt_neox",
    "max_position_embeddings": 64,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
}
_OPT: dict[str, Any] = {
    **_TOKENS,
    "architectures": ["OPTForCausalLM"],
    "model_type": "opt",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "ffn_dim": 48,
    "word_embed_proj_dim": 32,
    "max_position_embeddings": 64,
    "init_std": 0.02,
}
_BERT: dict[str, Any] = {
    **_TOKENS,
    **_SIZES,
    "architectures": ["BertForMaskedLM"],
    "model_type": "bert",
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
}
_ROBERTA = {**_BERT, "architectures": ["RobertaForMaskedLM"], "model_type": "roberta"}
_VIT: dict[str, Any] = {
    **_SIZES,
    "architectures": ["ViTForImageClassification"],
    "model_type": "vit",
    "initializer_range": 0.02,
    "image_size": 8,
    "patch_size": 4,
    "num_channels": 3,
    "id2label": {str(number): f"class {number}" for number in range(10)},
}
_DEIT = {**_VIT, "architectures": ["DeiTForImageClassification"], "model_type": "deit"}

OTHERS: dict[str, dict[str, Any]] = {
    "gpt2": _GPT2,
    "gpt2 untied": {**_GPT2, "tie_word_embeddings": False},
    "gpt2 model": {**_GPT2, "architectures": ["GPT2Model"]},
    "gpt2 unscaled scores": {**_GPT2, "scale_attn_weights": False},
    "gpt_neox": _GPT_NEOX,
    "gpt_neox tied": {**_GPT_NEOX, "tie_word_embeddings": True},
    "gpt_neox serial": {
        **_GPT_NEOX,
        "use_parallel_residual": False,
        "attention_bias": False,
        "rotary_pct": 0.5,
    },
    "opt": _OPT,
    "opt untied": {**_OPT, "tie_word_embeddings": False, "enable_bias": False},
    "bert": _BERT,
    "bert untied": {**_BERT, "tie_word_embeddings": False},
    "bert model": {**_BERT, "architectures": ["BertModel"]},
    "bert classifier": {**_BERT, "architectures": ["BertForSequenceClassification"]},
    "roberta": _ROBERTA,
    "roberta untied": {**_ROBERTA, "tie_word_embeddings": False},
    "roberta model": {**_ROBERTA, "architectures": ["RobertaModel"]},
    "roberta classifier": {**_ROBERTA, "architectures": ["RobertaForSequenceClassification"]},
    "vit": _VIT,
    "vit no biases": {**_VIT, "qkv_bias": False},
    "vit model": {**_VIT, "architectures": ["ViTModel"]},
    "deit": _DEIT,
    "deit teacher": {**_DEIT, "architectures": ["DeiTForImageClassificationWithTeacher"]},
}
