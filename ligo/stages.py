"""All stages of a growth run: small, learn, write, verify, train, scratch, short, continue, report.

Learn, write and verify are growth itself (`ligo.growth_stages`); here are the arms that are trained, and the report. All
ranks train; rank 0 does the rest alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ligo.accounting.flops import model_flops
from ligo.checkpoint.optimizer import OptimizerState
from ligo.config import scratch_training, short_training
from ligo.core import distributed
from ligo.core.files import read_json
from ligo.core.log import say
from ligo.core.units import flops as in_flops
from ligo.data.loader import Batches, check_budget, rank_slice
from ligo.families.base import Family
from ligo.growth_stages import GrowthStages
from ligo.reports.html import write_report
from ligo.reports.run_table import savings_table_text
from ligo.summary import operator_flops, small_training_record, summarise
from ligo.training.config import TrainConfig, batch_shape

if TYPE_CHECKING:
    from torch import Tensor

    from ligo.training.engine import Engine
    from ligo.training.loop import Progress


class GrowthRun(GrowthStages):
    """A whole run: growth, the arms that are trained, and what came of them."""

    @property
    def _stages(self) -> dict[str, Callable[[], None]]:
        return {
            **super()._stages,
            "small": self.trained_small,
            "train": self.train,
            "scratch": self.scratch,
            "short": self.short,
            "continue": self.continue_small,
            "report": self.report,
        }

    def trained_small(self) -> None:
        """The small model has been trained before any stage begins; note what came of it."""
        with self._alone("small") as result:
            if result is not None:
                result.update(read_json(self.small.folder / "ligo.json")["training"])

    # --- training -----------------------------------------------------------------------------------

    def train(self) -> None:
        """Continue pretraining the grown model; the result is `trained/`, a stock folder again."""
        model, state = self._pretrained(self.run.grown), self.grown_state()
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
        new = self.new_elements() if state is not None and training.rewarm_steps else None
        engine = self._engine(model, training, family, state, new)
        checkpoints = self.run.checkpoints(arm)
        done = self._run_engine(engine, arm, training, family, checkpoints)
        if keep:
            self.keep_trained(engine.weights(), done.tokens, done.loss, self.run.trained)
        engine.close()
        self._finish_arm(stage, arm, training, done, checkpoints)

    def _engine(
        self, model: Callable[[], Any], training: TrainConfig, family: Family, state: OptimizerState | None,
        new: dict[str, Tensor] | None, first_step: int = 0,
    ) -> Engine:  # fmt: skip
        """A model in its engine, with moments to begin with where there are any, and elements that re-warm.

        An arm that goes on from a checkpoint takes what is in there instead.
        """
        from ligo.training.engines import make_engine
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
