"""The reader of replies: what is found in one, what of it is kept, where it is cut while it is written.

Programs are judged by CPython, in this process where they are code of this file, else in the sandbox.
"""

from __future__ import annotations

import ast
import contextlib
import io
import random
import textwrap
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ppo_codet5.helpers.problems import load_problems, sides
from ppo_codet5.helpers.replies import RULES, Reader, StopRule, cut, extract_program, extract_tests
from ppo_codet5.helpers.runs import Run, read_rows
from ppo_codet5.helpers.sandbox import Limits, Program, Sandbox

PROBLEMS = load_problems("starter")
MBPP = Path(__file__).parents[2] / "shared" / "data" / "mbpp.jsonl"
F = "```"
ADD = "def add(a, b):\n    return a + b"


def code(text: str) -> str:
    return textwrap.dedent(text).strip("\n")


def load(program: str) -> dict[str, object]:
    """The names that a program of this file defines."""
    namespace: dict[str, object] = {"__name__": "solution"}
    exec(program, namespace)
    return namespace


def call(program: str, name: str, *arguments: object) -> object:
    return load(program)[name](*arguments)  # type: ignore[operator]


def read(reply: str, name: str, prefix: str = "") -> str:
    """The program of a reply, which must be the same whether it is cut while it streams or not."""
    program, note = extract_program(reply, name)
    assert extract_program(cut(reply, "function", prefix, name), name) == (program, note)
    return program


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=1) as running:
        yield running


# ---------------------------------------------------------------------------------------------------------------- blocks


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(ADD, id="bare"),
        pytest.param(f"{ADD}\n", id="bare, last newline"),
        pytest.param(f"{F}python\n{ADD}\n{F}", id="fence"),
        pytest.param(f"{F}py\n{ADD}\n{F}\n", id="fence py"),
        pytest.param(f"{F}python3.11\n{ADD}\n{F}\n", id="fence with a version"),
        pytest.param(f"{F}\n{ADD}\n{F}", id="fence without a language"),
        pytest.param(f"{F}text\n{ADD}\n{F}", id="fence with another language"),
        pytest.param(f"{F}{F}python\n{ADD}\n{F}{F}", id="long fence"),
        pytest.param(f"{F}`python\n{ADD}\n\n# {F}\n{F}`", id="long fence with a short one in a comment"),
        pytest.param(f"~~~python\n{ADD}\n~~~", id="tildes"),
        pytest.param(f"{F} Python\n{ADD}\n{F}".replace("\n", "\r\n"), id="fence, CRLF"),
        pytest.param(f"{F}python\n{ADD}\n{F}".replace("\n", "\r"), id="fence, CR"),
        pytest.param(f"Sure, here it is:\n\n{F}python\n{ADD}\n{F}\nIt adds `a` and `b`.", id="prose around a fence"),
        pytest.param(f"Sure: {F}python\n{ADD}\n{F}", id="fence at the end of a line of prose"),
        pytest.param(f"{F}{ADD}\n{F}", id="code in the line of the fence"),
        pytest.param(f"{F}python\n{ADD}", id="fence never closed"),
        pytest.param(f"{F}python\n{ADD}{F}", id="fence closed on the last line of code"),
        pytest.param(
            f"1. Do this:\n\n{textwrap.indent(f'{F}python{chr(10)}{ADD}{chr(10)}{F}', '   ')}", id="in a list"
        ),
        pytest.param(textwrap.indent(ADD, "    "), id="all of it indented"),
        pytest.param(f"[PYTHON]\n{ADD}\n[/PYTHON]", id="tags"),
        pytest.param(f"[PYTHON] {ADD} [/PYTHON]\n[TESTS]\nassert add(1, 2) == 4\n[/TESTS]", id="tags on its lines"),
        pytest.param(f"[PYTHON]\n{F}python\n{ADD}\n{F}\n[/PYTHON]", id="fence in tags"),
        pytest.param(f"[PYTHON]\n{ADD}", id="tag never closed"),
        pytest.param(f"I write between [PYTHON] and [/PYTHON].\n[PYTHON]\n{ADD}\n[/PYTHON]", id="tags mentioned"),
        pytest.param(f"It comes after [PYTHON]:\n[PYTHON]\n{ADD}\n[/PYTHON]", id="one tag mentioned"),
        pytest.param(f"{F}bash\npip install x\n{F}\nThen:\n{F}python\n{ADD}\n{F}", id="shell commands first"),
        pytest.param(f'{F}json\n{{"it\'s": 1}}\n{F}\n{F}python\n{ADD}\n{F}', id="data first"),
        pytest.param(f"{F}python\nadd(1, 2)  # 3\n{F}\n{F}python\n{ADD}\n{F}", id="usage first"),
        pytest.param(f"{F}python\n>>> add(1, 2)\n3\n{F}\n{F}python\n{ADD}\n{F}", id="a session first"),
        pytest.param(f"{F}python\ndef add(a, b):\n    ...\n{F}\nis filled in:\n{F}python\n{ADD}\n{F}", id="stub first"),
        pytest.param(
            f"{F}python\ndef test_add():\n    assert add(1, 2) == 3\n{F}\n{F}python\n{ADD}\n{F}", id="test first"
        ),
        pytest.param(
            f"{F}python\n{ADD}\n{F}\nOr:\n{F}python\ndef add(a, b):\n    return sum((a, b))\n{F}", id="two of them"
        ),
        pytest.param(
            f"<think>\n{F}python\ndef add(a, b):\n    return a - b\n{F}\n</think>\n{F}python\n{ADD}\n{F}", id="draft"
        ),
        pytest.param(f"<think>def add(a, b): return 0\n</think>\n{ADD}", id="bare draft"),
        pytest.param(f"<think>{F}python\nnever closed\n</think>\n{F}python\n{ADD}\n{F}", id="open fence in a draft"),
        pytest.param(f"<thinking>\nadd?\n</thinking>{F}python\n{ADD}\n{F}", id="a draft that ends in the line"),
        pytest.param(f"The template opened it.\n</think>\n{F}python\n{ADD}\n{F}", id="a draft opened by the template"),
        pytest.param(f"Sure, here's the code.\n\n{ADD}", id="prose before bare code"),
        pytest.param(f"Note: this works\nfor all numbers.\n{ADD}\n", id="prose that looks like an annotation"),
        pytest.param(f"from the examples we see a sum.\n\n{ADD}", id="prose that starts with a keyword"),
        pytest.param(f"if you wonder: it's a sum (\nwith two of them):\n\n{ADD}", id="prose that looks like a block"),
        pytest.param(f"Sure\n{ADD}", id="prose that is a name"),
        pytest.param(f"def add is what you want.\n{ADD}", id="prose that starts as a definition"),
        pytest.param(f"{ADD}\n\nThis function adds two numbers, doesn't it?", id="prose behind bare code"),
        pytest.param(f"{ADD}\nDone.", id="one word behind bare code"),
        pytest.param(f"{ADD}\n{F}\nThe def above adds.\n", id="a fence that none has opened"),
        pytest.param(f"{ADD}\n{F}python\nadd(1, 2)\n{F}\n", id="usage in a fence behind bare code"),
        pytest.param(
            f'{ADD}\n\n"""\nWrite a function that subtracts.\n"""\ndef sub(a, b):\n    return a - b', id="next prompt"
        ),
    ],
)
def test_a_whole_program_is_found_and_stands_as_it_was(reply):
    assert read(reply, "add") == ADD
    assert extract_program(reply, "add")[1] == ""


