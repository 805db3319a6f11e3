"""Worker processes and the threads that keep them busy, behind ``Sandbox``."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .verdicts import REPLY, Attempt, Program, SandboxError, Verdict

LAYERS = ("namespaces", "landlock", "seccomp")
IN_FLIGHT = 2  # programs sent to a worker at once: one runs, one waits
PIPE_BYTES = 32768  # a job of at most this size never blocks behind another
_PASSED_ON = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # what the interpreter itself may need to start
_MARGIN = 30  # seconds that a worker may be late before it is taken for dead


class _Worker:
    """A server process and the socket to it."""

    def __init__(self, layers: tuple[str, ...]) -> None:
        if not hasattr(os, "fork"):
            raise SandboxError("The sandbox needs fork: run on Linux or macOS (on Windows, inside WSL).")
        self.socket, theirs = socket.socketpair()
        for end in (self.socket, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * PIPE_BYTES)
        self.patience = 0
        config = {"fd": theirs.fileno(), "client": os.getpid(), "layers": layers, "temporary": tempfile.gettempdir()}
        environment = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "TZ": "UTC", "LD_BIND_NOW": "1"}
        environment.update({name: os.environ[name] for name in _PASSED_ON if name in os.environ})
        script = Path(__file__).with_name("server.py")
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-s", "-S", "-B", "-Wignore", str(script), json.dumps(config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=environment,
                start_new_session=True,  # an interrupt typed in the terminal is for the client only
            )
        except OSError as error:
            self.socket.close()
            raise SandboxError(f"The sandbox could not start {sys.executable}: {error}.") from error
        finally:
            theirs.close()
        try:
            self.hello: dict[str, Any] = json.loads(self.receive(0))
        except (OSError, EOFError, ValueError) as error:
            self.close()
            raise SandboxError("A sandbox worker ended while it started: try Sandbox(layers='none').") from error
        self.scratch = json.dumps(self.hello.get("scratch", "/tmp"))[1:-1].encode()  # as it stands in a report

    def send(self, job: bytes) -> None:
        self.socket.sendall(struct.pack("<I", len(job)) + job)

    def receive(self, seconds: float) -> bytes:
        """The next frame, which is due in ``seconds``. Raises OSError or EOFError if the server is gone."""
        whole = int(seconds) + _MARGIN
        if whole != self.patience:  # by the kernel: a timeout of Python's costs a system call more each time
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", whole, 0))
            self.patience = whole
        (size,) = struct.unpack("<I", self._exactly(4))
        return self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def hang_up(self) -> None:
        """Let the server see the end of the socket, and the thread that waits for it too."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the server, which notices the closed socket; its keeper removes what it left."""
        self.socket.close()
        for end in (lambda: None, self.process.terminate, self.process.kill):
            end()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
                return


@dataclass(eq=False)
class _Batch:
    """The programs of one ``run``: the places of each distinct one, and the verdicts so far."""

    places: dict[bytes, list[int]]
    verdicts: list[Verdict | None]
    future: Future[list[Verdict]]


@dataclass(eq=False)
class _Item:
    """A distinct program of a batch; ``attempt`` is there from when a worker takes it."""

    program: Program
    key: bytes
    batch: _Batch
    attempt: Attempt


