"""Stop rules: what each one cuts, and that checking piece by piece is the same as checking the whole text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ppo_codet5.helpers.stops import RULES, StopRule, cut

FENCED = "```python\ndef f("
KEPT_AFTER_PREFIX = {
    "column 0 after the body": ("x):\n    return x\n\n", "print(f(1))\n"),
    "assert": ("x):\n    return x\n", "assert f(1) == 1"),
    "comment after the entry": ("x):\n    return x\n", "# Test\nf(1)"),
    "one-line function": ("x): return x\n", "f(2)"),
    "closing fence": ("x):\n    return x\n```", "\nThis function returns x."),
    "a second function nobody asked for": ("x):\n    return x\n\n", "def g(x):\n    return 2 * x"),
    "the same function again": ("x):\n    return f(x - 1)\n\n", "def f(x):\n    return 3"),
    "a helper that is used": ("x):\n    return helper(x)\n\ndef helper(x):\n    return x\n", "print(1)"),
    "docstring at column 0": ('x):\n    """Says:\nhello (\n"""\n    return x\n', "done"),
    "brackets over lines": ("x):\n    return [\nx,\n]\n", "f(3)"),
    "colon in the header": ("x: dict[str, int] = {1: 2}, *y) -> list[int]:\n    return x\n", "f"),
    "comment before the body": ("x):\n# says x\n    # really\n    return x\n", "f"),
    "apostrophe in a comment": ("x):\n    # it's x\n    return x\n", "f"),
    "backslash": ("x):\n    return x + \\\n1\n", "f"),
    "unclosed bracket": ("x):\n    return (x\n\n", "def g():\n    pass"),
    "quotes inside quotes": ("x):\n    return '\"' + \"'\" + '\\'' + \"\"\n", "f"),
}


@pytest.mark.parametrize("kept, dropped", KEPT_AFTER_PREFIX.values(), ids=KEPT_AFTER_PREFIX.keys())
def test_function_rule_after_a_forced_definition(kept: str, dropped: str) -> None:
    assert cut(FENCED + kept + dropped, "function", FENCED) == FENCED + kept
    assert cut(FENCED + kept, "function", FENCED) == FENCED + kept


def test_function_rule_on_bare_code() -> None:
    """A completion of plain code: a fence after it was never opened, so it closes the code and is left out."""
    code = 'def f(x):\n    """As ```this```:\n```\nf(1)\n```\n"""\n    return x\n'
    assert cut(code + "```\n\nThis is it.", "function", "def f(") == code
    assert cut(code + "print(f(1))", "function", "def f(") == code
    assert cut(code + "```\nThis is it.", "function") == code


def test_function_rule_without_a_forced_definition() -> None:
    program = "import re\nLIMIT = 3\n\ndef a(x):\n    return x\n\n# and\n@cache\ndef b(x):\n    return a(x)\nfrom os import path\n"
    assert cut(program + "print(b(1))", "function") == program
    chatty = "Sure, it's (easy:\n```python\n"
    assert cut(chatty + program + "```\nThat is all", "function") == chatty + program + "```"
    assert cut("Sure. def is a word (and so is class.\nMore text.\n", "function").endswith("More text.\n")


def test_fence_rule() -> None:
    assert cut("```python\nx = 1\n```\nprose", "fence") == "```python\nx = 1\n```"
    assert cut("```python\nx = 1\n``` more", "fence", "```python\n") == "```python\nx = 1\n```"
    assert cut("[PYTHON]\nx = 1\n[/PYTHON]\nprose", "fence") == "[PYTHON]\nx = 1\n[/PYTHON]"
    assert cut("no fence ``here`` at all", "fence") == "no fence ``here`` at all"


def test_line_rule() -> None:
    assert cut("\n  \n the line\nnext", "line") == "\n  \n the line"
    assert cut("Here is:\nthe line\nnext", "line", "Here is:\n") == "Here is:\nthe line"
    assert cut("Here is: the line\nnext", "line", "Here is:") == "Here is: the line"


def test_none_rule_and_unknown_rule() -> None:
    assert cut("```a```\n\nb", "none") == "```a```\n\nb"
    with pytest.raises(ValueError, match="function"):
        StopRule("paragraph")


PIECES = st.sampled_from(
    [
        "def ",
        "def f(x):\n",
        "async def g():",
        "class A:\n",
        "f",
        "helper",
        "\n",
        "\n    ",
        "return ",
        "(",
        ")",
        "[",
        "]",
        ":",
        '"',
        "'",
        '"""',
        "'''",
        "\\",
        "#",
        "`",
        "``",
        "```",
        "```python\n",
        "@",
        "import ",
        "x",
        " ",
        "[/PY",
        "THON]",
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES, max_size=40), st.sampled_from(RULES), st.sampled_from(["", FENCED, "def f(", "\n"]), st.data())
def test_piece_by_piece_is_the_whole_text(pieces: list[str], rule: str, prefix: str, data: st.DataObject) -> None:
    text = "".join(pieces)
    whole = cut(prefix + text, rule, prefix)
    assert (prefix + text).startswith(whole) and whole.startswith(prefix)
    stop, rest = StopRule(rule, prefix), text
    while rest and stop.cut is None:
        size = data.draw(st.integers(1, len(rest)))
        stop.feed(rest[:size])
        rest = rest[size:]
    assert (prefix + text)[: stop.cut] == whole
    assert cut(whole, rule, prefix) == whole  # a cut text has nothing more to cut
