"""Runs of a study whose folders are gone, from the results.json that was written while they were there.

A study may then go on elsewhere, or after its disk was cleared: an arm that is added is compared with the old ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ligo.core.errors import DataError
from ligo.core.files import read_object
from ligo.reports.collect import ARM_LABELS, Arm, Curve, RunRecord
from ligo.reports.results import SCHEMA_VERSION
from ligo.reports.study import STAGES, Earlier, Member
from ligo.reports.study_table import RATES_NOT_SWEPT

_EMPTY = Curve(*(np.array([]) for _ in range(4)))


def read_earlier(path: Path, study: str) -> Earlier:
    """Read results.json of a study.

    Args:
        study: its name.

    Raises:
        DataError: it cannot be read, is not of this study or of another schema, or somebody has changed it.
    """
    try:
        results = read_object(path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}.\n  Try: --earlier FOLDER/results.json of study {study}"
        ) from error
    if results.get("of") != "study" or results.get("name") != study:
        of = (
            f"of study {results.get('name')}"
            if results.get("of") == "study"
            else "no results.json of a study"
        )
        raise DataError(
            f"{path} is {of}, but runs of study {study} are asked for.\n  Try: the results.json beside its report"
        )
    if results.get("schema_version") != SCHEMA_VERSION:
        raise DataError(
            f"{path} has schema_version {results.get('schema_version')}, but {SCHEMA_VERSION} is read.\n"
            "  Try: the version of ligo that wrote it"
        )
    try:
        return Earlier(
            tuple(_members(results)), tuple(results["notes"]), RATES_NOT_SWEPT not in results["not_measured"]
        )
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is not as ligo writes it: {type(error).__name__}: {error}.\n  Try: the file as it was"
        ) from error


def _members(results: Mapping[str, Any]) -> Iterator[Member]:
    for run in results["runs"]:
        trained = {arm: run[arm] for arm in STAGES if arm in run}
        stages = {
            STAGES[arm]: {
                "loss": found["final_loss_nats"], "accuracy": found.get("final_accuracy"), "tokens": found["tokens"],
                "flops": found["flops"], "wall_s": found["wall_seconds"], "peak_lr": found["peak_rate"],
                "small_training": run["small_training"],
            }
            for arm, found in trained.items()
        }  # fmt: skip
        arms = {arm: Arm(arm, ARM_LABELS[arm], _curve(found), _EMPTY) for arm, found in trained.items()}
        summary = {"name": run["run"], "growth": run["growth"]}
        evaluated_on = run.get("evaluated_on")
        yield Member(
            RunRecord(Path(run["run"]), summary, {}, arms),
            run["arm"],
            run["size"],
            run["seed"],
            {**stages, "learn": run["operator"]},
            {},
            run["made"],
            None if evaluated_on is None else tuple(evaluated_on),
        )


def _curve(trained: Mapping[str, Any]) -> Curve:
    columns = trained["evaluations"]
    return Curve(
        *(np.array(columns[name], dtype=np.float64) for name in ("tokens", "flops", "wall_s", "loss"))
    )
