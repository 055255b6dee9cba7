"""Growth inside a run: one curve over all models, exact where the plan says so, resumed at any point, charged once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from ligo import grow
from ligo.config import GrowConfig, compose
from ligo.core.errors import ConfigError
from ligo.options import options
from ligo.plan import known_config, make_plan
from ligo.reports.collect import load_run
from ligo.reports.figures import loss_chart
from ligo.schedule import before_training, first_model, plan_growths, read_growths, schedule_text
from ligo.tracking.jsonl import MEASURED
from tests.conftest import REPO
from tests.test_commands import run

FLOAT32 = 1e-5  # the same function by grown float32 weights; losses are about 5
PARITY = 1e-5  # float32 rounding of the same arithmetic in another order

SHAPE = (
    "small.shape={vocab_size: 300, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2,"
    " num_key_value_heads: 1, intermediate_size: 24, max_position_embeddings: 64}"
)
TARGET = (
    "target=custom", "target.hidden_size=24", "target.num_attention_heads=3", "target.num_key_value_heads=3",
    "target.intermediate_size=40", "target.num_hidden_layers=3",
)  # fmt: skip
BUDGET = (
    "train.engine=torch", "train.batch_tokens=256", "train.max_tokens=3072", "train.evaluate_every=5",
    "train.save_every=3", "train.lr=5e-3", "scratch.max_tokens=2048", "data.sequence_length=32",
    "data.validation_tokens=1024", "tracking=jsonl", "data=custom",
)  # fmt: skip
# deeper after 4 steps, then wider after 9 of 12
TWICE = "train.growth=[{at_tokens: 1024, target: {num_hidden_layers: 3}}, {at_tokens: 2304}]"
INSIDE = ("operator=exact", "train.start=small", TWICE)


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "fables.txt"
    who = ("fox", "crow", "ant", "lion", "mouse")
    lines = [f"The {who[i % 5]} met the {who[(i * 3 + 1) % 5]} on day {i % 31}.\n" for i in range(1500)]
    path.write_text("".join(lines), encoding="utf-8")
    os.environ["LIGO_CACHE"] = str(path.parent / "cache")
    return path


@pytest.fixture(scope="module")
def small(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model trained for a few steps, with its moments."""
    folder = tmp_path_factory.mktemp("small")
    command = ("small=scratch", SHAPE, "small.train.max_tokens=2048", *BUDGET, "operator=exact", "stages=[]")
    assert run(grow, *command, f"data.path={text_file}", f"run.dir={folder}") == 0
    return folder / "small"


@pytest.fixture(scope="module")
def command(small: Path, text_file: Path) -> tuple[str, ...]:
    return ("small=checkpoint", f"small.path={small}", *TARGET, *BUDGET, f"data.path={text_file}")


