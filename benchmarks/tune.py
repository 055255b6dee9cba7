"""make bench-tune: that adapters are what was published, what tuning takes and survives, and how its instructions are made.

Figures go to benchmarks/results/tune.json; the last line printed is one line of JSON. Tuning on real instructions needs
../shared/data beside the checkout, without which its rows say `"ok": null`. About a quarter of an hour on two cores.
"""

from __future__ import annotations

from benchmarks import instruct, tune_memory, tune_runs
from benchmarks.common import Figures, finish, row, run_measures
from ligo.core.libraries import quiet_libraries
from ligo.tuning.adapters import add_adapter, peft_config
from ligo.tuning.config import TuningConfig

SIZES = {
    "LLaMA-7B": {"hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32, "intermediate_size": 11008},
    "LLaMA-13B": {"hidden_size": 5120, "num_attention_heads": 40, "num_hidden_layers": 40, "intermediate_size": 13824},
}  # fmt: skip
PUBLISHED = {
    ("LLaMA-7B", "lora", 64): 159_907_840,
    ("LLaMA-7B", "vera", 256): 1_417_216,
    ("LLaMA-7B", "vera", 1024): 1_589_248,
    ("LLaMA-13B", "lora", 64): 250_347_520,
    ("LLaMA-13B", "vera", 256): 2_201_600,
    ("LLaMA-13B", "vera", 1024): 2_416_640,
    ("RoBERTa-base", "vera", 1024): 43_008,
}
"""Parameters beside every linear layer but the head, or beside queries and values of RoBERTa; Kopiczko et al. 2023
(arXiv 2310.11454), tables 1 and 4, in full digits."""
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)  # fmt: skip
"""Dettmers et al. 2023 (arXiv 2305.14314), appendix E."""


def parameter_rows() -> Figures:
    """Trained parameters of stock models without weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, RobertaConfig, RobertaModel

    found = {}
    for name, method, rank in PUBLISHED:
        with torch.device("meta"):
            model = (
                RobertaModel(RobertaConfig())
                if name not in SIZES
                else LlamaForCausalLM(LlamaConfig(**SIZES[name]))
            )
        targets = "all-linear" if name in SIZES else ["query", "value"]
        peft = {"r": rank, "target_modules": targets, **({} if name in SIZES else {"task_type": None})}
        adapted = add_adapter(model, peft_config(TuningConfig(method=method, peft=peft)), on_meta=True)
        found[name, method, rank] = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    right = sum(found[key] == published for key, published in PUBLISHED.items())
    return (
        {
            "parameter counts of LoRA and VeRA as published": row(
                right, len(PUBLISHED), right == len(PUBLISHED)
            )
        },
        {f"{name}, {method}, r {rank}": count for (name, method, rank), count in found.items()},
    )


def nf4_rows() -> Figures:
    """bitsandbytes' levels and scales."""
    import torch

    from ligo.tuning.quantized import import_bitsandbytes

    functional = import_bitsandbytes().functional
    weights = torch.randn(4096, 4096, generator=torch.Generator().manual_seed(0))
    packed, state = functional.quantize_4bit(
        weights, blocksize=64, compress_statistics=True, quant_type="nf4"
    )
    off = max(abs(one - other) for one, other in zip(state.code.tolist(), NF4, strict=True))
    scales = (state.absmax, state.state2.absmax)
    bits = 8 * sum(t.numel() * t.element_size() for t in scales) / weights.numel()
    error = float((functional.dequantize_4bit(packed, state) - weights).norm() / weights.norm())
    return {
        "NF4's 16 levels, off those published by": row(off, "<= 1e-7", off <= 1e-7),
        "bits of scales per weight, quantised twice": row(bits, 0.127, round(bits, 3) == 0.127),
    }, {"error_of_normal_weights": error}


MEASURES = (parameter_rows, nf4_rows, *tune_memory.MEASURES, *tune_runs.MEASURES, *instruct.MEASURES)


if __name__ == "__main__":
    quiet_libraries()
    finish("tune", *run_measures(MEASURES))
