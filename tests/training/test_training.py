"""One loop, two engines: parity, resume equals uninterrupted, refusal with the right words."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ligo.core import distributed
from ligo.core.errors import ConfigError, Interrupted, NumericsError
from ligo.families.fresh import fresh_config
from ligo.tracking.jsonl import JsonlTracker
from ligo.training.config import BatchShape, TrainConfig, batch_shape, check, check_deepspeed_keys
from ligo.training.deepspeed_engine import deepspeed_config
from ligo.training.machine import check_machine
from ligo.training.schedule import learning_rate, num_steps
from tests.conftest import REPO
from tests.training.arms import CONFIG, records, run_arm

PARITY = 1e-5  # float32 rounding of the same arithmetic in another order


def losses(folder: Path) -> list[float]:
    return [r["train/loss"] for r in records(folder) if "train/loss" in r]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same arm in plain torch, one process, never interrupted."""
    folder = tmp_path_factory.mktemp("reference")
    done = run_arm(folder)
    assert done.step == 8
    assert losses(folder)[-1] != losses(folder)[0]
    return folder


class StopAt(JsonlTracker):
    """Sends this process a signal once a step has been logged."""

    def __init__(self, folder: Path, step: int, number: int) -> None:
        super().__init__(folder / "metrics.jsonl", folder / "summary.json")
        self._step, self._number = step, number

    def log(self, record: dict[str, Any]) -> None:
        super().log(record)
        if record["step"] == self._step:
            os.kill(os.getpid(), self._number)


@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_stopped_run_goes_on_as_if_never_stopped(
    engine: str, number: int, code: int, reference: Path, tmp_path: Path
) -> None:
    config = replace(CONFIG, engine=engine)
    with pytest.raises(Interrupted, match="run the same command again") as stopped:
        run_arm(tmp_path, config, tracker=StopAt(tmp_path, 3, number))
    assert stopped.value.exit_code == code
    assert len(losses(tmp_path)) == 3
    if number == signal.SIGTERM:  # without a checkpoint it begins again, and nothing is logged twice
        shutil.rmtree(tmp_path / "checkpoints")
    run_arm(tmp_path, config)
    if engine == "torch":
        assert records(tmp_path) == records(reference)  # bit for bit
    else:
        assert losses(tmp_path) == pytest.approx(losses(reference), abs=PARITY)


def test_a_stopped_run_with_dropout_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    model_config = {**fresh_config("gpt2", shape), "resid_pdrop": 0.3}
    runs = {name: tmp_path / name for name in ("whole", "without", "stopped")}
    run_arm(runs["whole"], model_config=model_config)
    run_arm(runs["without"], model_config={**model_config, "resid_pdrop": 0.0})
    with pytest.raises(Interrupted):
        run_arm(
            runs["stopped"], tracker=StopAt(runs["stopped"], 3, signal.SIGTERM), model_config=model_config
        )
    run_arm(runs["stopped"], model_config=model_config)
    assert records(runs["stopped"]) == records(runs["whole"])  # bit for bit
    assert losses(runs["whole"])[0] != losses(runs["without"])[0]  # it does drop


def test_a_signal_during_the_last_step_still_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run_arm(tmp_path, tracker=StopAt(tmp_path, 8, signal.SIGTERM))
    assert run_arm(tmp_path).step == 8  # it was saved, and there is nothing left to do


def test_a_killed_run_goes_on_from_its_last_checkpoint(reference: Path, tmp_path: Path) -> None:
    class DieAt(JsonlTracker):
        def log(self, record: dict[str, Any]) -> None:
            super().log(record)
            if record["step"] == 6:
                raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        run_arm(tmp_path, tracker=DieAt(tmp_path / "metrics.jsonl", tmp_path / "summary.json"))
    assert len(losses(tmp_path)) == 6
    run_arm(tmp_path)
    assert records(tmp_path) == records(reference)


