"""A step of learning an operator against a step of training the target, and against the published algorithm written plainly.

    python -m benchmarks.forward

Times are process CPU seconds of one thread. Steps that are compared take turns, and a ratio is the median over the rounds
of the ratio within a round: the speed of a machine that is shared drifts by more than they differ. A step is forward,
backward and AdamW: of the operator's parameters here, of all the target's weights there. Figures go to
benchmarks/results/forward.json.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common import REPO, finish, peak_resident_bytes, row, run_measures
from ligo.families.stock import as_on_disk, fresh_model
from ligo.growth.plan import GrowthPlan, plan_growth
from ligo.learning.config import RECOMPUTED
from ligo.learning.cost import WAYS, choose_forward
from ligo.learning.forward import GrownFunction
from ligo.learning.functional import LearnedMaps
from ligo.operators.config import OperatorConfig, build

LENGTH = 128
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 2048, "hidden_size": 128,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32, "intermediate_size": 352,
    "max_position_embeddings": 256, "tie_word_embeddings": False, "pad_token_id": None,
}  # fmt: skip
TWICE = {"hidden_size": 256, "num_layers": 6, "num_heads": 8, "num_kv_heads": 8, "ffn_size": 704}
BERT = {
    "architectures": ["BertForMaskedLM"], "model_type": "bert", "vocab_size": 30522, "hidden_size": 512,
    "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 2048, "max_position_embeddings": 512,
    "type_vocab_size": 2, "tie_word_embeddings": True, "pad_token_id": None,
}  # fmt: skip
BERT_BASE = {"hidden_size": 768, "num_layers": 12, "num_heads": 12, "ffn_size": 3072}
BERT_TOKENS = 512

Step = Callable[[], float]


# --- the steps that are compared --------------------------------------------------------------------


def batch_of(family: Any, tokens: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, family.dims.vocab_size, (tokens // LENGTH, LENGTH), generator=generator)
    return {"input_ids": ids} | ({"use_cache": False} if family.objective == "causal_lm" else {})  # type: ignore[dict-item]


def loss_of(run: Callable[..., Any], batch: Mapping[str, Any]) -> Tensor:
    """Cross-entropy of every token: what masked and causal models cost is the same."""
    return F.cross_entropy(run(**batch).logits.flatten(0, 1), batch["input_ids"].flatten())


def stepping(parameters: list[nn.Parameter], loss: Callable[[], Tensor]) -> Step:
    optimizer = torch.optim.AdamW(parameters, lr=1e-5)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(value.detach())

    return step


def plain(plan: GrowthPlan, tokens: int, recompute: bool = False) -> tuple[Step, Callable[[], Tensor]]:
    """Training the target itself."""
    torch.manual_seed(0)
    model, batch = fresh_model(plan.target), batch_of(plan.target, tokens)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train(recompute)

    def loss() -> Tensor:
        return loss_of(model, batch)

    return stepping(list(model.parameters()), loss), loss


def operator(
    plan: GrowthPlan, config: OperatorConfig, tokens: int, way: str, recompute: str = "weights"
) -> tuple[Step, Callable[[], Tensor], LearnedMaps]:
    """Learning the operator."""
    torch.manual_seed(0)
    model = fresh_model(plan.small)
    small = {name: t.detach() for name, t in as_on_disk(model, dict(model.named_parameters())).items()}
    learned = LearnedMaps(plan, config)
    grown = GrownFunction(plan, recompute=recompute)
    chosen = choose_forward(plan, learned(), tokens=tokens, sequence_length=LENGTH, wanted=way)
    batch = batch_of(plan.target, tokens)

    def loss() -> Tensor:
        return loss_of(grown(learned(), small.__getitem__, chosen.outside), batch)

    return stepping(list(learned.parameters()), loss), loss, learned


class PublishedLiGO(nn.Module):
    """The algorithm of Wang et al. (ICLR 2023, arXiv 2303.00980, section 3 and algorithm 1) for BERT, written plainly.

    Every small layer is widened by maps of its own, W -> B W A^T on stacks of all layers, then target layers are
    mixed from the wide ones with coefficients for each kind of tensor. All weights of the target are made at once.
    Maps of a layer: B_q, B_k, B_v, B_fc1; what is read or written on the residual stream goes through B_emb, as do
    norms, and output and second FFN matrix read with B_v and B_fc1 (their section 3.3).
    """

    def __init__(self, plan: GrowthPlan) -> None:
        super().__init__()
        torch.manual_seed(0)
        small = fresh_model(plan.small)
        layers = [dict(layer.named_parameters()) for layer in small.bert.encoder.layer]
        self.stacks = {name: torch.stack([layer[name].detach() for layer in layers]) for name in layers[0]}
        inner = {id(p) for layer in small.bert.encoder.layer for p in layer.parameters()}
        self.others = {name: p.detach() for name, p in small.named_parameters() if id(p) not in inner}
        s, t, depth = plan.small.dims, plan.target.dims, len(layers)
        self.emb = nn.Parameter(rows(1, t.hidden_size, s.hidden_size)[0])
        self.q, self.k, self.v = (nn.Parameter(rows(depth, t.hidden_size, s.hidden_size)) for _ in "qkv")
        self.fc1 = nn.Parameter(rows(depth, t.ffn_size, s.ffn_size))
        stacked = torch.eye(depth).repeat(t.num_layers // depth, 1)
        self.depth = nn.ParameterDict(
            {name.replace(".", "_"): nn.Parameter(stacked.clone()) for name in self.stacks}
        )
        self.model = fresh_model(plan.target).to("meta").eval()
        self.num_layers = t.num_layers

    def weights(self) -> dict[str, Tensor]:
        made = {name: self.emb_of(name, tensor) for name, tensor in self.others.items()}
        made["cls.predictions.decoder.weight"] = made["bert.embeddings.word_embeddings.weight"]
        if "cls.predictions.bias" in made:
            made["cls.predictions.decoder.bias"] = made["cls.predictions.bias"]
        for name, stack in self.stacks.items():
            out, in_ = self.maps_of(name)
            wide = torch.einsum("loi,lpo->lpi" if stack.ndim == 3 else "lo,lpo->lp", stack, out)
            if stack.ndim == 3:
                wide = torch.einsum("lpi,lji->lpj", wide, in_)
            mixed = torch.einsum("ml,l...->m...", self.depth[name.replace(".", "_")], wide)
            made |= {f"bert.encoder.layer.{layer}.{name}": mixed[layer] for layer in range(self.num_layers)}
        return made

    def emb_of(self, name: str, tensor: Tensor) -> Tensor:
        if tensor.shape[-1] == self.emb.shape[1]:
            tensor = tensor @ self.emb.T
        return self.emb @ tensor if name == "cls.predictions.transform.dense.weight" else tensor

    def maps_of(self, name: str) -> tuple[Tensor, Tensor]:
        emb = self.emb.expand(len(self.fc1), *self.emb.shape)
        for part, map_ in (("query", self.q), ("key", self.k), ("value", self.v)):
            if f".{part}." in name:
                return map_, emb
        if name.startswith("attention.output.dense"):
            return emb, self.v
        if name.startswith("intermediate"):
            return self.fc1, emb
        return emb, self.fc1  # output.dense, and norms, which have one axis

    def forward(self, **inputs: Any) -> Any:
        return torch.func.functional_call(self.model, self.weights(), (), inputs, tie_weights=False)


def rows(depth: int, target: int, small: int) -> Tensor:
    """[I; M] with M averaging, for each layer."""
    drawn = torch.rand(depth, target - small, small)
    return torch.cat([torch.eye(small).expand(depth, -1, -1), drawn / drawn.sum(-1, keepdim=True)], 1)


def published(plan: GrowthPlan, tokens: int) -> Step:
    peer, batch = PublishedLiGO(plan), batch_of(plan.target, tokens)
    return stepping(list(peer.parameters()), lambda: loss_of(peer, batch))


# --- measuring --------------------------------------------------------------------------------------


def cpu_seconds(steps: Mapping[str, Step], rounds: int) -> dict[str, list[float]]:
    """Of each, in every round; they take turns."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            gc.collect()
            started = time.process_time()
            step()
            found[name].append(time.process_time() - started)
    return found


