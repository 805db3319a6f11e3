"""Run generated programs safely and fast: ``Sandbox(...).run(programs) -> verdicts``; see docs/sandbox.md.

The parent splits each ``assert call == literal``, a child evaluates the call, and the parent compares: the process
that runs hostile code never holds the expected value. ``_sandbox_server.py`` is that process, ``_sandbox_layers.py``
what it locks itself into.
"""

from __future__ import annotations

import ast
import builtins
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
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

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
MESSAGE_CHARS = 200
MAX_PROCESSES = 4  # a program's first process and those that try the asserts after one that ended it
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


# ----------------------------------------------------------------------------------------------- asserts into questions

_BUILTINS = frozenset(dir(builtins))
_MODULES = frozenset(sys.stdlib_module_names)


@dataclass(frozen=True)
class _Question:
    """What the child evaluates for one assert and how its answer is judged.

    ``kind`` is the comparison of the one value of ``ask`` with ``expected`` (eq, ne, is, is_not), truth or falsehood
    of it, ``judge`` (``rest`` is an assert over ``_V``, the values, for a clean child) or ``plain`` (``rest`` is the
    statement itself).
    """

    kind: str
    ask: tuple[str, ...] = ()
    expected: Any = None
    rest: str = ""
    shown: int = 1  # how many of the values asked for a message shows

    @property
    def wire(self) -> str | tuple[str, ...]:
        return self.rest if self.kind == "plain" else self.ask


_OPERATORS = {ast.Eq: "eq", ast.NotEq: "ne", ast.Is: "is", ast.IsNot: "is_not"}


def _root(node: ast.expr) -> str:
    """The name at the start of ``name(...)``, ``name.a[0](...)`` and the like; empty for other expressions."""
    while True:
        if isinstance(node, ast.Call):
            node = node.func
        elif isinstance(node, (ast.Attribute, ast.Subscript)):
            node = node.value
        else:
            return node.id if isinstance(node, ast.Name) else ""


def _candidate(node: ast.expr) -> bool:
    """An expression that is a value of the program: it starts from a name that is not a builtin."""
    name = _root(node)
    return bool(name) and name not in _BUILTINS


def _wrapped(node: ast.expr, shadowed: bool) -> bool:
    """A value of the program, maybe inside builtins of one argument, as in ``sorted(f(x))``: no other data in it.

    ``shadowed``: the assert has no name but those of builtins, so the program's function has such a name.
    """
    if shadowed:
        return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _BUILTINS:
        if len(node.args) != 1 or node.keywords:
            return False
        node = node.args[0]
    return _candidate(node)


class _Extract(ast.NodeTransformer):
    """Replaces the values of the program in an expression by ``_V[0]``, ``_V[1]``, ...

    Only where all of the expression is evaluated exactly once: anything else raises ValueError.
    """

    def __init__(self, source: str) -> None:
        self.source, self.found, self.modules = source, list[str](), set[str]()

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.Name) and node.id in self.modules:
            return node
        if isinstance(node, (ast.Call, ast.Attribute, ast.Subscript, ast.Name)) and _candidate(node):
            name = _root(node)
            if name in _MODULES and isinstance(node, (ast.Call, ast.Attribute)) and not _called_directly(node):
                self.modules.add(name)
                return self.generic_visit(node)
            self.found.append(_segment(self.source, node))
            index = ast.Constant(len(self.found) - 1)
            return ast.Subscript(ast.Name("_V", ast.Load()), index, ast.Load())
        if isinstance(node, (ast.BoolOp, ast.IfExp, ast.Lambda, ast.comprehension, ast.NamedExpr, ast.JoinedStr)):
            raise ValueError("evaluated conditionally, in its own scope or with effects")
        if isinstance(node, ast.Compare) and len(node.ops) > 1:
            raise ValueError("a chain of comparisons stops early")
        return self.generic_visit(node)


