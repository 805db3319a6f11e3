"""Lines of code and the statements that they make, whole or not, as a model writes them."""

from __future__ import annotations

import ast
import builtins
import contextlib
import re
import symtable
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

NEWLINE = re.compile(r"\r\n?|\n")
_TOKEN = re.compile(
    r"""(?P<triple>\"{3}|'{3})|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?|(?P<comment>\#.*)|(?P<open>[(\[{])|(?P<close>[)\]}])"""
)
# How a statement may start. Only such a line can open strings and brackets that go on in the next: prose has apostrophes.
CODE_START = re.compile(
    r"""(?:async[ ]+)?def[ ]+\w+[ ]*[(\[] | class[ ]+\w+[ ]*[:(\[] | @\w | from[ ]+[\w.]+[ ]+import\b
    | import[ ]+[\w.]+[ ]*(?:$|[,;\#]|as\b) | (?:async|if|for|while|with|match|try)\b.*[:(\[{,\\]
    | (?:assert|del|global|raise|type|pass)\b | [\w.]+[(\[] | [rbfuRBFU]{0,2}["'] | [(\[{]
    | [\w.,*()\[\]'" ]+?(?::[^=]+)?[-+*/%&|^@<>]{0,3}=(?!=)""",
    re.VERBOSE,
)
_CONTINUES = re.compile(r"(?:else|elif|except|finally)\b")
_NOT_IN_BRACKETS = re.compile(r"(?:def|class|assert|import|print|from [\w.]+ import)\b|@|```")  # one was never closed


@dataclass
class Lexer:
    """What a line leaves open for the next one."""

    quote: str = ""  # a triple quote
    depth: int = 0  # brackets
    joined: bool = False  # a backslash at its end

    @property
    def open(self) -> bool:
        return bool(self.quote or self.depth or self.joined)

    def mask(self, line: str) -> str:
        """``line`` with its strings and comments blanked; carries the state over its end."""
        out, at, bare = [], 0, line.rstrip("\r\n")
        while at < len(bare):
            if self.quote:
                end = re.compile(rf"(?:\\.|(?!{self.quote}).)*{self.quote}", re.DOTALL).match(bare, at)
                stop = end.end() if end else len(bare)
                self.quote = "" if end else self.quote
            else:
                token = _TOKEN.search(bare, at)
                out.append(bare[at : token.start()] if token else bare[at:])
                if token is None:
                    break
                at, stop = token.span()
                if token["open"] or token["close"]:
                    self.depth = max(0, self.depth + (1 if token["open"] else -1))
                    out.append(token[0])
                    at = stop
                    continue
                self.quote = token["triple"] or ""
            out.append(" " * (stop - at))
            at = stop
        masked = "".join(out)
        self.joined = not self.quote and masked.endswith("\\")
        return masked


@dataclass
class Statement:
    """A statement at the top level, or several in one line, with the comments above it; or a line of prose."""

    text: str
    start: int  # its place in the reply
    head: str  # its first line that is no comment

    def __post_init__(self) -> None:
        self.is_code = bool(CODE_START.match(self.head))
        self.tree = parse(self.text)  # None if it does not compile
        self.names: set[str] = set()  # that it binds or changes
        self.is_stub = False
        if self.tree is not None:
            self.names = set().union(*map(binds, self.tree.body))
            self.is_stub = all(map(_is_stub, self.tree.body))
        elif self.is_code and (named := re.match(r"(?:(?:async +)?def|class) +(\w+)", self.head)):
            self.names = {named[1]}

    @cached_property
    def uses(self) -> set[str]:
        """Names that it takes from the module; a function's own variables are not among them."""
        return _uses(self.text) if self.tree else set()

    @property
    def is_program(self) -> bool:
        """Something that a program says, in text without fences: more than a name, a number or a sum."""
        if self.tree is None or not self.is_code:
            return bool(self.names)
        values = [node.value for node in self.tree.body if isinstance(node, ast.Expr)]
        return len(values) < len(self.tree.body) or any(isinstance(value, ast.Call) for value in values)


