"""Text generation: what is asked for, what comes back, and how a model is loaded by name.

Importing this module does not import torch (the sandbox's server must start before torch does);
``load_generator`` does.
"""

from __future__ import annotations

import gc
import hashlib
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakValueDictionary

from .assets import no_progress_bars
from .replies import RULES
from .runs import user_path, well_formed

if TYPE_CHECKING:
    from .cluster import RayGenerator
    from .decoding import TransformersGenerator

ALIASES = ("smollm2-135m",)
_TEMPLATE_DAY = datetime(2024, 7, 26)  # chat templates print the date, Llama's this one for want of another
# Prompts must not age. Templates are given plain values only, so what replaces the clock is written in their language.
_STOPPED_CLOCK = "".join(
    [
        "{% macro strftime_now(format) %}{{ format",
        *(f"|replace('%{code}','{_TEMPLATE_DAY:%{code}}')" for code in [*"aAbBdFHIjmMpSTyY", "-d", "-m"]),
        "}}{% endmacro %}\n",
    ]
)
DTYPES = ("auto", "float32", "bfloat16", "float16")


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


_loaded: WeakValueDictionary[tuple[object, ...], TransformersGenerator] = WeakValueDictionary()
_pools: WeakValueDictionary[tuple[object, ...], RayGenerator] = WeakValueDictionary()
_loading = threading.Lock()


def load_generator(
    name: str, dtype: str = "float32", device: str = "auto", batch_size: int = 32, revision: str | None = None
) -> TextGenerator:
    """The text generator that a name means: a model in this process, ``openai:NAME@URL``, or ``ray:NAME@N``.

    A server (helpers/server.py) is asked at most ``batch_size`` requests at a time; on a Ray cluster
    (helpers/cluster.py) N replicas of the model take ``batch_size`` each. Raises ModelError with the way out.
    """
    if batch_size < 1:
        raise ModelError(f"batch_size is {batch_size}: it must be at least 1.")
    if name.startswith("openai:"):
        from .server import ServerGenerator

        return ServerGenerator(name, concurrency=batch_size)
    if name.startswith("ray:"):
        from .cluster import RayGenerator

        with _loading:
            replicas = (name, dtype, device, batch_size)
            if (pool := _pools.get(replicas)) is None or not pool.alive:
                pool = _pools[replicas] = RayGenerator(*replicas)
            return pool
    return load_model(name, dtype, device, batch_size, revision)


def load_model(
    name: str, dtype: str = "float32", device: str = "auto", batch_size: int = 32, revision: str | None = None
) -> TransformersGenerator:
    """Load a causal or encoder-decoder language model that runs in this process.

    ``name`` is an alias ("smollm2-135m", from the package index), a folder with a saved model, or a hub id
    ("owner/name"; ``revision`` picks a commit, tag or branch). ``device`` "auto" is CUDA where there is one, else CPU;
    ``dtype`` "auto" is bfloat16 where that device computes in it, else float32.
    The same arguments give the same object while it is in use, so a code model that also rewrites is loaded once;
    generators that differ only in ``batch_size`` share the weights. Raises ModelError with the way out.
    """
    if dtype not in DTYPES:
        raise ModelError(f"Unknown dtype {dtype!r}: use one of {', '.join(DTYPES)}.")
    import torch

    from .decoding import TransformersGenerator

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto":
        dtype = "bfloat16" if has_bfloat16(device) else "float32"
    source, is_folder = _source(name)
    weights = (source, dtype, device, revision)
    with _loading:
        same = _loaded.get((*weights, batch_size))
        if same is not None:
            return same
        sibling = next((g for key, g in list(_loaded.items()) if key[:-1] == weights), None)
        if sibling is not None:
            model, tokenizer, label, digest = sibling.model, sibling.tokenizer, sibling.name, sibling.revision
        else:
            gc.collect()  # a model that was just dropped may be waiting for the collector, with its memory
            model, tokenizer = _load(name, source, is_folder, dtype, device, revision)
            label = name if not is_folder or name in ALIASES else Path(source).resolve().name
            digest = _folder_digest(Path(source)) if is_folder else str(model.config._commit_hash or revision)
        generator = TransformersGenerator(model, tokenizer, name=label, revision=digest, batch_size=batch_size)
        _loaded[(*weights, batch_size)] = generator
        return generator


