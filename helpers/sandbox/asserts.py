"""Asserts as questions to a program, and the program's answers judged without trusting them.

``assert call == literal`` is split: the child evaluates the call, ``equal`` compares its encoded value here. Encoded
values are JSON as ``values.encode`` writes it, or whatever a hostile program wrote instead: no function does
more work on them than the size of the report (bounded by the server) or of the expected literal allows.
"""

from __future__ import annotations

import ast
import builtins
import re
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .values import ITERATOR_ITEMS, scalar

MESSAGE_CHARS = 200

_BUILTINS = frozenset(dir(builtins))
_MODULES = frozenset(sys.stdlib_module_names)


@dataclass(frozen=True)
class Question:
    """What the child evaluates for one assert and how its answer is judged.

    ``kind`` is the comparison of the one value of ``ask`` with ``expected`` (eq, ne, is, is_not), truth or falsehood
    of it, ``judge`` (``rest`` is an assert over ``_V``, the values, for a clean child) or ``plain`` (``rest`` is the
    statement itself). For ``judge``, ``take`` is how many items of each value to send if it is an iterator, and
    ``here`` says that ``rest`` holds nothing that the child does not know, so that it may judge where the value is:
    if nothing of the values numbered in ``own`` can be sent whole. ``told``: a function or value of the setup stands
    where a value of the program does, so the child may learn from it what is expected.
    """

    kind: str
    ask: tuple[str, ...] = ()
    expected: Any = None
    rest: str = ""
    take: tuple[int, ...] = (1,)
    here: bool = False
    own: tuple[int, ...] = ()
    told: bool = False

    @property
    def wire(self) -> str | tuple[str, ...] | dict[str, Any]:
        if self.kind == "plain":
            return self.rest
        if self.kind in _COMPARISONS:
            return self.ask
        truth = self.kind != "judge"
        here = self.rest if self.here else ""
        return {"ask": self.ask, "take": self.take, "truth": truth, "here": here, "own": self.own}


_OPERATORS = {ast.Eq: "eq", ast.NotEq: "ne", ast.Is: "is", ast.IsNot: "is_not"}
_COMPARISONS = frozenset(_OPERATORS.values())
_TAKES_FUNCTION = frozenset(
    [
        "map",
        "filter",
        "functools.reduce",
        "functools.partial",
        "itertools.starmap",
        "itertools.accumulate",
        "itertools.takewhile",
        "itertools.dropwhile",
        "itertools.filterfalse",
        "itertools.groupby",
    ]
)
_HAS_KEY = frozenset(["sorted", "min", "max", "heapq.nlargest", "heapq.nsmallest", "itertools.groupby"])


def _parse(code: str) -> ast.Module:
    if "\\" not in code:
        return ast.parse(code)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escape sequences in the asserts of data sets
        return ast.parse(code)


