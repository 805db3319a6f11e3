"""The environment on starter problems, with the real sandbox, lexicon and embedder and scripted text generators."""

from __future__ import annotations

import csv
import itertools
import json
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from ppo_codet5.helpers.language import Embedder, Lexicon
from ppo_codet5.helpers.problems import Problem
from ppo_codet5.helpers.runs import RunError
from ppo_codet5.helpers.sandbox import Program, Sandbox
from scripted import CUT, MIDPOINT, REFLECT, REWRITE, STARTER, Coder, Rewriter, partly, right, small, sometimes, wrong

from ppo_codet5.core import (
    ACTIONS,
    Cost,
    EpicGA,
    Episode,
    Parts,
    PPOAgent,
    PromptEditor,
    PromptRewriter,
    PromptWorld,
    ReflexionMemory,
    RLPromptEnv,
    RLPromptVectorEnv,
    SpecificationRewriter,
    clean_task,
    compute_gae,
    feedback,
    reward,
    rollout,
    shown,
    verdict_in_words,
)

TRAIN = [MIDPOINT, *STARTER["train"][:11]]
TEXTS = [clean_task(p.text) for split in STARTER.values() for p in split]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as running:
        yield running


@pytest.fixture(scope="module")
def make(sandbox: Sandbox, lexicon: Lexicon, embedder: Embedder) -> Callable[..., PromptWorld]:
    def make(problems=TRAIN, rule=sometimes, rewrites=lambda request: None, world=None, **changes) -> PromptWorld:
        parts = Parts(Coder(problems, rule), Rewriter(rewrites), lexicon, embedder, sandbox)
        return PromptWorld(small(**changes), parts, problems, **(world or {}))

    return make


def always(program: Callable[[Problem], str]) -> Callable:
    return lambda problem, request: program(problem)


def in_turn(*programs: Callable[[Problem], str]) -> Callable:
    """One program after another, for an environment with one problem at a time."""
    queue = iter(programs)
    return lambda problem, request: next(queue)(problem)


def play(env: RLPromptEnv, task_id: int, actions: list[int]) -> list[tuple]:
    """One episode, or as much of it as there are actions: (observation, reward, terminated, truncated, info) each."""
    observation, info = env.reset(options={"task_id": task_id})
    steps = [(observation, 0.0, False, False, info)]
    for action in actions:
        steps.append(env.step(action))
        if steps[-1][2] or steps[-1][3]:
            break
    return steps


def same(a: list[tuple], b: list[tuple]) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(x[0], y[0]) and x[1:4] == y[1:4] and json.dumps(x[4]) == json.dumps(y[4])
        for x, y in zip(a, b, strict=True)
    )


# The Gymnasium interface


def test_the_checkers_of_gymnasium_and_stable_baselines3_pass(make) -> None:
    from stable_baselines3.common.env_checker import check_env as check_env_sb3

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(RLPromptEnv(make()), skip_render_check=True)
        check_env_sb3(RLPromptEnv(make()), warn=True)


