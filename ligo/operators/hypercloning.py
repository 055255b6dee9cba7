"""HyperCloning: repeat every space a whole number of times, and divide what reads it by that number.

At whole ratios every unit has equally many copies, so scaled duplication scales by one and is the same map. The
paper's optional cancelling noise is null-space noise, which here is an option of every operator.
"""

from __future__ import annotations

from typing import ClassVar

from ligo.core.errors import PlanError
from ligo.families.spec import VOCAB
from ligo.operators.base import WIDTH_OPERATORS, Reference, Shapes
from ligo.operators.maps import SpaceMap
from ligo.operators.scaled_duplication import ScaledDuplication


@WIDTH_OPERATORS.register("hypercloning")
class HyperCloning(ScaledDuplication):
    """Whole ratios only."""

    reference: ClassVar[Reference] = Reference(
        "Scaling Smart: HyperCloning (Samragh et al. 2024)", "2409.12903"
    )
    exact_when: ClassVar[str] = (
        "at whole ratios (more experts: where each token takes as many times more); others are refused"
    )

    def space_maps(self, shapes: Shapes) -> dict[str, SpaceMap]:
        sizes = {name: shapes.sizes(name) for name in shapes.shared() if name != VOCAB}
        broken = [
            f"{name} {small} -> {target} is {target / small:.4g}"
            for name, (small, target) in sizes.items()
            if target % small
        ]
        if broken:
            raise PlanError(
                f"operator.width=hypercloning needs whole width ratios, but {', '.join(broken)}.\n"
                "  Operators that accept these: scaled_duplication, lemon, pad, isometry, net2net (approximate).\n"
                "  Try: operator.width=scaled_duplication"
            )
        return super().space_maps(shapes)
