"""A folder that ligo wrote is compared with its checksums before it is used, and the file that was changed is named."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from ligo.checkpoint.hashes import SUMS_FILE, check_hashes, checksum, write_hashes
from ligo.core.errors import CheckpointError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "grown"
    (folder / "inside").mkdir(parents=True)
    for name in ("model.safetensors", "config.json", "inside/chat.jinja", "README.md"):
        (folder / name).write_text(name)
    write_hashes(folder)
    return folder


@pytest.mark.skipif(shutil.which("xxhsum") is None, reason="xxhsum is not installed (Debian: xxhash)")
def test_xxhsum_checks_the_folder_too(folder: Path) -> None:
    done = subprocess.run(["xxhsum", "-c", SUMS_FILE], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count(": OK") == 3


def test_a_list_of_sha256sum_is_heeded_too(folder: Path) -> None:
    (folder / SUMS_FILE).unlink()
    names = ["model.safetensors", "config.json"]
    sums = subprocess.run(
        ["sha256sum", *names], cwd=folder, capture_output=True, text=True, check=True
    ).stdout
    (folder / "SHA256SUMS").write_text(sums)
    check_hashes(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"config.json is not what was saved(.|\n)*remove .*SHA256SUMS"):
        check_hashes(folder)


def test_a_folder_may_be_moved(folder: Path) -> None:
    check_hashes(folder)
    shutil.move(folder, folder.with_name("elsewhere"))
    check_hashes(folder.with_name("elsewhere"))


def test_hashes_that_are_known_are_not_made_again(folder: Path) -> None:
    write_hashes(folder, {"config.json": "a" * 32})
    assert f"{'a' * 32}  config.json\n" in (folder / SUMS_FILE).read_text()
    assert checksum(folder / "model.safetensors") in (folder / SUMS_FILE).read_text()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "inside/chat.jinja"])
def test_a_changed_file_is_named(folder: Path, name: str) -> None:
    check_hashes(folder)  # what was found good is looked at again once it changes
    (folder / name).write_text(name.upper())
    with pytest.raises(CheckpointError, match=rf"{name} is not what was saved(.|\n)*remove .*{SUMS_FILE}"):
        check_hashes(folder)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is gone"):
        check_hashes(folder)
    (folder / SUMS_FILE).unlink()
    check_hashes(folder)


def test_a_card_may_be_edited_moments_may_come_and_go_and_weights_may_not_be_added(folder: Path) -> None:
    (folder / "optimizer.safetensors").touch()
    (folder / "README.md").write_text("better")
    check_hashes(folder)
    (folder / "more.safetensors").write_text("")
    with pytest.raises(CheckpointError, match="more.safetensors was not saved with it"):
        check_hashes(folder)


@pytest.mark.parametrize(
    "line",
    ["x", "0" * 31 + "  a\n", "0" * 32 + " a\n", "0" * 32 + "  ../a\n", "0" * 32 + "  /etc/hostname\n"],
)
def test_a_list_that_is_none(folder: Path, line: str) -> None:
    (folder / SUMS_FILE).write_text(line)
    with pytest.raises(CheckpointError, match=f"{SUMS_FILE} is no list of checksums"):
        check_hashes(folder)