def check_model(name: str) -> None:
    """Raise ModelError if the configuration of a model cannot be read: unknown, gated, private, or out of reach."""
    if name in ALIASES:
        return
    if name.startswith("openai:"):
        from .server import parse

        parse(name)
        return
    if name.startswith("ray:"):
        from .cluster import parse as parse_ray

        name, _ = parse_ray(name)
        return check_model(name)
    _small_part(name, "AutoConfig")


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a model: an alias, a folder or a hub id. ModelError if there is none."""
    return _small_part(name, "AutoTokenizer")


def _small_part(name: str, kind: str) -> Any:
    """What is not weights: ``kind`` is the class of transformers that reads it."""
    import transformers

    source, is_folder = _source(name)
    try:
        revision, local = (None, True) if is_folder else _resolve(source, None)
        return getattr(transformers, kind).from_pretrained(source, revision=revision, local_files_only=local)
    except (OSError, ValueError) as error:
        raise _explained(name, error) from error


def render_chat(tokenizer: Any, messages: tuple[tuple[str, str], ...], name: str) -> str:
    """The text of a chat by the model's own template, up to where the reply begins."""
    if not tokenizer.chat_template:
        raise ModelError(f"{name} has no chat template: give the prompt as plain text.")
    chat = [{"role": role, "content": content} for role, content in messages]
    template = tokenizer.get_chat_template()
    if "strftime_now" in template:
        template = _STOPPED_CLOCK + template
    settings = {"tokenize": False, "add_generation_prompt": True, "date_string": f"{_TEMPLATE_DAY:%d %b %Y}"}
    return str(tokenizer.apply_chat_template(chat, chat_template=template, **settings))


def has_bfloat16(device: str) -> bool:
    """Whether the hardware computes in bfloat16; a CPU that does not emulates it, which is slower than float32."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return any(value is True for name, value in torch.cpu.get_capabilities().items() if name.endswith("bf16"))


def _source(name: str) -> tuple[str, bool]:
    """What to hand to from_pretrained, and whether that is a folder."""
    if name in ALIASES:
        from .assets import smollm2

        return str(smollm2()), True
    if user_path(name).is_dir():
        return str(user_path(name).resolve()), True
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name):
        return name, False
    raise ModelError(
        f"No model {name!r}: give an alias ({', '.join(ALIASES)}), an existing folder with a saved model, "
        "or a hub id of the form owner/name."
    )


def _folder_digest(folder: Path) -> str:
    """Content hash of the files that decide what a saved model says, so that a copied folder is the same model."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in {".json", ".safetensors", ".bin", ".model", ".txt", ".jinja"}:
            digest.update(path.name.encode() + b"\0")
            with path.open("rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
    return digest.hexdigest()[:16]


def _load(name: str, source: str, is_folder: bool, dtype: str, device: str, revision: str | None) -> tuple[Any, Any]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    from .decoding import pack_linears

    try:
        local = is_folder
        if not is_folder:
            revision, local = _resolve(source, revision)
        where = {"revision": revision, "local_files_only": local}
        with no_progress_bars():
            config = AutoConfig.from_pretrained(source, **where)
            tokenizer = AutoTokenizer.from_pretrained(source, **where)
            auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
            model: Any = auto.from_pretrained(source, dtype=getattr(torch, dtype), **where)
    except (OSError, ValueError) as error:
        raise _explained(name, error) from error
    model = model.to(torch.device(device)).eval()
    if device == "cpu":
        pack_linears(model)
    return model, tokenizer


def _resolve(source: str, revision: str | None) -> tuple[str | None, bool]:
    """The commit that ``revision`` is on the hub now, or (revision, True) to use the local copy if the hub is silent.

    One question first, because each download retries for 20 s before it gives up on a hub that cannot be reached.
    """
    from huggingface_hub import HfApi, errors

    try:
        return HfApi().model_info(source, revision=revision, timeout=10).sha, False
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise
    except Exception:  # no network, offline mode, a hub in trouble: whatever it is, a local copy may still do
        return revision, True


def _explained(name: str, error: BaseException) -> ModelError:
    """The reason behind a failed from_pretrained, which wraps the hub's own exceptions in OSError."""
    from huggingface_hub import errors

    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(link, kinds) for link in chain)

    if caused_by(errors.GatedRepoError):
        return ModelError(
            f"{name} is a gated model: accept its licence on https://huggingface.co/{name}, then set HF_TOKEN or run "
            "`hf auth login`."
        )
    if caused_by(errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        return ModelError(
            f"The hub has no model {name} at that revision, or it is private: check the spelling of owner/name, or "
            "set HF_TOKEN to a token that may read it."
        )
    if caused_by(errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError, TimeoutError):
        return ModelError(
            f"{name} is not on this machine and the hub cannot be reached: download it where there is network and set "
            "HF_HUB_OFFLINE=1 here, or pass a folder with a saved model, or use the laptop profile's smollm2-135m."
        )
    return ModelError(f"{name} cannot be loaded: {' '.join(str(error).split())[:300]}")
