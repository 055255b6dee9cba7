"""Every operator on LayerNorm families: what is declared is what is measured, or it is refused with the rule."""

from __future__ import annotations

import pytest

from tests.contract.matrix import cases, compare
from tests.families.tiny_others import OTHERS


@pytest.mark.parametrize(("family", "ratio", "width", "depth"), cases(OTHERS))
def test_what_is_declared_is_what_is_measured(family: str, ratio: str, width: str, depth: str) -> None:
    found = compare(family, ratio, width, depth)
    assert found.agrees, (found.outcome, found.difference)