def test_made_by_the_registry_it_is_checked_as_deterministic(make) -> None:
    """With a spec, the checker also compares observations after equal seeds and equal actions."""
    gym.register("RLPrompt-test-v0", entry_point=lambda: RLPromptEnv(make()), max_episode_steps=None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_env(gym.make("RLPrompt-test-v0").unwrapped)
    finally:
        del gym.registry["RLPrompt-test-v0"]


def test_stable_baselines3_trains_on_the_environment_as_it_is(make) -> None:
    from stable_baselines3 import PPO

    model = PPO("MlpPolicy", RLPromptEnv(make()), n_steps=32, batch_size=16, n_epochs=1, device="cpu", seed=0)
    model.learn(64)
    assert model.num_timesteps == 64
    assert model.ep_info_buffer and all(1 <= episode["l"] <= 3 for episode in model.ep_info_buffer)


def test_a_task_can_be_chosen_and_an_unknown_one_is_refused(make) -> None:
    env = RLPromptEnv(make())
    _, info = env.reset(options={"task_id": TRAIN[5].task_id})
    assert info == {"task_id": TRAIN[5].task_id}
    assert env.step(0)[4]["prompt"] == clean_task(TRAIN[5].text)
    with pytest.raises(ValueError, match="task_id 99 is not among the 12 problems"):
        env.reset(options={"task_id": 99})


def test_a_seeded_reset_starts_everything_anew(make) -> None:
    env = RLPromptEnv(make(memory_scope="run"))

    def session(seed: int) -> list[tuple]:
        steps = [(*env.reset(seed=seed), 0.0, False, False)]
        for action in (2, 1, 2, 0, 2, 2, 1, 2):
            observation, gained, terminated, truncated, info = env.step(action)
            steps.append((observation, info, gained, terminated, truncated))
            if terminated or truncated:
                steps.append((*env.reset(), 0.0, False, False))
        return [(s[0], *s[2:], s[1]) for s in steps]

    first = session(7)
    assert env.world.memory.entries  # reflections of training episodes are kept
    assert same(session(7), first)
    assert not same(session(8), first)
    env.reset(seed=7)
    assert env.world.memory.entries == []


def test_epochs_visit_every_problem_once_in_new_orders(make) -> None:
    env = RLPromptEnv(make())
    ids = [env.reset(seed=3)[1]["task_id"], *(env.reset()[1]["task_id"] for _ in range(3 * 12 - 1))]
    epochs = [ids[:12], ids[12:24], ids[24:]]
    assert all(sorted(epoch) == sorted(p.task_id for p in TRAIN) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert env.reset(seed=3)[1]["task_id"] == ids[0]
    firsts = {RLPromptEnv(make()).reset(seed=seed)[1]["task_id"] for seed in range(8)}
    assert len(firsts) > 2


def test_visits_of_one_task_draw_other_samples(make) -> None:
    env = RLPromptEnv(make(rule=always(wrong)))
    for _ in range(3):
        play(env, TRAIN[0].task_id, [0, 0, 0])
    assert len({request.seed for request in env.world.parts.code.requests}) == 9


# Rewards and ends


@pytest.mark.parametrize("visible", [1, 2, "all"])
def test_solved_is_terminated_and_the_spent_budget_is_truncated(make, visible) -> None:
    for attempt in (0, 1, 2, 3):  # 3 is beyond the budget
        env = RLPromptEnv(make(rule=in_turn(*[wrong] * attempt, right), visible_tests=visible))
        steps = play(env, TRAIN[1].task_id, [0, 0, 0])
        ends = [(terminated, truncated) for _, _, terminated, truncated, _ in steps[1:]]
        assert ends[:-1] == [(False, False)] * (len(ends) - 1)
        assert ends[-1] == ((True, False) if attempt < 3 else (False, True))
        assert [s[1] for s in steps[1:-1]] == pytest.approx([-0.1] * (len(ends) - 1))
        assert steps[-1][1] == pytest.approx(1.9 if attempt < 3 else -0.1)


def test_solved_at_the_last_step_is_not_truncated(make) -> None:
    env = RLPromptEnv(make(rule=always(right), max_steps=1))
    assert play(env, TRAIN[0].task_id, [0])[-1][2:4] == (True, False)


def test_reward_is_the_improvement_of_the_best_visible_share(make) -> None:
    scale = {"success_reward": 2.0, "penalty_scale": -0.25, "reward_scale": 10.0}
    env = RLPromptEnv(
        make(rule=in_turn(wrong, partly, wrong, partly, right), visible_tests="all", max_steps=9, **scale)
    )
    steps = play(env, MIDPOINT.task_id, [0] * 5)
    expected = [-2.5, 10 * (1 / 3) - 2.5, -2.5, -2.5, 10 * (2 / 3 + 2.0) - 2.5]
    assert [s[1] for s in steps[1:]] == pytest.approx(expected, abs=1e-5)
    assert [s[4]["visible_mask"] for s in steps[1:]] == [[0, 0, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0], [1, 1, 1]]
    assert reward(env.world.config, 1 / 3, 0.0) == -2.5


def test_observations_say_what_happened(make, embedder: Embedder) -> None:
    env = RLPromptEnv(make(rule=lambda p, r: "def broken(:", visible_tests=1))
    steps = play(env, TRAIN[0].task_id, [2, 1, 0])
    size = embedder.dim
    task = clean_task(TRAIN[0].text)
    assert np.array_equal(steps[0][0][:size], embedder.encode([task])[0] / 2)
    scalars = [s[0][2 * size :] for s in steps]
    assert [round(float(s[0]), 4) for s in scalars] == [0, 0.3333, 0.6667, 1.0]  # step / budget
    assert all(s[1] == s[2] == 0 for s in scalars)
    assert [int(s[3:10].argmax()) for s in scalars] == [0, 4, 4, 4]  # no attempt yet, then compile_error
    assert [int(s[10:14].argmax()) for s in scalars] == [3, 2, 1, 0]  # no action yet, then the actions
    assert np.array_equal(steps[1][0][size : 2 * size], embedder.encode([steps[1][4]["feedback"]])[0] / 2)


# Edits


def test_edits_accumulate_while_one_visible_assert_ties_every_attempt(make) -> None:
    env = RLPromptEnv(make(rule=always(wrong), max_steps=4, visible_tests=1, edit_base="best"))
    steps = play(env, TRAIN[2].task_id, [2, 2, 0, 2])
    prompts = [s[4]["prompt"] for s in steps[1:]]
    asked = [r for r in env.world.parts.rewriter.requests if r.prefix.startswith(REWRITE)]
    starts = [request.prompt[0][1].split("\n") for request in asked]
    assert f"Task: {clean_task(TRAIN[2].text)}" in starts[0]
    assert f"Task: {prompts[0]}" in starts[1]
    assert prompts[2] == prompts[1]  # direct generation keeps the edited prompt
    assert f"Task: {prompts[1]}" in starts[2]
    assert len(set(prompts)) == 3


def test_the_next_edit_starts_from_the_better_prompt(make) -> None:
    env = RLPromptEnv(
        make(rule=in_turn(wrong, partly, wrong, wrong), visible_tests="all", max_steps=5, edit_base="best")
    )
    steps = play(env, TRAIN[2].task_id, [2, 2, 2, 2])
    prompts = [s[4]["prompt"] for s in steps[1:]]
    asked = [r for r in env.world.parts.rewriter.requests if r.prefix.startswith(REWRITE)]
    for number, base in enumerate([clean_task(TRAIN[2].text), prompts[0], prompts[1], prompts[1]]):
        assert f"Task: {base}" in asked[number].prompt[0][1].split("\n")


@pytest.mark.parametrize("action", [0, 1])
def test_on_the_original_text_a_request_does_not_depend_on_what_was_done_before(make, action: int) -> None:
    asked = []
    for before in ([0, 0], [1, 2], [2, 2], [2, 0]):
        env = RLPromptEnv(make(rule=in_turn(wrong, partly, wrong), visible_tests="all", max_steps=4))
        play(env, TRAIN[2].task_id, [*before, action])
        asked.append(env.world.parts.code.requests[-1])
    assert asked.count(asked[0]) == 4
    if action == 0:
        assert clean_task(TRAIN[2].text) in asked[0].prompt


def test_on_the_original_text_every_rewrite_is_one_of_it(make) -> None:
    env = RLPromptEnv(make(rule=in_turn(wrong, partly, wrong), visible_tests="all", max_steps=4))
    play(env, TRAIN[2].task_id, [2, 1, 2])
    for request in [r for r in env.world.parts.rewriter.requests if r.prefix.startswith(REWRITE)]:
        assert f"Task: {clean_task(TRAIN[2].text)}" in request.prompt[0][1].split("\n")


def test_feedback_tells_result_similarity_and_edits(make, sandbox: Sandbox) -> None:
    env = RLPromptEnv(make(rule=always(wrong), visible_tests=1))
    steps = play(env, TRAIN[0].task_id, [0, 1, 2])
    texts = [s[4]["feedback"] for s in steps[1:]]
    assert all("midpoint(2, 6) should be 4.0 but is 'no such value'." in text for text in texts)
    assert "similarity to the original is 1.00" in texts[0] and "Edits" not in texts[0]
    assert "Edits tried: genetic mutation." in texts[1]
    assert "Edits tried: genetic mutation, semantic rewriting." in texts[2]
    crashing = sandbox.run([Program("def midpoint(a, b):\n    return a / 0", TRAIN[0].tests)])[0]
    assert "midpoint(2, 6) fails: exception ZeroDivisionError" in feedback(TRAIN[0].tests[:1], crashing)


@pytest.mark.parametrize(
    "test, program, expected",
    [
        ("assert f('a==b') == 1", "def f(x):\n    return 2", "f('a==b') should be 1 but is 2."),
        ("assert f(3) == 'a==b'", "def f(x):\n    return 2", "f(3) should be 'a==b' but is 2."),
        ("assert f(3)", "def f(x):\n    return 0", "f(3) should be true, the value is 0."),
        ("assert not f(3)", "def f(x):\n    return 7", "not f(3) should be true, the value is 7."),
        ("assert f(3) is None", "def f(x):\n    return 7", "f(3) is None should be true, the value is 7."),
        ("assert f(3) != 7", "def f(x):\n    return 7", "f(3) != 7 should be true, the value is 7."),
        ("assert f(3) == 7", "def f(x):\n    return 7", "f(3) is right."),
    ],
)
def test_feedback_reads_right_for_asserts_of_every_form(sandbox: Sandbox, test, program, expected) -> None:
    (verdict,) = sandbox.run([Program(program, (test,))])
    assert verdict_in_words((test,), verdict) == expected
    assert feedback((test,), verdict) == f"{expected} The prompt's similarity to the original is 1.00."


# Leak-freeness: what models and agent see depends on the visible assert alone

HIDDEN = (
    "assert {0}(1) == 1",
    "assert {0}('secret', 'secret') == 'secret secret secret'",
    "assert {0}() is None",
    "assert not {0}([])",
    "assert {0}(10**6) == 7 or True",
)


@settings(max_examples=12, deadline=None)
@given(
    hidden=st.lists(st.sampled_from(HIDDEN), max_size=3),
    challenge=st.lists(st.sampled_from(HIDDEN), max_size=3),
    actions=st.lists(st.integers(0, 2), min_size=3, max_size=3),
    program=st.sampled_from([wrong, partly, right]),
    scope=st.sampled_from(["problem", "run"]),
)
def test_hidden_asserts_change_nothing_that_is_seen(make, hidden, challenge, actions, program, scope) -> None:
    def session(problems: list[Problem]):
        world = make(problems, always(program), visible_tests=1, memory_scope=scope)
        env = RLPromptEnv(world)
        seen = [play(env, problem.task_id, actions) for problem in problems]
        return seen, world.parts.code.batches, world.parts.rewriter.batches

    def other(problem: Problem) -> Problem:
        fill = [[test.format(problem.entry_point) for test in tests] for tests in (hidden, challenge)]
        return replace(problem, tests=(problem.tests[0], *fill[0]), challenge_tests=tuple(fill[1]))

    before, *asked = session(TRAIN[:2])
    after, *asked_after = session([other(problem) for problem in TRAIN[:2]])
    assert asked == asked_after
    assert all(same(a, b) for a, b in zip(before, after, strict=True))


def test_all_asserts_are_shown_where_the_published_protocol_asks_for_it(make) -> None:
    for visible, count in ((1, 1), (2, 2), ("all", 3)):
        env = RLPromptEnv(make(rule=always(wrong), visible_tests=visible))
        play(env, TRAIN[0].task_id, [0])
        (request,) = env.world.parts.code.requests
        assert [test in request.prompt for test in TRAIN[0].tests] == [i < count for i in range(3)]
        assert not any(test in request.prompt for test in TRAIN[0].challenge_tests)
        assert shown(TRAIN[0], env.world.config) == TRAIN[0].tests[:count]


# The vector form


def chosen(task_id: int, attempt: int) -> int:
    return (task_id + 2 * attempt) % 3


def play_vector(envs: RLPromptVectorEnv, episodes: list[tuple[int, int]]) -> dict[tuple[int, int], list[tuple]]:
    """Transitions (observation, action, reward, terminated, truncated, next observation) of each episode."""
    observations, infos = envs.reset(options={"episodes": episodes})
    transitions: dict[tuple[int, int], list[tuple]] = {}
    while infos["active"].any():
        slots = list(envs.slots)
        assert list(infos["active"]) == [slot is not None for slot in slots]
        actions = [chosen(s.problem.task_id, len(s.attempts)) if s else 2 for s in slots]
        following, rewards, terminated, truncated, infos = envs.step(np.array(actions))
        assert following.dtype == np.float32 and following in envs.observation_space
        assert not (terminated & truncated).any()
        for i, slot in enumerate(slots):
            if slot is None:
                assert rewards[i] == 0 and not terminated[i] and not truncated[i] and not observations[i].any()
                continue
            done = terminated[i] or truncated[i]
            last = infos["final_obs"][i] if done else following[i]
            assert bool(done) == (envs.slots[i] is not slot)
            row = (observations[i], actions[i], rewards[i], terminated[i], truncated[i], last)
            transitions.setdefault(slot.key, []).append(row)
        if "final_obs" in infos:
            assert [bool(x) for x in infos["_final_obs"]] == [o is not None for o in infos["final_obs"]]
        observations = following
    return transitions


def test_the_vector_form_makes_the_same_transitions_as_the_single_one(make) -> None:
    episodes = [(p.task_id, 0) for p in TRAIN[:7]] + [(TRAIN[0].task_id, 1)]
    envs = RLPromptVectorEnv(make(), 3)
    assert envs.metadata["autoreset_mode"] is gym.vector.AutoresetMode.SAME_STEP
    assert envs.single_action_space == gym.spaces.Discrete(3)
    transitions = play_vector(envs, episodes)
    assert list(transitions) != episodes or len(transitions) == len(episodes)
    assert sorted(transitions) == sorted(episodes)  # exactly the listed episodes, each once
    env = RLPromptEnv(make())
    for task_id, visit in episodes:
        observation, _ = env.reset(options={"task_id": task_id})
        for attempt, row in enumerate(transitions[task_id, visit]):
            assert np.array_equal(row[0], observation)
            observation, gained, terminated, truncated, _ = env.step(chosen(task_id, attempt))
            assert (row[1], float(row[2]), bool(row[3]), bool(row[4])) == (
                chosen(task_id, attempt), gained, terminated, truncated,
            )  # fmt: skip
            assert np.array_equal(row[5], observation)
        assert terminated or truncated
    lengths = {len(rows) for rows in transitions.values()}
    assert len(lengths) > 1, "solved and unsolved episodes are both wanted here"


WRONG_ACTIONS = [3, -1, 1.5, float("nan"), "1", None, np.int64(3), np.float32(0.5)]


@pytest.mark.parametrize("action", WRONG_ACTIONS, ids=repr)
def test_an_action_that_does_not_exist_is_refused_before_anything_is_paid(make, action) -> None:
    sentence = r"no action .*choose one of 0 \(direct\), 1 \(mutation\), 2 \(rewriting\)"
    world = make()
    env, envs = RLPromptEnv(world), RLPromptVectorEnv(world, 2)
    env.reset(options={"task_id": 1})
    envs.reset(options={"episodes": [(p.task_id, 0) for p in TRAIN[:2]]})
    for step in (lambda: env.step(action), lambda: envs.step([2, action])):
        with pytest.raises(ValueError, match=sentence):
            step()
    assert world.parts.code.requests == world.parts.rewriter.requests == []
    assert not env.episode.attempts and not any(slot.attempts for slot in envs.slots)


@pytest.mark.parametrize("action", [1, np.int64(1), np.int8(1), np.array(1), torch.tensor(1), 1.0, True], ids=repr)
def test_an_action_may_be_any_whole_number(make, action) -> None:
    env = RLPromptEnv(make())
    env.reset(options={"task_id": 1})
    env.step(action)
    assert [type(row["action"]) for row in env.episode.attempts] == [int] and env.episode.attempts[0]["action"] == 1


@pytest.mark.parametrize("end", ["raise ValueError(chr(0xD800) + ' is no number')", "return chr(0xD800)"])
def test_half_a_character_in_what_a_program_does_goes_into_no_text(make, end: str) -> None:
    env = RLPromptEnv(make(rule=always(lambda problem: f"def {problem.entry_point}(*_):\n    {end}")))
    env.reset(options={"task_id": 1})
    *_, info = env.step(0)
    assert "ud800" in info["feedback"] and info["feedback"].encode()
    env.step(2)  # which shows it to the rewriter


def test_one_batch_per_kind_of_work_and_none_for_idle_slots(make) -> None:
    envs = RLPromptVectorEnv(make(rule=always(wrong)), 4)
    coder, rewriter = envs.world.parts.code, envs.world.parts.rewriter
    _, infos = envs.reset(options={"episodes": [(p.task_id, 0) for p in TRAIN[:6]]})
    while infos["active"].any():
        active = int(infos["active"].sum())
        coder.batches.clear(), rewriter.batches.clear()
        infos = envs.step(np.array([2, 2, 2, 1]))[-1]
        assert [len(batch) for batch in coder.batches] == [active]
        kinds = [{r.prefix.startswith(REWRITE) for r in batch} for batch in rewriter.batches]
        assert len(rewriter.batches) <= 2 and all(len(kind) == 1 for kind in kinds)
        assert sum(r.prefix.startswith(REWRITE) for r in rewriter.requests) == min(3, active)
    coder.batches.clear(), rewriter.batches.clear()
    _, rewards, terminated, truncated, infos = envs.step(np.array([2, 2, 2, 1]))
    assert coder.requests == rewriter.requests == []
    assert not rewards.any() and not terminated.any() and not truncated.any() and "final_obs" not in infos


def test_invalid_rewrites_cost_one_more_batch_and_no_more(make) -> None:
    envs = RLPromptVectorEnv(make(rewrites=lambda r: r.prefix if r.prefix.startswith(REWRITE) else None), 4)
    envs.reset(options={"episodes": [(p.task_id, 0) for p in TRAIN[:4]]})
    for _ in range(2):
        envs.world.parts.rewriter.batches.clear()
        envs.step(np.array([2, 2, 2, 2]))
        batches = envs.world.parts.rewriter.batches
        assert sum(batch[0].prefix.startswith(REWRITE) for batch in batches) == 2
        assert sum(batch[0].prefix == REFLECT for batch in batches) <= 1


def test_without_a_list_the_vector_form_goes_through_shuffled_epochs(make) -> None:
    envs = RLPromptVectorEnv(make(rule=always(right)), 5)

    def ids(seed: int) -> list[tuple[int, int]]:
        envs.reset(seed=seed)
        keys = []
        for _ in range(6):
            keys += [slot.key for slot in envs.slots]  # each is solved at once
            envs.step(np.zeros(5, int))
        return keys

    keys = ids(4)
    assert len(keys) == 30 and len({task for task, visit in keys if visit == 0}) == 12
    assert ids(4) == keys != ids(5)


def test_every_update_uses_exactly_its_episodes_though_later_ones_start_early(make) -> None:
    """Groups of four in five slots: what a slot does for a later group counts there, with its own advantages."""
    log: list[dict] = []
    world = make(world={"log": lambda name, row: log.append(row)})
    agent = PPOAgent(world.config, world.observation_space.shape[0], len(world.names))
    lists = [[(p.task_id, visit, 3 * visit + third) for p in TRAIN[4 * third : 4 * third + 4]]
             for visit in range(2) for third in range(3)]  # fmt: skip
    envs, records, together, used = RLPromptVectorEnv(world, 5, look="next"), defaultdict(list), False, 0
    generator = torch.Generator().manual_seed(0)
    envs.restore(None)
    for group in range(6):
        observations, infos = envs.add(itertools.chain(*lists[group + 1 if group else 0 : group + 2]))
        batch, *_ = rollout(agent, envs, observations, infos, generator, group=group, records=records)
        together |= bool(records["groups"])
        used += len(batch["actions"])
        keys = [entry[:2] for entry in lists[group]]
        rows = {key: [row for row in log if (row["task_id"], row["visit"]) == key] for key in keys}
        assert len(batch["actions"]) == sum(map(len, rows.values())) and batch["dones"].sum() == len(keys)
        assert batch["terminated"].sum() == sum(all(r["visible_mask"]) for rs in rows.values() for r in rs)
        expected = []
        for (task_id, visit), own in rows.items():
            episode = Episode(world.problems[task_id], visit)
            seen = []
            for row in own:  # the episode by itself, from its log
                seen.append(world.observe([episode])[0])
                episode.attempts.append(row)
            values = agent.value(np.stack(seen)).detach()[:, None]
            rewards = torch.tensor([[row["reward"]] for row in own])
            dones = torch.tensor([[row is own[-1]] for row in own])
            advantages = compute_gae(rewards, values, dones, torch.zeros(1), 0.99, 0.95)
            expected += zip([row["action"] for row in own], advantages[:, 0].tolist(), strict=True)
        got = zip(batch["actions"].tolist(), batch["advantages"].tolist(), strict=True)
        for (action, advantage), (other, wanted) in zip(sorted(got), sorted(expected), strict=True):
            assert action == other and advantage == pytest.approx(wanted, abs=1e-5)
    assert together and not records["groups"] and used == len(log)


def test_episodes_under_way_are_saved_and_restored(make, tmp_path: Path) -> None:
    entries = [(p.task_id, 0, i // 4) for i, p in enumerate(TRAIN[:8])]

    def go_on(envs: RLPromptVectorEnv, observations: np.ndarray) -> list:
        steps = []
        while any(envs.slots):
            actions = [chosen(s.problem.task_id, len(s.attempts)) if s else 0 for s in envs.slots]
            steps.append([observations, *envs.step(np.array(actions))])
            observations = steps[-1][1]
        return steps

    envs = RLPromptVectorEnv(make(rule=always(wrong)), 3)
    envs.restore(None)
    observations, _ = envs.add(entries)
    for _ in range(2):
        observations, *_ = envs.step(np.array([2, 1, 2]))
    torch.save(
        {"rollout": envs.state({"rewards": [torch.ones(3)]}), "memory": envs.world.memory.entries}, tmp_path / "x"
    )
    rest = go_on(envs, observations)
    saved = torch.load(tmp_path / "x", weights_only=True)
    again = RLPromptVectorEnv(make(rule=always(wrong)), 3)
    again.world.memory.entries = saved["memory"]
    assert again.restore(saved["rollout"])["rewards"][0].tolist() == [1, 1, 1]
    observations, _ = again.add([])
    repeated = go_on(again, observations)
    assert len(rest) == len(repeated) > 3
    for one, other in zip(rest, repeated, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one[:5], other[:5], strict=True))
        assert np.array_equal(one[5]["groups"], other[5]["groups"])


def test_strategies_that_do_not_look_embed_no_feedback(make, embedder: Embedder, monkeypatch) -> None:
    episodes, shown = [(p.task_id, 0) for p in TRAIN[:5]], {}
    for look in ("all", "next", "none"):
        texts: list[str] = []
        world = make(rule=always(wrong))
        encode = embedder.encode
        with monkeypatch.context() as patch:
            patch.setattr(embedder, "encode", lambda t, e=encode, seen=texts: (seen.extend(t), e(t))[1])
            envs = RLPromptVectorEnv(world, 3, look)
            observations, infos = envs.reset(options={"episodes": episodes})
            rows = [observations]
            while infos["active"].any():
                observations, *_, infos = envs.step(np.zeros(3, int))
                rows.append(observations)
                assert ("final_obs" in infos) <= (look == "all")
        shown[look] = np.stack(rows), sum("similarity to the original" in text for text in texts)
    assert np.array_equal(shown["all"][0], shown["next"][0]) and not shown["none"][0].any()
    assert shown["all"][1] == 15 and shown["next"][1] == 10 and shown["none"][1] == 0


def test_programs_run_while_others_are_generated(make, monkeypatch) -> None:
    world, verdicts = make(), []
    run_async, generate = world.parts.sandbox.run_async, world.parts.code.generate
    monkeypatch.setattr(
        world.parts.sandbox, "run_async", lambda programs: (verdicts.append(run_async(programs)), verdicts[-1])[1]
    )

    def slow(requests, each):
        def first(place, completion):
            each(place, completion)
            verdicts[-1].result(timeout=60)  # a sandbox that waited for the whole batch would never answer

        return generate(requests, first)

    monkeypatch.setattr(world.parts.code, "generate", slow)
    envs = RLPromptVectorEnv(world, 4)
    envs.reset(options={"episodes": [(p.task_id, 0) for p in TRAIN[:4]]})
    envs.step(np.zeros(4, int))
    assert len(verdicts) == 4


def test_requests_depend_on_the_episode_and_not_on_company_or_strategy(make) -> None:
    episodes = [(p.task_id, 0) for p in TRAIN[:5]]
    asked = []
    for slots, strategy in ((1, "ppo"), (2, "random"), (5, "ppo"), (9, "x")):
        world = make(rule=always(wrong), world={"strategy": strategy})
        play_vector(RLPromptVectorEnv(world, slots), episodes[::-1] if slots == 2 else episodes)
        asked.append({*world.parts.code.requests, *world.parts.rewriter.requests})
    assert asked[0] == asked[1] == asked[2] == asked[3]
    seeds = [request.seed for request in asked[0]]
    assert len(set(seeds)) == len(seeds)
    phases = [make(rule=always(wrong), world={"phase": phase}) for phase in ("train", "eval")]
    for world in phases:
        play_vector(RLPromptVectorEnv(world, 5), episodes)
    evaluated = phases[1].parts
    assert not {r.seed for r in [*evaluated.code.requests, *evaluated.rewriter.requests]} & set(seeds)
    assert {r.seed for r in phases[0].parts.code.requests} <= set(seeds)


# Reflexion memory


def lessons(request) -> list[str]:
    return [line.removeprefix("Lesson: ") for line in request.prompt[0][1].split("\n") if line.startswith("Lesson: ")]


@pytest.mark.parametrize("size", [0, 1, 3])
def test_a_rewrite_reflects_on_the_attempt_that_it_reads_and_on_no_other(make, size: int) -> None:
    env = RLPromptEnv(make(rule=always(wrong), max_steps=7, memory_size=size))
    play(env, TRAIN[0].task_id, [0, 1, 0, 0])
    rewriter = env.world.parts.rewriter
    assert rewriter.batches == []  # four failures, no rewrite: nothing is asked
    for written in (1, 2):
        env.step(2)
        assert [len(batch) for batch in rewriter.batches] == ([1, 1] if size else [1])
        assert len(lessons(rewriter.requests[-1])) == len(set(lessons(rewriter.requests[-1]))) == min(size, written)
        rewriter.batches.clear()


# The rewriter that keeps the task and adds a specification


def specifying(make, *replies: str, **changes) -> RLPromptEnv:
    """An environment whose rewriter writes specifications; ``replies`` follow the forced start, one after the other."""
    todo = list(replies)
    rewrites = lambda request: request.prefix + todo.pop(0)  # noqa: E731
    return RLPromptEnv(make(rule=always(wrong), rewrites=rewrites, rewrite_style="specification", **changes))


GOOD = " It takes two numbers a and b. The result is their mean, as a float."


def test_a_specification_follows_the_task_and_the_reflection_comes_with_it(make) -> None:
    env = specifying(make, f" It adds them. Really.\nSpecification:{GOOD}", f" It is text.\nSpecification:{GOOD}")
    steps = play(env, TRAIN[0].task_id, [0, 2, 2])
    task, rewriter = clean_task(TRAIN[0].text), env.world.parts.rewriter
    assert [s[4]["prompt"] for s in steps[1:]] == [task, task + GOOD, task + GOOD]
    assert [row["rewriter_calls"] for row in env.episode.attempts] == [0, 1, 1]
    first, second = rewriter.requests
    words = first.prompt[0][1]
    assert first.prefix == "Mistake:" and TRAIN[0].tests[0] in words and "return 'no such value'" in words
    assert "should be 4.0 but is 'no such value'" in words and not lessons(first)
    assert lessons(second) == ["It adds them."]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (GOOD, GOOD),
        ("\n- It takes two numbers.\n- It returns their **mean**.\n", " It takes two numbers. It returns their mean."),
        (GOOD + "\n```python\ndef midpoint(a, b):\n    pass\n```", GOOD),
        (GOOD + "\nassert midpoint(1, 2) == 1.5", GOOD),
        (GOOD + " It is cut here and" + CUT, GOOD),
        (
            " One is here. Two is here. Three is here. Four is here. Five.",
            " One is here. Two is here. Three is here. Four is here.",
        ),
        (GOOD + " And so on" * 50 + ".", GOOD),
        (" The body is lambda x: x + 1." + GOOD, GOOD),
        (" Use def midpoint(a, b): return a + b for it." + GOOD, GOOD),
        (GOOD + "\nresult = a + b\nreturn result", GOOD),
        (GOOD + " The rule is: total = first + second.", GOOD),
        (GOOD + " For n = 3 the sum is 6 (1 + 2 + 3).", GOOD + " For n = 3 the sum is 6 (1 + 2 + 3)."),
    ],
)
def test_what_counts_of_a_specification(make, reply: str, said: str) -> None:
    env = specifying(make, reply)
    steps = play(env, TRAIN[0].task_id, [2])
    assert steps[1][4]["prompt"] == clean_task(TRAIN[0].text) + said
    assert env.world.parts.rewriter.requests[0].prefix == "Specification:"


def test_only_what_failed_to_parse_is_asked_for_again(make) -> None:
    env = specifying(make, " It adds them.\nSpecification: ```def midpoint(a, b)```", GOOD)
    steps = play(env, TRAIN[0].task_id, [0, 2])
    first, second = env.world.parts.rewriter.requests
    assert (first.prefix, second.prefix) == ("Mistake:", "Specification:") and first.seed != second.seed
    assert steps[2][4]["prompt"] == clean_task(TRAIN[0].text) + GOOD
    assert env.world.memory.recall([TRAIN[0].task_id, 0], "x") == ["It adds them."]


def test_without_a_specification_the_task_names_the_function(make) -> None:
    env = specifying(make, "", " def midpoint(a, b): return 0")
    steps = play(env, TRAIN[0].task_id, [2])
    assert steps[1][4]["prompt"] == f"{clean_task(TRAIN[0].text)} The function is named midpoint."


def test_without_memory_nothing_is_reflected_on(make) -> None:
    env = specifying(make, GOOD, memory_size=0)
    play(env, TRAIN[0].task_id, [0, 2])
    (request,) = env.world.parts.rewriter.requests
    assert request.prefix == "Specification:" and "Mistake" not in request.prompt[0][1]


@pytest.mark.parametrize("style", ["specification", "sentence"])
def test_without_feedback_nobody_reads_what_the_asserts_say(make, style) -> None:
    """Rewriter, repair and observation know the program that failed and the scores, and no word of its tests."""
    said, seen = {}, {}
    rewrites = lambda r: None if style == "sentence" else f"{r.prefix} It adds.\nSpecification:{GOOD}"  # noqa: E731
    for show in (True, False):
        changes = {"show_feedback": show, "rewrite_style": style, "actions": "direct,mutation,rewriting,repair"}
        env = RLPromptEnv(make(rule=always(wrong), rewrites=rewrites, **changes))
        steps = play(env, TRAIN[0].task_id, [0, 2, 3])
        parts = env.world.parts
        said[show] = " ".join(request.prompt[0][1] for request in parts.rewriter.requests) + steps[3][4]["prompt"]
        seen[show] = np.stack([observation for observation, *_ in steps])
    told = ("should be 4.0 but is", "similarity to the original", "Result:", "Its tests say")
    assert all(words in said[True] for words in told if style == "specification" or words != "Result:")
    assert not any(words in said[False] for words in told) and "return 'no such value'" in said[False]
    half = env.world.parts.embedder.dim
    words, rest = np.s_[:, half : 2 * half], np.s_[:, 2 * half :]
    assert len(np.unique(seen[False][words][1:], axis=0)) == 1 < len(np.unique(seen[True][words][1:], axis=0))
    assert np.array_equal(seen[True][rest][:2], seen[False][rest][:2])


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=300), st.booleans())
def test_whatever_comes_back_the_task_stays_and_prose_follows(reply: str, reflect: bool) -> None:
    rewriter = SpecificationRewriter(Rewriter(lambda r: r.prefix + reply))
    job = {
        "problem": TRAIN[0],
        "task": "Do this.",
        "shown": [],
        "code": "x" * reflect,
        "feedback": "",
        "reflections": (),
    }
    (text,) = rewriter.rewrite([job | {"reflect": reflect, "seed": 1, "cost": Cost()}])
    assert text.startswith("Do this. ") and "\n" not in text and "```" not in text and len(text.split()) <= 103