def _called_directly(node: ast.expr) -> bool:
    """``name(...)`` or an expression on it, as opposed to ``module.name(...)``."""
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return True
        node = node.func if isinstance(node, ast.Call) else node.value  # type: ignore[attr-defined]
    return False


def _segment(source: str, node: ast.expr) -> str:
    """The source text of an expression, in parentheses so that it may span lines."""
    if node.lineno == node.end_lineno == 1:
        text = source.encode()[node.col_offset : node.end_col_offset].decode()
    else:
        text = ast.get_source_segment(source, node) or ast.unparse(node)
    return f"({text}\n)"


@lru_cache(maxsize=65536)
def _question(test: str) -> _Question:
    """How to put one assert to the child; see ``_Question``."""
    plain = _Question("plain", rest=test)
    try:
        (statement,) = ast.parse(test).body
        if not isinstance(statement, ast.Assert):
            return plain
        node = statement.test
        shadowed = all(part.id in _BUILTINS for part in ast.walk(node) if isinstance(part, ast.Name))
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _OPERATORS:
            kind = _OPERATORS[type(node.ops[0])]
            for side, other in ((node.left, node.comparators[0]), (node.comparators[0], node.left)):
                if _wrapped(side, shadowed):
                    try:
                        expected = ast.literal_eval(other)
                    except (ValueError, TypeError):
                        continue
                    if kind in ("eq", "ne") or expected is None or isinstance(expected, bool):
                        return _Question(kind, (_segment(test, side),), expected)
        if _wrapped(node, shadowed):
            return _Question("truth", (_segment(test, node),))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not) and _wrapped(node.operand, shadowed):
            return _Question("falsehood", (_segment(test, node.operand),))
        extract = _Extract(test)
        rest = ast.unparse(ast.fix_missing_locations(extract.visit(node)))
        if not extract.found:
            return plain
        imports = "".join(f"import {name}\n" for name in sorted(extract.modules))
        # the program must have the modules that its test names, as if the assert ran in it
        names = tuple(sorted(extract.modules))
        return _Question("judge", (*extract.found, *names), rest=f"{imports}assert {rest}", shown=len(extract.found))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return plain


# ------------------------------------------------------------------------------- answers: compared and shown, not trusted


def _plain(value: Any) -> Any:
    """A number, string, bytes or None out of an encoded value, or an object equal to nothing. Work is bounded."""
    if not isinstance(value, dict):
        return value
    [(kind, body)] = value.items()
    if kind == "i":
        return int(body, 16)
    if kind == "f":
        return float(body)
    if kind == "c":
        return complex(float(body[0]), float(body[1]))
    if kind == "b":
        return bytes.fromhex(body)
    if kind == "D" and len(body) < 1000:
        return Decimal(body)
    if kind == "F" and len(body[0]) + len(body[1]) < 2000:
        return Fraction(int(body[0], 16), int(body[1], 16))
    return ... if kind == "e" else object()


def _member(value: Any, like: Iterable[Any]) -> Any:
    """An element of a set or key of a dict as a hashable value; containers only if ``like`` has such elements."""
    if isinstance(value, dict) and len(value) == 1:
        [(kind, body)] = value.items()
        if kind in ("t", "s") and any(isinstance(item, (tuple, frozenset)) and len(item) == len(body) for item in like):
            inner = [part for item in like if isinstance(item, (tuple, frozenset)) for part in item]
            items = [_member(item, inner) for item in body]
            return tuple(items) if kind == "t" else frozenset(items)
    return object() if isinstance(value, list) else _plain(value)


