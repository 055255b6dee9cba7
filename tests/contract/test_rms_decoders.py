"""Every operator on RMSNorm decoders and mixtures of experts: what is declared is what is measured, or it is refused with the rule."""

from __future__ import annotations

import pytest

from tests.contract.matrix import cases, compare
from tests.families.tiny import RMS_DECODERS


@pytest.mark.parametrize(("family", "ratio", "width", "depth"), cases(RMS_DECODERS))
def test_what_is_declared_is_what_is_measured(family: str, ratio: str, width: str, depth: str) -> None:
    found = compare(family, ratio, width, depth)
    assert found.agrees, (found.outcome, found.difference)
