"""A teacher behind an endpoint that speaks OpenAI's chat completions: OpenAI itself, vLLM, llama.cpp and others."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from typing import Any

from ligo.core.errors import EXIT_PREEMPTED, ConfigError, Interrupted, require
from ligo.instruction.config import TeacherConfig
from ligo.instruction.prompt import Request
from ligo.instruction.teachers.base import TEACHERS, Completion


@TEACHERS.register("openai")
class OpenAITeacher:
    """Retries, backoff with jitter, and the waits that a server asks for are the openai client's own."""

    def __init__(self, config: TeacherConfig, seed: int) -> None:
        self._openai = require("openai", extra="instruct", why="teacher=openai")
        if not config.model:
            raise ConfigError("teacher=openai needs the name of a model.\n  Try: teacher.model=NAME")
        key = os.environ.get(config.key_variable)
        if not key:
            raise ConfigError(
                f"teacher=openai reads its key from the environment, and ${config.key_variable} is not set.\n"
                f"  Try: export {config.key_variable}=..., or any word where the endpoint asks for no key"
            )
        self._config = config
        self._settings = {
            "api_key": key,
            "base_url": config.base_url,
            "max_retries": config.max_retries,
            "timeout": config.timeout,
        }

    def complete(self, next_request: Callable[[], Request | None]) -> Iterator[Completion]:
        client = self._openai.AsyncOpenAI(**self._settings)

        def next_question() -> Coroutine[Any, Any, Completion] | None:
            request = next_request()
            return None if request is None else self._ask(client, request)

        with background_loop(client.close) as loop:
            yield from as_they_arrive(loop, next_question, self._config.concurrency)

    async def _ask(self, client: Any, request: Request) -> Completion:
        config, openai = self._config, self._openai
        body = {
            "max_tokens": config.max_tokens,
            "temperature": config.temperature,
            "top_p": config.top_p,
            **({"stop": request.stop} if request.stop else {}),
            **config.request,
        }
        try:
            answer = await client.chat.completions.create(
                model=config.model,
                messages=[{"role": "user", "content": request.prompt}],
                extra_body={key: value for key, value in body.items() if value is not None},
            )
        except (
            openai.APIConnectionError,
            openai.RateLimitError,
            openai.InternalServerError,
            openai.ConflictError,
        ) as error:
            raise self._unavailable(error) from error
        except openai.APIStatusError as error:
            if error.status_code == 408:
                raise self._unavailable(error) from error
            raise ConfigError(
                f"the endpoint refuses the request: {_words(error)}.\n"
                "  Try: another teacher.model, teacher.base_url or key; teacher.request={KEY: null} leaves a key out"
            ) from error
        except (openai.APIError, ValueError) as error:
            raise self._no_completion(_words(error)) from error
        return self._completion(request, answer)

    def _completion(self, request: Request, answer: Any) -> Completion:
        try:
            choice, usage = answer.choices[0], answer.usage
            text, finish = choice.message.content or "", choice.finish_reason or "stop"
        except (AttributeError, IndexError, TypeError) as error:  # the client does not check what it is sent
            raise self._no_completion(str(answer)) from error
        return Completion(
            request=request.number,
            prompt=request.digest,
            text=str(text),
            finish=str(finish),
            # an endpoint that does not count is charged the most that it can have been: a token has a byte or more
            prompt_tokens=usage.prompt_tokens if usage else len(request.prompt.encode()),
            completion_tokens=usage.completion_tokens if usage else len(str(text).encode(errors="replace")),
        )

    def _unavailable(self, error: Exception) -> Interrupted:
        return Interrupted(
            f"the endpoint does not answer after {1 + self._config.max_retries} tries: {_words(error)}.\n"
            "  What has arrived is kept.\n  Try: the same command, later",
            EXIT_PREEMPTED,
        )

    def _no_completion(self, words: str) -> ConfigError:
        where = self._config.base_url or "the endpoint"
        return ConfigError(
            f"{where} answers with something that is no chat completion: {words[:80]!r}.\n"
            "  Try: teacher.base_url=ADDRESS, which mostly ends in /v1"
        )


@contextmanager
def background_loop(
    at_end: Callable[[], Coroutine[Any, Any, None]],
) -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in a thread of its own; what still runs at the end is cancelled, then `at_end` is run.

    So the handlers of signals, which Python runs in the main thread, never raise in the middle of a request, where
    the client might take it for a failure of the connection.
    """

    async def end() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await at_end()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def as_they_arrive(
    loop: asyncio.AbstractEventLoop,
    next_coroutine: Callable[[], Coroutine[Any, Any, Completion] | None],
    at_once: int,
) -> Iterator[Completion]:
    """Run coroutines, at most `at_once` at a time, and yield their results as they end.

    After a failure nothing new is begun; what is under way is waited for and yielded before the failure is raised.
    """
    running: set[Future[Completion]] = set()
    failure: BaseException | None = None
    while True:
        while failure is None and len(running) < at_once and (coroutine := next_coroutine()) is not None:
            running.add(asyncio.run_coroutine_threadsafe(coroutine, loop))
        if not running:
            break
        ended, running = wait(running, return_when=FIRST_COMPLETED)
        for future in ended:
            if (error := future.exception()) is None:
                yield future.result()
            else:
                failure = failure or error
    if failure is not None:
        raise failure


def _words(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300].rstrip(".")