def test_reflections_see_the_program_and_its_feedback(make) -> None:
    env = RLPromptEnv(make(rule=always(wrong)))
    play(env, TRAIN[0].task_id, [0, 2])
    reflection = env.world.parts.rewriter.batches[0][0]
    assert reflection.prefix == REFLECT
    text = reflection.prompt[0][1]
    assert "return 'no such value'" in text and "midpoint(2, 6) should be 4.0 but is 'no such value'" in text


def test_memory_per_problem_forgets_at_the_end_of_the_episode(make) -> None:
    env = RLPromptEnv(make(rule=always(wrong), memory_scope="problem"))
    for problem in (*TRAIN[:3], TRAIN[0]):
        play(env, problem.task_id, [2, 2, 2])
        assert env.world.memory.entries == []
    rewrites = [r for r in env.world.parts.rewriter.requests if r.prefix.startswith(REWRITE)]
    assert [len(lessons(r)) for r in rewrites] == [0, 1, 2] * 4


def test_memory_of_the_run_recalls_training_problems_and_never_evaluated_ones(make) -> None:
    """Also of problems that are evaluated side by side, or were left in the middle of an episode."""

    def tagged(kind: str):
        return lambda r: f"{REFLECT} {kind} {r.seed}." if r.prefix == REFLECT else None

    memory = ReflexionMemory(make().parts.embedder, 3, "run")
    trained = make(rule=always(wrong), rewrites=tagged("train"), memory_scope="run", world={"memory": memory})
    env = RLPromptEnv(trained)
    for problem in TRAIN[:3]:
        play(env, problem.task_id, [2, 2, 2])
    kept = [entry[2] for entry in memory.entries]
    assert len(kept) == 6 and all(" train " in text for text in kept)
    asked = [r for r in trained.parts.rewriter.requests if r.prefix.startswith(REWRITE)]
    assert lessons(asked[0]) == [] and len(lessons(asked[3])) == 2  # two reflections of the problem before it

    problems = STARTER["test"][:6]
    world = {"memory": memory, "phase": "eval"}
    evaluated = make(problems, always(wrong), tagged("eval"), memory_scope="run", world=world)
    single = RLPromptEnv(evaluated)
    single.reset(options={"task_id": problems[5].task_id})
    single.step(0), single.step(2)  # left unfinished
    evaluated.parts.rewriter.batches.clear()
    envs = RLPromptVectorEnv(evaluated, 3)
    _, infos = envs.reset(options={"episodes": [(p.task_id, 0) for p in problems[:5]]})
    own: dict[str, set[str]] = {}
    while infos["active"].any():
        infos = envs.step(np.full(3, 2))[-1]
    for request in evaluated.parts.rewriter.requests:
        name = next(p.entry_point for p in problems if p.entry_point in str(request))
        if request.prefix.startswith(REWRITE):
            foreign = [note for note in lessons(request) if " eval " in note and note not in own.get(name, set())]
            assert not foreign, "a reflection on another evaluated problem was shown"
            assert any(" train " in note for note in lessons(request)) or len(own[name]) >= 2
        else:
            text = f"{REFLECT} eval {request.seed}."
            own.setdefault(name, set()).add(text)
    memory.size = 100  # whatever it holds: others are shown what training left, and no more
    assert sorted(memory.recall([0, 9], "A task.")) == sorted(kept)


