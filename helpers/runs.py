"""Run directories: parameters in, logs and checkpoints out, with resume that leaves no trace.

A run directory is the only thing that passes between notebooks. ``summary.json`` is written last, so its presence
means that the run is complete; without it the next start cuts the logs back to the last checkpoint and goes on.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import filelock

PACKAGES = ("torch", "transformers", "sentence-transformers", "gymnasium", "numpy", "nltk", "gensim", "textblob")
LOGS = ("attempts.jsonl", "stops.jsonl", "metrics.jsonl", "timings.jsonl")


class _ToStdout(logging.Handler):
    """Prints; not a StreamHandler, because notebooks and tests replace ``sys.stdout``."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), flush=True)


logger = logging.getLogger("ppo_codet5")
logger.handlers = [_ToStdout()]  # one, however often this module is loaded
logger.setLevel(logger.level or logging.INFO)  # until a run sets its log_level
logger.propagate = False
report = logger.info  # a line of progress


class RunError(RuntimeError):
    """A parameter or a run directory that cannot be used; the message says what to do."""


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path as users write them: ``~`` at its start is their home, where they have one."""
    return Path(os.path.expanduser(path))


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Raise :class:`RunError` if nothing can be written to the folder, or where it would be made; leaves nothing there."""
    folder = user_path(folder).absolute()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise RunError(f"{folder} cannot be written ({there}: {error.strerror}); choose another folder") from None