def _equal(value: Any, expected: Any) -> bool:
    """``decoded value == expected`` for a literal ``expected``, doing no more work than the literal's size allows."""
    kind = type(expected)
    if kind is list:
        return (
            isinstance(value, list)
            and len(value) == len(expected)
            and all(_equal(got, want) for got, want in zip(value, expected, strict=True))
        )
    if kind in (tuple, set, frozenset, dict):
        letter = "t" if kind is tuple else "d" if kind is dict else "s"
        if not isinstance(value, dict) or letter not in value:
            return False
        items = value[letter]
        if len(items) != len(expected):
            return False
        if kind is tuple:
            return all(_equal(got, want) for got, want in zip(items, expected, strict=True))
        if kind is dict:
            seen = set()
            for key, item in items:
                name = _member(key, expected)
                if name not in expected or not _equal(item, expected[name]):
                    return False
                seen.add(name)
            return len(seen) == len(expected)
        return {_member(item, expected) for item in items} == expected
    if isinstance(value, list):
        return False
    return bool(_plain(value) == expected)


def _truth(value: Any) -> bool:
    if isinstance(value, dict):
        [(kind, body)] = value.items()
        if kind == "o":
            return bool(body[1])
        return bool(body) if kind in "tsdb" else bool(_plain(value))
    return bool(value)


def _show(value: Any, room: int = MESSAGE_CHARS) -> str:
    """The repr of an encoded value, cut to ``room`` characters; elements of sets are sorted."""
    parts: list[str] = []
    _show_into(value, parts, [room + 1])
    return _cut("".join(parts), room)


_BRACKETS = {"t": "()", "s": "{}", "d": "{}"}


def _show_into(value: Any, parts: list[str], room: list[int]) -> None:
    def put(text: str) -> None:
        parts.append(text)
        room[0] -= len(text)

    if room[0] <= 0:
        return
    kind: str = "l" if isinstance(value, list) else ""
    items: Any = value
    if isinstance(value, dict):
        kind = next(iter(value))
        items = value[kind]
    if kind in ("l", "t", "s", "d"):
        opening, closing = tuple(_BRACKETS.get(kind, "[]"))
        if kind == "s" and not items:
            return put("set()")
        if kind == "s" and len(items) > 1000:
            return put(f"<set of {len(items)} elements>")
        if kind == "s":
            items = sorted(items, key=lambda item: (str(type(item)), _show(item, 60)))
        put(opening)
        for i, item in enumerate(items):
            if room[0] <= 0:
                return
            if i:
                put(", ")
            if kind == "d":
                _show_into(item[0], parts, room)
                put(": ")
                item = item[1]
            _show_into(item, parts, room)
        put("," + closing if kind == "t" and len(items) == 1 else closing)
    elif kind == "o":
        put(f"<{items[0]} object>")
    elif kind == "i" and len(items) > 300:
        put(f"<int of {4 * len(items)} bits>")
    elif isinstance(value, str):
        put(repr(value[: room[0] + 1]))
    elif kind == "b":
        put(repr(bytes.fromhex(items[: 2 * room[0] + 2])))
    elif kind == "D":
        put(f"Decimal({items[: room[0]]!r})")
    else:
        put(repr(_plain(value))[: room[0] + 1])


_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def _cut(text: str, room: int = MESSAGE_CHARS) -> str:
    """Bounded, without addresses or lone surrogates."""
    text = _ADDRESS.sub(" at 0x", text).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= room else text[: room - 3] + "..."


# ------------------------------------------------------------------------------------------------------------ one worker

_REPLY = struct.Struct("<iBBIdd")  # the same as in _sandbox_server.py
_NOT_KILLED = 0
_PASSED_ON = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")  # what the interpreter itself may need to start


