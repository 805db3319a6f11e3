"""A model in this process, loaded once however often it is asked for. Importing this does not import torch."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from .contract import ModelError
from .sources import ALIASES, DTYPES, INT8, find, folder_digest, has_bfloat16, load_weights

if TYPE_CHECKING:
    from .local import TransformersGenerator

_loaded: WeakValueDictionary[tuple[object, ...], TransformersGenerator] = WeakValueDictionary()
_loading = threading.Lock()


def load_model(
    name: str, dtype: str = "float32", device: str = "auto", batch_size: int = 32, revision: str | None = None
) -> TransformersGenerator:
    """Load a causal or encoder-decoder language model that runs in this process.

    ``name`` is an alias ("smollm2-135m", from the package index), a folder with a saved model, or a hub id
    ("owner/name"; ``revision`` picks a commit, tag or branch). ``device`` "auto" is CUDA where there is one, else CPU;
    ``dtype`` "auto" is bfloat16 where that device computes in it, else float32; "int8" is for the linear layers on a
    CPU, the rest in float32; "int7" is int8 with weights of seven bits on every CPU, also where it could have eight.
    The same arguments give the same object while it is in use, so a code model that also rewrites is loaded once;
    generators that differ only in ``batch_size`` share the weights. Raises ModelError with the way out.
    """
    if dtype not in DTYPES:
        raise ModelError(f"Unknown dtype {dtype!r}: use one of {', '.join(DTYPES)}.")
    import torch

    from .local import TransformersGenerator

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto":
        dtype = "bfloat16" if has_bfloat16(device) else "float32"
    if dtype in INT8 and device != "cpu":
        raise ModelError(f"dtype {dtype} is for the CPU, not for {device}: use auto there.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device cuda: torch {torch.__version__} finds no GPU here; use 'auto' or 'cpu'.")
    source, is_folder = find(name)
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
            model, tokenizer = load_weights(name, source, is_folder, dtype, device, revision)
            label = name if not is_folder or name in ALIASES else Path(source).resolve().name
            digest = folder_digest(Path(source)) if is_folder else str(model.config._commit_hash or revision)
        generator = TransformersGenerator(model, tokenizer, name=label, revision=digest, batch_size=batch_size)
        _loaded[(*weights, batch_size)] = generator
        return generator
