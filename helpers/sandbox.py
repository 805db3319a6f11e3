"""Run generated programs safely. Interface first; see docs/sandbox.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

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


@dataclass(frozen=True)
class Limits:
    """What one program may use. Seconds of CPU, a multiple of them for the wall clock, mebibytes of address space."""

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
    (``""`` if all passed). ``notes`` says what a reader must know, e.g. that an assert ran as it stands.
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


class Sandbox:
    """Context manager; ``run`` gives verdicts in the order of the programs. ``level`` names the active layers."""

    level: str

    def run(self, programs: Sequence[Program]) -> list[Verdict]:
        raise NotImplementedError
