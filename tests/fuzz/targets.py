"""The targets that there are, and their corpora."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGETS = sorted(file.stem.removeprefix("target_") for file in HERE.glob("target_*.py"))


def check_of(target: str) -> Callable[[bytes], None]:
    check: Callable[[bytes], None] = importlib.import_module(f"tests.fuzz.target_{target}").check
    return check


def corpus(target: str) -> list[bytes]:
    """The inputs that are kept for a target."""
    return [file.read_bytes() for file in sorted((HERE / "corpus" / target).glob("*"))]
