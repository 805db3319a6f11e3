"""Notebook 03: every strategy in its world, with scripted models in place of real ones; and notebook 02's prompts."""

from __future__ import annotations

import ast
import csv
import itertools
import json
import re
import types
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from notebooks import module_of
from ppo_codet5.helpers.models import CachedGenerator, Completion, Request
from ppo_codet5.helpers.problems import ProblemError, sides
from ppo_codet5.helpers.replies import cut, extract_program
from ppo_codet5.helpers.results import scoring
from ppo_codet5.helpers.runs import RunError, read_rows
from scripted import CUT, REFLECT, STARTER, Coder, Rewriter, partly, right, scripted_llama, small, sometimes, wrong

from ppo_codet5 import core, grid
from ppo_codet5.core import Parts, PPOCodeT5Trainer

STRATEGIES = ("direct", "mutation", "rewriting", "random", "epic", "reflexion")
CONTROLS = ("resampling", "fixed_action", "mixture", "schedule", "bandit")
ALL = STRATEGIES + CONTROLS
FEW: dict[str, Any] = {
    "train_limit": 4,
    "eval_limit": 6,
    "max_episodes": 8,
    "episodes_per_update": 4,
    "num_envs": 4,
    "max_steps": 3,
    "dtype": "float32",
    "device": "cpu",
    "generation_cache": None,
    "selection_limit": 3,
    "resampling_steps": 1,  # no more than the budget
    "bank_limit": 3,
}
OWN = {"selection_limit", "resampling_steps", "bank_limit"}
PROBLEMS = [problem for split in STARTER.values() for problem in split]
IDS = {split: {problem.task_id for problem in problems} for split, problems in STARTER.items()}
CONTENT = ("attempts.jsonl", "metrics.jsonl", "results.csv", "summary.json")
Rule = Callable[[Any, Request], str]


def quiet(line: str) -> None:
    pass


def never(problem: Any, request: Request) -> str:
    return wrong(problem)


def halfway(problem: Any, request: Request) -> str:
    return partly(problem)


def task_of(request: Request) -> str:
    """The task with its notes, from a prompt in completion form."""
    return request.prompt.removeprefix('"""\n').partition("\nassert ")[0]


def when_rewritten(problem: Any, request: Request) -> str:
    return right(problem) if ", version " in task_of(request) else wrong(problem)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def make(parts: Parts, tmp_path: Path) -> Callable[..., Any]:
    """Baselines with scripted models of their own; their notebook's module is ``.nb``."""

    def make(rule: Rule = sometimes, coder: type[Coder] = Coder, **changes: Any) -> Any:
        nb = module_of("03_baselines.ipynb", **{**FEW, "run_dir": str(tmp_path / "runs"), **changes})
        own = Parts(coder(PROBLEMS, rule), Rewriter(), parts.lexicon, parts.embedder, parts.sandbox)
        baselines = nb.Baselines(nb.config, parts=own)
        baselines.nb = nb
        return baselines

    return make


def rows_of(baselines: Any, strategy: str, phase: str | None = "eval") -> list[dict[str, Any]]:
    rows = read_rows(baselines.folder(strategy) / "attempts.jsonl")
    return [row for row in rows if phase in (None, row["phase"])]


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in CONTENT}


def played(baselines: Any, strategy: str) -> dict[int, list[dict[str, Any]]]:
    baselines.run(strategy, report=quiet)
    return scoring.by_problem(rows_of(baselines, strategy))


# Prompts


CHAT = dict.fromkeys(("chat", "chat-fenced", "chat-free"), "02_PPO_LlaMa.ipynb")
FORMS = (("completion", "01_ppo_codet5.ipynb"), *CHAT.items())


def test_both_prompts_are_those_of_notebooks_01_and_02() -> None:
    baselines, notes = module_of("03_baselines.ipynb"), ("It is off by one.", "It forgets zero.")
    for form, notebook in FORMS:
        changes = {"prompt_form": form} if form != "completion" else {}
        theirs = module_of(notebook, **changes)
        assert baselines.STOP_RULE == theirs.STOP_RULE == core.STOP_RULE
        for problem in STARTER["test"][:20]:
            for visible, args in ((1, (problem, problem.text)), ("all", (problem, "Other words."))):
                config = small(prompt_form=form, visible_tests=visible)
                prompt = theirs.code_prompt(*args, config, notes)
                assert baselines.code_prompt(*args, config, notes) == core.code_prompt(*args, config, notes) == prompt
                text = prompt[0] if form == "completion" else prompt[0][0][1]
                assert (problem.tests[1] in text) == (visible == "all") and problem.tests[0] in text
                assert all(note in text for note in notes)


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="= 'completion' must be 'chat', 'chat-fenced' or 'chat-free'"):
        module_of("02_PPO_LlaMa.ipynb", prompt_form="completion")


def test_what_each_chat_form_forces_a_reply_to_start_with() -> None:
    problem = STARTER["test"][0]
    asked = {form: core.code_prompt(problem, "Task.", small(prompt_form=form)) for form in CHAT}
    starts = {"chat": f"```python\ndef {problem.entry_point}(", "chat-fenced": "```python\n", "chat-free": ""}
    assert {form: start for form, (_, start) in asked.items()} == starts
    assert asked["chat"][0] == asked["chat-fenced"][0] != asked["chat-free"][0]


CODE = "import math\n\ndef half(x):\n    return math.floor(x / 2)\n"


@pytest.mark.parametrize(
    "reply",
    [
        f"[PYTHON]\n{CODE}[/PYTHON]\nThis halves x. Here is how to use it: half(4)",
        f"Sure! Here is the function:\n[PYTHON]\n{CODE}[/PYTHON]",
        f"Here is your function.\n\n```python\n{CODE}```\nIt halves x.\n```python\nprint(half(3))\n```",
        f"```\n{CODE}```",
        f"[PYTHON]\n```python\n{CODE}```\n[/PYTHON]",
        f"{CODE}\nThis function halves x.",
        f" [PYTHON]\n{CODE}\n# Tests\nassert half(2) == 1\n[/PYTHON]",
    ],
)
def test_what_chat_models_write_becomes_the_program(reply: str) -> None:
    kept = cut(reply, module_of("02_PPO_LlaMa.ipynb").STOP_RULE)
    program, note = extract_program(kept, "half")
    assert program == CODE.strip().replace("\n\n", "\n\n") and note == ""
    assert "how to use" not in kept and "print" not in kept


def test_a_llama_asked_in_chat_form_scores_one_if_it_spells_the_references(tmp_path: Path, parts: Parts) -> None:
    """The whole path of notebook 02 on a real decode loop: chat template, forced start, stop rule, extraction."""
    problems = STARTER["test"][:12]
    chat = Parts(
        scripted_llama(tmp_path / "llama", problems, 5), Rewriter(), parts.lexicon, parts.embedder, parts.sandbox
    )
    config = small(max_new_tokens=200, prompt_form="chat")
    world = core.PromptWorld(config, chat, problems)
    episodes = [core.Episode(problem, 0) for problem in problems]
    world.advance(episodes, [0] * len(episodes))
    assert [episode.best for episode in episodes] == [1] * len(problems)
    assert all(all(episode.attempts[0]["full_mask"]) for episode in episodes)
    request = core.code_request(problems[0], "Task.", config, seed=0)
    assert request.prompt[0][0] == "user" and request.prefix.startswith("```python\ndef ")


def test_in_a_fence_imports_and_helpers_may_stand_above_the_function(tmp_path: Path, parts: Parts) -> None:
    """As above in the form "chat-fenced": a program that the forced start of the form "chat" would have ruled out."""
    problems = STARTER["test"][:12]
    above = "import math\n\n\ndef same(value):\n    return math.prod([1]) and value\n\n\n"
    written = [
        replace(p, reference=f"{above}{p.reference}\n\n\n{p.entry_point} = same({p.entry_point})\n```\nIt works.")
        for p in problems
    ]
    llama = scripted_llama(tmp_path / "llama", written, 5, fenced=True)
    chat = Parts(llama, Rewriter(), parts.lexicon, parts.embedder, parts.sandbox)
    world = core.PromptWorld(small(max_new_tokens=300, prompt_form="chat-fenced"), chat, problems)
    episodes = [core.Episode(problem, 0) for problem in problems]
    world.advance(episodes, [0] * len(episodes))
    assert [episode.best for episode in episodes] == [1] * len(problems)
    for episode in episodes:
        (attempt,) = episode.attempts
        assert attempt["code"].startswith(above) and "It works" not in attempt["code"] and all(attempt["full_mask"])