def saved_bytes(loss: Callable[[], Tensor]) -> int:
    """Bytes that one forward pass keeps for its backward pass, weights included; what is kept twice counts once."""
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)  # so that no address is used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss()
    return sum(kept.values())


KEPT = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
"""What is freed stays with the process: which of two steps finds its memory gone, and pays to have it back, is chance."""


def alone(which: str, **environment: str) -> dict[str, Any]:
    """What one measurement finds in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.forward", which]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, cwd=REPO, check=True, capture_output=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def step_of_bert(which: str, steps: int = 3) -> dict[str, float]:
    """Peak memory and seconds per step of one BERT run."""
    plan, config = bert_plan()
    step = (
        published(plan, BERT_TOKENS)
        if which == "published"
        else operator(plan, config, BERT_TOKENS, "auto", which)[0]
    )
    times = []
    for _ in range(steps):
        started = time.process_time()
        step()
        times.append(time.process_time() - started)
    return {"peak_bytes": peak_resident_bytes(), "cpu_s": min(times)}


# --- rows -------------------------------------------------------------------------------------------


def llama_plan() -> tuple[GrowthPlan, OperatorConfig]:
    config = OperatorConfig(name="ligo", init="stack")
    return plan_growth(LLAMA, TWICE, build(config)), config


def bert_plan() -> tuple[GrowthPlan, OperatorConfig]:
    config = OperatorConfig(name="ligo", init="stack", form="new_rows")  # [I; M], as published
    return plan_growth(BERT, BERT_BASE, build(config)), config


def time_rows() -> tuple[dict[str, Any], dict[str, Any]]:
    """Operator step / plain step; both keep all activations, the rows all weights too, as the plain step does."""
    found = alone("times", **KEPT)
    hybrid = found["8 D' tokens"]["hybrid, made again: none"]
    whole = found["25 D' tokens"]["materialise, made again: none"]
    return {
        "operator step / plain step, hybrid, 8 D' tokens": row(hybrid, "<= 0.95", hybrid <= 0.95),
        "operator step / plain step, materialised, 25 D' tokens": row(whole, "<= 1.05", whole <= 1.05),
    }, found


def times_of_steps(rounds: int = 9) -> dict[str, dict[str, float]]:
    """By the number of tokens and the way: the ratio to a plain step."""
    plan, config = llama_plan()
    ways = [*((way, "none") for way in (*WAYS, "auto")), ("hybrid", "weights"), ("materialise", "weights")]
    found: dict[str, dict[str, float]] = {}
    for times in (8, 25):
        tokens = times * TWICE["hidden_size"] // LENGTH * LENGTH
        steps = {"plain": plain(plan, tokens)[0]}
        for way, recompute in ways:
            steps[f"{way}, made again: {recompute}"] = operator(plan, config, tokens, way, recompute)[0]
        measured = cpu_seconds(steps, rounds)
        found[f"{times} D' tokens"] = {
            name: median(own / plain for own, plain in zip(seconds, measured["plain"], strict=True))
            for name, seconds in measured.items()
        }
        found[f"{times} D' tokens"]["plain_cpu_s"] = median(measured["plain"])
    return found


def saved_rows() -> tuple[dict[str, Any], dict[str, Any]]:
    """Saved tensors and optimiser state."""
    plan, config = llama_plan()
    tokens = 8 * TWICE["hidden_size"]
    found: dict[str, Any] = {}
    for recompute in RECOMPUTED:
        base = saved_bytes(plain(plan, tokens, recompute == "layers")[1])
        kind = f"made again: {recompute}"
        found[kind] = {"plain_bytes": base}
        for way in (*WAYS, "auto"):
            found[kind][way] = saved_bytes(operator(plan, config, tokens, way, recompute)[1]) / base
    kept = [found[f"made again: {recompute}"] for recompute in ("none", "weights")]
    worst = max(ratios[way] for ratios in kept for way in ("hybrid", "auto", "materialise"))
    step, _, learned = operator(plan, config, tokens, "hybrid")
    step()
    optimizer = step.__closure__
    assert optimizer is not None
    states = next(
        cell.cell_contents for cell in optimizer if isinstance(cell.cell_contents, torch.optim.AdamW)
    )
    state = sum(t.numel() for s in states.state.values() for t in s.values() if t.ndim)
    own = 2 * sum(p.numel() for p in learned.parameters())
    found["optimiser state, numbers"] = {"operator": state, "target": 2 * plan.target.num_parameters}
    return {
        "saved tensors of an operator step / plain step": row(worst, "<= 1.1", worst <= 1.1),
        "optimiser state / that of the operator": row(state / own, "1", state == own),
    }, found


def published_rows(repeats: int = 2) -> tuple[dict[str, Any], dict[str, Any]]:
    """Against the published algorithm: BERT 6x512 -> 12x768."""
    runs: dict[str, list[dict[str, float]]] = {"published": [], "weights": [], "layers": []}
    for _ in range(repeats):
        for which, measured in runs.items():
            measured.append(alone(which))
    best = {w: {key: min(r[key] for r in found) for key in found[0]} for w, found in runs.items()}
    # one setting for both rows: whole layers are run again
    faster = best["published"]["cpu_s"] / best["layers"]["cpu_s"]
    smaller = best["layers"]["peak_bytes"] / best["published"]["peak_bytes"]
    return {
        "times as fast as the published algorithm, BERT 6x512 -> 12x768": row(faster, ">= 2", faster >= 2),
        "peak memory / that of the published algorithm": row(smaller, "<= 0.5", smaller <= 0.5),
    }, {"tokens": BERT_TOKENS, **best}


MEASURES = (time_rows, saved_rows, published_rows)


def main() -> None:
    if len(sys.argv) > 1:
        torch.set_num_threads(1)
        print(json.dumps(times_of_steps() if sys.argv[1] == "times" else step_of_bert(sys.argv[1])))
        return
    finish("forward", *run_measures(MEASURES))


if __name__ == "__main__":
    main()
