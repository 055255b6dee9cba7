"""A grown checkpoint is written as it is made: the same bytes on any way there, and nothing is made twice."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ligo.checkpoint import shards as shards_module
from ligo.checkpoint.reader import Checkpoint
from ligo.checkpoint.writer import check_free_memory, write_weights
from ligo.core.errors import NumericsError, PlanError, ResourceError
from ligo.core.files import folder_resumed, unfinished_bytes, write_json
from ligo.growth.execute import TensorMaker, make_tensor, sources
from ligo.growth.noise import noise_deviation, noise_of
from ligo.growth.plan import GrowthPlan, plan_growth
from ligo.growth.write import GrowthWriter, growth_key
from ligo.operators.noise_level import NoiseLevel
from tests.conftest import random_model, tiny_config
from tests.contract import matrix
from tests.contract.matrix import FAMILIES
from tests.growing import lively_model, on_disk_weights, operator

REPO = Path(__file__).resolve().parents[2]
SHARD = 20_000


@pytest.fixture
def small(tmp_path: Path) -> Checkpoint:
    random_model(tiny_config(), dtype="float32").save_pretrained(tmp_path / "small")
    return Checkpoint.open(tmp_path / "small")


@pytest.fixture
def plan(small: Checkpoint) -> GrowthPlan:
    wider = {"hidden_size": 48, "num_layers": 3, "num_heads": 6, "num_kv_heads": 3, "ffn_size": 60}
    return plan_growth(small.config, wider, operator())


def writer(plan: GrowthPlan, small: Checkpoint, **options: Any) -> GrowthWriter:
    values = {"dtype": "float32", "noise": NoiseLevel(), "seed": 0, "num_workers": 2, **options}
    return GrowthWriter(plan, plan.maps, small.read, **values)


def key(plan: GrowthPlan, small: Checkpoint, **options: Any) -> str:
    values = {"dtype": "float32", "noise": NoiseLevel(), "seed": 0, "shard_bytes": SHARD, **options}
    return growth_key(plan, plan.maps, small, **values)


def write(plan: GrowthPlan, small: Checkpoint, final: Path, **options: Any) -> dict[str, Any]:
    with folder_resumed(final, key(plan, small, **options)) as (folder, record):
        return writer(plan, small, **options).write(folder, record, shard_bytes=SHARD)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def whole_tensor(
    plan: GrowthPlan, read: Any, name: str, dtype: torch.dtype, noise: NoiseLevel
) -> torch.Tensor:
    """One target tensor by the general path alone: the maps applied to whole tensors."""
    job = plan.job_of[name]
    source = sources(plan, plan.maps, lambda name: read(name).to(dtype))
    tensor = make_tensor(job, plan, plan.maps, source, seed=0, dtype=dtype).clone()
    added = noise_of(job, plan, plan.maps, deviation=noise_deviation(noise, job, plan, read), seed=0)
    if added is not None:
        added.add(tensor)
    return tensor.contiguous()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_the_files_are_those_of_whole_tensors_saved_by_safetensors(
    small: Checkpoint, plan: GrowthPlan, tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pieces and draws of a few rows each, so that tensors of this size have many
    monkeypatch.setattr("ligo.growth.noise._NUMBERS_PER_DRAW", 300)
    monkeypatch.setattr("ligo.growth.write._PIECE_BYTES", 2000)
    stored, compute = getattr(torch, dtype), torch.float64 if dtype == "float64" else torch.float32
    for shard_bytes in (SHARD, 10**9):
        expected = tmp_path / f"expected-{shard_bytes}"
        expected.mkdir()
        tensors = (
            (job.spec.name, whole_tensor(plan, small.read, job.spec.name, compute, NoiseLevel()).to(stored))
            for job in plan.jobs
        )
        old = write_weights(expected, tensors, shard_bytes=shard_bytes)
        for workers in (1, 4):
            final = tmp_path / f"grown-{shard_bytes}-{workers}"
            with folder_resumed(final, "key") as (folder, record):
                new = writer(plan, small, dtype=dtype, num_workers=workers).write(
                    folder, record, shard_bytes=shard_bytes
                )
            assert contents(final) == contents(expected)
            assert new == {**old, "reused_shards": 0}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("ratio", "width"), [("2x", "scaled_duplication"), ("uneven width", "lemon")])
def test_rows_are_those_of_the_whole_tensor(
    family: str, ratio: str, width: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ligo.growth.noise._NUMBERS_PER_DRAW", 300)
    plan = matrix.plan(family, ratio, width, "zero_block")
    if isinstance(plan, PlanError):
        return
    read = on_disk_weights(lively_model(plan.small)).__getitem__
    maker, by_rows = TensorMaker(plan, plan.maps, read, torch.float64, NoiseLevel(), 0), 0
    for job in plan.jobs:
        by_rows += maker.by_rows(job) is not None
        assert torch.equal(
            maker.make(job), whole_tensor(plan, read, job.spec.name, torch.float64, NoiseLevel())
        )
    assert by_rows > 0 or family.startswith("gpt2")  # whose matrices lie [in, out]


def test_stock_transformers_loads_it(small: Checkpoint, plan: GrowthPlan, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    write(plan, small, tmp_path / "grown")
    write_json(tmp_path / "grown" / "config.json", plan.target_config)
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "grown", output_loading_info=True)
    assert not any(info.values()), info
    name = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(
        model.state_dict()[name], whole_tensor(plan, small.read, name, torch.float32, NoiseLevel())
    )


# --- cut and gone on with ---------------------------------------------------------------------------------


class Counting:
    """Counts which files are begun, and fails in the middle of one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fail_at: int | None, error: BaseException) -> None:
        self.begun: list[str] = []
        real = shards_module.append_tensors

        def append(path: Path, entries: Any, pieces: Any, **options: Any) -> str:
            self.begun.append(path.name)
            if len(self.begun) - 1 == fail_at:
                path.write_bytes(b"half")
                raise error
            return real(path, entries, pieces, **options)

        monkeypatch.setattr(shards_module, "append_tensors", append)


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()], ids=["full disk", "interrupted"])
def test_a_cut_write_goes_on_and_makes_no_finished_file_again(
    small: Checkpoint, plan: GrowthPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    write(plan, small, tmp_path / "reference")
    final = tmp_path / "grown"
    with monkeypatch.context() as patch:
        cut = Counting(patch, 2, error)
        with pytest.raises(ResourceError if error is FULL else KeyboardInterrupt) as raised:
            write(plan, small, final)
    if error is FULL:
        assert "kept aside" in str(raised.value) and "the disk is full" in str(raised.value)
    assert not final.exists() and unfinished_bytes(final) > SHARD
    again = Counting(monkeypatch, None, error)
    report = write(plan, small, final)
    assert report["reused_shards"] == 2 and again.begun[0] == cut.begun[2]
    assert len(again.begun) == report["num_shards"] - 2 > 1
    assert contents(final) == contents(tmp_path / "reference")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grown", "reference", "small"]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"noise": NoiseLevel(0.5)},
        {"noise": NoiseLevel(unit="fresh")},
        {"dtype": "bfloat16"},
        {"plan": True},
        {"small": True},
    ],
)
def test_another_growth_takes_nothing_over(
    small: Checkpoint, plan: GrowthPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:  # fmt: skip
    final = tmp_path / "grown"
    with monkeypatch.context() as patch:
        Counting(patch, 2, FULL)
        with pytest.raises(ResourceError):
            write(plan, small, final)
    if change.pop("plan", False):
        plan = replace(
            plan, maps=replace(plan.maps, layers=replace(plan.maps.layers, identity_layers=frozenset()))
        )
    if change.pop("small", False):
        random_model(tiny_config(), dtype="float32", seed=5).save_pretrained(small.folder)
        small = Checkpoint.open(small.folder)
    assert write(plan, small, final, **change)["reused_shards"] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grown", "small"]


def test_a_damaged_finished_file_is_made_again(
    small: Checkpoint, plan: GrowthPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = tmp_path / "grown"
    write(plan, small, tmp_path / "reference")
    with monkeypatch.context() as patch:
        cut = Counting(patch, 2, FULL)
        with pytest.raises(ResourceError):
            write(plan, small, final)
    damaged = next(tmp_path.glob(".grown.unfinished-*")) / "grown" / cut.begun[0]
    content = bytearray(damaged.read_bytes())
    content[-5] ^= 1
    damaged.write_bytes(content)
    assert write(plan, small, final)["reused_shards"] == 1
    assert contents(final) == contents(tmp_path / "reference")


def test_a_killed_process_leaves_what_it_finished(
    small: Checkpoint, plan: GrowthPlan, tmp_path: Path
) -> None:
    program = f"""
        import os, signal, sys
        sys.path.insert(0, {str(REPO)!r})
        from pathlib import Path
        from ligo.checkpoint import shards
        from ligo.checkpoint.reader import Checkpoint
        from ligo.growth.plan import plan_growth
        from tests.growing import operator
        from tests.growth import test_write as t
        small, wanted = Checkpoint.open(Path({str(small.folder)!r})), {json.dumps(vars_of(plan))}
        real, begun = shards.append_tensors, []
        def append(path, entries, pieces, **options):
            def cut():
                for number, piece in enumerate(pieces):
                    if len(begun) == 3 and number == 1:
                        os.kill(os.getpid(), signal.SIGKILL)
                    yield piece
            begun.append(path)
            return real(path, entries, cut(), **options)
        shards.append_tensors = append
        t.write(plan_growth(small.config, wanted, operator()), small, Path({str(tmp_path / "grown")!r}))
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    died = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=REPO, env=environment, capture_output=True
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert not (tmp_path / "grown").exists()
    assert write(plan, small, tmp_path / "grown")["reused_shards"] == 2
    write(plan, small, tmp_path / "reference")
    assert contents(tmp_path / "grown") == contents(tmp_path / "reference")


def vars_of(plan: GrowthPlan) -> dict[str, int]:
    names = ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "ffn_size")
    return {name: getattr(plan.target.dims, name) for name in names}


def test_two_processes_do_not_write_the_same_folder(tmp_path: Path) -> None:
    with (
        folder_resumed(tmp_path / "grown", "key"),
        pytest.raises(ResourceError, match="another process is writing"),
        folder_resumed(tmp_path / "grown", "key"),
    ):
        pass


def test_a_tensor_that_is_not_finite_is_named(small: Checkpoint, plan: GrowthPlan, tmp_path: Path) -> None:
    def read(name: str) -> torch.Tensor:
        tensor = small.read(name).clone()
        if name == "model.layers.1.mlp.up_proj.weight":
            tensor[3, 3] = float("inf")
        return tensor

    with (
        pytest.raises(NumericsError, match=r"grown tensor model.layers.\d.mlp.up_proj.weight has values"),
        folder_resumed(tmp_path / "grown", "key") as (folder, record),
    ):
        replace(writer(plan, small), read=read).write(folder, record, shard_bytes=SHARD)
    assert not (tmp_path / "grown").exists()


def test_free_memory_is_asked_before_work() -> None:
    check_free_memory(1)
    with pytest.raises(ResourceError, match=r"needs 1048576.0 TiB of memory, but [\d.]+ [KMGT]iB are free"):
        check_free_memory(2**60)


def test_memory_knows_no_size_of_the_model(tmp_path: Path) -> None:
    """110 MB are grown to 400 MB in float32 in a process that may hold 3 jobs beside its libraries."""
    program = f"""
        import sys
        sys.path.insert(0, {str(REPO)!r})
        from pathlib import Path
        import torch
        from ligo.checkpoint.shards import lay_out, write_shards
        from ligo.core.files import folder_resumed
        from ligo.growth.plan import plan_growth
        from ligo.growth.write import GrowthWriter
        from ligo.operators.noise_level import NoiseLevel
        from tests.conftest import tiny_config
        from tests.growing import operator
        torch.set_num_threads(1)
        sizes = dict(hidden_size=512, num_attention_heads=8, num_key_value_heads=8, intermediate_size=1376,
                     num_hidden_layers=8, vocab_size=2000, head_dim=64)
        plan = plan_growth(tiny_config(**sizes), dict(hidden_size=1024, num_layers=8, num_heads=16,
                           num_kv_heads=16, ffn_size=2752), operator())
        def read(name):
            return torch.full(plan.small.by_name[name].shape(plan.small.spaces), 0.01)
        writer = GrowthWriter(plan, plan.maps, read, "float32", NoiseLevel(), 0, 2)
        read("lm_head.weight") @ torch.ones(512)  # the libraries are there
        def peak():  # not ru_maxrss, which begins at what the parent process holds
            status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
            return int(status.split()[0]) * 1024
        before = peak()
        with folder_resumed(Path({str(tmp_path / "grown")!r}), "key") as (folder, record):
            done = writer.write(folder, record, shard_bytes=10**8)
        print(peak() - before, peak(), writer.peak_bytes, done["num_bytes"])
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=REPO, env=environment, capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    grew, peak, bound, written = map(int, done.stdout.split()[-4:])
    assert written > 3.5e8
    assert grew < 2.5e8 < written, grew  # pieces in flight, and nothing that adds up
    assert peak <= bound, (peak, bound)
