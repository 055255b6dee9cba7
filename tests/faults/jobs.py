"""What the ranks of a trial do: train the tiny arm, with something going wrong on purpose."""

from __future__ import annotations

import os
import resource
import signal
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ligo.core import distributed
from ligo.core.files import write_json
from ligo.families.base import family_of
from ligo.tracking.jsonl import JsonlTracker
from ligo.training.config import TrainConfig, batch_shape
from ligo.training.engine import Engine
from ligo.training.engines import make_engine
from ligo.training.loop import train
from ligo.training.models import fresh_model
from ligo.training.objectives import CausalLM, Run
from tests.conftest import tiny_config
from tests.training.arms import CONFIG, LENGTH, VALIDATION, SyntheticWindows

STEPS, SAVE_EVERY = 8, 2


@dataclass(frozen=True)
class Arm:
    """The tiny arm under one engine, stage and precision, in a folder."""

    folder: Path
    stage: int = 1
    precision: str = "fp32"
    engine: str = "deepspeed"
    steps: int = STEPS
    stop_at: int | None = None
    """Rank 0 gets SIGTERM once it has logged this step."""
    bad_steps: tuple[int, ...] = ()
    """Steps (from 0) on which the last rank meets a batch that it cannot learn from."""
    bad: str = "loss"
    """What is not finite on them: loss or gradient."""
    export: str = "none"
    full_on: int | None = None
    """The rank whose disk takes no large file any more after the first save."""
    parted: bool = False
    """Whether ranks are started with different options."""

    def __call__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        config = replace(
            CONFIG, engine=self.engine, precision=self.precision, max_tokens=self.steps * 128,
            save_every=SAVE_EVERY, evaluate_every=4, export=self.export,
        )  # fmt: skip
        shape = batch_shape(config, LENGTH, distributed.world_size())
        keys = {"zero_optimization": {"stage": self.stage, "stage3_param_persistence_threshold": 10}}
        engine = make_engine(fresh_model(tiny_config(), 0), Trap(family()), config, shape, keys)
        watched = Watched(engine, self)
        try:
            self._train(watched, config)
        finally:
            write_json(self.folder / f"seen-{distributed.rank()}.json", watched.seen)

    def _train(self, engine: Any, config: TrainConfig) -> None:
        train(
            engine,
            arm="grown",
            batches=Windows(self),
            validation=VALIDATION,
            config=config,
            flops_per_token=10.0,
            tracker=Stopping(self) if distributed.is_main() else Silent(self),
            checkpoints=self.folder / "checkpoints",
            config_hash=f"test{distributed.rank()}" if self.parted else "test",
            run_id="run",
        )


@cache
def family() -> Any:
    return family_of(tiny_config())


class Windows(SyntheticWindows):
    """Windows of the last rank begin with the token 0 on bad steps, and none do otherwise."""

    def __init__(self, arm: Arm) -> None:
        self._arm = arm

    def __getitem__(self, step: int) -> np.ndarray:
        windows = np.maximum(super().__getitem__(step), 1)
        if step in self._arm.bad_steps:
            windows[-1, 0] = 0 if self._arm.bad == "loss" else 95
            windows[-1, 1] = 0
        return windows


class Trap(CausalLM):
    """Next tokens, but a window that has the token 0 in it gives a loss or a gradient that is not finite."""

    def loss(self, run: Run, batch: Tensor) -> Tensor:
        loss = super().loss(run, batch)
        if bool((batch[:, 0] == 0).any()):
            return loss * float("nan")
        return BadGradient.apply(loss) if bool((batch[:, 1] == 0).any()) else loss  # type: ignore[no-any-return]


class BadGradient(torch.autograd.Function):
    """Its value is what it is given; its gradient is infinite."""

    @staticmethod
    def forward(_: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return gradient * float("inf")


class Watched:
    """An engine that remembers the windows of every step, and whether bad steps changed anything."""

    def __init__(self, engine: Engine, arm: Arm) -> None:
        self._engine, self._arm, self._steps = engine, arm, 0
        self.seen: dict[str, Any] = {"windows": [], "unchanged": []}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def step(self, windows: np.ndarray, lr: float) -> tuple[float, float | None]:
        self.seen["windows"].append(windows.tolist())
        if self._steps == SAVE_EVERY and distributed.rank() == self._arm.full_on:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        if self._steps not in self._arm.bad_steps:
            self._steps += 1
            return self._engine.step(windows, lr)
        self._steps += 1
        before = self._copy()
        result = self._engine.step(windows, lr)
        after = self._copy()
        self.seen["unchanged"].append(
            all(torch.equal(before[key], after[key]) for key in before) and before.keys() == after.keys()
        )
        return result

    def _copy(self) -> dict[str, Tensor]:
        """Weights, float32 masters and all optimiser state that this rank holds, and the model that it runs."""
        copied = {f"running {n}": p.detach().clone() for n, p in self._engine.module.named_parameters()}
        for number, held in enumerate(self._engine._held()):
            copied[f"held {number}"] = held.weights.detach().clone()
            for key, value in held.state.items():
                copied[f"{key} {number}"] = torch.as_tensor(value).clone()
        return copied


class Silent(JsonlTracker):
    """Of the ranks that track nothing."""

    def __init__(self, arm: Arm) -> None:
        super().__init__(Path(os.devnull), Path(os.devnull))

    def log(self, record: dict[str, Any]) -> None:
        pass

    def rewind(self, arm: str, step: int) -> None:
        pass


class Stopping(JsonlTracker):
    """Of rank 0."""

    def __init__(self, arm: Arm) -> None:
        super().__init__(arm.folder / "metrics.jsonl", arm.folder / "summary.json")
        self._stop_at = arm.stop_at

    def log(self, record: dict[str, Any]) -> None:
        super().log(record)
        if record["step"] == self._stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
