"""The stages of a growth run: small, learn, write, verify, train, scratch, short, continue, report.

Each reads what the stages before it left in the run folder and leaves its own result there, so a run
that was cut goes on at the first stage that is not done. All ranks learn and train; rank 0 does the rest alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ligo.accounting.flops import model_flops
from ligo.accounting.meter import metered
from ligo.checkpoint.assets import ModelCard, write_assets
from ligo.checkpoint.hashes import write_hashes
from ligo.checkpoint.locate import packaged
from ligo.checkpoint.optimizer import (
    OptimizerState,
    open_optimizer_state,
    read_optimizer_file,
    write_optimizer_file,
)
from ligo.checkpoint.reader import Checkpoint
from ligo.checkpoint.writer import check_free_memory, write_weights
from ligo.config import GrowConfig, learns_maps, needs_objective, scratch_training, short_training
from ligo.core import distributed
from ligo.core.files import folder_aside, folder_resumed, read_json, write_json
from ligo.core.log import say
from ligo.core.run import Run
from ligo.core.units import flops as in_flops
from ligo.costs import grown_dtype
from ligo.data.loader import Batches, Data, check_budget, rank_slice, validation_batches
from ligo.families.base import Family
from ligo.families.stock import expected_shapes
from ligo.growth.plan import GrowthPlan
from ligo.operators.maps import GrowthMaps
from ligo.plan import make_plan, plan_json
from ligo.reports.html import write_report
from ligo.reports.run_table import savings_table_text
from ligo.summary import operator_flops, small_training_record, summarise
from ligo.tracking.base import Tracker
from ligo.training.config import TrainConfig, batch_shape

if TYPE_CHECKING:
    from torch import Tensor

    from ligo.learning.fit import LearnedOperator
    from ligo.training.engine import Engine
    from ligo.training.loop import Progress
    from ligo.training.objectives import Objective

_VALIDATION_WINDOWS = 32  # per forward pass


class GrowthRun:
    """One run: the config, the plan, the small checkpoint, the text, and the folder that it all goes to."""

    def __init__(
        self, config: GrowConfig, run: Run, config_hash: str, small: Checkpoint, plan: GrowthPlan,
        corpus: Data, tracker: Tracker,
    ) -> None:  # fmt: skip
        self.config, self.run, self.small, self.plan, self.corpus = config, run, small, plan, corpus
        self._config_hash, self._tracker = config_hash, tracker

    def execute(self) -> None:
        """Run the chosen stages in order, those already done left out."""
        stages = {
            "small": self.trained_small,
            "learn": self.learn,
            "write": self.write,
            "verify": self.verify,
            "train": self.train,
            "scratch": self.scratch,
            "short": self.short,
            "continue": self.continue_small,
            "report": self.report,
        }
        done = self.run.stage_results()
        distributed.barrier()  # all ranks have looked before rank 0 finishes another stage
        self._adopt_choice()
        for name in self.config.stages:
            if name == "report" or name not in done:
                with metered(self.config.hardware, self.run.folder, name):
                    stages[name]()

    @contextmanager
    def _alone(self, stage: str) -> Iterator[dict[str, Any] | None]:
        """Rank 0 fills in the result of a stage; the others get None and wait."""
        with distributed.others_wait() as main:
            result: dict[str, Any] = {}
            yield result if main else None
            if main:
                self.run.finish_stage(stage, result)

    def trained_small(self) -> None:
        """The small model has been trained before any stage begins; note what came of it."""
        with self._alone("small") as result:
            if result is not None:
                result.update(read_json(self.small.folder / "ligo.json")["training"])

    # --- growth -------------------------------------------------------------------------------------

    def learn(self) -> None:
        """Learn the operator's maps, or choose the operator; nothing to do for one that is neither."""
        learned = self._learn() if learns_maps(self.config) else None
        with self._alone("learn") as result:
            if result is not None and self.config.operator.candidates:
                self._select(result)
            elif result is not None and learned is not None:
                self._keep_learned(learned, result)
            elif result is not None and self.config.operator.init is not None:
                self._reuse(result)
        self._adopt_choice()

    def _learn(self) -> LearnedOperator:
        """All ranks learn together."""
        from ligo.learning.fit import learn_operator

        operator, length = self.config.operator, self.config.data.sequence_length
        self._tracker.rewind("learn", -1)
        if self.config.learn.fit_to is not None:
            return self._fit_to_trained(self.config.learn.fit_to)
        # another order of the same text than training's
        batches = Batches(self.corpus, length, max(1, operator.batch_tokens // length), self.config.seed + 1)
        return learn_operator(
            self.plan, self.small.read, batches.__getitem__, self._validation, operator, self.config.learn,
            self._tracker.log, objective=self._objective, seed=self.config.seed, deepspeed=self.config.deepspeed,
        )  # fmt: skip

    def _fit_to_trained(self, where: str) -> LearnedOperator:
        """Every rank fits the same maps."""
        from ligo.learning.hindsight import FirstRun, fit_to_trained, trained_run

        first, trained = trained_run(where, self.plan)
        done, growing = first.stage_results()["train"], first.stage_results().get("learn", {})
        return fit_to_trained(
            self.plan,
            self.small.read,
            FirstRun(
                trained.read,
                flops=operator_flops(first) + done["flops"],
                tokens=growing.get("tokens", 0) + done["tokens"],
                wall_s=growing.get("wall_s", 0.0) + done["wall_s"],
            ),
            self._validation,
            self.config.operator,
            self.config.learn,
            self._tracker.log,
            objective=self._objective,
            seed=self.config.seed,
        )

    def _keep_learned(self, learned: LearnedOperator, result: dict[str, Any]) -> None:
        from ligo.learning.state import save_operator

        save_operator(self.run.operator, self.plan, self.config.operator, learned)
        result.update(
            flops=learned.flops, recomputed_flops=learned.recomputed_flops, tokens=learned.tokens,
            wall_s=learned.wall_s, best_step=learned.best_step, start_loss=learned.start_loss,
            best_loss=learned.best_loss, parameters=learned.num_parameters, small=learned.small,
            ranks=distributed.world_size(), captured=learned.captured,
        )  # fmt: skip
        if learned.captured is not None:
            say(f"the maps make {learned.captured:.1%} of the way to the trained weights (in squares)")
        say(
            f"learned: validation loss {learned.start_loss:.4f} -> {learned.best_loss:.4f} "
            f"(best at step {learned.best_step} of {self.config.operator.steps}), {in_flops(learned.flops)}"
        )

    def _reuse(self, result: dict[str, Any]) -> None:
        """Take maps that were learned elsewhere: nothing is charged, and what they cost there is noted."""
        from ligo.learning.state import find_operator, reuse_operator

        where = self.config.learn.operator
        assert where is not None
        elsewhere = reuse_operator(find_operator(where), self.run.operator, self.plan, self.config.operator)
        result.update(
            flops=0.0, tokens=0, best_step=elsewhere.best_step, parameters=elsewhere.parameters,
            small=elsewhere.small, reused=asdict(elsewhere),
        )  # fmt: skip
        say(
            f"took the operator of {where}, which cost {in_flops(elsewhere.flops)} to learn there: not charged here"
        )

    def _select(self, result: dict[str, Any]) -> None:
        from ligo.learning.select import select_operator

        config, training = self.config, self.config.train
        windows = batch_shape(training, config.data.sequence_length, 1).windows
        self._tracker.rewind("learn", -1)
        selection = select_operator(
            {name: make_plan(config, self.small.config, chosen=name) for name in config.operator.candidates},
            self.small.read,
            Batches(self.corpus, config.data.sequence_length, windows, config.seed).__getitem__,
            self._validation,
            training,
            self._tracker.log,
            objective=self._objective,
            num_steps=config.operator.trial_steps,
            sequence_length=config.data.sequence_length,
            noise=config.operator.noise_level,
            seed=config.seed,
        )
        result.update(
            flops=selection.flops, tokens=selection.tokens, wall_s=selection.wall_s, chosen=selection.chosen,
            start_loss=selection.start_losses[selection.chosen], losses=dict(selection.losses), ranks=1,
        )  # fmt: skip
        tried = ", ".join(f"{name} {loss:.4f}" for name, loss in selection.losses.items())
        say(f"chose {selection.chosen} (validation loss after {config.operator.trial_steps} steps: {tried})")

    def _adopt_choice(self) -> None:
        """Go on with the plan of the operator that was chosen, on every rank."""
        chosen = self.run.stage_results().get("learn", {}).get("chosen")
        if chosen is not None:
            self.plan = make_plan(self.config, self.small.config, chosen=chosen)
            if distributed.is_main():
                write_json(self.run.plan, plan_json(self.config, self.plan))

    def write(self) -> None:
        """Write the grown model as a stock Hugging Face folder."""
        with self._alone("write") as result:
            if result is None:
                return
            from ligo.growth.write import GrowthWriter, growth_key

            dtype, maps = grown_dtype(self.config, self.plan), self._maps()
            noise = self.config.operator.noise_level
            seed, shard_bytes = self.config.seed, self.config.write.shard_bytes
            writer = GrowthWriter(self.plan, maps, self.small.read, dtype, noise, seed)
            key = growth_key(
                self.plan, maps, self.small, dtype=dtype, noise=noise, seed=seed, shard_bytes=shard_bytes
            )
            check_free_memory(writer.peak_bytes)
            with folder_resumed(self.run.grown, key) as (folder, record):
                written = writer.write(folder, record, shard_bytes=shard_bytes)
                self._write_assets(folder, dtype, notes=["Grown, not trained on since."])
                write_hashes(folder, written["checksums"])
            moments_flops = self._write_moments(maps)
            result.update(written, dtype=dtype, build_flops=self.plan.build_flops(maps) + moments_flops)
            say(f"wrote {self.run.grown}")

    def _write_moments(self, maps: GrowthMaps) -> int:
        """Write which coordinates are new and, where they are wanted, the moments to train on with; the FLOPs."""
        from ligo.growth.coordinates import write_new_coordinates
        from ligo.growth.moments import grow_moments

        write_new_coordinates(self.run.new_coordinates, self.plan)
        how, state = self.config.operator.optimizer_state, self._small_state()
        if state is None:
            return 0
        moments = grow_moments(self.plan, maps, state.read, how, weights=self.small.read)
        write_optimizer_file(self.run.moments, state.step, expected_shapes(self.plan.target), moments)
        return 2 * self.plan.build_flops(maps.dual()) if how == "grow" else 0

    def _small_state(self) -> OptimizerState | None:
        """The small run's Adam moments, where they are wanted."""
        if self.config.operator.optimizer_state == "reset":
            return None
        return open_optimizer_state(self.small.folder, self.config.small.optimizer_state, self.plan.small)

    def verify(self) -> None:
        """Reload what was written with stock transformers, and compare outputs and weights with the small model's."""
        with self._alone("verify") as result:
            if result is None:
                return
            import torch

            from ligo.growth.modules import module_statistics
            from ligo.growth.verify import verify_growth

            probe = self._objective.inputs(torch.from_numpy(self._validation[0][:4]))
            learned = self.run.stage_results().get("learn", {})
            verification = verify_growth(
                self.small.folder,
                self.run.grown,
                probe.numpy(),
                claimed_exact=self.plan.exactness.exact and not learned.get("best_step"),
                stored_dtype=grown_dtype(self.config, self.plan),
                read_back=self.plan.read_back,
            )
            grown = Checkpoint.open(self.run.grown).named_for(self.plan.target)
            modules = module_statistics(self.plan, self.small.read, grown.read)
            result.update(verification.as_json(), modules=modules)
            verdict = "exact" if verification.exact else "not exact, as planned"
            compared = "logit" if self.plan.small.has_head else "hidden state"
            say(
                f"verified: largest {compared} difference {verification.max_logit_difference:.2e} ({verdict})"
            )

    def _maps(self) -> GrowthMaps:
        """The maps to write: those learned, or the operator's own."""
        if self.config.operator.init is None:
            return self.plan.maps
        from ligo.learning.state import load_maps

        return load_maps(self.run.operator, self.plan, self.config.operator)

    def _write_assets(self, folder: Path, dtype: str, notes: list[str]) -> None:
        small, target = self.plan.small.dims, self.plan.target.dims
        card = ModelCard(
            name=f"{self.config.small.name} grown to {self.config.target.name}",
            base_model=self._base_model(),
            operator=self.config.operator.name,
            operator_reference="; ".join(self.plan.references),
            exactness=self._exactness_sentence(),
            small={**asdict(small), "parameters": self.plan.small.num_parameters},
            target={**asdict(target), "parameters": self.plan.target.num_parameters},
            notes=notes,
        )
        config = {**self.plan.target_config, "dtype": dtype}
        write_assets(folder, config=config, source_folder=self.small.folder, card=card)

    def _base_model(self) -> str:
        """The hub id if the checkpoint came from the hub, else a plain name."""
        small = self.config.small
        elsewhere = small.path is not None or (small.package_file and packaged(small.package_file))
        return small.name if elsewhere or small.hub_id is None else small.hub_id

    def _exactness_sentence(self) -> str:
        start = ("exact" if self.plan.exactness.exact else "not exact") + f" ({self.plan.exactness.reason})"
        if self.run.stage_results().get("learn", {}).get("best_step"):
            return f"Its maps were learned, which changed the function; the start they were learned from is {start}."
        return f"Growth was {start}."

    # --- training -----------------------------------------------------------------------------------

    def train(self) -> None:
        """Continue pretraining the grown model; the result is `trained/`, a stock folder again."""
        model, state = self._pretrained(self.run.grown), self._grown_state()
        self._train_arm("train", "grown", model, self.config.train, state=state, keep=True)

    def scratch(self) -> None:
        """Train the same target from fresh weights: same data order, own rate, own fully decayed schedule."""
        self._train_arm("scratch", "scratch", self._fresh, scratch_training(self.config))

    def short(self) -> None:
        """The scratch run with a schedule as short as the grown run's: the control for what the schedule alone gains."""
        self._train_arm("short", "short", self._fresh, short_training(self.config))

    def _fresh(self) -> Any:
        from ligo.training.models import fresh_model

        return fresh_model(self._final.config, self.config.seed)

    def continue_small(self) -> None:
        """Train the small model on for as many FLOPs as the growth and the grown model took: the control.

        It goes on with its own moments where the grown model begins with grown ones.

        Raises:
            DataError: that is more text than there is, and data.when_exhausted=stop.
        """
        from ligo.training.dropping import training_flops

        small = training_flops(self.config.train, self.plan.small, self.config.data.sequence_length)
        times = (operator_flops(self.run) + self._grown_flops()) / small
        tokens = round(times * self.config.train.max_tokens)
        training = replace(self.config.train, max_tokens=tokens, rewarm_steps=0)
        check_budget(self.corpus, self.config.data, tokens // self.config.data.sequence_length)
        model = self._pretrained(self.small.folder)
        self._train_arm(
            "continue", "continue", model, training, family=self.plan.small, state=self._small_state()
        )

    @property
    def _final(self) -> Family:
        """The model that the grown arm ends with."""
        return self.plan.target

    def _grown_flops(self) -> float:
        """What the whole grown arm takes."""
        from ligo.training.dropping import training_flops

        return training_flops(self.config.train, self.plan.target, self.config.data.sequence_length)

    def _grown_state(self) -> OptimizerState | None:
        """The moments that the grown model begins with, where they are wanted."""
        if self.config.operator.optimizer_state == "reset":
            return None
        return read_optimizer_file(self.run.moments, self.plan.target)

    def _pretrained(self, folder: Path) -> Callable[[], Any]:
        def model() -> Any:
            from ligo.training.models import pretrained_model

            return pretrained_model(folder, self.config.deepspeed, self.config.train)

        return model

    def _train_arm(
        self, stage: str, arm: str, model: Callable[[], Any], training: TrainConfig, *, family: Family | None = None,
        state: OptimizerState | None = None, keep: bool = False,
    ) -> None:  # fmt: skip
        family = family or self._final
        new = self._new() if state is not None and training.rewarm_steps else None
        engine = self._engine(model, training, family, state, new)
        checkpoints = self.run.checkpoints(arm)
        done = self._run_engine(engine, arm, training, family, checkpoints)
        if keep:
            self._keep_trained(engine.weights(), done.tokens, done.loss, self.run.trained)
        engine.close()
        self._finish_arm(stage, arm, training, done, checkpoints)

    def _engine(
        self, model: Callable[[], Any], training: TrainConfig, family: Family, state: OptimizerState | None,
        new: dict[str, Tensor] | None, first_step: int = 0,
    ) -> Engine:  # fmt: skip
        """A model in its engine, with moments to begin with where there are any, and elements that re-warm.

        An arm that goes on from a checkpoint takes what is in there instead.
        """
        from ligo.training.engine import make_engine
        from ligo.training.moments import load_moments

        shape = batch_shape(training, self.config.data.sequence_length, distributed.world_size())
        engine = make_engine(model(), self._objective.of(family), training, shape, self.config.deepspeed)
        if state is not None:
            first = rank_slice(
                self._batches(training)[first_step], distributed.rank(), distributed.world_size()
            )
            load_moments(engine, family, state, first, new)
        return engine

    def _run_engine(
        self,
        engine: Engine,
        arm: str,
        training: TrainConfig,
        family: Family,
        checkpoints: Path,
        **segment: Any,
    ) -> Progress:
        from ligo.training.dropping import flops_share
        from ligo.training.loop import train

        length = self.config.data.sequence_length
        return train(
            engine,
            arm=arm,
            batches=self._batches(training),
            validation=self._validation,
            config=training,
            flops_per_token=model_flops(family, length).training,
            flops_share=flops_share(training, family, length),
            tracker=self._tracker,
            checkpoints=checkpoints,
            config_hash=self._config_hash,
            run_id=self.run.id,
            **segment,
        )

    def _batches(self, training: TrainConfig) -> Batches:
        length = self.config.data.sequence_length
        return Batches(self.corpus, length, training.batch_tokens // length, self.config.seed)

    def _finish_arm(
        self, stage: str, arm: str, training: TrainConfig, done: Progress, checkpoints: Path
    ) -> None:
        from ligo.training.resume import remove_finished

        with self._alone(stage) as result:
            if result is not None:
                evaluated = self.config.data.sequence_length * sum(map(len, self._validation))
                result.update(
                    asdict(done), peak_lr=training.lr, schedule=training.schedule,
                    ranks=distributed.world_size(), evaluation_tokens=evaluated,
                    small_training=small_training_record(self.config, self.small, self.plan),
                )  # fmt: skip
                remove_finished(checkpoints, training.keep_every)
                say(f"trained {arm}: validation loss {done.loss:.4f} after {in_flops(done.flops)}")

    def _new(self) -> dict[str, Tensor]:
        """The elements of the grown model's tensors that are new."""
        from ligo.growth.coordinates import is_new, read_new_coordinates

        return {name: is_new(axes) for name, axes in read_new_coordinates(self.run.new_coordinates).items()}

    def _keep_trained(self, weights: dict[str, Tensor], tokens: int, loss: float, final: Path) -> None:
        with distributed.others_wait() as main:
            if main:
                with folder_aside(final) as folder:
                    shard_bytes = self.config.write.shard_bytes
                    ordered = ((job.spec.name, weights[job.spec.name]) for job in self.plan.jobs)
                    written = write_weights(folder, ordered, shard_bytes=shard_bytes)
                    note = f"Grown, then trained on {tokens:,} tokens to a validation loss of {loss:.4f} nats per token."
                    self._write_assets(folder, "float32", notes=[note])
                    write_hashes(folder, written["checksums"])

    @cached_property
    def _objective(self) -> Objective:
        from ligo.training.objectives import make_objective

        return make_objective(
            self.plan.small,
            self.small.tokenizer,
            trains=needs_objective(self.config),
            attend=self.config.data.attend,
        )

    @cached_property
    def _validation(self) -> list[Any]:
        data = self.config.data
        return validation_batches(
            self.corpus, data.sequence_length, _VALIDATION_WINDOWS, data.validation_tokens
        )

    # --- report -------------------------------------------------------------------------------------

    def report(self) -> None:
        """Write summary.json, report.html and what lies beside it, and print the savings table."""
        with distributed.others_wait() as main:
            if main:
                summary = self._summary()
                self._tracker.summary(summary)
                write_report([self.run.folder], self.run.report)
                say("")
                say(savings_table_text(summary))
                say(f"\nreport: {self.run.report}")

    def _summary(self) -> dict[str, Any]:
        return summarise(self.config, self.run, self.small, self.plan)