def test_earlier_blocks_come_along_where_they_are_needed():
    reply = (
        f"{F}python\nimport math\n{F}\nand\n{F}python\nimport re\nprint('hello')\n{F}\nand\n{F}python\nfrom __future__ import annotations\n"
        f"def g(x):\n    return h(x)\n{F}\nand\n{F}python\ndef h(x): return math.floor(x)\n{F}\n{F}python\ndef f(x):\n    return g(x)\n{F}"
    )
    program = read(reply, "f")
    assert call(program, "f", 2.5) == 2 and "re" not in load(program) and "hello" not in program


def test_a_definition_in_one_block_is_not_patched_from_a_later_one():
    """Generation ends with the block; what comes later cannot count in one of the two ways only."""
    first = f"{F}python\ndef f(x):\n    return g(x)\n{F}"
    assert cut(f"{first}\n{F}python\ndef g(x):\n    return x\n{F}", "function", "", "f") == first


@pytest.mark.parametrize("label", ["python", "python3", "py"])
def test_the_name_of_the_language_may_stand_below_the_fence(label):
    """As Qwen2.5-Coder 0.5B writes after a prompt with bare fences."""
    assert read(f"Sure:\n{F}\n{label}\nimport math\n\n{ADD}\n{F}\nIt adds.", "add") == f"import math\n\n{ADD}"
    used = f"{label} = 1\n\ndef add(a, b):\n    return a + b * {label}"
    assert call(read(f"{F}\n{used}\n{F}", "add"), "add", 2, 3) == 5


@pytest.mark.parametrize("quotes", ['"""', "'''"])
def test_a_fence_in_a_string_closes_nothing(quotes):
    body = f"(a, b):\n    {quotes}\n    {F}\n    add(1, 2)\n    {F}\n    {quotes}\n    return a + b\n"
    for reply, prefix in (
        (f"{F}python\ndef add{body}{F}\nIt adds.", ""),
        (f"{F}python\ndef add{body}{F} ok", f"{F}python\ndef add("),
    ):
        assert call(read(reply, "add", prefix), "add", 1, 2) == 3
    one_line = f"{F}python\ndef f(s):\n    s = s.replace('{F}', '') + \"~~~\"\n    return s\n{F}"
    assert call(read(one_line, "f"), "f", f"a{F}b") == "ab~~~"


def test_only_a_draft_is_no_answer():
    reply = f"<think>\n{F}python\n{ADD}\n{F}\nBut wait"
    assert extract_program(reply, "add") == (reply, "missing")


# ------------------------------------------------------------------------------------------------------------ statements

