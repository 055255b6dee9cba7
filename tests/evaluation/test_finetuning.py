"""Fine-tuning runs on the one training loop: as a plain loop of transformers would, whatever happens in between."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification, AutoTokenizer

from ligo.core.errors import CheckpointError, ConfigError, DataError
from ligo.evaluation.finetuning.glue import TASKS, read_examples
from ligo.evaluation.finetuning.heads import model_with_head
from ligo.evaluation.finetuning.spans import EndsOfAnswer
from ligo.evaluation.finetuning.text_classes import ClassOfText, encode
from ligo.evaluation.finetuning.text_rows import Encoded, TextBatches, TextReader, as_rows
from ligo.evaluation.models import ComputeConfig, Model, ModelConfig
from ligo.families.base import family_of
from ligo.tracking.jsonl import JsonlTracker, read_records
from tests.evaluation.finetuned import BERT, LLAMA, VIT, copied, records, run, sentences, value

PARITY = 2e-5
"""The two loops sum losses and gradient norms in another order."""
STEPS, RATE, BATCH = 10, 1e-3, 8
OPTIONS = (
    f"evaluation.train.steps={STEPS}",
    f"evaluation.train.batch_size={BATCH}",
    "evaluation.train.save_every=2",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sentences(tmp_path_factory.mktemp("sst2"))


def classify(folder: Path, data: Path, *more: str, models: dict[str, Path] | None = None) -> dict[str, Any]:
    options = (f"evaluation.path={data}", f"evaluation.rates=[{RATE}]", *OPTIONS, *more)
    return run(folder, "classification", models or {"small": BERT}, *options)


def test_a_run_is_that_of_a_plain_loop_of_transformers_on_the_same_batches(
    tmp_path: Path, data: Path
) -> None:
    """The head, the loss and the padding are transformers' own; AdamW and the two straight lines are written out."""
    found = classify(tmp_path / "run", data)
    ours = read_records(tmp_path / "run" / "metrics.jsonl")

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        BERT, num_labels=2, dtype=torch.float32
    ).train()
    tokenizer = AutoTokenizer.from_pretrained(BERT)
    lines = [line.split("\t") for line in (data / "train.tsv").read_text().splitlines()]
    end = tokenizer.eos_token_id
    encoded = [
        Encoded(np.array([end, *tokenizer(text).input_ids[:30], end]), np.zeros(0, np.int64), (int(label),))
        for text, label in lines
    ]
    batches = TextBatches(encoded, BATCH, seed=0)
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    )
    losses = []
    for step in range(STEPS):
        rows = torch.from_numpy(batches[step])
        ids = rows[:, : (rows.shape[1] - 1) // 2]
        shown = (ids >= 0).long()
        loss = model(input_ids=ids * shown, attention_mask=shown, labels=rows[:, -1]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:  # one step of ten up, nine down
            group["lr"] = RATE * (1.0 if step == 0 else (STEPS - step) / 9)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert [each["train/loss"] for each in ours if "train/loss" in each] == pytest.approx(losses, abs=PARITY)
    assert losses[-1] < losses[0] - 0.1
    details = found["models"]["small"]["details"]
    assert details["runs"][0]["drawn"] == [
        "bert.pooler.dense.bias", "bert.pooler.dense.weight", "classifier.bias", "classifier.weight",
    ]  # fmt: skip


def test_classes_are_learned_and_stand_beside_the_most_frequent_one(tmp_path: Path, data: Path) -> None:
    found = classify(tmp_path / "run", data, "evaluation.train.steps=30")
    assert value(found, "accuracy") == 1.0
    assert value(found, "accuracy of the most frequent class") == 0.5
    (row,) = [row for row in found["rows"] if row["metric"] == "accuracy"]
    assert row["count"] == 32 and row["standard_error"] == 0.0


def test_a_run_that_crashed_goes_on_to_the_same_numbers(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside the second of two seeds, with dropout."""
    dropping = copied(tmp_path / "bert", BERT, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    log = JsonlTracker.log

    def crash(self: JsonlTracker, record: dict[str, Any]) -> None:
        if record["step"] == 7 and record["arm"].endswith("seed-1"):
            raise RuntimeError("crashed on purpose")
        log(self, record)

    def start(folder: Path) -> dict[str, Any]:
        return classify(folder, data, "evaluation.seeds=2", models={"small": dropping})

    with monkeypatch.context() as patched:
        patched.setattr(JsonlTracker, "log", crash)
        with pytest.raises(RuntimeError, match="on purpose"):
            start(tmp_path / "cut")
    assert [f.name for f in (tmp_path / "cut").glob("checkpoints/small/*/*/step-*")] != []
    cut, whole = start(tmp_path / "cut"), start(tmp_path / "whole")
    assert cut["rows"] == whole["rows"]
    assert records(tmp_path / "cut") == records(tmp_path / "whole")
    assert list((tmp_path / "cut").glob("checkpoints/small/*/*/step-*")) == []


def test_seeds_draw_other_heads_and_their_mean_and_deviation_are_told(tmp_path: Path, data: Path) -> None:
    found = classify(tmp_path / "run", data, "evaluation.seeds=3", "evaluation.train.steps=2")
    runs = found["models"]["small"]["details"]["runs"]
    assert [each["seed"] for each in runs] == [0, 1, 2] and len({each["loss"] for each in runs}) == 3
    accuracies = [each["scores"]["validation"]["accuracy"] for each in runs]
    assert value(found, "accuracy") == pytest.approx(np.mean(accuracies))
    assert value(found, "accuracy, deviation over 3 seeds") == pytest.approx(np.std(accuracies, ddof=1))


def test_the_rate_that_validation_is_best_at_counts(tmp_path: Path, data: Path) -> None:
    found = classify(tmp_path / "run", data, "evaluation.rates=[1e-7,2e-3]", "evaluation.train.steps=20")
    details = found["models"]["small"]["details"]
    by_rate = {rate: each["validation"]["accuracy"]["mean"] for rate, each in details["rates"].items()}
    assert details["rate"] == 2e-3 and by_rate["0.002"] > by_rate["1e-07"]
    assert value(found, "accuracy") == by_rate["0.002"]


def test_causal_models_are_read_at_their_last_token_and_models_stand_side_by_side(
    tmp_path: Path, data: Path
) -> None:
    """The last token says nothing of the label unless it sees what stands before it."""
    models = {"bert": BERT, "llama": LLAMA}
    found = classify(tmp_path / "run", data, "evaluation.train.steps=40", models=models)
    assert value(found, "accuracy", "llama") > 0.9 and value(found, "accuracy", "bert") == 1.0
    assert found["models"]["llama"]["details"]["runs"][0]["drawn"] == ["score.weight"]
    assert (tmp_path / "run" / "table.md").read_text().startswith("| task | metric")


def test_numbers_are_guessed_too(tmp_path: Path) -> None:
    """As in STS-B: pairs of sentences with a number."""
    for name in ("train", "dev"):
        lines = ["sentence1\tsentence2\tscore"]
        lines += [
            f"the king\tthe {'king' if n % 2 else 'river'}\t{4.75 if n % 2 else 0.25}" for n in range(32)
        ]
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines))
    found = classify(tmp_path / "run", tmp_path, "evaluation.task=stsb", "evaluation.train.steps=40")
    assert value(found, "pearson") > 0.9 and value(found, "spearman") > 0.8


def test_mnli_is_scored_on_both_of_its_validation_splits(tmp_path: Path) -> None:
    for name in ("train", "dev_matched", "dev_mismatched"):
        lines = [
            f"the king\tthe {word}\t{label}" for word, label in (("king", "entailment"), ("sea", "neutral"))
        ]
        (tmp_path / f"{name}.tsv").write_text("\n".join(["sentence1\tsentence2\tgold_label", *(lines * 4)]))
    found = classify(tmp_path / "run", tmp_path, "evaluation.task=mnli", "evaluation.train.steps=2")
    assert [row["task"] for row in found["rows"] if row["metric"] == "accuracy"] == [
        "mnli",
        "mnli mismatched",
    ]


# --- what is counted -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("objective", "head"), [(ClassOfText, AutoModelForSequenceClassification), (EndsOfAnswer, AutoModelForQuestionAnswering)])  # fmt: skip
def test_the_flops_of_a_forward_pass_are_those_that_torch_counts(objective: Any, head: Any) -> None:
    """But for heads that work once on a row, which are free, as everywhere."""
    model = head.from_pretrained(BERT, num_labels=2, dtype=torch.float32, attn_implementation="eager").eval()
    counted = objective(family_of(model.config.to_dict() | {"architectures": ["BertForMaskedLM"]}), lambda: AutoTokenizer.from_pretrained(BERT))  # fmt: skip
    answers = (0,) * counted.num_answers
    rows = as_rows([Encoded(np.arange(2, 22), np.zeros(20, np.int64), answers)] * 3)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**counted.given(torch.from_numpy(rows)))
    once = 2 * 3 * (96 * 96 + 96 * 2) if objective is ClassOfText else 0
    assert counter.get_total_flops() == counted.flops(rows) + once


def test_the_flops_of_a_run_are_three_forward_passes_over_what_it_was_given(
    tmp_path: Path, data: Path
) -> None:
    found = classify(tmp_path / "run", data, "evaluation.train.steps=3")
    details = found["models"]["small"]["details"]
    reader = TextReader.of(Model.open("small", ModelConfig(path=str(BERT)), ComputeConfig()), None, 128)
    examples = encode(reader, read_examples(str(data), "train", TASKS["sst2"], "sst2"), numbers=False)
    batches = TextBatches(examples, BATCH, seed=0)
    objective = ClassOfText(reader.family, lambda: reader.tokenizer)
    assert details["training_flops"] == pytest.approx(
        3 * sum(objective.flops(batches[step]) for step in range(3))
    )


# --- what is refused -----------------------------------------------------------------------------------------


def test_only_heads_are_drawn_anew(tmp_path: Path, data: Path) -> None:
    """Found before the first of several models is trained."""
    folder, lacking = tmp_path / "bert", "bert.encoder.layer.1.output.dense.bias"
    shutil.copytree(BERT, folder)
    weights = load_file(folder / "model.safetensors")
    del weights[lacking]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    family = family_of(Model.open("small", ModelConfig(path=str(folder)), ComputeConfig()).config)
    with pytest.raises(CheckpointError, match=f"lacks {lacking}, .* only heads are drawn anew"):
        model_with_head(folder, "AutoModelForSequenceClassification", family, 0, num_labels=2)
    with pytest.raises(
        CheckpointError, match=f"models.second: .* lacks {lacking}, .* only heads are drawn anew"
    ):
        classify(tmp_path / "run", data, models={"first": BERT, "second": folder})
    assert not (tmp_path / "run").exists()


def test_a_head_is_the_same_from_the_same_seed_and_the_checkpoints_own_is_kept(tmp_path: Path) -> None:
    family = family_of(Model.open("small", ModelConfig(path=str(BERT)), ComputeConfig()).config)

    def made(folder: Path, seed: int, labels: int = 3) -> Any:
        return model_with_head(folder, "AutoModelForSequenceClassification", family, seed, num_labels=labels)

    first, _ = made(BERT, 0)
    assert torch.equal(first.classifier.weight, made(BERT, 0)[0].classifier.weight)
    assert not torch.equal(first.classifier.weight, made(BERT, 1)[0].classifier.weight)
    first.save_pretrained(tmp_path / "three")
    kept, drawn = made(tmp_path / "three", 1)
    assert drawn == [] and torch.equal(kept.classifier.weight, first.classifier.weight)
    assert made(tmp_path / "three", 1, labels=2)[1] == ["classifier.bias", "classifier.weight"]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (["evaluation.train.lr=1e-4"], ConfigError, "evaluation.train.lr=0.0001 cannot be: the rates to try are named by evaluation.rates"),
        (["evaluation.train.engine=deepspeed"], ConfigError, "engine=deepspeed cannot be: evaluations run in one process"),
        (["evaluation.train.max_tokens=100"], ConfigError, "evaluation.train.max_tokens follows from the examples"),
        (["evaluation.train.micro_batch_size=3"], ConfigError, "evaluation.train.micro_batch_size=3 does not divide the 8"),
        (["evaluation.rates=[]"], ConfigError, "evaluation.rates names no rate"),
        (["evaluation.rates=[1e-4,1e-4]"], ConfigError, "names a rate twice"),
        (["evaluation.seeds=0"], ConfigError, "evaluation.seeds=0 must be at least 1"),
        (["evaluation.task=sst3"], ConfigError, "evaluation.task=sst3 is not one of .*Try: evaluation.task=sst2"),
        (["evaluation.task=own"], ConfigError, "reads one text or two"),
        (["evaluation.task=own", "evaluation.columns=[sentence]", "evaluation.classes=[bad,good]", "evaluation.metrics=[pearson]"], ConfigError, "pearson does not score 2 classes"),
        (["evaluation.classes=[a,b]"], ConfigError, "are for evaluation.task=own; sst2 has its own"),
        (["evaluation.max_length=64"], ConfigError, "evaluation.max_length=64 is more than the 32 positions of models.small"),
        (["evaluation.test=true"], DataError, "has no split test: there is dev.tsv, train.tsv"),
        (["compute.dtype=bfloat16"], ConfigError, "compute.dtype=bfloat16: the weights that are trained are held in float32"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_refused_before_anything_is_written(
    tmp_path: Path, data: Path, options: list[str], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=f"(?s){words}"):
        classify(tmp_path / "run", data, *options)
    assert not (tmp_path / "run").exists()


def test_models_and_data_that_do_not_go_together_are_refused(tmp_path: Path, data: Path) -> None:
    with pytest.raises(
        CheckpointError, match="(?s)models.vit is a ViT model, which reads images.*evaluation=images"
    ):
        classify(tmp_path / "run", data, models={"vit": VIT})
    with pytest.raises(
        ConfigError, match="(?s)is one file, and there is none to score on.*evaluation.validation_path=FILE"
    ):
        classify(tmp_path / "run", data / "train.tsv")
    with pytest.raises(ConfigError, match="there is nothing to fine-tune on: evaluation.path is not set"):
        run(tmp_path / "run", "classification", {"small": BERT})