def test_the_most_similar_training_problem_is_recalled_last(embedder: Embedder) -> None:
    memory = ReflexionMemory(embedder, size=2, scope="run")
    for key, (task, text) in enumerate(
        [("Add two numbers.", "add"), ("Reverse a string.", "reverse"), ("Count the vowels in a word.", "vowels")]
    ):
        memory.add([key, 0], task, text)
        memory.end([key, 0], training=True)
    assert memory.recall([9, 0], "Count the consonants in a word.")[-1] == "vowels"
    assert memory.recall([9, 0], "Sum of two integers.")[-1] == "add"
    assert len(memory.recall([9, 0], "Sum of two integers.")) == 2
    memory.add([9, 0], "Sum of two integers.", "own")
    assert memory.recall([9, 0], "Sum of two integers.") == ["add", "own"]


def test_what_training_left_is_no_note_of_a_scored_problem_with_the_same_number(embedder: Embedder) -> None:
    """Task ids are those of one set: the scored problems may be of another one."""
    memory = ReflexionMemory(embedder, size=2, scope="run")
    for visit, (task, text) in enumerate([("Add two numbers.", "add"), ("Reverse a string.", "reverse")]):
        memory.add([1, visit], task, text)
        memory.end([1, visit], training=True)
    assert memory.recall([1, 0], "Reverse some text.") == ["add", "reverse"]  # by likeness, the nearest last
    memory.add([1, 0], "Reverse some text.", "own")
    assert memory.recall([1, 0], "Reverse some text.") == ["reverse", "own"]
    memory.end([1, 0], training=False)
    assert memory.recall([1, 0], "Reverse some text.") == ["add", "reverse"]