KEPT = {
    "guarded import": ("try:\n    from math import gcd\nexcept ImportError:\n    from fractions import gcd\ndef f(a, b):\n    return gcd(a, b)", "f(4, 6) == 2"),
    "nested guard": ("try:\n    import nope\nexcept ImportError:\n    nope = None\nelse:\n    nope = 1\ndef f():\n    return nope", "f() is None"),
    "by version": ("import sys\nif sys.version_info >= (3, 8):\n    from math import prod\nelse:\n    def prod(x): ...\ndef f(x):\n    return prod(x)", "f([2, 3]) == 6"),
    "by platform": ("import os\nif os.sep == '/':\n    SEP = 1\nelif os.sep == 'x':\n    SEP = 2\nelse:\n    SEP = 3\ndef f():\n    return SEP", "f() == 1"),
    "recursion limit": ("import sys\nsys.setrecursionlimit(6000)\ndef f(n):\n    return n and 1 + f(n - 1)", "f(4000) == 4000"),
    "limit behind the function": ("import sys\ndef f(n):\n    return n and 1 + f(n - 1)\nsys.setrecursionlimit(6000)", "f(4000) == 4000"),
    "table filled by a call": ("T = []\ndef fill():\n    for i in range(9):\n        T.append(i * i)\nfill()\ndef f(i):\n    return T[i]", "f(3) == 9"),
    "table filled by a loop": ("T = [0] * 5\nfor i in range(5):\n    T[i] = i + 1\ndef f(n):\n    return T[n]", "f(3) == 4"),
    "table filled with the function": ("def f(n):\n    return n if n < 2 else T[n - 1] + T[n - 2]\nT = {}\nfor i in range(9):\n    T[i] = f(i)", "f(8) == 21"),
    "filled by one that calls it": ("T = {}\ndef f(n):\n    return T.get(n, n)\ndef fill():\n    T[3] = f(2) + 5\nfill()", "f(3) == 7"),
    "setting of a library": ("from decimal import Decimal, getcontext\ngetcontext().prec = 40\ndef f():\n    return len(str(1 / Decimal(3)))", "f() == 42"),
    "seed": ("import random\nrandom.seed(5)\nX = random.random()\ndef f():\n    return X == random.Random(5).random()", "f()"),
    "registered variants": ("from functools import singledispatch\n@singledispatch\ndef f(x):\n    return 'other'\n@f.register\ndef _(x: int):\n    return 'int'", "f(1) == 'int'"),
    "registered by a call": ("from functools import singledispatch\n@singledispatch\ndef f(x):\n    return 'other'\nf.register(int, lambda x: 'int')", "f(1) == 'int'"),
    "registry": ("R = {}\ndef reg(g):\n    R[g.__name__] = g\n    return g\n@reg\ndef one():\n    return 1\ndef f(name):\n    return R[name]()", "f('one') == 1"),
    "attribute of the function": ("def f(n):\n    return f.memo[n]\nf.memo = {3: 4}", "f(3) == 4"),
    "replaced by a wrapper": ("import functools\ndef f(n):\n    return n\nf = functools.lru_cache(f)", "f.cache_info().hits == 0"),
    "replaced behind an example": ("def f(n):\n    return h(n)\nprint(f(1))\ndef h(n):\n    return n", "f(1) == 1"),
    "module that only the assert uses": ("import math\ndef f(x):\n    return x / 3", "math.isclose(f(1), 0.3333, rel_tol=1e-3)"),
    "function that only the assert uses": ("def enc(s):\n    return s[::-1]\ndef f(s):\n    return s[::-1]", "f(enc('ab')) == 'ab'"),
    "the same, below": ("def f(s):\n    return s[::-1]\ndef enc(s):\n    return s[::-1]", "f(enc('ab')) == 'ab'"),
    "constant that only the assert uses": ("def f(s):\n    return s + 1\nLIMIT = 3", "f(2) == LIMIT"),
    "class that only the assert uses": ("class P:\n    def __init__(self, a):\n        self.a = a\ndef f(ps):\n    return max(p.a for p in ps)", "f([P(1), P(4)]) == 4"),
    "conditional expression": ("SCALE = 2 if True else 1\ndef f():\n    return SCALE", "f() == 2"),
    "default of a parameter": ("ONE = 1\ndef f(n, step=ONE):\n    return n + step", "f(1) == 2"),
    "used in a nested function": ("K = 2\ndef f(n):\n    def inner():\n        return [K * x for x in range(n)]\n    return inner()", "f(2) == [0, 2]"),
    "second definition": ("def f(n):\n    return n\ndef f(n):\n    return -n", "f(2) == -2"),
    "imported under the name": ("from operator import neg as f", "f(2) == -2"),
    "lambda": ("f = lambda x: x + 1", "f(1) == 2"),
    "annotated lambda": ("from typing import Callable\nf: Callable = lambda x: x + 1", "f(1) == 2"),
    "star import": ("from math import *\ndef f(x):\n    return floor(x)", "f(2.5) == 2"),
    "global statement": ("total = 1\ndef f(n):\n    global total\n    total += n\n    return total", "f(2) == 3"),
    "input under another name": ("import sys\nread = sys.stdin.readline\ndef f(x, source=read):\n    return x", "f(1) == 1"),
    "semicolons": ("import math; K = 2; T = []; T.append(K)\ndef f(x):\n    return T[0] + math.floor(x)", "f(1.5) == 3"),
    "comment in the first column": ("def f(a, b):\n    c = a + b\n# give it back\n    return c", "f(1, 2) == 3"),
    "helper below a comment": ("def f(a):\n    return g(a)\n\n# helper\ndef g(a):\n    return a", "f(1) == 1"),
    "decorator on a line of its own": ("from functools import (\n    lru_cache,\n)\n@lru_cache(\n    maxsize=None\n)\n# why not\ndef f(n):\n    return n", "f(1) == 1"),
    "string in the first column": ('def f():\n    return """\ndef g():\nprint(1)\n"""', "f() == '\\ndef g():\\nprint(1)\\n'"),
    "brackets in the first column": ("def f(x):\n    return [\nx,\n(x),\n]", "f(1) == [1, 1]"),
    "backslash": ("def f(x):\n    return x + \\\n1", "f(1) == 2"),
    "one line": ("def f(x): return x", "f(1) == 1"),
    "wide space in an f-string": ("def f(xs):\n    return f\"{'\u3000'.join(xs)}\"", "f('ab') == 'a\u3000b'"),
    "form feed and tabs": ("def f(x):\n\tif x:\n\t\treturn 'a\tb'\n\f\ndef g(): pass", "f(1) == 'a\tb'"),
}  # fmt: skip
WRAPS = {
    "bare": "{}",
    "bare, more": "Here it is.\n\n{}\n\nThis is it.",
    "fence": "```python\n{}\n```",
    "fence, more": "Sure (it's easy):\n```\n{}\n```\nAnd so on.",
    "tags": "[PYTHON]\n{}\n[/PYTHON] ok",
    "indented": "1. So:\n    ```py\n    {}\n    ```",
}


