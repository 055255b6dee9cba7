"""Every arm is composed, checked and planned before anything starts; arms differ in nothing that would make them unequal."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ligo.config import compose
from ligo.core.errors import ConfigError, PlanError
from ligo.core.run import config_hash
from ligo.options import conf_dir, options
from ligo.study import Cell, compose_sweep, make_cells

TINY = ("study.overrides=[+small=tiny-llama,+target=tiny-llama-2x,tracking=jsonl,stages=[write,train]]",)
CUSTOM = "study.overrides=[tracking=jsonl,stages=[write,train],target=custom,target.num_attention_heads=6,target.hidden_size=144]"


def cells(*arguments: str) -> list[Cell]:
    config, rest = compose_sweep(arguments)
    return make_cells(config.study, rest)


def brought(name: str) -> list[str]:
    """What a shipped study leaves to whoever starts it: its text, and the shape of the small model at hand."""
    of_llama = dict.fromkeys(("llama-1.5x", "amortised", "budget", "combine", "moments", "noise"), "llama-2x")
    shapes = of_llama | {"bert-long": "bert"}
    trained = f"{shapes.get(name, name)}-small"
    options_of_small = []
    if trained in options("study"):
        config, _ = compose_sweep([f"+study={trained}"])
        options_of_small = [word for word in config.study.overrides if word.startswith(("small.", "+small="))]
    return ["data.path=TEXT", *options_of_small] if name not in ("tiny", "operators") else []


@pytest.mark.parametrize("name", options("study"))
def test_every_shipped_study_can_be_built(name: str) -> None:
    config, rest = compose_sweep([f"+study={name}", *brought(name)])
    assert config.study.name == name
    assert config.study.question
    arms = {cell.arm for cell in make_cells(config.study, rest)}
    assert ({"small"} if name.endswith("-small") else {"scratch"}) <= arms
    if name not in ("no-pretrained",) and not name.endswith("-small"):
        assert "continue-small" in arms


def test_the_study_of_operators_names_each_of_them() -> None:
    arms = yaml.safe_load((conf_dir() / "study" / "operators.yaml").read_text())["arms"]
    assert sorted(arms) == sorted([*options("operator"), "scratch", "short", "continue-small"])


def test_an_arm_or_size_is_left_out_by_its_name_points_and_all() -> None:
    whole, _ = compose_sweep(["+study=scaling"])
    config, rest = compose_sweep(["+study=scaling", "~study.sizes.0.8m-tokens", "~study.arms.stack"])
    assert [*config.study.sizes] == ["1.6m-tokens", "3.1m-tokens"]
    assert {*whole.study.arms} - {*config.study.arms} == {"stack"}
    assert rest == []
    with pytest.raises(ConfigError, match="the last arm"):
        compose_sweep(["+study=scaling", *(f"~study.arms.{arm}" for arm in whole.study.arms)])
    with pytest.raises(ConfigError, match="no such name.\n  Try: ~study.arms.scratch"):
        compose_sweep(["+study=scaling", "~study.arms.skratch"])
    with pytest.raises(ConfigError, match="no such name.\n  Try: leave it out; there are none"):
        compose_sweep(["~study.sizes.large"])


def test_a_run_is_named_by_the_hash_that_ligo_grow_gives_it() -> None:
    for cell in cells("+study=tiny", "~study.arms.ligo", "~study.arms.exact"):
        trial = cell.trial(seed=3, rate=1.5e-05)
        config, text = compose(list(trial.options))
        name = f"{cell.arm}-{config_hash(yaml.safe_load(text))}"
        assert trial.folder == Path("runs/tiny") / name
        assert config.run.dir == str(trial.folder)
        assert (config.seed, config.run.study, config.run.name) == (3, "tiny", cell.arm)
        assert (config.scratch.lr if cell.arm == "scratch" else config.train.lr) == 1.5e-05


def test_sizes_multiply_arms_and_what_is_typed_goes_for_all() -> None:
    found = cells(
        *TINY, "study.arms.exact=[operator=exact]", "study.arms.stack=[operator=stack]", "train.max_tokens=8192",
        "study.sizes.deep=[target.num_hidden_layers=9]", "study.sizes.same=[]",
    )  # fmt: skip
    assert [(cell.arm, cell.size) for cell in found] == [
        ("exact", "deep"), ("stack", "deep"), ("exact", "same"), ("stack", "same"),
    ]  # fmt: skip
    assert [cell.config.target.num_hidden_layers for cell in found] == [9, 9, 6, 6]
    assert {cell.config.train.max_tokens for cell in found} == {8192}
    assert found[0].trial(0, None).folder.name.startswith("exact-deep-")


def test_comma_lists_make_a_grid_without_a_study() -> None:
    found = cells("operator=exact,stack", "train.lr=1e-3,2e-3", "stages=[write,train]", "tracking=jsonl")
    assert [cell.arm for cell in found] == [
        "exact-lr-0.001",
        "exact-lr-0.002",
        "stack-lr-0.001",
        "stack-lr-0.002",
    ]
    assert [cell.config.train.lr for cell in found] == [1e-3, 2e-3, 1e-3, 2e-3]


def test_seeds_of_a_grid_are_its_studys() -> None:
    config, rest = compose_sweep(["operator=exact", "seed=3,5", "stages=[write]"])
    assert (config.study.seeds, rest) == ([3, 5], ["operator=exact", "stages=[write]"])
    (cell,) = make_cells(config.study, rest)
    assert len({cell.trial(seed, None).folder for seed in config.study.seeds}) == 2


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.sequence_length=64", "it sets data.sequence_length=64, and the study has 128"),
        ("data.validation_tokens=8192", "data.validation_tokens=8192"),
        ("train.batch_tokens=2048", "train.batch_tokens=2048, and the study has 1024"),
        ("seed=7", "it sets seed=7"),
        ("small=tiny-gpt2", "it sets small.name=tiny-gpt2"),
        ("run.name=mine", "runs are named by the study"),
        ("train.lr=1", "rates are the study's to search"),
    ],
)
def test_no_arm_sees_other_data_or_batches_than_the_rest(override: str, words: str) -> None:
    with pytest.raises(PlanError, match=f"1 of 1 arms cannot be built; nothing was started(.|\n)*{words}"):
        cells(*TINY, f"study.arms.odd=[operator=exact,{override}]", "study.learning_rates=[1e-3,2e-3]")


def test_a_study_of_small_models_searches_their_rate() -> None:
    found = cells("+study=llama-small", "data.path=TEXT")
    assert [(cell.size, cell.loss_stage, cell.rate_key) for cell in found] == [
        ("decayed", "small", "small.train.lr"), ("undecayed", "small", "small.train.lr"),
    ]  # fmt: skip
    config, _ = compose(list(found[0].trial(0, 0.25).options))
    assert config.small.train.lr == 0.25
    with pytest.raises(ConfigError, match="small.train.lr=1: the study searches"):
        cells("+study=llama-small", "data.path=TEXT", "small.train.lr=1")


def test_how_long_a_small_model_is_trained_and_how_large_it_is_are_an_arms_own() -> None:
    found = cells("+study=no-pretrained", "data.path=TEXT")
    tokens = {cell.arm: cell.config.small.train.max_tokens for cell in found}
    assert tokens["small-2m"] == 2097152
    assert tokens["scratch"] == 0
    assert {cell.config.small.train.lr for cell in found} == {4e-3}
    widths = {cell.arm: cell.config.small.shape["hidden_size"] for cell in found}
    assert (widths["factor-4"], widths["small-2m"], widths["factor-1.33"]) == (12, 24, 36)


def test_an_arm_may_take_the_small_runs_moments_and_another_budget() -> None:
    (found,) = cells(
        *TINY, "study.arms.longer=[operator=exact,operator.optimizer_state=grow,train.max_tokens=8192]"
    )
    assert found.config.operator.optimizer_state == "grow"


def test_arms_that_cannot_be_built_are_named_with_the_reason_of_their_plan() -> None:
    with pytest.raises(PlanError) as refused:
        cells(
            CUSTOM, "study.arms.exact=[operator=exact]", "study.arms.hypercloning=[operator=hypercloning]",
            "study.arms.typo=[operator=exakt]", "study.arms.orphan=[operator=exact,stages=[train]]",
        )  # fmt: skip
    text = str(refused.value)
    assert "3 of 4 arms cannot be built; nothing was started." in text
    assert "hypercloning: " in text
    assert "96 -> 144" in text
    assert "typo: operator=exakt is not known" in text
    assert "orphan: the stage 'train' needs what 'write' makes" in text
    assert "Try: leave them out: '~study.arms.hypercloning' '~study.arms.typo' '~study.arms.orphan'" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["+study=tny"], "study=tny is not known(.|\n)*Try: .study=tiny"),
        (["cluster=slrm"], "cluster=slrm is not known(.|\n)*Try: cluster=slurm"),
        (["study.sedes=[1]"], "there is no option 'study.sedes'(.|\n)*Try: study.seeds="),
        (["cluster.workers=many"], "the study cannot be composed(.|\n)*many"),
        (["cluster.workers=0"], "cluster.workers=0 must be at least 1"),
        (["cluster.nodes=2"], "cluster.nodes=2 needs a launcher that knows other machines(.|\n)*cluster=slurm"),
        (["run.dir=x"], "a sweep gives each run its folder(.|\n)*Try: study.name=NAME"),
        (["operator=exact,exact"], "asked for twice, which would be two runs with one name"),
        ([*TINY, "study.arms.a=[operator=exact]", "study.arms.b=[operator=exact]"], "a and b are two names of one run"),
        ([*TINY, "study.arms.a=[operator=exact]", "seed=0,1"], "the study sets the seed of each run(.|\n)*Try: study.seeds=.0,1."),
        ([*TINY, "study.arms.a=[operator=exact]", "operator.eta=1,2"], "a list of values for operator.eta"),
        ([*TINY, "study.arms.a=[operator=exact]", "study.learning_rates=[1e-3]", "train.lr=1"], "searches the rate of each arm"),
        (["seed=0,x"], "seed=0,x is no list of whole numbers"),
        ([*TINY, "study.arms.a=[operator=exact,stages=[write]]", "study.learning_rates=[1e-3,2e-3]"], "train nothing"),
        (["operator=exact", "stages=[write,train,scratch]", "study.learning_rates=[1e-3,2e-3]"], "train several things"),
    ],
)  # fmt: skip
def test_wrong_input_is_refused_with_what_to_type(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        cells(*arguments)


def test_an_arm_that_is_there_twice_in_the_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(conf_dir(), tmp_path / "conf")
    study = tmp_path / "conf" / "study" / "tiny.yaml"
    study.write_text(study.read_text().replace("  exact:\n", "  ligo:\n"))
    monkeypatch.setattr("ligo.study.conf_dir", lambda: tmp_path / "conf")
    with pytest.raises(ConfigError, match="ligo(.|\n)*duplicate key|duplicate key(.|\n)*ligo"):
        compose_sweep(["+study=tiny"])