class _Worker:
    """A server process and the socket to it."""

    def __init__(self, layers: tuple[str, ...], strict: bool) -> None:
        if not hasattr(os, "fork"):
            raise SandboxError("The sandbox needs fork: run on Linux or macOS (on Windows, in WSL).")
        ours, theirs = socket.socketpair()
        config = {"fd": theirs.fileno(), "client": os.getpid(), "layers": layers, "strict": strict}
        environment = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        environment.update({name: os.environ[name] for name in _PASSED_ON if name in os.environ})
        script = Path(__file__).with_name("_sandbox_server.py")
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * PIPE_BYTES)
        self.socket = ours
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-s", "-S", "-B", "-Wignore", str(script), json.dumps(config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=environment,
            )
        except OSError as error:
            ours.close()
            raise SandboxError(f"The sandbox could not start {sys.executable}: {error}.") from error
        finally:
            theirs.close()
        try:
            self.hello: dict[str, Any] = json.loads(self.receive())
        except (OSError, EOFError, ValueError) as error:
            self.close()
            raise SandboxError("A sandbox worker ended while starting; run docs/sandbox.md's check.") from error
        if "error" in self.hello:
            self.close()

    def send(self, job: bytes) -> None:
        self.socket.sendall(struct.pack("<I", len(job)) + job)

    def receive(self) -> bytes:
        (size,) = struct.unpack("<I", self._exactly(4))
        return self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        data = self.socket.recv(size)
        if len(data) < size:
            pieces = [data]
            missing = size - len(data)
            while missing:
                data = self.socket.recv(missing)
                if not data:
                    raise EOFError
                pieces.append(data)
                missing -= len(data)
            data = b"".join(pieces)
        return data

    def hang_up(self) -> None:
        """Make the thread that waits for an answer see the end of the socket."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the server; it notices the closed socket, and its keeper cleans up."""
        self.socket.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            self.process.wait(5)


# ----------------------------------------------------------------------------------------------------------- one program


