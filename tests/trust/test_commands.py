"""What a person sees who types the path of a bad checkpoint: words, exit code 4, and nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from ligo import grow, plan
from tests.test_commands import BUDGET, run
from tests.trust.samples import published
from tests.trust.traversal import FORMS, Form, says

TARGET = (
    "target=custom",
    "target.hidden_size=24",
    "target.num_attention_heads=6",
    "hardware=none",
    "operator=exact",
)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (says("config.json", hidden_size=10**9), "hidden_size=1e+09, and no model has more than"),
        (says("config.json", hidden_size=20), "of another shape"),
        (says("config.json", num_labels=10**9), "num_labels=1e+09, and no model has more than"),
        (FORMS[".."], "points to '../outside/x.safetensors'"),
        (FORMS["a linked shard"], "x.safetensors is a link that leads out of its folder"),
    ],
)
def test_a_growth_of_a_bad_checkpoint_ends_with_words(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    form: Form,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = published(tmp_path / "given")
    form(folder, published(tmp_path / "outside", seed=1))
    (tmp_path / "text.txt").write_text("A fox saw a crow.\n" * 2000)
    data = (
        *BUDGET,
        "data=custom",
        "data.path=text.txt",
        "data.cache_dir=cache",
        "run.dir=run",
        "stages=[learn,write]",
    )
    assert run(grow, f"small.path={folder}", *TARGET, *data) == 4
    err = capsys.readouterr().err
    assert words in err and "Try" in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_a_plan_of_a_hostile_config_ends_with_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = published(tmp_path / "given")
    says("config.json", num_hidden_layers=10**9)(folder, folder)
    assert run(plan, f"small.path={folder}", *TARGET) == 4
    assert "num_hidden_layers=1e+09, and no model has more than 2,000" in capsys.readouterr().err
