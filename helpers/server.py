"""Completions from a server that speaks the OpenAI protocol: vLLM, ``transformers serve``, llama.cpp and others.

A model is named ``openai:NAME@http://host:port/v1``. The server samples by its own stream: the seed of a request is
passed on, but equal seeds need not give equal texts, so replies are kept in the generation cache, always.
"""

from __future__ import annotations

import json
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from .models import Completion, ModelError, Request, load_tokenizer, render_chat
from .runs import logger
from .replies import cut

PREFIX = "openai:"
API_KEY = "OPENAI_API_KEY"  # read from the environment, kept nowhere else
PATIENCE = 600.0  # seconds for which a server may be away before a run gives up
READ_SECONDS = 600.0  # for one reply
_STOPS = {  # at most four, as the protocol allows; what they let through is cut here, by the rule itself
    "none": [],
    "line": ["\n"],
    "fence": ["\n```", "[/PYTHON]"],
    "function": ["\n```", "[/PYTHON]", "\nassert ", "\nprint("],
}
_FREE = ["[/PYTHON]"]  # where no start is forced, the first fence is the opening one


@dataclass
class ServerStats:
    """Calls answered, calls repeated because one failed, and tokens as the server counted them."""

    replies: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


def parse(name: str) -> tuple[str, str]:
    """NAME and URL of ``openai:NAME@URL``; ModelError if it has another form."""
    model, separator, url = name.removeprefix(PREFIX).rpartition("@")
    if not (name.startswith(PREFIX) and separator and model and url.startswith(("http://", "https://"))):
        raise ModelError(f"{name!r} must have the form openai:NAME@http://host:port/v1")
    return model, url.rstrip("/")


