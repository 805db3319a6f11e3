"""Completions from a server that speaks the OpenAI protocol: vLLM, ``transformers serve``, llama.cpp and others.

A model is named ``openai:NAME@http://host:port/v1``. The server samples by its own stream: the seed of a request is
passed on, but equal seeds need not give equal texts, so replies are kept in the generation cache, always.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any

from ..replies import StopRule
from ..runs import logger, well_formed
from .contract import Completion, ModelError, Request
from .sources import load_tokenizer, render_chat

PREFIX = "openai:"
API_KEY = "OPENAI_API_KEY"  # read from the environment, kept nowhere else
PATIENCE = 600.0  # seconds for which a server may be away before a run gives up
READ_SECONDS = 600.0  # for one reply
# At most four, as the protocol allows; what they let through is cut here, by the rule itself.
_STOPS = {"none": [], "line": ["\n"], "function": ["\n```", "\nassert ", "\nprint(", '\n"""']}
_PASSING = re.compile(r"^(408|409|429|5\d\d)$|rate.?limit|overload|unavailable|time.?out|server.?error|busy", re.I)
_LETTERS = 4  # a token's, where nothing counts them


@dataclass
class ServerStats:
    """Calls answered, calls repeated because one failed, and tokens as the server counted them.

    ``uncounted``: replies of which the server did not say how many tokens they cost.
    """

    replies: int = 0
    retries: int = 0
    uncounted: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


def parse(name: str) -> tuple[str, str]:
    """NAME and URL of ``openai:NAME@URL``; ModelError if it has another form."""
    model, separator, url = name.removeprefix(PREFIX).rpartition("@")
    if not (name.startswith(PREFIX) and separator and model and url.startswith(("http://", "https://"))):
        raise ModelError(
            f"{name!r} must have the form openai:NAME@http://host:port/v1; a run keeps no address, so with its "
            "checkpoint give it again: --set code_model=openai:NAME@http://host:port/v1"
        )
    return model, url.rstrip("/")


def _choice(reply: Any) -> Any:
    """The reply's only choice, None if it has none. What the client gives for other JSON, or none, varies."""
    choices = getattr(reply, "choices", None)
    return choices[0] if isinstance(choices, list) and choices else None


def _text(choice: Any) -> str | None:
    """What the model wrote, None if the choice does not say. Null is nothing: all was reasoning, or the end came first."""
    message = getattr(choice, "message", None)
    content = getattr(choice, "text", None) if message is None else getattr(message, "content", message)
    if isinstance(content, list):  # of parts, some of which may be no text
        parts = [part if isinstance(part, dict) else {"text": part} for part in content]
        texts = [part.get("text") for part in parts if part.get("type", "text") in ("text", "output_text")]
        content = "".join(text for text in texts if isinstance(text, str))
    if content is None and (message is not None or getattr(choice, "finish_reason", None)):
        content = ""
    return well_formed(content) if isinstance(content, str) else None


def _shown(reply: Any) -> str:
    """What came, in the server's words."""
    return str(reply.model_dump(exclude_none=True, warnings=False) if hasattr(reply, "model_dump") else reply)


def _error(reply: Any) -> tuple[str, bool] | None:
    """The server's own words in a reply that is an error in spite of its status, and whether it may pass."""
    error = getattr(reply, "error", None) or getattr(_choice(reply), "error", None)
    if error is None and getattr(reply, "object", None) == "error":
        error = {name: getattr(reply, name, None) for name in ("message", "code", "type")}
    if not error:
        return None
    if not isinstance(error, dict):
        return str(error), True
    codes = [str(error[name]) for name in ("code", "status", "type") if error.get(name) is not None]
    return str(error.get("message") or error), not codes or bool(_PASSING.search(codes[0]))


def _count(reply: Any, part: str) -> int | None:
    """Tokens of the prompt or the completion as the server counts them, None if it does not."""
    count = getattr(getattr(reply, "usage", None), f"{part}_tokens", None)
    return count if isinstance(count, int) else None