def wrap_in(style: str, text: str) -> str:
    return WRAPS[style].replace("{}", text.replace("\n", "\n    ") if style == "indented" else text)


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("kept", KEPT)
def test_what_the_model_wrote_at_the_top_level_stays(kept, wrap):
    """CPython is the judge: an assert that holds after the text itself holds after what is extracted from a reply."""
    program, condition = KEPT[kept]
    if kept != "replaced behind an example":  # as it stands it fails, at the example
        assert eval(condition, load(program))
    if wrap == "indented" and kept == "string in the first column":
        pytest.skip("the margin of a list cannot be told from the string's own")
    reply = wrap_in(wrap, program)
    assert eval(condition, load(read(reply, "f"))), reply


EXAMPLES = {
    "call": "f(1)",
    "print": "print(f(1))",
    "failing assert": "assert f(1) == 77",
    "result kept": "result = f(1)\nprint(result)\nassert result == 77",
    "results of results": "a = f(1)\nb = a + 1\nc = [b]\nfor x in c:\n    assert x == 77",
    "loop": "for x, want in [(1, 77)]:\n    assert f(x) == want",
    "guard": "if __name__ == '__main__':\n    raise SystemExit(f(1))",
    "guard, swapped": "if '__main__' == __name__:\n    exit()",
    "own test": "def test_f():\n    assert f(1) == 77\ntest_f()",
    "own main": "def main():\n    n = int(input())\n    print(f(n))\n\nmain()",
    "exit by main": "import sys\ndef main():\n    return f(1)\nsys.exit(main())",
    "unittest": "import unittest\nclass T(unittest.TestCase):\n    def test_f(self):\n        self.assertEqual(f(1), 77)\nunittest.main()",
    "doctest": "import doctest\ndoctest.testmod(raise_on_error=True)",
    "input": "n = int(input())\nm = n * 2\nprint(m)",
    "input by sys": "import sys\nfor line in sys.stdin:\n    print(f(line))\ndata = sys.stdin.read().split()\nprint(data[0])",
    "try": "try:\n    print(f(1))\nexcept ValueError as error:\n    print(error)\nassert f(1) == 77",
    "in the line of a setting": "K = 1; print(f(K)); assert f(K) == 77",
    "in a container": "tests = {'a': f(1)}\nprint(tests['b'])",
    "comprehension": "print([f(x) for x in range(3)][77])",
}


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_of_use_go(example, wrap):
    """Each fails or ends the program as it stands; without it the function works, and loading prints nothing."""
    text = f"def f(x):\n    return x\n\n{EXAMPLES[example]}"
    if "__name__" not in text:
        with pytest.raises((AssertionError, SystemExit, EOFError, OSError, IndexError, KeyError, ImportError)):
            load(text)
            raise ImportError  # unittest finds no tests in a module of this name, print prints
    program = read(wrap_in(wrap, text), "f")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert call(program, "f", 5) == 5
    assert not printed.getvalue()


def test_an_example_whose_result_is_used_is_no_example():
    program = "def f(n):\n    return n\nBASE = f(3)\ndef g(n):\n    return n + BASE"
    assert read(f"{F}\n{program}\n{F}", "f") == program


def test_the_only_function_gets_the_name_that_is_asked_for():
    reply = "import math\ndef area(area):\n    return math.floor(area) + helper\nhelper = 1\narea.note = 2\n"
    program, note = extract_program(reply, "surface")
    assert note == "renamed" and call(program, "surface", 2.5) == 3 and call(program, "area", 2.5) == 3
    recursive = "def fact(n):\n    return 1 if n < 2 else n * fact(n - 1)\nassert fact(3) == 7"
    assert call(extract_program(recursive, "factorial")[0], "factorial", 5) == 120


@pytest.mark.parametrize(
    "reply",
    ["", "I cannot do that.", "def one():\n    pass\ndef two():\n    pass", "import math", "class Solution:\n    def f(self):\n        pass",
     "def g(:\n    return 1", "x = 1", "\x00", "f = = 3\ndef", "\ud800", "```", "[PYTHON]", "<think>"],
)  # fmt: skip
def test_nothing_of_that_name_is_missing_and_the_text_comes_back(reply):
    assert extract_program(reply, "f") == (reply, "missing")


