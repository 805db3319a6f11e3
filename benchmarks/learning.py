"""How much of what there is to find PPO finds in 1,056 episodes, by its settings; no language model.

    python benchmarks/learning.py --problems mbpp.jsonl --output results/learning/planted.json    # 20 minutes on a core

A planted task of the real size: the texts of MBPP's training problems, as an agent sees them, ten attempts, and chances
to solve like those that the bank measured, to which one action adds something: the same one everywhere ("fixed"), one at
first and another one after a failure ("step"), or another one for each kind of text ("text"). So the best policy is known.
It is training itself, with a world of its own, so that it shows too how many attempts are under way at once.
"""

import argparse
import types
from collections import defaultdict
from pathlib import Path

import _common
import gymnasium as gym
import numpy as np
from ppo_codet5.helpers.language import Embedder
from ppo_codet5.helpers.problems import load_problems

from ppo_codet5.core import (
    ACTIONS,
    Episode,
    Parameters,
    PPOAgent,
    PromptWorld,
    ReflexionMemory,
    action_names,
    clean_task,
    existing,
    observation_size,
    reward,
    train_agent,
)

PLANTED = {"fixed": 0.06, "step": 0.08, "text": 0.12}  # what it adds to a first attempt; half of it after a failure
EPISODES = 1056
SETTINGS = ("episodes_per_update", "updates_ahead", "clip_epsilon", "update_epochs", "learning_rate")
VARIANTS = {
    "96, clip 0.1": (96, 0, 0.1, 8, 1e-3),
    "48, clip 0.1": (48, 0, 0.1, 8, 1e-3),
    "48, clip 0.2": (48, 0, 0.2, 8, 1e-3),
    "48, clip 0.2, learning rate 0.0003": (48, 0, 0.2, 8, 3e-4),
    "48, 2 ahead, clip 0.2": (48, 2, 0.2, 8, 1e-3),
    "48, 2 ahead, clip 0.2, 6 epochs": (48, 2, 0.2, 6, 1e-3),
    "48, 2 ahead, clip 0.2, 4 epochs": (48, 2, 0.2, 4, 1e-3),
    "48, 4 ahead, clip 0.2, 6 epochs": (48, 4, 0.2, 6, 1e-3),
}


class PlantedWorld(PromptWorld):
    """What training asks of a world, with ``chances`` [first or later, problems, 3] that an attempt solves, and no model.

    An attempt keeps the problem's text and is told its assert. What is seen, paid and played is what training has.
    """

    def __init__(self, config, problems, embedder, chances, seed):
        self.config, self.chances, self.phase, self.log = config, chances, "train", None
        self.parts = types.SimpleNamespace(embedder=embedder)
        self.problems, self.places = {p.task_id: p for p in problems}, {p.task_id: i for i, p in enumerate(problems)}
        self.memory, self.names = ReflexionMemory(embedder, config.memory_size), action_names(config)
        self.seconds, self.rng = defaultdict(float), np.random.default_rng(seed)
        self.observation_space = gym.spaces.Box(-1, 1, (observation_size(config, embedder),), np.float32)
        self.action_space = gym.spaces.Discrete(len(self.names))
        self.steps = self.attempts = 0

    def attempt(self, episodes, names):
        rewards, self.steps, self.attempts = [], self.steps + 1, self.attempts + len(episodes)
        for episode, name in zip(episodes, names, strict=True):
            place, later = self.places[episode.problem.task_id], int(bool(episode.attempts))
            now = self.rng.random() < self.chances[later, place, self.names.index(name)]
            rewards.append(reward(self.config, episode.best, float(now)))
            self.tried(episode, name, now)
        return rewards

    def tried(self, episode, name, now):
        """Add an attempt by the action of this name to the episode, solved or not."""
        said = {"prompt": clean_task(episode.problem.text), "feedback": episode.problem.tests[0]}
        seen = {"visible_mask": [bool(now)], "outcomes": ["pass" if now else "wrong_value"]}
        episode.attempts.append({**said, **seen, "action": list(ACTIONS).index(name)})

    def solved(self, choose):
        """Exact share of problems that a policy without chance, of observations to actions, solves in the budget."""
        problems, places = list(self.problems.values()), np.arange(len(self.problems))
        episodes, fails = [Episode(problem, 0) for problem in problems], np.ones(len(problems))
        for number in range(self.config.max_steps):
            actions = choose(self.observe(episodes))
            fails *= 1 - self.chances[int(number > 0), places, actions]
            for episode, name in zip(episodes, existing(actions, self.names), strict=True):
                self.tried(episode, name, False)
        return 1 - fails.mean()

    def best_fixed(self):
        return max(self.solved(lambda rows, a=a: np.full(len(rows), a)) for a in range(len(self.names)))

    def best(self):
        first, later = self.chances.max(-1)
        return 1 - ((1 - first) * (1 - later) ** (self.config.max_steps - 1)).mean()


