"""From a model's reply to a program: find the code, keep what the entry point needs."""

from __future__ import annotations

import ast
import contextlib
import re
import symtable
import textwrap
import warnings

FENCE = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)
TAGS = re.compile(r"\[PYTHON\](.*?)(?:\[/PYTHON\]|\Z)", re.DOTALL)
CODE_LINE = re.compile(r"^(?:async def|def|class|import|from|@)\b", re.MULTILINE)
INDENT = re.compile(r"^[ \t]+", re.MULTILINE)


def extract_program(reply: str, entry_point: str) -> tuple[str, str]:
    """The program in ``reply`` that defines ``entry_point``, and a note on what had to be done to get it.

    Order of search: the fenced block or ``[PYTHON]`` span that defines the entry point, the first that defines a
    function, the whole text, the text from its first line of code. Kept are the definition of the entry point, the
    top-level imports, helpers and constants that it uses, before and after it, and classes (asserts may build their
    arguments with them). Notes: ``""`` (as it stood), ``"prefix"`` (the longest prefix that parses), ``"renamed"``
    (the only function had another name and is given this one too), ``"missing"`` (no function of that name; the text
    is returned as it is).
    """
    source = _block(reply.replace("\r\n", "\n"), entry_point)
    text, whole = _parsing(source, entry_point)
    if text is None:
        return source.strip("\n"), "missing"
    notes = [] if whole else ["prefix"]
    body = _tree(text).body
    if not any(entry_point in _defines(node) for node in body):
        functions = [node.name for node in body if isinstance(node, ast.FunctionDef)]
        if len(functions) != 1:
            return source.strip("\n"), "missing"
        text += f"\n{entry_point} = {functions[0]}"
        notes.append("renamed")
    try:
        program = ast.unparse(ast.Module(_needed(_tree(text).body, entry_point), type_ignores=[]))
    except (SyntaxError, RecursionError):  # parses, but does not compile, or is nested too deeply to be taken apart
        program = text.strip("\n")
    return program, "+".join(notes)


def sides(test: str) -> tuple[str, str]:
    """Both sides of ``assert call == expected`` as text; of any other assert the whole condition and ``""``."""
    statement = ast.parse(test).body[0]
    if not isinstance(statement, ast.Assert):
        raise ValueError(f"not an assert: {test}")
    condition = statement.test
    if isinstance(condition, ast.Compare) and len(condition.ops) == 1 and isinstance(condition.ops[0], ast.Eq):
        left, right = (ast.get_source_segment(test, side) or "" for side in (condition.left, condition.comparators[0]))
        return left, right
    return ast.get_source_segment(test, condition) or "", ""


def extract_tests(reply: str, entry_point: str) -> list[str]:
    """The lines of a reply that are ``assert entry_point(literals) == literal``, as ``ast`` writes them.

    Of several for one call the first.
    """
    found: dict[str, str] = {}
    for line in reply.splitlines():
        with contextlib.suppress(SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
            match _tree(line.strip()).body:
                case [ast.Assert(ast.Compare(ast.Call(ast.Name(name)) as call, [ast.Eq()], [expected]) as test)]:
                    for node in (*call.args, *(keyword.value for keyword in call.keywords), expected):
                        ast.literal_eval(node)  # {[]} is a TypeError
                    if name == entry_point and all(keyword.arg for keyword in call.keywords):  # no **
                        found.setdefault(ast.unparse(call), ast.unparse(ast.Assert(test)))  # without a message
    return list(found.values())


def _tree(text: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escape sequences in generated code
        return ast.parse(text)


def _block(reply: str, entry_point: str) -> str:
    """The part of the reply that is marked as code and defines the entry point or some function, else all of it."""
    spans = TAGS.findall(reply)
    blocks = [block for span in spans or [reply] for block in FENCE.findall(span) or (spans and [span])]
    blocks = [block for block in blocks if "def " in block or "lambda" in block]
    defines = re.compile(rf"\bdef\s+{re.escape(entry_point)}\b|^\s*{re.escape(entry_point)}\s*=", re.MULTILINE)
    return next((block for block in blocks if defines.search(block)), blocks[0] if blocks else reply)


def _parsing(source: str, entry_point: str) -> tuple[str | None, bool]:
    """The source, else its longest prefix of whole lines, that parses and defines a function; and if it is whole."""
    tidy = textwrap.dedent(INDENT.sub(lambda margin: margin[0].expandtabs(4), source))
    code = CODE_LINE.search(tidy)
    for whole in (source, tidy, tidy[code.start() :] if code else ""):
        lines = whole.split("\n")
        for end in range(len(lines), 0, -1) if whole is not source else [len(lines)]:
            text = "\n".join(lines[:end])
            try:
                body = _tree(text).body
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                continue
            if any(isinstance(node, ast.FunctionDef) or entry_point in _defines(node) for node in body):
                return text, text == whole
    return None, False


def _base(node: ast.expr) -> str:
    """The name that an attribute or an item is reached from: ``table`` of ``table.rows[0]``."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _defines(node: ast.stmt) -> set[str]:
    """Names that a top-level statement binds or changes; ``*`` for an import that always stays."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.ImportFrom) and node.module == "__future__":
        return {"*"}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    names = set()
    for child in ast.walk(node):
        if isinstance(child, ast.Name | ast.Attribute | ast.Subscript) and isinstance(child.ctx, ast.Store):
            names.add(_base(child))
        elif isinstance(child, ast.Expr) and isinstance(child.value, ast.Call):
            names.add(_base(child.value.func) if isinstance(child.value.func, ast.Attribute) else "")  # table.append(0)
    return names


def _uses(node: ast.stmt) -> set[str]:
    """Names that a top-level statement takes from the module; a function's own variables are not among them."""
    names, tables = set[str](), [symtable.symtable(ast.unparse(node), "<program>", "exec")]
    while tables:
        table = tables.pop()
        names |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
        tables += table.get_children()
    return names


def _needed(body: list[ast.stmt], entry_point: str) -> list[ast.stmt]:
    """Statements that the entry point and the classes reach by name, in their order."""
    wanted, kept = {entry_point, "*"}, {i for i, node in enumerate(body) if isinstance(node, ast.ClassDef)}
    new = set(kept)
    while True:
        wanted |= {name for i in new for name in _uses(body[i])}
        new = {i for i, node in enumerate(body) if i not in kept and _defines(node) & wanted}
        if not new:
            return [body[i] for i in sorted(kept)]
        kept |= new