class _Attempt:
    """One program on its way to a verdict: which asserts are judged, what is left of its limits."""

    def __init__(self, program: Program, preamble: str) -> None:
        self.program = program
        self.questions = [_question(test) for test in program.tests]
        self.parts = [["<preamble>", preamble]] if preamble else []
        self.parts.append(["<solution>", program.code])
        if program.setup:
            self.parts.append(["<setup>", program.setup])
        count = len(program.tests)
        self.outcomes = ["not_run"] * count
        self.types = [""] * count
        self.messages = [""] * count
        self.notes: list[str] = []
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
            "wall": max(0.01, limits.cpu_seconds * limits.wall_factor - self.wall),
            "memory": limits.memory_mb,
        }
        return json.dumps(job).encode()

    def take(self, reply: bytes, judge: Callable[[bytes], bytes]) -> bool:
        """Read one reply; True when the verdict is complete, False if another process should go on."""
        status, killed, _, phases, cpu, wall = _REPLY.unpack_from(reply)
        self.cpu += cpu
        self.wall += wall
        self.processes += 1
        start, count = self.start, len(self.outcomes)
        answered = start  # asserts below this have an outcome
        for line in reply[_REPLY.size :].split(b"\n"):
            try:
                index, letter, body = json.loads(line)
            except (ValueError, TypeError, RecursionError):
                continue
            if letter == "+" and isinstance(body, str) and (index == -1 or start <= index < answered):
                for i in range(start, count) if index == -1 else (index,):
                    if self.types[i] and self.messages[i] == self.types[i]:
                        self.messages[i] = _cut(f"{self.types[i]}: {body}" if body else self.types[i])
            elif index == -1 and answered == start:
                outcome = "compile_error" if letter == "S" else _LETTERS.get(letter, "exception")
                for i in range(start, count):
                    self._set(i, outcome, str(body)[:60], str(body)[:60])
                answered = count
            elif index == answered and index < count:
                self._answer(index, letter, body, judge)
                answered += 1
        if answered == count:
            return True
        outcome, message = self._cause(status, killed, cpu)
        # a report that says nothing at all: the program's own code ended the process, there is nothing to go on with
        from_code = answered == start and not phases
        for i in range(answered, count if from_code else answered + 1):
            self._set(i, outcome, "", message)
        self.start = answered + 1
        if from_code or self.start == count or self.processes == MAX_PROCESSES:
            return True
        self.notes.append(
            f"assert {self.start + 1} on: in a new process, the one before ended in assert {answered + 1}"
        )
        return False

    def _set(self, index: int, outcome: str, kind: str, message: str) -> None:
        self.outcomes[index], self.types[index], self.messages[index] = outcome, kind, message

    def _answer(self, index: int, letter: str, body: Any, judge: Callable[[bytes], bytes]) -> None:
        question = self.questions[index]
        if letter == "V" and question.kind != "plain":
            try:
                right = self._right(question, body, judge)
            except (ArithmeticError, ValueError, TypeError, LookupError, AttributeError, RecursionError, MemoryError):
                right = False
            if right:
                return self._set(index, "pass", "", "")
            try:
                message = ", ".join(_show(value) for value in body[: question.shown])
            except (ArithmeticError, ValueError, TypeError, LookupError, AttributeError, RecursionError, MemoryError):
                message = "a value that cannot be shown"
            return self._set(index, "wrong_value", "", _cut(message))
        if letter == "P" and question.kind == "plain":
            return self._set(index, "pass", "", "")
        name = str(body)[:60]
        self._set(index, _LETTERS.get(letter, "exception"), name, name)

    def _right(self, question: _Question, values: Any, judge: Callable[[bytes], bytes]) -> bool:
        if question.kind == "judge":
            job = {"parts": [], "tests": [question.rest], "start": 0, "cpu": 2.0, "wall": 10.0, "memory": 1024}
            reply = judge(json.dumps({**job, "values": values}).encode())
            return reply[_REPLY.size :].split(b"\n")[0] == b'[0,"P",""]'
        (value,) = values
        if question.kind in ("truth", "falsehood"):
            return _truth(value) == (question.kind == "truth")
        if question.kind in ("is", "is_not"):
            return (value is question.expected) == (question.kind == "is")
        return _equal(value, question.expected) == (question.kind == "eq")

    def _cause(self, status: int, killed: int, cpu: float) -> tuple[str, str]:
        """Why a process ended before it had answered everything."""
        if killed != _NOT_KILLED:
            return "timeout", "stopped at the time limit"
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            if number == signal.SIGKILL:
                out_of_time = cpu >= self.program.limits.cpu_seconds
                return ("timeout", "stopped at the time limit") if out_of_time else ("oom", "killed by the system")
            return "crash", f"ended by {signal.Signals(number).name}" if number in set(signal.Signals) else "crash"
        return "early_exit", "the process ended before the assert did"

    def died(self) -> bool:
        """The server died under this program; True when that has happened twice, which is then its verdict."""
        self.deaths += 1
        if self.deaths == 2:
            for i in range(self.start, len(self.outcomes)):
                self._set(i, "crash", "", "ended the sandbox's server")
        return self.deaths == 2

    def fail(self, reason: str) -> None:
        """The sandbox could not run it."""
        for i in range(self.start, len(self.outcomes)):
            self._set(i, "sandbox_error", "", _cut(reason))

    def verdict(self) -> Verdict:
        mask = tuple(int(outcome == "pass") for outcome in self.outcomes)
        notes = self.notes
        for i, question in enumerate(self.questions):
            if question.kind == "plain":
                notes.append(f"assert {i + 1}: ran as it stands")
            elif question.kind == "judge":
                notes.append(f"assert {i + 1}: compared in a clean process")
        first = mask.index(0) if 0 in mask else -1
        return Verdict(
            mask=mask,
            outcomes=tuple(self.outcomes),
            messages=tuple(self.messages),
            error_type="" if first < 0 else self.types[first] or self.outcomes[first],
            error_message="" if first < 0 else self.messages[first],
            cpu_seconds=self.cpu,
            wall_seconds=self.wall,
            notes=tuple(notes),
        )


_LETTERS = {"E": "exception", "X": "early_exit", "O": "oom", "L": "output_too_large", "F": "wrong_value"}


# ------------------------------------------------------------------------------------------------------------- the pool


@dataclass(eq=False)
class _Batch:
    """The programs of one ``run``: the places of each distinct one, and the verdicts so far."""

    places: dict[bytes, list[int]]
    verdicts: list[Verdict | None]
    future: Future[list[Verdict]]


