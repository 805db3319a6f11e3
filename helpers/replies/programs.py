"""From what the reader found to the program, without the model's own examples of use; and the tests that a model writes."""

from __future__ import annotations

import ast
import contextlib
import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field

from .reader import Reader
from .statements import (
    DEFINITIONS,
    FUNCTIONS,
    NEWLINE,
    Code,
    Statement,
    base_name,
    binds,
    code_of,
    executed,
    functions_of,
    parse,
)

LANGUAGES = ("python", "python3", "py")


def extract_program(reply: str, entry_point: str) -> tuple[str, str]:
    """The program in ``reply`` that defines ``entry_point``, and a note on what had to be done to get it.

    The first block outside a draft that defines the entry point, or the first bare code that does, and the parts of code
    before it that define names which it uses and lacks. All that the model wrote there at the top level stays, less its
    own examples of use: statements that call the entry point (or a function that does), run tests or read input, and
    change nothing that the rest uses; and ``if __name__ == "__main__"``.

    Notes: ``""`` (as it stood, less examples), ``"partial"`` (something that does not parse was left out), ``"renamed"``
    (the only function had another name and is given this one too), ``"missing"`` (no function of that name; the text is
    returned as it is).
    """
    reader = Reader(entry_point)
    reader.feed(reply)
    blocks = [block for block in reader.finish() if block.statements]
    for block in blocks:
        if block.statements[0].text.strip().lower() in LANGUAGES:  # the name of the language, a line below the fence
            block.statements = block.statements[1:]
    found = _first(blocks, entry_point)
    if found is None and (plain := textwrap.dedent(NEWLINE.sub("\n", reply))) != reply and not blocks:
        blocks = [code_of(plain)]  # all of it is indented
        found = _first(blocks, entry_point)
    if found is None:
        return NEWLINE.sub("\n", reply).strip("\n"), "missing"
    place, name = found
    statements, whole = _parsing(_with_needed(blocks, place), name)
    if not any(name in statement.names for statement in statements if statement.tree):
        return _joined(blocks[place].statements), "missing"
    notes = [] if whole else ["partial"]
    program = _joined(_without_examples(statements, name))
    if name != entry_point:
        program += f"\n{entry_point} = {name}"
        notes.append("renamed")
    return program, "+".join(notes)


def _first(blocks: list[Code], entry_point: str) -> tuple[int, str] | None:
    """Which block has the program, and the name of its function."""
    by_name = [i for i, block in enumerate(blocks) if any(entry_point in s.names for s in block.statements)]
    whole = [i for i in by_name if blocks[i].defines(entry_point)]
    if by_name:
        return (whole or by_name)[0], entry_point
    for i, block in enumerate(blocks):
        names = [name for statement in block.statements for name in functions_of(statement)]
        if names:
            return (i, names[0]) if len(set(names)) == 1 else None
    return None


def _with_needed(blocks: list[Code], place: int) -> list[Statement]:
    """The statements of a block, and before them those of earlier blocks that define what it lacks."""
    code, chosen = Code(), {place}
    while True:
        code.statements = [statement for i in sorted(chosen) for statement in blocks[i].statements]
        lacks = code.lacks()
        earlier = (i for i in range(place) if i not in chosen and lacks & set().union(*blocks[i].names))
        if (needed := max(earlier, default=None)) is None:
            return code.statements
        chosen.add(needed)


def _parsing(statements: list[Statement], name: str) -> tuple[list[Statement], bool]:
    """What of the statements parses, and whether all do. Of the last one the longest part that does."""
    kept = []
    for statement in statements:
        lines = statement.text.rstrip("\n").split("\n")
        part = statement
        while part.tree is None and name in part.names and len(lines) > 1:
            lines.pop()
            part = Statement("\n".join(lines) + "\n", part.start, part.head)
        if part.tree is not None:
            kept.append(part)
    return kept, len(kept) == len(statements) and all(a is b for a, b in zip(kept, statements, strict=True))


def _joined(statements: Iterable[Statement]) -> str:
    texts = [statement.text if statement.text.endswith("\n") else statement.text + "\n" for statement in statements]
    future = [text for text in texts if re.match(r"(?:\s|#.*\n)*from +__future__ +import", text)]
    # They stood first in their block, which need not be the first.
    return "".join(future + [text for text in texts if text not in future]).strip("\n")


# -------------------------------------------------------------------------------------------------------- examples of use

_TEST_RUNNERS = {
    ("unittest", "main"),
    ("doctest", "testmod"),
    ("doctest", "run_docstring_examples"),
    ("pytest", "main"),
}


