"""RMS and variance of the weights before and after growth: as NumPy finds them over all layers at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ligo.growth import modules
from ligo.growth.modules import module_statistics
from tests.families.tiny import RMS_DECODERS
from tests.growing import Grown, grow, on_disk_weights

ROUNDING = 1e-12  # sums in float64, in another order


def rows_of(grown: Grown) -> dict[str, dict[str, Any]]:
    small, large = on_disk_weights(grown.small), on_disk_weights(grown.model)
    rows = module_statistics(grown.plan, small.__getitem__, large.__getitem__)
    return {row["module"]: row for row in rows}


def test_all_layers_of_a_module_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "_CHUNK", 100)  # many pieces, the last one shorter
    grown = grow(RMS_DECODERS["llama"], {"hidden_size": 48, "num_layers": 3})
    rows = rows_of(grown)
    assert list(rows) == list(dict.fromkeys(spec.kind for spec in grown.plan.target.tensors))
    for family, model, side in (
        (grown.plan.small, grown.small, "small"),
        (grown.plan.target, grown.model, "grown"),
    ):
        weights = on_disk_weights(model)
        for kind, row in rows.items():
            names = [spec.name for spec in family.tensors if spec.kind == kind]
            values = np.concatenate([weights[name].numpy().ravel() for name in names])
            assert row[side]["rms"] == pytest.approx(np.sqrt((values**2).mean()), rel=ROUNDING)
            assert row[side]["variance"] == pytest.approx(values.var(), rel=ROUNDING)


def test_experts_stand_beside_the_dense_block_and_what_is_drawn_fresh_beside_nothing() -> None:
    rows = rows_of(grow(RMS_DECODERS["llama"], {"num_experts": 4}, noise=0.0))
    fresh = [module for module, row in rows.items() if row["small"] is None]
    assert len(fresh) == 1 and "gate" in fresh[0]  # the router
    experts = [row for module, row in rows.items() if "experts" in module]
    assert len(experts) == 3
    for row in experts:  # copies of the dense block
        assert row["grown"]["rms"] == pytest.approx(row["small"]["rms"], rel=0.05)
