"""Text generation: ``load_generator`` gives what a name means, the contract is in ``contract.py``.

Importing this room does not import torch (the sandbox's server must start before torch does); loading a model does.
"""

from __future__ import annotations

import os
import threading
from weakref import WeakValueDictionary

from . import replicas, server, shared
from .cache import CachedGenerator
from .contract import Completion, ModelError, Request, TextGenerator
from .loading import load_model
from .sources import ALIASES, DTYPES, INT8, check_readable, has_bfloat16, load_tokenizer, render_chat, weight_bytes

__all__ = [
    "ALIASES",
    "DTYPES",
    "INT8",
    "CachedGenerator",
    "Completion",
    "ModelError",
    "Request",
    "TextGenerator",
    "check_model",
    "has_bfloat16",
    "load_generator",
    "load_model",
    "load_tokenizer",
    "render_chat",
    "replicas",
    "server",
    "shared",
    "weight_bytes",
]

_pools: WeakValueDictionary[tuple[object, ...], replicas.RayGenerator] = WeakValueDictionary()
_starting = threading.Lock()


def load_generator(
    name: str, dtype: str = "float32", device: str = "auto", batch_size: int = 32, revision: str | None = None
) -> TextGenerator:
    """The text generator that a name means: a model in this process, ``openai:NAME@URL``, or ``ray:NAME@N``.

    Where models are served to several processes (``shared.py``), a model is there and not in this process.
    A server (``server.py``) is asked at most ``batch_size`` requests at a time; on a Ray cluster
    (``replicas.py``) N replicas of the model take ``batch_size`` each. Raises ModelError with the way out.
    """
    if batch_size < 1:
        raise ModelError(f"batch_size is {batch_size}: it must be at least 1.")
    if name.startswith("openai:"):
        return server.ServerGenerator(name, concurrency=batch_size)
    if name.startswith("ray:"):
        with _starting:
            wanted = (name, dtype, device, batch_size)
            if (pool := _pools.get(wanted)) is None or not pool.alive:
                pool = _pools[wanted] = replicas.RayGenerator(*wanted)
            return pool
    if address := os.environ.get(shared.ADDRESS):
        return shared.connect(address, name, dtype, device, batch_size, revision)
    return load_model(name, dtype, device, batch_size, revision)


def check_model(name: str) -> None:
    """Raise ModelError if the configuration of a model cannot be read: unknown, gated, private, or out of reach."""
    if name in ALIASES:
        return
    if name.startswith("openai:"):
        server.parse(name)
        return
    if name.startswith("ray:"):
        name, _ = replicas.parse(name)
        return check_model(name)
    check_readable(name)
