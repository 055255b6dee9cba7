"""Adam's moments beside a checkpoint: our own file, a torch optimiser's state, a DeepSpeed universal checkpoint.

`optimizer.safetensors` holds `exp_avg.<name on disk>` and `exp_avg_sq.<name on disk>` in float32, and the number
of steps as metadata. The other two name or count parameters as the running model does. They are pickles, so they are read
only where the command line allows it, and then with `weights_only`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ligo.checkpoint.headers import DamagedFile
from ligo.checkpoint.load import check_tensors, load_pickle, open_tensors
from ligo.checkpoint.stream import write_tensor_file
from ligo.core.errors import CheckpointError, ConfigError
from ligo.core.permissions import ALLOW_PICKLE
from ligo.families.base import Family
from ligo.families.stock import as_on_disk, expected_shapes, skeleton

if TYPE_CHECKING:
    from torch import Tensor

OPTIMIZER_FILE = "optimizer.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")
"""As torch names them: the running mean of the gradient, and of its square."""

ReadMoment = Callable[[str, str], "Tensor"]
"""Name of a tensor on disk, name of the moment -> the moment, in the tensor's shape."""


@dataclass(frozen=True)
class OptimizerState:
    """The moments of a model after `step` steps; tensors are read one by one when asked."""

    step: int
    read: ReadMoment


def open_optimizer_state(folder: Path, path: str | None, family: Family) -> OptimizerState:
    """The optimiser state of a checkpoint.

    Args:
        folder: the checkpoint, which may hold an `optimizer.safetensors`.
        path: `small.optimizer_state`; goes before what the folder holds.

    Raises:
        ConfigError: there is none.
        CheckpointError: it cannot be read, is not Adam's, or not that of this model; the first tensor that does not
            fit is named.
    """
    if path is None:
        if not (folder / OPTIMIZER_FILE).is_file():
            others = [file for file in (folder / "optimizer.pt", folder / "optimizer.bin") if file.is_file()]
            instead = f"{others[0]} {ALLOW_PICKLE}" if others else "FILE"
            raise ConfigError(
                f"operator.optimizer_state grows the small run's Adam moments, and {folder} has no {OPTIMIZER_FILE}.\n"
                f"  Try: small.optimizer_state={instead}, or operator.optimizer_state=reset"
            )
        return read_optimizer_file(folder / OPTIMIZER_FILE, family)
    given = Path(path).expanduser()
    if given.is_dir() and (given / OPTIMIZER_FILE).is_file():
        given = given / OPTIMIZER_FILE
    if given.is_file():
        return (read_optimizer_file if given.suffix == ".safetensors" else _read_torch)(given, family)
    if (given / "zero").is_dir():
        return _read_universal(given, family)
    raise _nothing_there(given)


def read_optimizer_file(file: Path, family: Family) -> OptimizerState:
    """A file in our own format.

    Raises:
        CheckpointError: it is damaged, or not that of this model.
    """
    try:
        header = check_tensors(file)
    except DamagedFile as error:
        raise CheckpointError(
            f"{file} is damaged or was not written to its end: {error}.\n  Try: another small.optimizer_state"
        ) from error
    if not header.metadata.get("step", "").isdigit():
        raise CheckpointError(
            f"{file} does not say after how many steps it was saved.\n  Try: another small.optimizer_state"
        )
    for name, shape in expected_shapes(family).items():
        for moment in MOMENTS:
            found = header.tensors.get(f"{moment}.{name}")
            _expect(file, f"{moment}.{name}", found.shape if found else None, shape)

    def read(name: str, moment: str) -> Tensor:
        with open_tensors(file, check=False) as handle:
            return handle.get_tensor(f"{moment}.{name}")

    return OptimizerState(int(header.metadata["step"]), read)


def write_optimizer_file(
    path: Path, step: int, shapes: Mapping[str, tuple[int, ...]], moments: Iterable[tuple[str, Tensor, Tensor]]
) -> None:  # fmt: skip
    """Write moments as they come, whole or not at all.

    Args:
        shapes: name on disk -> shape, in the order in which the moments come.
        moments: (name on disk, exp_avg, exp_avg_sq), taken one by one.

    Raises:
        ResourceError: the disk is full or cannot be written.
    """
    entries = {f"{moment}.{name}": ("F32", shape) for name, shape in shapes.items() for moment in MOMENTS}

    def tensors() -> Iterator[Tensor]:
        for expected, (name, first, second) in zip(shapes, moments, strict=True):
            if name != expected:
                raise ValueError(f"the moments of {name} come where those of {expected} should")
            yield first.float()
            yield second.float()

    write_tensor_file(path, entries, tensors(), {"format": "pt", "step": str(step)})


# --- torch -----------------------------------------------------------------------------------------------


