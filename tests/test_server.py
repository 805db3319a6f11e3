"""Models behind an OpenAI-compatible server: a real one, ``transformers serve`` with SmolLM2, and a line that fails."""

from __future__ import annotations

import http.client
import http.server
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ppo_codet5.helpers.models import (
    CachedGenerator,
    Completion,
    ModelError,
    Request,
    check_model,
    load_generator,
    render_chat,
)
from ppo_codet5.helpers.models.server import ServerGenerator, parse
from ppo_codet5.helpers.runs import RunError, read_rows
from scripted import Rewriter, small

from ppo_codet5.core import Parts, PPOCodeT5Trainer

SECRET = "sk-0123456789-of-nobody"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Served:
    """``transformers serve`` in a process that can be killed and started again on the same port."""

    def __init__(self, model: Path) -> None:
        self.model, self.port = model, free_port()
        self.start()

    def start(self, wait: bool = True) -> None:
        line = [Path(sys.executable).with_name("transformers"), "serve", self.model, "--port", str(self.port)]
        line += ["--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1"]
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([str(part) for part in line], env=env, **quiet)
        if wait:
            end = time.monotonic() + 120
            while not self.up() and time.monotonic() < end:
                assert self.process.poll() is None
                time.sleep(0.2)

    def up(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2):
                return True
        except OSError:
            return False

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def served(smollm2_dir: Path) -> Iterator[Served]:
    served = Served(smollm2_dir)
    yield served
    served.kill()


class Line(http.server.ThreadingHTTPServer):
    """Passes requests on to the server, or does with one what ``faults`` says next."""

    daemon_threads = True

    def __init__(self, upstream: int) -> None:
        super().__init__(("127.0.0.1", 0), Call)
        self.upstream, self.faults, self.heard = upstream, deque[str](), list[dict[str, Any]]()
        self.passed, self.keys = Counter[tuple[Any, Any]](), set[str]()
        self.die: Callable[[], None] = lambda: None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *_: object) -> None:
        """Clients that went away are part of the test."""


