"""How much of what there is to find PPO finds in 1,056 episodes, by its settings; no language model.

    python benchmarks/learning.py --problems mbpp.jsonl --output results/learning/planted.json    # 20 minutes on a core

A planted task of the real size: the texts of MBPP's training problems, as an agent sees them, ten attempts, and chances
to solve like those that the bank measured, to which one action adds something: the same one everywhere ("fixed"), one at
first and another one after a failure ("step"), or another one for each kind of text ("text"). So the best policy is known.
Slots, queue and updates ahead are those of training, so that it shows too how many attempts are under way at once.
"""

import argparse
import types
from collections import defaultdict
from pathlib import Path

import _common
import gymnasium as gym
import numpy as np

PLANTED = {"fixed": 0.06, "step": 0.08, "text": 0.12}  # what it adds to a first attempt; half of it after a failure
EPISODES = 1056
VARIANTS = {  # episodes an update, updates ahead, clip range, epochs
    "96, 1 ahead, clip 0.1": (96, 1, 0.1, 8),
    "96, clip 0.1": (96, 0, 0.1, 8),
    "48, clip 0.1": (48, 0, 0.1, 8),
    "48, clip 0.2": (48, 0, 0.2, 8),
    "48, 1 ahead, clip 0.2": (48, 1, 0.2, 8),
    "48, 2 ahead, clip 0.2": (48, 2, 0.2, 8),
    "48, 2 ahead, clip 0.2, 6 epochs": (48, 2, 0.2, 6),
    "48, 2 ahead, clip 0.2, 4 epochs": (48, 2, 0.2, 4),
    "48, 4 ahead, clip 0.2, 6 epochs": (48, 4, 0.2, 6),
    "48, clip 0.2, 4 epochs": (48, 0, 0.2, 4),
}


class PlantedTask(gym.vector.VectorEnv):
    """Episodes with what ``RLPromptEnv`` shows: two embeddings and the scalars. ``chances``: [first or later, texts, 3].

    Slots and queue are those of training: ``add`` queues the episodes of an update, and idle slots take them at once.
    """

    def __init__(self, config, texts, asserts, chances, seed):
        self.config, self.texts, self.asserts, self.chances = config, texts, asserts, chances
        self.num_envs, self.rng = max(1, config.updates_ahead) * config.episodes_per_update, np.random.default_rng(seed)
        self.metadata = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}
        self.left, self.queue, self.waves, self.rows = [], [], 0, 0
        self.group, self.problems, self.number = np.full(self.num_envs, -1), *np.zeros((2, self.num_envs), int)
        self.last = np.full(self.num_envs, 3)

    def observe(self, problems, step, last):
        rows, each = np.zeros((len(problems), 782), np.float32), np.arange(len(problems))
        rows[:, :384], rows[:, 384:768] = self.texts[problems] / 2, self.asserts[problems] / 2
        rows[:, 768] = step / self.config.max_steps
        rows[each, np.where(step == 0, 771, 773)] = rows[each, 778 + last] = 1  # no attempt yet, or a wrong value
        return rows

    def view(self):
        return self.observe(self.problems, self.number, self.last), {"groups": self.group.copy()}

    def fill(self):
        for i in np.flatnonzero(self.group < 0)[: len(self.queue)]:
            self.group[i], self.problems[i] = self.queue.pop(0)
            self.number[i], self.last[i] = 0, 3

    def add(self, group):
        """Queue the episodes of an update; each problem comes once before any comes again."""
        while len(self.left) < self.config.episodes_per_update:
            self.left += list(self.rng.permutation(len(self.texts)))
        self.queue += [(group, self.left.pop(0)) for _ in range(self.config.episodes_per_update)]
        self.fill()

    def step(self, actions):
        from ppo_codet5.core import reward

        active = self.group >= 0
        self.waves, self.rows = self.waves + 1, self.rows + active.sum()
        chance = self.chances[(self.number > 0).astype(int), self.problems, actions]
        solved = active & (self.rng.random(self.num_envs) < chance)
        rewards = np.array([reward(self.config, 0.0, float(now)) for now in solved], np.float32) * active
        self.number, self.last = self.number + 1, np.array(actions)
        spent = active & ~solved & (self.number >= self.config.max_steps)
        self.group[solved | spent] = -1
        self.fill()
        observations, infos = self.view()
        return observations, rewards, solved, spent, infos

    def solved(self, choose):
        """Exact share of problems that a policy without chance solves within the budget."""
        fails, last, places = np.ones(len(self.texts)), np.full(len(self.texts), 3), np.arange(len(self.texts))
        for number in range(self.config.max_steps):
            last = choose(self.observe(places, np.full(len(places), number), last))
            fails *= 1 - self.chances[int(number > 0), places, last]
        return 1 - fails.mean()

    def best_fixed(self):
        return max(self.solved(lambda rows, a=a: np.full(len(rows), a)) for a in range(3))

    def best(self):
        first, later = self.chances.max(-1)
        return 1 - ((1 - first) * (1 - later) ** (self.config.max_steps - 1)).mean()


