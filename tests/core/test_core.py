"""Errors name the extra, registries the nearest name, units read well, files are whole or absent."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from ligo.core import distributed, units
from ligo.core.ending import explain
from ligo.core.errors import ConfigError, ResourceError, disk_full, nearest, require
from ligo.core.files import folder_aside, write_json, write_text
from ligo.core.log import progress
from ligo.core.registry import Registry
from ligo.core.run import Run, config_hash


def test_a_missing_extra_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"reading dreams needs the package 'dreamreader'(.|\n)*ligo\[sleep\]"
    ):
        require("dreamreader.core", extra="sleep", why="reading dreams")
    assert require("json", extra="none", why="this") is json


def test_an_optional_package_that_is_there_and_broken_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "halfthere.py").write_text(
        "raise ImportError('libhalf.so: cannot open shared object file')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        ConfigError, match="'halfthere', which is installed and cannot be imported: libhalf.so"
    ):
        require("halfthere", extra="half", why="half.there=true")


def test_a_package_that_finds_no_memory_is_not_called_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "core.so: failed to map segment from shared object"
    (tmp_path / "toolarge.py").write_text(f"raise ImportError({said!r})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ImportError, match=said) as caught:
        require("toolarge", extra="large", why="large=true")
    assert explain(caught.value).exit_code == ResourceError.exit_code


def test_nearest_name() -> None:
    assert nearest("hypercloing", ["hypercloning", "stack"]) == "hypercloning"
    assert nearest("xyz", ["hypercloning", "stack"]) is None


def test_a_registry_finds_the_files_of_its_package_and_refuses_a_second_of_one_name() -> None:
    from ligo.operators.base import WIDTH_OPERATORS

    assert "scaled_duplication" in WIDTH_OPERATORS.names()
    with pytest.raises(
        ConfigError, match="'scaled_duplicate' is not known(.|\n)*Try: operator.width=scaled_duplication"
    ):
        WIDTH_OPERATORS.get("scaled_duplicate")
    registry: Registry[int] = Registry("number", "ligo.core")
    registry.register("one")(1)
    with pytest.raises(ValueError, match="number 'one' is registered twice"):
        registry.register("one")(2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (units.si(999.7e12, "FLOP"), "1 PFLOP"),
        (units.si(1_234_567, "FLOP"), "1.23 MFLOP"),
        (units.si(0, "FLOP"), "0 FLOP"),
        (units.num_bytes(13_421_772_800), "12.5 GiB"),
        (units.seconds(200), "3 min 20 s"),
        (units.seconds(18720), "5 h 12 min"),
        (units.percent(0.447), "44.7 %"),
        (units.percent(None), "not reached"),
    ],
)
def test_units(text: str, expected: str) -> None:
    assert text == expected


def test_a_full_disk_is_called_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "the disk is full" in str(disk_full(OSError(errno.ENOSPC, "x"), "here"))
    assert "cannot write here: Permission denied" in str(
        disk_full(OSError(errno.EACCES, "Permission denied"), "here")
    )

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_text(tmp_path / "kept.txt", "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="the disk is full"):
        write_text(tmp_path / "kept.txt", "new")
    with pytest.raises(ResourceError, match="the disk is full"), folder_aside(tmp_path / "folder") as aside:
        (aside / "file").write_text("half")
    assert (tmp_path / "kept.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]


def test_a_folder_is_whole_or_absent(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), folder_aside(tmp_path / "folder") as aside:
        (aside / "file").write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with folder_aside(tmp_path / "folder") as aside:
        write_json(aside / "value.json", {"a": 1})
    assert json.loads((tmp_path / "folder" / "value.json").read_text()) == {"a": 1}


def test_where_a_run_lies_does_not_change_its_hash() -> None:
    config = {"seed": 0, "run": {"dir": "a"}, "output": "text"}
    assert config_hash(config) == config_hash({**config, "run": {"dir": "b"}, "output": "json"})
    assert config_hash(config) != config_hash({**config, "seed": 1})


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "done"),
        (KeyboardInterrupt(), "interrupted"),
        (ConfigError("that is wrong.\n  Try: this"), "failed: that is wrong."),
    ],
)
def test_status_says_how_it_ended(error: BaseException | None, status: str, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.open({"seed": 0}, "seed: 0\n", seed=0)
    assert (run.folder / "STATUS").read_text() == "running\n"
    try:
        with run.keeping_status():
            if error is not None:
                raise error
    except BaseException as raised:
        assert raised is error
    assert (run.folder / "STATUS").read_text() == status + "\n"


def test_progress_is_plain_lines_away_from_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ligo.core.log._PLAIN_INTERVAL_S", 0.0)
    with progress("counting sheep", 3) as bar:
        for _ in range(3):
            bar.advance(note="baa")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[-1].startswith("counting sheep: 3/3  baa")
    monkeypatch.setenv("RANK", "1")
    with progress("counting sheep", 3) as bar:
        bar.advance()
    assert capsys.readouterr().out == ""


def test_srun_sets_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"PROCID": "3", "NTASKS": "8", "LOCALID": "1", "JOB_ID": "42"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURM_LAUNCH_NODE_IPADDR", "10.0.0.7")
    distributed.adopt_launcher_variables()
    assert (distributed.rank(), distributed.world_size()) == (3, 8)
    assert (os.environ["LOCAL_RANK"], os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == (
        "1",
        "10.0.0.7",
        "20042",
    )
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        del os.environ[name]  # not monkeypatch, which would put it back
