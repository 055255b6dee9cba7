"""Models without a head, as sentence encoders and vision backbones are published: grown by command, never trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ligo import grow
from ligo.checkpoint.reader import WEIGHTS_FILE
from ligo.core.files import read_json, write_json
from ligo.families.base import family_of
from ligo.growth.verify import load_stock
from tests.families.tiny_others import OTHERS
from tests.growing import lively_model, on_disk_weights
from tests.test_commands import run

TWICE = ("target=custom", "target.hidden_size=64", "target.num_attention_heads=8", "tracking=jsonl")
BERT = ("operator=exact", "data.sequence_length=16")
VIT = ("operator=exact", "data.sequence_length=5", "target.num_hidden_layers=3")  # four patches and a token


def save(folder: Path, config: dict[str, Any], older: bool) -> Path:
    weights = on_disk_weights(lively_model(family_of(config), "float32"))
    if older:
        weights = {f"{config['model_type']}.{name}": tensor for name, tensor in weights.items()}
        weights |= {"classifier.weight": torch.zeros(2, 2)}
    write_json(folder / "config.json", config)
    save_file(weights, folder / WEIGHTS_FILE)
    return folder


@pytest.mark.parametrize(
    "older", [False, True], ids=["as of today", "with the names and heads of a whole model"]
)
@pytest.mark.parametrize(("name", "options"), [("bert model", BERT), ("vit model", VIT)])
def test_it_is_grown_and_compared_without_data(
    name: str, options: tuple[str, ...], older: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, folder = tmp_path / "small", tmp_path / "run"
    small.mkdir()
    save(small, OTHERS[name], older)
    code = run(
        grow, "small=checkpoint", f"small.path={small}", *TWICE, *options, f"run.dir={folder}",
        "stages=[write,verify,report]",
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert code == 0
    assert read_json(folder / "stages.json")["verify"]["exact"]
    assert "verified: largest hidden state difference" in printed
    assert ("left out of small: classifier.weight (of another head than the model's)" in printed) is older
    assert printed.count("Growth plan:") == 1
    model = load_stock(folder / "grown")
    assert type(model).__name__ == OTHERS[name]["architectures"][0]
    assert model.config.hidden_size == 64 and model.pooler.dense.weight.shape == (64, 64)


@pytest.mark.parametrize("stages", ["learn,write,verify", "write,verify,train", "scratch"])
def test_stages_that_would_train_it_are_refused_before_any_work(
    stages: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, folder = tmp_path / "small", tmp_path / "run"
    small.mkdir()
    save(small, OTHERS["bert model"], older=False)
    operator = "ligo" if "learn" in stages else "exact"
    code = run(
        grow, "small=checkpoint", f"small.path={small}", *TWICE, f"operator={operator}", "data.sequence_length=16",
        "train.engine=torch", f"run.dir={folder}", f"stages=[{stages}]",
    )  # fmt: skip
    assert code == 4
    words = capsys.readouterr().err
    assert "BertModel is a model without a head" in words and "AutoModelForMaskedLM" in words
    assert not folder.exists()