def well_formed(text: str) -> str:
    """The text with U+FFFD for each lone surrogate, which neither UTF-8 nor a tokenizer can take."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def stable_hash(*parts: object, bits: int = 63) -> int:
    """A non-negative integer of ``bits`` bits from the parts, the same in every process and on every machine."""
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - bits)


def environment() -> dict[str, Any]:
    """Versions, commit and hardware: recorded in ``config.json``, not part of a run's identity."""
    import torch

    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    here = Path(__file__).resolve()  # the second name fails where this file is installed inside another repository
    git = ["git", "-C", str(here.parent), "rev-parse", "HEAD", f"HEAD:./{here.name}"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.split()[0]
    except (OSError, subprocess.SubprocessError):
        commit = "not in a git repository"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    hardware: dict[str, Any] = {"machine": platform.machine(), "processor": processor(), "system": platform.system()}
    hardware |= {"cpus": os.cpu_count(), "gpus": gpus}
    return {"versions": versions, "commit": commit, "hardware": hardware}


def processor() -> str:
    """Name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old or the new content and nothing between."""
    # Not tempfile: others may read what is written here. Two that write the same file do not take each other's draft.
    draft = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with open(draft, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _json(value: object, **options: Any) -> str:
    return well_formed(json.dumps(value, ensure_ascii=False, **options))


def _identity(identity: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    plain = json.loads(_json(identity, default=str))
    return plain, hashlib.sha256(_json(plain, sort_keys=True).encode()).hexdigest()[:16]


def finished(path: str | Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The summary of a complete run with this identity, ``None`` if it is missing or not complete; writes nothing.

    Raises :class:`RunError` if the folder belongs to another config, or holds files that are not a run's; other folders
    in it are left alone.
    """
    path, (now, digest) = user_path(path), _identity(identity)
    config, summary = path / "config.json", path / "summary.json"
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file; choose a folder for the run")
    if config.exists():
        try:
            old = json.loads(config.read_text(encoding="utf-8"))
            before = old.get("identity", {})
        except (ValueError, AttributeError):
            raise RunError(f"{config} is not a run's; choose another folder") from None
        if old.get("hash") != digest:
            differ = sorted(k for k in {*before, *now} if before.get(k) != now.get(k))
            raise RunError(
                f"{path} belongs to another config (different: {', '.join(differ) or 'unknown'}); "
                "choose another folder or delete this one"
            )
    elif path.exists() and (strange := sorted(p.name for p in path.iterdir() if p.is_file() and p.name[0] != ".")):
        raise RunError(f"{path} is not a run's: it holds {strange[0]} and no config.json; choose another folder")
    return json.loads(summary.read_text(encoding="utf-8")) if summary.exists() else None


def measured(folder: str | Path, name: str, about: Mapping[str, Any], measure: Callable[[], Mapping[str, Any]]) -> Any:
    """What ``measure()`` finds for ``about`` on this machine: kept in ``folder`` as JSON and read there the next time."""
    import torch

    machine = {"processor": processor(), "threads": torch.get_num_threads()}
    path = user_path(folder) / f"{name}_{_identity({**about, **machine})[1]}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, _json(measure()).encode())
    return json.loads(path.read_text(encoding="utf-8"))


@contextlib.contextmanager
def scratch(path: str | Path | None) -> Iterator[Path]:
    """``path``, or a temporary folder that is deleted at the end if it is ``None``."""
    if path is not None:
        yield user_path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def load_model(path: str | Path, expected: Mapping[str, Any]) -> dict[str, Any]:
    """The agent's weights from ``final_model.pt``, or from the ``checkpoint.pt`` of a run under way.

    Refuses a file that is neither, or fits another agent.
    """
    import torch

    try:
        saved = torch.load(user_path(path), weights_only=True)
        weights = saved["agent"] if "agent" in saved else saved["state"]["agent"]
        shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    except FileNotFoundError:
        raise RunError(f"no checkpoint at {path}") from None
    except Exception as error:  # torch raises many types for a foreign or truncated file
        raise RunError(
            f"{path} is not a checkpoint of this project, or it is damaged ({type(error).__name__})"
        ) from None
    wanted = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    if shapes != wanted:
        raise RunError(f"{path} holds an agent of another shape: {shapes} instead of {wanted}")
    return weights


class Run:
    """One run directory, held by one process at a time.

    ``identity`` is everything that decides the content of the logs (parameters, strategy, problem and model hashes).
    Opening a directory whose identity differs raises :class:`RunError` and changes nothing in it.
    ``record`` (model revisions, sandbox level) is written into ``config.json`` beside it and never compared.
    With ``tensorboard`` the numbers in ``metrics`` are also written as TensorBoard events, to the folder ``tensorboard``.
    ``state`` is what the last :meth:`checkpoint` saved, or ``None``; ``summary`` is set when the run is complete.
    """

    def __init__(
        self,
        path: str | Path,
        identity: Mapping[str, Any],
        record: Mapping[str, Any] | None = None,
        tensorboard: bool = False,
    ) -> None:
        self.path, self._tensorboard = user_path(path), tensorboard
        self._events: Any = None  # a SummaryWriter, from the first update on
        self.record = dict(record or {})
        self.identity, self.hash = _identity(identity)
        finished(path, identity)  # refuses a folder of another config before anything is written
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(self.path / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise RunError(f"{self.path} is in use by another process; wait for it or choose another folder") from None
        self.summary: dict[str, Any] | None = None
        self.state: dict[str, Any] | None = None
        self._logs: dict[str, BinaryIO] = {}
        try:
            finished(path, identity)  # again: until the lock was held another process may have made the folder its own
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        config, summary, checkpoint = (self.path / n for n in ("config.json", "summary.json", "checkpoint.pt"))
        for draft in self.path.glob(".*.tmp"):  # of a process that was killed while it wrote
            draft.unlink()
        if not config.exists():
            text = _json({"hash": self.hash, "identity": self.identity, **self.record, **environment()}, indent=2)
            write_atomically(config, text.encode())
        if summary.exists():
            self.summary = json.loads(summary.read_text(encoding="utf-8"))
            return
        offsets = dict.fromkeys(LOGS, 0)
        if checkpoint.exists():
            import torch

            try:
                saved = torch.load(checkpoint, weights_only=True)
                self.state, offsets = saved["state"], saved["offsets"]
            except Exception as error:  # torch raises many types for a foreign or truncated file
                raise RunError(
                    f"{checkpoint} is damaged ({type(error).__name__}); delete {self.path} to start again"
                ) from None
        for name in LOGS:
            log = self.path / name
            if (log.stat().st_size if log.exists() else 0) < offsets[name]:
                raise RunError(
                    f"{log} is shorter than it was at the last checkpoint; delete {self.path} to start again"
                )
        for name in LOGS:  # rows after the checkpoint will be written again
            self._logs[name] = open(self.path / name, "ab")  # noqa: SIM115 - held for the life of the run
            self._logs[name].truncate(offsets[name])

    def log(self, name: str, row: Mapping[str, Any]) -> None:
        """Append one row to ``attempts``, ``metrics`` or ``timings``."""
        self._logs[f"{name}.jsonl"].write(_json(row).encode() + b"\n")
        if name == "metrics" and self._tensorboard:
            self._event(row)

    def _event(self, row: Mapping[str, Any]) -> None:
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            # A run that goes on writes the updates after its checkpoint again: readers drop the old ones.
            self._events = SummaryWriter(str(self.path / "tensorboard"), purge_step=row["update"])
        for key, value in row.items():
            numbers = {f"{key}/{i}": v for i, v in enumerate(value)} if isinstance(value, list) else {key: value}
            for tag, number in numbers.items():
                if number is not None and tag != "update":
                    self._events.add_scalar(tag, number, row["update"])
        self._events.flush()

    def checkpoint(self, state: Mapping[str, Any]) -> None:
        """Save ``state`` (tensors and plain values) together with the lengths of the logs, atomically."""
        offsets = {}
        for name, file in self._logs.items():
            file.flush()
            os.fsync(file.fileno())
            offsets[name] = os.fstat(file.fileno()).st_size
        self.save("checkpoint.pt", {"state": dict(state), "offsets": offsets})
        self.state = dict(state)

    def save(self, name: str, value: Mapping[str, Any]) -> Path:
        """``torch.save`` to a file of the run, atomically; it loads with ``weights_only=True``."""
        import io

        import torch

        buffer = io.BytesIO()
        torch.save(dict(value), buffer)
        write_atomically(self.path / name, buffer.getvalue())
        return self.path / name

    def rows(self, name: str) -> list[dict[str, Any]]:
        """All rows of a log so far."""
        if self.summary is None:
            self._logs[f"{name}.jsonl"].flush()
        return read_rows(self.path / f"{name}.jsonl")

    def finish(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Flush everything, then write ``summary.json``: the run is complete."""
        for file in self._logs.values():
            file.flush()
            os.fsync(file.fileno())
        write_atomically(self.path / "summary.json", (_json(summary, indent=2) + "\n").encode())
        self.summary = json.loads(_json(summary))
        return self.summary

    def close(self) -> None:
        """Release the files and the lock; all of them, also where a full disk takes no more of a file."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._lock.release)
            for file in self._logs.values():
                stack.callback(file.close)
            if self._events is not None:
                stack.callback(self._events.close)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file; a last line cut short by a crash is left out."""
    lines = user_path(path).read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    return [json.loads(line) for line in lines[:-1]]
