"""Problems: what the code model is asked to write, and the asserts that judge it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One programming task.

    ``tests`` are scored asserts, ``challenge_tests`` are harder hidden ones; each is one ``assert`` statement.
    ``setup`` runs after the candidate's code and before the asserts. ``reference`` is the known solution.
    """

    task_id: int
    text: str
    entry_point: str
    tests: tuple[str, ...]
    challenge_tests: tuple[str, ...] = ()
    setup: str = ""
    reference: str = ""