# Rewriter


def rewriting(make, replies: list[str]) -> tuple[str, list]:
    """What the environment uses as a prompt when the rewriter gives these replies, and what it was asked."""
    todo = list(replies)
    env = RLPromptEnv(make(rule=always(wrong), rewrites=lambda r: r.prefix + todo.pop(0), max_steps=1))
    play(env, TRAIN[0].task_id, [2])
    return env.world.parts.code.requests[0].prompt, env.world.parts.rewriter.batches


@pytest.mark.parametrize("rest", ["", " Then some more", " Then some more" + CUT])
def test_a_valid_rewrite_is_used_as_it_is(make, rest: str) -> None:
    prompt, batches = rewriting(make, [" returns the mean of two numbers." + rest])
    assert "Write a Python function named midpoint that returns the mean of two numbers.\n" in prompt
    assert "Then some more" not in prompt and REWRITE not in prompt
    assert len(batches) == 1


BAD = [
    "",
    " x.",
    " is cut before its sentence ends" + CUT,
    " ```python",
    " def midpoint(a, b): return 1",
    " is: return (a + b) / 2",
    " a == b for lambda x.",
]


@pytest.mark.parametrize("bad", BAD)
def test_an_invalid_rewrite_is_asked_for_once_more_with_another_seed(make, bad: str) -> None:
    prompt, batches = rewriting(make, [bad, " halves the sum of a and b"])
    assert "Write a Python function named midpoint that halves the sum of a and b.\n" in prompt
    (first,), (second,) = batches
    assert first.prompt == second.prompt and first.seed != second.seed


