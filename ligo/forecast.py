"""What each stage of a plan takes: the work, FLOPs, memory and time of a rank that learns, writes or trains.

FLOPs of models follow from formulas. All else is traced: the stock modules run on shapes alone (`ligo.steps`), which takes
seconds for any size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ligo.accounting.flops import model_flops
from ligo.accounting.hardware import Rates, Work, has_gpu, rank_memory, sheet_rates
from ligo.accounting.memory import (
    BYTES,
    Memory,
    Trained,
    learning_memory,
    small_bytes,
    training_memory,
    write_peak,
    zero_keys,
)
from ligo.config import GrowConfig, learns_maps
from ligo.core.distributed import world_size
from ligo.growth.plan import GrowthPlan
from ligo.learning.config import LearnConfig, learn_shape, measured_as_written
from ligo.operators.noise_level import NoiseLevel
from ligo.training.config import TrainConfig, batch_shape
from ligo.training.schedule import num_steps

if TYPE_CHECKING:
    from ligo.steps import Learning, StepCost

_VALIDATION_WINDOWS = 32  # per forward pass


@dataclass(frozen=True)
class StageCost:
    """Of one stage."""

    memory: Memory
    """Of the rank that holds the most."""
    flops: float
    """As they are charged, over all ranks."""
    seconds: float | None
    """None: the machine's rates are not known."""
    ranks: int
    """That the stage keeps busy, or waiting."""
    work: Work
    """Of one rank."""

    def hours(self) -> float | None:
        """Device hours."""
        return None if self.seconds is None else self.ranks * self.seconds / 3600