def planted(kind, config, texts, asserts, seed):
    """A task in which one action adds ``PLANTED[kind]``; problems differ as MBPP's do for a small model."""
    rng, places = np.random.default_rng(100 + seed), np.arange(len(texts))
    easy = rng.beta(0.5, 1.0, len(texts))
    chances = np.stack([np.repeat(easy[:, None], 3, 1), np.repeat(0.3 * easy[:, None], 3, 1)])
    if kind == "text":
        centred = texts - texts.mean(0)
        main = np.linalg.svd(centred, full_matrices=False)[2][:3]
        first = later = (centred @ main.T @ rng.normal(size=(3, 3))).argmax(1)
    else:
        first, later = rng.permutation(3)[:2] if kind == "step" else [rng.integers(3)] * 2
    chances[0, places, first] += PLANTED[kind]
    chances[1, places, later] += PLANTED[kind] / 2
    return PlantedTask(config, texts, asserts, np.clip(chances, 0.01, 0.98), seed)


def train(config, task, seed):
    """The agent after ``max_episodes``, and the entropy of its last update in nats."""
    import torch

    from ppo_codet5.core import PPOAgent, rollout

    agent, generator = PPOAgent(config, 782, 3, seed), torch.Generator().manual_seed(seed)
    updates, records, ahead = config.max_episodes // config.episodes_per_update, defaultdict(list), config.updates_ahead
    for update in range(updates):
        for group in range(update + ahead if update else 0, min(update + ahead + 1, updates)):
            task.add(group)
        batch, *_ = rollout(agent, task, *task.view(), generator, group=update, records=records)
        logged = agent.update(batch, generator, update / updates)
    return agent, logged["entropy"]


def measure(kind, variant, texts, asserts, seeds, episodes=EPISODES):
    """A row: points of each seed's agent above the best fixed action, and of the best policy above it."""
    from ppo_codet5.core import Parameters

    names = ("episodes_per_update", "updates_ahead", "clip_epsilon", "update_epochs")
    changed = dict(zip(names, VARIANTS[variant], strict=True)) | {"max_episodes": episodes, "max_steps": 10}
    config = types.SimpleNamespace(**{**vars(Parameters()), **changed, "actions": "direct,mutation,rewriting"})
    gains, room, entropy, at_once = [], [], [], []
    for seed in range(seeds):
        task = planted(kind, config, texts, asserts, seed)
        agent, last = train(config, task, seed)
        fixed = task.best_fixed()
        gains.append(float(100 * (task.solved(agent.greedy) - fixed)))
        room.append(100 * (task.best() - fixed))
        entropy.append(last)
        at_once.append(task.rows / task.waves)
    means = {"gain": np.mean(gains), "room": np.mean(room), "entropy": np.mean(entropy), "at_once": np.mean(at_once)}
    return {"task": kind, "settings": variant, **{k: float(v) for k, v in means.items()}, "gains": gains}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", default="mbpp", help="mbpp (hub) or a file in the MBPP schema")
    parser.add_argument("--settings", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    from ppo_codet5.helpers.language import Embedder
    from ppo_codet5.helpers.problems import load_problems

    problems = load_problems(arguments.problems, "train")
    texts, asserts = (Embedder().encode(x) for x in ([p.text for p in problems], [p.tests[0] for p in problems]))
    rows = []
    for kind in PLANTED:
        for variant in arguments.settings:
            rows.append(measure(kind, variant, texts, asserts, arguments.seeds))
            print(f"{kind:6s} {variant:32s} {rows[-1]['gain']:+.2f} of {rows[-1]['room']:+.2f} points", flush=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    _common.write(arguments.output, {"machine": _common.machine(), "episodes": EPISODES, "rows": rows})


if __name__ == "__main__":
    main()
