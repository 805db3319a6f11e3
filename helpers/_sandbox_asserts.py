"""Asserts as questions to a program, and the program's answers judged without trusting them.

``assert call == literal`` is split: the child evaluates the call, ``equal`` compares its encoded value here. Encoded
values are JSON as ``_sandbox_server.encode`` writes it, or whatever a hostile program wrote instead: no function does
more work on them than the size of the report (bounded by the server) or of the expected literal allows.
"""

from __future__ import annotations

import ast
import builtins
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any

MESSAGE_CHARS = 200

_BUILTINS = frozenset(dir(builtins))
_MODULES = frozenset(sys.stdlib_module_names)


@dataclass(frozen=True)
class Question:
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


def _start(node: ast.expr) -> tuple[str, bool]:
    """The name that ``name(...)``, ``name.a[0](...)`` and the like start from, and whether an attribute of it follows.

    The name is empty for other expressions.
    """
    attribute = False
    while not isinstance(node, ast.Name):
        attribute = isinstance(node, ast.Attribute)
        if isinstance(node, ast.Call):
            node = node.func
        elif isinstance(node, (ast.Attribute, ast.Subscript)):
            node = node.value
        else:
            return "", False
    return node.id, attribute


def _candidate(node: ast.expr) -> bool:
    """A value of the program: it starts from a name that is neither a builtin nor ``module.`` of the library."""
    name, attribute = _start(node)
    return bool(name) and name not in _BUILTINS and not (attribute and name in _MODULES)


def _wrapped(node: ast.expr, whole: ast.expr) -> bool:
    """A value of the program, maybe inside builtins of one argument, as in ``sorted(f(x))``: no other data in it.

    If all names in the ``whole`` condition are those of builtins, the program's function has such a name itself.
    """
    inner = node
    while isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name) and inner.func.id in _BUILTINS:
        if len(inner.args) != 1 or inner.keywords:
            break
        inner = inner.args[0]
    if _candidate(inner):
        return True
    is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    return is_call and all(part.id in _BUILTINS for part in ast.walk(whole) if isinstance(part, ast.Name))


class _Extract(ast.NodeTransformer):
    """Replaces the values of the program in an expression by ``_V[0]``, ``_V[1]``, ...

    Only where all of the expression is evaluated exactly once: anything else raises ValueError.
    """

    def __init__(self, source: str) -> None:
        self.source, self.found, self.modules = source, list[str](), set[str]()

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, (ast.Call, ast.Attribute, ast.Subscript, ast.Name)):
            name, attribute = _start(node)
            if attribute and name in _MODULES:
                self.modules.add(name)
            elif name and name not in _BUILTINS | self.modules:
                self.found.append(_segment(self.source, node))
                index = ast.Constant(len(self.found) - 1)
                return ast.Subscript(ast.Name("_V", ast.Load()), index, ast.Load())
        if isinstance(node, (ast.BoolOp, ast.IfExp, ast.Lambda, ast.comprehension, ast.NamedExpr, ast.JoinedStr)):
            raise ValueError("evaluated conditionally, in its own scope or with effects")
        if isinstance(node, ast.Compare) and len(node.ops) > 1:
            raise ValueError("a chain of comparisons stops early")
        return self.generic_visit(node)


def _segment(source: str, node: ast.expr) -> str:
    """The source text of an expression, in parentheses so that it may span lines."""
    if node.lineno == node.end_lineno == 1:
        text = source.encode()[node.col_offset : node.end_col_offset].decode()
    else:
        text = ast.get_source_segment(source, node) or ast.unparse(node)
    return f"({text}\n)"


