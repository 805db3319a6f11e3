"""The contract of text generation: what is asked for, what comes back. It imports none of its makers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..replies import RULES
from ..runs import well_formed


class ModelError(RuntimeError):
    """A model cannot be loaded or cannot serve a request; the message says what to do."""


@dataclass(frozen=True)
class Request:
    """One completion to generate.

    ``prompt`` is plain text, or a chat as ((role, content), ...). ``prefix`` is the forced start of the reply: it
    follows the chat template's generation prompt, the plain prompt of a decoder-only model, or the decoder's start
    token of an encoder-decoder. ``seed`` (64 bits) alone decides the sampling. ``temperature`` 0 is greedy;
    ``stop`` names a rule of ``replies.StopRule``; ``entry_point`` is the function that ends a reply under the rule
    ``function``, by default the one that the prefix starts.
    """

    prompt: str | tuple[tuple[str, str], ...]
    seed: int
    prefix: str = ""
    max_new_tokens: int = 128
    temperature: float = 0.7
    top_p: float = 0.9
    stop: str = "none"
    entry_point: str = ""

    def __post_init__(self) -> None:
        prompt = self.prompt
        plain = well_formed(prompt) if isinstance(prompt, str) else tuple((role, well_formed(t)) for role, t in prompt)
        object.__setattr__(self, "prompt", plain)
        object.__setattr__(self, "prefix", well_formed(self.prefix))
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}: it must be at least 1")
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}: it must be 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}: it must be above 0 and at most 1")
        if self.stop not in RULES:
            raise ValueError(f"stop is {self.stop!r}: use one of {', '.join(RULES)}")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed is {self.seed}: it must fit in 64 bits, 0 to 2**64 - 1")


@dataclass(frozen=True)
class Completion:
    """``text`` is prefix + generated text, cut by the stop rule.

    ``prompt_tokens`` counts the prompt and the forced prefix, without padding; ``completion_tokens`` the generated
    tokens, with the end-of-sequence token and those that the stop rule cut. ``finish_reason`` is "stop" (the rule or
    the model ended it) or "length". ``cached`` says that no model ran; it does not take part in comparisons.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    cached: bool = field(default=False, compare=False)


class TextGenerator(Protocol):
    """Anything that completes a batch of requests, in their order. ``name`` and ``revision`` identify the weights.

    ``each``, if given, is called with every request's place and completion as soon as that is complete, in any order.
    """

    @property
    def name(self) -> str: ...

    @property
    def revision(self) -> str: ...

    def generate(
        self, requests: Sequence[Request], each: Callable[[int, Completion], object] | None = None
    ) -> list[Completion]: ...
