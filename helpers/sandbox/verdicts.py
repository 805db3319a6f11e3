"""One program on its way to a verdict: what is run, what is judged, what comes of it."""

from __future__ import annotations

import json
import os
import signal
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .asserts import Question, ask, cut, equal, own_object, show, truth

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
MAX_PROCESSES = 4  # a program's first process and those that try the asserts after one that ended it
MAX_DEATHS = 3  # of the server under one program: two may be of other causes, such as the system short of memory
REPLY = struct.Struct("<iBBIdd")  # the same as in server.py


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

    def scored(self) -> tuple[int, ...]:
        """``mask``, to be counted. Raises SandboxError where the sandbox failed, of which the program is innocent."""
        if "sandbox_error" in self.outcomes:
            raise SandboxError(
                f"The sandbox failed, and what it could not run is not scored: {self.error_message} "
                "Free processes or memory and start again: a run goes on where it was."
            )
        return self.mask


class SandboxError(RuntimeError):
    """The sandbox itself could not do its work; the message says why and what to do."""


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
_TOLD = "what its setup defines ran in the program's process, so the program could read or forge its result"
_OUTSIDE = "its values were compared in a clean process"
_OWN = "an object of the program's own equals no other value there, whatever its methods say"


class Attempt:
    """One program on its way to a verdict: which asserts are judged, what is left of its limits."""

    def __init__(self, program: Program, preamble: str) -> None:
        self.program = program
        self.questions = [ask(test, program.setup) for test in program.tests]
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
        status, killed, _, phases, cpu, wall = REPLY.unpack_from(reply)
        self.cpu += cpu
        self.wall += wall
        self.processes += 1
        if scratch != b"/tmp":  # as it is called on most machines
            reply = reply[: REPLY.size] + reply[REPLY.size :].replace(scratch, b"/tmp")
        answered, count = self.start, len(self.outcomes)
        for line in reply[REPLY.size :].split(b"\n"):
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
            if note := [*filter(None, [self.places.get(i, usual)]), *[_TOLD] * question.told]:
                notes.append(f"assert {i + 1}: {'; '.join(note)}")
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
