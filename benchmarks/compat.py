"""Both ends of the ranges in setup.py: an environment with the lowest versions, one with the highest, the quick tests in each.

`make compat` writes results/compat.json. What has no lower bound of its own (a dependency of a dependency) is the newest in both.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from importlib.metadata import requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from benchmarks.common import REPO, finish, row

EXTRAS = ("deepspeed", "wandb", "data", "gguf", "peft", "demo")
TOOLS = ("pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6")
SHOWN = ("torch", "transformers", "deepspeed", "tokenizers", "safetensors", "huggingface-hub", "accelerate", "numpy", "peft",
         "bitsandbytes", "datasets", "pyarrow", "wandb", "hydra-core", "bokeh", "einops")  # fmt: skip
TESTS = (
    "tests/families",
    "tests/checkpoint",
    "tests/growth/test_exactness.py",
    "tests/growth/test_moments.py",
    "tests/training/test_training.py",
    "tests/training/test_resume.py",
    "tests/tuning/test_adapters.py",
    "tests/test_commands.py",
)
"""What meets the libraries: stock models built, grown, written, reloaded, trained on both engines, resumed, tuned."""


def ranges() -> list[Requirement]:
    """What ligo needs, its extras of EXTRAS included."""
    found = [Requirement(line) for line in requires("ligo") or ()]
    environments = [{"extra": extra} for extra in ("", *EXTRAS)]
    kept = [r for r in found if r.marker is None or any(r.marker.evaluate(e) for e in environments)]
    return list({r.name: r for r in kept}.values())


def lowest(needed: Iterable[Requirement], python: str) -> list[str]:
    """The requirements at the lowest versions that go together, as uv resolves them.

    Args:
        python: of an environment, where uv is installed.
    """
    ranges_ = "\n".join(map(as_range, needed))
    subprocess.run([python, "-m", "pip", "install", "--quiet", "uv>=0.8"], check=True)
    resolve = [
        *(python, "-m", "uv", "pip", "compile", "--quiet"),
        *("--resolution", "lowest-direct", "--no-annotate", "-"),
    ]
    resolved = subprocess.run(resolve, input=ranges_, check=True, capture_output=True, text=True).stdout
    names = {requirement.name.lower() for requirement in needed}
    return [line for line in resolved.splitlines() if line.partition("==")[0] in names]


def as_range(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


def install(folder: Path, needed: list[Requirement], *, low: bool) -> None:
    """Make an environment with the lowest or the highest versions."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    packages = lowest(needed, python) if low else map(as_range, needed)
    subprocess.run([*pip, *packages, *TOOLS, "setuptools>=77"], check=True)
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", str(REPO)], check=True)


def tested(folder: Path) -> dict[str, Any]:
    """What an environment holds, and how the tests end there."""
    python, results, started = str(folder / "bin" / "python"), folder / "results.xml", time.monotonic()
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format", "json"], check=True, capture_output=True, text=True
    )
    versions = {
        package["name"].lower().replace("_", "-"): package["version"] for package in json.loads(listed.stdout)
    }
    subprocess.run([python, "-m", "pytest", "-q", f"--junitxml={results}", *TESTS], cwd=REPO)
    cases = list(ElementTree.parse(results).getroot().iter("testcase"))
    ended = {
        kind: [case for case in cases if case.find(kind) is not None]
        for kind in ("failure", "error", "skipped")
    }
    failures = [
        f"{case.get('classname')}::{case.get('name')}"
        for kind in ("failure", "error")
        for case in ended[kind]
    ]
    return {
        "versions": {name: versions[name] for name in SHOWN if name in versions},
        "passed": len(cases) - sum(map(len, ended.values())),
        "failed": len(failures),
        "skipped": len(ended["skipped"]),
        "failures": failures,
        "seconds": round(time.monotonic() - started),
    }


def main() -> None:
    needed = ranges()
    ends = {}
    for name in ("lowest", "highest"):
        with tempfile.TemporaryDirectory(prefix="ligo-compat-") as folder:
            install(Path(folder), needed, low=name == "lowest")
            ends[name] = tested(Path(folder))
    rows = {
        f"tests that fail with the {name} versions": row(end["failed"], 0, end["failed"] == 0)
        for name, end in ends.items()
    }
    shown = {r.name.lower(): str(r.specifier) for r in needed if r.name.lower() in SHOWN}
    finish("compat", rows, {"ranges": shown, "tests": list(TESTS), "ends": ends})


if __name__ == "__main__":
    main()