class _Names:
    """Which expressions are values of the program.

    ``setup`` runs after the program and before the asserts. Names that it assigns are not the library's even if a builtin
    or a module has them; those that it imports are, under whatever name.
    """

    def __init__(self, setup: str) -> None:
        try:
            body = _parse(setup).body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            body = []
        nodes = [node for statement in body for node in ast.walk(statement)]
        names = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        self.own = names | {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        self.imports: dict[str, str] = {}  # by name, the line that imports it from the library,
        self.paths: dict[str, str] = {}  # what it is called there,
        self.whole = set[str]()  # and whether it is a module
        for statement in body:
            self.imported(statement)
        self.builtins, self.modules = _BUILTINS - self.own, _MODULES - self.own

    def imported(self, statement: ast.stmt) -> None:
        module = (statement.module or "") if isinstance(statement, ast.ImportFrom) and not statement.level else ""
        for alias in statement.names if isinstance(statement, (ast.Import, ast.ImportFrom)) else ():
            path, name = f"{module}.{alias.name}".lstrip("."), alias.asname or alias.name
            if path.partition(".")[0] in _MODULES and name.isidentifier() and name not in self.own:
                line = f"from {module} import {alias.name} as {name}" if module else f"import {path} as {name}"
                self.imports[name], self.paths[name] = line, path
                if not module:
                    self.whole.add(name)

    def library(self, name: str, attribute: bool) -> bool:
        """Whether ``name``, followed by an attribute or not, is of the library; a module alone is a value like others."""
        if name in self.imports and name not in self.whole:
            return True
        return attribute and (name in self.imports or name in self.modules)

    def path(self, node: ast.expr) -> str:
        """What a function of the library is called there; "" if it is none of a name."""
        name = ast.unparse(node) if isinstance(node, (ast.Name, ast.Attribute)) else ""
        first, dot, rest = name.partition(".")
        return self.paths.get(first, first) + dot + rest

    def start(self, node: ast.expr) -> tuple[str, bool]:
        """The name that ``name(...)``, ``name.a[0](...)`` and the like start from, and whether an attribute follows.

        That of ``map(f, ...)`` and the like is ``f``. The name is empty for other expressions.
        """
        attribute = False
        while not isinstance(node, ast.Name):
            attribute = isinstance(node, ast.Attribute)
            if isinstance(node, ast.Call):
                if function := self.function_in(node):
                    return function, False
                node = node.func
            elif isinstance(node, (ast.Attribute, ast.Subscript)):
                node = node.value
            else:
                return "", False
        return node.id, attribute

    def function_in(self, node: ast.Call) -> str:
        """The program's function that a call of the library is to call: it cannot be sent."""
        name = self.path(node.func)
        given = [word.value for word in node.keywords if word.arg == "key"] if name in _HAS_KEY else []
        given += node.args if name in _TAKES_FUNCTION else []
        for argument in given:
            if isinstance(argument, (ast.Name, ast.Attribute)) and self.candidate(argument):
                return self.start(argument)[0]
        return ""

    def candidate(self, node: ast.expr) -> bool:
        """A value of the program: it starts from a name that is neither a builtin nor ``module.`` of the library."""
        name, attribute = self.start(node)
        return bool(name) and name not in self.builtins and not self.library(name, attribute)

    def inside(self, node: ast.expr) -> ast.expr:
        """What is inside builtins of one argument: ``f(x)`` of ``sorted(f(x))``."""
        while isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in self.builtins:
            if len(node.args) != 1 or node.keywords or self.candidate(node):
                break
            node = node.args[0]
        return node

    def told(self, node: ast.expr) -> bool:
        """Whether a value of the program is really one of the setup, of whose arguments or content nothing is known."""
        return self.start(self.inside(node))[0] in self.own

    def wrapped(self, node: ast.expr, whole: ast.expr) -> bool:
        """A value of the program, maybe inside builtins of one argument, as in ``sorted(f(x))``: no other data in it.

        If all names in the ``whole`` condition are those of builtins, the program's function has such a name itself.
        """
        if self.candidate(self.inside(node)):
            return True
        is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        return is_call and all(part.id in self.builtins for part in ast.walk(whole) if isinstance(part, ast.Name))


class _Extract(ast.NodeTransformer):
    """Replaces the values of the program in an expression by ``_V[0]``, ``_V[1]``, ...

    Only where all of the expression is evaluated exactly once: anything else raises ValueError.
    """

    def __init__(self, source: str, names: _Names) -> None:
        self.source, self.names, self.found, self.library = source, names, list[str](), set[str]()
        self.take: dict[int, int] = {}
        self.told = False

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, (ast.Call, ast.Attribute, ast.Subscript, ast.Name)):
            name, attribute = self.names.start(node)
            if self.names.library(name, attribute):
                self.library.add(name)
            elif name and name not in self.names.builtins | self.library:
                self.found.append(_segment(self.source, node))
                self.told |= name in self.names.own
                index = ast.Constant(len(self.found) - 1)
                return ast.Subscript(ast.Name("_V", ast.Load()), index, ast.Load())
            if isinstance(node, ast.Call) and node.args and self.names.candidate(node.args[0]):
                self.take[len(self.found)] = _taken(node, self.names.path(node.func))
        if isinstance(node, (ast.BoolOp, ast.IfExp, ast.Lambda, ast.comprehension, ast.NamedExpr, ast.JoinedStr)):
            raise ValueError("evaluated conditionally, in its own scope or with effects")
        if isinstance(node, ast.Compare) and len(node.ops) > 1:
            raise ValueError("a chain of comparisons stops early")
        return self.generic_visit(node)


