"""Sentence embeddings of prompts and feedback."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from . import assets

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_CACHED_TEXTS = 16384
# An embedding's last bits change with the batch it is computed in: 34 % of the vectors in float32, and rounding
# them does not help, since some value always sits on the edge of two roundings (4 % of vectors even at 1e-4).
# In float64 that error is 3e-16; rounded to 1e-6 the vector is the same alone, in any batch, on any thread count.
_DECIMALS = 6


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

        A text's vector is bitwise the same whatever else is in ``texts``.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._cache]
        known = {text: self._cache[text] for text in texts if text in self._cache}
        if new:
            vectors = self._model.encode(new, batch_size=8, normalize_embeddings=True, show_progress_bar=False)
            known.update(zip(new, np.round(vectors, _DECIMALS).astype(np.float32), strict=True))
        self._cache.update(known)
        for text in known:
            self._cache.move_to_end(text)
        while len(self._cache) > _CACHED_TEXTS:
            self._cache.popitem(last=False)
        return np.stack([known[text] for text in texts]) if texts else np.zeros((0, self.dim), np.float32)

    def similarity(self, a: str, b: str) -> float:
        """Cosine similarity of two texts, in [-1, 1]."""
        first, second = self.encode([a, b]).astype(np.float64)
        cosine = first @ second / (np.linalg.norm(first) * np.linalg.norm(second))
        return float(np.clip(cosine, -1.0, 1.0))

    @cached_property
    def _model(self) -> SentenceTransformer:
        import torch
        from sentence_transformers import SentenceTransformer

        name = str(assets.minilm()) if self.name == "minilm" else self.name
        try:
            with assets.no_progress_bars():
                return SentenceTransformer(name, model_kwargs={"dtype": torch.float64})
        except OSError as error:
            raise assets.AssetError(
                f"the sentence embedder {self.name!r} is neither a folder nor a model the hub gives ({error}); check "
                "the name and the network, or use 'minilm', which needs the package index only"
            ) from error
