"""What README and pages say is done as they say it: commands run, or are composed and planned; scripts run; outputs match."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import LANGUAGES, REPO, Block, blocks_of, pages
from tests.docs.planning import plan_command

PLANNED = {
    "README.md": 28,
    "add-a-family.md": 2,
    "add-an-operator.md": 2,
    "cluster.md": 8,
    "data.md": 1,
    "index.md": 1,
    "quickstart.md": 2,
    "training.md": 2,
    "tuning.md": 6,
}
"""How many commands of each page are planned and not run."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of the commands: this Python first, this checkout's ligo, a cache of their own."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPO),
        "LIGO_CACHE": str(tmp_path_factory.mktemp("cache")),
        "MASTER_PORT": free_port(),  # pages run side by side
    }


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return str(probe.getsockname()[1])


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_what_a_page_says_is_so(page: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    blocks = blocks_of(page)
    if any(block.language == "python" and block.title for block in blocks):  # it adds files to ligo
        for folder in ("ligo", "conf", "tests"):
            shutil.copytree(REPO / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(REPO / "pyproject.toml", tmp_path)
        environment = {**environment, "PYTHONPATH": str(tmp_path)}
    printed = ""
    for block in blocks:
        if block.language == "text" and block.title == "it says":
            for line in block.body.strip().splitlines():
                assert line.strip() in printed, f"{block}: not in\n{printed}"
        elif block.language in ("bash", "python") and not block.is_planned:
            printed = run(block, tmp_path, environment)


def run(block: Block, folder: Path, environment: dict[str, str]) -> str:
    """Run a block where its page has run, or write its file; what it printed."""
    if block.language == "python" and block.title:
        (folder / block.title).write_text(block.body, encoding="utf-8")
        return ""
    script = ["bash", "-euo", "pipefail", "-c"] if block.language == "bash" else [sys.executable, "-c"]
    done = subprocess.run(
        [*script, block.body], cwd=folder, env=environment, timeout=600, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == block.exit_code, f"{block} ended with {done.returncode}:\n{done.stdout[-4000:]}"
    return done.stdout


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_what_cannot_be_run_here_can_be_planned(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sbatch", "sinfo"):  # that they are there is asked before anything is submitted
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    planned = [line for block in blocks_of(page) if block.is_planned for line in block.commands]
    for line in planned:
        plan_command(line)
    assert len(planned) == PLANNED.get(page.name, 0)


def test_every_block_is_of_a_kind_that_is_held_to_something() -> None:
    for page in pages():
        for block in blocks_of(page):
            assert block.language in LANGUAGES, f"{block}: {block.language or 'no language'}"
            if block.language == "bash":
                assert re.fullmatch(r"(needs .+|exits with \d+)?", block.title), f"{block}: {block.title}"


def test_no_command_hides_outside_the_blocks() -> None:
    for page in [REPO / "README.md", *(REPO / "docs").glob("*.md")]:
        outside = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        hidden = re.findall(r"^ {4,}(?:python|make|torchrun).*$", outside, re.M)
        assert not hidden, f"{page.name}: {hidden}"
