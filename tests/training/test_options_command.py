"""Options of optimiser and compute as a person types them: they reach the run, or are refused before it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ligo import grow
from ligo.core.files import read_json
from ligo.families.base import family_of
from ligo.training.config import TrainConfig
from ligo.training.dropping import training_flops
from tests.test_commands import BUDGET, SMALL, TARGET, run, text_file

__all__ = ["text_file"]  # a fixture
TRAIN = TrainConfig(batch_tokens=256, max_tokens=4096)


def losses(folder: Path) -> list[float]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [r["train/loss"] for r in records if r["arm"] == "grown" and "train/loss" in r]


@pytest.fixture(scope="module")
def small(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with its moments."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    options = (
        *SMALL,
        *TARGET,
        *BUDGET,
        "operator=exact",
        "data=custom",
        f"data.path={text_file}",
        f"run.dir={folder}",
    )
    assert run(grow, *options, "stages=[write]") == 0
    return folder / "small"


def grown(small: Path, text_file: Path, folder: Path, *more: str) -> int:
    return run(
        grow, "small=checkpoint", f"small.path={small}", *TARGET, *BUDGET, "operator=exact", "data=custom",
        f"data.path={text_file}", f"run.dir={folder}", "stages=[write,train]", *more,
    )  # fmt: skip


def test_new_coordinates_begin_anew_after_growth(small: Path, text_file: Path, tmp_path: Path) -> None:
    found = {}
    for steps in (0, 6):
        folder = tmp_path / str(steps)
        more = ("operator.optimizer_state=keep_old", f"train.rewarm_steps={steps}", "train.warmup_fraction=0")
        assert grown(small, text_file, folder, *more) == 0
        found[steps] = losses(folder)
    assert found[0][0] == found[6][0] and found[0][1] != found[6][1]
    assert found[6][-1] < found[6][0]


def test_what_is_dropped_is_not_charged(small: Path, text_file: Path, tmp_path: Path) -> None:
    assert grown(small, text_file, tmp_path / "run", "train.layer_drop=0.5", "train.token_drop=0.3") == 0
    family = family_of(read_json(tmp_path / "run" / "grown" / "config.json"))
    charged = read_json(tmp_path / "run" / "stages.json")["train"]["flops"]
    training = TrainConfig(batch_tokens=256, max_tokens=4096, layer_drop=0.5, token_drop=0.3)
    assert charged == pytest.approx(training_flops(training, family, 32))
    assert charged < 0.9 * training_flops(TRAIN, family, 32)


def test_a_run_with_muon_trains_its_small_model_too(text_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = (
        *SMALL,
        *TARGET,
        *BUDGET,
        "operator=exact",
        "data=custom",
        f"data.path={text_file}",
        f"run.dir={folder}",
    )
    assert run(grow, *options, "train.optimizer=muon", "stages=[write,train]") == 0
    assert not (folder / "small" / "optimizer.safetensors").exists()
    assert losses(folder)[-1] < losses(folder)[0]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("train.optimizer=muon", "train.engine=deepspeed"), "deepspeed=zero0"),
        (("train.optimizer=muon", "operator.optimizer_state=grow"), "operator.optimizer_state=reset"),
        (("train.optimizer=sgd",), "adamw, muon, adamw8bit, paged_adamw, paged_adamw8bit"),
        (("train.rewarm_steps=10",), "operator.optimizer_state=keep_old"),
        (("train.attention=flash_attention_2",), "flash_attn"),
        (("train.layer_drop=1.5",), "train.layer_drop=1.5 must be"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    more: tuple[str, ...], words: str, small: Path, text_file: Path, tmp_path: Path, capsys: Any
) -> None:
    assert grown(small, text_file, tmp_path / "run", *more) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