def test_two_invalid_rewrites_give_the_template(make) -> None:
    prompt, batches = rewriting(make, ["", ""])
    assert f"Write a Python function named midpoint that does this: {clean_task(TRAIN[0].text)}\n" in prompt
    assert len(batches) == 2


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=200))
def test_whatever_comes_back_one_line_of_prose_is_used(reply: str) -> None:
    rewriter = PromptRewriter(Rewriter(lambda r: r.prefix + reply))
    job = {"problem": TRAIN[0], "task": "t", "feedback": "", "reflections": (), "seed": 1, "cost": Cost()}
    (text,) = rewriter.rewrite([job])
    assert text.startswith("Write a Python function named midpoint that")
    assert "\n" not in text and "```" not in text and "def midpoint(" not in text and text[-1] in ".!?"
    assert job["cost"].calls in (1, 2)


# EPiC mutation


@pytest.fixture(scope="module")
def epic(lexicon: Lexicon, embedder: Embedder) -> EpicGA:
    return EpicGA(lexicon, embedder, rate=0.5, min_similarity=0.8)


@settings(max_examples=40, deadline=None)
@given(text=st.sampled_from(TEXTS), seed=st.integers(0, 2**32))
def test_mutants_change_open_words_only(epic: EpicGA, lexicon: Lexicon, text: str, seed: int) -> None:
    keep = text.split()[5:7]
    (mutant,) = epic.mutate([text], [np.random.default_rng(seed)], keep=[keep])
    before, after = lexicon.tokenize(text), lexicon.tokenize(mutant)
    assert len(before) == len(after)
    tags = iter(lexicon.tag([token for token, _ in before if not token.isspace()]))
    for (old, is_word), (new, _) in zip(before, after, strict=True):
        tag = "" if old.isspace() else next(tags)
        if new != old:  # spaces, punctuation, numbers, quoted text, code: never
            assert is_word and not lexicon.is_stop_word(old) and old not in keep
            assert new in lexicon.synonyms(old, tag)
            assert tag[0] in "NVJR" and not tag.startswith("NNP")
            assert new[0].isupper() == old[0].isupper() and new.isalpha()
    assert mutant == text or epic.embedder.similarity(text, mutant) >= 0.8 - 1e-6
    assert epic.mutate([text], [np.random.default_rng(seed)], keep=[keep]) == [mutant]


