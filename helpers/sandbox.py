"""Run generated programs safely and fast: ``Sandbox(...).run(programs) -> verdicts``; see docs/sandbox.md.

The parent splits each ``assert call == literal``, a child evaluates the call, and the parent compares: the process
that runs hostile code never holds the expected value. ``_sandbox_server.py`` is that process, ``_sandbox_layers.py``
what it locks itself into.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ._sandbox_asserts import Question, ask, assigned, cut, equal, own_object, show, truth

OUTCOMES = (
    "pass",
    "wrong_value",
    "exception",
    "compile_error",
    "timeout",
    "oom",
    "crash",
    "early_exit",
    "output_too_large",
    "not_run",
    "sandbox_error",
)
LAYERS = ("namespaces", "landlock", "seccomp")
MAX_PROCESSES = 4  # a program's first process and those that try the asserts after one that ended it
MAX_DEATHS = 3  # of the server under one program: two may be of other causes, such as the system short of memory
IN_FLIGHT = 2  # programs sent to a worker at once: one runs, one waits
PIPE_BYTES = 32768  # a job of at most this size never blocks behind another


@dataclass(frozen=True)
class Limits:
    """What one program may use. Seconds of CPU, a multiple of them for the wall clock, mebibytes of address space.

    The seconds are for the whole program. Its code, and then each assert, may use half of what is left (the last
    assert all of it), so that asserts after one that hangs are still tried.
    """

    cpu_seconds: float = 2.0
    wall_factor: float = 3.0
    memory_mb: int = 1024


@dataclass(frozen=True)
class Program:
    """Code under test, the asserts to judge it by, and code that runs between the two."""

    code: str
    tests: tuple[str, ...]
    setup: str = ""
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Verdict:
    """What happened: one entry per assert in ``mask`` (0/1), ``outcomes`` (of OUTCOMES) and ``messages``.

    A message is the bounded repr of the value got for ``wrong_value``, ``Type: text`` for ``exception``, else empty
    or one short sentence. ``error_type`` and ``error_message`` are those of the first assert that did not pass
    (``""`` if all passed): the type is the name of the exception, or the outcome where there was none.
    ``notes`` says what a reader must know, e.g. that an assert ran as it stands. All fields but the two times are
    the same in every run of the same program.
    """

    mask: tuple[int, ...]
    outcomes: tuple[str, ...]
    messages: tuple[str, ...]
    error_type: str
    error_message: str
    cpu_seconds: float
    wall_seconds: float
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """All asserts passed (False for a program without asserts)."""
        return bool(self.mask) and all(self.mask)


class SandboxError(RuntimeError):
    """The sandbox itself could not do its work; the message says why and what to do."""


# ------------------------------------------------------------------------------------------------------------ one worker

_REPLY = struct.Struct("<iBBIdd")  # the same as in _sandbox_server.py
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
        script = Path(__file__).with_name("_sandbox_server.py")
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


# ----------------------------------------------------------------------------------------------------------- one program

_LETTERS = {
    "S": "compile_error",
    "E": "exception",
    "X": "early_exit",
    "O": "oom",
    "L": "output_too_large",
    "F": "wrong_value",
}
_TIME = ("timeout", "stopped at the time limit")
_TO_JSON = json.JSONEncoder(ensure_ascii=False).encode
_GONE = "the process ended before the assert did"
_AS_IT_STANDS = "ran as it stands, so the program could read or forge its result"
_OUTSIDE = "its values were compared in a clean process"
_OWN = "an object of the program's own equals no other value there, whatever its methods say"


class _Attempt:
    """One program on its way to a verdict: which asserts are judged, what is left of its limits."""

    def __init__(self, program: Program, preamble: str) -> None:
        self.program = program
        own = assigned(program.setup) if program.setup else frozenset[str]()
        self.questions = [ask(test, own) for test in program.tests]
        parts = [("<preamble>", preamble), ("<solution>", program.code), ("<setup>", program.setup)]
        self.parts = [part for part in parts if part[1]]
        count = len(program.tests)
        self.outcomes = ["not_run"] * count
        self.types = [""] * count  # of exceptions
        self.messages = [""] * count
        self.notes: list[str] = []
        self.places: dict[int, str] = {}  # by assert: what must be said of how it was judged
        self.start = self.processes = self.deaths = 0
        self.cpu = self.wall = 0.0

    def job(self) -> bytes:
        """What the server is asked to run next."""
        limits = self.program.limits
        job = {
            "parts": self.parts,
            "tests": [question.wire for question in self.questions],
            "start": self.start,
            "cpu": max(0.01, limits.cpu_seconds - self.cpu),
            "wall": max(0.01, self.seconds),
            "memory": limits.memory_mb,
        }
        # not as escapes: those of two lone surrogates would be read as one character
        return _TO_JSON(job).encode("utf-8", "surrogatepass")

    @property
    def seconds(self) -> float:
        """Wall-clock time left."""
        return self.program.limits.cpu_seconds * self.program.limits.wall_factor - self.wall

    def take(self, reply: bytes, scratch: bytes, judge: Callable[[bytes], bytes]) -> bool:
        """Read one reply; True when the verdict is complete, False if another process is to go on."""
        status, killed, _, phases, cpu, wall = _REPLY.unpack_from(reply)
        self.cpu += cpu
        self.wall += wall
        self.processes += 1
        if scratch != b"/tmp":  # as it is called on most machines
            reply = reply[: _REPLY.size] + reply[_REPLY.size :].replace(scratch, b"/tmp")
        answered, count = self.start, len(self.outcomes)
        for line in reply[_REPLY.size :].split(b"\n"):
            try:
                index, letter, body = json.loads(line)
            except (ValueError, TypeError, RecursionError):
                continue
            if letter == "+":  # the text of the exception in the line before
                self._explain(index, body, answered)
            elif index == -1 and answered == self.start:  # the code itself failed
                for i in range(self.start, count):
                    self._fail(i, _LETTERS.get(letter, "exception"), body)
                answered = count
            elif index == answered and index < count:
                self._answer(index, letter, body, judge)
                answered += 1
        if answered == count:
            return True
        outcome, message = self._cause(status, killed, cpu)
        # All if the code ended it, as it would another process; none if the text of the last exception did; else one.
        lost = range(answered, answered + (phases > answered - self.start) if phases else count)
        for i in lost:
            self._set(i, outcome, "", message)
        self.start = lost.stop
        if self.start >= count or self.processes == MAX_PROCESSES:
            return True
        self.notes.append(f"assert {self.start + 1} and on: in a new process, after {outcome} in assert {self.start}")
        return False

    def _set(self, index: int, outcome: str, kind: str, message: str) -> None:
        self.outcomes[index], self.types[index], self.messages[index] = outcome, kind, message

    def _fail(self, index: int, outcome: str, body: Any) -> None:
        kind = cut(str(body), 60)
        self._set(index, outcome, kind, kind)

    def _explain(self, index: Any, text: Any, answered: int) -> None:
        places = range(self.start, answered) if index == -1 else [answered - 1] if index == answered - 1 else []
        for i in places:
            if text and self.types[i] and self.messages[i] == self.types[i]:
                self.messages[i] = cut(f"{self.types[i]}: {text}")

    def _answer(self, index: int, letter: str, body: Any, judge: Callable[[bytes], bytes]) -> None:
        question = self.questions[index]
        if letter == "P" and question.kind == "plain":
            return self._set(index, "pass", "", "")
        here = letter == "H" and question.here
        if question.kind == "plain" or not (letter == "V" or here):
            return self._fail(index, _LETTERS.get(letter, "exception"), body)
        try:
            right, body = (body[0] == 1, body[1]) if here else (None, body)
            if here:
                self.places[index] = _AS_IT_STANDS
            if right or (right is None and self._right(question, body, judge)):
                return self._set(index, "pass", "", "")
            message = cut(", ".join(show(value) for value in body[: len(question.take)]))
            if not here and question.kind not in ("truth", "falsehood") and own_object(body):
                self.places[index] = _OWN if question.kind != "judge" else f"{_OUTSIDE}; {_OWN}"
        except SandboxError:
            raise
        except Exception:  # only forged answers make the code above fail
            message = "a value that cannot be read"
        self._set(index, "wrong_value", "", message)

    def _right(self, question: Question, values: Any, judge: Callable[[bytes], bytes]) -> bool:
        if question.kind == "judge":
            job = {"parts": [], "tests": [question.rest], "start": 0, "cpu": 2.0, "wall": 10.0, "memory": 1024}
            return b'[0,"P",""]\n' in judge(json.dumps({**job, "values": values}).encode())
        (value,) = values
        if question.kind in ("truth", "falsehood"):
            return truth(value) is (question.kind == "truth")
        if question.kind in ("is", "is_not"):
            return (value is question.expected) == (question.kind == "is")
        return equal(value, question.expected) == (question.kind == "eq")

    def _cause(self, status: int, killed: int, cpu: float) -> tuple[str, str]:
        """Why a process ended before it had answered everything."""
        if killed:
            return _TIME
        if not os.WIFSIGNALED(status):
            return "early_exit", _GONE
        number = os.WTERMSIG(status)
        if number == signal.SIGKILL:  # not by us: the kernel
            return _TIME if cpu >= self.program.limits.cpu_seconds else ("oom", "killed by the system")
        return "crash", f"ended by signal {number}"

    def died(self) -> bool:
        """The server died under this program; True at the last of MAX_DEATHS times, which is then its verdict."""
        self.deaths += 1
        if self.deaths == MAX_DEATHS:
            for i in range(self.start, len(self.outcomes)):
                self._set(i, "crash", "", "ended the sandbox's server")
        return self.deaths == MAX_DEATHS

    def give_up(self, reason: str) -> None:
        """The sandbox could not run it."""
        for i in range(self.start, len(self.outcomes)):
            self._set(i, "sandbox_error", "", cut(reason))

    def verdict(self) -> Verdict:
        mask = tuple(int(outcome == "pass") for outcome in self.outcomes)
        notes = list(self.notes)
        for i, question in enumerate(self.questions):
            usual = {"plain": _AS_IT_STANDS, "judge": _OUTSIDE}.get(question.kind, "")
            if note := self.places.get(i, usual):
                notes.append(f"assert {i + 1}: {note}")
        first = mask.index(0) if 0 in mask else None
        return Verdict(
            mask=mask,
            outcomes=tuple(self.outcomes),
            messages=tuple(self.messages),
            error_type="" if first is None else self.types[first] or self.outcomes[first],
            error_message="" if first is None else self.messages[first],
            cpu_seconds=self.cpu,
            wall_seconds=self.wall,
            notes=tuple(notes),
        )


# ------------------------------------------------------------------------------------------------------------- the pool


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
    attempt: _Attempt


class _Pool:
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
                        return _Item(program, key, batch, _Attempt(program, self.preamble))
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
            if reply is None or not _REPLY.unpack_from(reply)[2]:  # dead, or ending as its scratch folder is not clean
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


_POOLS: weakref.WeakSet[_Pool] = weakref.WeakSet()


def _reset_pools() -> None:
    for pool in list(_POOLS):
        pool.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_pools)


class Sandbox:
    """Runs programs in worker processes that never hold what the asserts expect.

    ``workers``: how many, by default the CPUs that this process may use; each starts when first needed, or all by
    ``start()``. ``limits``: what ``calibrate`` does not measure (programs carry their own). ``layers``: "auto" takes
    what the machine allows, "none" leaves limits only, and an explicit choice such as "landlock,seccomp" fails with
    SandboxError if one is missing; ``level`` names the active ones. ``preamble``: code that runs before every program
    in its namespace, e.g. "import math, re". ``cache_size``: verdicts remembered.

    Methods may be called from several threads; in a process forked from this one the object starts workers of its
    own. Use it as a context manager or call ``close()``; workers also end with the process, however that ends.
    """

    def __init__(
        self,
        workers: int | None = None,
        limits: Limits | None = None,
        layers: str | Iterable[str] = "auto",
        preamble: str = "",
        cache_size: int = 65536,
    ) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}.")
        if isinstance(layers, str):
            names = {"auto": LAYERS, "none": ()}.get(layers, tuple(re.split(r"[,+ ]+", layers)))
        else:
            names = tuple(layers)
        if unknown := set(names) - set(LAYERS):
            raise ValueError(
                f"Unknown sandbox layers {sorted(unknown)}: use auto, none or some of {', '.join(LAYERS)}."
            )
        self.limits = limits or Limits()
        self.workers = workers or _cpus()
        self._pool = _Pool(self.workers, names, layers != "auto", preamble, cache_size)
        self._close = weakref.finalize(self, self._pool.close)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers. Programs not judged yet are dropped and their futures cancelled."""
        self._close()

    def start(self) -> Sandbox:
        """Start all workers and wait for them, say before a large library is loaded. Returns the sandbox."""
        self._pool.start(self.workers)
        return self

    @property
    def level(self) -> str:
        """The active layers, such as "namespaces+landlock+seccomp"; "limits" if there are none."""
        return str(self._hello()["level"])

    @property
    def missing(self) -> dict[str, str]:
        """Layers that were wanted and are not active, with the reason."""
        return dict(self._hello()["missing"])

    def _hello(self) -> dict[str, Any]:
        if not self._pool.hello:
            self._pool.start(1)
        return self._pool.hello

    def run(self, programs: Sequence[Program]) -> list[Verdict]:
        """Verdicts in the order of the programs."""
        future = self.run_async(programs)
        try:
            return future.result()
        except BaseException:  # an interrupted cell must not leave its queue behind
            future.cancel()
            raise

    def run_async(self, programs: Iterable[Program]) -> Future[list[Verdict]]:
        """``run`` in the background: ``.result()`` waits for the verdicts. Calls are served in their order."""
        return self._pool.submit(list(programs))

    def calibrate(self, programs: Sequence[Program]) -> list[Limits]:
        """Limits for each problem from its reference solution: 10 times its CPU time, at least 0.5 seconds.

        Rounded up to 0.5, 1, 2, 4, ... seconds, and where it is over the minimum measured three times, of which the
        least counts, so that runs agree. Memory and wall factor are those of the sandbox.
        """
        references = self._patient(programs)
        seconds = [verdict.cpu_seconds for verdict in self.run(references)]
        for _ in range(2):
            slow = [i for i, used in enumerate(seconds) if 10 * used > 0.5]
            again = self._pool.submit([references[i] for i in slow], cached=False).result()
            for i, verdict in zip(slow, again, strict=True):
                seconds[i] = min(seconds[i], verdict.cpu_seconds)
        return [replace(self.limits, cpu_seconds=_round_up(10 * used)) for used in seconds]

    def run_patiently(self, programs: Sequence[Program]) -> list[Verdict]:
        """Verdicts on reference solutions, whatever limits they have; ``calibrate`` does not run the same again."""
        return self.run(self._patient(programs))

    def _patient(self, programs: Sequence[Program]) -> list[Program]:
        generous = replace(self.limits, cpu_seconds=60.0)
        return [replace(program, limits=generous) for program in programs]


def _round_up(seconds: float) -> float:
    value = 0.5
    while value < seconds:
        value *= 2
    return value


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
