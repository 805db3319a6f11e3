"""From a model's reply to a program: one reader, while the reply is written (stop rules) and when it is there.

``Reader`` takes a reply piece by piece, keeps its code apart from prose, drafts and fences, and knows where the program
has ended. A stop rule asks it for that place alone; ``extract_program`` lets it read the whole reply, and then takes
what it kept. So cutting a reply while it streams and extracting then gives what extracting from all of it gives.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import re
import symtable
import sys
import textwrap
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

RULES = ("none", "line", "function")

# --------------------------------------------------------------------------------------------------------- lines of code

_NEWLINE = re.compile(r"\r\n?|\n")
_DEF = re.compile(r"(?:async[ \t]+)?def[ \t]+(\w+)")
_TOKEN = re.compile(
    r"""(?P<triple>\"{3}|'{3})|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?|(?P<comment>\#.*)|(?P<open>[(\[{])|(?P<close>[)\]}])"""
)
# How a statement may start. Only such a line can open strings and brackets that go on in the next: prose has apostrophes.
_CODE_START = re.compile(
    r"""(?:async[ ]+)?def[ ]+\w+[ ]*[(\[] | class[ ]+\w+[ ]*[:(\[] | @\w | from[ ]+[\w.]+[ ]+import\b
    | import[ ]+[\w.]+[ ]*(?:$|[,;\#]|as\b) | (?:async|if|for|while|with|match|try)\b.*[:(\[{,\\]
    | (?:assert|del|global|raise|type|pass)\b | [\w.]+[(\[] | [rbfuRBFU]{0,2}["'] | [(\[{]
    | [\w.,*()\[\]'" ]+?(?::[^=]+)?[-+*/%&|^@<>]{0,3}=(?!=)""",
    re.VERBOSE,
)
_CONTINUES = re.compile(r"(?:else|elif|except|finally)\b")
_NOT_IN_BRACKETS = re.compile(r"(?:def|class|assert|import|print|from [\w.]+ import)\b|@|```")  # one was never closed


@dataclass
class _Lexer:
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
class _Statement:
    """A statement at the top level, or several in one line, with the comments above it; or a line of prose."""

    text: str
    start: int  # its place in the reply
    head: str  # its first line that is no comment

    def __post_init__(self) -> None:
        self.is_code = bool(_CODE_START.match(self.head))
        self.tree = _tree(self.text)  # None if it does not compile
        self.names: set[str] = set()  # that it binds or changes
        self.is_stub = False
        if self.tree is not None:
            self.names = set().union(*map(_binds, self.tree.body))
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