@settings(max_examples=12, deadline=None)
@given(text=st.sampled_from(TEXTS), word=st.sampled_from(["area", "total_cost", "sumOf"]), seed=st.integers(0, 99))
def test_names_numbers_quotes_and_layout_stay(epic: EpicGA, text: str, word: str, seed: int) -> None:
    text = (
        f"{text[:-1]}, 'big red dog', \"fast car\" and 42 or 3.5;  see {word}(x), `large number` and  {word} (quickly)!"
    )
    mutants = epic.mutate([text] * 3, [np.random.default_rng(seed + i) for i in range(3)], keep=[(word,)] * 3)
    for mutant in mutants:
        tail = [f"{word}(x)", "'big red dog'", '"fast car"', "`large number`", " 42 ", " 3.5;  ", f"  {word} ("]
        assert all(part in mutant for part in tail)


def test_most_texts_get_a_mutant_and_rates_matter(lexicon: Lexicon, embedder: Embedder) -> None:
    texts = TEXTS[:16]

    def changed(rate: float, least: float) -> int:
        epic = EpicGA(lexicon, embedder, rate, least)
        mutants = epic.mutate(texts, [np.random.default_rng(i) for i in range(len(texts))])
        return sum(mutant != text for mutant, text in zip(mutants, texts, strict=True))

    assert changed(0.25, 0.8) > 8
    assert changed(0.0, 0.0) == 0
    assert changed(1.0, 1.1) == 0  # nothing is similar enough: the text stays


def test_meaning_is_measured_against_the_original(epic: EpicGA, embedder: Embedder) -> None:
    original = TEXTS[0]
    text = original
    for step in range(6):  # mutants of mutants
        (text,) = epic.mutate([text], [np.random.default_rng(step)], originals=[original])
        assert embedder.similarity(original, text) >= 0.8 - 1e-6
    assert text != original


def test_a_text_that_was_rewritten_away_can_still_be_mutated(epic: EpicGA, embedder: Embedder) -> None:
    far = [(text, other) for text, other in itertools.product(TEXTS[:8], TEXTS[8:12])
           if 0.2 < embedder.similarity(text, other) < 0.7]  # fmt: skip
    texts, originals = map(list, zip(*far, strict=True))
    mutants = epic.mutate(texts, [np.random.default_rng(i) for i in range(len(far))], originals=originals)
    moved = [i for i, mutant in enumerate(mutants) if mutant != texts[i]]
    assert len(far) > 8 and len(moved) > len(far) / 2
    for i in moved:
        before, after = (embedder.similarity(text, originals[i]) for text in (texts[i], mutants[i]))
        assert after >= 0.8 * before - 1e-6


def test_a_text_is_mutated_the_same_in_any_company(epic: EpicGA) -> None:
    together = epic.mutate(TEXTS[:10], [np.random.default_rng(i) for i in range(10)])
    assert [epic.mutate([TEXTS[i]], [np.random.default_rng(i)])[0] for i in range(10)] == together


# Actions as a list


ALL_ACTIONS = "direct,mutation,rewriting,repair,stop"