@pytest.fixture(scope="module")
def whole(command: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two growths inside, never interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert run(grow, *command, *INSIDE, "stages=[train,scratch,report]", f"run.dir={folder}") == 0
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def records(folder: Path, arm: str = "grown") -> list[dict[str, Any]]:
    """The metrics of an arm without the wall time."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in MEASURED} for line in lines if line["arm"] == arm]


def losses(folder: Path) -> list[float]:
    return [r[key] for r in records(folder) for key in ("train/loss", "eval/loss") if key in r]


# --- one arm ------------------------------------------------------------------------------------------------


def test_the_last_checkpoint_can_be_exported_and_is_the_result(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "exported"
    assert run(grow, *command, *INSIDE, "stages=[train]", "train.export=last", f"run.dir={folder}") == 0
    last = folder / "checkpoints/grown/segment-2"
    exported = AutoModelForCausalLM.from_pretrained(last / (last / "latest").read_text().strip() / "model")
    trained = AutoModelForCausalLM.from_pretrained(folder / "trained")
    assert exported.config.num_hidden_layers == 3
    torch.testing.assert_close(exported.state_dict(), trained.state_dict(), rtol=0, atol=0)


def test_exact_growth_leaves_the_loss_where_it_was(whole: Path) -> None:
    lines = records(whole)
    after = [n for n, line in enumerate(lines) if "growth" in line]
    assert [lines[n]["step"] for n in after] == [4, 9]
    for n in after:
        assert lines[n]["eval/loss"] == pytest.approx(lines[n - 1]["eval/loss"], abs=FLOAT32)
    for number in (1, 2):
        assert read(whole / f"growth-{number}" / "stages.json")["verify"]["exact"]
    assert lines[-1]["eval/loss"] < lines[0]["eval/loss"] - 0.1  # it learned something


def test_all_segments_are_one_curve(whole: Path) -> None:
    lines = records(whole)
    steps = [line["step"] for line in lines if "train/loss" in line]
    assert steps == list(range(1, 13))
    assert all(line["tokens"] == 256 * line["step"] for line in lines)
    assert all(a["flops"] <= b["flops"] for a, b in pairwise(lines))
    assert [line["step"] for line in lines if "eval/loss" in line] == [0, 4, 4, 5, 9, 9, 10, 12]
    rates = [line["lr"] for line in lines if "lr" in line]
    assert all(a > b for a, b in pairwise(rates[1:]))  # one cosine, over growths too


def test_the_first_batch_after_growth_is_the_next_one(whole: Path, small: Path, text_file: Path) -> None:
    """The loss of step 5 is that of the grown folder on the batch of step 5."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ligo.data.loader import Batches
    from ligo.data.sources import DataConfig
    from ligo.data.tokenize import prepare

    data = DataConfig(name="custom", path=str(text_file), sequence_length=32, validation_tokens=1024)
    corpus = prepare(data, AutoTokenizer.from_pretrained(small), vocab_size=300)
    windows = torch.from_numpy(Batches(corpus, 32, 8, seed=0)[4])
    model = AutoModelForCausalLM.from_pretrained(whole / "growth-1" / "grown")
    assert model.config.num_hidden_layers == 3
    with torch.no_grad():
        logits = model(windows[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
    assert records(whole)[6]["step"] == 5
    assert records(whole)[6]["train/loss"] == pytest.approx(float(loss), abs=FLOAT32)


def test_the_result_is_a_stock_model_of_the_last_shape(whole: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, info = AutoModelForCausalLM.from_pretrained(whole / "trained", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (24, 3)
    assert AutoTokenizer.from_pretrained(whole / "trained")("The fox")["input_ids"]
    assert not (whole / "checkpoints").exists() or not list((whole / "checkpoints").iterdir())
    summary = read(whole / "summary.json")
    assert (summary["target"]["hidden_size"], summary["target"]["num_layers"]) == (24, 3)
    assert [growth["num_layers"] for growth in summary["inner_growth"]] == [3, 3]


def test_the_report_shows_where_the_arm_grew(whole: Path) -> None:
    from bokeh.document import Document

    chart = loss_chart([load_run(whole)])
    assert chart is not None
    plot: Any = Document.from_json(chart.item["doc"]).get_model_by_name("losses")
    (mark,) = (r for r in plot.renderers if type(r.glyph).__name__ == "VSpan")
    assert list(mark.data_source.data["tokens"]) == [1024, 2304]
    assert mark.data_source.data["what"][1] == "grown to width 24, 3 layers; validation loss"
    assert "grown inside the run, at" in (whole / "report.html").read_text()


@pytest.mark.parametrize("how", ["reset", "keep_old"])
def test_moments_go_on_grown(how: str, whole: Path, command: tuple[str, ...], tmp_path: Path) -> None:
    second = f"{{at_tokens: 2304, operator: {{optimizer_state: {how}}}}}"
    growth = TWICE.replace("{at_tokens: 2304}", second)
    assert run(grow, *command, *INSIDE, growth, "stages=[train]", f"run.dir={tmp_path / 'run'}") == 0
    other, expected = (
        [r["train/loss"] for r in records(f) if "train/loss" in r] for f in (tmp_path / "run", whole)
    )
    assert other[:10] == expected[:10]  # the tenth is before the first update after growth
    assert other[10] != expected[10]
    assert (tmp_path / "run" / "growth-2" / "moments.safetensors").exists() == (how == "keep_old")


def test_grown_moments_are_those_of_the_engine_by_the_maps(whole: Path) -> None:
    """Steps are counted on, and depth growth keeps the moments of old layers as they are."""
    from safetensors import safe_open

    folder = whole / "growth-1"
    with safe_open(folder / "moments.safetensors", "pt") as grown, safe_open(folder / "small" / "optimizer.safetensors", "pt") as before:  # fmt: skip
        assert grown.metadata()["step"] == before.metadata()["step"] == "4"
        name = "exp_avg_sq.model.layers.0.mlp.up_proj.weight"
        assert grown.get_tensor(name).equal(before.get_tensor(name))
        assert float(before.get_tensor(name).max()) > 0
    with safe_open(whole / "growth-2" / "small" / "optimizer.safetensors", "pt") as later:
        assert later.metadata()["step"] == "9"


def test_the_small_models_own_moments_go_on_too(
    whole: Path, command: tuple[str, ...], tmp_path: Path
) -> None:
    from safetensors import safe_open

    arguments = (*command, *INSIDE, "operator.optimizer_state=grow", "stages=[train]", f"run.dir={tmp_path}")
    assert run(grow, *arguments) == 0
    with safe_open(tmp_path / "growth-1" / "small" / "optimizer.safetensors", "pt") as file:
        assert file.metadata()["step"] == "12"  # 8 of the small model's training, 4 here
    assert records(tmp_path)[1]["train/loss"] == records(whole)[1]["train/loss"]
    assert records(tmp_path)[2]["train/loss"] != records(whole)[2]["train/loss"]


# --- interrupted --------------------------------------------------------------------------------------------


class Killed(BaseException):
    """As sudden as a kill: nothing of ligo catches it."""


def dying(monkeypatch: pytest.MonkeyPatch, at: Any) -> None:
    """Trackers that die, or stop the run, right after the record that `at` picks."""
    from ligo.tracking.jsonl import JsonlTracker

    class Dying(JsonlTracker):
        def log(self, record: dict[str, Any]) -> None:
            super().log(record)
            number = at(record)
            if number is not None:
                if number:
                    os.kill(os.getpid(), number)
                else:
                    raise Killed

    monkeypatch.setattr("ligo.tracking.config.JsonlTracker", Dying)


KILLED_AT: dict[str, Any] = {
    "in the first segment": lambda r: 0 if r["step"] == 2 else None,
    "at its end": lambda r: 0 if r["step"] == 4 and "growth" not in r else None,
    "right after growth": lambda r: 0 if r.get("growth") == 1 else None,
    "in the second segment, before a checkpoint": lambda r: 0 if r["step"] == 5 else None,
    "after a checkpoint of it": lambda r: 0 if r["step"] == 8 else None,
    "by a signal at the step of growth": lambda r: (
        signal.SIGTERM if r["step"] == 9 and "growth" not in r else None
    ),
}


@pytest.mark.parametrize("when", KILLED_AT)
def test_a_run_killed_anywhere_goes_on_as_if_never_killed(
    when: str, whole: Path, command: tuple[str, ...], tmp_path: Path
) -> None:
    arguments = (*command, *INSIDE, "stages=[train]", f"run.dir={tmp_path / 'run'}")
    with pytest.MonkeyPatch.context() as patch:
        dying(patch, KILLED_AT[when])
        if "signal" in when:
            assert run(grow, *arguments) == 75
        else:
            with pytest.raises(Killed):
                run(grow, *arguments)
    assert len(records(tmp_path / "run")) < len(records(whole))
    assert run(grow, *arguments) == 0
    assert records(tmp_path / "run") == records(whole)  # bit for bit


def test_a_run_killed_while_it_grows_goes_on(whole: Path, command: tuple[str, ...], tmp_path: Path) -> None:
    arguments = (*command, *INSIDE, "stages=[train]", f"run.dir={tmp_path / 'run'}")

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ligo.checkpoint.shards.append_tensors", killed)
        with pytest.raises(Killed):
            run(grow, *arguments)
    assert (tmp_path / "run" / "growth-1" / "small").is_dir()
    assert not (tmp_path / "run" / "growth-1" / "grown").exists()
    assert run(grow, *arguments) == 0
    assert records(tmp_path / "run") == records(whole)


# --- what it costs ------------------------------------------------------------------------------------------


def test_everything_is_charged_once(command: tuple[str, ...], tmp_path: Path) -> None:
    """A growth before training and a learned one inside of it, counted by hand."""
    from ligo.accounting.flops import model_flops
    from ligo.families.base import family_of

    learned = "{name: ligo, init: isometry, steps: 2, batch_tokens: 256, evaluate_every: 1}"
    growth = f"train.growth=[{{at_tokens: 1024, target: {{hidden_size: 40, num_attention_heads: 5, num_key_value_heads: 5}}, operator: {learned}}}]"
    arguments = (
        *command,
        "operator=isometry",
        growth,
        "stages=[learn,write,train,scratch,continue,report]",
        f"run.dir={tmp_path}",
    )
    assert run(grow, *arguments) == 0
    summary, inner = read(tmp_path / "summary.json"), read(tmp_path / "growth-1" / "stages.json")
    grown, target = (
        model_flops(family_of(read(tmp_path / name / "config.json")), 32).training
        for name in ("grown", "trained")
    )
    cost = inner["learn"]["flops"] + inner["write"]["build_flops"]
    assert inner["learn"]["flops"] > 0 and inner["write"]["build_flops"] > 0
    arms = {arm["name"]: arm for arm in summary["arms"]}
    assert arms["grown"]["flops"] == pytest.approx(1024 * grown + cost + 2048 * target, rel=1e-12)
    assert summary["inner_growth"][0]["operator_flops"] == cost
    before = read(tmp_path / "stages.json")["write"]["build_flops"]
    assert summary["savings"][0]["operator_flops"] == before > 0  # what is inside is in the arm
    after = next(r for r in records(tmp_path) if "growth" in r)
    assert after["flops"] == pytest.approx(1024 * grown + cost, rel=1e-12)
    assert arms["scratch"]["flops"] == pytest.approx(2048 * target)  # of the last model's shape
    assert arms["continue"]["flops"] == pytest.approx(
        arms["grown"]["flops"] + before, rel=0.05
    )  # whole steps
    assert len([r for r in records(tmp_path, "learn-1") if "train/loss" in r]) == 2


# --- engines ------------------------------------------------------------------------------------------------


def test_deepspeed_equals_torch(whole: Path, command: tuple[str, ...], tmp_path: Path) -> None:
    assert (
        run(
            grow,
            *command,
            *INSIDE,
            "train.engine=deepspeed",
            "deepspeed=zero1",
            "stages=[train]",
            f"run.dir={tmp_path}",
        )
        == 0
    )
    assert losses(tmp_path) == pytest.approx(losses(whole), abs=PARITY)


def test_two_ranks_with_sharded_weights_equal_one(
    whole: Path, command: tuple[str, ...], tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    options = ["train.engine=deepspeed", "deepspeed=zero3", "stages=[train]", f"run.dir={tmp_path / 'run'}"]
    done = subprocess.run(
        [*launch, "-m", "ligo.grow", *command, *INSIDE, *options],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(tmp_path / "run") == pytest.approx(losses(whole), abs=PARITY)


# --- with no small model at hand ------------------------------------------------------------------------------


def test_one_command_trains_the_small_model_grows_it_and_grows_it_again(
    text_file: Path, tmp_path: Path
) -> None:
    growth = "train.growth=[{at_tokens: 1024, target: {num_hidden_layers: 6}, operator: stack}]"
    arguments = (
        "small=scratch", SHAPE, "small.train.max_tokens=1024", *TARGET, *BUDGET, "operator=exact", growth,
        "operator.optimizer_state=grow", "stages=[learn,write,verify,train]", f"data.path={text_file}",
        f"run.dir={tmp_path}",
    )  # fmt: skip
    assert run(grow, *arguments) == 0
    layers = [
        read(tmp_path / name / "config.json")["num_hidden_layers"]
        for name in ("small", "grown", "growth-1/small", "trained")
    ]
    assert layers == [2, 3, 3, 6]
    with_moments = read(tmp_path / "growth-1" / "stages.json")
    assert not with_moments["verify"]["claimed_exact"]


def test_an_untrained_small_model_is_trained_inside_the_arm(text_file: Path, tmp_path: Path) -> None:
    arguments = (
        "small=scratch", SHAPE, "small.train.max_tokens=0", *TARGET, *BUDGET, *INSIDE, "stages=[train,scratch,report]",
        f"data.path={text_file}", f"run.dir={tmp_path}",
    )  # fmt: skip
    assert run(grow, *arguments) == 0
    assert records(tmp_path)[0]["eval/loss"] == pytest.approx(5.7, abs=0.1)  # ln 300: it knows nothing
    summary = read(tmp_path / "summary.json")
    assert summary["small"]["train_flops"] == 0
    sunk, charged = summary["savings"]
    assert sunk["saving"] == charged["saving"]


# --- what cannot be -----------------------------------------------------------------------------------------

LLAMA = ("small=tiny-llama", "target=tiny-llama-2x", "operator=exact")
DEEPER = "target: {num_hidden_layers: 12}"


@pytest.fixture(scope="module")
def tiny() -> GrowConfig:
    return compose([*LLAMA])[0]


@pytest.mark.parametrize(
    ("growth", "words"),
    [
        (f"{{at_tokens: 1000, {DEEPER}}}", "at_tokens=1000 is not a whole number of steps of train.batch_tokens=1024(.|\n)*at_tokens: 1024"),
        (f"{{at_tokens: 0, {DEEPER}}}", "at_tokens=0 is not after the first step(.|\n)*at_tokens: 1024"),
        (f"{{at_tokens: 2048, {DEEPER}}}, {{at_tokens: 2048, target: {{num_hidden_layers: 24}}}}", r"growth\[1\].at_tokens=2048 is not after the growth before it, at 2048"),
        (f"{{at_tokens: 393216, {DEEPER}}}", "beyond the budget(.|\n)*at_tokens: 392192 at most"),
        (f"{{at_tokns: 1024, {DEEPER}}}", "has no key 'at_tokns'(.|\n)*Try: at_tokens: 1024"),
        (f"{{{DEEPER}}}", "at_tokens=None is no number of tokens"),
        ("7", "=7 is no growth"),
        ("{at_tokens: 1024, target: {num_hiden_layers: 12}}", "target has no key 'num_hiden_layers'(.|\n)*Try: num_hidden_layers: 12"),
        ("{at_tokens: 1024, target: tiny-lama-2x}", "target=tiny-lama-2x is not known(.|\n)*Try: target: tiny-llama-2x"),
        ("{at_tokens: 1024, target: 12}", "target=12 is neither a name nor a mapping"),
        ("{at_tokens: 1024, target: {num_hidden_layers: twelve}}", "'twelve' of type 'str' could not be converted to Integer"),
        ("{at_tokens: 1024, target: {num_hidden_layers: 0}}", "target.num_hidden_layers=0 must be at least 1"),
        (f"{{at_tokens: 1024, {DEEPER}, operator: exakt}}", "operator=exakt is not known(.|\n)*Try: operator: exact"),
        (f"{{at_tokens: 1024, {DEEPER}, operator: auto}}", "tries several operators, which is done before training(.|\n)*Try: operator: exact"),
        (f"{{at_tokens: 1024, {DEEPER}, operator: {{optimizer_state: forget}}}}", "operator.optimizer_state=forget is not one of"),
        ("{at_tokens: 1024, target: {num_hidden_layers: 2}}", r"growth\[0\] \(at 1024 tokens\): the target is smaller"),
        ("{at_tokens: 1024}", r"growth\[0\] .at 1024 tokens.: the target has the same sizes"),
        ("{at_tokens: 1024, target: {hidden_size: 200}, operator: hypercloning}", r"growth\[0\] \(at 1024 tokens\): (.|\n)*hypercloning"),
        (f"{{at_tokens: 1024, {DEEPER}}}, {{at_tokens: 2048, target: {{num_hidden_layers: 8}}}}", r"growth\[1\] \(at 2048 tokens\): the target is smaller"),
        ("{at_tokens: 1024, target: {hidden_size: 256, num_attention_heads: 8}, operator: {name: isometry, optimizer_state: keep_old}}", "keeps the moments of coordinates that are still there"),
    ],
)  # fmt: skip
def test_growths_that_cannot_be_are_refused(growth: str, words: str, tiny: GrowConfig) -> None:
    with pytest.raises(ConfigError, match=words):
        inner = read_growths(replace(tiny, train=replace(tiny.train, growth=yaml.safe_load(f"[{growth}]"))))
        plan_growths(first_model(tiny, make_plan(tiny, known_config(tiny.small) or {})), inner)


def test_refusal_comes_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(grow, *LLAMA, "train.growth=[{at_tokens: 1024}]") == 2
    assert "nothing to grow" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train.start=fresh"], "train.start=fresh is not one of grown, small"),
        (["train.start=small", "stages=[train]"], "without train.growth that never grows"),
        (["train.start=small", "train.growth=[{at_tokens: 1024}]"], "stages names learn, write, verify, which grow it before(.|\n)*stages=.train,scratch,report."),
    ],
)  # fmt: skip
def test_starts_that_cannot_be_are_refused(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        compose([*LLAMA, *arguments])


@pytest.mark.parametrize("name", ["one-layer", "staged", "gradual"])
def test_presets_plan_to_their_target(name: str) -> None:
    assert name in options("experiment")
    config, _ = compose([f"experiment={name}"])
    growths = read_growths(config)
    plan = make_plan(before_training(config, growths), known_config(config.small) or {})
    plans = plan_growths(first_model(config, plan), growths)
    assert plans[-1].target.dims.num_layers == config.target.num_hidden_layers
    assert all(plan.exactness.exact for plan in plans) == (name == "staged")
    assert schedule_text(config, plan, growths).count("\n  at ") == len(growths)