# Budgets, rows, random numbers


@pytest.mark.parametrize("visible", [1, "all"])
@pytest.mark.parametrize("rule", [sometimes, never])
def test_no_strategy_exceeds_its_budget_or_goes_on_when_it_has_solved(
    make: Callable[..., Any], visible: object, rule: Rule
) -> None:
    baselines = make(rule, visible_tests=visible)
    for strategy in ALL:
        budget, attempts = (1 if strategy in STRATEGIES[:3] else 3), played(baselines, strategy)
        assert set(attempts) == {problem.task_id for problem in baselines.problems["eval"]}
        for rows in attempts.values():
            shown = 1 if visible == 1 else len(rows[0]["test_mask"])
            assert all(len(row["visible_mask"]) == shown for row in rows)
            solved = [all(row["visible_mask"]) for row in rows]
            assert len(rows) <= budget and not any(solved[:-1])
            assert solved[-1] or len(rows) == budget
        summary = json.loads((baselines.folder(strategy) / "summary.json").read_text())
        score = summary["scores"][strategy]
        assert (score["budget"], score["n"], len(summary["curves"][strategy])) == (budget, 6, budget)
        assert score["generations"] == sum(map(len, attempts.values()))


def test_rows_and_summaries_look_like_the_trainer_s(make: Callable[..., Any], tmp_path: Path) -> None:
    baselines = make()
    shared = {name: FEW[name] for name in FEW if name not in OWN}
    trainer = PPOCodeT5Trainer(small(**shared), parts=baselines.parts)
    for strategy in ("resampling", "random"):  # the same rows from the same seeds, byte for byte
        theirs = trainer.control(strategy, tmp_path / strategy, report=quiet)
        ours = baselines.run(strategy, report=quiet)
        assert ours == theirs
        name = "attempts.jsonl"
        assert (baselines.folder(strategy) / name).read_bytes() == (tmp_path / strategy / name).read_bytes()
    for strategy in ALL:
        baselines.run(strategy, report=quiet)
        for row in rows_of(baselines, strategy, None):
            extra = {"schedule"} if row["phase"] == "selection" else set()
            assert list(row)[: len(row) - len(extra)] == list(rows_of(baselines, "random")[0])
            assert row["strategy"] == strategy and set(row) - set(rows_of(baselines, "random")[0]) == extra
    identities = [json.loads((baselines.folder(s) / "config.json").read_text())["identity"] for s in ALL]
    theirs = json.loads((tmp_path / "random" / "config.json").read_text())["identity"]
    for identity in identities:
        differ = {k for k in identity.keys() & theirs.keys() if identity[k] != theirs[k]}
        assert differ <= {"strategy"}
        assert identity.keys() - theirs.keys() == {"own_settings", "tuning"}
    own = {identity["strategy"]: identity["own_settings"] for identity in identities}
    for single, actions in (("direct", "direct"), ("mutation", "direct,mutation"), ("rewriting", "direct,rewriting")):
        assert own[single] == {"max_steps": 1, "actions": actions}
    assert own["resampling"] == {"max_steps": 3, "actions": "direct"}
    assert {s for s in ALL if not own[s]} == {"random", *CONTROLS} - {"resampling"}
    assert own["reflexion"]["temperature"] == own["epic"]["temperature"] == 0


def test_equal_requests_get_equal_answers(make: Callable[..., Any]) -> None:
    baselines = make(eval_limit=20)
    runs = {strategy: played(baselines, strategy) for strategy in ALL}
    assert [rows[0]["code"] for rows in runs["direct"].values()] == [r[0]["code"] for r in runs["resampling"].values()]
    for action, single in enumerate(("direct", "mutation", "rewriting")):
        first = [task for task, rows in runs["random"].items() if rows[0]["action"] == action]
        assert first
        for task in first:
            ours, theirs = runs["random"][task][0], runs[single][task][0]
            assert (ours["prompt"], ours["code"]) == (theirs["prompt"], theirs["code"])
    assert [rows[0]["code"] for rows in runs["epic"].values()] == [r[0]["code"] for r in runs["reflexion"].values()]
    chosen = json.loads((baselines.folder("fixed_action") / "summary.json").read_text())["chosen"]
    assert chosen in ([0] * 3, [1] * 3, [2] * 3)
    if chosen[0] == 0:
        assert [len(r) for r in runs["fixed_action"].values()] == [len(r) for r in runs["resampling"].values()]


def test_a_batch_holds_all_problems(make: Callable[..., Any]) -> None:
    """One call of the code model per attempt, and at most three of the rewriter (reflect, rewrite, once more)."""
    for strategy in ("resampling", "random", "rewriting", "epic", "reflexion"):
        baselines = make(never, num_envs=6, run_dir=f"unused/{strategy}")
        baselines.config.run_dir = str(Path(make().config.run_dir) / strategy)
        baselines.run(strategy, report=quiet)
        attempts = 1 if strategy == "rewriting" else 3
        assert [len(batch) for batch in baselines.parts.code.batches] == [6] * attempts
        assert len(baselines.parts.rewriter.batches) <= 3 * attempts


# EPiC


def test_parents_are_drawn_in_proportion_to_fitness() -> None:
    nb, rng = module_of("03_baselines.ipynb"), np.random.default_rng(0)
    for fitness, shares in (([0, 1 / 3, 2 / 3], [0, 1 / 3, 2 / 3]), ([0, 0], [0.5, 0.5]), ([0.5], [1])):
        drawn = Counter(nb.draw_parents(fitness, 6000, rng))
        for index, share in enumerate(shares):
            assert drawn[index] / 6000 == pytest.approx(share, abs=0.025) and bool(drawn[index]) == bool(share)


def test_elitism_keeps_the_best_and_the_earliest_of_equals() -> None:
    population = module_of("03_baselines.ipynb").Population(judged=[("a", 0.2), ("b", 0.6), ("c", 0.6), ("d", 0.0)])
    kept = {mode: Counter() for mode in (True, False)}
    for mode, counts in kept.items():
        for draw in range(700):
            prompt, parents = population.next_parents(4, mode, np.random.default_rng(draw))
            counts[prompt] += 1
            assert len(parents) == 4 and "d" not in parents
    assert kept[True] == {("b", 0.6): 700}
    for prompt, share in (("a", 1 / 7), ("b", 3 / 7), ("c", 3 / 7)):
        assert kept[False][(prompt, dict(population.judged)[prompt])] / 700 == pytest.approx(share, abs=0.06)


def epic_search(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, rule: Rule, **changes: Any) -> Any:
    """EPiC on three problems, and the parents of each batch of mutants that it asked for."""
    baselines = make(rule, **{"eval_limit": 3, "max_steps": 12, "visible_tests": "all", **changes})
    mutate, parents = baselines.nb.EpicGA.mutate, []

    def recorded(self: Any, texts: list[str], rngs: list[Any], **more: Any) -> list[str]:
        parents.extend([list(texts)] if texts else [])
        return mutate(self, texts, rngs, **more)

    monkeypatch.setattr(baselines.nb.EpicGA, "mutate", recorded)
    return baselines, played(baselines, "epic"), parents