def test_repair_shows_the_failed_program_and_what_its_tests_said(make) -> None:
    env = RLPromptEnv(
        make(rule=in_turn(wrong, partly, wrong), visible_tests="all", actions="direct,repair", max_steps=3)
    )
    steps = play(env, TRAIN[2].task_id, [1, 0, 1])
    first, second, third = env.world.parts.code.requests
    assert clean_task(TRAIN[2].text) in first.prompt and "wrong" not in first.prompt  # nothing has failed yet
    assert second.prompt == first.prompt and second.seed != first.seed
    code, said = steps[2][4]["code"], steps[2][4]["feedback"]
    assert code in third.prompt and said in third.prompt and steps[1][4]["code"] not in third.prompt
    assert [row["action"] for row in env.episode.attempts] == [3, 0, 3]  # numbers of the log, whatever the list


def test_stop_ends_an_episode_unsolved_and_costs_nothing(make) -> None:
    logged: list[tuple[str, dict]] = []
    world = make(rule=always(wrong), actions=ALL_ACTIONS, world={"log": lambda *line: logged.append(line)})
    env = RLPromptEnv(world)
    steps = play(env, TRAIN[2].task_id, [0, 4, 0])
    assert [s[1:4] for s in steps[1:]] == [(pytest.approx(-0.1), False, False), (0.0, False, True)]
    assert len(world.parts.code.requests) == len(env.episode.attempts) == 1
    what = {"phase": "train", "strategy": "ppo", "task_id": TRAIN[2].task_id, "visit": 0, "attempt": 1}
    assert [name for name, _ in logged] == ["attempts", "stops"] and logged[1][1] == what
    play(env, TRAIN[3].task_id, [4])  # before the first attempt there is nothing to give up
    assert [row["action"] for row in env.episode.attempts] == [0]


def test_stop_in_a_batch_leaves_the_others_as_they_are(make) -> None:
    ids = [(p.task_id, 0) for p in TRAIN[:4]]
    alone, beside = (RLPromptVectorEnv(make(rule=always(wrong), actions=ALL_ACTIONS, max_steps=4), 4) for _ in range(2))
    for envs, second in ((alone, [0, 1, 2, 3]), (beside, [4, 1, 2, 3])):
        envs.reset(options={"episodes": ids})
        envs.step(np.zeros(4, int))
        *_, terminated, truncated, _ = envs.step(np.array(second))
        assert list(truncated) == [second[0] == 4, False, False, False] and not terminated.any()
    assert [s.attempts for s in alone.slots[1:]] == [s.attempts for s in beside.slots[1:]] and beside.slots[0] is None


@pytest.mark.parametrize("actions", ["direct", "direct,repair", "rewriting,direct", ALL_ACTIONS])
def test_spaces_and_observation_follow_from_the_list(make, embedder: Embedder, actions: str) -> None:
    names = actions.split(",")
    world = make(rule=always(wrong), actions=actions, max_steps=4)
    env = RLPromptEnv(world)
    check_env(env, skip_render_check=True)
    assert env.action_space == gym.spaces.Discrete(len(names))
    for number, name in enumerate(names):
        if name != "stop":
            steps = play(env, TRAIN[0].task_id, [number])
            assert list(ACTIONS)[env.episode.attempts[0]["action"]] == name
            last = steps[1][0][2 * embedder.dim + 10 :]
            assert len(last) == len(names) + 2 and last[: len(names) + 1].argmax() == number and last[:-1].sum() == 1


def test_a_new_action_is_a_name_and_a_method(make, monkeypatch: pytest.MonkeyPatch) -> None:
    def shout(self, episodes, costs):
        return [text.upper() for text in self.direct(episodes, costs)]

    monkeypatch.setitem(ACTIONS, "shout", "shout it")
    monkeypatch.setattr(PromptEditor, "shout", shout, raising=False)
    env = RLPromptEnv(make(rule=always(wrong), actions="direct,shout"))
    steps = play(env, TRAIN[0].task_id, [1, 1])
    assert steps[1][4]["prompt"] == clean_task(TRAIN[0].text).upper()
    assert "Edits tried: shout it, shout it." in steps[2][4]["feedback"]
    assert env.world.parts.record()["actions"]["shout"] == "shout it"  # what the numbers in a run's log stand for


@pytest.mark.parametrize(
    "actions, sentence",
    [
        ("direct,jump", "there is no 'jump'; known: direct, mutation, rewriting, repair, stop"),
        ("mutation,stop", "must name each action once, and direct among them"),
        ("direct,direct", "must name each action once"),
        ("", "there is no ''"),
    ],
)
def test_a_list_that_cannot_be_is_refused(make, actions: str, sentence: str) -> None:
    with pytest.raises(RunError, match=sentence):
        make(actions=actions)


def test_scalars_are_the_full_observation_without_its_embeddings(make, embedder: Embedder) -> None:
    steps = [
        play(RLPromptEnv(make(observation=kind, rule=always(wrong), visible_tests="all")), TRAIN[0].task_id, [0, 1, 2])
        for kind in ("full", "scalars")
    ]
    for full, scalars in zip(*steps, strict=True):
        assert np.array_equal(full[0][2 * embedder.dim :], scalars[0]) and full[1:4] == scalars[1:4]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=3))
def test_an_episode_is_the_same_alone_and_in_a_batch_for_every_action(make, actions: list[int]) -> None:
    def texts(ids: list[int]) -> dict[int, list]:
        envs = RLPromptVectorEnv(make(rule=always(wrong), actions=ALL_ACTIONS, max_steps=3), len(ids))
        envs.reset(options={"episodes": [(task_id, 0) for task_id in ids]})
        slots = list(envs.slots)
        for action in actions:
            envs.step(np.full(len(ids), action))
        return {slot.problem.task_id: slot.attempts for slot in slots}

    together = texts([p.task_id for p in TRAIN[:3]])
    assert all(texts([task_id])[task_id] == rows for task_id, rows in together.items())


def test_the_judged_mutants_are_those_that_mutation_makes(lexicon: Lexicon, embedder: Embedder) -> None:
    """results/mutation/mutants.csv: the first 60 texts that change, in a drawn order; a reader saw nothing but the pairs."""
    root = Path(__file__).parents[1]
    lines = (root / "data" / "starter" / "starter.jsonl").read_text().splitlines()
    texts, order = [json.loads(line)["text"] for line in lines], np.random.default_rng(0).permutation(len(lines))
    with open(root / "results" / "mutation" / "mutants.csv", newline="") as file:
        judged = list(csv.DictReader(file))
    few = [(texts[i], np.random.default_rng([0, int(i)])) for i in order[:70]]
    mutants = EpicGA(lexicon, embedder).mutate([text for text, _ in few], [rng for _, rng in few])
    made = [(text, mutant) for (text, _), mutant in zip(few, mutants, strict=True) if mutant != text]
    assert made[:60] == [(row["original"], row["mutant"]) for row in judged] and len(judged) == 60
    assert sum(row["accepted"] == "1" for row in judged) >= 48  # 8 in 10