def _taken(node: ast.Call, name: str) -> int:
    """How many items a call of the function ``name`` takes from its first argument if that is an iterator."""
    if name == "next":
        return 1
    stops = [stop.value for stop in node.args[1:3] if isinstance(stop, ast.Constant) and type(stop.value) is int]
    if name == "itertools.islice" and len(stops) == len(node.args[1:3]):
        return min(max(stops[-1], 0), ITERATOR_ITEMS)
    return ITERATOR_ITEMS


def _known(node: ast.expr) -> tuple[int, ...]:
    """Numbers of the values in a condition over ``_V`` that may be judged in the child; empty if it may not.

    It may if there is nothing else in the condition: no constant, no name of the library, no empty container, for any
    of these may be what is expected. The attribute's name in ``hasattr`` and a builtin class beside one of the
    program's in ``isinstance`` are not. Where the value decides that a program's object is asked, as the class in
    ``isinstance`` and the container in ``in`` do, that one alone must be of the program; otherwise all must.
    """

    def values(part: ast.AST) -> tuple[int, ...]:
        inner = (item for item in ast.walk(part) if isinstance(item, ast.Subscript))
        return tuple(item.slice.value for item in inner)  # type: ignore[attr-defined]

    def only_values(part: ast.AST) -> bool:
        if isinstance(part, ast.Subscript):
            return isinstance(part.value, ast.Name) and part.value.id == "_V"
        if isinstance(part, ast.Call):
            return isinstance(part.func, ast.Name) and bool(part.args) and all(map(only_values, arguments(part)))
        if isinstance(part, ast.Dict):
            return (
                bool(part.values)
                and all(key is None or only_values(key) for key in part.keys)
                and all(map(only_values, part.values))
            )
        inner = [item for item in ast.iter_child_nodes(part) if isinstance(item, ast.expr)]
        return bool(inner) and not isinstance(part, (ast.Name, ast.Attribute)) and all(map(only_values, inner))

    def arguments(call: ast.Call) -> list[ast.expr]:
        name = call.func.id  # type: ignore[attr-defined]
        given = [*call.args, *(word.value for word in call.keywords)]
        if name == "hasattr":
            return given[:1]
        if name in ("isinstance", "issubclass") and len(given) == 2 and values(given[1]):
            classes = given[1].elts if isinstance(given[1], ast.Tuple) else [given[1]]
            return [given[0], *(item for item in classes if not isinstance(item, ast.Name))]
        return given

    while isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        node = node.operand
    if not only_values(node):
        return ()
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
        return values(node.args[-1]) if len(node.args) == 2 and _is_class_test(node) else ()
    container = node.comparators[0] if isinstance(node, ast.Compare) else node
    if isinstance(container, ast.Subscript) and isinstance(node, ast.Compare) and isinstance(node.ops[0], _MEMBERSHIP):
        return values(container)
    return values(node)


_MEMBERSHIP = (ast.In, ast.NotIn)


def _is_class_test(node: ast.Call) -> bool:
    return any(isinstance(part, ast.Subscript) for part in ast.walk(node.args[1]))


