"""Extraction: what stands in a reply, what of it is kept, and that the kept program still does its work."""

from __future__ import annotations

import ast
import textwrap
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ppo_codet5.helpers.problems import load_problems
from ppo_codet5.helpers.programs import extract_program, extract_tests, sides
from ppo_codet5.helpers.sandbox import Program, Sandbox

PROBLEMS = load_problems("starter")


def code(text: str) -> str:
    return textwrap.dedent(text).strip("\n")


def call(program: str, name: str, *arguments: object) -> object:
    """What the extracted program returns; it is code of this file, so it runs here."""
    namespace: dict[str, object] = {}
    exec(program, namespace)
    return namespace[name](*arguments)  # type: ignore[operator]


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=1) as running:
        yield running


ADD = "def add(a, b):\n    return a + b"


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(ADD, id="bare"),
        pytest.param(f"{ADD}\n", id="bare, last newline"),
        pytest.param(f"```python\n{ADD}\n```", id="fence"),
        pytest.param(f"```py\n{ADD}\n```\n", id="fence py"),
        pytest.param(f"```python3.11\n{ADD}\n```\n", id="fence with a version"),
        pytest.param(f"```\n{ADD}\n```", id="fence without a language"),
        pytest.param(f"``` Python\r\n{ADD}\r\n```".replace("\n", "\r\n").replace("\r\r", "\r"), id="fence, CRLF"),
        pytest.param(f"Sure, here it is:\n\n```python\n{ADD}\n```\nIt adds `a` and `b`.", id="prose around a fence"),
        pytest.param(f"```python\n{ADD}", id="fence never closed"),
        pytest.param(f"```python\n{ADD}```", id="fence closed on the last line of code"),
        pytest.param(
            f"1. Do this:\n\n{textwrap.indent(f'```python{chr(10)}{ADD}{chr(10)}```', '   ')}", id="in a list"
        ),
        pytest.param(f"```bash\npip install x\n```\nThen:\n```python\n{ADD}\n```", id="another language first"),
        pytest.param(f"[PYTHON]\n{ADD}\n[/PYTHON]", id="tags"),
        pytest.param(
            f"[PYTHON] {ADD} [/PYTHON]\n[TESTS]\nassert add(1, 2) == 4\n[/TESTS]", id="tags on the code's lines"
        ),
        pytest.param(f"[PYTHON]\n```python\n{ADD}\n```\n[/PYTHON]", id="fence in tags"),
        pytest.param(f"[PYTHON]\n{ADD}", id="tag never closed"),
        pytest.param(
            f"```python\ndef test_add():\n    assert add(1, 2) == 3\n```\n```python\n{ADD}\n```", id="its test first"
        ),
        pytest.param(f"Sure, here's the code.\n\n{ADD}", id="prose before bare code"),
        pytest.param(f"Note: this works\nfor all numbers.\n{ADD}\n", id="prose that looks like an annotation"),
        pytest.param(ADD.replace("    ", "\t"), id="tab"),
    ],
)
def test_a_whole_program_is_found_and_stands_as_it_was(reply):
    assert extract_program(reply, "add") == (ADD, "")


def test_the_block_that_defines_the_function_wins_over_one_that_only_calls_it():
    reply = "```python\ndef main():\n    print(add(1, 2))\n```\n\n```python\nadd = lambda a, b: a + b\n```"
    assert extract_program(reply, "add") == ("add = lambda a, b: a + b", "")


def test_what_is_used_stays_wherever_it_stands_and_what_is_not_goes():
    reply = code("""
        from __future__ import annotations
        '''A module.'''
        import math, os
        import json
        from collections import *
        LIMIT, UNUSED = 10, 11
        OTHER = 12

        def helper(x: Number) -> int:
            return min(constant(), LIMIT, x)

        def unused():
            return OTHER

        def f(x):
            return math.floor(helper(x) + AFTER)

        def constant():
            return SCALE * 100

        SCALE = 2 if True else 1
        AFTER = 0.5
        print(f(3))
        assert f(3) == 4
        if __name__ == "__main__":
            answer = f(int(input()))
            print(answer)
    """)
    program, note = extract_program(reply, "f")
    assert note == ""
    kept = [ast.unparse(node).split("\n")[0] for node in ast.parse(program).body]
    assert kept == [
        "from __future__ import annotations",
        "import math, os",
        "from collections import *",
        "LIMIT, UNUSED = (10, 11)",
        "def helper(x: Number) -> int:",
        "def f(x):",
        "def constant():",
        "SCALE = 2 if True else 1",
        "AFTER = 0.5",
    ]
    assert call(program, "f", 3) == 3 and call(program, "f", 50) == 10