@dataclass(eq=False)
class _Item:
    attempt: _Attempt
    key: bytes
    batch: _Batch


class _Pool:
    """One thread per worker, and the queue and the cache they share.

    Apart from ``Sandbox`` so that the threads do not keep a forgotten Sandbox alive. The thread that starts a server
    also ends last: on Linux a server is told to die with that thread.
    """

    def __init__(self, count: int, layers: tuple[str, ...], strict: bool, preamble: str, cache_size: int) -> None:
        self.count, self.layers, self.strict, self.preamble, self.cache_size = (
            count,
            layers,
            strict,
            preamble,
            cache_size,
        )
        self.cache: OrderedDict[bytes, Verdict] = OrderedDict()
        self.hello: dict[str, Any] = {}
        self.closed = False
        self.reset()
        _POOLS.add(self)

    def reset(self) -> None:
        """Without threads and workers, as at first; also in a process forked from ours, which must not share them."""
        self.lock = threading.Condition()
        self.judge_lock = threading.Lock()
        self.queue: deque[_Item] = deque()
        self.threads: list[threading.Thread] = []
        self.workers: set[_Worker] = set()
        self.judge_worker: _Worker | None = None
        self.wanted = self.started = 0
        self.failure: SandboxError | None = None

    def forget(self) -> None:
        for worker in self.workers:
            worker.socket.close()
            worker.process.returncode = 0  # another process's child: not ours to wait for
        self.reset()

    # called by users' threads

    def submit(self, programs: Sequence[Program]) -> Future[list[Verdict]]:
        batch = _Batch({}, [None] * len(programs), Future())
        fresh: list[_Item] = []
        with self.lock:
            if self.closed:
                raise SandboxError("This sandbox is closed: make a new one.")
            for place, program in enumerate(programs):
                key = _key(program, self.preamble)
                if key in batch.places:
                    batch.places[key].append(place)
                elif (known := self.cache.get(key)) is not None:
                    self.cache.move_to_end(key)
                    batch.verdicts[place] = known
                else:
                    batch.places[key] = [place]
                    fresh.append(_Item(_Attempt(program, self.preamble), key, batch))
            if not fresh:
                batch.future.set_result([verdict for verdict in batch.verdicts if verdict is not None])
                return batch.future
            self.queue.extend(fresh)
            self.spawn()
            self.lock.notify_all()
        return batch.future

    def start(self, count: int) -> None:
        """Wait until ``count`` workers have started."""
        with self.lock:
            if self.closed:
                raise SandboxError("This sandbox is closed: make a new one.")
            self.failure = None
            self.wanted = max(self.wanted, count)
            self.spawn()
            self.lock.notify_all()
            self.lock.wait_for(lambda: self.started >= count or self.failure is not None or self.closed)
            if self.failure is not None:
                raise self.failure

    def spawn(self) -> None:
        while len(self.threads) < self.count:
            thread = threading.Thread(target=self.drive, name="sandbox", daemon=True)
            self.threads.append(thread)
            thread.start()

    def close(self) -> None:
        with self.lock:
            self.closed = True
            dropped = {item.batch.future for item in self.queue}
            self.queue.clear()
            for worker in self.workers:
                worker.hang_up()
            self.lock.notify_all()
        for future in dropped:
            future.cancel()
        for thread in self.threads:
            thread.join(10)

    # called by the driving threads

    def take(self, block: bool, idle: bool) -> _Item | None:
        """The next program; None if there is none (``block`` waits for one), on closing, or to start a worker."""
        with self.lock:
            while True:
                while self.queue:
                    item = self.queue.popleft()
                    if not item.batch.future.cancelled():
                        return item
                if not block or self.closed or (idle and self.started < self.wanted):
                    return None
                self.lock.wait()

    def open_worker(self) -> _Worker:
        """A started worker; without the layers that turn out not to work, if that is allowed."""
        layers = self.layers
        while True:
            worker = _Worker(layers, self.strict)
            error = worker.hello.get("error")
            if error is None:
                break
            broken = worker.hello.get("layer")
            if self.strict or broken not in layers:
                raise SandboxError(f"The sandbox cannot use the layer {broken}: {error}. Use layers='auto'.")
            layers = tuple(layer for layer in layers if layer != broken)
        with self.lock:
            if self.closed:
                worker.close()
                raise SandboxError("This sandbox was closed.")
            self.layers = layers
            self.hello = worker.hello
            self.workers.add(worker)
            self.started += 1
            self.lock.notify_all()
        return worker

    def drop_worker(self, worker: _Worker) -> None:
        with self.lock:
            self.workers.discard(worker)
            self.started -= 1
        worker.close()

    def finish(self, item: _Item) -> None:
        verdict = item.attempt.verdict()
        with self.lock:
            if "sandbox_error" not in verdict.outcomes and self.cache_size:
                self.cache[item.key] = verdict
                while len(self.cache) > self.cache_size:
                    self.cache.popitem(last=False)
            for place in item.batch.places.pop(item.key):
                item.batch.verdicts[place] = verdict
            complete = not item.batch.places
        if complete and not item.batch.future.cancelled():
            with contextlib.suppress(InvalidStateError):  # cancelled just now
                item.batch.future.set_result([found for found in item.batch.verdicts if found is not None])

    def judge(self, job: bytes) -> bytes:
        """Run the trusted part of an assert in a worker that never runs programs."""
        with self.judge_lock:
            for last in (False, True):
                if self.judge_worker is None:
                    self.judge_worker = self.open_worker()
                try:
                    self.judge_worker.send(job)
                    return self.judge_worker.receive()
                except (OSError, EOFError):
                    self.drop_worker(self.judge_worker)
                    self.judge_worker = None
                    if last or self.closed:
                        raise SandboxError("The sandbox's judging worker died twice.") from None
        raise AssertionError("unreachable")

    def drive(self) -> None:
        """Body of a thread: send programs to one worker, two at a time, and read the replies in the same order."""
        worker: _Worker | None = None
        line: deque[_Item] = deque()  # taken, not finished; the first ``sent`` of them are at the worker
        sent = failures = 0
        while True:
            while len(line) < IN_FLIGHT and (item := self.take(not line, worker is None)) is not None:
                line.append(item)
            if self.closed:
                break
            if worker is None:
                try:
                    worker, sent, failures = self.open_worker(), 0, 0
                except SandboxError as error:
                    failures += 1
                    if not self.hello or failures == 3:
                        self.give_up(line, error)
                        failures = 0
                    time.sleep(0.1 * failures)
                    continue
            if not line:
                continue
            try:
                while sent < len(line):
                    job = line[sent].attempt.job()
                    if sent and len(job) > PIPE_BYTES:
                        break  # could block while the worker blocks on its reply
                    worker.send(job)
                    sent += 1
                reply = worker.receive()
            except (OSError, EOFError):
                self.drop_worker(worker)
                worker = None
                if self.closed:
                    break
                if line[0].attempt.died():
                    self.finish(line.popleft())
                continue
            item = line.popleft()
            sent -= 1
            if not _REPLY.unpack_from(reply)[2]:  # its scratch folder is not clean: it ends by itself
                self.drop_worker(worker)
                worker = None
            try:
                if item.attempt.take(reply, self.judge):
                    self.finish(item)
                else:
                    line.append(item)
            except SandboxError as error:
                item.attempt.fail(str(error))
                self.finish(item)
        for item in line:
            item.batch.future.cancel()
        if worker is not None:
            self.drop_worker(worker)

    def give_up(self, line: deque[_Item], error: SandboxError) -> None:
        """No worker could be started: an error for the caller at first, ``sandbox_error`` verdicts later."""
        with self.lock:
            self.failure = error
            first = not self.hello
            self.wanted = 0
            self.lock.notify_all()
        for item in line:
            if first:
                with contextlib.suppress(InvalidStateError):
                    item.batch.future.set_exception(error)
            else:
                item.attempt.fail(str(error))
                self.finish(item)
        line.clear()