def _read_torch(file: Path, family: Family) -> OptimizerState:
    """A state_dict of torch's Adam or AdamW, alone or under "optimizer"."""
    saved = load_pickle(file)
    for key in ("optimizer", "optimizer_state_dict"):
        if isinstance(saved, dict) and "param_groups" not in saved:
            saved = saved.get(key, saved)
    if not isinstance(saved, dict) or not {"state", "param_groups"} <= saved.keys():
        raise CheckpointError(
            f"{file} holds no state of a torch optimiser.\n"
            "  Try: torch.save(optimizer.state_dict(), FILE), then small.optimizer_state=FILE"
        )
    model = skeleton(family)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    names = _parameter_names(file, saved["param_groups"], shapes)
    if len(names) != len(numbers):
        raise CheckpointError(
            f"{file} is the state of {len(numbers)} parameters, and the small model has {len(names)}.\n"
            "  Try: the optimiser state of this very model"
        )
    states = {name: saved["state"][n] for name, n in zip(names, numbers, strict=True) if n in saved["state"]}
    for name, state in states.items():
        if not set(MOMENTS) <= state.keys():
            raise CheckpointError(
                f"{file} has {', '.join(map(str, state)) or 'nothing'} for {name}, and not Adam's exp_avg and exp_avg_sq: "
                "it is the state of another optimiser.\n  Try: operator.optimizer_state=reset"
            )
        for moment in MOMENTS:
            _expect(file, name, tuple(state[moment].shape), shapes.get(name, ()))
    if not states:
        raise CheckpointError(
            f"{file} was saved before the first step.\n  Try: operator.optimizer_state=reset"
        )

    def load(name: str, moment: str) -> Tensor:
        import torch

        # torch makes no state for a parameter that never had a gradient
        return states[name][moment] if name in states else torch.zeros(shapes[name])

    return OptimizerState(max(int(s["step"]) for s in states.values()), _by_disk_name(model, load))


def _parameter_names(
    file: Path, groups: list[dict[str, Any]], shapes: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """Running names in the order of the groups: all in one, or matrices first and vectors after them."""
    if all("param_names" in group for group in groups):
        return [name for group in groups for name in group["param_names"]]
    if len(groups) == 1:
        return list(shapes)
    if len(groups) == 2:
        return [*(n for n, s in shapes.items() if len(s) >= 2), *(n for n, s in shapes.items() if len(s) < 2)]
    raise CheckpointError(
        f"{file} has {len(groups)} groups of parameters, and does not say which parameter is in which.\n"
        "  Try: an optimiser made from model.named_parameters(), whose state holds their names"
    )


# --- DeepSpeed ---------------------------------------------------------------------------------------------


def _read_universal(folder: Path, family: Family) -> OptimizerState:
    """A DeepSpeed universal checkpoint: zero/<running name>/exp_avg.pt; ZeRO-3 leaves tensors flat there."""
    model = skeleton(family)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}

    def load(name: str, moment: str) -> Tensor:
        file = folder / "zero" / name / f"{moment}.pt"
        if not file.is_file():
            _expect(folder, name, None, shapes[name])
        saved = load_pickle(file)
        tensor: Tensor = saved["param"] if isinstance(saved, dict) else saved
        if tensor.ndim == 1 and tensor.numel() == model.get_parameter(name).numel():
            tensor = tensor.reshape(shapes[name])
        _expect(file, name, tuple(tensor.shape), shapes[name])
        return tensor

    for name in shapes:
        for moment in MOMENTS:
            load(name, moment)  # mapped, not read
    return OptimizerState(_universal_step(folder, next(iter(shapes))), _by_disk_name(model, load))


def _universal_step(folder: Path, name: str) -> int:
    if (folder / "zero" / name / "step.pt").is_file():
        return int(load_pickle(folder / "zero" / name / "step.pt"))
    for file in sorted(folder.glob("*model_states.pt")):
        saved = load_pickle(file)
        return int(saved["global_steps"]) - int(saved["skipped_steps"])
    raise CheckpointError(
        f"{folder} does not say after how many steps it was saved.\n  Try: convert the checkpoint again"
    )


def _nothing_there(path: Path) -> CheckpointError:
    shards = sorted(path.rglob("*_optim_states.pt")) if path.is_dir() else []
    if shards:
        folder = shards[0].parent
        return CheckpointError(
            f"{path} is a DeepSpeed checkpoint, whose optimiser state lies in pieces, one per rank.\n"
            "  Try: join them with\n"
            "    python -m deepspeed.checkpoint.ds_to_universal --inject_missing_state "
            f"--input_folder {folder} --output_folder {folder}-universal\n"
            f"  and then small.optimizer_state={folder}-universal"
        )
    return CheckpointError(
        f"small.optimizer_state={path}: there is no optimiser state.\n"
        f"  Try: an {OPTIMIZER_FILE}, a torch optimizer.pt, or a DeepSpeed universal checkpoint folder"
    )


# --- both ----------------------------------------------------------------------------------------------------


def _by_disk_name(model: Any, load: ReadMoment) -> ReadMoment:
    """Read by name on disk what is there by name in the running model; joined experts come apart again."""
    names = {
        disk: running
        for running, parameter in model.named_parameters()
        for disk in as_on_disk(model, {running: parameter})
    }

    def read(name: str, moment: str) -> Tensor:
        running = names[name]
        return as_on_disk(model, {running: load(running, moment)})[name]

    return read


def _expect(where: Path, name: str, found: tuple[int, ...] | None, expected: tuple[int, ...]) -> None:
    if found == expected:
        return
    problem = "is missing" if found is None else f"is {found}, not {expected}"
    raise CheckpointError(
        f"the optimiser state in {where} is not that of the small model: {name} {problem}.\n"
        "  Try: the optimiser state of this very model"
    )
