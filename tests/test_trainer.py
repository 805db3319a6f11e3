"""The trainer with scripted generators: runs repeat byte for byte, also when they are killed and resumed."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import torch
from ppo_codet5.helpers import assets
from ppo_codet5.helpers.problems import Problem, ProblemError, load_problems
from ppo_codet5.helpers.runs import RunError, read_rows
from scripted import STARTER, Scripted, small

from ppo_codet5 import core
from ppo_codet5.core import Parts, PPOCodeT5Trainer, load_agent
from ppo_codet5.envs import make_env

CONTENT = ("attempts.jsonl", "stops.jsonl", "metrics.jsonl", "results.csv", "summary.json")
SIX_UPDATES = {
    "train_limit": 8,
    "max_episodes": 24,
    "num_envs": 2,
    "eval_limit": 9,
    "memory_scope": "run",
    "updates_ahead": 2,
    "actions": "direct,mutation,rewriting,repair,stop",
}


def quiet(line: str) -> None:
    pass


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in CONTENT}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "final_model.pt", weights_only=True)["agent"]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def whole(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A run that nothing interrupted, and its summary."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, PPOCodeT5Trainer(small(**SIX_UPDATES), parts=parts).train(folder, report=quiet)


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServerContext]:
    """Forks runs; its process reads these variables when it starts, and cannot be told later."""
    from killable import fork_server

    with pytest.MonkeyPatch.context() as patch:
        root = Path(__file__).parent
        patch.setenv("PYTHONPATH", os.pathsep.join([str(root), str(root.parent), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        context = fork_server()
        process = context.Process(target=quiet, args=("started",))
        process.start(), process.join()
        yield context


class Broken(Scripted):
    """A generator that must not be asked."""

    def generate(self, requests, each=None):
        raise AssertionError("this run should not have generated anything")


# Runs repeat


def test_the_logs_hold_what_the_config_says(whole: tuple[Path, dict]) -> None:
    folder, summary = whole
    metrics, attempts = read_rows(folder / "metrics.jsonl"), read_rows(folder / "attempts.jsonl")
    assert [row["update"] for row in metrics] == [1, 2, 3, 4, 5, 6]
    assert metrics[0]["first_ratio_deviation"] < 1e-6  # later updates hold steps of the policy one update before
    assert any(row["first_ratio_deviation"] > 1e-6 for row in metrics)
    trained = [row for row in attempts if row["phase"] == "train"]
    stops = [row for row in read_rows(folder / "stops.jsonl") if row["phase"] == "train"]
    assert stops and sum(row["steps"] for row in metrics) == len(trained) + len(stops)
    assert len({(row["task_id"], row["visit"]) for row in trained}) == 24
    assert {row["task_id"] for row in trained} <= {p.task_id for p in STARTER["train"]}
    scored = {row["task_id"] for row in attempts if row["phase"] == "eval"}
    assert len(scored) == 9 and scored <= {p.task_id for p in STARTER["test"]}
    for strategy in ("ppo", "ppo_sampled"):
        rows = [row for row in attempts if row["phase"] == "eval" and row["strategy"] == strategy]
        assert summary["scores"][strategy]["generations"] == len(rows)
        assert summary["scores"][strategy]["n"] == 9 and summary["scores"][strategy]["budget"] == 3
    assert 0 < summary["scores"]["ppo"]["pass_at_1"] < 1  # or the comparisons below compare little
    assert {row["action"] for row in trained} == {0, 1, 2, 3} and read_rows(folder / "stops.jsonl")
    assert len((folder / "results.csv").read_text().splitlines()) == 1 + 9
    assert summary["training_cost"]["generations"] == len(trained) > 0
    assert summary["training_cost"]["rewriter_calls"] == sum(row["rewriter_calls"] for row in trained)
    assert json.loads((folder / "summary.json").read_text()) == json.loads(json.dumps(summary))


def test_early_starts_change_the_policy_that_acts_and_nothing_else(
    whole: tuple[Path, dict], parts: Parts, tmp_path: Path
) -> None:
    """Without them every step is of the policy that is updated; the updates' lists of episodes stay the same."""
    trainer = PPOCodeT5Trainer(small(**{**SIX_UPDATES, "updates_ahead": 0}), parts=parts)
    trainer.train(tmp_path / "run", report=quiet)
    metrics = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert all(row["first_ratio_deviation"] < 1e-6 for row in metrics)
    early, none = (
        [(row["task_id"], row["visit"]) for row in read_rows(folder / "attempts.jsonl")
         if row["phase"] == "train" and row["attempt"] == 0]
        for folder in (whole[0], tmp_path / "run")
    )  # fmt: skip
    assert [set(none[i : i + 4]) for i in range(0, 24, 4)] == [set(early[i : i + 4]) for i in range(0, 24, 4)]


