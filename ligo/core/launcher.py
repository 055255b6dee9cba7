"""Ranks end with what started them: a launcher that is killed cannot tell them to stop. And they tell it how they ended.

The kernel kills a rank whose parent dies (prctl, Linux), and a thread looks whether the launcher above the parent is
still there: DeepSpeed's, say, starts another process that starts the ranks.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

_LAUNCHERS = (
    "torchrun", "torch.distributed.run", "deepspeed", "deepspeed.launcher.launch", "accelerate", "srun", "mpirun"
)  # fmt: skip
EXIT_CODE_FILE = "LIGO_EXIT_CODE_FILE"
"""Variable that names the file for `leave_exit_code`."""

_EVERY_S = 1.0
_PR_SET_PDEATHSIG = 1


def end_with_launcher() -> None:
    """Have this process killed when its launcher is gone; nothing happens where no launcher started it."""
    if "RANK" not in os.environ and "SLURM_PROCID" not in os.environ:
        return  # a single process may outlive the shell that it was started from
    above = {pid: _started(pid) for pid in _launchers_above()}
    end_with_parent()
    threading.Thread(target=_watch, args=(os.getppid(), above), daemon=True).start()


def end_with_parent() -> None:
    """Have this process killed when its parent dies (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def leave_exit_code(code: int) -> None:
    """Tell `ligo.launch` how this rank ends, which started it through a launcher that may not pass that on: torchrun ends
    with 1 whatever its ranks ended with. The first rank that ends badly is heard: it is why the others are stopped."""
    path = os.environ.get(EXIT_CODE_FILE)
    if path:
        with (
            suppress(OSError),
            open(path, "x", encoding="ascii") as file,
        ):  # no file of this node, or not the first
            file.write(str(code))


def _watch(parent: int, above: dict[int, str]) -> None:
    while os.getppid() == parent and all(_started(pid) == started for pid, started in above.items()):
        time.sleep(_EVERY_S)
    os.kill(os.getpid(), signal.SIGKILL)  # no cleaning up: checkpoints are whole at any instant


def _launchers_above() -> list[int]:
    """The processes above this one that are launchers, and its parent, whatever that is."""
    found, pid = list[int](), os.getppid()
    while pid > 1:
        if not found or _is_launcher(pid):
            found.append(pid)
        pid = int((_stat(pid) or "00")[1])
    return found


def _is_launcher(pid: int) -> bool:
    try:
        # the program and its script or module, without the arguments after them
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:4]
    except OSError:
        return False
    return any(word.rpartition("/")[2] in _LAUNCHERS for word in words)


def _started(pid: int) -> str:
    """When a process was started, in ticks since boot; empty when it is gone: numbers are used again."""
    stat = _stat(pid)
    return "" if not stat or stat[0] == "Z" else stat[19]


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on (proc(5)); empty where there is no such process or no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
