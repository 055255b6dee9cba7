"""Pickles are read where the command line allows it; nothing else can say so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ligo.checkpoint.load import load_pickle
from ligo.config import GROW
from ligo.core.errors import CheckpointError, ConfigError
from ligo.core.permissions import ALLOW_PICKLE, pickle_allowed, take_permissions
from ligo.options import compose_from_file, compose_options


@pytest.fixture(autouse=True)
def nothing_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGO_ALLOW_PICKLE", "")


def test_the_command_line_alone_allows_pickles(tmp_path: Path) -> None:
    torch.save({"step": 1}, tmp_path / "optimizer.pt")
    with pytest.raises(CheckpointError, match=f"is a pickle(.|\n)*{ALLOW_PICKLE} on the command line"):
        load_pickle(tmp_path / "optimizer.pt")
    assert take_permissions(["seed=1", ALLOW_PICKLE]) == ["seed=1"]
    assert pickle_allowed() and load_pickle(tmp_path / "optimizer.pt") == {"step": 1}


def test_a_config_file_cannot(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("allow_pickle: true\n")
    with pytest.raises(ConfigError, match="allow_pickle"):
        compose_from_file(tmp_path / "config.yaml", GROW)
    with pytest.raises(ConfigError, match="allow_pickle"):
        compose_options([ALLOW_PICKLE], GROW)
    assert not pickle_allowed()
