"""PPO that learns how to edit prompts so that a code model writes Python that passes its tests.

The method lives in the notebook ``01_ppo_codet5.ipynb``; ``ppo_codet5.core`` is generated from its tagged cells.
Names are loaded on first use, so that importing the package does not import torch.
"""

import os
from importlib import import_module
from pathlib import Path

# Threads of libgomp (PyTorch's OpenMP on Linux) spin up to milliseconds at each barrier before they sleep, on a core that
# another process may need. libgomp reads the bound once, while torch is imported. Measured by benchmarks/neighbour.py.
if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"}:  # what the user has set wins
    os.environ["GOMP_SPINCOUNT"] = "5000"
# Tensors of 2 MB and more are given back to the system and mapped anew at every step. In huge pages, where Linux has them on
# request, that is a fault for each 2 MB instead of each 4 kB. PyTorch reads this once.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

_ROOT = Path(__file__).resolve().parent.parent
if (_ROOT / "01_ppo_codet5.ipynb").exists():  # a checkout: helpers, profiles and data stand beside the package
    __path__.append(str(_ROOT))

_CORE = {
    "EpicGA",
    "Epic_GA",
    "PPOAgent",
    "PPOCodeT5Trainer",
    "Parameters",
    "PromptRewriter",
    "ReflexionMemory",
    "RLPromptEnv",
    "RLPromptVectorEnv",
}
__all__ = sorted(_CORE | {"Config", "solve"})


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})


def __getattr__(name: str) -> object:
    if name == "Config":
        return import_module("ppo_codet5.config").Config
    if name == "solve":
        return import_module("ppo_codet5.solving").solve
    if name == "__version__":
        if (project := _ROOT / "pyproject.toml").exists():  # a checkout, installed or not
            return import_module("tomllib").loads(project.read_text(encoding="utf-8"))["project"]["version"]
        return import_module("importlib.metadata").version("ppo-codet5")
    if name in _CORE:
        core = import_module("ppo_codet5.core")
        return core.EpicGA if name == "Epic_GA" else getattr(core, name)
    raise AttributeError(f"module 'ppo_codet5' has no attribute {name!r}")