@pytest.mark.parametrize(
    ("reply", "argument", "result"),
    [
        ("memo = {}\nmemo[0] = 1\ndef f(n):\n    return memo[n]", 0, 1),
        ("def f(n):\n    return f.memo[n]\nf.memo = {3: 4}", 3, 4),
        ("squares = []\nfor i in range(5):\n    squares.append(i * i)\ndef f(n):\n    return squares[n]", 3, 9),
        ("table = [0] * 5\nfor i in range(5):\n    table[i] = i + 1\ndef f(n):\n    return table[n]", 3, 4),
        ("total = 1\ntotal += 4\ndef f(n):\n    return total + n", 1, 6),
        ("total = 1\ndef f(n):\n    global total\n    total += n\n    return total", 2, 3),
        (
            "try:\n    from math import isqrt\nexcept ImportError:\n    isqrt = None\ndef f(n):\n    return isqrt(n)",
            9,
            3,
        ),
        ("import functools\n@functools.lru_cache\ndef f(n):\n    return n if n < 2 else f(n - 1) + f(n - 2)", 10, 55),
        ("ONE = 1\ndef f(n, step=ONE):\n    return n + step", 1, 2),
        ("K = 2\ndef f(n):\n    def inner():\n        return [K * x for x in range(n)]\n    return inner()", 2, [0, 2]),
        ("def f(n):\n    return n\ndef f(n):\n    return -n", 2, -2),
        ("from operator import neg as f", 2, -2),
    ],
)
def test_statements_that_change_what_is_used_stay(reply, argument, result):
    assert call(extract_program(reply, "f")[0], "f", argument) == result


def test_a_driver_whose_names_are_only_the_function_s_own_variables_goes():
    driver = "n = int(input())\nresult = f(n)\nprint(result)"
    function = "def f(n):\n    result = n + 1\n    return result"
    assert extract_program(f"{function}\n{driver}", "f") == (function, "")


def test_classes_stay_since_asserts_build_their_arguments_with_them(sandbox):
    reply = code("""
        BASE = 0

        class Pair:

            def __init__(self, a, b):
                self.a, self.b = (a, b + BASE)

        def longest(pairs):
            return max((p.b - p.a for p in pairs))
    """)
    program, note = extract_program(reply, "longest")
    assert note == "" and sandbox.run([Program(program, ("assert longest([Pair(1, 4), Pair(0, 9)]) == 9",))])[0].passed


def test_the_only_function_gets_the_name_that_is_asked_for():
    reply = "import math\ndef area(area):\n    return math.floor(area) + helper\nhelper = 1\narea.note = 2\n"
    program, note = extract_program(reply, "surface")
    assert note == "renamed" and call(program, "surface", 2.5) == 3 and call(program, "area", 2.5) == 3
    recursive = "def fact(n):\n    return 1 if n < 2 else n * fact(n - 1)"
    assert call(extract_program(recursive, "factorial")[0], "factorial", 5) == 120


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "I cannot do that.",
        "def one():\n    pass\ndef two():\n    pass",
        "import math",
        "class Solution:\n    def f(self):\n        pass",
        "async def g():\n    pass",
        "def g(:\n    return 1",
        "x = 1",
        "\x00",
        "f = = 3\ndef",
    ],
)
def test_nothing_of_that_name_is_missing_and_the_text_comes_back(reply):
    assert extract_program(reply, "f") == (reply, "missing")


def test_the_longest_prefix_that_parses():
    reply = "import math\ndef f(x):\n    if x > 1:\n        return math.floor(x)\n    return max(x,"
    program, note = extract_program(reply, "f")
    assert note == "prefix" and call(program, "f", 2.5) == 2 and call(program, "f", 0.5) is None
    program, note = extract_program(f"{ADD}\n\nThis function adds two numbers, doesn't it?", "add")
    assert (program, note) == (ADD, "prefix")
    program, note = extract_program("def g(x):\n    return x\n\n)", "f")
    assert note == "prefix+renamed" and call(program, "f", 3) == 3


