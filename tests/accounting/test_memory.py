"""Memory of a rank by hand: ZeRO's table, phases, how the small model is held."""

from __future__ import annotations

from typing import Any

import pytest

from ligo.accounting.memory import (
    STAGES,
    Memory,
    Trained,
    disk_bytes,
    learning_memory,
    small_bytes,
    training_memory,
    zero_keys,
)

BILLION = 10**9


def model(activations: float = 0.0, evaluation: float = 0.0, parameters: int = BILLION) -> Trained:
    return Trained(parameters, 10**8, activations, activations, 0.0, evaluation)


def train(stage: int, trained: Trained | None = None, **changes: Any) -> Memory:
    options: dict[str, Any] = {
        "engine": "deepspeed", "precision": "bf16", "world_size": 8, "micro_batches": 1, "on_gpu": True, **changes,
    }  # fmt: skip
    zero = zero_keys({"zero_optimization": {"stage": stage}})
    return training_memory(trained or model(), zero=zero, **options)


@pytest.mark.parametrize(("stage", "optimizer"), [(0, 12), (1, 12 / 8), (2, 12 / 8), (3, 12 / 8)])
def test_zero_deals_out_states_as_its_table_says(stage: int, optimizer: float) -> None:
    """Rajbhandari et al. 2020, table 1, K = 12: bf16 weights 2 bytes, master copy and two moments 12."""
    memory = train(stage)
    assert memory.optimizer == optimizer * BILLION
    # ZeRO-3 deals out weights as well; they are loaded in float32
    assert memory.weights == (4 * BILLION / 8 if stage == 3 else 2 * BILLION)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("on_gpu", [True, False])
@pytest.mark.parametrize("micro_batches", [1, 4])
def test_a_later_stage_takes_no_more(precision: str, on_gpu: bool, micro_batches: int) -> None:
    """Of a model that is larger than what stage 3 gathers at once (stage3_max_live_parameters, 1e9)."""
    peaks = [
        train(
            stage,
            model(2e9, 1e9, 20 * BILLION),
            precision=precision,
            on_gpu=on_gpu,
            micro_batches=micro_batches,
        ).peak
        for stage in STAGES
    ]
    assert peaks == sorted(peaks, reverse=True)


def test_plain_torch_by_hand() -> None:
    """Weights 4, moments 8, gradients 4; fused AdamW makes nothing in passing."""
    memory = train(0, engine="torch", precision="fp32", on_gpu=False)
    assert memory.phase == "optimizer step"
    assert memory.peak - memory.libraries == 16 * BILLION
    assert train(0, model(9e9), engine="torch", precision="fp32", on_gpu=False).phase == "backward"
    assert train(0, model(0, 9e9), engine="torch", precision="fp32", on_gpu=False).phase == "evaluation"


def test_gradients_that_accumulate_are_there_beside_the_activations() -> None:
    once = train(0, model(9e9), engine="torch", precision="fp32", on_gpu=False)
    often = train(0, model(9e9), engine="torch", precision="fp32", on_gpu=False, micro_batches=2)
    assert often.peak - once.peak == 4 * (BILLION + 10**8)


def test_deepspeeds_own_keys_decide_its_buffers() -> None:
    small = zero_keys({"zero_optimization": {"stage": 2, "reduce_bucket_size": 5e7}})
    peaks = [
        training_memory(
            model(5e9),
            engine="deepspeed",
            precision="bf16",
            zero=zero,
            world_size=8,
            micro_batches=1,
            on_gpu=True,
        ).peak
        for zero in (zero_keys({"zero_optimization": {"stage": 2}}), small)
    ]
    assert peaks[0] - peaks[1] >= 2 * (5e8 - 5e7)


@pytest.mark.parametrize(
    ("held", "bits"), [("fp32", 32), ("bf16", 16), ("nf4", 4 + 8 / 64 + 32 / (64 * 256)), ("offload", 0)]
)
def test_the_small_model_as_it_is_held(held: str, bits: float) -> None:
    """NF4 with double quantisation takes 4.127 bits (Dettmers et al. 2023, arXiv 2305.14314, section 3)."""
    layers = [10**6] * 10
    assert small_bytes(layers=layers, matrices=0, vectors=0, held=held) == pytest.approx(10**7 * bits / 8)
    assert small_bytes(layers=layers, matrices=0, vectors=7, held=held) - small_bytes(
        layers=layers, matrices=0, vectors=0, held=held
    ) == pytest.approx(28)
    shared = small_bytes(layers=layers, matrices=0, vectors=0, held=held, shards=4)
    assert shared == pytest.approx(3 * 10**6 * bits / 8)  # of ten layers, the first of four ranks holds three


def test_what_is_held_beside_the_maps_is_not_sharded() -> None:
    zero = zero_keys({"zero_optimization": {"stage": 3}})
    one, other = (
        learning_memory(model(), beside=beside, zero=zero, world_size=4, micro_batches=1, on_gpu=True)
        for beside in (0.0, 1e9)
    )
    assert other.peak - one.peak == 1e9
    assert one.weights == 4 * BILLION  # as stage 2: maps are not dealt out


def test_grown_moments_are_part_of_the_disk() -> None:
    parts = disk_bytes(1000, dtype="bfloat16", trains=True, precision="fp32", moments=True)
    assert parts == {"grown": 2000.0, "moments": 8000.0, "trained": 4000.0, "checkpoints": 36000.0}