def _lacking(reply: Any) -> str:
    """What a reply must have and has not, "" if it is whole. What the client gives for other JSON, or none, varies."""
    choices = getattr(reply, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    # A chat that reached its limit while it reasoned has a message without content.
    if not isinstance(getattr(choice, "text", None), str) and getattr(choice, "message", None) is None:
        return "its text"
    if not getattr(choice, "finish_reason", None):
        return "its finish_reason"
    usage = getattr(reply, "usage", None)
    counts = [getattr(usage, f"{part}_tokens", None) for part in ("prompt", "completion")]
    return "" if all(isinstance(count, int) for count in counts) else "its token counts"


class ServerGenerator:
    """A TextGenerator that asks a server, at most ``concurrency`` requests at a time.

    A request that fails for good ends those that wait to be tried again; those under way are waited for, unless Ctrl-C
    comes twice.

    A forced start of the reply needs the plain ``/v1/completions``, and for a chat also the model's chat template, of
    which the tokenizer must be on this machine or the hub under NAME; a chat without one uses ``/v1/chat/completions``.
    Lost connections, time-outs, 408, 409, 429 and 5xx are tried again with exponential back-off and jitter, for
    ``patience`` seconds; any other refusal is a ModelError at once. A reply that lacks its text or its token counts is
    asked for again.
    """

    dtype = "server"

    def __init__(
        self, name: str, concurrency: int = 32, patience: float = PATIENCE, read_seconds: float = READ_SECONDS
    ) -> None:
        try:
            import openai
        except ImportError:
            raise ModelError(f"{name} needs the package openai: pip install 'ppo-codet5[distributed]'") from None
        self.model, self.url = parse(name)
        self.concurrency, self.patience, self.stats = concurrency, patience, ServerStats()
        self._lock = threading.Lock()
        self._template: Any = None
        self._key = os.environ.get(API_KEY, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise ModelError(f"{API_KEY} in the environment has characters that no HTTP header may have")
        timeout = openai.Timeout(read_seconds, connect=10.0)
        self._client = openai.OpenAI(base_url=self.url, api_key=self._key or "none", timeout=timeout, max_retries=0)
        self._openai = openai

    @property
    def name(self) -> str:
        return self.model

    @property
    def revision(self) -> str:
        """A server does not say which weights it has; the name it knows them by is all there is."""
        return f"served as {self.model}"

    def generate(
        self, requests: Sequence[Request], each: Callable[[int, Completion], object] | None = None
    ) -> list[Completion]:
        """Completions in the order of ``requests``. If one fails, those under way are still waited for and reported."""
        done: list[Completion | None] = [None] * len(requests)
        failure: BaseException | None = None
        stop = threading.Event()  # nothing is tried again
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="server")
        places = {pool.submit(self._complete, request, stop): place for place, request in enumerate(requests)}
        waiting: set[Future[Completion]] = set(places)
        try:
            while waiting:
                ready: set[Future[Completion]] = set()
                try:
                    ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                except KeyboardInterrupt as error:
                    if failure is not None:  # asked a second time: not even those under way
                        break
                    failure = error
                for future in ready:
                    try:
                        completion = done[places[future]] = future.result()
                        if each:
                            each(places[future], completion)
                    except CancelledError:
                        pass
                    except BaseException as error:
                        failure = failure or error
                if failure is not None:
                    stop.set()
                    for future in waiting:
                        future.cancel()
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
        if failure is not None:
            raise failure
        return [completion for completion in done if completion is not None]

    def _complete(self, request: Request, stop: threading.Event) -> Completion:
        """One reply, however many calls it takes."""
        settings: dict[str, Any] = {
            "model": self.model,
            "max_tokens": request.max_new_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed % 2**31,  # servers differ in how large a seed may be
        }
        if stops := _STOPS[request.stop] if request.prefix or request.stop in ("none", "line") else _FREE:
            settings["stop"] = stops
        if isinstance(request.prompt, str) or request.prefix:
            prompt = request.prompt if isinstance(request.prompt, str) else self._render(request.prompt)
            reply = self._call(stop, self._client.completions.create, prompt=prompt + request.prefix, **settings)
            text = reply.choices[0].text
        else:
            messages = [{"role": role, "content": content} for role, content in request.prompt]
            reply = self._call(stop, self._client.chat.completions.create, messages=messages, **settings)
            text = reply.choices[0].message.content or ""
        kept = request.prefix + text
        end = cut(kept, request.stop, request.prefix)
        ended = reply.choices[0].finish_reason != "length" or len(end) < len(kept)
        used = reply.usage
        with self._lock:
            self.stats.replies += 1
            self.stats.prompt_tokens += used.prompt_tokens
            self.stats.completion_tokens += used.completion_tokens
        return Completion(end, used.prompt_tokens, used.completion_tokens, "stop" if ended else "length")

    def _call(self, given_up: threading.Event, create: Callable[..., Any], /, **settings: Any) -> Any:
        """One call, again and again while the server is away or busy, until ``given_up``."""
        deadline, pause = float("inf"), 0.5
        while True:
            try:
                reply = create(**settings)
                if not (lacking := _lacking(reply)):
                    return reply
                problem, least = f"a reply without {lacking}", 0.0
            except self._openai.APIStatusError as error:
                code, problem = error.status_code, f"HTTP {error.status_code}"
                if code not in (408, 409, 429) and code < 500:
                    raise self._refused(error) from None
                asked = error.response.headers.get("retry-after", "")
                least = float(asked) if asked.replace(".", "", 1).isdecimal() else 0.0
            except (self._openai.APIConnectionError, self._openai.APIResponseValidationError) as error:
                problem, least = f"{type(error).__name__}: {error.__cause__ or error}", 0.0
            except (json.JSONDecodeError, UnicodeDecodeError) as error:  # it was cut short
                problem, least = f"an unreadable reply ({error})", 0.0
            problem = self._without_key(problem)
            wait_for = max(least, pause * random.uniform(0.5, 1.5))
            deadline = min(deadline, time.monotonic() + self.patience)  # from the first failure on
            if time.monotonic() + wait_for > deadline:
                raise ModelError(
                    f"{self.url} did not answer for {self.patience:.0f} s ({' '.join(problem.split())[:200]}): start the "
                    "server, or correct the address, and give the same command again; what was generated is kept."
                )
            with self._lock:
                self.stats.retries += 1
                first = self.stats.retries == 1
            logger.log(logging.WARNING if first else logging.DEBUG, "%s: %s, trying again", self.url, problem)
            if given_up.wait(wait_for):
                raise ModelError(f"{self.url}: given up, another request has failed")
            pause = min(2 * pause, 20.0)

    def _refused(self, error: Any) -> ModelError:
        """What to do about a status that will not change by asking again."""
        advice = {
            401: f"set {API_KEY} in the environment",
            403: f"set {API_KEY} in the environment to a key that may use {self.model}",
            404: f"the server must know the model {self.model} and have /v1/completions, which forced reply starts need: "
            "vLLM, transformers serve and llama.cpp have it; prompt_form: chat-free does without for the code model",
        }.get(error.status_code, "see the server's log")
        words = self._without_key(" ".join(str(getattr(error, "message", error)).split()))  # some servers repeat it
        return ModelError(f"{self.url} refused with HTTP {error.status_code} ({words[:300]}): {advice}.")

    def _without_key(self, words: str) -> str:
        return words.replace(self._key, "***") if self._key else words

    def _render(self, messages: tuple[tuple[str, str], ...]) -> str:
        """A chat as the plain text that the model was trained on, without the mark that the server's tokenizer adds."""
        with self._lock:
            if self._template is None:
                self._template = load_tokenizer(self.model)
        tokenizer = self._template
        text = render_chat(tokenizer, messages, self.model)
        start = tokenizer.bos_token
        adds = bool(start) and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
        return text.removeprefix(start) if adds else text