def test_epic_tries_greedily_then_rewrites_then_mutates(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    baselines, attempts, parents = epic_search(make, monkeypatch, never)
    rewriter, code = baselines.parts.rewriter, baselines.parts.code
    assert [len(batch) for batch in rewriter.batches] == [15]  # five rewrites of three problems in one call
    assert {request.temperature for request in rewriter.requests} == {0.9}
    assert len({request.seed for request in rewriter.requests}) == 15
    assert {request.temperature for request in code.requests} == {0.0}
    assert [len(batch) for batch in parents] == [12, 12]  # four mutants of three problems, twice
    for rows in attempts.values():
        assert [row["action"] for row in rows] == [0] + [2] * 5 + [1] * 6
        assert [row["rewriter_calls"] for row in rows] == [0, 5] + [0] * 10
        rewrites = {row["prompt"] for row in rows[1:6]}
        assert len(rewrites) == 5 and all(", version " in prompt for prompt in rewrites)
        known = {row["prompt"] for row in rows[:6]}
        assert {text for text in parents[0] if text in known}  # of a generation that was judged
        assert not {row["prompt"] for row in rows[6:]} <= known


def test_epic_s_mutants_come_from_the_fit(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the third rewrite passes some asserts, so it is the one parent there is, and what elitism keeps."""
    fit: dict[str, str] = {}

    def rule(problem: Any, request: Request) -> str:
        task = task_of(request)
        if ", version " in task and len(seen[problem.task_id] | {task}) == 3 and task not in seen[problem.task_id]:
            fit[problem.task_id] = task
        seen[problem.task_id] |= {task} if ", version " in task else set()
        return partly(problem) if task == fit.get(problem.task_id) else wrong(problem)

    for elitism in (True, False):
        seen: dict[int, set[str]] = defaultdict(set)
        fit.clear()
        folder = f"elitism-{elitism}"
        _, attempts, parents = epic_search(
            make, monkeypatch, rule, epic_elitism=elitism, run_dir=make().config.run_dir + folder
        )
        texts = set(fit.values())
        assert len(texts) == 3 and set(parents[0]) == set(parents[1]) == texts
        for rows in attempts.values():
            best = max(rows, key=lambda row: scoring.share(row["visible_mask"]))
            assert scoring.submitted(rows) == best and best["attempt"] == 3
        monkeypatch.undo()


def test_epic_elaborates_unless_the_model_can_write_a_sentence_only(make: Callable[..., Any]) -> None:
    nb = make().nb
    for style, own in (("sentence", None), ("specification", "elaboration"), ("plan", "elaboration")):
        config = make(rewrite_style=style).config
        assert nb.own_settings(config, "epic").get("rewrite_style") == own
    baselines = make(never, rewrite_style="specification", run_dir=f"{make().config.run_dir}-elaborates")
    baselines.parts.rewriter.rule = lambda request: f"{request.prefix} It takes numbers and returns a number."
    for rows in played(baselines, "epic").values():
        problem = next(p for p in PROBLEMS if p.task_id == rows[0]["task_id"])
        assert all(row["prompt"].startswith(nb.clean_task(problem.text)) for row in rows if row["action"] == 2)
    asked = [str(request.prompt) for request in baselines.parts.rewriter.requests]
    assert asked and all("type" in text for text in asked)


def test_epic_writes_no_rewrite_that_the_budget_cannot_judge(make: Callable[..., Any]) -> None:
    baselines = make(never, max_steps=3)
    for rows in played(baselines, "epic").values():
        assert [row["action"] for row in rows] == [0, 2, 2]
        assert [row["rewriter_calls"] for row in rows] == [0, 2, 0]


def fails_on(problem: Any, test: str) -> str:
    """A program that is right but for the call in ``test``."""
    call = json.dumps(arguments(test))
    return (
        f"{problem.reference}\nkeep = {problem.entry_point}\ndef {problem.entry_point}(*v):\n"
        f"    import json\n    r = keep(*v)\n    return r if json.dumps(v) != {call!r} else 'no'"
    )


PUBLIC = {"epic_variant": "public", "visible_tests": "all", "max_steps": 40}


def test_epic_s_public_code_accepts_a_candidate_once_its_population_is_judged(make: Callable[..., Any]) -> None:
    """Programs of two asserts of three, 0.67: too few for the original (0.8), enough for a candidate (0.6)."""
    baselines = make(lambda problem, request: fails_on(problem, problem.tests[-1]), **PUBLIC)
    for rows in played(baselines, "epic").values():
        assert {scoring.share(row["visible_mask"]) for row in rows} == {2 / 3}
        assert len(rows) == 1 + 5  # the first population, all of it
        assert [row["hands_in"] for row in rows] == [0] * 5 + [1] and scoring.submitted(rows) is rows[1]
    assert baselines.nb.own_settings(baselines.config, "epic")["epic_elitism"] is False


def test_epic_s_public_code_judges_a_population_to_its_end_though_one_solves(make: Callable[..., Any]) -> None:
    baselines = make(when_rewritten, **PUBLIC)
    for rows in played(baselines, "epic").values():
        assert len(rows) == 6 and all(all(row["visible_mask"]) for row in rows[1:])
        assert scoring.submitted(rows) is rows[1]
    first = make(lambda problem, request: right(problem), run_dir=make().config.run_dir + "-first", **PUBLIC)
    assert {len(rows) for rows in played(first, "epic").values()} == {1}


def test_epic_s_public_code_ends_for_all_problems_at_once(make: Callable[..., Any]) -> None:
    """The first population brings some, the mutants none: no gain above 1.5 % ends the search of all others."""
    few = {problem.task_id for problem in make().problems["eval"][:2]}

    def rule(problem: Any, request: Request) -> str:
        return when_rewritten(problem, request) if problem.task_id in few else wrong(problem)

    attempts = played(make(rule, **PUBLIC), "epic")
    assert len(attempts) == 6 and few < set(attempts)
    for task, rows in attempts.items():
        assert len(rows) == 6 if task in few else 6 + 4  # one generation of mutants shows that there is no gain
        assert rows[-1]["hands_in"] == (1 if task in few else 0)
    baselines = make(never, run_dir=make().config.run_dir + "-none", **PUBLIC)
    assert {len(rows) for rows in played(baselines, "epic").values()} == {6}  # already the first population brings none


def test_epic_s_public_code_mutates_three_generations_at_most(make: Callable[..., Any]) -> None:
    """A problem more in every generation, so that there is always a gain."""
    order = {problem.task_id: number for number, problem in enumerate(make().problems["eval"])}

    def rule(problem: Any, request: Request) -> str:
        generation = max(0, (counts[problem.task_id] - 2) // 4)  # rewrites 1 to 5, then mutants in fours
        counts[problem.task_id] += 1
        return (
            right(problem) if counts[problem.task_id] > 1 and generation >= order[problem.task_id] else wrong(problem)
        )

    counts: Counter[int] = Counter()
    baselines = make(rule, **PUBLIC)
    lengths = [len(rows) for _, rows in sorted(played(baselines, "epic").items(), key=lambda item: order[item[0]])]
    assert lengths == [6, 10, 14, 18, 18, 18]
    search = json.loads((baselines.folder("epic") / "summary.json").read_text())["search"]
    assert search == {"rewrites": 30, "mutants": 4 + 8 + 12 * 3, "problems_with_mutants": 5}


def arguments(test: str) -> list[Any]:
    """The arguments of ``assert call == expected``, literals only."""
    call = ast.parse(test).body[0].test.left
    return [ast.literal_eval(argument) for argument in call.args]


# Reflexion


def test_reflexion_puts_program_feedback_and_the_last_reflections_into_the_prompt(make: Callable[..., Any]) -> None:
    for variant, memory, size in (("paper", 3, 3), ("paper", 1, 1), ("public", 1, 1)):
        changes = {"reflexion_variant": variant, "reflexion_memory": memory, "max_steps": 6, "eval_limit": 3}
        baselines = make(halfway, visible_tests="all", run_dir=f"{make().config.run_dir}-{variant}-{memory}", **changes)
        attempts = played(baselines, "reflexion")
        for task, rows in attempts.items():
            problem = next(p for p in PROBLEMS if p.task_id == task)
            said: list[str] = []
            for before, row in zip([None, *rows], rows, strict=False):
                prompt, notes = row["prompt"], re.findall(rf"Note: ({REFLECT} .+)", row["prompt"])
                if before is None:
                    assert prompt == baselines.nb.clean_task(problem.text) and not row["rewriter_calls"]
                    continue
                assert before["code"] in prompt and " fails: " not in prompt and "similarity" not in prompt
                assert "should be" in prompt and row["rewriter_calls"] == 1 and row["action"] == 0
                assert len(notes) == min(size, row["attempt"]) and notes[:-1] == said[len(said) - len(notes) + 1 :]
                said.append(notes[-1])
            assert len(rows) == 6 and len(set(said)) == 5
        rewriter = baselines.parts.rewriter
        assert [len(batch) for batch in rewriter.batches] == [3] * 5  # all failed problems in one call
        assert {request.temperature for request in rewriter.requests} == {0.2}
        assert {request.temperature for request in baselines.parts.code.requests} == {0.0}
        assert all(request.prefix == REFLECT for request in rewriter.requests)


def test_reflexion_hands_in_its_best_and_in_public_form_its_last(make: Callable[..., Any]) -> None:
    def worse_when_told(problem: Any, request: Request) -> str:
        return wrong(problem) if "Note:" in str(request.prompt) else partly(problem)

    for variant, handed_in in (("paper", 0), ("public", 3)):
        changes = {"reflexion_variant": variant, "visible_tests": "all", "max_steps": 4, "eval_limit": 4}
        baselines = make(worse_when_told, run_dir=f"{make().config.run_dir}-in-{variant}", **changes)
        for rows in played(baselines, "reflexion").values():
            masks = [scoring.share(row["visible_mask"]) for row in rows]
            assert masks[0] > max(masks[1:]) and scoring.submitted(rows)["attempt"] == handed_in


def test_a_docstring_in_the_failed_program_does_not_end_the_prompt_s(make: Callable[..., Any]) -> None:
    def documented(problem: Any, request: Request) -> str:
        return f'def {problem.entry_point}(*values):\n    """Words."""\n    return None'

    baselines = make(documented)
    played(baselines, "reflexion")
    prompts = [request.prompt for request in baselines.parts.code.requests]
    assert any("'''Words.'''" in prompt for prompt in prompts)
    assert all(prompt.count('"""') == 2 for prompt in prompts)


def test_what_reflexion_learns_on_one_problem_stays_there(make: Callable[..., Any]) -> None:
    baselines = make(never)
    world = baselines.world(types.SimpleNamespace(log=lambda *row: None), "eval", "reflexion")
    one, two = (baselines.nb.Episode(problem, 0) for problem in baselines.problems["eval"][:2])
    for _ in range(3):
        world.advance([one], [0])
        ended = world.ended(one)
    assert ended == (False, True) and world.memory.entries == []
    world.advance([two], [0])
    assert "Note" not in two.attempts[0]["prompt"]


def own_tests(request: Request) -> str | None:
    """What the scripted instruct model writes when it is asked for asserts: a true one, one that is shown, and noise."""
    if not request.prefix.startswith("assert "):
        return None
    problem = next(p for p in PROBLEMS if request.prefix == f"assert {p.entry_point}(")
    test = another(problem)
    return "\n".join([problem.tests[0], "assert true", test, "This tests it well.", test, "x = 1"])


def another(problem: Any) -> str:
    """An assert that is not shown and expects another value than the one that is."""
    first, *others = (test.rpartition(" == ")[2] for test in problem.tests + problem.challenge_tests)
    return (problem.tests + problem.challenge_tests)[1 + [other != first for other in others].index(True)]


def test_reflexion_goes_on_until_its_own_tests_pass_too(make: Callable[..., Any]) -> None:
    """Programs pass the visible assert only until the third attempt, which passes all."""

    def third(problem: Any, request: Request) -> str:
        return right(problem) if task_of(request).count(f"Note: {REFLECT}") == 2 else partly(problem)

    baselines = make(third, max_steps=4, reflexion_tests=3, reflexion_memory=2)
    baselines.parts.rewriter.rule = own_tests
    for task, rows in played(baselines, "reflexion").items():
        problem = next(p for p in PROBLEMS if p.task_id == task)
        assert [row["visible_mask"] for row in rows] == [[1]] * 3 and [row["own_mask"] for row in rows] == [
            [0],
            [0],
            [1],
        ]
        assert [row["rewriter_calls"] for row in rows] == [1, 1, 1]  # tests, then reflections
        shown, own = (sides(ast.unparse(ast.parse(test)))[0] for test in (problem.tests[0], another(problem)))
        assert f"{sides(problem.tests[0])[0]} is right. {own} should be " in rows[1]["prompt"] and own != shown
        assert scoring.submitted(rows)["attempt"] == 2
    asked = baselines.parts.rewriter.requests[0]
    assert asked.stop == "none" and "Write 3 assert statements" in asked.prompt[0][1] and asked.temperature == 0.2


def test_no_valid_test_of_its_own_means_that_nobody_knows(make: Callable[..., Any]) -> None:
    baselines = make(halfway, max_steps=3, reflexion_tests=2)
    baselines.parts.rewriter.rule = lambda request: "assert it" if request.prefix.startswith("assert ") else None
    for rows in played(baselines, "reflexion").values():
        assert len(rows) == 1 and not rows[0].keys() & {"own_mask", "hands_in"}  # the visible assert alone decided


def test_own_tests_may_be_wrong_and_the_budget_still_ends_it(make: Callable[..., Any]) -> None:
    """Every program is right, the tests are not: all attempts are made, and the first of equals is handed in."""
    baselines = make(lambda problem, request: right(problem), max_steps=3, reflexion_tests=2)
    baselines.parts.rewriter.rule = lambda request: f"{request.prefix}) == 'x'" if "assert" in request.prefix else None
    sizes = {phase: len(problems) for phase, problems in baselines.problems.items()}
    most, _ = baselines.nb.amounts(baselines.config, "reflexion", sizes, solved=0.0)
    attempts = played(baselines, "reflexion")
    assert most == sum(map(len, attempts.values()))
    for rows in attempts.values():
        assert [row["own_mask"] for row in rows] == [[0]] * 3 and [row["hands_in"] for row in rows] == [0] * 3
    changes = {"reflexion_variant": "public", "run_dir": f"{baselines.config.run_dir}-public"}
    public = make(baselines.parts.code.rule, max_steps=3, reflexion_tests=2, **changes)
    public.parts.rewriter.rule = baselines.parts.rewriter.rule
    for rows in played(public, "reflexion").values():
        assert [row["own_mask"] for row in rows] == [[0]] * 3 and [row["hands_in"] for row in rows] == [0, 1, 2]


def test_a_test_cut_by_the_limit_or_of_a_call_that_is_shown_does_not_count(make: Callable[..., Any]) -> None:
    baselines = make(never, reflexion_tests=3)
    nb, problem = baselines.nb, baselines.problems["eval"][0]
    shown_call = sides(problem.tests[0])[0].removeprefix(f"{problem.entry_point}(")

    def written(text: str, finish_reason: str) -> list[str]:
        own = nb.OwnTests(nb.with_own(baselines.config, "reflexion"), baselines.parts, lambda *key: 0)
        own.model.generator = types.SimpleNamespace(
            generate=lambda requests: [Completion(text, 1, 1, finish_reason) for _ in requests]
        )
        own.write([nb.Episode(problem, 0)], [nb.Cost()])
        return own.of[problem.task_id, 0]

    name = problem.entry_point
    text = f"assert {name}({shown_call} == 'else'\nassert {name}(1) == 2\nassert {name}(1) == 3\nassert {name}(2) == 14"
    assert written(text, "stop") == [f"assert {name}(1) == 2", f"assert {name}(2) == 14"]
    assert written(text, "length") == [f"assert {name}(1) == 2"]


def test_runs_without_own_tests_are_what_they_were_before_there_were_any(make: Callable[..., Any]) -> None:
    assert "reflexion_tests" not in make().nb.own_settings(make().config, "reflexion")
    assert make().nb.own_settings(make(reflexion_tests=2).config, "reflexion")["reflexion_tests"] == 2


# Selection


def test_choosing_looks_at_training_problems_only(make: Callable[..., Any]) -> None:
    for split in ("test", "validation"):
        baselines = make(eval_split=split, run_dir=f"{make().config.run_dir}-{split}")
        asked: list[set[str]] = []
        evaluate = baselines.nb.evaluate_policy

        def spied(*args: Any, baselines=baselines, asked=asked, evaluate=evaluate, **more: Any) -> None:
            asked.append({request.prefix for request in baselines.parts.code.requests})
            evaluate(*args, **more)

        baselines.nb.evaluate_policy = spied
        for strategy in ("fixed_action", "mixture", "schedule"):
            baselines.run(strategy, report=quiet)
            selected = {row["task_id"] for row in rows_of(baselines, strategy, "selection")}
            assert len(selected) == 3 and selected <= IDS["train"]
            assert {row["task_id"] for row in rows_of(baselines, strategy)} <= IDS[split]
        names = {f"def {problem.entry_point}(" for problem in baselines.problems["schedule"]}
        assert asked[0] == names and not names & {f"def {p.entry_point}(" for p in baselines.problems["eval"]}
        assert {row["phase"] for row in rows_of(baselines, "schedule", None)} == {"selection", "eval"}


def test_one_set_is_tuned_and_trained_on_and_another_scored(make: Callable[..., Any], tmp_path: Path) -> None:
    scored = STARTER["test"][:4]
    rows = [
        {"task_id": 3001 + i, "split": "test", "text": p.text, "code": p.reference, "test_list": p.tests}
        for i, p in enumerate(scored)
    ]
    (tmp_path / "scored.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    theirs = {"problems": str(tmp_path / "scored.jsonl"), "train_problems": "starter"}
    baselines = make(**theirs)
    for strategy, phase, split in (("schedule", "selection", "train"), ("bandit", "train", "train")):
        baselines.run(strategy, report=quiet)
        used = {row["task_id"] for row in rows_of(baselines, strategy, phase)}
        assert used and used <= IDS[split]
        assert {row["task_id"] for row in rows_of(baselines, strategy)} == {3001, 3002, 3003, 3004}
    assert make(**theirs).pending(["schedule", "bandit"]) == []
    with pytest.raises(RunError, match=r"different: .*train_problems"):
        make(problems="starter").pending(["schedule"])
    with pytest.raises(ProblemError, match="nothing to train on"):
        make(**theirs | {"train_problems": None})


def test_each_candidate_scores_as_if_it_alone_had_been_played(make: Callable[..., Any]) -> None:
    """Shared starts, copied memories and all: a schedule found in the tree repeats when it is run on its own."""
    baselines = make(max_steps=3, selection_limit=5, schedule_beam=9, memory_scope="problem")
    summary = baselines.run("schedule", report=quiet)
    assert summary["chosen"] == summary["candidates"][0]["schedule"] and len(summary["candidates"]) == 9
    tree = defaultdict(dict)
    for row in rows_of(baselines, "schedule", "selection"):
        tree[row["task_id"]][tuple(row["schedule"])] = row
    for candidate in summary["candidates"]:
        actions = candidate["schedule"]
        world = baselines.world(None, "selection", "schedule")
        episodes = [baselines.nb.Episode(problem, 0) for problem in baselines.problems["schedule"]]
        for action in actions:
            live = [episode for episode in episodes if episode.best < 1]
            world.advance(live, [action] * len(live)) if live else None
        for episode in episodes:
            for step, row in enumerate(episode.attempts):
                there = tree[episode.problem.task_id][tuple(actions[: step + 1])]
                assert {k: v for k, v in there.items() if k != "schedule"} == {
                    k: v for k, v in row.items() if k != "reward"
                } | {"reward": row["reward"]}
        solved = [all(scoring.submitted(episode.attempts)["scored_mask"]) for episode in episodes]
        assert candidate["pass_at_1"] == pytest.approx(np.mean(solved))
        assert candidate["generations"] == sum(len(episode.attempts) for episode in episodes)
    merits = [(c["pass_at_1"], c["soft_pass_at_1"], -c["generations"]) for c in summary["candidates"]]
    assert merits == sorted(merits, reverse=True)


def test_the_search_finds_what_works_and_says_what_it_cost(make: Callable[..., Any]) -> None:
    def rewritten_then_mutated(problem: Any, request: Request) -> str:
        """Right if the words of a rewrite, known by its name for the function, were mutated: action 2, then 1."""
        task = task_of(request)
        mutated = f"named {problem.entry_point} " in task and "returns the value that the task describes" not in task
        return right(problem) if mutated else wrong(problem)

    drastic = {"mutation_rate": 1.0, "min_similarity": 0.0, "edit_base": "best"}
    for beam, exact in ((9, True), (2, False)):
        folder = f"{make().config.run_dir}-{beam}"
        baselines = make(rewritten_then_mutated, selection_limit=4, schedule_beam=beam, run_dir=folder, **drastic)
        summary, fixed = (baselines.run(name, report=quiet) for name in ("schedule", "fixed_action"))
        if exact:
            assert summary["chosen"][:2] == [2, 1]  # the two that do the same later take more generations
            assert summary["candidates"][0]["pass_at_1"] > fixed["candidates"][0]["pass_at_1"] == 0
        for strategy, its in (("schedule", summary), ("fixed_action", fixed)):
            rows = rows_of(baselines, strategy, "selection")
            cost = its["selection_cost"]
            assert cost["generations"] == len(rows)
            assert cost["rewriter_calls"] == sum(row["rewriter_calls"] for row in rows) > 0
            assert cost["code_tokens"] > 0 < cost["rewriter_tokens"]
            assert its["scores"][strategy]["generations"] == len(rows_of(baselines, strategy))
        widths = Counter(len(row["schedule"]) for row in rows_of(baselines, "schedule", "selection"))
        assert widths[1] == 12 and widths[2] <= 4 * 3 * min(3, beam) and widths[3] <= 4 * 3 * beam
        assert len(fixed["candidates"]) == 3 and len({tuple(set(c["schedule"])) for c in fixed["candidates"]}) == 3


def test_the_selection_is_on_80_problems_and_on_more_where_the_training_pays_for_them(make: Callable[..., Any]) -> None:
    everything = len(STARTER["train"])
    for max_steps, beam, episodes in ((3, 9, 240), (4, 27, 240), (10, 9, 1000), (2, 1, 8)):
        changes = {"max_steps": max_steps, "schedule_beam": beam, "max_episodes": episodes, "train_limit": None}
        baselines = make(**changes, selection_limit=None)
        for strategy in ("schedule", "fixed_action", "mixture"):
            count = len(baselines.problems[strategy])
            most = sum(baselines.nb.search_widths(baselines.config, strategy))
            assert count == min(everything, max(80, episodes * max_steps // most))
    widths = baselines.nb.search_widths
    assert widths(make(max_steps=3, schedule_beam=9).config, "schedule") == [3, 9, 27]
    assert widths(make(max_steps=3).config, "fixed_action") == [3, 3, 3]
    assert widths(make(max_steps=2).config, "mixture") == [7, 7]


def test_mixtures_draw_the_same_numbers_and_as_often_as_they_say(make: Callable[..., Any]) -> None:
    baselines = make(never, actions="direct,stop,mutation,rewriting")
    nb, world = baselines.nb, baselines.world(None, "selection", "mixture")
    assert len(nb.mixtures(3, 3)) == 7 and all(sum(w) == pytest.approx(1) and max(w) < 1 for w in nb.mixtures(3, 3))
    episodes = [nb.Episode(problem, visit) for problem in baselines.problems["mixture"] for visit in range(700)]
    for weights in nb.mixtures(3, 3):
        counts = Counter(drawn := nb.drawn(world, episodes, weights))
        assert counts[1] == 0  # "stop" is no part of a mixture
        shares = np.array([counts[action] for action in (0, 2, 3)]) / len(episodes)
        assert shares == pytest.approx(weights, abs=4 * (0.25 / len(episodes)) ** 0.5)
        assert nb.drawn(world, episodes[::-1], weights)[::-1] == drawn  # not of the batch
    half, third = (nb.drawn(world, episodes, w) for w in ((0.5, 0.5, 0.0), (2 / 3, 1 / 3, 0.0)))
    assert all(b == 0 for a, b in zip(half, third, strict=True) if a == 0)  # common numbers


def test_the_best_mixture_is_found_and_scored(make: Callable[..., Any]) -> None:
    """Mutants never help and a rewrite always does: the most rewriting that a mixture has is chosen."""
    baselines = make(when_rewritten, selection_limit=4, max_steps=4)
    summary = baselines.run("mixture", report=quiet)
    assert summary["chosen"] in ([1 / 3, 0, 2 / 3], [0, 1 / 3, 2 / 3]) and len(summary["candidates"]) == 7
    merits = [(c["pass_at_1"], c["soft_pass_at_1"], -c["generations"]) for c in summary["candidates"]]
    assert merits == sorted(merits, reverse=True) and merits[0][0] == 1
    assert {row["action"] for row in rows_of(baselines, "mixture")} <= {0, 1, 2}


def test_a_control_stops_where_it_pays_if_stop_is_on(make: Callable[..., Any]) -> None:
    """Half of the problems are right at the second attempt, the others never: two attempts pay, a third does not."""

    def second(problem: Any, request: Request) -> str:
        tried[problem.task_id] += 1
        return right(problem) if problem.task_id % 2 and tried[problem.task_id] % 5 == 2 else wrong(problem)

    tried: Counter[int] = Counter()
    baselines = make(second, actions="direct,stop", selection_limit=4, max_steps=5, train_limit=None)
    summary = baselines.run("stopping", report=quiet)
    assert summary["chosen"] == [0, 0, 1, 1, 1]
    assert {len(rows) for rows in scoring.by_problem(rows_of(baselines, "stopping")).values()} <= {1, 2}


def test_resampling_goes_on_and_is_scored_at_the_budget(make: Callable[..., Any]) -> None:
    def fifth(problem: Any, request: Request) -> str:
        tried[problem.task_id] += 1
        return right(problem) if tried[problem.task_id] == 5 else wrong(problem)

    tried: Counter[int] = Counter()
    baselines = make(fifth, resampling_steps=7)
    summary = baselines.run("resampling", report=quiet)
    assert [point["solved"] for point in summary["curves"]["resampling"]] == [0, 0, 0, 0, 6, 6, 6]
    score = summary["scores"]["resampling"]
    assert (score["budget"], score["solved"], score["generations"], summary["max_steps"]) == (3, 0, 18, 3)
    with open(baselines.folder("resampling") / "results.csv", newline="") as file:
        assert {row["attempts"] for row in csv.DictReader(file)} == {"3"}


# Bandit


def test_the_bandit_s_posterior_is_ridge_regression() -> None:
    nb, rng = module_of("03_baselines.ipynb"), np.random.default_rng(0)
    bandit, x, r = nb.LinearThompson(5, 2, ridge=2.0, scale=0.3), rng.normal(size=(40, 5)), rng.normal(size=40)
    actions = rng.integers(2, size=40)
    for rows in np.split(np.arange(40), 8):
        bandit.update(x[rows], actions[rows], r[rows])
    means, deviations = bandit.posterior(x[:7])
    for a in range(2):
        mine = actions == a
        stacked = np.vstack([x[mine], np.sqrt(2.0) * np.eye(5)])
        weights, *_ = np.linalg.lstsq(stacked, np.concatenate([r[mine], np.zeros(5)]), rcond=None)
        assert means[:, a] == pytest.approx(x[:7] @ weights)
        inverse = np.linalg.inv(stacked.T @ stacked)
        assert deviations[:, a] == pytest.approx([np.sqrt(row @ inverse @ row) for row in x[:7]])
    again = nb.LinearThompson(5, 2, ridge=1.0, scale=0.3)
    again.load_state_dict(bandit.state_dict())
    assert np.array_equal(again.posterior(x)[0], bandit.posterior(x)[0])


def test_the_bandit_learns_which_action_suits_which_context() -> None:
    nb, chance = module_of("03_baselines.ipynb"), np.array([[0.6, 0.2, 0.2], [0.1, 0.7, 0.2], [0.2, 0.3, 0.5]])
    for seed in range(3):
        rng, bandit, earned = np.random.default_rng(seed), nb.LinearThompson(3, 3, 1.0, 0.3), []
        for _ in range(150):
            kinds = rng.integers(3, size=8)
            taken = bandit.act(np.eye(3)[kinds], rng.standard_normal((8, 3)))
            rewards = rng.random(8) < chance[kinds, taken]
            bandit.update(np.eye(3)[kinds], taken, rewards)
            earned.append(chance[kinds, taken].mean())
        assert bandit.act(np.eye(3)).tolist() == [0, 1, 2]
        assert np.mean(earned[-50:]) > 0.55 > np.mean(earned[:5])  # the best possible is 0.6


def test_the_bandit_trains_on_training_problems_and_then_acts_on_what_it_learned(make: Callable[..., Any]) -> None:
    baselines = make(when_rewritten, max_episodes=24, train_limit=8)
    summary = baselines.run("bandit", report=quiet)
    trained = rows_of(baselines, "bandit", "train")
    assert {row["task_id"] for row in trained} <= IDS["train"]
    assert len({(row["task_id"], row["visit"]) for row in trained}) == 24
    assert summary["training_cost"]["generations"] == len(trained)
    assert {row["action"] for row in trained} == {0, 1, 2}
    assert {row["action"] for row in rows_of(baselines, "bandit")} == {2}
    assert summary["scores"]["bandit"]["pass_at_1"] == 1
    metrics = read_rows(baselines.folder("bandit") / "metrics.jsonl")
    assert [row["episodes"] for row in metrics] == [4, 8, 12, 16, 20, 24]
    assert sum(row["steps"] for row in metrics) == len(trained)


def test_exploration_does_not_depend_on_the_batch(make: Callable[..., Any]) -> None:
    baselines = make()
    world = baselines.world(None, "train", "bandit")
    bandit = baselines.nb.LinearThompson(4, 3, 1.0, 1.0)
    slots = [baselines.nb.Episode(problem, visit) for visit in (0, 1) for problem in baselines.problems["train"]]
    contexts = np.random.default_rng(0).normal(size=(8, 4))
    together = baselines.nb.explore(bandit, world, contexts, slots)
    alone = [baselines.nb.explore(bandit, world, contexts[i : i + 1], slots[i : i + 1])[0] for i in range(8)]
    assert together.tolist() == alone and len(set(alone)) > 1


# Interruptions, run directories, the plan


class Interrupted(Exception):
    pass


class Breaking(Coder):
    """Fails at one of its calls."""

    fails_at = 0

    def generate(self, requests: Any, *each: Any) -> Any:
        if len(self.batches) + 1 == self.fails_at:
            raise Interrupted
        return super().generate(requests, *each)


THREE, FIVE = "direct,mutation,rewriting", "direct,mutation,rewriting,repair,stop"


@pytest.mark.parametrize(
    ("strategy", "actions"),
    [
        *((name, THREE) for name in ("random", "schedule", "bandit", "epic", "reflexion", "mixture")),
        *((name, FIVE) for name in ("random", "bandit", "stopping")),
    ],
)
def test_an_interrupted_run_ends_with_the_same_bytes(make: Callable[..., Any], strategy: str, actions: str) -> None:
    few = {"num_envs": 1, "max_episodes": 8, "episodes_per_update": 2, "eval_limit": 9, "memory_scope": "run"}
    few["actions"] = actions
    whole = make(**few)
    whole.run(strategy, report=quiet)
    calls, kills = len(whole.parts.code.batches), 0
    folder, at = f"{whole.config.run_dir}-killed", 1
    while True:
        broken = make(coder=Breaking, run_dir=folder, **few)
        broken.parts.code.fails_at = at
        try:
            broken.run(strategy, report=quiet)
            break
        except Interrupted:
            kills, at = kills + 1, at + max(1, calls // 6)
    assert kills >= 3
    assert content(broken.folder(strategy)) == content(whole.folder(strategy))


def test_a_finished_run_is_read_and_belongs_to_its_own_parameters(make: Callable[..., Any]) -> None:
    first = make()
    for strategy in ALL:
        first.run(strategy, report=quiet)
    assert first.pending(ALL) == []
    for strategy in ALL:  # whatever a run spends its time on, its log has the sum
        rows = read_rows(first.folder(strategy) / "timings.jsonl")
        assert rows and all(row["total"] > 0 for row in rows)

    class Silent(Coder):
        def generate(self, requests: Any, *each: Any) -> Any:
            raise AssertionError("this run should not have generated anything")

    lines: list[str] = []
    for strategy in ALL:
        assert make(coder=Silent).run(strategy, report=lines.append)["strategy"] == strategy
    assert all("complete, read from" in line for line in lines) and len(lines) == len(ALL)
    own = {
        "epic_population": "epic",
        "reflexion_memory": "reflexion",
        "bandit_scale": "bandit",
        "schedule_beam": "schedule",
        "mixture_parts": "mixture",
    }
    for name, strategy in own.items():
        other = make(coder=Silent, **{name: 2})
        assert other.pending([name for name in ALL if name != strategy]) == []
        with pytest.raises(RunError, match="belongs to another config"):
            other.pending([strategy])
    with pytest.raises(RunError, match=r"belongs to another config .*different: tuning"):
        make(selection_limit=2).run("fixed_action")
    with pytest.raises(RunError, match=r"belongs to another config .*different: temperature"):
        make(temperature=0.9).pending(["direct"])
    assert make(seed=1, eval_limit=None).pending(ALL) == list(ALL)  # another seed has folders of its own


def test_the_plan_is_an_upper_bound_and_exact_where_nothing_is_solved(make: Callable[..., Any]) -> None:
    baselines = make(never, max_episodes=8, schedule_beam=2, max_steps=4)
    sizes = {phase: len(problems) for phase, problems in baselines.problems.items()}
    for strategy in ("bank", *ALL):
        most, calls = baselines.nb.amounts(baselines.config, strategy, sizes, solved=0.0)
        expected, _ = baselines.nb.amounts(baselines.config, strategy, sizes, solved=0.4)
        baselines.run(strategy, report=quiet)
        rows = rows_of(baselines, strategy, None)
        assert most == len(rows)
        assert expected < most or strategy in STRATEGIES[:3]
        if strategy in ("bank", "direct", "mutation", "rewriting", "resampling", "epic", "reflexion"):
            assert calls == sum(row["rewriter_calls"] for row in rows)
    measured = {"solved": 0.4, "code": (60.0, 100.0), "rewriter": (30.0, 10.0)}
    lines = baselines.nb.plan(baselines, ("direct", "rewriting"), measured).splitlines()
    assert lines[1].split() == ["direct", "6", "6", "0", "1", "6.0"]
    assert lines[2].split() == ["rewriting", "6", "6", "6", "1", "9.0"]
    assert lines[3].split() == ["sum", "12", "12", "6", "1", "15.0"]


def test_the_probe_measures_the_model_and_not_the_cache(make: Callable[..., Any], tmp_path: Path) -> None:
    baselines = make(lambda problem, request: right(problem) if problem.task_id % 2 else wrong(problem))
    code, rewriter = baselines.parts.code, baselines.parts.rewriter
    baselines.parts.code, baselines.parts.rewriter = (CachedGenerator(m, tmp_path / "c") for m in (code, rewriter))
    for asked in (1, 2):
        measured = baselines.nb.probe(baselines.config, baselines.parts, baselines.problems["train"][:4])
        assert len(code.batches) == asked
        odd = sum(problem.task_id % 2 for problem in baselines.problems["train"])
        assert measured["solved"] == (odd + 1) / 6
        assert measured["code"][1] > 10 and measured["rewriter"][1] > 10
    assert not list((tmp_path / "c").rglob("*.json"))
    code.dtype = rewriter.dtype = "server"  # which is paid for: nothing is asked twice
    for _ in range(2):
        baselines.nb.probe(baselines.config, baselines.parts, baselines.problems["train"][:4])
    assert len(code.batches) == 3 and list((tmp_path / "c").rglob("*.json"))


def test_wrong_parameters_are_refused_in_one_sentence() -> None:
    import nbformat
    from notebooks import ROOT

    cells = nbformat.read(ROOT / "03_baselines.ipynb", as_version=4).cells
    parameters, check = (
        next(cell.source for cell in cells if start in cell.source)
        for start in ("epic_variant: str", "config = settings.read_parameters")
    )
    for changes, words in (
        ({"prompt_form": "chatty"}, "prompt_form = 'chatty' must be one of completion, chat, chat-fenced, chat-free"),
        ({"epic_variant": "new"}, "epic_variant = 'new' must be one of paper, public"),
        ({"strategies": "direct, epik"}, "unknown strategies epik; known: bank, direct, mutation"),
        ({"actions": "direct, jump"}, "there is no 'jump'; known: direct, mutation, rewriting, repair, stop"),
        ({"bank_draws": 0}, "bank_draws = 0 must be more than 0"),
        ({"reflexion_memory": 0}, "reflexion_memory = 0 must be more than 0"),
        ({"selection_limit": 0}, "selection_limit = 0 must be more than 0"),
        ({"bandit_ridge": 0.0}, "bandit_ridge = 0.0 must be more than 0"),
        ({"max_steps": 0}, "max_steps = 0 must be more than 0"),
    ):
        namespace: dict[str, Any] = {"__name__": "check"}
        exec(compile(parameters, "parameters", "exec", dont_inherit=True), namespace)
        namespace |= changes
        exec("from ppo_codet5.helpers import runs, settings\nfrom pathlib import Path", namespace)
        namespace["action_names"] = core.action_names
        with pytest.raises(RunError, match=re.escape(words)):
            exec(compile(check, "check", "exec", dont_inherit=True), namespace)
    namespace |= {"max_steps": 4, "bank_draws": 4}
    exec(compile(check, "check", "exec", dont_inherit=True), namespace)
    assert list(namespace["chosen"]) == list(namespace["STRATEGIES"]) == grid.strategies_of({})  # tasks of a grid
    namespace |= {"actions": "direct,stop"}
    exec(compile(check, "check", "exec", dont_inherit=True), namespace)
    assert (
        list(namespace["chosen"]) == grid.strategies_of({"actions": "direct,stop"})
        and "stopping" in namespace["chosen"]
    )


def test_a_rewrite_that_is_no_sentence_is_replaced_for_epic_too(make: Callable[..., Any]) -> None:
    baselines = make(never)
    baselines.parts.rewriter.rule = lambda request: "def f(" + CUT
    for rows in played(baselines, "epic").values():
        problem = next(p for p in PROBLEMS if p.task_id == rows[0]["task_id"])
        assert rows[1]["prompt"].startswith(f"Write a Python function named {problem.entry_point} that does this: ")
        assert rows[1]["rewriter_calls"] == 4  # two rewrites, each asked for twice


# The bank


def test_the_bank_holds_independent_draws_first_and_after_a_failure(make: Callable[..., Any]) -> None:
    baselines = make(sometimes, bank_draws=5, actions="direct,mutation,rewriting,repair", max_steps=4)
    summary = baselines.run("bank", report=quiet)
    rows = rows_of(baselines, "bank", None)
    assert {row["phase"] for row in rows} == {"bank"} and summary["scores"] == {}
    assert {row["task_id"] for row in rows} == {p.task_id for p in baselines.problems["train"][:3]}
    first = [row for row in rows if row["attempt"] == 0]
    assert Counter(row["action"] for row in first) == {0: 15, 1: 15, 2: 15}
    failed = {(r["task_id"], r["visit"]) for r in first if r["action"] == 0 and not all(r["visible_mask"])}
    assert 0 < len(failed) < 15
    after = Counter((row["action"], row["task_id"], row["visit"]) for row in rows if row["attempt"] == 1)
    assert after == Counter((action, *key) for action in range(4) for key in failed)
    direct = [row["prompt_tokens"] for row in rows if row["action"] == 0]
    assert len(direct) == 15 + len(failed)
    seeds = [request.seed for request in baselines.parts.code.requests]
    assert len(set(seeds)) == 15 + len(failed)  # of one draw for all actions, as strategies share them
    bank = summary["bank"]
    assert bank["first"][:3] == [np.mean([all(r["scored_mask"]) for r in first if r["action"] == a]) for a in range(3)]


def test_what_a_bank_says_is_its_rows_counted_again(make: Callable[..., Any]) -> None:
    baselines = make(sometimes, bank_draws=4, bank_limit=None, train_limit=20, max_steps=4)
    said = baselines.run("bank", report=quiet)["bank"]
    rows = [row for row in rows_of(baselines, "bank", None) if row["attempt"] == 1]
    for action in range(3):
        assert said["after"][action] == np.mean([all(r["scored_mask"]) for r in rows if r["action"] == action])
    assert said["failures"] == len(rows) // 3 and said["problems"] == 20
    assert len(said["agent"]) == 3 and said["agent"][0] != said["agent"][1]  # by seed
    by_kind, by_others, at_first = (
        said["gains"][name]
        for name in (
            "the kind of failure",
            "the problem, by its other draws",
            "the problem, by its other draws, at first",
        )
    )
    lines = {}
    for row in rows:
        lines.setdefault((row["task_id"], row["visit"]), {})[row["action"]] = float(all(row["scored_mask"]))
    first = {}
    for row in (row for row in rows_of(baselines, "bank", None) if row["attempt"] == 0):
        first.setdefault((row["task_id"], row["visit"]), {})[row["action"]] = float(all(row["scored_mask"]))
        if row["action"] == 0 and (row["task_id"], row["visit"]) in lines:
            lines[row["task_id"], row["visit"]]["kind"] = next(o for o in row["outcomes"] if o != "pass")
    assert by_others[0] == pytest.approx(gain_by_hand(lines, "others"))
    assert by_kind[0] == pytest.approx(gain_by_hand(lines, "kind"))
    assert at_first[0] == pytest.approx(gain_by_hand(first, "others"))
    for gain, low, high in said["gains"].values():
        assert low <= gain <= high


def test_two_attempts_chosen_by_half_of_a_problem_s_draws_are_valued_on_the_other(make: Callable[..., Any]) -> None:
    """Against all pairs of draws, one by one; the fixed mixture is that of the other fifths of the problems."""
    nb, bank = banked(make)
    counts, tasks, solved = bank.mixtures()
    fixed = nb.crossed(solved, tasks)
    mixed = nb.mixed_by_problem(bank, counts, tasks, fixed)
    expected = []
    for task, own in zip(tasks, fixed, strict=True):
        lines = [[all(row["scored_mask"]) for row in line] for line in bank.after[task]]
        if len(lines) < 4:
            continue
        by_hand = [[pair_by_hand(half, count) for count in counts] for half in (lines[::2], lines[1::2])]
        picked = [own if half[own] == max(half) else half.index(max(half)) for half in by_hand]
        first = (by_hand[1][picked[0]] + by_hand[0][picked[1]]) / 2
        expected.append([first, (by_hand[0][own] + by_hand[1][own]) / 2])
    assert len(expected) >= 5 and pytest.approx(mixed) == np.array(expected).T
    gain, low, high = bank.gains()[nb.OVER_MIXTURE]
    assert gain == pytest.approx(np.mean([a - b for a, b in expected])) and low <= gain <= high


def pair_by_hand(lines: list[list[bool]], count: tuple[int, ...]) -> float:
    """Share of the ways to draw so many of each action, each in another line, of which one at least is right."""
    first, second = [action for action, n in enumerate(count) for _ in range(n)]
    pairs = [(a, b) for a in range(len(lines)) for b in range(len(lines)) if a != b]
    return sum(lines[a][first] or lines[b][second] for a, b in pairs) / len(pairs)


def gain_by_hand(lines: dict[tuple[int, int], dict[Any, Any]], by: str) -> float:
    """What choosing gains over the fixed action, in plain loops: made on other folds, or on the problem's other draws."""
    tasks = sorted({task for task, _ in lines})
    fold = {task: i % 5 for i, task in enumerate(tasks)}

    def best(some: list[dict[Any, Any]]) -> int:
        return max(range(3), key=lambda action: sum(line[action] for line in some))

    gained: dict[int, list[float]] = {}
    for (task, visit), line in lines.items():
        elsewhere = [(key, one) for key, one in lines.items() if fold[key[0]] != fold[task]]
        fixed = picked = best([one for _, one in elsewhere])
        if by == "kind":
            alike = [one for _, one in elsewhere if one["kind"] == line["kind"]]
            picked = best(alike) if len(alike) >= 5 else fixed
        else:
            others = [one for key, one in lines.items() if key[0] == task and key[1] != visit]
            sums = [sum(one[action] for one in others) for action in range(3)]
            picked = fixed if not others or sums[fixed] == max(sums) else sums.index(max(sums))
        gained.setdefault(task, []).append(line[picked] - line[fixed])
    return float(np.mean([np.mean(values) for values in gained.values()]))


def test_an_interrupted_bank_ends_the_same(make: Callable[..., Any]) -> None:
    class Broken(Coder):
        left = 5

        def generate(self, requests: Any, *each: Any) -> Any:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt
            return super().generate(requests, *each)

    whole = make(run_dir=make().config.run_dir + "-whole")
    whole.run("bank", report=quiet)
    with pytest.raises(KeyboardInterrupt):
        make(coder=Broken).run("bank", report=quiet)
    again = make()
    again.run("bank", report=quiet)
    for name in ("attempts.jsonl", "summary.json"):
        assert (again.folder("bank") / name).read_bytes() == (whole.folder("bank") / name).read_bytes()
    assert len(again.parts.code.requests) < len(whole.parts.code.requests)


def test_the_chance_that_all_fail_is_unbiased_though_a_draw_s_actions_agree() -> None:
    """Its expectation over all banks of three draws, of actions that are right together more often than by chance."""
    nb = module_of("03_baselines.ipynb")
    line = {(0, 0): 0.5, (1, 1): 0.3, (0, 1): 0.15, (1, 0): 0.05}
    fail = [sum(p for right, p in line.items() if not right[action]) for action in (0, 1)]
    for counts in ((1, 0), (1, 1), (2, 1), (0, 3)):
        expected = 0.0
        for lines in itertools.product(line, repeat=3):
            expected += np.prod([line[right] for right in lines]) * nb.all_fail(np.array(lines, float), counts)
        assert expected == pytest.approx(fail[0] ** counts[0] * fail[1] ** counts[1])


def test_a_choice_is_made_without_what_it_is_valued_on() -> None:
    """Of noise nothing can be chosen; of what keys or features decide, all; changing a value changes no own choice."""
    nb, rng = module_of("03_baselines.ipynb"), np.random.default_rng(0)
    problems = np.repeat(np.arange(200), 4)
    noise = (rng.random((800, 3)) < 0.3).astype(float)
    features, keys = rng.normal(size=(800, 50)), rng.integers(3, size=800)
    for more in ({}, {"keys": keys}, {"features": features}):
        picked = noise[np.arange(800), nb.crossed(noise, problems, **more)]
        assert abs(picked.mean() - 0.3) < 4 * (0.21 / 800) ** 0.5
    best = features[:, :3].argmax(1)
    useful = (rng.random((800, 3)) < np.where(np.arange(3) == best[:, None], 0.9, 0.1)).astype(float)
    assert (nb.crossed(useful, problems, features=features) == best).mean() > 0.75
    useful = np.eye(3)[keys]
    assert (nb.crossed(useful, problems, keys=keys) == keys).all()
    turned = useful.copy()
    turned[problems == 7] = 1 - turned[problems == 7]
    same = (
        nb.crossed(turned, problems, keys=keys)[problems == 7] == nb.crossed(useful, problems, keys=keys)[problems == 7]
    )
    assert same.all()


def test_the_ridge_is_that_of_the_normal_equations() -> None:
    nb, rng = module_of("03_baselines.ipynb"), np.random.default_rng(1)
    x, y, problems = rng.normal(size=(60, 7)), rng.normal(size=(60, 3)), np.arange(60)
    chosen = nb.crossed(y, problems, features=x)
    for f in range(5):
        rest = problems % 5 != f
        a = x[rest] - x[rest].mean(0)
        weights = np.linalg.solve(a.T @ a + nb.RIDGE * np.eye(7), a.T @ (y[rest] - y[rest].mean(0)))
        expected = (y[rest].mean(0) + (x[~rest] - x[rest].mean(0)) @ weights).argmax(1)
        assert (chosen[~rest] == expected).all()


def banked(make: Callable[..., Any], **changes: Any) -> Any:
    baselines = make(sometimes, bank_draws=6, bank_limit=None, train_limit=10, max_steps=5, **changes)
    baselines.run("bank", report=quiet)
    nb = baselines.nb
    world = nb.PromptWorld(baselines.config, baselines.parts, baselines.problems["bank"], phase="bank", strategy="bank")
    return nb, nb.Bank(read_rows(baselines.folder("bank") / "attempts.jsonl"), world)


def test_playing_in_the_bank_solves_what_its_chances_say(make: Callable[..., Any]) -> None:
    nb, bank = banked(make)
    envs = nb.BankEnv(bank, bank.first, 4000)
    first, later = envs.chances()
    for weights in ((1, 0, 0), (0, 1, 0), (0.2, 0.3, 0.5)):
        rng, solved = np.random.default_rng(0), 0
        observations, infos = envs.reset(seed=1, options={"tasks": np.arange(4000) % 10})
        for step in range(5):
            assert observations.dtype == np.float32 and observations[:50] in gym.vector.utils.batch_space(
                envs.single_observation_space, 50
            )
            going = infos["groups"] == 0
            observations, rewards, won, spent, infos = envs.step(rng.choice(3, size=4000, p=weights))
            assert not (won & spent).any() and not (won | spent)[~going].any() and not rewards[~going].any()
            assert (spent == (going & ~won & (step == 4))).all()
            solved += won.sum()
        assert not (infos["groups"] == 0).any()
        exact = envs.solved_by(weights)
        f, g = (first * weights).sum(-1), (later * weights).sum(-1)
        assert exact == pytest.approx(np.mean(1 - (1 - f) * (1 - g) ** 4))
        assert abs(solved / 4000 - exact) < 4 * 0.5 / 4000**0.5
    best = envs.solved_by(np.eye(3)[envs.chances().argmax(-1)])
    assert best >= max(envs.solved_by(row) for row in np.eye(3))


def test_the_agent_finds_the_best_action_in_the_bank(make: Callable[..., Any]) -> None:
    """Where one action is right more often than the others, and in a bank where they are not known to differ."""
    nb, bank = banked(make, max_episodes=960, episodes_per_update=48)
    noise = 4 * 0.5 / 100**0.5
    for better in (1, 2, None):
        rng = np.random.default_rng(0)
        for line in (line for lines in (*bank.first.values(), *bank.after.values()) for line in lines):
            for action, row in enumerate(line):
                row["visible_mask"] = [int(better is None or rng.random() < (0.5 if action == better else 0.05))]
        found = nb.agent_on_bank(bank, seed=0)
        assert set(found) == {"best fixed action", "best fixed mixture", "PPO agent", "best policy"}
        assert found["best policy"] >= max(found["best fixed action"], found["best fixed mixture"]) - 1e-9
        assert (
            abs(found["PPO agent"] - found["best fixed action"]) <= noise
            or found["PPO agent"] > found["best fixed action"]
        )
        if better is not None:  # far above what an untrained agent, which mixes all, could solve
            chances = nb.BankEnv(bank, list(bank.first)[1::2])
            assert found["PPO agent"] > chances.solved_by(np.ones(3) / 3) + 0.1
