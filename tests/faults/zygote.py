"""Ranks that start at once: this process has imported torch and DeepSpeed, and forks the ranks of every trial.

It has one thread, and never starts a process group or an engine itself, so that a fork of it is as good as a start.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from ligo.core import distributed
from ligo.core.errors import LigoError
from ligo.training.deepspeed_engine import import_deepspeed
from ligo.training.models import fresh_model
from tests.conftest import tiny_config

torch.set_num_threads(1)
import_deepspeed()
importlib.import_module(
    "deepspeed.runtime.zero.muon.original_muon"
)  # what `initialize` would import: seconds
fresh_model(tiny_config(), 0)

_PATIENCE_S, _GRACE_S = 120.0, 20.0


def run_ranks(job: Callable[[], None], ranks: int, log: Path, kill_after: float | None = None) -> list[int]:
    """Run `job` in forked ranks; their exit codes, or -9 for those killed.

    Args:
        log: gets what they print.
        kill_after: seconds after which all of them are killed with SIGKILL.
    """
    port, pids = _free_port(), list[int]()
    sys.stdout.flush()
    for rank in range(ranks):
        pid = os.fork()
        if pid == 0:
            _be_rank(job, rank, ranks, port, log)
        os.setpgid(pid, pids[0] if pids else pid)
        pids.append(pid)
    deadline = time.monotonic() + (kill_after if kill_after is not None else _PATIENCE_S)
    codes: dict[int, int] = {}
    while len(codes) < ranks:
        for pid in pids:
            if pid not in codes and (done := os.waitpid(pid, os.WNOHANG))[0]:
                codes[pid] = os.waitstatus_to_exitcode(done[1])
        if any(codes.values()):  # the others should end too, by themselves
            deadline = min(deadline, time.monotonic() + _GRACE_S)
        if time.monotonic() > deadline:
            for pid in pids:
                if pid not in codes:
                    os.kill(pid, signal.SIGKILL)
                    codes[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        time.sleep(0.002)
    return [codes[pid] for pid in pids]


def _be_rank(job: Callable[[], None], rank: int, ranks: int, port: int, log: Path) -> None:
    code = 1
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks),
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        )  # fmt: skip
        distributed.start()
        job()
        distributed.barrier()  # the store that others may still ask ends with rank 0
        code = 0
    except LigoError as error:
        print(f"rank {rank}: {type(error).__name__}: {error}")
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)  # nothing of the parent's is to be cleaned up here


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