def test_a_reply_that_was_cut_off_counts_as_far_as_it_parses():
    reply = "import math\ndef f(x):\n    if x > 1:\n        return math.floor(x)\n    return max(x,"
    program, note = extract_program(reply, "f")
    assert note == "partial" and call(program, "f", 2.5) == 2 and call(program, "f", 0.5) is None
    program, note = extract_program(f"{F}python\n{ADD}\n\ndef test_add():\n    assert add(", "add")
    assert (program, note) == (ADD, "partial")
    program, note = extract_program("def g(x):\n    return x\n\n)", "f")
    assert note == "renamed" and call(program, "f", 3) == 3
    assert extract_program("def f(x):\n", "f")[1] == "missing"


def test_what_does_not_compile_is_left_for_the_sandbox_to_say_so():
    wrong = "def f(x):\n    nonlocal x\n    return x"
    assert extract_program(wrong, "f") == (wrong, "")
    tabs = "def f(x):\n    if x:\n\t\treturn 1\n    return 0"  # CPython: inconsistent use of tabs
    assert extract_program(tabs, "f") == (tabs, "missing")


def test_degenerate_replies_are_programs_or_missing_but_never_an_error():
    sums = "def f(a):\n    return " + "+".join(["a"] * 900)
    program, note = extract_program(sums, "f")
    assert note == "" and call(program, "f", 1) == 900
    for reply in (
        *("(" * 5000, "-" * 9000, "[" * 3000 + "\n" + ADD, "`" * 5000, "\n" * 5000, "#\n" * 3000, "@a\n" * 500),
        *("def f(x):\n    return " + rest for rest in ("[" * 300, "-" * 20000 + "1", "'" * 999, "(" * 199 + ")" * 199)),
        *(
            "x = " + "f(" * 150 + "1" + ")" * 150 + "\ndef f(x): return x",
            "x = " + "1+" * 2000 + "1\ndef f(x): return x",
            "if " + "not " * 300 + "1:\n    y = f(1)\ndef f(x): return x",
            "def f():\n" * 99,
            "if 1:\n" * 120,
        ),
    ):
        assert extract_program(reply, "f")[1] in ("", "missing", "partial", "renamed")


def test_no_warning_reaches_the_notebook():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert extract_program('import re\ndef f(x):\n    return re.sub("\\d", "", x) is 1', "f")[1] == ""


# -------------------------------------------------------------------------------------------------------- where it is cut

FENCED = f"{F}python\ndef f("
KEPT_AFTER_PREFIX = {  # bare code after "def f(": what is kept, what follows
    "print": ("x):\n    return x\n\n", "print(f(1))\n"),
    "assert": ("x):\n    return x\n", "assert f(1) == 1"),
    "call": ("x):\n    return x\n# Test\n", "f(1)"),
    "one-line function": ("x): return x\n", "f(2)"),
    "prose": ("x):\n    return x\n", "This function returns x."),
    "closing fence": ("x):\n    return x\n", "```\nThis function returns x."),
    "string": ("x):\n    return x\n", '"""\nThe next task'),
    "guard": ("x):\n    return x\n", "if __name__ == '__main__':\n    f(1)"),
    "a second function": ("x):\n    return x\n\ndef g(x):\n    return 2 * x\n", "print(g(1))"),
    "a helper that is used": ("x):\n    return helper(x)\n\nprint(f(2))\ndef helper(x):\n    return x\n", "print(1)"),
    "docstring at column 0": ('x):\n    """Says:\nhello (\n"""\n    return x\n', "print(f)"),
    "brackets over lines": ("x):\n    return [\nx,\n]\n", "f(3)"),
    "colon in the header": ("x: dict[str, int] = {1: 2}, *y) -> list[int]:\n    return x\n", "f(1)"),
    "comment before the body": ("x):\n# says x\n    # really\n    return x\n", "f(1)"),
    "apostrophe in a comment": ("x):\n    # it's x\n    return x\n", "f(1)"),
    "backslash": ("x):\n    return x + \\\n1\n", "f(1)"),
    "unclosed bracket": ("x):\n    return (x\n\n", "print(f(1))"),
    "quotes inside quotes": ("x):\n    return '\"' + \"'\" + '\\'' + \"\"\n", "f(1)"),
}


@pytest.mark.parametrize("kept, dropped", KEPT_AFTER_PREFIX.values(), ids=KEPT_AFTER_PREFIX.keys())
def test_bare_code_after_a_forced_definition_ends_where_it_is_over(kept: str, dropped: str) -> None:
    for size in (1, 3, 1000):
        rule = StopRule("function", "def f(")
        text = kept + dropped
        for at in range(0, len(text), size):
            rule.feed(text[at : at + size])
        assert ("def f(" + text)[: rule.cut] == "def f(" + kept
    assert cut("def f(" + kept, "function", "def f(") == "def f(" + kept


