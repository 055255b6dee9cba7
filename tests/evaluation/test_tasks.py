"""Tasks by lm-evaluation-harness: a local task file on local data, its figures reckoned by hand, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ligo.core.errors import ConfigError
from ligo.evaluate import OPTIONS
from ligo.evaluation.tasks import task_manager
from ligo.options import compose_options
from tests.evaluation.checkpoints import character_tokenizer, figures, random_checkpoint, run

pytest.importorskip("lm_eval")

ITEMS = [
    {"question": f"{number} or {number + 1}", "choices": [f"{number}", "neither", "x" * (1 + number % 3)], "gold": number % 3}
    for number in range(12)
]  # fmt: skip
TASK = """\
task: choosing
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Q: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 3}}
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("model"), max_position_embeddings=64)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    (folder / "choosing.yaml").write_text(TASK.format(file=folder / "items.jsonl"))
    return folder


def choose(checkpoint: Path, tasks: Path, folder: Path, *more: str) -> int:
    return run(
        f"models.it.path={checkpoint}", "evaluation=tasks", "evaluation.tasks=[choosing]", "compute.device=cpu",
        f"evaluation.include_path={tasks}", f"run.dir={folder}", *more,
    )  # fmt: skip


def likelihoods(checkpoint: Path, context: str, choices: list[str]) -> torch.Tensor:
    """log P(' ' + choice | context) of each choice, one by one."""
    from transformers import AutoModelForCausalLM

    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), character_tokenizer()
    found = []
    for choice in choices:
        before, whole = (tokenizer(text)["input_ids"] for text in (context, f"{context} {choice}"))
        with torch.no_grad():
            logits = model(torch.tensor([whole[:-1]])).logits[0].log_softmax(-1)
        found.append(sum(float(logits[place - 1, whole[place]]) for place in range(len(before), len(whole))))
    return torch.tensor(found, dtype=torch.float64)


def context(item: dict[str, Any]) -> str:
    return f"Q: {item['question']}\nAnswer:"


def test_accuracies_of_a_local_task_are_those_reckoned_by_hand(
    checkpoint: Path, tasks: Path, tmp_path: Path
) -> None:
    assert choose(checkpoint, tasks, tmp_path / "run") == 0
    found = figures(tmp_path / "run")
    right = right_norm = 0
    for item in ITEMS:
        scores = likelihoods(checkpoint, context(item), item["choices"])
        sizes = torch.tensor([len(choice) for choice in item["choices"]])
        right += int(scores.argmax()) == item["gold"]
        right_norm += int((scores / sizes).argmax()) == item["gold"]
    assert found["it", "choosing", "acc"] == pytest.approx(right / len(ITEMS))
    assert found["it", "choosing", "acc_norm"] == pytest.approx(right_norm / len(ITEMS))
    record = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert {row["count"] for row in record["rows"]} == {len(ITEMS)}
    assert all(row["standard_error"] is not None for row in record["rows"])
    details = record["models"]["it"]["details"]
    assert details["task_versions"] == {"choosing": 3} and details["truncated_prompts"] == 0
    assert record["models"]["it"]["evaluation_flops"] > 0


def test_choices_are_weighed_against_themselves_after_the_context_that_is_asked_for(
    checkpoint: Path, tasks: Path, tmp_path: Path
) -> None:
    more = ("evaluation.metrics={choosing: acc_mutual_info}", "evaluation.unconditional_context='Answer:'")
    assert choose(checkpoint, tasks, tmp_path / "run", *more) == 0
    right = 0
    for item in ITEMS:
        gain = likelihoods(checkpoint, context(item), item["choices"]) - likelihoods(
            checkpoint, "Answer:", item["choices"]
        )
        right += int(gain.argmax()) == item["gold"]
    assert figures(tmp_path / "run") == {
        ("it", "choosing", "acc_mutual_info"): pytest.approx(right / len(ITEMS))
    }


def test_prompts_that_are_cut_are_counted(checkpoint: Path, tasks: Path, tmp_path: Path) -> None:
    assert choose(checkpoint, tasks, tmp_path / "run", "evaluation.window=16", "evaluation.limit=5") == 0
    record = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    lengths = [len(f"{context(item)} {choice}") for item in ITEMS[:5] for choice in item["choices"]]
    assert (
        record["models"]["it"]["details"]["truncated_prompts"] == sum(length > 17 for length in lengths) > 0
    )
    assert {row["count"] for row in record["rows"]} == {5}


def test_other_data_can_be_given_to_a_task(checkpoint: Path, tasks: Path, tmp_path: Path) -> None:
    (tasks / "two.jsonl").write_text("".join(json.dumps(item) + "\n" for item in ITEMS[:2]))
    more = f"evaluation.overrides.choosing.dataset_kwargs.data_files.test={tasks / 'two.jsonl'}"
    assert choose(checkpoint, tasks, tmp_path / "run", more) == 0
    rows = json.loads((tmp_path / "run" / "evaluation.json").read_text())["rows"]
    assert {row["count"] for row in rows} == {2}


def test_llamas_table_names_eight_tasks_that_the_harness_has_and_another_name_is_refused() -> None:
    config, _ = compose_options(["evaluation=llama-table", "models.a.path=x"], OPTIONS)
    table = config.evaluation
    assert len(table.tasks) == 8 and set(table.metrics) == set(table.tasks)
    words = "no task 'hellaswga' in lm-evaluation-harness.\n  Try: evaluation.tasks=.hellaswag."
    with pytest.raises(ConfigError, match=words):  # of the eight none
        task_manager(replace(table, tasks=[*table.tasks, "hellaswga"]))


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["evaluation.metrics={choosing: acc_nrm}"], 2, "evaluation.metrics.choosing=acc_nrm is not one of acc, acc_norm"),
        (["evaluation.overrides={choosing: {doc_to_texts: x}}"], 2, "does not take the task choosing"),
        (["evaluation.overrides={choosing: {dataset_kwargs: {data_files: {test: nowhere.jsonl}}}}"], 3, "the data of the task choosing cannot be had"),
        (["evaluation.window=65"], 2, "evaluation.window=65 is more than the 64 positions of models.it"),
        (["evaluation.include_path=nowhere"], 2, "evaluation.include_path=nowhere is no folder"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused_before_a_model_is_read(
    checkpoint: Path,
    tasks: Path,
    tmp_path: Path,
    more: list[str],
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import re

    assert choose(checkpoint, tasks, tmp_path / "run", *more) == code
    assert re.search(words, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()