class Forecast:
    """What each stage of one plan takes on one kind of machine."""

    def __init__(self, config: GrowConfig, plan: GrowthPlan, probe: bool) -> None:
        self.config, self.plan, self._probe = config, plan, probe
        self.hardware, self.length = config.hardware, config.data.sequence_length
        self.ranks = config.hardware.count or world_size()
        self._traced: dict[Any, StepCost] = {}

    # --- the machine --------------------------------------------------------------------------------

    @cached_property
    def on_gpu(self) -> bool:
        return has_gpu(self.hardware)

    @cached_property
    def capacity(self) -> float | None:
        """Bytes that a rank may hold."""
        return rank_memory(self.hardware, self.ranks)

    @cached_property
    def rates(self) -> Rates | None:
        """Of one rank."""
        if not self.hardware.is_measured:
            return sheet_rates(self.hardware)
        if not self._probe:
            return None
        from ligo.accounting.probe import Shape, measure

        dims = self.plan.target.dims
        windows = batch_shape(self.config.train, self.length, self.ranks).windows_per_micro_batch
        shape = Shape(
            windows, self.length, dims.hidden_size, dims.ffn_size, dims.num_heads, dims.vocab_size or 1000
        )
        measured = measure(shape)
        return measured if self.on_gpu else measured.shared_by(self.ranks)

    def assumed(self) -> str:
        """Where the rates come from, in words."""
        hardware = self.hardware
        if hardware.is_measured:
            return "rates measured here in five seconds" if self._probe else "rates not measured"
        return f"data sheet x hardware.efficiency={hardware.efficiency:g}, an assumption; sending is " + (
            "counted in full" if hardware.link_gb_s else "not counted"
        )

    def _seconds(self, work: Work) -> float | None:
        return None if self.rates is None else self.rates.seconds(work)

    # --- training -----------------------------------------------------------------------------------

    def train(self, arm: TrainConfig) -> StageCost:
        shape, steps = batch_shape(arm, self.length, self.ranks), num_steps(arm)
        step = self._training_step(arm, shape.windows_per_micro_batch)
        work = step.work.times(steps * shape.micro_batches) + self._step_work(arm).times(steps)
        evaluation = self._evaluation(arm)
        evaluations = 1 + math.ceil(steps / arm.evaluate_every)
        work += evaluation.work.times(evaluations * self._validation_passes / self.ranks)
        flops = model_flops(self.plan.target, self.length).training * arm.max_tokens
        return StageCost(self.training_memory(arm), flops, self._seconds(work), self.ranks, work)

    def training_memory(
        self,
        arm: TrainConfig,
        *,
        stage: int | None = None,
        ranks: int | None = None,
        windows: int | None = None,
    ) -> Memory:
        """The memory of a rank, with another stage, number of ranks or windows per micro-batch where they are given."""
        zero = zero_keys(self.config.deepspeed) | ({} if stage is None else {"stage": stage})
        shape = batch_shape(arm, self.length, self.ranks)
        now = windows or shape.windows_per_micro_batch
        step, evaluation = self._training_step(arm, now, zero["stage"]), self._evaluation(arm, zero["stage"])
        tensors = [spec.num_elements(self.plan.target.spaces) for spec in self.plan.target.tensors]
        model = Trained(
            parameters=sum(tensors),
            largest_parameter=max(tensors),
            activations=step.activations_bytes,
            activations_and_gradients=step.peak_bytes,
            gradients_then=step.gradients_at_peak_bytes,
            evaluation=evaluation.peak_bytes,
        )
        return training_memory(
            model, engine=arm.engine, precision=arm.precision, zero=zero, world_size=ranks or self.ranks,
            micro_batches=shape.windows_per_rank // now, on_gpu=self.on_gpu,
        )  # fmt: skip

    def _training_step(self, arm: TrainConfig, windows: int, stage: int | None = None) -> StepCost:
        from ligo.steps import training_step

        dtype, autocast = self._dtype(arm, stage)
        return self._trace(training_step, windows=windows, dtype=dtype, autocast=autocast)

    def _evaluation(self, arm: TrainConfig, stage: int | None = None) -> StepCost:
        from ligo.steps import evaluation_step

        windows = min(_VALIDATION_WINDOWS, self._validation_windows)
        return self._trace(evaluation_step, windows=windows, dtype=self._dtype(arm, stage)[0])

    def _dtype(self, arm: TrainConfig, stage: int | None) -> tuple[str, bool]:
        """Dtype of the running weights, and whether autocast is on; ZeRO-3 gathers them in float32."""
        stage = zero_keys(self.config.deepspeed)["stage"] if stage is None else stage
        if arm.precision == "fp32":
            return "float32", False
        if arm.engine == "torch":
            return "float32", True
        return ("float32" if stage == 3 else "bfloat16"), False

    def _trace(self, step: Callable[..., StepCost], **options: Any) -> StepCost:
        key = (step.__name__, *sorted(options.items()))
        if key not in self._traced:
            self._traced[key] = step(self.plan.target, length=self.length, **options)
        return self._traced[key]

    def _step_work(self, arm: TrainConfig) -> Work:
        """What a rank does once per optimiser step."""
        parameters = self.plan.target.num_parameters
        if arm.engine == "torch":
            return Work(updated=parameters)
        stage, width = zero_keys(self.config.deepspeed)["stage"], 4 if arm.precision == "fp32" else 2
        share = parameters if stage == 0 else parameters / self.ranks
        away = (self.ranks - 1) / self.ranks * parameters
        # gradients are reduced and weights gathered, each once; ZeRO-3 gathers for the backward pass once more
        sent = width * away * 2 if stage < 3 else (width + 2 * 4) * away
        # DeepSpeed copies gradients into its bucket, out of it, and into one flat tensor
        copied = 2 * width * parameters + (0 if stage == 0 else 2 * (width + 4) * share)
        return Work(updated=share, sent_bytes=sent, moved_bytes=copied)

    # --- learning and writing -----------------------------------------------------------------------

    def learn(self) -> StageCost:
        operator, options, learning = self.config.operator, self.config.learn, self._learning
        shape = learn_shape(options, operator.batch_tokens, self.length, self.ranks)
        steps = operator.steps if learning.parameters else 0
        micro = learning.flops(shape.windows_per_micro_batch * self.length, options.forward).step.training
        evaluations = 1 + math.ceil(steps / operator.evaluate_every)
        start, best = measured_as_written(options, operator.noise, self.plan.exactness.in_width)
        written = start + (best and bool(steps))
        whole, rest = divmod(self._validation_windows, _VALIDATION_WINDOWS)
        per_evaluation = whole * self._evaluation_flops(_VALIDATION_WINDOWS) + self._evaluation_flops(rest)
        flops = steps * micro * shape.micro_batches * self.ranks + (evaluations + written) * per_evaluation
        step = self._learning_step(options)
        work = (step.work.times(shape.micro_batches) + Work(updated=learning.parameters)).times(steps)
        passes = self._validation_passes / self.ranks
        work += self._learning_step(options, learns=False).work.times(evaluations * passes)
        if written:
            noisy = self._learning_step(options, learns=False, noise=operator.noise_level)
            work += noisy.work.times(written * passes)
        return StageCost(self.learning_memory(options), flops, self._seconds(work), self.ranks, work)

    def learning_memory(self, options: LearnConfig) -> Memory:
        """The memory of a rank with these options of `learn`."""
        learning, small = self._learning, self.plan.small
        shape = learn_shape(options, self.config.operator.batch_tokens, self.length, self.ranks)
        layers, matrices, vectors = [0] * small.dims.num_layers, 0, 0
        for spec in small.tensors:
            size = spec.num_elements(small.spaces)
            if len(spec.axes) == 1:
                vectors += size
            elif spec.layer is None:
                matrices += size
            else:
                layers[spec.layer] += size
        held = small_bytes(
            layers=layers, matrices=matrices, vectors=vectors, held=options.small,
            shards=self.ranks if options.shard_small else 1,
        )  # fmt: skip
        step, evaluation = self._learning_step(options), self._learning_step(options, learns=False)
        best = learning.maps_bytes + (
            0 if self.on_gpu else 4 * learning.parameters
        )  # the best state is on the host
        return learning_memory(
            Trained(
                parameters=learning.parameters,
                largest_parameter=learning.largest_parameter,
                activations=step.activations_bytes,
                activations_and_gradients=step.peak_bytes,
                gradients_then=step.gradients_at_peak_bytes,
                evaluation=evaluation.peak_bytes,
            ),
            beside=held + learning.starts_bytes + best,
            zero=zero_keys(self.config.deepspeed),
            world_size=self.ranks,
            micro_batches=shape.micro_batches,
            on_gpu=self.on_gpu,
        )

    def _learning_step(
        self, options: LearnConfig, *, learns: bool = True, noise: NoiseLevel | None = None
    ) -> StepCost:
        """One micro-batch, or one forward pass on validation windows, with the noise that is written where it is given."""
        shape = learn_shape(options, self.config.operator.batch_tokens, self.length, self.ranks)
        windows = (
            shape.windows_per_micro_batch if learns else min(_VALIDATION_WINDOWS, self._validation_windows)
        )
        chosen: dict[str, Any] = {
            "windows": windows,
            "forward": options.forward if learns else "materialise",
            "recompute": options.recompute if learns else "weights",
            "small": options.small,
            "autocast": options.precision == "bf16",
            "learns": learns,
            "noise": noise,
        }
        key = ("learn", *chosen.values())
        if key not in self._traced:
            self._traced[key] = self._learning.step(**chosen)
        return self._traced[key]

    @cached_property
    def _learning(self) -> Learning:
        from ligo.steps import Learning

        return Learning(self.plan, self.config.operator, length=self.length)

    def _evaluation_flops(self, windows: int) -> float:
        return self._learning.flops(windows * self.length, "materialise").step.forward if windows else 0.0

    def write(self, dtype: str) -> StageCost:
        """Writing is one process's work, on its cores; FLOPs are those of dense maps where they are learned."""
        plan, compute = self.plan, max(BYTES[dtype], 4)
        largest = max(math.prod(job.shape) for job in plan.jobs)
        flops = plan.build_flops(plan.maps)
        if self.config.operator.init is not None and learns_maps(self.config):
            flops = round(self._learning.flops(self.length, "materialise").again["weights"])
        numbers = plan.target.num_parameters
        grown = sum(math.prod(job.shape) for job in plan.jobs if len(job.shape) > 1)
        work = Work(
            product_flops={"float32": flops},
            stored_bytes=numbers * BYTES[dtype],
            drawn=grown if self.config.operator.noise else 0,
            moved_bytes=3 * compute * numbers,
        )
        memory = Memory(weights=write_peak(largest * compute) - Memory().libraries, phase="writing")
        return StageCost(memory, flops, self._seconds(work), self.ranks, work)

    @property
    def _validation_windows(self) -> int:
        return max(1, self.config.data.validation_tokens // self.length)

    @property
    def _validation_passes(self) -> float:
        return self._validation_windows / min(_VALIDATION_WINDOWS, self._validation_windows)