@pytest.mark.parametrize(
    "rest", ["x):\n    return x\nprint(f(1))\nassert f(2)\nf(3)\nSo.\n", "x): return g(x)\ng = abs\n"]
)
def test_a_block_ends_with_its_fence_and_not_before(rest: str) -> None:
    assert cut(f"{FENCED}{rest}{F}\nMore.", "function", FENCED) == f"{FENCED}{rest}{F}"
    assert cut(f"{FENCED}{rest}", "function", FENCED) == f"{FENCED}{rest}"
    assert (
        cut(f"[PYTHON]\ndef f({rest}[/PYTHON] More.", "function", "[PYTHON]\ndef f(")
        == f"[PYTHON]\ndef f({rest}[/PYTHON]"
    )


def test_code_ends_before_the_first_of_several_fences_in_its_line() -> None:
    text = f"def f(def {F}def {F}\n{F}"
    assert cut(text, "function", "def f(", "f") == "def f(def "
    assert extract_program(text, "f") == extract_program("def f(def ", "f") == ("def f(def ", "missing")


def test_without_a_name_any_function_will_do() -> None:
    usage = f"{F}bash\nls\n{F}\n{F}python\nx = 1\n{F}\n"
    assert cut(f"{usage}{F}python\n{ADD}\n{F}\nMore.", "function") == f"{usage}{F}python\n{ADD}\n{F}"
    assert cut("Sure. def is a word (and so is class.\nMore text.\n", "function").endswith("More text.\n")


def test_line_rule() -> None:
    assert cut("\n  \n the line\nnext", "line") == "\n  \n the line"
    assert cut("Here is:\nthe line\nnext", "line", "Here is:\n") == "Here is:\nthe line"
    assert cut("Here is: the line\nnext", "line", "Here is:") == "Here is: the line"


def test_none_rule_and_unknown_rule() -> None:
    assert cut("```a```\n\nb", "none") == "```a```\n\nb"
    with pytest.raises(ValueError, match="function"):
        StopRule("paragraph")


# -------------------------------------------------------------------------------------------------------------- properties

PIECES = st.sampled_from(
    ["def ", "def f(x):\n", "def f(x): return x\n", "async def g():", "class A:\n", "f", "g(", "\n", "\n    ", "\r\n", "\r", "return x\n", "return ",
     "(", ")", "[", "]", ":", '"', "'", '"""', "'''", "\\", "#", "`", "``", F, f"{F}python\n", f"\n{F}", "~~~", "\n~~~\n", "@a\n", "import ", "x", " ",
     "[PYTHON]", "[/PY", "THON]", "<think>", "</think>", "<thi", "nk>", "print(", "\nprint(f(1))\n", "\nassert f", "if __name__ == 1:", "else", "=", "This is ", "\t", "  "]
)  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(
    st.lists(PIECES, max_size=40),
    st.sampled_from(RULES),
    st.sampled_from(["", FENCED, "def f(", "\n", "[PYTHON]\n"]),
    st.data(),
)
def test_piece_by_piece_is_the_whole_text(pieces: list[str], rule: str, prefix: str, data: st.DataObject) -> None:
    text = "".join(pieces)
    whole = cut(prefix + text, rule, prefix, "f")
    assert (prefix + text).startswith(whole) and whole.startswith(prefix)
    stop, rest = StopRule(rule, prefix, "f"), text
    while rest and stop.cut is None:
        size = data.draw(st.integers(1, len(rest)))
        stop.feed(rest[:size])
        rest = rest[size:]
    assert (prefix + text)[: stop.cut] == whole
    assert cut(whole, rule, prefix, "f") == whole  # a cut text has nothing more to cut
    assert extract_program(whole, "f") == extract_program(prefix + text, "f") or rule != "function"


PROSE = st.sampled_from(
    ["Here it is:", "from the examples we see a sum.", "It's easy (see below):", "Note: this works", "Sure", "if you want: yes", "def f is the name.",
     "1. First", "- `f(1)` is 1.", "print it", "assert that", "The function f(x) returns x.", "", "for all x", "> quoted", "# Title", "x = 3 is given."]
)  # fmt: skip
HELPERS = [
    "import math",
    "K = 2",
    "def g(x):\n    return x",
    "# helper\ndef h(x):\n    return g(x)",
    "try:\n    import re\nexcept ImportError:\n    re = None",
]
HELPERS += [
    "class A:\n    '''A.'''\n    def m(self):\n        return 1",
    "if K if 'K' in globals() else 0:\n    J = 1\nelse:\n    J = 2",
    "T = [\n    1,\n2,\n]",
]
ENTRIES = [
    "def f(x):\n    return x",
    "def f(x): return x",
    'def f(x):\n    """Text.\n\n    ```\n    f(1)\n    ```\n    """\n    return x',
    "f = lambda x: x",
]
ENTRIES += [
    "def f(x):\n    y = x\n# back\n    return y",
    "import functools\n@functools.lru_cache\ndef f(x):\n\n    return x",
    "def f(x):\n    return g(x)\n\n# g\ndef g(x):\n    return x",
]
USES = [
    "print(f(1))",
    "assert f(1) == 1",
    "result = f(2)\nprint(result)",
    "if __name__ == '__main__':\n    f(1)",
    "def test():\n    assert f(1) == 1\ntest()",
    "# Example\nf(1)",
]