_POOLS: weakref.WeakSet[_Pool] = weakref.WeakSet()


def _forget_pools() -> None:
    for pool in list(_POOLS):
        pool.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pools)


def _key(program: Program, preamble: str) -> bytes:
    limits = program.limits
    content = (
        program.code, program.tests, program.setup, preamble, sys.version,
        limits.cpu_seconds, limits.wall_factor, limits.memory_mb,
    )  # fmt: skip
    return hashlib.sha256(repr(content).encode("utf-8", "surrogatepass")).digest()


class Sandbox:
    """Runs programs in workers that never hold what the asserts expect.

    ``workers``: server processes, the CPUs that this process may use by default; started when first needed, or by
    ``start()``. ``layers``: "auto" takes what the machine allows, "none" only limits, and an explicit list such as
    "namespaces,landlock,seccomp" fails with SandboxError if one is missing. ``level`` names what is active.
    ``preamble``: code that runs before every program, in its namespace, e.g. "import math, re". ``limits``: for
    ``calibrate`` the fields that it does not measure; programs carry their own. ``cache_size``: verdicts kept.

    All methods may be called from several threads. In a process forked from this one the object starts its own
    workers. Use as a context manager, or call ``close()``; workers also end with the process, however it ends.
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
        self._finalizer = weakref.finalize(self, self._pool.close)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; programs not yet judged are dropped and their futures cancelled."""
        self._finalizer()

    def start(self) -> Sandbox:
        """Start all workers now and wait for them (before a large library is loaded, say). Returns the sandbox."""
        self._pool.start(self.workers)
        return self

    @property
    def level(self) -> str:
        """The active layers, such as "namespaces+landlock+seccomp", or "limits" if there are none."""
        if not self._pool.hello:
            self._pool.start(1)
        return str(self._pool.hello["level"])

    @property
    def missing(self) -> dict[str, str]:
        """Layers that were asked for and are not active, with the reason."""
        if not self._pool.hello:
            self._pool.start(1)
        return dict(self._pool.hello["missing"])

    def run(self, programs: Sequence[Program]) -> list[Verdict]:
        """Verdicts in the order of the programs."""
        future = self.run_async(programs)
        try:
            return future.result()
        except BaseException:  # an interrupted cell must not leave a queue behind
            future.cancel()
            raise

    def run_async(self, programs: Sequence[Program]) -> Future[list[Verdict]]:
        """Like ``run``, at once: ``.result()`` waits. Programs of several calls are run in the order of the calls."""
        return self._pool.submit(list(programs))

    def calibrate(self, programs: Sequence[Program]) -> list[Limits]:
        """Limits for each problem from its reference solution: CPU 10 times the reference's, at least 0.5 seconds.

        Rounded up to 0.5, 1, 2, 4, ... seconds, and the least of three runs where it is more than the minimum, so
        that they do not change from run to run. The other limits are those of the sandbox.
        """
        generous = replace(self.limits, cpu_seconds=60.0)
        references = [replace(program, limits=generous) for program in programs]
        seconds = [verdict.cpu_seconds for verdict in self.run(references)]
        slow = [i for i, used in enumerate(seconds) if 10 * used > 0.5]
        for repeat in (1, 2):  # other memory limits, so that the cache does not answer
            again = replace(generous, memory_mb=generous.memory_mb + repeat)
            for i, verdict in zip(slow, self.run([replace(programs[i], limits=again) for i in slow]), strict=True):
                seconds[i] = min(seconds[i], verdict.cpu_seconds)
        return [replace(self.limits, cpu_seconds=_round_up(10 * used)) for used in seconds]


def _round_up(seconds: float) -> float:
    value = 0.5
    while value < seconds:
        value *= 2
    return value


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
