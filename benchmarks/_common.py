"""What benchmarks/rollout.py and benchmarks/scaling.py share: settings, warm parts, episodes with random actions."""

import contextlib
import itertools
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def laptop(**changes):
    """The laptop profile on the CPU with the generation cache off."""
    import yaml
    from ppo_codet5.helpers.settings import validate

    from ppo_codet5.core import Parameters

    profile = yaml.safe_load((ROOT / "profiles" / "laptop.yaml").read_text(encoding="utf-8"))
    known = {name: value for name, value in profile.items() if name in Parameters.__annotations__}
    return validate(Parameters(**{**known, "generation_cache": None, "device": "cpu", **changes}))


def warm(parts):
    """Load all that is loaded at first use, so that no loop pays for it: models, word vectors, tagger, embedder."""
    import numpy as np
    from ppo_codet5.helpers.models import Request

    from ppo_codet5.core import EpicGA

    parts.code.generate([Request("def add(", 0, max_new_tokens=2)])
    epic = EpicGA(parts.lexicon, parts.embedder, rate=1.0)
    epic.mutate(["Return the largest number of a list."], [np.random.default_rng(0)])


def new_world(config, parts, log=None):
    """A world over the training problems whose episodes are played with random actions."""
    from ppo_codet5.core import PromptWorld, load_split

    return PromptWorld(config, parts, load_split(config, "train"), "train", "random", log)


def play(world, num_envs, count):
    """Play the first ``count`` episodes of the run's order with random actions; returns the rows of the log.

    An action is drawn from (seed, task, attempt), so every loop takes the same. ``num_envs`` problems are stepped at
    once by ``RLPromptVectorEnv``; None plays one after the other in ``RLPromptEnv``.
    """
    from ppo_codet5.core import RLPromptEnv, RLPromptVectorEnv, policies

    choose, rows = policies(world.config)["random"], []
    episodes = list(itertools.islice(world.order(world.config.seed), count))
    world.log = rows.append
    world.seconds.clear()
    if num_envs:
        envs = RLPromptVectorEnv(world, num_envs)
        observations, infos = envs.reset(options={"episodes": episodes})
        while infos["active"].any():
            observations, *_, infos = envs.step(choose(observations, envs.slots))
    else:
        env = RLPromptEnv(world)
        for task_id, _ in episodes:
            env.reset(options={"task_id": task_id})
            ended = False
            while not ended:
                _, _, terminated, truncated, _ = env.step(choose(None, [env.episode])[0])
                ended = terminated or truncated
    return rows


def tokens(rows):
    """Tokens that code model and rewriter wrote for these attempts."""
    return sum(row["completion_tokens"] + row["rewriter_completion_tokens"] for row in rows)


def process_tree():
    """Ids of this process and of all that it has started and that still run (sandbox workers)."""
    found = [os.getpid()]
    for pid in found:
        with contextlib.suppress(OSError):  # it has ended
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def peak_memory_mb():
    """Peak resident memory of this process and its sandbox workers, summed, in MB: an upper bound of their common peak.

    Not ``ru_maxrss``, which a child inherits from its parent.
    """
    total = 0.0
    for pid in process_tree():
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text(errors="replace")
            total += next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0) / 1000
    return total


def core_seconds():
    """Time that the cores have been busy for anyone (or taken away from this machine), and for this process tree."""
    ticks, mine = os.sysconf("SC_CLK_TCK"), 0
    user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
    for pid in process_tree():
        with contextlib.suppress(OSError):
            mine += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return (user + nice + system + sum(rest)) / ticks, mine / ticks


def cores():
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def machine():
    """Versions, commit and hardware; no names of hosts, users or folders."""
    from ppo_codet5.helpers.runs import environment

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return {**environment(), "cpu_model": cpu, "cores": cores()}


def describe(about):
    """One line for the head of a table."""
    versions = about["versions"]
    return (
        f"{about['cpu_model']}, {about['cores']} cores, Python {versions['python']}, torch {versions['torch']}, "
        f"transformers {versions['transformers']}, commit {about['commit'][:7]}"
    )


def write(path, result):
    """``result`` as JSON."""
    Path(path).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
