"""Which runs may stand in one comparison: those whose losses were measured on the same data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ligo.core.errors import DataError
from ligo.core.files import read_json

_EVALUATION_OPTIONS = ("sequence_length", "validation_tokens")
_SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times as fast


def run_config(folder: Path) -> dict[str, Any]:
    """config.yaml of a run as plain data; empty where there is none.

    Raises:
        DataError: it cannot be read.
    """
    path = folder / "config.yaml"
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), _SafeLoader) if path.exists() else {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise _unreadable(path, error) from error
    return config if isinstance(config, dict) else {}


def evaluated_on(folder: Path, config: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """What decides a run's evaluation data: the fingerprint of text and tokenizer, and how much of it is evaluated in windows
    of which length. None where the run did not write it down.

    Raises:
        DataError: its manifest.json cannot be read.
    """
    manifest = folder / "manifest.json"
    try:
        text = read_json(manifest).get("inputs", {}).get("text") if manifest.exists() else None
    except (OSError, ValueError, AttributeError) as error:
        raise _unreadable(manifest, error) from error
    data = config.get("data")
    if text is None or not isinstance(data, dict):
        return None
    return (text, *(data.get(key) for key in _EVALUATION_OPTIONS))


def check_same_evaluation(evaluated: Mapping[str, tuple[Any, ...] | None]) -> list[str]:
    """Refuse runs that were evaluated on different data: their losses cannot be compared.

    Args:
        evaluated: by the name of a run, as `evaluated_on` gives it.

    Returns:
        A note on the runs of which it is not known.

    Raises:
        DataError: two runs differ; both are named.
    """
    known = {name: found for name, found in evaluated.items() if found is not None}
    for name, found in known.items():
        first = next(iter(known))
        if found != known[first]:
            raise DataError(
                f"{first} and {name} were evaluated on different data "
                f"(fingerprint, {', '.join(_EVALUATION_OPTIONS)}: {known[first]} and {found}): their "
                "losses cannot be compared.\n  Try: a report of those alone that share their evaluation data"
            )
    unknown = ", ".join(name for name in evaluated if name not in known)
    if not unknown or len(evaluated) == 1:
        return []
    return [f"Which data these runs were evaluated on is not known, and not compared: {unknown}."]


def _unreadable(path: Path, error: Exception) -> DataError:
    cause = str(error).splitlines()[0]
    return DataError(
        f"{path} cannot be read: {cause}.\n  Try: the command of that run again; it is rewritten, or leave the run out"
    )
