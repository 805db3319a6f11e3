"""The starter problems: solvable, not solvable by a constant, well-formed, and not those of MBPP."""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
from ppo_codet5.helpers.problems import STARTER, Problem, load_problems
from ppo_codet5.helpers.sandbox import Program, Sandbox

PROBLEMS = load_problems("starter")
ROWS = [json.loads(line) for line in STARTER.read_text(encoding="utf-8").splitlines()]
SPLITS = {split: load_problems("starter", split) for split in ("train", "validation", "test")}


def expected_values(problem: Problem) -> list[object]:
    values = []
    for test in problem.tests + problem.challenge_tests:
        statement = ast.parse(test).body[0]
        assert isinstance(statement, ast.Assert) and statement.msg is None
        comparison = statement.test
        assert isinstance(comparison, ast.Compare) and isinstance(comparison.ops[0], ast.Eq), test
        assert isinstance(comparison.left, ast.Call) and isinstance(comparison.left.func, ast.Name), test
        assert comparison.left.func.id == problem.entry_point, test
        values.append(ast.literal_eval(comparison.comparators[0]))
    return values


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox() as running:
        yield running


def test_sizes_ids_and_levels():
    assert {split: len(problems) for split, problems in SPLITS.items()} == {"train": 212, "validation": 30, "test": 50}
    for split, start in (("train", 1001), ("validation", 2001), ("test", 3001)):
        assert [p.task_id for p in SPLITS[split]] == list(range(start, start + len(SPLITS[split])))
    for level, share in ((0, 0.65), (1, 0.15), (2, 0.1), (3, 0.065), (4, 0.035)):
        for split in SPLITS:
            part = [row["level"] for row in ROWS if row["split"] == split]
            assert abs(part.count(level) / len(part) - share) < 0.05, (split, level)


def test_the_readme_counts_what_is_there():
    readme = Path(STARTER).with_name("README.md").read_text(encoding="utf-8")
    table = {
        cells[0]: cells[2:] for cells in re.findall(r"\| (\w+) \|([^|]*)\| (\d+) \| (\d+) \| (\d+) \| (\d+) \|", readme)
    }
    counts = Counter((row["level"], row["split"]) for row in ROWS)
    for level in (0, 1, 2, 3, 4):
        by_split = [counts[level, split] for split in SPLITS]
        assert [int(n) for n in table[str(level)]] == [*by_split, sum(by_split)]
    assert [int(n) for n in table["all"]] == [212, 30, 50, 292]


def test_names_texts_and_asserts_are_unique():
    assert len({p.entry_point.replace("_", "").lower() for p in PROBLEMS}) == len(PROBLEMS)
    assert len({frozenset(words(p.text)) for p in PROBLEMS}) == len(PROBLEMS)
    for problem in PROBLEMS:
        calls = [test.split(" == ")[0] for test in problem.tests + problem.challenge_tests]
        assert len(set(calls)) == 6, problem.entry_point


def test_every_problem_has_the_agreed_form():
    for problem in PROBLEMS:
        assert len(problem.tests) == len(problem.challenge_tests) == 3, problem.entry_point
        assert problem.text.startswith("Write a Python function to "), problem.text
        assert problem.text.endswith("."), problem.text
        assert "_" not in problem.text.replace("max_length", "") and "def " not in problem.text, problem.text
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", problem.entry_point), problem.entry_point
        values = expected_values(problem)
        assert any(value != values[0] for value in values[1:3]), problem.entry_point
        imported = [
            name.name
            for node in ast.walk(ast.parse(problem.reference))
            if isinstance(node, ast.Import)
            for name in node.names
        ]
        assert set(imported) <= set(sys.stdlib_module_names)


def test_references_pass_and_constants_fail(sandbox):
    def verdicts(codes: list[str], challenge: bool) -> list[bool]:
        tests = [p.tests + p.challenge_tests if challenge else p.tests for p in PROBLEMS]
        programs = [Program(c, t, p.setup) for c, t, p in zip(codes, tests, PROBLEMS, strict=True)]
        return [verdict.passed for verdict in sandbox.run(programs)]

    def names(passed: list[bool], wanted: bool) -> list[str]:
        return [p.entry_point for p, was in zip(PROBLEMS, passed, strict=True) if was is wanted]

    assert names(verdicts([p.reference for p in PROBLEMS], challenge=True), False) == []
    constant = "def {}(*args):\n    return {!r}"
    first = [constant.format(p.entry_point, expected_values(p)[0]) for p in PROBLEMS]
    assert names(verdicts(first, challenge=False), True) == []
    nothing = [constant.format(p.entry_point, None) for p in PROBLEMS]
    assert names(verdicts(nothing, challenge=False), True) == []
    echo = [f"def {p.entry_point}(*args):\n    return args[0]" for p in PROBLEMS]
    assert names(verdicts(echo, challenge=False), True) == []


def words(text: str) -> list[str]:
    opening = r"^write a (python )?function (to|that|which|for)\b"
    return re.findall(r"[a-z0-9]+", re.sub(opening, "", text.lower()))


@pytest.mark.skipif(not os.environ.get("PPO_CODET5_MBPP"), reason="PPO_CODET5_MBPP does not name a copy of mbpp.jsonl")
@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_no_problem_is_one_of_mbpp():
    mbpp = load_problems(os.environ["PPO_CODET5_MBPP"])
    defined = {
        node.name.replace("_", "").lower()
        for p in mbpp
        for node in ast.walk(ast.parse(p.reference))
        if isinstance(node, ast.FunctionDef)
    }
    assert [p.entry_point for p in PROBLEMS if p.entry_point.replace("_", "") in defined] == []
    theirs = [(p.task_id, set(words(p.text))) for p in mbpp]
    for problem in PROBLEMS:
        ours = set(words(problem.text))
        overlap, task_id = max((len(ours & text) / len(ours | text), task_id) for task_id, text in theirs)
        assert overlap < 0.6, f"{problem.entry_point} shares {overlap:.0%} of its words with MBPP {task_id}"
