"""The openai teacher against a small server that speaks chat completions, well and badly."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ligo.core.errors import ConfigError, Interrupted, LigoError
from ligo.instruction.config import TeacherConfig
from ligo.instruction.prompt import Request
from ligo.instruction.teachers.base import TEACHERS, Completion
from tests.conftest import REPO
from tests.instruction.recording import default_prompts

pytest.importorskip("openai")
PROMPTS = default_prompts()
Answer = tuple[int, dict[str, str], bytes]
SOON = {"retry-after-ms": "5"}


class Endpoint(ThreadingHTTPServer):
    """Answers each request by `script(body, number of tries so far)`."""

    daemon_threads = True

    def __init__(self, script: Callable[[dict[str, Any], int], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.seen = script, list[dict[str, Any]]()
        self.lock, self.at_once, self.most_at_once = threading.Lock(), 0, 0
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        body["path"], body["key"] = self.path, self.headers["authorization"]
        with server.lock:
            tries = sum(seen["messages"] == body["messages"] for seen in server.seen)
            server.seen.append(body)
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        status, headers, content = server.script(body, tries)
        with server.lock:
            server.at_once -= 1
        self.send_response(status)
        for name, value in {"content-type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def answer(text: str | None, finish: str = "stop", **changes: Any) -> Answer:
    body = {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "teacher",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    }
    return 200, {}, json.dumps({**body, **changes}).encode()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Endpoint]]:
    monkeypatch.setenv("TEACHER_KEY", "not-a-secret")
    running = []

    def start(script: Callable[[dict[str, Any], int], Answer]) -> Endpoint:
        endpoint = Endpoint(script)
        threading.Thread(target=endpoint.serve_forever, args=(0.01,), daemon=True).start()
        running.append(endpoint)
        return endpoint

    yield start
    for endpoint in running:
        endpoint.shutdown()
        endpoint.server_close()


def ask(endpoint: Endpoint, count: int, **config: Any) -> tuple[list[Completion], LigoError | None]:
    """The completions of requests 0 to count - 1, and what stopped them."""
    settings = {"model": "teacher", "base_url": endpoint.url, "key_variable": "TEACHER_KEY", "max_retries": 2}
    teacher = TEACHERS.get("openai")(TeacherConfig(**{**settings, **config}), 0)
    requests = iter(range(count))

    def next_request() -> Request | None:
        number = next(requests, None)
        return None if number is None else PROMPTS[number]

    arrived: list[Completion] = []
    try:
        for completion in teacher.complete(next_request):
            arrived.append(completion)
    except LigoError as error:
        return arrived, error
    return arrived, None


def test_prompts_go_out_and_completions_come_back(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(lambda body, tries: answer(body["messages"][0]["content"][-60:], "length"))
    arrived, error = ask(
        endpoint, 5, temperature=0.5, top_p=0.9, max_tokens=99, request={"seed": 3, "top_p": None}
    )
    assert error is None
    assert sorted(arrived, key=lambda completion: completion.request) == [
        Completion(n, PROMPTS[n].digest, PROMPTS[n].prompt[-60:], "length", 11, 7) for n in range(5)
    ]
    body = endpoint.seen[0]
    assert body["path"] == "/v1/chat/completions" and body["key"] == "Bearer not-a-secret"
    assert body["messages"] in [[{"role": "user", "content": PROMPTS[n].prompt}] for n in range(5)]
    assert (body["model"], body["temperature"], body["max_tokens"], body["seed"]) == ("teacher", 0.5, 99, 3)
    assert body["stop"] == ["### Task 21"] and "top_p" not in body


def test_as_many_at_once_as_asked_for(serve: Callable[..., Endpoint]) -> None:
    def slowly(body: dict[str, Any], tries: int) -> Answer:
        time.sleep(0.05)
        return answer("x")

    endpoint = serve(slowly)
    arrived, _ = ask(endpoint, 12, concurrency=4)
    assert len(arrived) == 12 and endpoint.most_at_once == 4


def test_busy_or_broken_for_a_while_is_tried_again(serve: Callable[..., Endpoint]) -> None:
    def script(body: dict[str, Any], tries: int) -> Answer:
        return [(429, SOON, b"{}"), (503, SOON, b"oops"), answer("at last")][min(tries, 2)]

    endpoint = serve(script)
    arrived, error = ask(endpoint, 3)
    assert error is None and [completion.text for completion in arrived] == ["at last"] * 3
    assert len(endpoint.seen) == 9


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502])
def test_broken_for_ever_stops_so_that_the_same_command_goes_on(
    serve: Callable[..., Endpoint], status: int
) -> None:
    bad = PROMPTS[1].prompt

    def script(body: dict[str, Any], tries: int) -> Answer:
        if body["messages"][0]["content"] == bad:
            return status, SOON, b'{"error": {"message": "down for repair"}}'
        time.sleep(0.1)
        return answer("fine")

    endpoint = serve(script)
    arrived, error = ask(endpoint, 50, concurrency=3)
    assert isinstance(error, Interrupted) and error.exit_code == 75
    assert "does not answer after 3 tries" in str(error) and "down for repair" in str(error)
    assert sum(seen["messages"][0]["content"] == bad for seen in endpoint.seen) == 3
    # what was under way is waited for and not lost, and nothing new is begun
    assert sorted(completion.request for completion in arrived) == [0, 2]


def test_an_endpoint_that_is_not_there_or_too_slow_stops_likewise(serve: Callable[..., Endpoint]) -> None:
    def sleeping(body: dict[str, Any], tries: int) -> Answer:
        time.sleep(0.5)
        return answer("too late")

    slow = serve(sleeping)
    _, error = ask(slow, 1, timeout=0.05, max_retries=0)
    assert isinstance(error, Interrupted) and "timed out" in str(error)
    slow.url = "http://127.0.0.1:9/v1"
    _, error = ask(slow, 1, max_retries=0)
    assert isinstance(error, Interrupted) and "Connection error" in str(error)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ((401, {}, b'{"error": {"message": "wrong key"}}'), "refuses the request: .*wrong key"),
        ((404, {}, b'{"error": {"message": "no such model"}}'), "refuses the request: .*no such model"),
        ((400, {}, b'{"error": {"message": "max_tokens is unsupported"}}'), "teacher.request=.KEY: null."),
        ((200, {"content-type": "text/html"}, b"<html>Welcome</html>"), "no chat completion: '<html>(.|\n)*/v1"),
        ((200, {}, b"{not json"), "no chat completion"),
        ((200, {}, b'{"choices": []}'), "no chat completion"),
        ((200, {}, b'["x"]'), "no chat completion"),
        ((200, {}, b"null"), "no chat completion"),
    ],
)  # fmt: skip
def test_what_no_retry_can_mend_is_refused(serve: Callable[..., Endpoint], reply: Answer, words: str) -> None:
    endpoint = serve(lambda body, tries: reply)
    arrived, error = ask(endpoint, 2, concurrency=1)
    assert isinstance(error, ConfigError) and arrived == []
    assert len(endpoint.seen) == 1
    with pytest.raises(ConfigError, match=words):
        raise error


def test_no_text_is_an_empty_completion_and_missing_counts_are_the_most_there_can_be(
    serve: Callable[..., Endpoint],
) -> None:
    endpoint = serve(lambda body, tries: answer(None, "content_filter", usage=None))
    (completion,), _ = ask(endpoint, 1)
    assert (completion.text, completion.finish, completion.completion_tokens) == ("", "content_filter", 0)
    assert completion.prompt_tokens == len(PROMPTS[0].prompt.encode())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model": None}, "needs the name of a model.\n  Try: teacher.model=NAME"),
        ({"key_variable": "NO_SUCH_KEY"}, r"\$NO_SUCH_KEY is not set"),
    ],
)
def test_what_is_missing_is_said(serve: Callable[..., Endpoint], config: dict[str, Any], words: str) -> None:
    endpoint = serve(lambda body, tries: answer("x"))
    with pytest.raises(ConfigError, match=words):
        ask(endpoint, 1, **config)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_stop_from_outside_does_not_wait_for_answers_and_loses_none_that_came(
    serve: Callable[..., Endpoint], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    def hanging(body: dict[str, Any], tries: int) -> Answer:
        if len(endpoint.seen) > 2:
            time.sleep(60)
        return answer(
            '{"instruction": "Name three old rivers.", "input": "", "output": "Nile, Indus, Tigris"}'
        )

    endpoint = serve(hanging)
    command = [
        *(sys.executable, "-m", "ligo.instruct", "teacher.model=teacher", f"teacher.base_url={endpoint.url}"),
        *("teacher.key_variable=TEACHER_KEY", "teacher.concurrency=2", f"run.dir={tmp_path}"),
    ]
    process = subprocess.Popen(
        command, cwd=REPO, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # tests in the background of a shell ignore Ctrl-C
    )  # fmt: skip
    completions = tmp_path / "completions.jsonl"
    while len(endpoint.seen) < 4 or completions.read_bytes().count(b"\n") < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, message = process.communicate(timeout=30)
    assert process.returncode == code
    assert "the same command goes on" in message and "Traceback" not in message
    assert (tmp_path / "STATUS").read_text() == "interrupted\n"
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["completions"] == 2 and summary["ended_by"] is None
    assert (tmp_path / "instructions.jsonl").read_text().count("\n") == 1