class Code:
    """Statements, as their lines arrive."""

    def __init__(self) -> None:
        self.statements: list[Statement] = []
        self.lexer = Lexer()
        self._lines: list[str] = []  # of the statement under way
        self._comments: list[str] = []  # at column 0: of the statement under way if that goes on, else of the next
        self._start = self._comments_start = 0
        self._head = ""

    def starts(self, line: str) -> bool:
        """Does ``line`` start a statement, or belong to the one under way?"""
        if self.lexer.quote or self.lexer.joined or not line.strip() or line[0] in " \t":
            return not self._lines
        if self.lexer.depth:
            return bool(_NOT_IN_BRACKETS.match(line))
        return not (_CONTINUES.match(line) or self._head.startswith("@")) or not self._lines

    def is_code(self, line: str) -> bool:
        """Are strings and brackets of ``line`` those of a program?"""
        return bool(CODE_START.match(line.rstrip("\r\n") if self.starts(line) else self._head))

    def add(self, line: str, start: int) -> None:
        line = NEWLINE.sub("\n", line)
        comment = line.startswith("#") and not self.lexer.open
        if comment or (self._comments and not line.strip()):
            self._comments_start = self._comments_start if self._comments else start
            self._comments.append(line)
            return
        if self.starts(line):
            self.close()
            self._start = self._comments_start if self._comments else start
            self._head = line
        elif self._head.startswith("@") and line.strip() and line[0] not in " \t" and not self.lexer.open:
            self._head = line
        self._lines += [*self._comments, line]
        self._comments = []
        if CODE_START.match(self._head):
            self.lexer.mask(line)

    def close(self) -> None:
        """The statement under way is over."""
        if any(map(str.strip, self._lines)):
            self.statements.append(Statement("".join(self._lines), self._start, self._head))
        self._lines, self._head, self.lexer = [], "", Lexer()

    def copy(self, rest: str = "") -> Code:
        """These statements as if they ended here, or after the line ``rest``."""
        other = Code()
        other.statements = list(self.statements)
        other._lines, other._start, other._head = [*self._lines], self._start, self._head
        if rest:
            other.lexer = replace(self.lexer)
            other.add(rest, 0)
        other.close()
        return other

    def without_prose(self) -> Code:
        """What a program says. "assert that" parses, but its name is nowhere."""
        other = Code()
        for statement in self.statements:
            known = _BUILTINS.union(*other.names)
            if statement.is_program and (statement.names or statement.uses <= known or "*" in known):
                other.statements.append(statement)
        return other

    def defines(self, entry_point: str) -> bool:
        """Is there a definition of ``entry_point`` (of any function, if it is "") with more to it than its name?"""
        return any(
            entry_point in statement.names if entry_point else functions_of(statement)
            for statement in self.statements
            if not statement.is_stub
        )

    @property
    def names(self) -> list[set[str]]:
        """What each statement binds or changes."""
        return [statement.names for statement in self.statements]

    def lacks(self) -> set[str]:
        """Names that are used and defined nowhere."""
        known = _BUILTINS.union(*self.names)
        return set() if "*" in known else set().union(*(statement.uses for statement in self.statements)) - known

    def is_complete(self, entry_point: str) -> bool:
        """Does it define the entry point and all that is used? A module that is not imported by now will not be."""
        return self.defines(entry_point) and self.lacks() <= _MODULES


def code_of(source: str) -> Code:
    code = Code()
    for line in re.findall(r"[^\n]*\n|[^\n]+$", source):
        code.add(line, 0)
    code.close()
    return code


_BUILTINS = frozenset(dir(builtins)) | {"__name__", "__file__"}
_MODULES = sys.stdlib_module_names | {"np", "numpy", "pd", "pandas"}


def parse(text: str) -> ast.Module | None:
    """The syntax tree; None for what is no Python or does not stand at the top level."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escape sequences in generated code
        try:
            tree = ast.parse(text)
            if not all(isinstance(node, DEFINITIONS) for node in tree.body):  # an error inside one is the program's
                compile(text, "<reply>", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
    return tree


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (*FUNCTIONS, ast.ClassDef)


def functions_of(statement: Statement) -> list[str]:
    """Names of the functions that it defines."""
    return [node.name for node in statement.tree.body if isinstance(node, FUNCTIONS)] if statement.tree else []


def _is_stub(node: ast.stmt) -> bool:
    """A function with nothing but ``...``, ``pass`` or a docstring: a signature, shown before the program."""
    return isinstance(node, FUNCTIONS) and all(
        isinstance(part, ast.Pass) or (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
        for part in node.body
    )


def base_name(node: ast.expr) -> str:
    """The name that an attribute or an item is reached from: ``table`` of ``table.rows[0]``."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def binds(node: ast.stmt) -> set[str]:
    """Names that a top-level statement binds or changes; ``*`` for an import of everything."""
    if isinstance(node, DEFINITIONS):
        return {node.name}
    names: set[str] = set()
    for child in executed(node):
        if isinstance(child, DEFINITIONS):
            names.add(child.name)
        elif isinstance(child, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in child.names}
        elif isinstance(child, ast.Name | ast.Attribute | ast.Subscript) and not isinstance(child.ctx, ast.Load):
            names.add(base_name(child))
        elif isinstance(child, ast.Expr) and isinstance(child.value, ast.Call):
            called = child.value.func
            names.add(base_name(called) if isinstance(called, ast.Attribute) else "")  # table.append(0)
        elif isinstance(child, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and child.name:
            names.add(child.name)
    return names - {""}


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """The node and what in it runs when it runs: not the bodies of functions. However deep it is."""
    nodes = [node]
    while nodes:
        node = nodes.pop()
        yield node
        body = node.body if isinstance(node, (*FUNCTIONS, ast.Lambda)) else []
        later = body if isinstance(body, list) else [body]
        nodes += [child for child in ast.iter_child_nodes(node) if child not in later]


def _uses(text: str) -> set[str]:
    names, tables = set[str](), list[symtable.SymbolTable]()
    with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        tables.append(symtable.symtable(text, "<reply>", "exec"))
    while tables:
        table = tables.pop()
        names |= {s.get_name() for s in table.get_symbols() if s.is_global() and s.is_referenced()}
        tables += table.get_children()
    return names
