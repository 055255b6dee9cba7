"""Work on a stream by several processes, results in the order of the stream, only a few items in memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from ligo.core.errors import ResourceError

Item = TypeVar("Item")
Result = TypeVar("Result")
_AHEAD = 2  # items for each process: one that it works on, one that waits for it


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], num_workers: int
) -> Generator[tuple[Item, Result], None, None]:
    """Each item with its result. One worker means this process.

    Processes are forked, so that `function` need not be pickled and starts at once.

    Raises:
        ResourceError: a process was killed, most often for lack of memory.
    """
    if num_workers == 1:
        yield from ((item, function(item)) for item in items)
        return
    # a fork is announced by the tokenizers library unless it has been told what to do
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    with ProcessPoolExecutor(
        num_workers, multiprocessing.get_context("fork"), initializer=_start, initargs=(function,)
    ) as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(_work, item)))
                if len(waiting) >= _AHEAD * num_workers:
                    first, result = waiting.popleft()
                    yield first, result.result()
            for first, result in waiting:
                yield first, result.result()
        except BrokenProcessPool as error:
            raise ResourceError(
                f"one of {num_workers} processes that tokenise was killed, most often for lack of memory.\n"
                f"  Try: data.num_workers={num_workers // 2}; what is finished is kept"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_function: Callable[[Any], Any]


def _start(function: Callable[[Any], Any]) -> None:
    """What a new process does first."""
    global _function
    _function = function
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the threads of the tokenizer did not come along
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(item: Any) -> Any:
    return _function(item)
