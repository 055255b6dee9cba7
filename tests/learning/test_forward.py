"""Every way to run a grown layer is the same function with the same gradients, and costs what is charged for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ligo.core.errors import ConfigError
from ligo.growth.execute import sources
from ligo.growth.plan import GrowthPlan, plan_growth
from ligo.growth.verify import staying_double
from ligo.learning.config import FORWARDS, RECOMPUTED, LearnConfig, check
from ligo.learning.cost import WAYS, Forward, choose_forward, uses
from ligo.learning.forward import GrownFunction
from ligo.learning.functional import LearnedMaps, TargetFunction, grown_parameters
from ligo.operators.config import FORMS, OperatorConfig, build
from tests.contract import matrix
from tests.growing import lively_model, on_disk_weights, probe
from tests.learning.test_learning import learn, plan_with

SAME_FLOAT64 = 1e-10  # rounding of float64, relative to the largest gradient
SAME_FLOAT32 = 1e-5
FLOPS = 0.02  # torch does not count the sums that mix layers, nor ligo the maps on norms


class Case:
    """A growth with maps that have moved from their start."""

    def __init__(
        self,
        family: str,
        dtype: torch.dtype = torch.float64,
        wanted: Mapping[str, int] | None = None,
        **options: Any,
    ) -> None:
        self.config = OperatorConfig(**{"name": "ligo", "init": "stack", "rank": 4, **options})
        wanted = matrix.wanted(family, "2x") if wanted is None else wanted
        self.plan: GrowthPlan = plan_growth(matrix.FAMILIES[family], wanted, build(self.config))
        self.small = {n: t.to(dtype) for n, t in on_disk_weights(lively_model(self.plan.small)).items()}
        self.learned = LearnedMaps(self.plan, self.config).to(dtype)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.learned.parameters():
                parameter += 0.01 * torch.randn(parameter.shape, generator=generator, dtype=dtype)
        self.read = self.small.__getitem__
        self.sources = sources(self.plan, self.learned(), self.read)
        inputs = probe(self.plan.target)
        self.inputs: dict[str, Any] = {
            "pixel_values" if inputs.is_floating_point() else "input_ids": inputs.to(dtype)
            if inputs.is_floating_point()
            else inputs
        }
        if self.plan.target.objective == "causal_lm":
            self.inputs["use_cache"] = False

    def chosen(self, way: str, tokens: int = 48) -> Forward:
        length = getattr(self.plan.target, "tokens_per_image", 24)
        return choose_forward(self.plan, self.learned(), tokens=tokens, sequence_length=length, wanted=way)

    def reference(self) -> tuple[Tensor, dict[str, Tensor]]:
        function = TargetFunction(self.plan)
        _known_to_float64(function._model)
        return self.gradients(
            lambda: function(grown_parameters(self.plan, self.learned(), self.sources))(**self.inputs)
        )

    def run(self, way: str, recompute: str, tokens: int = 48) -> tuple[Tensor, dict[str, Tensor]]:
        function, chosen = GrownFunction(self.plan, recompute=recompute), self.chosen(way, tokens)
        _known_to_float64(function._model)
        return self.gradients(lambda: function(self.learned(), self.read, chosen.outside)(**self.inputs))

    def gradients(self, run: Callable[[], Any]) -> tuple[Tensor, dict[str, Tensor]]:
        self.learned.zero_grad(set_to_none=True)
        with staying_double():
            logits = run().logits
            weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).reshape(logits.shape)
            loss = (logits * weights).mean() + (logits**2).mean()
            loss.backward()
        return loss.detach(), {n: p.grad for n, p in self.learned.named_parameters() if p.grad is not None}


def _known_to_float64(model: Any) -> None:
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")


def assert_same(case: Case, way: str, recompute: str, tokens: int = 48) -> None:
    loss, gradients = case.reference()
    found_loss, found = case.run(way, recompute, tokens)
    assert found_loss == pytest.approx(float(loss), rel=SAME_FLOAT64)
    assert found.keys() == gradients.keys()
    scale = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        assert float((found[name] - gradient).abs().max()) <= SAME_FLOAT64 * scale, name


PLAIN = (
    "llama", "llama tied", "qwen2", "qwen3", "gemma2", "mixtral", "phi3", "gpt2", "gpt_neox", "opt", "bert",
    "roberta classifier", "vit", "deit teacher",
)  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", PLAIN)
def test_every_way_is_the_same_function_with_the_same_gradients(family: str, way: str) -> None:
    case = Case(family)
    assert any(case.chosen(way).outside.values()) is (way != "materialise")
    assert_same(case, way, "weights")


@pytest.mark.parametrize("recompute", RECOMPUTED)
@pytest.mark.parametrize("family", ["llama tied", "bert", "mixtral"])
def test_what_the_backward_pass_makes_again_is_the_same(family: str, recompute: str) -> None:
    assert_same(Case(family), "hybrid", recompute)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("per_layer", [False, True])
def test_every_form_can_be_run_hybrid(form: str, per_layer: bool) -> None:
    assert_same(Case("llama", form=form, per_layer=per_layer), "hybrid", "weights")


@pytest.mark.parametrize(
    "init", ["exact", "interpolate", "lemon", "isometry", "ligo_original", "bert2bert", "random"]
)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_start_can_be_run_factored(family: str, init: str) -> None:
    form = "new_rows" if init == "ligo_original" else "dense"
    assert_same(Case(family, init=init, form=form), "factored", "none")


def test_the_losses_agree_in_float32() -> None:
    case = Case("llama", torch.float32)
    losses = [float(case.run(way, "weights")[0]) for way in FORWARDS]
    assert losses == pytest.approx([float(case.reference()[0])] * len(losses), rel=SAME_FLOAT32)


def test_materialised_in_its_layers_is_bit_for_bit_the_reference() -> None:
    for family in ("llama", "gpt2"):
        case = Case(family, torch.float32)
        weights = grown_parameters(case.plan, case.learned(), case.sources)
        expected = TargetFunction(case.plan)(weights)(**case.inputs).logits
        with torch.no_grad():
            function = GrownFunction(case.plan)
            found = function(case.learned(), case.read, case.chosen("materialise").outside)(**case.inputs)
        assert torch.equal(found.logits, expected)


@pytest.mark.parametrize(
    ("family", "wanted"),
    [("llama", None), ("llama tied", None), ("gpt2", None), ("bert", None), ("vit", None), ("llama", {"ffn_size": 96}),
     ("llama", {"num_layers": 4})],
)  # fmt: skip
@pytest.mark.parametrize("way", FORWARDS)
def test_the_flops_that_are_charged_are_those_that_torch_counts(
    family: str, wanted: Mapping[str, int] | None, way: str
) -> None:
    case = Case(family, torch.float32, wanted)
    case.inputs = {name: torch.cat([x] * 4) if name != "use_cache" else x for name, x in case.inputs.items()}
    tokens = 8 * getattr(case.plan.target, "tokens_per_image", 24)
    function, chosen = GrownFunction(case.plan, recompute="none"), case.chosen(way, tokens)
    function._model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        logits = function(case.learned(), case.read, chosen.outside)(**case.inputs).logits
        forward = counter.get_total_flops()
        logits.sum().backward()
    assert chosen.step.forward == pytest.approx(forward, rel=FLOPS)
    assert chosen.step.training == pytest.approx(counter.get_total_flops(), rel=FLOPS)


def test_what_is_made_again_is_reported_apart() -> None:
    case = Case("llama", torch.float32)
    chosen = case.chosen("hybrid")
    for recompute in RECOMPUTED:
        function = GrownFunction(case.plan, recompute=recompute)
        function._model.set_attn_implementation("eager")
        with FlopCounterMode(display=False) as counter:
            function(case.learned(), case.read, chosen.outside)(**case.inputs).logits.sum().backward()
        again = counter.get_total_flops() - chosen.step.training
        # a layer that is run again stops before its last product, of which nothing is needed
        tolerance = 0.15 * chosen.again["layers"] if recompute == "layers" else FLOPS * chosen.step.training
        assert again == pytest.approx(chosen.again[recompute], abs=tolerance)


def test_the_cheapest_way_depends_on_tokens_and_shapes() -> None:
    model = {
        **matrix.FAMILIES["llama"], "vocab_size": 1024, "hidden_size": 512, "intermediate_size": 1408,
        "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 64,
    }  # fmt: skip

    def ways(hidden: int, heads: int, ffn: int, tokens: int) -> set[str]:
        wanted = {"hidden_size": hidden, "num_heads": heads, "num_kv_heads": heads, "ffn_size": ffn}
        config = OperatorConfig(name="ligo", init="exact")
        plan = plan_growth(model, wanted, build(config))
        maps = LearnedMaps(plan, config)()
        chosen = choose_forward(plan, maps, tokens=tokens, sequence_length=16, wanted="auto")
        return {chosen.way[use.name] for use in uses(plan) if use.job.spec.layer is not None}

    assert "factored" in ways(1024, 16, 2816, 32)  # fewer tokens than units
    assert "hybrid" in ways(1024, 16, 2816, 8192)
    assert ways(576, 9, 1584, 65536) == {
        "materialise"
    }  # a stream that hardly grows is not worth two products


def test_auto_is_never_dearer_than_materialised() -> None:
    for tokens in (16, 256, 4096):
        case = Case("llama", torch.float32)
        assert case.chosen("auto", tokens).step.training <= case.chosen("materialise", tokens).step.training


def test_saved_tensors_are_few() -> None:
    """Of 1,024 tokens: where layers are run again, little more than their inputs is kept."""
    case = Case("llama", torch.float32)
    case.inputs["input_ids"] = torch.randint(3, 96, (16, 64), generator=torch.Generator().manual_seed(0))

    def kept(recompute: str) -> int:
        sizes: dict[int, int] = {}
        alive = []

        def pack(tensor: Tensor) -> Tensor:
            alive.append(tensor)
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        function = GrownFunction(case.plan, recompute=recompute)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            function(case.learned(), case.read, case.chosen("hybrid").outside)(**case.inputs)
        return sum(sizes.values())

    assert kept("layers") < 0.4 * kept("weights") < 0.4 * kept("none")


@pytest.mark.parametrize("forward", FORWARDS)
def test_learning_ends_in_the_same_place_whatever_it_is_run_with(forward: str) -> None:
    plan = plan_with(OperatorConfig(init="stack"))
    reference, _ = learn(plan, LearnConfig(forward="materialise", recompute="none"), init="stack")
    learned, _ = learn(plan, LearnConfig(forward=forward, recompute="layers"), init="stack")
    assert learned.start_loss == reference.start_loss  # bit for bit: evaluations are materialised
    assert learned.best_loss == pytest.approx(
        reference.best_loss, rel=1e-4
    )  # rounding, over 12 steps of Adam
    assert learned.recomputed_flops > 0 == reference.recomputed_flops
    if forward == "materialise":
        assert learned.flops == reference.flops


def test_other_ways_are_refused() -> None:
    for key in ("forward", "recompute"):
        with pytest.raises(ConfigError, match=f"learn.{key}=quick is not one of"):
            check(LearnConfig(**{key: "quick"}))