def test_equal_configs_give_equal_bytes_with_a_cold_and_a_warm_cache(whole: tuple[Path, dict], tmp_path: Path) -> None:
    from killable import scripted_parts

    folder, _ = whole
    for name in ("cold", "warm"):
        with scripted_parts(tmp_path / "cache") as cached:
            PPOCodeT5Trainer(small(**SIX_UPDATES), parts=cached).train(tmp_path / name, report=quiet)
            assert (cached.code.stats.misses > 0) == bool(cached.code.inner.batches) == (name == "cold")
        assert content(tmp_path / name) == content(folder)
        assert all(torch.equal(tensor, weights(folder)[key]) for key, tensor in weights(tmp_path / name).items())


def test_references_that_fail_are_named_when_the_run_starts(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def spoiled(config, split, **which):
        first, *others = load_split(config, split, **which)
        return [replace(first, challenge_tests=(f"assert {first.entry_point} is None",)), *others]

    load_split = core.load_split
    monkeypatch.setattr(core, "load_split", spoiled)
    trainer = PPOCodeT5Trainer(small(max_episodes=4), parts=parts)
    trained, scored = trainer.problems["train"][0].task_id, trainer.scored[0].task_id
    trainer.train(tmp_path / "ppo")
    lines = capsys.readouterr().out.splitlines()
    assert "2 of 8 references fail their own asserts" in lines[0]
    assert f"{trained} (wrong value)" in lines[0] and f"{scored} (wrong value)" in lines[0]
    assert not any("references" in line for line in lines[1:])
    config = json.loads((tmp_path / "ppo" / "config.json").read_text())
    assert config["failing_references"] == {str(trained): "wrong_value", str(scored): "wrong_value"}
    trainer.control("resampling", tmp_path / "resampling", report=quiet)  # which is not trained
    assert "1 of 4 references" in capsys.readouterr().out


def test_no_word_and_no_record_of_references_that_pass(
    whole: tuple[Path, dict], parts: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    PPOCodeT5Trainer(small(), parts=parts).control("random", tmp_path / "run", report=quiet)
    assert capsys.readouterr().out == ""
    assert "failing_references" not in json.loads((whole[0] / "config.json").read_text())


def problem_file(path: Path, splits: dict[str, list[Problem]]) -> str:
    """Problems as rows of the MBPP schema, with task ids that training problems of the starter set have too."""
    ids, rows = itertools.count(1001), []
    for split, problems in splits.items():
        for problem in problems:
            row = {"task_id": next(ids), "split": split, "text": problem.text, "code": problem.reference}
            rows.append(json.dumps(row | {"test_list": problem.tests, "challenge_test_list": problem.challenge_tests}))
    path.write_text("\n".join(rows))
    return str(path)


def names(problems: list[Problem]) -> set[str]:
    return {problem.entry_point for problem in problems}


def test_a_run_trains_on_one_set_and_scores_another(parts: Parts, tmp_path: Path) -> None:
    scored = STARTER["test"][:5]
    config = small(problems=problem_file(tmp_path / "other.jsonl", {"test": scored}), eval_limit=None, train_limit=None)
    with pytest.raises(ProblemError, match=r"'train' in '.*other\.jsonl', so nothing to train on; it has 5 of test"):
        PPOCodeT5Trainer(config, parts=parts)
    config.train_problems, config.memory_scope, config.eval_frequency = "starter", "run", 1
    summary = PPOCodeT5Trainer(config, parts=parts).train(tmp_path / "run", report=quiet)
    assert summary["problems"] == config.problems and summary["train_problems"] == "starter"
    asked: dict[str, set[str]] = {"train": set(), "validation": set(), "eval": set()}
    for row in read_rows(tmp_path / "run" / "attempts.jsonl"):
        asked[row["phase"]].add(re.search(r"def (\w+)\(", row["code"])[1])
    assert asked["eval"] == names(scored)
    assert asked["train"] and asked["train"] <= names(STARTER["train"])
    assert asked["validation"] and asked["validation"] <= names(STARTER["validation"])


def test_the_set_that_is_trained_on_belongs_to_the_run(parts: Parts, tmp_path: Path) -> None:
    splits = {"train": STARTER["train"][:8], "test": STARTER["test"][:3]}
    other, folder = problem_file(tmp_path / "other.jsonl", splits), tmp_path / "run"
    first = PPOCodeT5Trainer(small(problems=other), parts=parts).train(folder, report=quiet)
    lines: list[str] = []
    assert PPOCodeT5Trainer(small(problems=other), parts=parts).train(folder, report=lines.append) == first
    assert lines == [f"{folder} is complete: read, not run again"]
    elsewhere = PPOCodeT5Trainer(small(problems=other, train_problems="starter"), parts=parts)
    with pytest.raises(RunError, match=r"belongs to another config \(different: train, train_problems\)"):
        elsewhere.train(folder, report=quiet)
    assert elsewhere.scored == PPOCodeT5Trainer(small(problems=other), parts=parts).scored


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_scored_split_is_of_the_scored_set_whatever_its_name(split: str, parts: Parts, tmp_path: Path) -> None:
    ours = {name: problems[:6] for name, problems in STARTER.items()}
    config = small(problems="starter", train_problems=problem_file(tmp_path / "ours.jsonl", ours), eval_split=split)
    config.eval_frequency, config.eval_limit, config.train_limit = 1, None, None
    trainer = PPOCodeT5Trainer(config, parts=parts)
    assert trainer.scored == STARTER[split]
    assert names(trainer.problems["train"]) == names(ours["train"])
    assert names(core.validation_problems(config)) == names(ours["validation"])
    for asked in ("train", "validation", "test"):  # the environment alone, for an agent of one's own
        given = set(make_env(config, asked, parts).world.problems)
        assert given == (
            {p.task_id for p in STARTER[split]}
            if asked == split
            else {p.task_id for p in load_problems(config.train_problems, asked)}
        )


def test_humaneval_is_scored_after_training_on_another_set(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"task_id": "HumanEval/0", "entry_point": "one", "prompt": 'def one(x):\n    """Return x."""\n'}
    row |= {"canonical_solution": "    return x\n", "test": "def check(candidate):\n    assert candidate(1) == 1\n"}
    (tmp_path / "humaneval.jsonl").write_text(json.dumps(row))
    monkeypatch.setattr(assets, "humaneval", lambda: tmp_path / "humaneval.jsonl")
    with pytest.raises(ProblemError, match=r"nothing to train on; it has 1 of test: .*with train_problems"):
        PPOCodeT5Trainer(small(problems="humaneval"), parts=parts)
    trainer = PPOCodeT5Trainer(small(problems="humaneval", train_problems="starter"), parts=parts)
    assert names(trainer.scored) == {"one"} and names(trainer.problems["train"]) <= names(STARTER["train"])


def test_another_seed_gives_another_run(parts: Parts, tmp_path: Path) -> None:
    for seed in (0, 1):
        PPOCodeT5Trainer(small(seed=seed), parts=parts).train(tmp_path / str(seed), report=quiet)
    first, second = content(tmp_path / "0"), content(tmp_path / "1")
    assert all(first[name] != second[name] for name in CONTENT if name != "stops.jsonl")  # nobody may stop


# Kills


def start(server: ForkServerContext, folder: Path, **how):
    from killable import train

    ready, its = server.Pipe()
    process = server.Process(target=train, args=(folder, SIX_UPDATES, its), kwargs=how)
    process.start()
    assert ready.poll(60) and ready.recv()
    return process


def test_a_run_killed_at_random_points_ends_as_if_never_interrupted(
    whole: tuple[Path, dict], server: ForkServerContext, tmp_path: Path
) -> None:
    draw, kills, folder = random.Random(0), 0, tmp_path / "run"
    began = time.monotonic()
    process = start(server, tmp_path / "whole")
    process.join()
    took = time.monotonic() - began
    assert process.exitcode == 0 and content(tmp_path / "whole") == content(whole[0])
    while kills < 5 or not (folder / "summary.json").exists():
        if (folder / "summary.json").exists():  # finished before it was killed often enough: once more
            folder = tmp_path / f"run{kills}"
        process = start(server, folder)
        process.join(draw.uniform(0, took / 4) if kills < 8 else None)
        process.kill()
        process.join()
        kills += process.exitcode == -9
        assert process.exitcode in (0, -9)
    assert content(folder) == content(whole[0])
    assert all(torch.equal(tensor, weights(whole[0])[key]) for key, tensor in weights(folder).items())


def test_a_run_killed_at_each_write_ends_as_if_never_interrupted(
    whole: tuple[Path, dict], server: ForkServerContext, tmp_path: Path
) -> None:
    """Before or after each of its files appears: config, checkpoints, model, results, summary."""
    folder, write = tmp_path / "run", 0
    while not (folder / "summary.json").exists():
        write += 1
        process = start(server, folder, write=1 + write % 4, after=write % 3 == 0)
        process.join()
        assert process.exitcode in (0, -9), write
        assert write < 60
    assert write > 6
    assert content(folder) == content(whole[0])


# What is there already


def test_a_finished_run_is_read_and_not_run_again(whole: tuple[Path, dict], parts: Parts) -> None:
    folder, summary = whole
    before, lines = snapshot(folder), []
    other = Parts(Broken("none"), Broken("none"), parts.lexicon, parts.embedder, parts.sandbox)
    trainer = PPOCodeT5Trainer(small(**SIX_UPDATES), parts=other)
    assert trainer.train(folder, report=lines.append) == json.loads(json.dumps(summary))
    assert len(lines) == 1 and "complete" in lines[0]
    assert snapshot(folder) == before
    assert all(torch.equal(tensor, weights(folder)[key]) for key, tensor in trainer.agent.state_dict().items())


@pytest.mark.parametrize("change", [{"seed": 1}, {"temperature": 0.5}, {"eval_limit": 8}, {"visible_tests": "all"}])
def test_a_folder_of_another_config_is_refused_and_left_alone(
    whole: tuple[Path, dict], parts: Parts, change: dict
) -> None:
    before = snapshot(whole[0])
    trainer = PPOCodeT5Trainer(small(**{**SIX_UPDATES, **change}), parts=parts)
    with pytest.raises(RunError, match=f"belongs to another config .*{next(iter(change))}.*choose another folder"):
        trainer.train(whole[0], report=quiet)
    with pytest.raises(RunError, match="belongs to another config"):
        trainer.control("resampling", whole[0], report=quiet)
    assert snapshot(whole[0]) == before


def test_a_folder_with_other_files_is_refused(parts: Parts, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("text")
    with pytest.raises(RunError, match=r"is not a run's: it holds thesis\.tex and no config\.json"):
        PPOCodeT5Trainer(small(), parts=parts).train(tmp_path, report=quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_where_the_run_stands_and_where_completions_are_kept_is_no_part_of_it(
    whole: tuple[Path, dict], parts: Parts
) -> None:
    config = small(**SIX_UPDATES, run_dir="elsewhere", generation_cache="some/cache")
    assert PPOCodeT5Trainer(config, parts=parts).train(whole[0], report=quiet)["strategy"] == "ppo"


# Evaluation and controls


def test_a_loaded_agent_scores_what_it_scored(whole: tuple[Path, dict], parts: Parts, tmp_path: Path) -> None:
    folder, summary = whole
    trainer = PPOCodeT5Trainer(small(**SIX_UPDATES), parts=parts)
    with pytest.raises(RunError, match=r"no agent to evaluate: call train\(\) or load"):
        trainer.evaluate(report=quiet)
    assert trainer.load(folder / "final_model.pt") is trainer
    part = trainer.evaluate(num_episodes=4, report=quiet)
    assert part["scores"]["ppo"]["n"] == 4
    everything = trainer.evaluate(output_dir=tmp_path / "evaluation", report=quiet)
    assert everything["scores"]["ppo"]["n"] == summary["scores"]["ppo"]["n"] == 9
    assert (tmp_path / "evaluation" / "summary.json").exists()


def test_without_memory_across_problems_evaluation_repeats_training_scores(parts: Parts, tmp_path: Path) -> None:
    trained = PPOCodeT5Trainer(small(), parts=parts)
    summary = trained.train(tmp_path / "run", report=quiet)
    fresh = PPOCodeT5Trainer(small(), parts=parts).load(tmp_path / "run" / "final_model.pt")
    assert fresh.evaluate(report=quiet)["curves"]["ppo"] == summary["curves"]["ppo"]
    assert trained.evaluate(report=quiet)["curves"]["ppo"] == summary["curves"]["ppo"]


def test_an_evaluation_belongs_to_the_agent_that_was_evaluated(parts: Parts, tmp_path: Path) -> None:
    for seed in (0, 1):
        agent = load_agent(small(seed=seed), parts)
        torch.save({"agent": agent.state_dict()}, tmp_path / f"{seed}.pt")
    trainer = PPOCodeT5Trainer(small(), parts=parts)
    first = trainer.load(tmp_path / "0.pt").evaluate(output_dir=tmp_path / "run", report=quiet)
    assert trainer.load(tmp_path / "0.pt").evaluate(output_dir=tmp_path / "run", report=quiet) == first
    with pytest.raises(RunError, match="belongs to another config"):
        trainer.load(tmp_path / "1.pt").evaluate(output_dir=tmp_path / "run", report=quiet)


def test_wrong_checkpoints_are_refused_in_one_sentence(parts: Parts, tmp_path: Path) -> None:
    trainer = PPOCodeT5Trainer(small(), parts=parts)
    with pytest.raises(RunError, match="no checkpoint at"):
        trainer.load(tmp_path / "missing.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    with pytest.raises(RunError, match=r"text\.pt is not a checkpoint of this project"):
        trainer.load(tmp_path / "text.pt")
    other = load_agent(small(hidden_size=8), parts)
    torch.save({"agent": other.state_dict()}, tmp_path / "other.pt")
    with pytest.raises(RunError, match="holds an agent of another shape"):
        trainer.load(tmp_path / "other.pt")
    assert trainer.agent is None


def test_an_evaluation_of_nothing_and_an_unknown_control_are_refused(parts: Parts, tmp_path: Path) -> None:
    trainer = PPOCodeT5Trainer(small(), parts=parts)
    for name in ("resample", "ppo", "ppo_sampled", ""):
        with pytest.raises(RunError, match=r"unknown control .*resampling.*random"):
            trainer.control(name, tmp_path / "run", report=quiet)
    trainer.agent = load_agent(trainer.config, trainer.parts)
    for count in (0, -1):
        with pytest.raises(RunError, match=f"num_episodes = {count} must be"):
            trainer.evaluate(num_episodes=count, output_dir=tmp_path / "run", report=quiet)
    assert not (tmp_path / "run").exists()


def test_train_on_a_finished_folder_takes_over_its_agent(whole: tuple[Path, dict], parts: Parts) -> None:
    trainer = PPOCodeT5Trainer(small(**SIX_UPDATES), parts=parts)
    trainer.agent = load_agent(trainer.config, trainer.parts)  # another one, loaded before
    trainer.train(whole[0], report=quiet)
    assert all(torch.equal(tensor, weights(whole[0])[key]) for key, tensor in trainer.agent.state_dict().items())


def test_controls_share_the_random_numbers_of_the_agent(parts: Parts, tmp_path: Path) -> None:
    rows, trainer = {}, PPOCodeT5Trainer(small(eval_limit=8), parts=parts)
    for name in ("resampling", "random"):
        summary = trainer.control(name, tmp_path / name, report=quiet)
        assert summary["strategy"] == name and list(summary["scores"]) == [name]
        rows[name] = {(row["task_id"], row["attempt"]): row for row in read_rows(tmp_path / name / "attempts.jsonl")}
        assert not (tmp_path / name / "final_model.pt").exists()
        assert {row["phase"] for row in rows[name].values()} == {"eval"}
    assert {row["action"] for row in rows["resampling"].values()} == {0}
    assert {row["action"] for row in rows["random"].values()} == {0, 1, 2}
    same = [key for key, row in rows["random"].items() if key[1] == 0 and row["action"] == 0]
    assert same  # a first direct generation is the same request, so the same program, for every strategy
    assert all(rows["random"][key]["code"] == rows["resampling"][key]["code"] for key in same)


def test_random_actions_do_not_depend_on_the_batch(parts: Parts, tmp_path: Path) -> None:
    actions = []
    for slots in (1, 3, 8):
        trainer = PPOCodeT5Trainer(small(eval_limit=8, num_envs=slots), parts=parts)
        trainer.control("random", tmp_path / str(slots), report=quiet)
        rows = read_rows(tmp_path / str(slots) / "attempts.jsonl")
        actions.append({(row["task_id"], row["attempt"]): (row["action"], row["code"]) for row in rows})
    assert actions[0] == actions[1] == actions[2]


# The real small model


@pytest.mark.slow
def test_smollm2_float32_repeats_byte_for_byte_cold_warm_and_killed(server: ForkServerContext, tmp_path: Path) -> None:
    from killable import train_real

    tokens = {"max_new_tokens": 24, "rewrite_tokens": 16, "reflection_tokens": 12, "max_steps": 2}
    few = {"train_limit": 3, "eval_limit": 3, "max_episodes": 6, "episodes_per_update": 3, **tokens}
    few["actions"] = "direct,mutation,rewriting,repair,stop"
    for name, cache, kill in (("cold", "a", False), ("warm", "a", False), ("killed", "b", True), ("none", None, False)):
        changes = {**few, "generation_cache": str(tmp_path / cache) if cache else None}
        while not (tmp_path / name / "summary.json").exists():
            ready, its = server.Pipe()
            process = server.Process(target=train_real, args=(tmp_path / name, changes, its))
            process.start()
            assert ready.poll(300) and ready.recv()
            while kill and process.is_alive() and not (tmp_path / name / "checkpoint.pt").exists():
                time.sleep(0.01)
            if kill:  # with a checkpoint to go on from, and work left
                process.kill()
                kill = False
                process.join()
                assert process.exitcode == -9 and not (tmp_path / name / "summary.json").exists()
            process.join()
            assert process.exitcode in (0, -9)
        assert content(tmp_path / name) == content(tmp_path / "cold")
