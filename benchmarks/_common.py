"""What the scripts of this folder share: child processes, settings, episodes, meters, the machine, figures."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def in_child(script, job, seconds=None, **environment):
    """What ``script --child JOB`` prints last, read as JSON; {"error": ...} if it failed. It has a process of its own.

    Whatever it has started and left behind is ended with it. Raises ``subprocess.TimeoutExpired`` after ``seconds``.
    """
    command = [sys.executable, str(script), "--child", json.dumps(job)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, env={**os.environ, **environment}, start_new_session=True) as child:
        try:
            said, complained = child.communicate(timeout=seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
    try:
        return json.loads(said.splitlines()[-1])
    except (IndexError, ValueError):
        print(complained, file=sys.stderr)
        last = next(iter(complained.strip().splitlines()[-1:]), "no message")
        return {"error": f"exit status {child.returncode}: {last[:300]}"}


def start(main, work):
    """Run the script that this is called from: ``main()``, or in a child of ``in_child`` print ``work(**job)``."""
    if sys.argv[1:2] == ["--child"]:
        print("\n" + json.dumps(work(**json.loads(sys.argv[2]))))
    else:
        main()


def settings(profile, **changes):
    """Parameters of a profile, changed, with the generation cache off."""
    import yaml
    from ppo_codet5.helpers.settings import validate

    from ppo_codet5.core import Parameters

    values = yaml.safe_load((ROOT / "profiles" / f"{profile}.yaml").read_text(encoding="utf-8"))
    known = {name: value for name, value in values.items() if name in Parameters.__annotations__}
    return validate(Parameters(**{**known, "generation_cache": None, **changes}))


def laptop(**changes):
    """The laptop profile on the CPU."""
    return settings("laptop", **{"device": "cpu", **changes})


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
    world.log = lambda name, row: rows.append(row)
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


def solved(problems, texts, sandbox, program=None):
    """Task ids of the problems whose reply holds a program that passes every assert; ``program`` takes it from a reply."""
    from ppo_codet5.helpers.replies import extract_program

    take = program or (lambda text, problem: extract_program(text, problem.entry_point)[0])
    verdicts = sandbox.run([p.program(take(text, p)) for p, text in zip(problems, texts, strict=True)])
    return [p.task_id for p, verdict in zip(problems, verdicts, strict=True) if verdict.passed]


def tokens(rows):
    """Tokens that code model and rewriter wrote for these attempts."""
    return sum(row["completion_tokens"] + row["rewriter_completion_tokens"] for row in rows)


def linear_layers(model):
    """The linear layers of a model, packed or not."""
    return [layer for layer in model.modules() if type(layer).__name__.endswith("Linear")]


def cached_values(config):
    """Values that a model's cache of keys and values has for one token (of the decoder), in all layers."""
    if config.is_encoder_decoder:
        return 2 * config.num_decoder_layers * config.num_heads * config.d_kv
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim


def best_seconds(work, rounds, wait=lambda: None):
    """Wall seconds of the fastest of ``rounds`` calls, after one that does not count; ``wait`` ends each."""
    times = []
    for _ in range(rounds + 1):
        wait()
        started = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def machine_rates(dtype, device="cpu", square=2048, copied=2**26, rounds=5):
    """FLOP/s of a product of two matrices of ``square`` rows and columns, and bytes/s of copying (read and written) and
    summing (read) ``copied`` float32 values, far more than the caches hold."""
    import torch

    def seconds(work):
        return best_seconds(work, rounds, torch.cuda.synchronize if device == "cuda" else lambda: None)

    left, source = torch.randn(square, square, dtype=dtype, device=device), torch.ones(copied, device=device)
    target = torch.empty_like(source)
    with torch.inference_mode():
        return {
            "square_flops_per_second": 2 * square**3 / seconds(lambda: left @ left),
            "copy_bytes_per_second": 2 * source.nbytes / seconds(lambda: target.copy_(source)),
            "read_bytes_per_second": source.nbytes / seconds(source.sum),
        }


def fastest(rates, unit):
    """The highest rate in ``unit`` per second."""
    return max(value for name, value in rates.items() if name.endswith(f"{unit}_per_second"))


def process_tree():
    """Ids of this process and of all that it has started and that still run (sandbox workers)."""
    found = [os.getpid()]
    for pid in found:
        with contextlib.suppress(OSError):  # it has ended
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def resident_mb(field="VmRSS"):
    """Resident memory of this process and its sandbox workers, summed, in MB (of 10^6 bytes): now, or as ``field`` says."""
    total = 0.0
    for pid in process_tree():
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text(errors="replace")
            kibibytes = (int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{field}:"))
            total += next(kibibytes, 0) * 1024 / 1e6
    return total


def peak_memory_mb():
    """Peak resident memory of this process and its sandbox workers: an upper bound of their common peak.

    Not ``ru_maxrss``, which a child inherits from its parent.
    """
    return resident_mb("VmHWM")


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
    from ppo_codet5.helpers.runs import environment, processor

    return {**environment(), "cpu_model": processor(), "cores": cores()}


def describe(about):
    """One line for the head of a table."""
    versions = about["versions"]
    gpus = "".join(f"{name}, " for name in about["hardware"]["gpus"])
    return (
        f"{gpus}{about['cpu_model']}, {about['cores']} cores, Python {versions['python']}, torch {versions['torch']}, "
        f"transformers {versions['transformers']}, commit {about['commit'][:7]}"
    )


def write(path, result):
    """``result`` as JSON."""
    Path(path).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def json_of(path):
    """What ``write`` wrote."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read(path):
    """The last record of each case in the file, by name; a line that a kill has cut is passed over."""
    records = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        records[record["name"]] = record
    return records


def append(path, record):
    """Add a line, after half a line on one of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cut = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" * cut + json.dumps(record) + "\n")


def panels(titles, width=4.0):
    """A figure with a panel of ``width`` inches for each title of an x axis, which is logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ((*axes,),) = plt.subplots(
        1, len(titles), figsize=(width * len(titles), 3.8), layout="constrained", squeeze=False
    )
    for axis, title in zip(axes, titles, strict=True):
        axis.set_xscale("log", base=2)
        axis.set_xlabel(title)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    return figure, axes


def ticks(axis, values, labels=None):
    """Mark these values of the x axis, and no others."""
    axis.set_xticks(values, labels or [str(value) for value in values])
    axis.minorticks_off()


def save_figure(figure, path):
    """Write the figure; the same figure gives the same file."""
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=150, metadata={"Software": None} if str(path).endswith(".png") else None)
    plt.close(figure)
