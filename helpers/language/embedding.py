"""Sentence embeddings of prompts and feedback."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .. import assets
from ..runs import user_path

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_CACHED_TEXTS = 16384
# An embedding's last bits change with the shape of the batch that it is computed in (34 % of the vectors in float32),
# and rounding does not help, since some value always sits on the edge of two roundings. So the shape of a batch
# depends on nothing but a text's own length: so many rows, padded to a multiple of so many tokens.
_TOKENS = 8
_ROWS = {"cpu": 4, "cuda": 64}


class Embedder:
    """Texts to unit vectors with a sentence-transformers model; loaded on first use.

    ``name``: ``"minilm"`` (all-MiniLM-L6-v2 from the package index), a name on the hub such as
    ``"sentence-transformers/all-MiniLM-L6-v2"``, or a folder. MiniLM reads the first 256 tokens of a text.
    """

    def __init__(self, name: str = "minilm") -> None:
        self.name = name
        self._cache: OrderedDict[str, npt.NDArray[np.float32]] = OrderedDict()  # the least recently used first

    @property
    def dim(self) -> int:
        """Length of a vector (384 for MiniLM)."""
        return int(self._model.get_embedding_dimension() or 0)

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """L2-normalised embeddings, float32 ``[n, dim]``, row i for text i.

        A text's vector is bitwise the same whatever else is in ``texts`` (one machine, one build of torch).
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._cache]
        known = {text: self._cache[text] for text in texts if text in self._cache}
        known.update(self._embed(new))
        self._cache.update(known)
        for text in known:
            self._cache.move_to_end(text)
        while len(self._cache) > _CACHED_TEXTS:
            self._cache.popitem(last=False)
        return np.stack([known[text] for text in texts]) if texts else np.zeros((0, self.dim), np.float32)

    def _embed(self, texts: Sequence[str]) -> dict[str, npt.NDArray[np.float32]]:
        """Vectors of distinct texts, computed in batches of fixed shapes."""
        import torch

        if not texts:
            return {}
        model = self._model
        count = _ROWS.get(model.device.type, 4)
        longest = int(model.max_seq_length or 512)
        widths: dict[int, list[str]] = {}
        tokens = model.tokenizer(list(texts), truncation=True, max_length=longest).input_ids
        for text, ids in zip(texts, tokens, strict=True):
            widths.setdefault(min(longest, -(-len(ids) // _TOKENS) * _TOKENS), []).append(text)
        vectors: dict[str, npt.NDArray[np.float32]] = {}
        for width, group in widths.items():
            for first in range(0, len(group), count):
                rows = group[first : first + count]
                filled = rows + [""] * (count - len(rows))
                batch = model.tokenizer(
                    filled, padding="max_length", truncation=True, max_length=width, return_tensors="pt"
                )
                with torch.inference_mode():
                    output = model(dict(batch.to(model.device)))["sentence_embedding"]
                    output = torch.nn.functional.normalize(output.float(), dim=1).cpu().numpy()
                vectors.update(zip(rows, output[: len(rows)].copy(), strict=True))
        return vectors

    def similarity(self, a: str, b: str) -> float:
        """Cosine similarity of two texts, in [-1, 1]."""
        first, second = self.encode([a, b]).astype(np.float64)
        cosine = first @ second / (np.linalg.norm(first) * np.linalg.norm(second))
        return float(np.clip(cosine, -1.0, 1.0))

    @cached_property
    def _model(self) -> SentenceTransformer:
        from sentence_transformers import SentenceTransformer

        from ..packing import pack_linears

        name = str(assets.minilm()) if self.name == "minilm" else str(user_path(self.name))
        try:
            with assets.no_progress_bars():
                model = SentenceTransformer(name)
        except OSError as error:
            raise assets.AssetError(
                f"the sentence embedder {self.name!r} is neither a folder nor a model the hub gives ({error}); check "
                "the name and the network, or use 'minilm', which needs the package index only"
            ) from error
        if model.device.type == "cpu":
            pack_linears(model)
        return model
