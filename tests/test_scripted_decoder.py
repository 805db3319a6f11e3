"""The whole path from prompt to score through real decode loops, encoder-decoder and decoder-only.

Tiny models in the shapes of CodeT5+ and Llama, loaded from a folder. Random, they go through training end to end.
With scripted weights, they spell each problem's reference solution, and everything after them must find it right.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ppo_codet5.helpers.language import Lexicon
from ppo_codet5.helpers.models import CachedGenerator, Request
from ppo_codet5.helpers.models.local import TransformersGenerator
from ppo_codet5.helpers.runs import read_rows
from ppo_codet5.helpers.sandbox import Sandbox
from scripted import STARTER, BagOfWords, Rewriter, scripted_llama, scripted_t5, small
from tiny import save_llama, save_t5

from ppo_codet5.core import Parts, PPOCodeT5Trainer, PromptWorld, RLPromptVectorEnv, load_parts

SOLVABLE = {
    split: [p for p in problems if p.reference.startswith(f"def {p.entry_point}(")]
    for split, problems in STARTER.items()
}
SCRIPTS = {"t5": (scripted_t5, 24), "llama": (scripted_llama, 20)}


def quiet(line: str) -> None:
    pass


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as running:
        yield running


@pytest.fixture(scope="module", params=SCRIPTS)
def scripted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TransformersGenerator, list]:
    """A generator whose model spells the references of these problems, and the problems."""
    load, count = SCRIPTS[request.param]
    problems = SOLVABLE["test"][: count // 2] + SOLVABLE["train"][: count // 2]
    return load(tmp_path_factory.mktemp("models") / "scripted", problems, batch_size=5), problems


def test_every_row_spells_its_own_program(scripted: tuple[TransformersGenerator, list]) -> None:
    """Five slots, many requests: rows of other lengths leave, others enter and move, and none takes another's text."""
    generator, problems = scripted
    requests = [
        Request(f"# {p.text * (1 + i % 3)}\n{p.tests[0]}\n", seed=i, prefix=f"def {p.entry_point}(", max_new_tokens=400)
        for i, p in enumerate(problems)
    ]
    for order in (range(len(requests)), np.random.default_rng(0).permutation(len(requests))):
        done = generator.generate([requests[i] for i in order])
        assert [c.text for c in done] == [problems[i].reference for i in order]
        assert {c.finish_reason for c in done} == {"stop"}
    assert len({c.completion_tokens for c in done}) > 5
    (cut,) = generator.generate([replace(requests[0], max_new_tokens=3)])
    assert requests[0].prefix in cut.text and problems[0].reference.startswith(cut.text)
    assert cut.finish_reason == "length"


def test_a_perfect_decoder_scores_one(
    scripted: tuple[TransformersGenerator, list], sandbox: Sandbox, lexicon: Lexicon, tmp_path: Path
) -> None:
    generator, problems = scripted
    parts = Parts(CachedGenerator(generator, tmp_path / "cache"), Rewriter(), lexicon, BagOfWords(), sandbox)
    half = len(problems) // 2
    config = small(
        max_new_tokens=400, max_steps=2, num_envs=7, eval_limit=None, train_limit=None, max_episodes=8,
        episodes_per_update=4,
    )  # fmt: skip
    envs = RLPromptVectorEnv(PromptWorld(config, parts, problems), 6)
    solved, (_, infos) = 0, envs.reset(options={"episodes": [(p.task_id, 0) for p in problems]})
    while infos["active"].any():
        live = infos["active"]
        actions = np.arange(6) % 3  # edited prompts must be found right too
        _, rewards, terminated, truncated, infos = envs.step(actions)
        assert rewards[live] == pytest.approx(1.9) and terminated[live].all() and not truncated.any()
        solved += live.sum()
    assert solved == len(problems)

    trainer = PPOCodeT5Trainer(config, parts=parts)
    trainer.problems, trainer.scored = {"train": problems[half:]}, problems[:half]
    summary = trainer.train(tmp_path / "run", report=quiet)
    assert trainer.control("random", tmp_path / "random", report=quiet)["scores"]["random"]["pass_at_1"] == 1.0
    for score in summary["scores"].values():
        assert score["pass_at_1"] == score["soft_pass_at_1"] == score["visible_pass"] == 1.0
        assert score["n"] == score["generations"] == half
    rows = read_rows(tmp_path / "run" / "attempts.jsonl")
    assert all(row["full_mask"] == [1] * 6 and row["reward"] == 1.9 and not row["extraction"] for row in rows)
    metrics = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [(row["steps"], row["solved_visible"]) for row in metrics] == [(4, 1.0)] * 2
    assert [row["mean_return"] for row in metrics] == pytest.approx([1.9, 1.9])


# Random models of both shapes, by the name of their folder


def test_an_encoder_decoder_in_a_folder_is_trained_with_end_to_end(tmp_path: Path) -> None:
    models = {"code_model": str(save_t5(tmp_path / "t5")), "rewriter_model": str(save_llama(tmp_path / "llama"))}
    sizes = {"max_new_tokens": 12, "rewrite_tokens": 10, "reflection_tokens": 8, "max_steps": 2}
    parts = load_parts(config := small(**models, **sizes, generation_cache=str(tmp_path / "cache")))
    assert parts.code.inner.encoder_decoder and not parts.rewriter.inner.encoder_decoder
    misses, results = [], []
    for name in ("cold", "warm"):
        summary = PPOCodeT5Trainer(config, parts=parts).train(tmp_path / name, report=quiet)
        assert summary["scores"]["ppo"]["n"] == 4
        rows = read_rows(tmp_path / name / "attempts.jsonl")
        assert len(read_rows(tmp_path / name / "metrics.jsonl")) == 2
        assert {row["action"] for row in rows} == {0, 1, 2}
        assert all(0 < row["completion_tokens"] <= 12 for row in rows)
        assert any(row["rewriter_calls"] > 0 < row["rewriter_completion_tokens"] for row in rows)
        assert len({row["code"] for row in rows}) > len(rows) / 2  # random weights: texts of their own, not one
        misses.append(parts.code.stats.misses)
        results.append([(tmp_path / name / file).read_bytes() for file in ("attempts.jsonl", "summary.json")])
    parts.sandbox.close()
    assert results[0] == results[1] and misses[0] == misses[1] > 0