@st.composite
def replies(draw: st.DrawFn) -> tuple[str, str]:
    """A reply as a model may write it, and its forced start."""

    def some(values: list[str], most: int = 2) -> list[str]:
        return draw(st.lists(st.sampled_from(values), max_size=most))

    program = "\n\n".join([*some(HELPERS), draw(st.sampled_from(ENTRIES)), *some(HELPERS), *some(USES)])
    fence = draw(st.sampled_from([F, F + "`", F * 2, "~~~"]))
    language = draw(st.sampled_from(["python", "py", "", "Python3", "text"]))
    form = draw(st.sampled_from(["bare", "fence", "tag", "fence in tag", "never closed"]))
    before, after = ("\n".join(draw(st.lists(PROSE, max_size=3))) for _ in range(2))
    if draw(st.booleans()):
        before = f"<think>\n{draw(PROSE)}\n{F}python\ndef f(x):\n    return -1\n{F}\n</think>\n{before}"
    if draw(st.booleans()):
        other = draw(
            st.sampled_from(["bash\npip install it's", "python\nimport math", "json\n{}", "python\nf(1)", "\nx"])
        )
        before = f"{before}\n{F}{other}\n{F}"
    text = {
        "bare": program,
        "fence": f"{fence}{language}\n{program}\n{fence}",
        "tag": f"[PYTHON]\n{program}\n[/PYTHON]",
        "fence in tag": f"[PYTHON]\n{F}\n{program}\n{F}\n[/PYTHON]",
        "never closed": f"{F}python\n{program}",
    }[form]
    prefix = ""
    if program.startswith("def f(") and form in ("bare", "fence") and draw(st.booleans()):
        before, prefix = "", text[: text.index("def f(") + 6]
    reply = f"{before}\n{text}\n{after}" if before else f"{text}\n{after}"
    if draw(st.booleans()):
        reply, prefix = reply.replace("\n", "\r\n"), prefix.replace("\n", "\r\n")
    return reply, prefix


@settings(max_examples=600, deadline=None)
@given(replies(), st.integers(1, 9), st.data())
def test_cutting_while_it_streams_changes_no_program(made: tuple[str, str], size: int, data: st.DataObject) -> None:
    reply, prefix = made
    if data.draw(st.booleans()):  # at the limit of tokens
        reply = reply[: data.draw(st.integers(len(prefix), len(reply)))]
    rule = StopRule("function", prefix, "f")
    for at in range(len(prefix), len(reply), size):
        if rule.feed(reply[at : at + size]) is not None:
            break
    assert extract_program(reply[: rule.cut], "f") == extract_program(reply, "f")


@settings(max_examples=300, deadline=None)
@given(replies())
def test_what_is_found_in_a_whole_reply_works(made: tuple[str, str]) -> None:
    reply, _ = made
    program, note = extract_program(reply, "f")
    assert note in ("", "partial")
    assert call(program, "f", 5) == 5, program


@given(st.text(st.sampled_from("def f(x):\n \t`python[]/PYTHON=1,'\"#@\\\r<think>~"), max_size=80))
@settings(max_examples=300, deadline=None)
def test_any_text_gives_a_program_or_missing(reply):
    program, note = extract_program(reply, "f")
    assert note in ("", "partial", "renamed", "partial+renamed", "missing")
    if note in ("", "partial") and program:
        ast.parse(program)


# -------------------------------------------------------------------------------------------------------- reference solutions

AFTER = [
    "",
    "\nprint({name}(undefined))",
    "\nn = int(input())\nprint(n)",
    "\nif __name__ == '__main__':\n    exit(1)\n",
]


def wrapped(reference: str, style: str, before: str, after: str, prose: str) -> str:
    body = f"{before}{reference}{after}"
    return {
        "bare": body,
        "cut": f"{body}\n{prose}",
        "prose": f"{prose}\n{reference}{after}",
        "fence": f"{prose}\n{F}python\n{body}\n{F}\n{prose}",
        "open fence": f"{prose}\n{F}\n{body}",
        "tags": f"{prose} [PYTHON]\n{body}\n[/PYTHON] {prose}",
        "crlf": f"{F}python\n{body}\n{F}".replace("\n", "\r\n"),
        "indented": textwrap.indent(f"{F}python\n{body}\n{F}", "  ", lambda line: True),
    }[style]


@given(
    problem=st.sampled_from(PROBLEMS),
    style=st.sampled_from(["bare", "cut", "prose", "fence", "open fence", "tags", "crlf", "indented"]),
    before=st.sampled_from(["", "import os\n", "UNUSED = [1]\n", "def unused(x):\n    return x\n\n"]),
    after=st.sampled_from(AFTER),
    prose=st.text("abcdefgh ,.", max_size=40).map(lambda text: f"Here it is: {text}."),
)
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_reference_passes_its_asserts_however_it_is_wrapped(sandbox, problem, style, before, after, prose):
    after = after.replace("{name}", problem.entry_point)
    program = read(wrapped(problem.reference, style, before, after, prose), problem.entry_point)
    verdict = sandbox.run([Program(program, problem.tests + problem.challenge_tests, problem.setup)])[0]
    assert verdict.passed, verdict


def judged(sandbox, problems, reply) -> list[int]:
    """Task ids of the problems whose reference does not pass when it is read out of ``reply(problem)``."""
    programs = [read(reply(p), p.entry_point) for p in problems]
    limits = sandbox.calibrate([Program(p.reference, p.tests, p.setup) for p in problems])
    jobs = [Program(text, p.tests, p.setup, limit) for text, p, limit in zip(programs, problems, limits, strict=True)]
    return [p.task_id for p, verdict in zip(problems, sandbox.run(jobs), strict=True) if not verdict.passed]