class Pool:
    """One thread per worker, and the queue and the cache they share.

    Apart from ``Sandbox`` so that the threads do not keep a forgotten Sandbox alive. A thread starts its server
    itself and outlives it: Linux ends the server with that thread.
    """

    def __init__(self, count: int, layers: tuple[str, ...], strict: bool, preamble: str, cache_size: int) -> None:
        self.count, self.layers, self.strict = count, layers, strict
        self.preamble, self.cache_size = preamble, cache_size
        self.cache: OrderedDict[bytes, Verdict] = OrderedDict()
        self.hello: dict[str, Any] = {}
        self.closed = False
        self.workers: set[_Worker] = set()
        self.reset()
        _POOLS.add(self)

    def reset(self) -> None:
        """No threads and no workers: at first, and in a process forked from ours, which must not share them."""
        for worker in self.workers:
            worker.socket.close()
            worker.process.returncode = 0  # another process's child, not ours to wait for
        self.workers.clear()
        self.lock = threading.Condition()
        self.queue: deque[tuple[Program, bytes, _Batch]] = deque()
        self.threads: list[threading.Thread] = []
        self.started = self.wanted = 0  # workers that are up, and that start() waits for
        self.failure: SandboxError | None = None
        self.judge_lock = threading.Lock()
        self.judge_worker: _Worker | None = None

    # called by users' threads

    def submit(self, programs: Sequence[Program], cached: bool = True) -> Future[list[Verdict]]:
        """Queue what the cache does not know; ``cached=False`` runs all."""
        batch = _Batch({}, [None] * len(programs), Future())
        with self.lock:
            self.check_open()
            for place, program in enumerate(programs):
                key = _key(program, self.preamble)
                if key in batch.places:
                    batch.places[key].append(place)
                elif cached and (known := self.cache.get(key)) is not None:
                    self.cache.move_to_end(key)
                    batch.verdicts[place] = known
                else:
                    batch.places[key] = [place]
                    self.queue.append((program, key, batch))
            if batch.places:
                self.spawn()
        if not batch.places:
            _fulfil(batch)
        return batch.future

    def start(self, count: int) -> None:
        """Wait until ``count`` workers are up."""
        with self.lock:
            self.check_open()
            self.failure = None
            self.wanted = max(self.wanted, count)
            self.spawn()
            self.lock.wait_for(lambda: self.started >= count or self.failure is not None or self.closed)
            if self.failure is not None:
                raise self.failure

    def check_open(self) -> None:
        if self.closed:
            raise SandboxError("This sandbox is closed: make a new one.")

    def spawn(self) -> None:
        while len(self.threads) < self.count:
            thread = threading.Thread(target=self.drive, name="sandbox", daemon=True)
            self.threads.append(thread)
            thread.start()
        self.lock.notify_all()

    def close(self) -> None:
        with self.lock:
            self.closed = True
            dropped = [batch.future for _, _, batch in self.queue]
            self.queue.clear()
            for worker in self.workers:
                worker.hang_up()
            self.lock.notify_all()
        for future in dropped:
            future.cancel()
        for thread in self.threads:
            thread.join()

    # called by the driving threads

    def take(self, block: bool, idle: bool) -> _Item | None:
        """The next program, in turn. None: there is none, a worker is to be started, or the end.

        ``block`` waits for one; otherwise it is taken in advance, if there are enough for the other workers.
        """
        with self.lock:
            while True:
                while len(self.queue) >= (1 if block else self.count):
                    program, key, batch = self.queue.popleft()
                    if not batch.future.cancelled():
                        return _Item(program, key, batch, Attempt(program, self.preamble))
                if not block or self.closed or (idle and self.started < self.wanted):
                    return None
                self.lock.wait()

    def open_worker(self) -> _Worker:
        """A worker that is up, without the layers that turn out not to work if that is allowed."""
        worker = _Worker(self.layers)
        if (broken := worker.hello.get("broken")) in self.layers and not self.strict:
            worker.close()
            self.layers = tuple(layer for layer in self.layers if layer != broken)
            worker = _Worker(self.layers)
            worker.hello["missing"][broken] = "found broken"
        missing = worker.hello.get("missing", {})
        if "broken" in worker.hello or (self.strict and not missing.keys().isdisjoint(LAYERS)):
            worker.close()
            why = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
            raise SandboxError(f"The sandbox cannot have the layers asked for ({why}): use layers='auto'.")
        with self.lock:
            self.hello = worker.hello
            self.workers.add(worker)
            if self.closed:
                worker.hang_up()
        return worker

    def drop_worker(self, worker: _Worker) -> None:
        with self.lock:
            self.workers.discard(worker)
        worker.close()

    def finish(self, item: _Item) -> None:
        verdict = item.attempt.verdict()
        with self.lock:
            if "sandbox_error" not in verdict.outcomes and self.cache_size:
                self.cache[item.key] = verdict
                if len(self.cache) > self.cache_size:
                    self.cache.popitem(last=False)
            for place in item.batch.places.pop(item.key):
                item.batch.verdicts[place] = verdict
            complete = not item.batch.places
        if complete:
            _fulfil(item.batch)

    def judge(self, job: bytes) -> bytes:
        """Run the trusted part of an assert in a worker that never runs programs."""
        with self.judge_lock:
            for _ in range(2):
                if self.judge_worker is None:
                    self.judge_worker = self.open_worker()
                try:
                    self.judge_worker.send(job)
                    return self.judge_worker.receive(10.0)
                except (OSError, EOFError):
                    self.drop_worker(self.judge_worker)
                    self.judge_worker = None
            raise SandboxError("The worker that compares values died twice.")

    def drive(self) -> None:
        """Body of a thread: send programs to one worker, two at a time, and read its replies in the same order."""
        worker: _Worker | None = None
        line: deque[_Item] = deque()  # taken and not finished; the first ``sent`` of them are at the worker
        sent = failures = 0
        while True:
            while len(line) < IN_FLIGHT and (item := self.take(not line, worker is None)) is not None:
                line.append(item)
            if self.closed:
                break
            if worker is None:
                try:
                    worker = self.open_worker()
                except SandboxError as error:
                    failures += 1
                    if failures == 3 or not self.hello:
                        self.give_up(line, error)
                        failures = 0
                    time.sleep(0.1 * failures)
                    continue
                sent = failures = 0
                with self.lock:
                    self.started += 1
                    self.lock.notify_all()
                continue
            if not line:
                continue
            reply = None
            try:
                while sent < len(line):
                    job = line[sent].attempt.job()
                    if sent and len(job) > PIPE_BYTES:
                        break  # it could block while the worker blocks on a reply
                    worker.send(job)
                    sent += 1
                reply = worker.receive(line[0].attempt.seconds)
            except (OSError, EOFError):
                if not self.closed and line[0].attempt.died():
                    self.finish(line.popleft())
            if reply is not None:
                item = line.popleft()
                sent -= 1
                try:
                    if item.attempt.take(reply, worker.scratch, self.judge):
                        self.finish(item)
                    else:
                        line.append(item)
                except SandboxError as error:
                    item.attempt.give_up(str(error))
                    self.finish(item)
            if reply is None or not REPLY.unpack_from(reply)[2]:  # dead, or ending as its scratch folder is not clean
                with self.lock:
                    self.started -= 1
                self.drop_worker(worker)
                worker = None
        for item in line:
            item.batch.future.cancel()
        if worker is not None:
            self.drop_worker(worker)
        with self.judge_lock:
            if self.judge_worker is not None:
                self.drop_worker(self.judge_worker)
                self.judge_worker = None

    def give_up(self, line: deque[_Item], error: SandboxError) -> None:
        """No worker can be had: the caller's error if there never was one, else ``sandbox_error`` verdicts."""
        with self.lock:
            self.failure, self.wanted = error, 0
            self.lock.notify_all()
        for item in line:
            if not self.hello:
                with contextlib.suppress(InvalidStateError):
                    item.batch.future.set_exception(error)
            else:
                item.attempt.give_up(str(error))
                self.finish(item)
        line.clear()


def _fulfil(batch: _Batch) -> None:
    with contextlib.suppress(InvalidStateError):  # cancelled
        batch.future.set_result([verdict for verdict in batch.verdicts if verdict is not None])


def _key(program: Program, preamble: str) -> bytes:
    limits = program.limits
    numbers = (limits.cpu_seconds, limits.wall_factor, limits.memory_mb)
    content = repr((program.code, program.tests, program.setup, numbers, preamble, sys.version))
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).digest()


_POOLS: weakref.WeakSet[Pool] = weakref.WeakSet()


def _reset_pools() -> None:
    for pool in list(_POOLS):
        pool.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_pools)
