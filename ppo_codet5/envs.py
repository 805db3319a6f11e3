"""The environment under Gymnasium's name: ``gymnasium.make("ppo_codet5.envs:RLPrompt-v0", config=config)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from ppo_codet5.config import Config
    from ppo_codet5.core import RLPromptEnv


def make_env(config: Config | None = None, split: str = "train", parts: Any = None) -> RLPromptEnv:
    """The environment over a split's problems; loads the models of ``config`` (the laptop profile's) unless given.

    The split that ``config`` scores is of its ``problems``, any other of its ``train_problems`` where it has these.
    """
    from ppo_codet5 import core
    from ppo_codet5.config import Config

    flat = core.settings.validate(Config.from_profile("laptop") if config is None else config)
    problems = core.load_split(flat, split, scored=split == flat.eval_split)
    world = core.PromptWorld(flat, parts or core.load_parts(flat), problems)
    return core.RLPromptEnv(world)


gymnasium.register("RLPrompt-v0", entry_point="ppo_codet5.envs:make_env")