def _segment(source: str, node: ast.expr) -> str:
    """The source text of an expression, in parentheses so that it may span lines."""
    if node.lineno == node.end_lineno == 1:
        text = source.encode()[node.col_offset : node.end_col_offset].decode()
    else:
        text = ast.get_source_segment(source, node) or ast.unparse(node)
    return f"({text}\n)"


@lru_cache(maxsize=4096)
def _names(setup: str) -> _Names:
    return _Names(setup)


@lru_cache(maxsize=65536)
def ask(test: str, setup: str = "") -> Question:
    """How to put one assert to the child; see ``Question``. ``setup`` is the code that runs before it."""
    names = _names(setup)
    try:
        (statement,) = _parse(test).body
        if not isinstance(statement, ast.Assert):
            return Question("plain", rest=test)
        node = statement.test
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _OPERATORS:
            kind = _OPERATORS[type(node.ops[0])]
            for side, other in ((node.left, node.comparators[0]), (node.comparators[0], node.left)):
                if names.wrapped(side, node):
                    try:
                        expected = ast.literal_eval(other)
                    except (ValueError, TypeError):
                        continue
                    if kind in ("eq", "ne") or expected is None or isinstance(expected, bool):
                        return Question(kind, (_segment(test, side),), expected, told=names.told(side))
        if names.wrapped(node, node):
            return Question("truth", (_segment(test, node),), told=names.told(node))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not) and names.wrapped(node.operand, node):
            return Question("falsehood", (_segment(test, node.operand),), told=names.told(node.operand))
        extract = _Extract(test, names)
        condition = ast.fix_missing_locations(extract.visit(node))
        count = len(extract.found)
        if not count:
            return Question("plain", rest=test)
        library = sorted(extract.library)
        imports = "".join(f"{names.imports.get(name, f'import {name}')}\n" for name in library)
        return Question(
            "judge",
            (*extract.found, *library),  # the program must have what its test names, as if the assert ran in it
            rest=f"{imports}assert {ast.unparse(condition)}",
            take=tuple(extract.take.get(number, ITERATOR_ITEMS) for number in range(count)),
            here=bool(known := _known(condition)),
            own=known,
            told=extract.told,
        )
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Question("plain", rest=test)


# --------------------------------------------------------------------------------------------------- answers: not trusted


def _unwrap(value: Any) -> Any:
    """Of an instance of a subclass its content: as what it is compared with literals."""
    while isinstance(value, dict) and "u" in value:
        value = value["u"][2]
    return value


def _plain(value: Any) -> Any:
    """A number, string, bytes or None out of an encoded value, or an object equal to nothing."""
    if not isinstance(value, dict):
        return value
    [(kind, body)] = value.items()
    return scalar(kind, body)


def _member(value: Any, like: Iterable[Any]) -> Any:
    """An element of a set or key of a dict as a hashable value; containers only if ``like`` has such elements."""
    value = _unwrap(value)
    if isinstance(value, dict) and len(value) == 1:
        [(kind, body)] = value.items()
        if kind in _ELEMENTS and any(isinstance(item, (tuple, frozenset)) and len(item) == len(body) for item in like):
            inner = [part for item in like if isinstance(item, (tuple, frozenset)) for part in item]
            items = [_member(item, inner) for item in body]
            return tuple(items) if kind == "t" else frozenset(items)
    return object() if isinstance(value, list) else _plain(value)


_ELEMENTS = ("t", "s", "z")
_LETTERS: dict[type, tuple[str, ...]] = {tuple: ("t",), set: ("s", "z"), frozenset: ("s", "z"), dict: ("d",)}


def equal(value: Any, expected: Any) -> bool:
    """``decoded value == expected`` for a literal ``expected``, doing no more work than the literal's size allows."""
    value = _unwrap(value)
    kind = type(expected)
    if kind is list:
        return (
            isinstance(value, list)
            and len(value) == len(expected)
            and all(equal(got, want) for got, want in zip(value, expected, strict=True))
        )
    if kind in _LETTERS:
        letter = next((letter for letter in _LETTERS[kind] if isinstance(value, dict) and letter in value), "")
        if not letter or not isinstance(value, dict):
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


