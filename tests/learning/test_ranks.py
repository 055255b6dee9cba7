"""Several ranks learn what one process learns: data parallel, the optimiser sharded, the small model dealt out."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

from ligo.core.errors import ConfigError
from ligo.learning.config import LearnConfig, learn_shape
from tests.conftest import REPO
from tests.learning.ranks import CASES, curve

SAME = 1e-6  # relative; float32 rounding of sums in another order


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Two gloo processes, started once for all cases."""
    out = tmp_path_factory.mktemp("ranks") / "found.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
               "-m", "tests.learning.ranks", str(out)]  # fmt: skip
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "gemm_4bit" not in done.stderr  # bitsandbytes' remark at import is not the user's
    return json.loads(out.read_text())


@cache
def alone(small: str, recompute: str) -> dict[str, Any]:
    """One process with two micro-batches."""
    return curve(LearnConfig(micro_batch_tokens=4 * 16, small=small, recompute=recompute))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_ranks_have_the_curve_of_one_with_two_micro_batches(
    case: tuple[int, bool, str, str], found: list[dict[str, Any]]
) -> None:
    stage, _, small, recompute = case
    expected, together = alone(small, recompute), found[CASES.index(case)]
    assert together["losses"] == pytest.approx(expected["losses"], rel=SAME)
    assert together["norms"] == ([] if stage == 0 else pytest.approx(expected["norms"], rel=SAME))
    assert together["costs"] == pytest.approx(expected["costs"], rel=1e-12)


def test_micro_batches_change_the_curve_by_rounding_only() -> None:
    whole, parts = curve(LearnConfig()), curve(LearnConfig(micro_batch_tokens=2 * 16))
    assert parts["losses"] == pytest.approx(whole["losses"], rel=SAME)
    assert parts["costs"][0] > whole["costs"][0]  # weights are built once for each micro-batch


@pytest.mark.parametrize(
    ("how", "tokens", "ranks", "words"),
    [
        (LearnConfig(), 16 * 3, 2, "3 windows of 16 tokens, which do not divide by 2 ranks(.|\n)*batch_tokens=64"),
        (LearnConfig(micro_batch_tokens=32), 16 * 6, 2, "does not divide the 3 windows of 16 tokens"),
        (LearnConfig(micro_batch_tokens=8), 16 * 6, 1, "learn.micro_batch_tokens=8 does not divide"),
    ],
)  # fmt: skip
def test_batches_that_do_not_divide_are_refused(
    how: LearnConfig, tokens: int, ranks: int, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        learn_shape(how, tokens, 16, ranks)