class Call(http.server.BaseHTTPRequestHandler):
    server: Line
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        asked = json.loads(body)
        self.server.heard.append({"path": self.path, **asked})
        self.server.keys.add(self.headers.get("Authorization", ""))
        fault = self.server.faults.popleft() if self.server.faults else ""
        if fault == "drop":
            self.close_connection = True
            return self.connection.close()
        if fault == "slow":
            time.sleep(15)
        if fault.isdecimal():
            headers = {"Retry-After": "1"} if fault == "429" else {}
            return self.answer(int(fault), b'{"error": {"message": "as the test wants it"}}', **headers)
        if fault == "die":  # while it writes
            threading.Timer(0.1, self.server.die).start()
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=120)
        try:
            upstream.request("POST", self.path, body, {"Content-Type": "application/json"})
            reply = upstream.getresponse()
            data = reply.read()
        except (OSError, http.client.HTTPException):
            return self.answer(502, b"{}")
        self.server.passed[str(asked.get("prompt") or asked.get("messages")), asked.get("seed")] += reply.status == 200
        if fault == "cut":  # the length is that of the whole reply
            self.answer(reply.status, data, send=len(data) // 2)
            self.close_connection = True
        elif fault == "half":  # a reply that ends early and says so
            self.answer(reply.status, data[: len(data) // 2])
        else:
            self.answer(reply.status, data)

    def answer(self, status: int, data: bytes, send: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data[:send])


@pytest.fixture
def line(served: Served) -> Iterator[Line]:
    line = Line(served.port)
    yield line
    line.shutdown()
    line.server_close()


@pytest.fixture
def generator(served: Served, line: Line) -> ServerGenerator:
    return ServerGenerator(f"openai:{served.model}@{line.url}", concurrency=2, patience=60, read_seconds=60)


def request(number: int, **changes: Any) -> Request:
    prompt = f'"""\nWrite a Python function to add {number} to a number.\n"""\n'
    given = {"prefix": "def add(", "max_new_tokens": 12, "temperature": 0.0, "stop": "function", **changes}
    return Request(prompt, seed=number, **given)


def test_the_name_is_read_and_a_wrong_one_refused() -> None:
    assert parse("openai:owner/name@http://host:8000/v1/") == ("owner/name", "http://host:8000/v1")
    assert parse("openai:a@b@https://host/v1") == ("a@b", "https://host/v1")
    for name in ("openai:name", "openai:@http://host/v1", "openai:name@host:8000/v1"):
        with pytest.raises(ModelError, match=r"must have the form openai:NAME@http.* give it again: --set"):
            check_model(name)
    with pytest.raises(RunError, match=r"generation_cache = None .*: a server cannot repeat its replies"):
        PPOCodeT5Trainer(small(code_model="openai:x@http://127.0.0.1:1/v1"))


class Canned(http.server.ThreadingHTTPServer):
    """Answers with status 200 and what the test gives, the last of it for ever."""

    daemon_threads = True

    def __init__(self, *replies: Any) -> None:
        super().__init__(("127.0.0.1", 0), CannedCall)
        self.replies, self.heard = deque(replies), list[dict[str, Any]]()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class CannedCall(http.server.BaseHTTPRequestHandler):
    server: Canned
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_POST(self) -> None:
        self.server.heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        replies = self.server.replies
        reply = replies.popleft() if len(replies) > 1 else replies[0]
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def canned() -> Iterator[Callable[..., ServerGenerator]]:
    """A generator whose server gives these replies; its name is no model's, so there is no tokenizer of it."""
    servers = []

    def make(*replies: Any, patience: float = 60, model: str = "no-such-model") -> ServerGenerator:
        servers.append(Canned(*replies))
        generator = ServerGenerator(f"openai:{model}@{servers[-1].url}", concurrency=1, patience=patience)
        generator.heard = servers[-1].heard  # type: ignore[attr-defined]
        return generator

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


CHAT = Request((("user", "Write a sum."),), 1, max_new_tokens=9, stop="none")
PLAIN = Request("# a sum\n", 1, prefix="def add(", max_new_tokens=9, stop="none")
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def chat(content: Any, reason: str | None = "stop", usage: Any = USAGE, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **more}
    return {"choices": [{"index": 0, "finish_reason": reason, "message": message}], "usage": usage}


def plain(text: Any, reason: str | None = "stop", usage: Any = USAGE) -> dict[str, Any]:
    return {"choices": [{"index": 0, "finish_reason": reason, "text": text}], "usage": usage}


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (chat("a sum"), "a sum"),
        (chat([{"type": "text", "text": "a "}, {"type": "text", "text": "sum"}]), "a sum"),
        (chat([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a sum"}]), "a sum"),
        (chat(["a ", "sum"]), "a sum"),
        (chat([]), ""),
        (chat(None), ""),
        (chat(None, refusal="I had rather not."), ""),
        (chat(None, "content_filter"), ""),
        (chat("a \ud83d sum \ud83d\ude00"), "a \ufffd sum \U0001f600"),  # half a pair, and a whole one
    ],
)
def test_what_a_chat_says_is_read_in_every_form(canned: Callable[..., ServerGenerator], reply: Any, text: str) -> None:
    generator = canned(reply)
    assert generator.generate([CHAT]) == [Completion(text, 3, 2, "stop")]
    assert generator.stats.replies == 1 and generator.stats.retries == generator.stats.uncounted == 0


def test_a_completion_without_a_text_has_ended_at_once(canned: Callable[..., ServerGenerator]) -> None:
    assert canned(plain(None)).generate([PLAIN]) == [Completion("def add(", 3, 2, "stop")]
    assert canned(plain(None, "length")).generate([PLAIN])[0].finish_reason == "length"


def test_a_server_that_stopped_inside_a_string_is_asked_to_go_on(canned: Callable[..., ServerGenerator]) -> None:
    """A fence in a docstring does not end a block; nor does ``print`` while a helper is still to come."""
    fenced = replace(PLAIN, prefix="```python\ndef add(", stop="function", max_new_tokens=9)
    first, rest = 'a, b):\n    """As\n', '    ```\n    """\n    return a + b\n```'
    generator = canned(plain(first), plain(rest))
    assert generator.generate([fenced]) == [Completion(fenced.prefix + first + rest, 3, 4, "stop")]
    heard = generator.heard  # type: ignore[attr-defined]
    assert heard[0]["stop"] == ["\n```"] and "stop" not in heard[1]
    assert heard[1]["prompt"] == heard[0]["prompt"] + first and heard[1]["max_tokens"] == 7
    bare = replace(PLAIN, stop="function", max_new_tokens=9)
    generator = canned(
        plain("a, b):\n    return plus(a, b)\n"), plain("print(1)\ndef plus(a, b): return a + b\nprint(2)")
    )
    assert generator.generate([bare])[0].text.endswith("def plus(a, b): return a + b\n")
    whole = canned(plain("a, b):\n    return a + b\n"))
    assert whole.generate([bare])[0].completion_tokens == 2 and len(whole.heard) == 1  # type: ignore[attr-defined]


def test_reasoning_alone_is_an_empty_reply_and_is_said_once(
    canned: Callable[..., ServerGenerator], capsys: pytest.CaptureFixture[str]
) -> None:
    generator = canned(chat(None, "length", reasoning_content="Let me see, a sum is"))
    both = generator.generate([CHAT, replace(CHAT, seed=2)])
    assert both == [Completion("", 3, 2, "length")] * 2
    assert capsys.readouterr().out.count("reasoning only") == 1


@pytest.mark.parametrize(("tokens", "reason"), [(2, "stop"), (8, "stop"), (9, "length"), (12, "length")])
def test_without_a_reason_the_tokens_tell_how_it_ended(
    canned: Callable[..., ServerGenerator], tokens: int, reason: str
) -> None:
    usage = {**USAGE, "completion_tokens": tokens}
    for request, reply in ((CHAT, chat("a sum", None, usage)), (PLAIN, plain("a, b):", None, usage))):
        assert canned(reply).generate([request])[0].finish_reason == reason


@pytest.mark.parametrize("usage", [None, {}, {"total_tokens": 5}, "many"])
def test_tokens_that_nobody_counts_are_estimated_and_that_is_said_once(
    canned: Callable[..., ServerGenerator], capsys: pytest.CaptureFixture[str], usage: Any
) -> None:
    generator = canned(plain("a, b): return a + b", usage=usage))
    first, second = generator.generate([PLAIN, replace(PLAIN, seed=2)])
    assert (first.prompt_tokens, first.completion_tokens) == (4, 5)  # of 16 and 19 characters
    assert first == second and generator.stats.uncounted == 2 and generator.stats.completion_tokens == 10
    assert capsys.readouterr().out.count("one for 4 characters, an estimate") == 1
    generator = canned(chat("a sum", usage={"completion_tokens": 7}))
    (only,) = generator.generate([CHAT])
    assert (only.prompt_tokens, only.completion_tokens, generator.stats.uncounted) == (3, 7, 1)


def test_tokens_are_counted_by_the_models_tokenizer_where_it_is_there(
    canned: Callable[..., ServerGenerator], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from tiny import CHAT_TEMPLATE, tokenizer

    words = tokenizer("llama")
    words.chat_template = CHAT_TEMPLATE
    words.save_pretrained(tmp_path)
    generator = canned(chat("a sum of them", usage=None), model=str(tmp_path))
    (only,) = generator.generate([CHAT])
    rendered = render_chat(words, CHAT.prompt, "tiny")
    assert only.completion_tokens == len(words("a sum of them").input_ids)
    assert only.prompt_tokens == len(words(rendered).input_ids) > len(words("Write a sum.").input_ids)
    assert "counted by the tokenizer of" in capsys.readouterr().out


WORDS = "the engine is out of cards"


@pytest.mark.parametrize(
    "error",
    [
        {"error": {"message": WORDS, "code": 429}},
        {"error": {"message": WORDS, "code": "503", "type": "server_error"}},
        {"error": {"message": WORDS}},
        {"error": WORDS},
        {"error": {"message": WORDS, "code": None, "type": "overloaded_error"}},
        {"object": "error", "message": WORDS, "code": 500},
        {"choices": [{"index": 0, "finish_reason": "error", "error": {"code": 502, "message": WORDS}}]},
        {"choices": [], "detail": WORDS},
        {"choices": None, "detail": WORDS},
        {"choices": [None], "detail": WORDS},
        {"choices": [{"index": 0}], "detail": WORDS},
        {"choices": [{"index": 0, "text": None, "finish_reason": None}], "detail": WORDS},
        {"detail": WORDS},
        WORDS,
        None,
    ],
)
def test_what_may_pass_is_asked_again_and_named_in_the_end(
    canned: Callable[..., ServerGenerator], error: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: 0.02)
    for request, reply in ((CHAT, chat("a sum")), (PLAIN, plain("a, b):"))):
        generator = canned(error, error, reply)
        assert generator.generate([request])[0].text in ("a sum", "def add(a, b):")
        assert generator.stats.retries == 2
    generator = canned(error, patience=0.1)
    with pytest.raises(ModelError, match=r"gave no reply that can be used for 0 s .*see the server's log") as refused:
        generator.generate([CHAT])
    assert error is None or WORDS in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "error",
    [
        {"error": {"message": WORDS, "code": 400}},
        {"error": {"message": WORDS, "code": "context_length_exceeded", "type": "invalid_request_error"}},
        {"error": {"message": WORDS, "type": "invalid_request_error", "param": None, "code": None}},
        {"object": "error", "message": WORDS, "type": "NotFoundError", "code": 404},
        {"choices": [{"index": 0, "finish_reason": "error", "error": {"code": 403, "message": WORDS}}]},
    ],
)
def test_an_error_of_status_200_that_will_not_pass_is_refused_in_the_servers_words(
    canned: Callable[..., ServerGenerator], error: Any
) -> None:
    generator = canned(error)
    with pytest.raises(ModelError, match=f"refused with an error in its reply .{WORDS}.: see the server's log"):
        generator.generate([CHAT])
    assert len(generator.heard) == 1  # type: ignore[attr-defined]


def test_half_a_character_in_a_prompt_is_sent_as_a_mark(canned: Callable[..., ServerGenerator], tmp_path: Path) -> None:
    generator = canned(plain("\udc80"))
    broken = replace(PLAIN, prompt="# a \ud800 sum\n", prefix="\udfffdef add(")
    cached = CachedGenerator(generator, tmp_path)
    first = cached.generate([broken])
    assert first[0].text == "\ufffddef add(\ufffd" and cached.generate([broken]) == first
    assert [heard["prompt"] for heard in generator.heard] == ["# a \ufffd sum\n\ufffddef add("]  # type: ignore[attr-defined]
    generator = canned(chat("a sum"))
    generator.generate([replace(CHAT, prompt=(("user", "a \ud800"),))])
    assert generator.heard[0]["messages"] == [{"role": "user", "content": "a \ufffd"}]  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_server_writes_what_the_model_in_this_process_writes(
    generator: ServerGenerator, served: Served, line: Line
) -> None:
    """Greedy, so that both must agree: plain prompts, and chats with and without a forced start."""
    chat = (("user", "Write a Python function that returns the sum of a list."),)
    plain = [request(n, max_new_tokens=24) for n in range(3)]
    forced = replace(request(7, max_new_tokens=24), prompt=chat, prefix="```python\ndef total(")
    free = replace(request(8, max_new_tokens=24), prompt=chat, prefix="", stop="none")
    fenced = replace(free, seed=9, max_new_tokens=60, stop="function")  # its first fence opens the program
    requests = [*plain, forced, free, fenced]
    ours = load_generator(str(served.model), dtype="float32").generate(requests)
    calls: list[int] = []
    theirs = generator.generate(requests, lambda place, completion: calls.append(place))
    assert [c.text for c in theirs] == [c.text for c in ours]
    assert [c.finish_reason for c in theirs] == [c.finish_reason for c in ours]
    assert [c.prompt_tokens for c in theirs] == [c.prompt_tokens for c in ours]
    assert "```python\ndef " in theirs[5].text  # its first fence did not end it
    assert sorted(calls) == list(range(6)) and all(0 < c.completion_tokens <= 60 for c in theirs)
    paths = {str(heard.get("prompt") or heard["messages"])[:20]: heard["path"] for heard in line.heard}
    assert sorted(paths.values()).count("/v1/chat/completions") == 1  # that chat, asked twice
    assert {heard["seed"] for heard in line.heard} == {0, 1, 2, 7, 8, 9}
    assert generator.stats.completion_tokens == sum(c.completion_tokens for c in theirs)
    assert generator.stats.prompt_tokens == sum(c.prompt_tokens for c in theirs)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["429", "500", "503", "drop", "cut", "half", "slow"])
def test_a_failing_line_changes_nothing(fault: str, served: Served, line: Line) -> None:
    generator = ServerGenerator(f"openai:{served.model}@{line.url}", concurrency=2, patience=120, read_seconds=12)
    requests = [request(n) for n in range(4)]
    expected = generator.generate(requests)
    line.faults.extend([fault, "", fault])
    before, began = generator.stats.retries, time.monotonic()
    assert generator.generate(requests) == expected
    assert generator.stats.retries - before >= 2 and not line.faults
    if fault == "429":
        assert time.monotonic() - began >= 1  # Retry-After


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "advice"),
    [("401", "set OPENAI_API_KEY"), ("404", "have /v1/completions, which forced reply starts need"), ("400", "log")],
)
def test_what_asking_again_will_not_change_is_refused_at_once(
    status: str, advice: str, generator: ServerGenerator, line: Line
) -> None:
    line.faults.append(status)
    with pytest.raises(ModelError, match=f"refused with HTTP {status} .*as the test wants it.*{advice}"):
        generator.generate([request(1)])
    assert len(line.heard) == 1


@pytest.mark.slow
def test_those_that_were_answered_are_kept_when_one_is_refused(
    generator: ServerGenerator, line: Line, tmp_path: Path
) -> None:
    cached = CachedGenerator(generator, tmp_path)
    line.faults.extend(["", "400"])
    kept: dict[int, Completion] = {}
    with pytest.raises(ModelError, match="HTTP 400"):
        cached.generate([request(n) for n in range(4)], kept.__setitem__)
    count = sum(line.passed.values())
    assert len(kept) == count >= 1
    assert len(cached.generate([request(n) for n in range(4)])) == 4
    assert set(line.passed.values()) == {1}  # none was generated twice


def test_a_key_that_no_header_may_hold_is_refused_and_its_blanks_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The HTTP library would quote it in its error, and that goes into logs and notebooks."""
    monkeypatch.setenv("OPENAI_API_KEY", f" {SECRET}\n")
    assert ServerGenerator("openai:x@http://127.0.0.1:1/v1")._client.api_key == SECRET
    for key in (f"{SECRET}\n{SECRET}", f"{SECRET}é"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(ModelError, match="OPENAI_API_KEY in the environment has characters") as refused:
            ServerGenerator("openai:x@http://127.0.0.1:1/v1")
        assert SECRET not in str(refused.value)


@pytest.mark.slow
def test_a_server_that_is_down_is_waited_for_and_then_named(served: Served) -> None:
    name, port = f"openai:{served.model}@http://127.0.0.1:", free_port()
    impatient = ServerGenerator(f"{name}{port}/v1", patience=2)
    began = time.monotonic()
    with pytest.raises(ModelError, match=rf"127.0.0.1:{port}/v1 did not answer for 2 s .*start the server") as refused:
        impatient.generate([request(1), request(2)])
    assert time.monotonic() - began < 15 and SECRET not in str(refused.value)
    patient, late = ServerGenerator(f"{name}{port}/v1", patience=60), list[Line]()

    def start() -> None:
        line = Line.__new__(Line)
        http.server.ThreadingHTTPServer.__init__(line, ("127.0.0.1", port), Call)
        line.upstream, line.faults, line.heard, line.passed, line.keys = served.port, deque(), [], Counter(), set()
        line.die = lambda: None
        late.append(line)
        threading.Thread(target=line.serve_forever, daemon=True).start()

    timer = threading.Timer(2, start)
    timer.start()
    assert patient.generate([request(1)])[0].text.startswith("def add(")
    assert patient.stats.retries > 0
    late[0].shutdown()
    late[0].server_close()


@pytest.mark.slow
def test_ctrl_c_does_not_wait_for_a_server_that_is_away(served: Served) -> None:
    generator = ServerGenerator(f"openai:{served.model}@http://127.0.0.1:{free_port()}/v1", patience=300)
    timer = threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            generator.generate([request(n) for n in range(4)])
    finally:
        timer.cancel()
    assert time.monotonic() - began < 30


@pytest.mark.slow
def test_a_killed_run_sends_no_request_again_that_was_answered(served: Served, line: Line, tmp_path: Path) -> None:
    """Killed at random moments; what was under way at a kill may have been generated for nothing, two calls each."""
    script = f"""
        import sys
        from killable import scripted_parts
        from ppo_codet5.core import Parts, PPOCodeT5Trainer
        from ppo_codet5.helpers.models import CachedGenerator
        from ppo_codet5.helpers.models import load_generator
        from scripted import Rewriter, small
        name = "openai:{served.model}@{line.url}"
        config = small(code_model=name, generation_cache="cache", max_new_tokens=8, batch_size=2, max_steps=2)
        with scripted_parts() as parts:
            code = CachedGenerator(load_generator(name, batch_size=2), "cache")
            mine = Parts(code, Rewriter(), parts.lexicon, parts.embedder, parts.sandbox)
            PPOCodeT5Trainer(config, parts=mine).train("run")
    """
    root = Path(__file__).resolve().parent
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root.parent), str(root)]), "HF_HUB_OFFLINE": "1"}
    command, draw, kills = [sys.executable, "-c", textwrap.dedent(script)], random.Random(1), 0
    while True:
        process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL)
        heard, moment = len(line.heard), draw.randint(2, 6)
        while process.poll() is None and (kills == 3 or len(line.heard) < heard + moment):
            time.sleep(0.05)
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        kills += 1
    assert process.returncode == 0 and kills == 3
    rows = read_rows(tmp_path / "run" / "attempts.jsonl")
    seen = Counter((r["phase"], r["strategy"], r["task_id"], r["visit"], r["attempt"]) for r in rows)
    assert set(seen.values()) == {1} and (tmp_path / "run" / "summary.json").exists()
    assert sum(count - 1 for count in line.passed.values()) <= 2 * kills


@pytest.mark.slow
def test_a_run_goes_on_when_the_server_dies_and_comes_back_elsewhere_or_not(
    served: Served, line: Line, parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every attempt is there once, and no request was generated twice."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    name = f"openai:{served.model}@{line.url}"
    config = small(
        code_model=name, generation_cache=str(tmp_path / "cache"), max_new_tokens=8, batch_size=2, max_steps=2
    )

    answers = []

    def train(config: Any, report: Callable[[str], None]) -> dict[str, Any]:
        code = CachedGenerator(load_generator(config.code_model, batch_size=2), tmp_path / "cache")
        answers.append(code.inner)
        mine = Parts(code, Rewriter(), parts.lexicon, parts.embedder, parts.sandbox)
        return PPOCodeT5Trainer(config, parts=mine).train(tmp_path / "run", report=report)

    deaths = []

    def die() -> None:
        deaths.append(line.heard[-1])
        served.kill()
        time.sleep(1)
        served.start(wait=False)

    def fall(line_of_text: str) -> None:
        if "update   1/2" in line_of_text:
            line.die = die
            line.faults.extend(["", "die"])

    summary = train(config, fall)
    rows = read_rows(tmp_path / "run" / "attempts.jsonl")
    seen = Counter((r["phase"], r["strategy"], r["task_id"], r["visit"], r["attempt"]) for r in rows)
    assert set(seen.values()) == {1} and summary["scores"]["ppo"]["n"] == 4
    assert max(line.passed.values()) == 1 and len(deaths) == 1 and not line.faults
    assert answers[-1].stats.retries > 0  # the call under way, or the next one
    moved = small(**{**vars(config), "code_model": name.replace("127.0.0.1", "localhost")})
    calls = len(line.heard)
    assert train(moved, lambda line: None) == summary and len(line.heard) == calls  # read: the same run
    assert all(row["prompt_tokens"] > 0 and row["completion_tokens"] > 0 for row in rows)
    assert line.keys == {f"Bearer {SECRET}"}
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path


@pytest.mark.slow
def test_the_command_trains_against_a_server_and_never_shows_the_key(
    served: Served, line: Line, tmp_path: Path
) -> None:
    name = f"openai:{served.model}@{line.url}"
    sets = {"model.codet5_model": name, "model.rewriter_model": name, "model.max_length": 8, "model.rewrite_tokens": 12}
    sets |= {
        "model.reflection_tokens": 8,
        "training.max_episodes": 4,
        "log_level": "DEBUG",
        "environment.eval_samples": 2,
    }
    line_ = [sys.executable, "-m", "ppo_codet5.cli", "train", "--config", "config.json", "--output-dir", "run"]
    line_ += [f"--set={setting}={value}" for setting, value in sets.items()]
    root = str(Path(__file__).resolve().parent.parent)
    env = {**os.environ, "PYTHONPATH": root, "OPENAI_API_KEY": SECRET, "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [*line_[:3], "config", "--output", "config.json", "--profile", "smoke"], cwd=tmp_path, env=env, check=True
    )
    line.faults.extend(["500", "429"])
    done = subprocess.run(line_, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"HTTP (500|429), trying again", done.stdout) and SECRET not in done.stdout + done.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["code"]["revision"] == f"served as {served.model}" and config["code"]["dtype"] == "server"
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path
