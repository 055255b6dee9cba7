"""One tuning run: the model with what is trained of it, through the loop, to the folders that it leaves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ligo.accounting.flops import model_flops
from ligo.checkpoint.reader import Checkpoint
from ligo.core import distributed
from ligo.core.files import folder_aside
from ligo.core.log import say
from ligo.core.run import Run
from ligo.core.units import flops as in_flops
from ligo.families.base import Family
from ligo.families.stock import as_on_disk
from ligo.tracking.base import Tracker
from ligo.tracking.jsonl import read_records
from ligo.training.config import batch_shape
from ligo.training.engine import Engine
from ligo.training.engines import make_engine
from ligo.training.loop import Progress, train
from ligo.training.models import pretrained_model
from ligo.training.objectives import Objective
from ligo.training.resume import remove_finished
from ligo.tuning.adapters import add_adapter, load_adapter, merged, peft_config, save_adapter
from ligo.tuning.batches import InstructionBatches, Instructions, response_size, validation_windows
from ligo.tuning.config import TuneTrainConfig, TuningConfig, training_of
from ligo.tuning.export import Tuned, write_adapter_card, write_model
from ligo.tuning.quantized import quantized_model
from ligo.tuning.summary import summarise

ARM = "tune"
ADAPTER = "adapter"
"""The PEFT folder inside a run folder."""


@dataclass(frozen=True, kw_only=True)
class TuningRun:
    """What a run consists of; every rank has one."""

    tuning: TuningConfig
    train: TuneTrainConfig
    deepspeed: Mapping[str, Any]
    seed: int
    max_length: int
    base: Checkpoint
    base_model: str
    """Its hub id or name."""
    family: Family
    objective: Objective
    instructions: Instructions
    run: Run
    config_hash: str
    tracker: Tracker

    def execute(self, *, merge: bool) -> None:
        """Tune, and merge where that is wanted; what is done already is left out."""
        done = self.run.stage_results()
        distributed.barrier()  # all ranks have looked before rank 0 finishes a stage
        if ARM not in done:
            self._tune()
        if merge and self.tuning.method != "full" and not self.run.trained.exists():
            self._merge()

    def _tune(self) -> None:
        training = training_of(self.train, len(self.instructions.train), self.max_length)
        shape = batch_shape(training, self.max_length, distributed.world_size())
        batches = InstructionBatches(self.instructions, self.train.batch_size, self.seed)
        model = self._model()
        num_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        say(f"{num_trained:,} parameters are trained; the checkpoint has {self.family.num_parameters:,}")
        engine = make_engine(model, self.objective, training, shape, self.deepspeed)
        done = train(
            engine,
            arm=ARM,
            batches=batches,
            validation=validation_windows(self.instructions),
            config=training,
            flops_per_token=self._flops_per_token(),
            flops_share=lambda step: batches.num_inputs(step) / self.max_length,
            tracker=self.tracker,
            checkpoints=self.run.checkpoints(ARM),
            config_hash=self.config_hash,
            run_id=self.run.id,
        )
        self._keep(engine, done, num_trained)
        engine.close()

    def _model(self) -> Any:
        """The same on every rank and after every start: weights from the checkpoint, a fresh adapter from the seed."""
        tuning, folder = self.tuning, self.base.folder
        if tuning.quantization == "nf4":
            model = quantized_model(folder, self.train, double_quantization=tuning.double_quantization)
        else:
            model = pretrained_model(folder, self.deepspeed, self.train)
        if tuning.method == "full":
            return model
        if tuning.adapter is not None:
            return load_adapter(model, Path(tuning.adapter).expanduser(), trainable=True)
        torch.manual_seed(self.seed)
        return add_adapter(model, peft_config(tuning))

    def _flops_per_token(self) -> float:
        """Frozen weights have no gradient of their own, a third of a step; an adapter's own FLOPs are left out."""
        flops = model_flops(self.family, self.max_length)
        return flops.training if self.tuning.method == "full" else 2 * flops.forward

    def _keep(self, engine: Engine, done: Progress, num_trained: int) -> None:
        """Leave the model, or the adapter, and note what the run came to."""
        full = self.tuning.method == "full"
        kept = engine.weights() if full else engine.trained()
        with distributed.others_wait() as main:
            if not main:
                return
            tuned = self._tuned(done, num_trained)
            left = self.run.trained if full else self.run.folder / ADAPTER
            with folder_aside(left) as folder:
                if full:
                    write_model(folder, kept.items(), self.base, tuned)
                else:
                    save_adapter(folder, engine.module, kept, self.base_model)
                    write_adapter_card(folder, self.base, tuned)
            parameters = self.family.num_parameters
            self.tracker.summary(summarise(self.run, ARM, tuned, done, parameters=parameters, left=left))
            spent = {"tokens": done.tokens, "flops": done.flops, "wall_s": done.wall_s}
            self.run.finish_stage(ARM, {**vars(tuned), **spent})
            remove_finished(self.run.checkpoints(ARM), self.train.keep_every)
            say(
                f"tuned: validation loss {tuned.start_loss:.4f} -> {tuned.loss:.4f} nats per token of a response, "
                f"{in_flops(done.flops)}"
            )

    def _tuned(self, done: Progress, num_trained: int) -> Tuned:
        records = read_records(self.run.metrics)
        start = next(each["eval/loss"] for each in records if each["arm"] == ARM and each["step"] == 0)
        tokens, num_bytes = response_size(self.instructions.validation, self.base.tokenizer())
        return Tuned(
            base_model=self.base_model,
            base_fingerprint=self.base.fingerprint(),
            method=self.tuning.method,
            quantization=self.tuning.quantization,
            adapter=self.tuning.peft if self.tuning.adapter is None else {},
            trained_parameters=num_trained,
            examples=len(self.instructions.train),
            steps=done.step,
            batch_size=self.train.batch_size,
            peak_lr=self.train.lr,
            schedule=self.train.schedule,
            start_loss=start,
            loss=done.loss,
            bits_per_byte=done.loss * tokens / (math.log(2) * num_bytes),
        )

    def _merge(self) -> None:
        """Write the model with the adapter added into its weights, in float32; one rank alone."""
        with distributed.others_wait() as main:
            if not main:
                return
            result = self.run.stage_results()[ARM]
            tuned = Tuned(**{key: result[key] for key in Tuned.__dataclass_fields__})
            plain = TuneTrainConfig(engine="torch")
            model = merged(pretrained_model(self.base.folder, {}, plain), self.run.folder / ADAPTER)
            weights = as_on_disk(model, dict(model.named_parameters()))
            with folder_aside(self.run.trained) as folder:
                write_model(folder, weights.items(), self.base, tuned, merged=True)
            say(f"merged: {self.run.trained}")