class ServerGenerator:
    """A TextGenerator that asks a server, at most ``concurrency`` requests at a time.

    A request that fails for good ends those that wait to be tried again; those under way are waited for, unless Ctrl-C
    comes twice.

    A forced start of the reply needs the plain ``/v1/completions``, and for a chat also the model's chat template, of
    which the tokenizer must be on this machine or the hub under NAME; a chat without one uses ``/v1/chat/completions``.
    Lost connections, time-outs, 408, 409, 429 and 5xx are tried again with exponential back-off and jitter, for
    ``patience`` seconds, and so are replies without a text and errors that come with status 200; any other refusal is a
    ModelError at once. Tokens that the server does not count are counted by the tokenizer of NAME, or, where that
    cannot be loaded, taken to be four letters each; ``stats.uncounted`` says how often.
    """

    dtype = "server"

    def __init__(
        self, name: str, concurrency: int = 32, patience: float = PATIENCE, read_seconds: float = READ_SECONDS
    ) -> None:
        try:
            import openai
        except ImportError:
            raise ModelError(
                f"{name} needs the package openai: pip install '.[distributed]' in the project's folder"
            ) from None
        self.model, self.url = parse(name)
        self.concurrency, self.patience, self.stats = concurrency, patience, ServerStats()
        self._lock = threading.Lock()
        self._loaded: Any = None  # the tokenizer
        self._tried = False
        self._warned: set[str] = set()
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

    def _stops(self, request: Request) -> list[str]:
        """What the server is to stop at. Where no start is forced, the first fence is the opening one."""
        if request.stop == "function" and "```" in request.prefix:
            return _STOPS["function"][:1]  # what stands in a block belongs to it
        return _STOPS[request.stop] if request.prefix or request.stop != "function" else []

    def _complete(self, request: Request, stop: threading.Event, stops: bool = True) -> Completion:
        """One reply, however many calls it takes. ``stops``: the server may stop where a program is likely to end."""
        settings: dict[str, Any] = {
            "model": self.model,
            "max_tokens": request.max_new_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed % 2**31,  # servers differ in how large a seed may be
        }
        if stops and (words := self._stops(request)):
            settings["stop"] = words
        if isinstance(request.prompt, str) or request.prefix:
            prompt = request.prompt if isinstance(request.prompt, str) else self._render(request.prompt)
            prompt += request.prefix
            reply = self._call(stop, self._client.completions.create, prompt=prompt, **settings)
        else:
            messages = [{"role": role, "content": content} for role, content in request.prompt]
            prompt = ""
            reply = self._call(stop, self._client.chat.completions.create, messages=messages, **settings)
        choice, text = _choice(reply), _text(_choice(reply)) or ""
        if not text and getattr(getattr(choice, "message", None), "reasoning_content", None):
            self._warn("a reply that is reasoning only, which counts as empty: a larger max_new_tokens lets it end")
        counts = [_count(reply, part) for part in ("prompt", "completion")]
        asked, written = (
            self._tokens(words) if count is None else count
            for count, words in zip(counts, (prompt or request.prompt, text), strict=True)
        )
        kept = request.prefix + text
        rule = StopRule(request.stop, request.prefix, request.entry_point)
        end = kept[: rule.feed(text)]
        spent = choice.finish_reason == "length" or (not choice.finish_reason and written >= request.max_new_tokens)
        with self._lock:
            self.stats.replies += 1
            self.stats.uncounted += None in counts
            self.stats.prompt_tokens += asked
            self.stats.completion_tokens += written
        left = request.max_new_tokens - written
        if "stop" in settings and rule.unfinished and not spent and left > 0:  # it had stopped inside a string, say
            more = replace(request, prefix=kept, max_new_tokens=left, entry_point=rule.entry_point)
            rest = self._complete(more, stop, stops=False)
            return replace(rest, prompt_tokens=asked, completion_tokens=written + rest.completion_tokens)
        return Completion(end, asked, written, "length" if spent and len(end) == len(kept) else "stop")

    def _tokens(self, words: str | tuple[tuple[str, str], ...]) -> int:
        """How many tokens a text or a chat is, where the server does not say."""
        tokenizer = self._tokenizer(needed=False)
        how = f"by the tokenizer of {self.model}" if tokenizer else f"as one for {_LETTERS} characters, an estimate"
        self._warn(f"the server does not count tokens; they are counted {how}")
        if not isinstance(words, str):
            chat = tokenizer and tokenizer.chat_template
            words = render_chat(tokenizer, words, self.model) if chat else "\n".join(text for _, text in words)
        return len(tokenizer(words).input_ids) if tokenizer else -(-len(words) // _LETTERS)

    def _tokenizer(self, needed: bool) -> Any:
        """The model's own, loaded once. Without it a ModelError says why, or, where it is not ``needed``, it is None."""
        with self._lock:
            if self._loaded is None and (needed or not self._tried):
                self._tried = True
                try:
                    self._loaded = load_tokenizer(self.model)
                except ModelError:
                    if needed:
                        raise
            return self._loaded

    def _warn(self, what: str) -> None:
        """Once."""
        with self._lock:
            if what in self._warned:
                return
            self._warned.add(what)
        logger.warning("%s: %s", self.url, what)

    def _call(self, given_up: threading.Event, create: Callable[..., Any], /, **settings: Any) -> Any:
        """One call, again and again while the server is away or busy, until ``given_up``."""
        deadline, pause = float("inf"), 0.5
        while True:
            try:
                reply = create(**settings)
                if error := _error(reply):
                    words, may_pass = error
                    if not may_pass:
                        raise self._refusal("with an error in its reply", words, "see the server's log")
                    problem = f"an error in its reply: {words}"
                elif _text(_choice(reply)) is not None:
                    return reply
                else:
                    problem = f"a reply without a text: {_shown(reply)}"
                least, answers = 0.0, True
            except self._openai.APIStatusError as error:
                answers = False
                code, problem = error.status_code, f"HTTP {error.status_code}"
                if code not in (408, 409, 429) and code < 500:
                    raise self._refused(error) from None
                asked = error.response.headers.get("retry-after", "")
                least = float(asked) if asked.replace(".", "", 1).isdecimal() else 0.0
            except (self._openai.APIConnectionError, self._openai.APIResponseValidationError) as error:
                problem, least, answers = f"{type(error).__name__}: {error.__cause__ or error}", 0.0, False
            except (json.JSONDecodeError, UnicodeDecodeError) as error:  # it was cut short
                problem, least, answers = f"an unreadable reply ({error})", 0.0, True
            problem = self._without_key(problem)
            wait_for = max(least, pause * random.uniform(0.5, 1.5))
            deadline = min(deadline, time.monotonic() + self.patience)  # from the first failure on
            if time.monotonic() + wait_for > deadline:
                what = "gave no reply that can be used" if answers else "did not answer"
                advice = "see the server's log" if answers else "start the server, or correct the address"
                raise ModelError(
                    f"{self.url} {what} for {self.patience:.0f} s ({' '.join(problem.split())[:300]}): {advice}, and give "
                    "the same command again; what was generated is kept."
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
        return self._refusal(f"with HTTP {error.status_code}", str(getattr(error, "message", error)), advice)

    def _refusal(self, how: str, words: str, advice: str) -> ModelError:
        words = self._without_key(" ".join(words.split()))  # some servers repeat it
        return ModelError(f"{self.url} refused {how} ({words[:300]}): {advice}.")

    def _without_key(self, words: str) -> str:
        words = well_formed(words)
        return words.replace(self._key, "***") if self._key else words

    def _render(self, messages: tuple[tuple[str, str], ...]) -> str:
        """A chat as the plain text that the model was trained on, without the mark that the server's tokenizer adds."""
        tokenizer = self._tokenizer(needed=True)
        text = render_chat(tokenizer, messages, self.model)
        start = tokenizer.bos_token
        adds = bool(start) and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
        return text.removeprefix(start) if adds else text
