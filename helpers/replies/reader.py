"""The reader: where the code of a reply is and where its program has ended, while it is written and when it is there."""

from __future__ import annotations

import re
import textwrap
from dataclasses import replace

from .statements import CODE_START, NEWLINE, Code, Lexer, code_of

RULES = ("none", "line", "function")
_DEF = re.compile(r"(?:async[ \t]+)?def[ \t]+(\w+)")
_DRAFT = "(?:think|thinking|thought|reasoning|scratchpad)>"
_DRAFT_END = re.compile(f"</{_DRAFT}", re.IGNORECASE)
_OPENING = re.compile(
    r"(?P<fence>`{3,})(?P<info>[^`]*)$|^[ \t>]*(?P<tildes>~{3,})(?P<words>[^~]*)$|(?P<tag>\[PYTHON\])"
    rf"|(?P<draft><{_DRAFT})|(?P<done></{_DRAFT})",
    re.IGNORECASE,
)
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
        self.blocks: list[Code] = []  # parts of code that are over
        self._text, self._at = "", 0  # all so far, and where its last line starts
        self._mode = "bare"  # or "fence", "tag", "draft"
        self._fence = ""  # what closes this block
        self._lexed = False  # whether its strings are Python's
        self._source: list[str] = []  # its lines
        self._lexer = Lexer()
        self._bare = Code()
        name = re.escape(entry_point) or r"(?!)"
        self._no_program = re.compile(  # at column 0, where bare code may end; whatever follows on the line
            rf"print *\(|assert[ (]|{name} *\(|if +__name__ *=|[rbfuRBFU]{{0,2}}[\"']|{_TWO_WORDS}"
        )

    def feed(self, text: str) -> int | None:
        """Read ``text``; return the cut (an index into all text fed) as soon as there is one."""
        scanned = max(self._at, len(self._text) - 1)
        self._text += text
        while self.end is None and (newline := NEWLINE.search(self._text, scanned)):
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
        lexer = replace(self._lexer)
        lexer.mask(rest)
        return self._mode == "fence" and bool(lexer.quote)

    def finish(self) -> list[Code]:
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
                size = self._block_line(line, at)
            line, at, fresh = line[size:], at + size, False

    def _bare_line(self, line: str, at: int, fresh: bool) -> int:
        """A line outside blocks, up to what opens one: how much of it is read."""
        if fresh and (end := self._bare_end(line, at)) is not None:
            self.end = end
            return len(line)
        is_code = fresh and self._bare.is_code(line)
        masked = line.rstrip("\r\n")
        if is_code:
            lexer = Lexer() if self._bare.starts(line) else replace(self._bare.lexer)
            masked = lexer.mask(line)
        opening = _OPENING.search(masked)
        first = f"{masked[: opening.start()]}```".index("```") if opening else len(line)
        before = line[:first]
        if fresh and (before.strip() or not opening):
            self._add_bare(before, at)
            if self.end is not None:
                return len(line)
        if opening is None:
            return len(line)
        if opening["done"]:  # of a draft that the chat template has opened
            self.blocks.clear()
            self._bare = Code()
        elif self._bare.copy().defines(self.entry_point):
            self.end = at + (first if before.strip() else 0)
        elif opening["draft"]:
            self._mode = "draft"
        else:
            self._close_bare()
            self._source, self._lexer = [], Lexer()
            self._mode, self._fence = (
                ("tag", "") if opening["tag"] else ("fence", opening["fence"] or opening["tildes"])
            )
            info = (opening["info"] or opening["words"] or "").strip()
            self._lexed = info.lower().startswith(("py", "ipy"))
            if CODE_START.match(info):  # the code starts in the line of the fence
                return line.index(info, opening.start())
            if self._mode == "fence":
                return len(line)
            return opening.end() + re.match(r"[ \t]*", line[opening.end() :]).end()  # type: ignore[union-attr]
        return opening.end()

    def _block_line(self, line: str, at: int) -> int:
        """A line of a block, up to what closes it: how much of it is read."""
        if not self._lexed and not "".join(self._source).strip():  # whatever it is called
            self._lexed = bool(CODE_START.match(line.strip())) or line.lstrip().startswith("#")
        lexer = replace(self._lexer)
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
        in_code = self._lexed and self._fence[0] == "`"
        return self._own_fence(masked) or (re.search(re.escape(self._fence), masked) if in_code else None)

    def _own_fence(self, line: str) -> re.Match[str] | None:
        return re.match(rf"[ \t>]*{re.escape(self._fence)}", line)

    def _started(self, line: str) -> None:
        """What the start of a line decides already, so that generation ends as early as it can."""
        if self._mode == "fence":
            own = self._own_fence(line)
            if own and not self._lexer.quote and self._block().defines(self.entry_point):
                self.end = self._at + own.end()
        elif self._mode == "tag":
            tag = _TAG.search(replace(self._lexer).mask(line))
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

    def _block(self) -> Code:
        source = NEWLINE.sub("\n", "".join(self._source))
        first = next((line for line in source.split("\n") if line.strip()), "")
        return code_of(textwrap.dedent(source) if first[:1] in (" ", "\t") else source)

    def _close_block(self, end: int | None) -> None:
        code = self._block()
        self.blocks.append(code.without_prose() if end is None else code)  # never closed: prose may follow
        self._mode, self._bare = "bare", Code()
        if code.defines(self.entry_point):
            self.end = end

    def _close_bare(self) -> None:
        self._bare.close()
        self.blocks.append(self._bare.without_prose())
        self._bare = Code()

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