@lru_cache(maxsize=65536)
def ask(test: str) -> Question:
    """How to put one assert to the child; see ``Question``."""
    plain = Question("plain", rest=test)
    try:
        (statement,) = ast.parse(test).body
        if not isinstance(statement, ast.Assert):
            return plain
        node = statement.test
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _OPERATORS:
            kind = _OPERATORS[type(node.ops[0])]
            for side, other in ((node.left, node.comparators[0]), (node.comparators[0], node.left)):
                if _wrapped(side, node):
                    try:
                        expected = ast.literal_eval(other)
                    except (ValueError, TypeError):
                        continue
                    if kind in ("eq", "ne") or expected is None or isinstance(expected, bool):
                        return Question(kind, (_segment(test, side),), expected)
        if _wrapped(node, node):
            return Question("truth", (_segment(test, node),))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not) and _wrapped(node.operand, node):
            return Question("falsehood", (_segment(test, node.operand),))
        extract = _Extract(test)
        rest = ast.unparse(ast.fix_missing_locations(extract.visit(node)))
        if not extract.found:
            return plain
        imports = "".join(f"import {name}\n" for name in sorted(extract.modules))
        # the program must have the modules that its test names, as if the assert ran in it
        names = tuple(sorted(extract.modules))
        return Question("judge", (*extract.found, *names), rest=f"{imports}assert {rest}", shown=len(extract.found))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return plain


# --------------------------------------------------------------------------------------------------- answers: not trusted


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


def equal(value: Any, expected: Any) -> bool:
    """``decoded value == expected`` for a literal ``expected``, doing no more work than the literal's size allows."""
    kind = type(expected)
    if kind is list:
        return (
            isinstance(value, list)
            and len(value) == len(expected)
            and all(equal(got, want) for got, want in zip(value, expected, strict=True))
        )
    if kind in (tuple, set, frozenset, dict):
        letter = "t" if kind is tuple else "d" if kind is dict else "s"
        if not isinstance(value, dict) or letter not in value:
            return False
        items = value[letter]
        if len(items) != len(expected):
            return False
        if kind is tuple:
            return all(equal(got, want) for got, want in zip(items, expected, strict=True))
        if kind is dict:
            seen = set()
            for key, item in items:
                name = _member(key, expected)
                if name not in expected or not equal(item, expected[name]):
                    return False
                seen.add(name)
            return len(seen) == len(expected)
        return {_member(item, expected) for item in items} == expected
    if isinstance(value, list):
        return False
    return bool(_plain(value) == expected)


def truth(value: Any) -> bool:
    """``bool(decoded value)``; of a value that could not be sent, what the child says."""
    if isinstance(value, dict):
        [(kind, body)] = value.items()
        if kind == "o":
            return bool(body[1])
        return bool(body) if kind in "tsdb" else bool(_plain(value))
    return bool(value)


def show(value: Any, room: int = MESSAGE_CHARS) -> str:
    """The repr of an encoded value, cut to ``room`` characters; elements of sets are sorted."""
    parts: list[str] = []
    _show_into(value, parts, [room + 1])
    return cut("".join(parts), room)


_BRACKETS = {"l": ("[", "]"), "t": ("(", ")"), "s": ("{", "}"), "d": ("{", "}")}


def _show_into(value: Any, parts: list[str], room: list[int]) -> None:
    """Append the repr to ``parts`` until the characters of ``room``, a list of one number, are used up."""

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
    if kind in _BRACKETS:
        opening, closing = _BRACKETS[kind]
        if kind == "s" and not items:
            return put("set()")
        if kind == "s" and len(items) > 1000:
            return put(f"<set of {len(items)} elements>")
        if kind == "s":
            items = sorted(items, key=lambda item: (str(type(item)), show(item, 60)))
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
_FOLDER = re.compile(r"[^'\"\s]*/ppo-sandbox-[0-9a-f]{16}")


def cut(text: str, room: int = MESSAGE_CHARS) -> str:
    """Bounded, without addresses, names of scratch folders or lone surrogates."""
    text = _FOLDER.sub("/tmp", _ADDRESS.sub(" at 0x", text)).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= room else text[: room - 3] + "..."