def test_a_checkpoint_that_was_changed_is_skipped(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_arm(tmp_path)
    newest = tmp_path / "checkpoints" / "step-00000008" / "state-00001-of-00001.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    run_arm(tmp_path)
    assert (
        "skipping checkpoint step-00000008: state-00001-of-00001.safetensors is not what was saved"
        in capsys.readouterr().err
    )
    assert records(tmp_path) == records(reference)


@pytest.mark.parametrize("micro_batch_tokens", [None, 32])
def test_deepspeed_in_one_process_equals_plain_torch(
    micro_batch_tokens: int | None, reference: Path, tmp_path: Path
) -> None:
    run_arm(tmp_path, replace(CONFIG, engine="deepspeed", micro_batch_tokens=micro_batch_tokens))
    assert losses(tmp_path) == pytest.approx(losses(reference), abs=PARITY)
    assert not (Path.home() / ".cache" / "torch_extensions" / "deepspeed_shm_comm").exists()


def test_deepspeed_starts_again_after_the_process_group_was_left(reference: Path, tmp_path: Path) -> None:
    for run in ("first", "second"):
        run_arm(tmp_path / run, replace(CONFIG, engine="deepspeed"))
        distributed.stop()
    assert losses(tmp_path / "second") == pytest.approx(losses(reference), abs=PARITY)


def test_two_gloo_processes_equal_one_at_every_zero_stage(reference: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
               "-m", "tests.training.arms", str(tmp_path)]  # fmt: skip
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for stage in range(4):
        folder = tmp_path / f"zero{stage}"
        assert losses(folder) == pytest.approx(losses(reference), abs=PARITY)
        evaluations = [r["eval/loss"] for r in records(folder) if "eval/loss" in r]
        expected = [r["eval/loss"] for r in records(reference) if "eval/loss" in r]
        assert evaluations == pytest.approx(expected, abs=PARITY)


def test_a_diverging_run_stops_with_words(tmp_path: Path) -> None:
    with pytest.raises(
        NumericsError, match=r"the norm of the gradient of grown is (nan|inf) at step 4(.|\n)*train.lr="
    ):
        run_arm(tmp_path, replace(CONFIG, lr=1e30, clip=0.0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schedule": "cosin"}, "train.schedule=cosine"),
        ({"engine": "jax"}, "deepspeed, torch"),
        ({"precision": "fp8"}, "fp32, bf16"),
        ({"precision": "fp16"}, "fp16 needs losses to be scaled(.|\n)*train.engine=deepspeed"),
        ({"export": "all"}, "none, last, every"),
        ({"on_spike": "panic"}, "warn, rewind"),
        ({"keep_last": 0}, "train.keep_last=0 must be at least 1"),
        ({"keep_every": -1}, "train.keep_every=-1 must be at least 0"),
        ({"lr": 0.0}, "train.lr=0 must be above 0"),
        ({"lr": float("nan")}, "train.lr=nan must be above 0"),
        ({"beta1": 2.0}, "train.beta1=2 must be at least 0 and at most 1"),
        ({"warmup_fraction": 3.0}, "at most 1"),
        ({"weight_decay": -3.0}, "train.weight_decay=-3 must be at least 0"),
        ({"max_tokens": 10}, "less than one step"),
    ],
)
def test_values_that_are_no_choice_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check(replace(CONFIG, **change), "train")


@pytest.mark.parametrize(
    ("config", "world_size", "words"),
    [
        (TrainConfig(batch_tokens=100), 1, "does not divide into windows of 16 tokens"),
        (TrainConfig(batch_tokens=16 * 3), 2, "for 2 rank"),
        (TrainConfig(batch_tokens=16 * 6, micro_batch_tokens=16 * 4), 1, "train.micro_batch_tokens=96"),
    ],
)
def test_batches_that_do_not_divide_are_refused(config: TrainConfig, world_size: int, words: str) -> None:
    if "96" in words:
        words = "does not divide the 6 windows"
    with pytest.raises(ConfigError, match=words):
        batch_shape(config, 16, world_size)


def test_deepspeed_keys_pass_through_and_derived_ones_are_refused() -> None:
    keys = {"zero_optimization": {"stage": 2, "overlap_comm": False}}
    made = deepspeed_config(keys, CONFIG, BatchShape(8, 4, 2))
    assert made["zero_optimization"] == keys["zero_optimization"]
    assert made["gradient_clipping"] == CONFIG.clip
    assert (made["train_micro_batch_size_per_gpu"], made["gradient_accumulation_steps"]) == (2, 2)
    with pytest.raises(ConfigError, match="deepspeed.gradient_clipping follows from the train options"):
        deepspeed_config({"gradient_clipping": 1.0}, CONFIG, BatchShape(8, 4, 2))


@pytest.mark.parametrize(
    ("zero", "words"),
    [
        ({"stage": 2, "offload_param": {"device": "cpu"}}, "the stage is 2(.|\n)*deepspeed=zero3-offload"),
        ({"stage": 3, "offload_optimizer": {"device": "nvme"}}, "keeps the optimiser's states on a disk"),
        ({"stage": 4}, "is no ZeRO stage"),
        ("", "deepspeed.zero_optimization= is no group of options"),
        (
            {"stage": 3, "offload_param": "cpu"},
            "offload_param=cpu is no group(.|\n)*offload_param.OPTION=VALUE",
        ),
        ({"stage": 1, "compute_grad_norm": False}, "not finite unseen"),
    ],
)
def test_a_stage_that_cannot_do_what_is_asked_is_refused(zero: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        check_deepspeed_keys({"zero_optimization": zero})
    assert error.value.exit_code == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU they can be")
@pytest.mark.parametrize(
    ("config", "zero", "words"),
    [
        ({"precision": "fp16"}, {}, "precision=fp16 needs a GPU(.|\n)*train.precision=bf16"),
        (
            {},
            {"stage": 3, "offload_param": {"device": "nvme", "nvme_path": "/tmp"}},
            "async_io(.|\n)*zero3-offload",
        ),
        ({}, {"stgae": 1}, "does not take deepspeed.zero_optimization.stgae=1"),
        ({}, {"stage": 1, "offload_optimizer": {"device": "cpuu"}}, "offload_optimizer.device=cpuu"),
    ],
)
def test_what_this_machine_or_deepspeed_cannot_do_is_refused_before_a_model_is_built(
    config: dict[str, Any], zero: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        check_machine(replace(CONFIG, engine="deepspeed", **config), {"zero_optimization": zero})


@pytest.mark.parametrize("name", ["zero2-offload", "zero3-offload"])
def test_states_and_weights_can_lie_in_the_cpus_memory(name: str, reference: Path, tmp_path: Path) -> None:
    keys = yaml.safe_load((REPO / "conf" / "deepspeed" / f"{name}.yaml").read_text())
    config = replace(CONFIG, engine="deepspeed")
    with pytest.raises(Interrupted):
        run_arm(tmp_path, config, tracker=StopAt(tmp_path, 3, signal.SIGTERM), keys=keys)
    run_arm(tmp_path, config, keys=keys)
    assert losses(tmp_path) == pytest.approx(losses(reference), abs=PARITY)


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
def test_schedules_warm_up_to_the_peak_and_decay_as_they_say(schedule: str) -> None:
    config = TrainConfig(max_tokens=100, batch_tokens=1, lr=2.0, schedule=schedule, warmup_fraction=0.1)
    rates = [learning_rate(config, step) for step in range(num_steps(config))]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[10] == 2.0
    assert (rates[-1] < 0.1) == (schedule != "constant")
    if schedule == "wsd":
        assert rates[70] == 2.0
        assert rates[90] < 1.0