@pytest.mark.parametrize("style", ["bare", "fence", "tags", "prose"])
def test_every_starter_reference_passes(sandbox, style):
    assert (
        judged(sandbox, PROBLEMS, lambda p: wrapped(p.reference, style, "", "\nprint(1)", "It works as follows.")) == []
    )


@pytest.mark.slow
@pytest.mark.skipif(not MBPP.exists(), reason="MBPP is not beside the checkout")
@pytest.mark.parametrize("style", ["raw", "bare", "cut", "fence", "tags", "crlf"])
def test_every_mbpp_reference_passes(style):
    problems = load_problems(MBPP)
    assert len(problems) == 974
    with Sandbox() as sandbox:
        assert (
            judged(
                sandbox,
                problems,
                lambda p: p.reference if style == "raw" else wrapped(p.reference, style, "", "\n", "It works."),
            )
            == []
        )


@pytest.mark.slow
def test_no_reply_ends_a_run(tmp_path: Path) -> None:
    """20,000 replies of all sorts through reader, sandbox and log."""
    draw = random.Random(0)
    odd = [
        "\ud800",
        "\udfff\ud800",
        "\x00",
        "\x0c",
        "\u3000",
        "\u2028",
        "\ufeff",
        "\x1b[31m",
        "\U0001f600",
        "\u202e",
        "é",
        "\t",
        "\r",
    ]
    parts = [
        *ENTRIES,
        *USES,
        *HELPERS,
        f"\n{F}\n",
        f"{F}python\n",
        "<think>",
        "</think>",
        "[PYTHON]",
        "[/PYTHON]",
        "\n",
        " ",
        "'",
        '"""',
        "(",
        "\\",
    ]
    parts += [
        "def f(x):\n    raise ValueError(x)",
        "def f(x):\n    while x: pass",
        "import os\nos._exit(3)",
        "def f(x): return chr(0xD800) * 3",
        "f'{",
        "}'",
    ]
    tests = ("assert f(1) == 1", "assert list(f('a')) == ['a']", "assert f(2.5) > 2")
    replies = [
        "".join(draw.choice(odd if draw.random() < 0.2 else parts) for _ in range(draw.randint(0, 9)))
        for _ in range(20_000)
    ]
    with Sandbox(limits=Limits(0.1)) as sandbox, Run(tmp_path / "run", {"a": 1}) as run:
        programs = [extract_program(cut(reply, "function", "", "f"), "f") for reply in replies]
        verdicts = sandbox.run([Program(text, tests, limits=Limits(0.1)) for text, _ in programs])
        for reply, (text, note), verdict in zip(replies, programs, verdicts, strict=True):
            assert len(verdict.mask) == 3 and "sandbox_error" not in verdict.outcomes
            run.log(
                "attempts",
                {"reply": reply, "code": text, "note": note, "messages": verdict.messages, "notes": verdict.notes},
            )
    assert len(read_rows(tmp_path / "run" / "attempts.jsonl")) == 20_000
    assert {note for _, note in programs} >= {"", "partial", "missing"} and any(verdict.passed for verdict in verdicts)


# ------------------------------------------------------------------------------------------------------------------ asserts


def test_tests_are_asserts_of_calls_on_literals_each_once():
    reply = (
        "assert f(1, [2.5, -3]) == {'a': (None, True)}\n  assert f(x=1) == 'b', \"a message\"\n"
        'assert f(1,[2.5,-3])=={"a": (None, True)}\n```\n1. assert f(2) == 3\nassert f(g(1)) == 2\nassert g(1) == 2\n'
        "assert f(1) == y\nassert f(1) != 2\nassert f(1) == 2 == 2\nassert f(1)\nassert not f(1)\nassert f(1) ==\n"
        "assert f({[]}) == 1\nassert f(*[1]) == 1\nassert f(**{}) == 1\nassert o.f(1) == 1\nf(1) == 1\n"
        "assert f(1) == 1; assert f(2) == 2\nassert f('\\d') == 5\nassert f() == b'x'"
    )
    assert extract_tests(reply, "f") == [
        "assert f(1, [2.5, -3]) == {'a': (None, True)}",
        "assert f(x=1) == 'b'",
        "assert f('\\\\d') == 5",
        "assert f() == b'x'",
    ]


@given(st.text() | st.text(alphabet="assert f(x1)=='[{,\n *").map(lambda text: f"assert f({text}"))
@settings(max_examples=300)
def test_any_text_gives_tests_that_can_be_run_or_none(text):
    for test in extract_tests(text, "f"):
        call, expected = sides(test)
        assert call.startswith("f(") and extract_tests(test, "f") == [test]
        ast.literal_eval(expected)


def test_the_own_asserts_of_every_starter_problem_are_tests():
    """What ``visible_tests`` shows can be compared with what a model writes."""
    for problem in PROBLEMS:
        assert len(extract_tests("\n".join(problem.tests), problem.entry_point)) == len(problem.tests), problem.tests


def test_the_reader_says_where_it_ended() -> None:
    reader = Reader("add")
    assert [reader.feed(piece) for piece in (f"{F}python\n", ADD, f"\n{F[:2]}")] == [None] * 3
    assert reader.feed("`\nMore.") == reader.end == len(f"{F}python\n{ADD}\n{F}")
