"""Commands that a test cannot run, composed and planned instead: their options, their plan, the files that they name."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
import subprocess
from pathlib import Path

import yaml

from ligo.config import GROW, GrowConfig, compose
from ligo.launch import PROGRAMS
from ligo.launch import command as launch_command
from ligo.options import compose_options, multirun_words
from ligo.plan import known_config, make_plan
from ligo.study import compose_sweep, make_cells
from tests.docs.blocks import REPO


def plan_command(line: str) -> None:
    """Do all of a command that needs no GPU, cluster, hub or money.

    Raises:
        LigoError: as the command itself would.
        AssertionError: a file or a target that there is not.
        ValueError: nobody has said how such a command is planned.
    """
    words = shlex.split(line, comments=True)
    if "-m" in words[1:]:
        at = words.index("-m")
        return _plan_module(words[at + 1], words[at + 2 :])
    program, *arguments = words
    if program == "make":
        subprocess.run(["make", "-n", *arguments], cwd=REPO, check=True, capture_output=True)
    elif program == "sbatch":
        plan_command(shlex.join(arguments))
    elif program.startswith("launch/"):
        assert (REPO / program).is_file(), program
        _plan_growth(arguments[1:] if program == "launch/local.sh" else arguments)
    elif program in ("kubectl", "sky"):
        assert list(yaml.safe_load_all((REPO / arguments[-1]).read_text(encoding="utf-8")))
    elif words[:2] == ["pip", "install"]:
        _check_extras(arguments[-1])
    else:
        raise ValueError(f"nobody has said how this is planned: {line}")
    return None


def _plan_module(module: str, arguments: list[str]) -> None:
    if module == "ligo.launch":
        at = arguments.index("--")
        assert launch_command(arguments[0], arguments[1:at], Path("config.yaml"))
        words = arguments[at + 1 :]
        if words[0] in PROGRAMS:
            compose_options(words[1:], PROGRAMS[words[0]][0])
        else:
            _plan_growth(words)
    elif module == "ligo.sweep" and arguments[0] in ("status", "log", "best"):
        assert len(arguments) == 2, arguments
    elif module == "ligo.sweep":
        config, options = compose_sweep(arguments)
        assert make_cells(config.study, options)
    elif module in ("ligo.report", "ligo.export", "ligo.sync", "ligo.doctor"):
        assert importlib.import_module(module).parser().parse_args(arguments)
    elif module == "pytest":
        assert all((REPO / word).exists() for word in arguments if word.startswith("tests/")), arguments
    elif module.startswith("ligo.") and hasattr(importlib.import_module(module), "OPTIONS"):
        compose_options(arguments, importlib.import_module(module).OPTIONS)
    elif module == "ligo.grow" and arguments[0] == "-m":
        assert multirun_words(arguments, GROW)
    elif module in ("ligo.grow", "ligo.plan"):
        _plan_growth(arguments)
    else:
        assert importlib.util.find_spec(module) is not None, module


def _plan_growth(arguments: list[str]) -> None:
    """Compose the options, and plan where the small model's config.json is at hand."""
    config, _ = compose(arguments)
    assert isinstance(config, GrowConfig)
    known = known_config(config.small) if config.small.path is None else None
    if known is not None:
        assert make_plan(config, known).jobs


def _check_extras(requirement: str) -> None:
    named = re.search(r"\[(.*)\]", requirement)
    setup = (REPO / "setup.py").read_text(encoding="utf-8")
    assert named is not None, requirement
    for extra in named[1].split(","):
        assert f'"{extra}"' in setup, f"setup.py has no extra {extra}"
