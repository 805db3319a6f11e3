"""How many prompt tokens one forward pass takes: what is fastest for a model on this machine, measured once."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import torch

from ..assets import cache_dir
from ..runs import processor, write_atomically

_GPU = 8192  # a pass of fewer takes as long: its kernels' launches
CANDIDATES = (256, 512, 1024)  # narrower passes read all weights for little work, wider ones fall out of the caches
_WORTH_MEASURING = 50_000_000  # parameters; smaller models do not care
logger = logging.getLogger("ppo_codet5")


def prefill_tokens(model: Any, name: str) -> int:
    """Tokens of a prefill pass for ``model`` (``name`` with revision and dtype): the fastest of ``CANDIDATES`` per token.

    For a decoder-only model on a CPU it is measured, 2 to 15 seconds, and kept in the cache folder; else the widest, and
    more on a GPU. In float32 a text does not depend on it.
    """
    if model.device.type == "cuda":
        return _GPU
    parameters = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    if model.config.is_encoder_decoder or parameters < _WORTH_MEASURING:
        return CANDIDATES[-1]
    file = cache_dir("speed") / "prefill.json"
    key = f"{name}, {processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    kept = _read(file)
    if key not in kept:
        seconds = {width: _seconds(model, width) / width for width in (CANDIDATES[0], *CANDIDATES)}  # one to warm up
        best = min(seconds, key=lambda width: seconds[width])
        logger.debug("prefill of %s: %s seconds a token", key, seconds)
        kept = {**_read(file), key: best}
        write_atomically(file, json.dumps(kept, indent=1).encode())
    return int(kept[key])


def _read(file: Path) -> dict[str, int]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in found.items() if value in CANDIDATES} if isinstance(found, dict) else {}


def _seconds(model: Any, width: int, prompt: int = 64) -> float:
    ids = torch.arange(width, device=model.device).remainder(model.config.vocab_size).view(-1, prompt)
    with torch.inference_mode():
        began = time.perf_counter()
        model(input_ids=ids, use_cache=False, logits_to_keep=1)
        return time.perf_counter() - began