def by_text(texts, rng):
    """An action of three for each text, by the main directions of the embeddings [n, size]."""
    centred = texts - texts.mean(0)
    main = np.linalg.svd(centred, full_matrices=False)[2][:3]
    return (centred @ main.T @ rng.normal(size=(3, 3))).argmax(1)


def planted(kind, config, problems, embedder, seed):
    """A world in which one action adds ``PLANTED[kind]``; problems differ as MBPP's do for a small model."""
    rng, places = np.random.default_rng(100 + seed), np.arange(len(problems))
    easy = rng.beta(0.5, 1.0, len(problems))
    chances = np.stack([np.repeat(easy[:, None], 3, 1), np.repeat(0.3 * easy[:, None], 3, 1)])
    if kind == "text":
        first = later = by_text(embedder.encode([clean_task(problem.text) for problem in problems]), rng)
    else:
        first, later = rng.permutation(3)[:2] if kind == "step" else [rng.integers(3)] * 2
    chances[0, places, first] += PLANTED[kind]
    chances[1, places, later] += PLANTED[kind] / 2
    return PlantedWorld(config, problems, embedder, np.clip(chances, 0.01, 0.98), seed)


def train(world):
    """The agent that ``train_agent`` leaves, and what it logs of its updates."""
    agent = PPOAgent(world.config, *world.observation_space.shape, len(world.names), world.config.seed)
    updates = []
    run = types.SimpleNamespace(
        log=lambda name, row: name == "metrics" and updates.append(row), checkpoint=lambda state: None
    )
    train_agent(run, agent, world, {"update": 0, "rollout": None}, report=lambda line: None)
    return agent, updates


def measure(kind, variant, problems, embedder, seeds, episodes=EPISODES):
    """A row: points of each seed's agent above the best fixed action, and of the best policy above it."""
    changed = dict(zip(SETTINGS, VARIANTS[variant], strict=True)) | {"max_episodes": episodes, "max_steps": 10}
    gains, room, entropy, at_once = [], [], [], []
    for seed in range(seeds):
        config = Parameters(**changed, seed=seed, num_envs=512)
        world = planted(kind, config, problems, embedder, seed)
        agent, updates = train(world)
        at_once.append(world.attempts / world.steps)
        fixed = world.best_fixed()
        gains.append(float(100 * (world.solved(agent.greedy) - fixed)))
        room.append(100 * (world.best() - fixed))
        entropy.append(updates[-1]["entropy"])
    means = {"gain": np.mean(gains), "room": np.mean(room), "entropy": np.mean(entropy), "at_once": np.mean(at_once)}
    return {"task": kind, "settings": variant, **{k: float(v) for k, v in means.items()}, "gains": gains}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", default="mbpp", help="mbpp (hub) or a file in the MBPP schema")
    parser.add_argument("--settings", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    problems, embedder, rows = load_problems(arguments.problems, "train"), Embedder(), []
    for kind in PLANTED:
        for variant in arguments.settings:
            rows.append(measure(kind, variant, problems, embedder, arguments.seeds))
            print(f"{kind:6s} {variant:32s} {rows[-1]['gain']:+.2f} of {rows[-1]['room']:+.2f} points", flush=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    _common.write(arguments.output, {"machine": _common.machine(), "episodes": EPISODES, "rows": rows})


if __name__ == "__main__":
    main()
