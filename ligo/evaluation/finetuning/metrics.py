"""GLUE's metrics (Wang et al. 2018, arXiv 1804.07461), by scikit-learn and SciPy."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ligo.core import errors


def score(names: Sequence[str], right: np.ndarray, given: np.ndarray) -> dict[str, float]:
    """The scores of `given` labels [examples] beside `right` ones [examples], by the metric's name.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    return {name: METRICS[name](right, given) for name in names}


def check_installed() -> None:
    """Refuse now what would fail after the training.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    errors.check_installed("sklearn", extra="images", why="scoring labels")


def _accuracy(right: np.ndarray, given: np.ndarray) -> float:
    return float(_sklearn().accuracy_score(right, given))


def _f1(right: np.ndarray, given: np.ndarray) -> float:
    """Of class 1; zero where neither side has it."""
    return float(_sklearn().f1_score(right, given, pos_label=1, average="binary", zero_division=0.0))


def _matthews(right: np.ndarray, given: np.ndarray) -> float:
    return float(_sklearn().matthews_corrcoef(right, given))


def _pearson(right: np.ndarray, given: np.ndarray) -> float:
    return _correlation("pearsonr", right, given)


def _spearman(right: np.ndarray, given: np.ndarray) -> float:
    return _correlation("spearmanr", right, given)


METRICS: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
}
OF_NUMBERS = ("pearson", "spearman")
FOR_TWO_CLASSES = ("f1",)


def _correlation(name: str, right: np.ndarray, given: np.ndarray) -> float:
    """Zero where one side is constant, and tells nothing of the other."""
    stats = errors.require("scipy.stats", extra="images", why="scoring numbers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        found = float(getattr(stats, name)(right, given).statistic)
    return 0.0 if math.isnan(found) else found


def _sklearn() -> Any:
    return errors.require("sklearn.metrics", extra="images", why="scoring labels")
