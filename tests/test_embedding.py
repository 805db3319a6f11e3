"""Embedder: a text's vector belongs to the text, not to the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ppo_codet5.helpers.assets import AssetError
from ppo_codet5.helpers.language import Embedder, embedding

TEXTS = [
    "Write a function to find the largest number in a list.",
    "Write a function to get the biggest number of a list.",
    "Write a python function to check whether a string is a palindrome.",
    "",
    "sum",
    "Assert 2 failed: expected [1, 2, 3], got None. TypeError: unsupported operand\n" * 3,
    "caf\u00e9 \u4e2d\u6587 \U0001f600",
]


@pytest.fixture
def fresh(embedder: Embedder) -> Embedder:
    """The session's model behind an empty cache."""
    other = Embedder()
    other.__dict__["_model"] = embedder._model
    return other


def test_vectors_are_bitwise_the_same_alone_and_in_any_batch(fresh: Embedder) -> None:
    import torch

    alone = np.concatenate([fresh.encode([text]) for text in TEXTS])
    fresh._cache.clear()
    assert np.array_equal(fresh.encode(TEXTS), alone)
    fresh._cache.clear()
    assert np.array_equal(fresh.encode([*TEXTS[::-1], *TEXTS[:3]]), np.concatenate([alone[::-1], alone[:3]]))
    fresh._cache.clear()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert np.array_equal(fresh.encode(TEXTS), alone)
    finally:
        torch.set_num_threads(threads)


def test_shape_and_length(embedder: Embedder) -> None:
    vectors = embedder.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), embedder.dim) == (7, 384)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert embedder.encode([]).shape == (0, 384)


def test_like_the_published_model(embedder: Embedder) -> None:
    """The plain model gives the same vectors up to rounding."""
    from ppo_codet5.helpers import assets
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(str(assets.minilm())).encode(TEXTS, show_progress_bar=False)
    assert np.abs(embedder.encode(TEXTS) - plain).max() < 2e-6


def test_similarity_follows_meaning(embedder: Embedder) -> None:
    near, far = embedder.similarity(TEXTS[0], TEXTS[1]), embedder.similarity(TEXTS[0], TEXTS[2])
    assert near > 0.8 > 0.5 > far
    assert embedder.similarity(TEXTS[0], TEXTS[0]) == pytest.approx(1.0, abs=1e-12)
    assert embedder.similarity(TEXTS[0], TEXTS[1]) == embedder.similarity(TEXTS[1], TEXTS[0])


def test_only_new_texts_are_computed(fresh: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    embed = fresh._embed
    monkeypatch.setattr(fresh, "_embed", lambda texts: (seen.extend(texts), embed(texts))[1])
    monkeypatch.setattr(embedding, "_CACHED_TEXTS", 2)
    first = fresh.encode(["a", "b", "a", "a"])
    assert seen == ["a", "b"]
    assert np.array_equal(first[0], first[2]) and not np.array_equal(first[0], first[1])
    fresh.encode(["a"])  # now "b" is the one used longest ago
    fresh.encode(["c"])
    fresh.encode(["a", "b"])
    assert seen == ["a", "b", "c", "b"]
    assert np.array_equal(fresh.encode(["d", "c", "b", "a"])[3], first[0])  # more texts than the cache holds


def test_results_do_not_share_memory_with_the_cache(fresh: Embedder) -> None:
    before = fresh.encode(["sum"])
    before[:] = 0
    assert np.linalg.norm(fresh.encode(["sum"])) > 0.99


def test_missing_model(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="use 'minilm', which needs the package index only"):
        Embedder(str(tmp_path / "nowhere")).encode(["a"])
