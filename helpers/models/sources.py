"""Where a name leads: alias, folder or hub; weights, tokenizer and chat template; what to say when it is not there."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from pathlib import Path
from typing import Any

from .. import assets
from ..runs import user_path
from .contract import ModelError

ALIASES = assets.MODELS
_TEMPLATE_DAY = datetime(2024, 7, 26)  # chat templates print the date, Llama's this one for want of another
# Prompts must not age. Templates are given plain values only, so what replaces the clock is written in their language.
_STOPPED_CLOCK = "".join(
    [
        "{% macro strftime_now(format) %}{{ format",
        *(f"|replace('%{code}','{_TEMPLATE_DAY:%{code}}')" for code in [*"aAbBdFHIjmMpSTyY", "-d", "-m"]),
        "}}{% endmacro %}\n",
    ]
)
INT8 = ("int8", "int7")  # computed in int8 on a CPU, with as many bits a weight as it adds up exactly, and with 7
DTYPES = ("auto", "float32", "bfloat16", "float16", *INT8)


def check_readable(name: str) -> None:
    """Raise ModelError if the configuration of a model cannot be read: unknown, gated, private, or out of reach."""
    _small_part(name, "AutoConfig")


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a model: an alias, a folder or a hub id. ModelError if there is none."""
    return _small_part(name, "AutoTokenizer")


def _small_part(name: str, kind: str) -> Any:
    """What is not weights: ``kind`` is the class of transformers that reads it."""
    import transformers

    source, is_folder = find(name)
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
    """Whether the hardware computes in bfloat16; a CPU that does not computes in float32 then, which takes longer."""
    import torch

    from .. import packing

    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return packing.has_bfloat16()


def find(name: str) -> tuple[str, bool]:
    """What to hand to from_pretrained, and whether that is a folder."""
    if name in ALIASES or (name.endswith(".gguf") and user_path(name).is_file()):
        return str(assets.model(name)), True
    if user_path(name).is_dir():
        return str(user_path(name).resolve()), True
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name):
        return name, False
    raise ModelError(
        f"No model {name!r}: give an alias ({', '.join(ALIASES)}), an existing folder with a saved model, the GGUF file "
        "of an alias, or a hub id of the form owner/name."
    )


def weight_bytes(name: str) -> float:
    """Bytes of a model's weights on this disk: 0 for one behind a server, infinite where the hub has them."""
    if name.startswith(("openai:", "ray:")):
        return 0.0
    source, is_folder = find(name)
    if not is_folder:
        return float("inf")
    return float(sum(path.stat().st_size for kind in ("safetensors", "bin") for path in Path(source).glob(f"*.{kind}")))


def folder_digest(folder: Path) -> str:
    """Content hash of the files that decide what a saved model says, so that a copied folder is the same model."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in {".json", ".safetensors", ".bin", ".model", ".txt", ".jinja"}:
            digest.update(path.name.encode() + b"\0")
            with path.open("rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
    return digest.hexdigest()[:16]


def load_weights(
    name: str, source: str, is_folder: bool, dtype: str, device: str, revision: str | None
) -> tuple[Any, Any]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    from ..packing import exact_bits, pack_linears
    from .slots import IN_PARTS

    try:
        local = is_folder
        if not is_folder:
            revision, local = _resolve(source, revision)
        where = {"revision": revision, "local_files_only": local}
        with assets.no_progress_bars():
            config = AutoConfig.from_pretrained(source, **where)
            tokenizer = AutoTokenizer.from_pretrained(source, **where)
            auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
            stored = "auto" if dtype in INT8 else getattr(torch, dtype)  # as in the file: never all of it in float32
            model: Any = auto.from_pretrained(source, dtype=stored, **where)
    except (OSError, ValueError) as error:
        raise _explained(name, error) from error
    model = model.to(torch.device(device)).eval()
    if device == "cpu":
        if model.config._attn_implementation == "sdpa" and not config.is_encoder_decoder:
            model.set_attn_implementation(IN_PARTS)
        pack_linears(model, {"int8": exact_bits(), "int7": 7}[dtype] if dtype in INT8 else None)
    if dtype in INT8:  # what is left: embeddings, norms, attention; the same on every CPU, and no slower than bfloat16
        model = model.to(torch.float32)
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
