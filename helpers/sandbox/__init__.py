"""Run generated programs safely and fast: ``Sandbox(...).run(programs) -> verdicts``; see docs/sandbox.md.

The parent splits each ``assert call == literal``, a child evaluates the call, and the parent compares: the process
that runs hostile code never holds the expected value. ``server.py`` is that process, ``layers.py`` what it locks itself
into, ``values.py`` how values travel, ``asserts.py`` how they are judged.
"""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from .pool import LAYERS, Pool
from .verdicts import OUTCOMES, Limits, Program, SandboxError, Verdict

__all__ = ["LAYERS", "OUTCOMES", "Limits", "Program", "Sandbox", "SandboxError", "Verdict"]


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
        self._pool = Pool(self.workers, names, layers != "auto", preamble, cache_size)
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
        least counts, so that runs agree. Memory and wall factor are those of the sandbox; so is the time where the
        reference itself does not end, which says nothing of what others need.
        """
        references = self._patient(programs)
        verdicts = self.run(references)
        seconds = [
            self.limits.cpu_seconds / 10 if "timeout" in verdict.outcomes else verdict.cpu_seconds
            for verdict in verdicts
        ]
        for _ in range(2):
            slow = [i for i, used in enumerate(seconds) if 10 * used > 0.5 and "timeout" not in verdicts[i].outcomes]
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
