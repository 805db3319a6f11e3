"""Named stop rules: where a completion ends, decided one character at a time as the text arrives.

A rule reads the text from left to right and its first decision stands, so checking after every token gives the same
cut as checking the whole text at the end.
"""

from __future__ import annotations

import re

RULES = ("none", "function", "line", "fence")

_DEF = re.compile(r"(?:async[ \t]+)?def[ \t]+(\w+)")
_BLOCK = re.compile(r"(?:async +def|def|class) +(\w+) *[(:\[]")
_BLOCKS = ("def ", "class ", "async def ")
_MODULE_LINES = (*_BLOCKS, "import ", "from ", "@", "#")  # what may stand between one function and the next
_NOT_IN_BRACKETS = ("def ", "class ", "assert ", "import ", "@", "```")  # then a bracket was never closed
_TOKEN = re.compile(
    r"""(?P<triple>\"{3}|'{3})|"(?:\\.|[^"\\])*"?|'(?:\\.|[^'\\])*'?|(?P<comment>\#.*)|(?P<open>[(\[{])|(?P<close>[)\]}])"""
    r"""|(?P<colon>:)|\S"""
)


def _may_become(line: str, starts: tuple[str, ...]) -> bool:
    """``line`` is still shorter than one of ``starts`` and agrees with it so far."""
    return any(len(line) < len(start) and start.startswith(line) for start in starts)


class StopRule:
    """Incremental check of one rule on one text.

    ``prefix`` is the forced start of the text: it is read for its state (an open fence, the function's name) and never
    cut. ``feed`` takes the next piece and returns the length to which prefix + text is to be cut, or None to go on.

    - ``none``: never.
    - ``line``: before the first newline that follows some text.
    - ``fence``: after the closing triple backtick (the second one in prefix + text), or after ``[/PYTHON]``.
    - ``function``: as ``fence``, or before the first line at column 0 that cannot belong to the program (a fence
      that closes what none has opened is such a line). Once the
      function named last by ``def NAME(`` in the prefix has a body, only a helper that is used above and not yet
      defined may follow. Without such a name any function counts, and definitions, imports, decorators and comments
      may follow it. Strings and brackets are lexed, so a docstring at column 0 ends nothing.
    """

    def __init__(self, rule: str, prefix: str = "") -> None:
        if rule not in RULES:
            raise ValueError(f"unknown stop rule {rule!r}: use one of {', '.join(RULES)}")
        self.rule = rule
        self.cut: int | None = None
        names = _DEF.findall(prefix)
        self._entry_known = bool(names)
        self._text = ""
        self._line_start = 0
        self._fences = 0  # triple backticks so far
        self._ticks = 0  # backticks in a row
        self._settled = False  # the start of this line has been judged
        self._forget_code()
        for char in prefix if rule != "none" else "":
            self._step(char)

    def feed(self, text: str) -> int | None:
        """Read ``text``; return the cut (an index into prefix + all text fed) as soon as there is one."""
        if self.rule != "none":
            for char in text:
                if self.cut is not None:
                    break
                self.cut = self._step(char)
        return self.cut

    def _forget_code(self) -> None:
        self._defined: set[str] = set()  # top-level functions so far; lexing starts with the first
        self._header = False  # between "def" and its colon
        self._body = False  # some top-level function has a statement in its body
        self._quote = ""  # the triple quote that this line starts in
        self._depth = 0  # brackets that were open at the start of this line
        self._joined = False  # the line before ended in a backslash

    def _step(self, char: str) -> int | None:
        self._text += char
        if self.rule == "line":
            return len(self._text) - 1 if char == "\n" and not self._text.isspace() else None
        self._ticks = self._ticks + 1 if char == "`" else 0
        if self._ticks == 3:
            self._ticks = 0
            if self._defined and not self._fences:  # code that no fence opened: one on a line of its own closes it
                if self._text[self._line_start :] == "```" and not self._quote:
                    return self._line_start
            else:
                self._fences += 1
                if self._fences > 1:
                    return len(self._text)
                self._forget_code()  # what stood before the opening fence is prose
        if self._text.endswith("[/PYTHON]"):
            return len(self._text)
        if self.rule == "function":
            line = self._text[self._line_start :]
            if not self._settled and self._ends_program(line):
                return self._line_start
            if char == "\n":
                self._lex(line)
        if char == "\n":
            self._line_start, self._settled = len(self._text), False
        return None

    def _ends_program(self, line: str) -> bool:
        """Does the start of the current line show that the program is over? Sets ``_settled`` once it is known."""
        if self._quote or self._joined or line[0].isspace():
            self._settled = True
            return False
        if self._depth:
            self._settled = not _may_become(line, _NOT_IN_BRACKETS)
            return line.startswith(_NOT_IN_BRACKETS)
        if _may_become(line, ("```",)):
            return False  # the third backtick decides
        block = _BLOCK.match(line)
        if self._body:
            if self._entry_known:
                helper = block and block[1] not in self._defined and re.search(rf"\b{block[1]}\b", self._before())
                undecided = _may_become(line, _BLOCKS) or (not block and line.startswith(_BLOCKS) and line[-1] != "\n")
                if not helper and not undecided:
                    return True
            elif not line.startswith(_MODULE_LINES) and not _may_become(line, _MODULE_LINES):
                return True
        if block and not line.startswith("class"):
            self._defined.add(block[1])
            self._header = True
        self._settled = bool(block) or not (_may_become(line, _BLOCKS) or line.startswith(_BLOCKS))
        return False

    def _before(self) -> str:
        return self._text[: self._line_start]

    def _lex(self, line: str) -> None:
        """Carry strings and brackets over the end of ``line``; note when a function's body has begun."""
        if not self._defined:
            return
        at = 0
        while at < len(line):
            if self._quote:
                end = re.compile(rf"(?:\\.|(?!{self._quote})[\s\S])*{self._quote}").match(line, at)
                if end is None:
                    return
                at, self._quote = end.end(), ""
                continue
            token = _TOKEN.search(line, at)
            if token is None:
                break
            at = token.end()
            if token["comment"]:
                continue
            if token["colon"] and self._header and not self._depth:
                self._header = False
                continue
            self._quote = token["triple"] or ""
            self._depth = max(0, self._depth + bool(token["open"]) - bool(token["close"]))
            if not self._header:
                self._body = True
        self._joined = line.endswith("\\\n")


def cut(text: str, rule: str, prefix: str = "") -> str:
    """``text``, which starts with ``prefix``, up to where ``rule`` ends it (all of it if the rule never fires)."""
    return text[: StopRule(rule, prefix).feed(text[len(prefix) :])]