def test_margins_of_tabs_and_spaces_mixed_and_tabs_in_strings_kept():
    mixed = "def f(x):\n    if x:\n\t\treturn 1\n    return 0"
    assert call(extract_program(mixed, "f")[0], "f", 1) == 1
    literal = 'def f(x):\n\treturn x.split("\t")'
    assert call(extract_program(literal, "f")[0], "f", "a\tb  c") == ["a", "b  c"]


def test_blank_lines_of_strings_and_carriage_returns():
    reply = "def f():\r\n    return '''a\r\n   \r\nb'''\r\n"
    assert call(extract_program(reply, "f")[0], "f") == "a\n   \nb"


def test_degenerate_replies_are_programs_or_missing_but_never_an_error():
    sums = "def f(a):\n    return " + "+".join(["a"] * 900)  # deeper than Python's own recursion limit
    program, note = extract_program(sums, "f")
    assert note == "" and call(program, "f", 1) == 900
    for reply in (
        "(" * 5000,
        "def f(x):\n    return " + "[" * 300,
        "def f(x):\n    return " + "-" * 20000 + "1",
        "-" * 9000,
    ):
        assert extract_program(reply, "f")[1] in ("", "missing", "prefix")
    does_not_compile = "def f(x):\n    nonlocal x\n    return x"
    assert extract_program(does_not_compile, "f") == (does_not_compile, "")


def test_no_warning_reaches_the_notebook():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert extract_program('import re\ndef f(x):\n    return re.sub("\\d", "", x)', "f")[1] == ""


@given(st.text(st.sampled_from("def f(x):\n \t`python[]/PYTHON=1,'\"#@\\\r"), max_size=80))
@settings(max_examples=200)
def test_any_text_gives_a_program_or_missing(reply):
    program, note = extract_program(reply, "f")
    if note == "missing":
        assert program.strip("\n") in reply.replace("\r\n", "\n")
    else:
        ast.parse(program)


WORDS = st.text("abcdefgh ,.", max_size=40).map(lambda text: f"Here it is: {text}.")
BEFORE = st.sampled_from(["", "import os\n", "UNUSED = [1]\n", "def unused(x):\n    return x\n\n"])
AFTER = st.sampled_from(["", "\nprint(undefined)", "\nn = int(input())", "\nif __name__ == '__main__':\n    exit(1)\n"])


def wrapped(reference: str, style: str, before: str, after: str, prose: str) -> str:
    body = f"{before}{reference}{after}"
    return {
        "bare": body,
        "cut": f"{body}\n{prose}",
        "prose": f"{prose}\n{reference}{after}",
        "fence": f"{prose}\n```python\n{body}\n```\n{prose}",
        "open fence": f"{prose}\n```\n{body}",
        "tags": f"{prose} [PYTHON]\n{body}\n[/PYTHON] {prose}",
        "crlf": f"```python\n{body}\n```".replace("\n", "\r\n"),
        "indented": textwrap.indent(f"```python\n{body}\n```", "  ", lambda line: True),
    }[style]


@given(
    problem=st.sampled_from(PROBLEMS),
    style=st.sampled_from(["bare", "cut", "prose", "fence", "open fence", "tags", "crlf", "indented"]),
    before=BEFORE,
    after=AFTER,
    prose=WORDS,
)
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_reference_passes_its_asserts_however_it_is_wrapped(sandbox, problem, style, before, after, prose):
    program, note = extract_program(wrapped(problem.reference, style, before, after, prose), problem.entry_point)
    assert note in ("", "prefix")
    assert "unused" not in program.lower() and "input" not in program.replace(problem.reference, "")
    verdict = sandbox.run([Program(program, problem.tests + problem.challenge_tests, problem.setup)])[0]
    assert verdict.passed, verdict


def test_every_reference_passes_in_every_wrapping_style(sandbox):
    for style in ("bare", "fence", "tags", "prose"):
        replies = [wrapped(p.reference, style, "", "\nprint(undefined)", "It works as follows.") for p in PROBLEMS]
        programs = [extract_program(reply, p.entry_point) for reply, p in zip(replies, PROBLEMS, strict=True)]
        assert {note for _, note in programs} == {""}
        verdicts = sandbox.run(
            [
                Program(program, p.tests + p.challenge_tests, p.setup)
                for (program, _), p in zip(programs, PROBLEMS, strict=True)
            ]
        )
        assert [v.passed for v in verdicts] == [True] * len(PROBLEMS), style


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