@dataclass
class _Part:
    """One top-level statement, with what decides whether it stays."""

    node: ast.stmt
    uses: set[str]  # names that it takes from the module
    names: set[str] = field(init=False)  # that it binds or changes
    is_definition: bool = field(init=False)

    def __post_init__(self) -> None:
        self.names = binds(self.node)
        self.is_definition = isinstance(self.node, (*DEFINITIONS, ast.Import, ast.ImportFrom))

    def exercises(self, functions: set[str]) -> bool:
        """Does it call one of the functions, run tests or read input when the program is loaded?"""
        for child in executed(self.node):
            if isinstance(child, ast.Call):
                called = child.func
                if isinstance(called, ast.Name) and called.id in functions | {"input"}:
                    return True
                if isinstance(called, ast.Attribute) and (base_name(called), called.attr) in _TEST_RUNNERS:
                    return True
            if isinstance(child, ast.Attribute) and child.attr == "stdin" and base_name(child) == "sys":
                return True
        return False


def _without_examples(statements: list[Statement], name: str) -> list[Statement]:
    """The statements less those that only show how the function is used."""
    parts = [_Part(node, statement.uses) for statement in statements if statement.tree for node in statement.tree.body]
    functions = {name}  # and those that call it
    bodies = {part.node.name: part.node.body for part in parts if isinstance(part.node, FUNCTIONS)}
    while (
        new := {n for part in parts if part.names & bodies.keys() and part.uses & functions for n in part.names}
        - functions
    ):
        functions |= new
    for part in parts:  # fill() changes what fill's body changes
        called = {base_name(child.func) for child in executed(part.node) if isinstance(child, ast.Call)}
        for caller in called & bodies.keys() - {name}:
            part.names |= set().union(*map(binds, bodies[caller]))
    candidates, tainted = list[_Part](), set[str]()
    for part in parts:
        if not part.is_definition and name not in part.names:
            if part.exercises(functions) or part.uses & tainted:
                candidates.append(part)
                tainted |= part.names
            else:
                tainted -= part.names
    modules = {n for part in parts if isinstance(part.node, ast.Import | ast.ImportFrom) for n in part.names}
    for part in candidates:
        part.names -= modules  # unittest.main() changes nothing that a class uses
    kept = [part for part in parts if part not in candidates]
    while needed := [part for part in candidates if part.names & set().union(*(k.uses for k in kept))]:
        kept += needed
        candidates = [part for part in candidates if part not in needed]
    dropped = {id(part.node) for part in candidates} | {id(part.node) for part in parts if _is_main(part.node)}
    return [left for statement in statements if (left := _less(statement, dropped))]


def _is_main(node: ast.stmt) -> bool:
    """``if __name__ == "__main__":`` without an else."""
    match node:
        case ast.If(test=ast.Compare(left, [ast.Eq()], [right]), orelse=[]):
            match (left, right):
                case (ast.Name("__name__"), ast.Constant("__main__")) | (
                    ast.Constant("__main__"),
                    ast.Name("__name__"),
                ):
                    return True
    return False


def _less(statement: Statement, dropped: set[int]) -> Statement | None:
    body = statement.tree.body if statement.tree else []
    left = [node for node in body if id(node) not in dropped]
    if not left and body:
        return None
    texts = [ast.get_source_segment(statement.text, node) for node in left]
    if len(left) == len(body) or None in texts:
        return statement
    return Statement("\n".join(map(str, texts)) + "\n", statement.start, statement.head)  # several stood in one line


# ------------------------------------------------------------------------------------------------------------------ asserts


def extract_tests(reply: str, entry_point: str) -> list[str]:
    """The lines of a reply that are ``assert entry_point(literals) == literal``, as ``ast`` writes them.

    Of several for one call the first.
    """
    found: dict[str, str] = {}
    for line in reply.splitlines():
        tree = parse(line.strip())
        with contextlib.suppress(ValueError, TypeError, RecursionError, MemoryError):
            match tree.body if tree else []:
                case [ast.Assert(ast.Compare(ast.Call(ast.Name(name)) as call, [ast.Eq()], [expected]) as test)]:
                    for node in (*call.args, *(keyword.value for keyword in call.keywords), expected):
                        ast.literal_eval(node)  # {[]} is a TypeError
                    if name == entry_point and all(keyword.arg for keyword in call.keywords):  # no **
                        found.setdefault(ast.unparse(call), ast.unparse(ast.Assert(test)))  # without a message
    return list(found.values())
