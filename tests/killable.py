"""Training runs in processes that may be killed at any point.

They are forked by multiprocessing's fork server, which imports this module once: what takes seconds to load is loaded
there, with one thread, and each run starts within milliseconds.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import torch

torch.set_num_threads(1)

from ppo_codet5.helpers import runs
from ppo_codet5.helpers.language import Lexicon
from ppo_codet5.helpers.models import CachedGenerator
from ppo_codet5.helpers.sandbox import Sandbox
from scripted import STARTER, BagOfWords, Coder, Rewriter, small

from ppo_codet5.core import Parts, PPOCodeT5Trainer, load_parts

LEXICON = Lexicon()
LEXICON.synonyms("number", LEXICON.tag(["a", "number"])[1])
PROBLEMS = [problem for split in STARTER.values() for problem in split]


class Slow(Coder):
    """A coder that takes a moment, so that kills by the clock hit all parts of a run."""

    def answer(self, request: Any) -> str:
        time.sleep(0.002)
        return super().answer(request)


@contextlib.contextmanager
def scripted_parts(cache: Path | None = None) -> Iterator[Parts]:
    with Sandbox(workers=1) as sandbox:
        models = Slow(PROBLEMS), Rewriter()
        if cache:
            models = tuple(CachedGenerator(model, cache) for model in models)
        yield Parts(*models, LEXICON, BagOfWords(), sandbox)


def die_at(write: int, after: bool) -> None:
    """SIGKILL this process right before, or after, its ``write``-th file appears under its name."""
    replace, writes = os.replace, itertools.count(1)

    def counted(source: Any, target: Any) -> None:
        count = next(writes)
        if count == write and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if count == write:
            os.kill(os.getpid(), signal.SIGKILL)

    runs.os.replace = counted  # type: ignore[assignment]


def train(folder: Path, changes: dict[str, Any], ready: Connection, write: int = 0, after: bool = False) -> None:
    """Train with scripted models; the fork server's child."""
    with scripted_parts() as parts:
        trainer = PPOCodeT5Trainer(small(**changes), parts=parts)
        if write:
            die_at(write, after)
        ready.send(True)
        trainer.train(folder, report=lambda line: None)


def train_real(folder: Path, changes: dict[str, Any], ready: Connection) -> None:
    """Train with the models that the config names."""
    config = small(**changes)
    parts = load_parts(config)
    ready.send(True)
    PPOCodeT5Trainer(config, parts=parts).train(folder, report=lambda line: None)


def fork_server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killable"])
    return context
