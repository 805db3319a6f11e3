"""Completions kept on disk under a hash of everything that decides them, so that a rerun generates nothing."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

from ..runs import RunError, logger, user_path
from .contract import Completion, Request, TextGenerator

_FORMAT = 1
_CHECK_EVERY = 500  # writes between two looks at the size of the folder


@functools.cache
def _claims(path: Path) -> BinaryIO:
    """The file on whose bytes processes hold locks. Open to the end: closing it anywhere would give up all of them."""
    return open(path, "ab")


def _lock(file: BinaryIO, key: str, how: int) -> bool:
    """Lock or unlock the byte that stands for a key, False if another process has it; the file need not be that long."""
    try:
        fcntl.lockf(file, how, 1, int(key[:15], 16))
    except (BlockingIOError, PermissionError):  # which of them depends on the system
        return False
    except OSError as error:
        raise RunError(
            f"{file.name}: the file system has no POSIX locks ({error}), which the replies of a server need; "
            "choose another generation_cache"
        ) from None
    return True


@dataclass
class CacheStats:
    """Requests answered from disk or by a duplicate in the same call (``hits``), and by the model (``misses``)."""

    hits: int = 0
    misses: int = 0

    @property
    def hit_rate(self) -> float:
        """Share of requests for which no model ran (0 if there were none)."""
        return self.hits / max(1, self.hits + self.misses)


class CachedGenerator:
    """A TextGenerator that asks ``inner`` only for what it has not answered before.

    The key is the SHA-256 of the model's name, revision, dtype and sampler version and of every field of the request.
    One small file per completion, written under a temporary name and renamed, so that processes and cluster nodes
    may share ``folder``; an unreadable file counts as a miss. Above ``max_mb`` the oldest files go. Where ``inner`` is a
    server, which would answer the same request with another text, a request that another process has under way is
    waited for (the folder's file system must have POSIX locks).
    """

    def __init__(self, inner: TextGenerator, folder: Path | str, max_mb: float = 2048) -> None:
        self.inner, self.folder, self.max_bytes = inner, user_path(folder), int(max_mb * 2**20)
        self.stats = CacheStats()
        self.claims = self.dtype == "server"
        self._writes = 0
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def revision(self) -> str:
        return self.inner.revision

    @property
    def dtype(self) -> str:
        return getattr(self.inner, "dtype", "")

    def key(self, request: Request) -> str:
        """Hex digest under which the completion of ``request`` by this model is kept."""
        what = {
            "format": _FORMAT,
            "model": [self.name, self.revision, self.dtype, getattr(self.inner, "sampler", "")],
            "request": asdict(request),
        }
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def generate(
        self, requests: Sequence[Request], each: Callable[[int, Completion], object] | None = None
    ) -> list[Completion]:
        """Completions in the order of ``requests``; those that no model ran for have ``cached`` set.

        ``each`` is called with a request's place and its completion as soon as that is known.
        """
        places: dict[str, list[int]] = {}  # of equal requests, one is generated
        for place, request in enumerate(requests):
            places.setdefault(self.key(request), []).append(place)
        done: list[Completion | None] = [None] * len(requests)

        def settle(key: str, completion: Completion, cached: bool) -> None:
            for number, place in enumerate(places[key]):
                mine = done[place] = replace(completion, cached=cached or number > 0)
                if each:
                    each(place, mine)

        def made(number: int, completion: Completion) -> None:
            self._write(ask[number], completion)
            settle(ask[number], completion, cached=False)

        found = {key: self._read(key) for key in places}
        waiting, asked = [key for key, completion in found.items() if completion is None], 0
        for key, completion in found.items():
            if completion is not None:
                settle(key, completion, cached=True)
        logger.debug("%s: %d completions, %d of them not in the cache", self.name, len(requests), len(waiting))
        while waiting:
            with self._claimed(waiting) as mine:
                waiting = [key for key in waiting if key not in mine]
                for key in mine:
                    if self.claims and (completion := self._read(key)) is not None:  # written while we waited
                        settle(key, completion, cached=True)
                ask = [key for key in mine if done[places[key][0]] is None]
                if ask:
                    self.inner.generate([requests[places[key][0]] for key in ask], made)
                asked += len(ask)
        self.stats.misses += asked
        self.stats.hits += len(requests) - asked
        return [completion for completion in done if completion is not None]

    @contextlib.contextmanager
    def _claimed(self, keys: Sequence[str]) -> Iterator[Sequence[str]]:
        """Those of ``keys``, at least one, that this process may ask for. It waits only where others have all of them.

        Others are kept from asking for these until it leaves, or ends. None is held while it waits for another, so
        processes never wait for each other in a circle.
        """
        if not self.claims:
            yield keys
            return
        file = _claims(self.folder / "claims")
        held = [key for key in keys if _lock(file, key, fcntl.LOCK_EX | fcntl.LOCK_NB)]
        if not held:
            logger.debug("%s: waiting for a completion that another process has asked for", self.name)
            _lock(file, keys[0], fcntl.LOCK_EX)
            held = [keys[0]]
        try:
            yield held
        finally:
            for key in held:
                _lock(file, key, fcntl.LOCK_UN)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key[2:]}.json"

    def _read(self, key: str) -> Completion | None:
        try:
            return Completion(**json.loads(self._path(key).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):  # not there, or cut short by a crash, or of another format
            return None

    def _write(self, key: str, completion: Completion) -> None:
        path = self._path(key)
        path.parent.mkdir(exist_ok=True)
        record = asdict(completion)
        del record["cached"]
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(record, file)
            os.replace(temporary, path)
        except BaseException:  # a full disk takes half of it
            Path(temporary).unlink(missing_ok=True)
            raise
        self._writes += 1
        if self._writes % _CHECK_EVERY == 1:
            self.evict()

    def evict(self) -> int:
        """Delete the oldest files until nine tenths of ``max_mb`` are left, if it is exceeded; return how many."""
        files = []
        for shard in self.folder.glob("??"):
            for entry in os.scandir(shard):
                try:
                    status = entry.stat()
                except FileNotFoundError:  # another process evicts too
                    continue
                if entry.name.endswith(".json"):
                    files.append((status.st_mtime_ns, status.st_size, entry.path))
                elif time.time() - status.st_mtime > 3600:  # left by a process that was killed while it wrote
                    Path(entry.path).unlink(missing_ok=True)
        total = sum(size for _, size, _ in files)
        if total <= self.max_bytes:
            return 0
        gone = 0
        for _, size, path in sorted(files):
            Path(path).unlink(missing_ok=True)
            gone += 1
            total -= size
            if total <= 0.9 * self.max_bytes:
                break
        return gone