def truth(value: Any) -> bool | None:
    """``bool(decoded value)``; of a value that has a method for it, what the child says: None if that raises."""
    if isinstance(value, dict):
        [(kind, body)] = value.items()
        if kind in ("o", "u", "k"):
            answer = body[1 if kind == "o" else -1]
            return answer if answer is None else bool(answer)
        if kind in ("n", "q", "r"):
            return True
        return bool(body) if kind in "tszdb" else bool(_plain(value))
    return bool(value)


def own_object(value: Any) -> bool:
    """Whether there is an object in an encoded value that cannot be sent."""
    if isinstance(value, dict):
        return "o" in value or any(map(own_object, value.values()))
    return isinstance(value, list) and any(map(own_object, value))


def show(value: Any, room: int = MESSAGE_CHARS) -> str:
    """The repr of an encoded value, cut to ``room`` characters; elements of sets are sorted."""
    parts: list[str] = []
    _show_into(value, parts, [room + 1])
    return cut("".join(parts), room)


_BRACKETS = {"l": ("[", "]"), "t": ("(", ")"), "s": ("{", "}"), "z": ("{", "}"), "d": ("{", "}")}


def _show_into(value: Any, parts: list[str], room: list[int]) -> None:
    """Append the repr to ``parts`` until the characters of ``room``, a list of one number, are used up."""

    def put(text: str) -> None:
        parts.append(text)
        room[0] -= len(text)

    if room[0] <= 0:
        return
    value = _unwrap(value)
    kind: str = "l" if isinstance(value, list) else ""
    items: Any = value
    if isinstance(value, dict):
        kind = next(iter(value))
        items = value[kind]
    if kind in _BRACKETS:
        opening, closing = _BRACKETS[kind]
        if kind in ("s", "z") and not items:
            return put("set()")
        if kind in ("s", "z") and len(items) > 1000:
            return put(f"<set of {len(items)} elements>")
        if kind in ("s", "z"):
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
    elif kind == "k":
        put(items[0].removeprefix("builtins."))
        _show_into({"t": items[1]}, parts, room)
    elif kind == "n" or kind == "q":
        put("<coroutine object>" if kind == "q" else f"<{items[1] if len(items) > 1 else 'iterator'} object>")
    elif kind == "r":
        put(items)
    elif kind == "a" or kind == "N":
        put("nan" if kind == "N" else "<the same>")
    elif kind == "i" and len(items) > 300:
        put(f"<int of {4 * len(items)} bits>")
    elif isinstance(value, str):
        put(repr(_tidy(value[: 20 * room[0] + 20])[: room[0] + 1]))
    elif kind == "b":
        put(repr(bytes.fromhex(items[: 2 * room[0] + 2])))
    elif kind == "D":
        put(f"Decimal({items[: room[0]]!r})")
    else:
        put(repr(_plain(value))[: room[0] + 1])


_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
# Where this installation is: the longer first, for one may hold another.
_PLACES = sorted(
    {
        (str(Path(__file__).parent), "/usr/lib/sandbox"),
        (sys.executable, "/usr/bin/python3"),
        (sys.prefix, "/usr"),
        (sys.base_prefix, "/usr"),
        (sys.exec_prefix, "/usr"),
    },
    key=lambda place: -len(place[0]),
)


def _tidy(text: str) -> str:
    """Without addresses and places of this installation."""
    for place, name in _PLACES:
        if len(place) > 1:
            text = text.replace(place, name)
    return _ADDRESS.sub(" at 0x", text)


def cut(text: str, room: int = MESSAGE_CHARS) -> str:
    """Bounded, the same wherever this runs, and without lone surrogates."""
    text = _tidy(text).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= room else text[: room - 3] + "..."