class _Code:
    """Statements, as their lines arrive."""

    def __init__(self) -> None:
        self.statements: list[_Statement] = []
        self.lexer = _Lexer()
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
        return bool(_CODE_START.match(line.rstrip("\r\n") if self.starts(line) else self._head))

    def add(self, line: str, start: int) -> None:
        line = _NEWLINE.sub("\n", line)
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
        if _CODE_START.match(self._head):
            self.lexer.mask(line)

    def close(self) -> None:
        """The statement under way is over."""
        if any(map(str.strip, self._lines)):
            self.statements.append(_Statement("".join(self._lines), self._start, self._head))
        self._lines, self._head, self.lexer = [], "", _Lexer()

    def copy(self, rest: str = "") -> _Code:
        """These statements as if they ended here, or after the line ``rest``."""
        other = _Code()
        other.statements = list(self.statements)
        other._lines, other._start, other._head = [*self._lines], self._start, self._head
        if rest:
            other.lexer = _Lexer(**vars(self.lexer))
            other.add(rest, 0)
        other.close()
        return other

    def without_prose(self) -> _Code:
        """What a program says. "assert that" parses, but its name is nowhere."""
        other = _Code()
        for statement in self.statements:
            known = _BUILTINS.union(*other.names)
            if statement.is_program and (statement.names or statement.uses <= known or "*" in known):
                other.statements.append(statement)
        return other

    def defines(self, entry_point: str) -> bool:
        """Is there a definition of ``entry_point`` (of any function, if it is "") with more to it than its name?"""
        return any(
            entry_point in statement.names if entry_point else _functions(statement)
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


_BUILTINS = frozenset(dir(builtins)) | {"__name__", "__file__"}
_MODULES = sys.stdlib_module_names | {"np", "numpy", "pd", "pandas"}


def _tree(text: str) -> ast.Module | None:
    """The syntax tree; None for what is no Python or does not stand at the top level."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escape sequences in generated code
        try:
            tree = ast.parse(text)
            if not all(isinstance(node, _DEFINITIONS) for node in tree.body):  # an error inside one is the program's
                compile(text, "<reply>", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
    return tree


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (*_FUNCTIONS, ast.ClassDef)


def _functions(statement: _Statement) -> list[str]:
    """Names of the functions that it defines."""
    return [node.name for node in statement.tree.body if isinstance(node, _FUNCTIONS)] if statement.tree else []


def _is_stub(node: ast.stmt) -> bool:
    """A function with nothing but ``...``, ``pass`` or a docstring: a signature, shown before the program."""
    return isinstance(node, _FUNCTIONS) and all(
        isinstance(part, ast.Pass) or (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
        for part in node.body
    )


def _base(node: ast.expr) -> str:
    """The name that an attribute or an item is reached from: ``table`` of ``table.rows[0]``."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _binds(node: ast.stmt) -> set[str]:
    """Names that a top-level statement binds or changes; ``*`` for an import of everything."""
    if isinstance(node, _DEFINITIONS):
        return {node.name}
    names: set[str] = set()
    for child in _executed(node):
        if isinstance(child, _DEFINITIONS):
            names.add(child.name)
        elif isinstance(child, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in child.names}
        elif isinstance(child, ast.Name | ast.Attribute | ast.Subscript) and not isinstance(child.ctx, ast.Load):
            names.add(_base(child))
        elif isinstance(child, ast.Expr) and isinstance(child.value, ast.Call):
            names.add(_base(child.value.func) if isinstance(child.value.func, ast.Attribute) else "")  # table.append(0)
        elif isinstance(child, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and child.name:
            names.add(child.name)
    return names - {""}


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """The node and what in it runs when it runs: not the bodies of functions."""
    yield node
    later = {"body"} if isinstance(node, (*_FUNCTIONS, ast.Lambda)) else set()
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and name not in later:
                yield from _executed(child)


def _uses(text: str) -> set[str]:
    names, tables = set[str](), list[symtable.SymbolTable]()
    with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        tables.append(symtable.symtable(text, "<reply>", "exec"))
    while tables:
        table = tables.pop()
        names |= {s.get_name() for s in table.get_symbols() if s.is_global() and s.is_referenced()}
        tables += table.get_children()
    return names


# ------------------------------------------------------------------------------------------------------------ the reader

_OPENING = re.compile(
    r"(?P<fence>`{3,})(?P<info>[^`]*)$|^[ \t>]*(?P<tildes>~{3,})(?P<words>[^~]*)$|(?P<tag>\[PYTHON\])"
    r"|(?P<draft><(?:think|thinking|thought|reasoning|scratchpad)>)|(?P<done></(?:think|thinking|thought|reasoning|scratchpad)>)",
    re.IGNORECASE,
)
_DRAFT_END = re.compile(r"</(?:think|thinking|thought|reasoning|scratchpad)>", re.IGNORECASE)
_TAG = re.compile(r"(?P<end>\[/PYTHON\])|\[PYTHON\]", re.IGNORECASE)
_TWO_WORDS = (  # no statement starts so: what does has a keyword in one of these places
    r"(?!(?:async|await|class|def|del|from|global|if|import|for|lambda|match|nonlocal|not|raise|type|while|with|yield|return"
    r"|assert|else|elif|except|try|finally)\b)[A-Za-z]\w*,? (?!(?:and|as|else|for|if|in|is|not|or)\b)[A-Za-z]\w*[ ,.]"
)


class Reader:
    """Reads a reply from left to right and finds the program that defines ``entry_point`` ("": any function).

    Code is what stands in a fence of any length and language, between ``[PYTHON]`` and ``[/PYTHON]``, or bare, at
    column 0. Drafts (``<think>``) are passed over. ``feed`` takes the next piece of the reply and returns the length to
    which all of it is to be cut, or None to go on. It ends

    - with the first block that defines the entry point: after its closing fence or before ``[/PYTHON]``. A fence in a
      string does not close it, a definition without a body does not count.
    - in bare code that has defined the entry point and all names that it uses, before the first line at column 0 that is
      prose, a fence, a string, ``print``, ``assert``, a call of the entry point or ``if __name__ ...``. Definitions,
      imports, assignments and comments may follow.

    The decisions do not depend on the pieces in which the reply comes.
    """

    def __init__(self, entry_point: str = "") -> None:
        self.entry_point = entry_point
        self.end: int | None = None
        self.blocks: list[_Code] = []  # parts of code that are over
        self._text, self._at = "", 0  # all so far, and where its last line starts
        self._mode = "bare"  # or "fence", "tag", "draft"
        self._fence = ""  # what closes this block
        self._lexed = False  # whether its strings are Python's
        self._source: list[str] = []  # its lines
        self._lexer = _Lexer()
        self._bare = _Code()
        name = re.escape(entry_point) or r"(?!)"
        self._no_program = re.compile(  # at column 0, where bare code may end; whatever follows on the line
            rf"print *\(|assert[ (]|{name} *\(|if +__name__ *=|[rbfuRBFU]{{0,2}}[\"']|{_TWO_WORDS}"
        )

    def feed(self, text: str) -> int | None:
        """Read ``text``; return the cut (an index into all text fed) as soon as there is one."""
        scanned = max(self._at, len(self._text) - 1)
        self._text += text
        while self.end is None and (newline := _NEWLINE.search(self._text, scanned)):
            line, at = self._text[self._at : newline.end()], self._at
            self._at = scanned = newline.end()
            self._line(line, at)
        if self.end is None:
            self._started(self._text[self._at :])
        return self.end

    @property
    def unfinished(self) -> bool:
        """The block is inside a string, or bare code uses names that are not defined yet."""
        rest = self._text[self._at :]
        if self._mode == "bare":
            code = self._bare.copy(rest)
            return code.defines(self.entry_point) and not code.is_complete(self.entry_point)
        lexer = _Lexer(**vars(self._lexer))
        lexer.mask(rest)
        return self._mode == "fence" and bool(lexer.quote)

    def finish(self) -> list[_Code]:
        """The parts of code, with what the end of the reply has left open."""
        if rest := self._text[self._at : self.end]:
            self.end = None
            self._line(rest, self._at)
        if self._mode in ("fence", "tag"):
            self._close_block(None)
        self._close_bare()
        return self.blocks

    # A line

    def _line(self, line: str, at: int) -> None:
        """Read one whole line, which starts at ``at``."""
        fresh = True  # nothing of this line has been read
        while line and self.end is None:
            if self._mode == "draft":
                over = _DRAFT_END.search(line)
                if over is None:
                    return
                size, self._mode = over.end(), "bare"
            elif self._mode == "bare":
                size = self._bare_line(line, at, fresh)
            else:
                size = self._block_line(line, at, fresh)
            line, at, fresh = line[size:], at + size, False

    def _bare_line(self, line: str, at: int, fresh: bool) -> int:
        """A line outside blocks, up to what opens one: how much of it is read."""
        if fresh and (end := self._bare_end(line, at)) is not None:
            self.end = end
            return len(line)
        is_code = fresh and self._bare.is_code(line)
        masked = line.rstrip("\r\n")
        if is_code:
            lexer = _Lexer() if self._bare.starts(line) else _Lexer(**vars(self._bare.lexer))
            masked = lexer.mask(line)
        opening = _OPENING.search(masked)
        before = line[: opening.start()] if opening else line
        if fresh and (before.strip() or not opening):
            self._add_bare(before, at)
            if self.end is not None:
                return len(line)
        if opening is None:
            return len(line)
        if opening["done"]:  # of a draft that the chat template has opened
            self.blocks.clear()
            self._bare = _Code()
        elif self._bare.copy().defines(self.entry_point):
            self.end = at + (opening.start() if before.strip() else 0)
        elif opening["draft"]:
            self._mode = "draft"
        else:
            self._close_bare()
            self._source, self._lexer = [], _Lexer()
            self._mode, self._fence = (
                ("tag", "") if opening["tag"] else ("fence", opening["fence"] or opening["tildes"])
            )
            info = (opening["info"] or opening["words"] or "").strip()
            self._lexed = info.lower().startswith(("py", "ipy"))
            if _CODE_START.match(info):  # the code starts in the line of the fence
                return line.index(info, opening.start())
            if self._mode == "fence":
                return len(line)
            return opening.end() + re.match(r"[ \t]*", line[opening.end() :]).end()  # type: ignore[union-attr]
        return opening.end()

    def _block_line(self, line: str, at: int, fresh: bool) -> int:
        """A line of a block, up to what closes it: how much of it is read."""
        if not self._lexed and not "".join(self._source).strip():  # whatever it is called
            self._lexed = bool(_CODE_START.match(line.strip())) or line.lstrip().startswith("#")
        lexer = _Lexer(**vars(self._lexer))
        masked = lexer.mask(line) if self._lexed else line.rstrip("\r\n")
        if self._mode == "tag":
            if tag := _TAG.search(masked):
                if tag["end"]:
                    self._source.append(line[: tag.start()].rstrip(" "))
                    self._close_block(at + tag.end())
                else:
                    self._source = []  # the first one was only mentioned
                return tag.end()
            opening = _OPENING.search(masked)
            if opening and not opening["draft"] and not "".join(self._source).strip():
                self._mode = "bare"
                return 0
        elif closing := self._closing(masked):
            self._source.append(line[: closing.start()])
            self._close_block(at + closing.end())
            return len(line) - len(line[closing.end() :].lstrip(self._fence[0]))
        self._source.append(line)
        self._lexer = lexer
        return len(line)

    def _closing(self, masked: str) -> re.Match[str] | None:
        """Where the fence of this block closes: on a line of its own, or (Python has no backticks) after code."""
        fence = re.escape(self._fence)
        own = re.match(rf"[ \t>]*{fence}", masked)
        return own or (re.search(fence, masked) if self._lexed and self._fence[0] == "`" else None)

    def _started(self, line: str) -> None:
        """What the start of a line decides already, so that generation ends as early as it can."""
        if self._mode == "fence":
            own = re.match(rf"[ \t>]*{re.escape(self._fence)}", line)
            if own and not self._lexer.quote and self._block().defines(self.entry_point):
                self.end = self._at + own.end()
        elif self._mode == "tag":
            tag = _TAG.search(_Lexer(**vars(self._lexer)).mask(line))
            if tag and tag["end"]:
                self._source.append(line[: tag.start()].rstrip(" "))
                self.end = self._at + tag.end() if self._block().defines(self.entry_point) else None
                self._source.pop()
        elif self._mode == "bare":
            self.end = self._bare_end(line, self._at)

    def _bare_end(self, line: str, at: int) -> int | None:
        """Where bare code has ended, if the start of ``line`` says that it has."""
        fence = re.match(r"[ \t>]*(?=`{3})", line)
        if not line or not (fence or self._no_program.match(line)) or not (fence or self._bare.starts(line)):
            return None
        if fence and self._bare.lexer.quote:
            return None
        code, end = self._bare.copy(), at
        if code.statements and not code.statements[-1].is_program:
            prose = code.statements.pop().start
            end = prose if code.is_complete(self.entry_point) else end
        ended = code.defines(self.entry_point) if fence else code.is_complete(self.entry_point)
        return end if ended else None

    # Parts of code

    def _block(self) -> _Code:
        source = _NEWLINE.sub("\n", "".join(self._source))
        first = next((line for line in source.split("\n") if line.strip()), "")
        return _code(textwrap.dedent(source) if first[:1] in (" ", "\t") else source)

    def _close_block(self, end: int | None) -> None:
        code = self._block()
        self.blocks.append(code.without_prose() if end is None else code)  # never closed: prose may follow
        self._mode, self._bare = "bare", _Code()
        if code.defines(self.entry_point):
            self.end = end

    def _close_bare(self) -> None:
        self._bare.close()
        self.blocks.append(self._bare.without_prose())
        self._bare = _Code()

    def _add_bare(self, line: str, at: int) -> None:
        """A line outside blocks: the start of a statement judges the one before it."""
        if self._bare.starts(line) and not line.startswith("#"):
            self._bare.close()
            statements = self._bare.statements
            if statements and not statements[-1].is_program:
                last = statements.pop()
                if self._bare.is_complete(self.entry_point):
                    self.end = last.start
                    return
        self._bare.add(line, at)


def _code(source: str) -> _Code:
    code = _Code()
    for line in re.findall(r"[^\n]*\n|[^\n]+$", source):
        code.add(line, 0)
    code.close()
    return code


class StopRule:
    """Where a completion ends, decided as the text arrives: the cut is the same however it is split.

    ``prefix`` is the forced start of the text: it is read and never cut. ``feed`` takes the next piece and returns the
    length to which prefix + text is to be cut, or None to go on. Rules: ``none``, never; ``line``, before the first
    newline that follows some text; ``function``, where :class:`Reader` finds the end of the program that defines
    ``entry_point`` (by default the function that the prefix starts).
    """

    def __init__(self, rule: str, prefix: str = "", entry_point: str = "") -> None:
        if rule not in RULES:
            raise ValueError(f"unknown stop rule {rule!r}: use one of {', '.join(RULES)}")
        self.rule = rule
        self.cut: int | None = None
        self._text = prefix
        self.entry_point = entry_point or (_DEF.findall(prefix) or [""])[-1]
        self._reader = Reader(self.entry_point)
        if rule == "function":
            self._reader.feed(prefix)
            self._reader.end = None

    @property
    def unfinished(self) -> bool:
        """Under the rule ``function``: a text that stopped here would lack something of the program."""
        return self.rule == "function" and self.cut is None and self._reader.unfinished

    def feed(self, text: str) -> int | None:
        """Read ``text``; return the cut (an index into prefix + all text fed) as soon as there is one."""
        if self.cut is None and self.rule == "function":
            self.cut = self._reader.feed(text)
        elif self.cut is None and self.rule == "line":
            start = len(self._text)
            self._text += text
            ends = (i for i in range(start, len(self._text)) if self._text[i] == "\n" and self._text[:i].strip())
            self.cut = next(ends, None)
        return self.cut


def cut(text: str, rule: str, prefix: str = "", entry_point: str = "") -> str:
    """``text``, which starts with ``prefix``, up to where ``rule`` ends it (all of it if the rule never fires)."""
    return text[: StopRule(rule, prefix, entry_point).feed(text[len(prefix) :])]


# ----------------------------------------------------------------------------------------------------------- the program


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
    found = _first(blocks, entry_point)
    if found is None and (plain := textwrap.dedent(_NEWLINE.sub("\n", reply))) != reply and not blocks:
        blocks = [_code(plain)]  # all of it is indented
        found = _first(blocks, entry_point)
    if found is None:
        return _NEWLINE.sub("\n", reply).strip("\n"), "missing"
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


def _first(blocks: list[_Code], entry_point: str) -> tuple[int, str] | None:
    """Which block has the program, and the name of its function."""
    by_name = [i for i, block in enumerate(blocks) if any(entry_point in s.names for s in block.statements)]
    whole = [i for i in by_name if blocks[i].defines(entry_point)]
    if by_name:
        return (whole or by_name)[0], entry_point
    for i, block in enumerate(blocks):
        names = [name for statement in block.statements for name in _functions(statement)]
        if names:
            return (i, names[0]) if len(set(names)) == 1 else None
    return None


def _with_needed(blocks: list[_Code], place: int) -> list[_Statement]:
    """The statements of a block, and before them those of earlier blocks that define what it lacks."""
    code, chosen = _Code(), {place}
    while True:
        code.statements = [statement for i in sorted(chosen) for statement in blocks[i].statements]
        lacks = code.lacks()
        earlier = (i for i in range(place) if i not in chosen and lacks & set().union(*blocks[i].names))
        if (needed := max(earlier, default=None)) is None:
            return code.statements
        chosen.add(needed)


def _parsing(statements: list[_Statement], name: str) -> tuple[list[_Statement], bool]:
    """What of the statements parses, and whether all do. Of the last one the longest part that does."""
    kept = []
    for statement in statements:
        lines = statement.text.rstrip("\n").split("\n")
        part = statement
        while part.tree is None and name in part.names and len(lines) > 1:
            lines.pop()
            part = _Statement("\n".join(lines) + "\n", part.start, part.head)
        if part.tree is not None:
            kept.append(part)
    return kept, len(kept) == len(statements) and all(a is b for a, b in zip(kept, statements, strict=True))


def _joined(statements: Iterable[_Statement]) -> str:
    texts = [statement.text if statement.text.endswith("\n") else statement.text + "\n" for statement in statements]
    future = [text for text in texts if re.match(r"(?:\s|#.*\n)*from +__future__ +import", text)]
    if (
        future and texts[: len(future)] != future and len(texts) > 1
    ):  # they stood first in a block that is not the first
        texts = future + [text for text in texts if text not in future]
    return "".join(texts).strip("\n")


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
        self.names = _binds(self.node)
        self.is_definition = isinstance(self.node, (*_DEFINITIONS, ast.Import, ast.ImportFrom))

    def exercises(self, functions: set[str]) -> bool:
        """Does it call one of the functions, run tests or read input when the program is loaded?"""
        for child in _executed(self.node):
            if isinstance(child, ast.Call):
                called = child.func
                if isinstance(called, ast.Name) and called.id in functions | {"input"}:
                    return True
                if isinstance(called, ast.Attribute) and (_base(called), called.attr) in _TEST_RUNNERS:
                    return True
            if isinstance(child, ast.Attribute) and child.attr == "stdin" and _base(child) == "sys":
                return True
        return False


def _without_examples(statements: list[_Statement], name: str) -> list[_Statement]:
    """The statements less those that only show how the function is used."""
    parts = [_Part(node, statement.uses) for statement in statements if statement.tree for node in statement.tree.body]
    functions = {name}  # and those that call it
    while (
        new := {n for part in parts if isinstance(part.node, _FUNCTIONS) and part.uses & functions for n in part.names}
        - functions
    ):
        functions |= new
    bodies = {part.node.name: part.node.body for part in parts if isinstance(part.node, _FUNCTIONS)}
    for part in parts:  # fill() changes what fill's body changes
        called = {_base(child.func) for child in _executed(part.node) if isinstance(child, ast.Call)}
        for caller in called & bodies.keys() - {name}:
            part.names |= set().union(*map(_binds, bodies[caller]))
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
    return isinstance(node, ast.If) and not node.orelse and ast.unparse(node.test) in _MAIN


_MAIN = ("__name__ == '__main__'", "'__main__' == __name__")


def _less(statement: _Statement, dropped: set[int]) -> _Statement | None:
    body = statement.tree.body if statement.tree else []
    left = [node for node in body if id(node) not in dropped]
    if not left and body:
        return None
    texts = [ast.get_source_segment(statement.text, node) for node in left]
    if len(left) == len(body) or None in texts:
        return statement
    return _Statement("\n".join(map(str, texts)) + "\n", statement.start, statement.head)  # several stood in one line


# ------------------------------------------------------------------------------------------------------------------ asserts


def extract_tests(reply: str, entry_point: str) -> list[str]:
    """The lines of a reply that are ``assert entry_point(literals) == literal``, as ``ast`` writes them.

    Of several for one call the first.
    """
    found: dict[str, str] = {}
    for line in reply.splitlines():
        tree = _tree(line.strip())
        with contextlib.suppress(ValueError, TypeError, RecursionError, MemoryError):
            match tree.body if tree else []:
                case [ast.Assert(ast.Compare(ast.Call(ast.Name(name)) as call, [ast.Eq()], [expected]) as test)]:
                    for node in (*call.args, *(keyword.value for keyword in call.keywords), expected):
                        ast.literal_eval(node)  # {[]} is a TypeError
                    if name == entry_point and all(keyword.arg for keyword in call.keywords):  # no **
                        found.setdefault(ast.unparse(call), ast.unparse(ast.Assert(test)))  # without a message
    return list(found.values())
