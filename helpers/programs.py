"""From a model's reply to a program: find the code, keep what the entry point needs."""

from __future__ import annotations

import ast
import re

FENCE = re.compile(r"```[ \t]*(?:[Pp]ython[0-9]?|py)?[ \t]*\r?\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
TAGS = re.compile(r"\[PYTHON\](.*?)(?:\[/PYTHON\]|\Z)", re.DOTALL)


def extract_program(reply: str, entry_point: str) -> tuple[str, str]:
    """The program in ``reply`` that defines ``entry_point``, and a note on what had to be done to get it.

    Order of search: ``[PYTHON]`` spans and fenced blocks that define a function, else the whole text. Kept are the
    definition of the entry point and the top-level imports, helpers and constants that it uses, before and after it.
    Notes: ``""`` (as it stood), ``"prefix"`` (the longest prefix that parses), ``"renamed"`` (the only function had
    another name), ``"missing"`` (no function of that name; the text is returned as it is).
    """
    blocks = [block for block in TAGS.findall(reply) + FENCE.findall(reply) if "def " in block or "lambda" in block]
    source = next((block for block in blocks if re.search(rf"\b{re.escape(entry_point)}\b", block)), None)
    source = (source if source is not None else blocks[0] if blocks else reply).replace("\r\n", "\n").expandtabs(4)
    tree, notes = _parse(source)
    if tree is None:
        return source.strip("\n"), "missing"
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    if entry_point not in {name for node in tree.body for name in _defines(node)}:
        if len(functions) != 1:
            return source.strip("\n"), "missing"
        tree = _Rename(functions[0].name, entry_point).visit(tree)
        notes.append("renamed")
    return ast.unparse(ast.Module(_needed(tree.body, entry_point), type_ignores=[])), "+".join(notes)


def _parse(source: str) -> tuple[ast.Module | None, list[str]]:
    """The tree of the text, else of its longest prefix of whole lines that parses and defines something."""
    lines = source.split("\n")
    for end in range(len(lines), 0, -1):
        try:
            tree = ast.parse("\n".join(lines[:end]))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        if any(_defines(node) for node in tree.body):
            return tree, [] if end == len(lines) else ["prefix"]
    return None, []


def _defines(node: ast.stmt) -> set[str]:
    """Names that a top-level statement binds."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.If | ast.Try | ast.For | ast.With):
        return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return set()


def _needed(body: list[ast.stmt], entry_point: str) -> list[ast.stmt]:
    """Statements that the entry point reaches by name, in their order; ``from x import *`` always stays."""
    wanted, kept = {entry_point}, set[int]()
    while True:
        new = {i for i, node in enumerate(body) if i not in kept and (_defines(node) & wanted or "*" in _defines(node))}
        if not new:
            return [body[i] for i in sorted(kept)]
        kept |= new
        for i in new:
            wanted |= {n.id for n in ast.walk(body[i]) if isinstance(n, ast.Name)}


class _Rename(ast.NodeTransformer):
    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = old, new

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        node.name = self.new if node.name == self.old else node.name
        return node

    def visit_Name(self, node: ast.Name) -> ast.Name:
        node.id = self.new if node.id == self.old else node.id
        return node
