"""`python -m ligo.evaluate` as a person types it: help, groups, models that are found, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ligo import evaluate
from ligo.core.errors import ConfigError
from ligo.evaluation.models import ComputeConfig, Model, ModelConfig
from ligo.evaluation.registry import EVALUATIONS
from ligo.options import compose_from_file, compose_options, options
from tests.conftest import REPO
from tests.evaluation.checkpoints import random_checkpoint, run

NEEDED = {
    "perplexity": ["evaluation.path=x.txt"],
    "tasks": ["evaluation.tasks=[hellaswag]"],
    **{key: ["evaluation.path=DIR"] for key in ("classification", "images", "squad")},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("some text")
    return tmp_path / "text.txt"


def test_help_shows_options_defaults_and_examples() -> None:
    command = [sys.executable, "-m", "ligo.evaluate", "--help"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    for words in (*evaluate.EXAMPLES, "llama-table", "pairwise, perplexity", "document_separator"):
        assert words in done.stdout


@pytest.mark.parametrize("name", options("evaluation"))
def test_every_shipped_evaluation_composes_into_its_own_options(name: str, tmp_path: Path) -> None:
    arguments = [f"+evaluation={name}", "models.a.path=odd, name", *NEEDED.get(name, [])]
    config, text = compose_options(arguments, evaluate.OPTIONS)
    assert type(config.evaluation) is EVALUATIONS.get(config.evaluation.name).Config
    assert config.models == {"a": ModelConfig(path="odd, name")}
    (tmp_path / "config.yaml").write_text(text)
    assert compose_from_file(tmp_path / "config.yaml", evaluate.OPTIONS)[0] == config


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluation.path=x"], "there is no model to evaluate.\n  Try: models.NAME.path=DIR"),
        (["models.a.path=x"], "evaluation.path is not set"),
        (["models={a*b: {path: x}}", "evaluation.path=x"], "'a.b' does not.\n  Try: models.a-b.path="),
        (["models.a.pat=x", "evaluation.path=x"], "pat"),
        (["evaluation=perplexty"], "evaluation=perplexty is not known(.|\n)*Try: evaluation=perplexity"),
        (["models.a.path=x", "evaluation.path=x", "evaluation.window=0"], "evaluation.window=0 must be at least 1"),
        (["models.a.path=x", "evaluation.path=x", "compute.dtype=int8"], "compute.dtype=int8 is not one of auto"),
        (["models.a.path=x", "evaluation=tasks"], "evaluation.tasks names no task"),
        (
            ["models.a.path=x", "evaluation=tasks", "evaluation.tasks=[boolq]", "evaluation.metrics={bolq: acc}"],
            "names bolq, which is not in evaluation.tasks(.|\n)*Try: boolq",
        ),
        (["models.a.path=x", "evaluation=pairwise", "evaluation.judge.name=opnai"], "Try: evaluation.judge.name=openai"),
        (["models.a.path=x", "evaluation=pairwise", "evaluation.judge.top_p=2"], "evaluation.judge.top_p=2 must be"),
        (["models.a.path=x", "evaluation=pairwise", "evaluation.answers.prompt=vicuna"], "answers.prompt=vicuna is not"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_refused(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        compose_options(arguments, evaluate.OPTIONS)


def test_a_run_folder_stands_for_its_trained_else_its_grown_model(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "grown").symlink_to(checkpoint)
    compute = ComputeConfig()
    assert Model.open("it", ModelConfig(path=str(tmp_path)), compute).checkpoint.folder == tmp_path / "grown"
    (tmp_path / "trained").symlink_to(checkpoint)
    assert (
        Model.open("it", ModelConfig(path=str(tmp_path)), compute).checkpoint.folder == tmp_path / "trained"
    )


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        (["models.a.path=NOWHERE"], 4, "models.a.path: there is no NOWHERE"),
        (["models.a.path=RUN"], 4, "has neither trained nor grown nor adapter"),
        (["models.a.path=EMPTY"], 4, "Try: models.a.path="),
        (["models.a.base=EMPTY"], 2, "models.a.base=.* is for adapters"),
        (["models.a.path=ADAPTER"], 2, "is an adapter(.|\n)*models.a.base=DIR"),
        (["models.a.path=OTHERS", "models.a.base=BASE"], 4, "was tuned beside another checkpoint .fingerprint 0123abcd"),
        (["models.a.path=BERT"], 4, "BertForMaskedLM, and no causal language model"),
        (["evaluation.path=BLANK"], 3, "holds no text"),
        (["evaluation.path=NOWHERE"], 3, "does not exist(.|\n)*Try: evaluation.path="),
        (["evaluation.window=33"], 2, "evaluation.window=33 is more than the 32 positions of models.a.\n  Try: .*=32"),
        (["evaluation.window=8", "evaluation.stride=9"], 2, "evaluation.stride=9 is more than the 8 tokens"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_before_anything_is_written(
    checkpoint: Path,
    text: Path,
    tmp_path: Path,
    changes: list[str],
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import re

    places = {
        name: tmp_path / name.lower() for name in ("RUN", "EMPTY", "ADAPTER", "OTHERS", "BERT", "BLANK")
    }
    for name in ("RUN", "EMPTY", "ADAPTER", "OTHERS"):
        places[name].mkdir()
    (places["RUN"] / "manifest.json").write_text("{}")
    for name in ("ADAPTER", "OTHERS"):
        (places[name] / "adapter_config.json").write_text("{}")
    (places["OTHERS"] / "adapter_model.safetensors").touch()
    (places["OTHERS"] / "ligo.json").write_text('{"base_fingerprint": "0123abcd4567"}')
    places["BASE"] = checkpoint
    places["BERT"] = REPO / "ligo" / "zoo" / "tiny-bert"
    places["BLANK"] = tmp_path / "blank.txt"
    places["BLANK"].write_text(" \n")
    for name, place in places.items():
        changes = [change.replace(name, str(place)) for change in changes]
    defaults = {"models.a.path": str(checkpoint), "evaluation.path": str(text)}
    given = defaults | dict(change.split("=", 1) for change in changes)
    arguments = [f"{key}={value}" for key, value in given.items()]
    assert run(*arguments, f"run.dir={tmp_path / 'out'}") == code
    assert re.search(words, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_folder_goes_on_with_the_same_text_only(
    checkpoint: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"models.a.path={checkpoint}", f"evaluation.path={text}", f"run.dir={tmp_path / 'out'}"]
    assert run(*arguments) == 0
    text.write_text("other text")
    assert run(*arguments) == 2
    assert "the data is no longer the one" in capsys.readouterr().err


def test_what_is_kept_names_versions_and_settings_and_no_place_of_this_machine(
    checkpoint: Path, text: Path, tmp_path: Path
) -> None:
    arguments = [f"models.a.path={checkpoint}", f"evaluation.path={text}", f"run.dir={tmp_path / 'out'}"]
    assert run(*arguments) == 0
    written = (tmp_path / "out" / "evaluation.json").read_text()
    record = json.loads(written)
    assert record["versions"]["torch"] and len(record["data_fingerprint"]) == 64
    assert record["settings"]["evaluation"]["document_separator"] == "<|endoftext|>"
    assert record["models"]["a"]["model_type"] == "llama"
    assert str(tmp_path) not in written and str(checkpoint) not in written


def test_the_package_is_not_imported_for_other_commands() -> None:
    code = (
        "import ligo, ligo.evaluation.registry, sys; print('torch' in sys.modules, 'lm_eval' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
