"""The verdict of the split assert against that of the plain assert, on mutants of reference solutions and on literals.

The plain assert runs in the same sandbox as a statement that is not split. ``PPO_CODET5_MBPP`` may name MBPP's
``mbpp.jsonl``; the starter problems are used otherwise.
"""

from __future__ import annotations

import ast
import copy
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ppo_codet5.helpers.problems import Problem, load_problems
from ppo_codet5.helpers.sandbox import Limits, Program, Sandbox

LIMITS = Limits(cpu_seconds=0.1, wall_factor=40.0)
MUTANTS = 4000


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(cache_size=0) as sandbox:
        yield sandbox


class Mutate(ast.NodeTransformer):
    """One random change somewhere in a tree: an operator, a constant, a condition, a result or a statement."""

    def __init__(self, rng: random.Random, place: int) -> None:
        self.rng, self.left = rng, place

    def visit(self, node: ast.AST) -> ast.AST:
        node = self.generic_visit(node)
        changed = self.change(node)
        if changed is not None:
            self.left -= 1
            if self.left == -1:
                return ast.copy_location(changed, node)
        return node

    def change(self, node: ast.AST) -> ast.AST | None:
        """Another node in its place; None where no change is known."""
        rng, node = self.rng, copy.deepcopy(node)
        if isinstance(node, (ast.BinOp, ast.AugAssign)):
            node.op = rng.choice([ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod, ast.Div])()
        elif isinstance(node, ast.Compare):
            kinds = [ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq]
            node.ops = [rng.choice(kinds)() for _ in node.ops]
        elif isinstance(node, ast.BoolOp):
            node.op = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
        elif isinstance(node, (ast.If, ast.IfExp)):
            node.test = ast.UnaryOp(ast.Not(), node.test)
        elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            node.value = rng.choice([node.value + 1, node.value - 1, -node.value, 0, float(node.value), not node.value])
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = rng.choice([node.value + " ", node.value.upper(), "", node.value[::-1]])
        elif isinstance(node, ast.Return) and node.value is not None:
            wrap = rng.choice(["list({})", "tuple({})", "set({})", "str({})", "[{}]", "({},)", "not {}", "{} or None",
                               "float({})", "sorted({})", "iter({})", "type({})", "len({})", "dict(a={})", "None"])  # fmt: skip
            node.value = ast.parse(wrap.format(f"({ast.unparse(node.value)})"), mode="eval").body
        elif isinstance(node, (ast.Assign, ast.Expr)):
            return ast.Pass()
        elif isinstance(node, ast.For):
            node.body.append(rng.choice([ast.Break, ast.Continue, ast.Pass])())
        else:
            return None
        return node


def mutants(problems: list[Problem], count: int) -> Iterator[Program]:
    """``count`` programs that compile and differ from the reference, spread over the problems."""
    seen = set()
    for number in range(20 * count):
        if len(seen) == count:
            return
        problem = problems[number % len(problems)]
        rng = random.Random(number)
        tree = ast.parse(problem.reference)
        for _ in range(rng.choice([1, 1, 2])):
            tree = Mutate(rng, rng.randrange(12)).visit(tree)
        code = ast.unparse(ast.fix_missing_locations(tree))
        if code not in seen and code != ast.unparse(ast.parse(problem.reference)):
            seen.add(code)
            yield Program(code, problem.tests + problem.challenge_tests, problem.setup, LIMITS)
    raise AssertionError(f"only {len(seen)} distinct mutants")


def plain(program: Program) -> Program:
    """The same with every assert as a statement that runs as it stands."""
    tests = tuple(f"if True:\n    {test.strip()}\n" for test in program.tests)
    return Program(program.code, tests, program.setup, program.limits)


def compare(sandbox: Sandbox, programs: list[Program]) -> None:
    """No disagreement; where time ran out in one of the two, after another try with much more of it."""
    pairs = list(zip(sandbox.run(programs), sandbox.run([plain(program) for program in programs]), strict=True))
    passed = sum(verdict.passed for verdict, _ in pairs)
    assert 0.02 < passed / len(pairs) < 0.7  # mutants that live and mutants that die
    for program, (split, whole) in zip(programs, pairs, strict=True):
        assert not split.notes or "as it stands" not in "".join(split.notes)
        if split.mask != whole.mask and "timeout" in split.outcomes + whole.outcomes:
            patient = Program(program.code, program.tests, program.setup, Limits(cpu_seconds=10.0))
            split, whole = sandbox.run([patient, plain(patient)])
        assert split.mask == whole.mask, f"{program.code}\n{split}\n{whole}"


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    path = os.environ.get("PPO_CODET5_MBPP", "")
    source = path if path and Path(path).exists() else "starter"
    return [problem for problem in load_problems(source) if problem.task_id not in (123,)]  # takes seconds by itself


def test_mutants_of_references(sandbox: Sandbox, problems: list[Problem]) -> None:
    compare(sandbox, list(mutants(problems, 300)))


@pytest.mark.slow
def test_four_thousand_mutants_of_references(sandbox: Sandbox, problems: list[Problem]) -> None:
    compare(sandbox, list(mutants(problems, MUTANTS)))


def test_references_pass(sandbox: Sandbox, problems: list[Problem]) -> None:
    programs = [Program(p.reference, p.tests + p.challenge_tests, p.setup, Limits(2.0)) for p in problems]
    failed = [p.task_id for p, verdict in zip(problems, sandbox.run(programs), strict=True) if not verdict.passed]
    assert not failed


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.complex_numbers(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, 1, 2, -1, 0.0, 1.0, True, False, "", "1", (), ..., 2**63, -(2**63) - 1]),
)
HASHABLE = st.recursive(SCALARS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=5)
VALUES = st.recursive(
    SCALARS | HASHABLE,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner),
        st.tuples(inner, inner),
        st.sets(HASHABLE, max_size=3),
        st.dictionaries(HASHABLE, inner, max_size=3),
    ),
    max_leaves=12,
)


def is_literal(value: object) -> bool:
    """Whether ``ast.literal_eval`` reads the repr: a frozenset inside it does not."""
    try:
        return ast.literal_eval(repr(value)) == value
    except (ValueError, SyntaxError):
        return False


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(VALUES, VALUES), min_size=20, max_size=20))
def test_comparison_is_that_of_python(sandbox: Sandbox, pairs: list[tuple[object, object]]) -> None:
    """``==`` between any value and any literal, and between a literal and itself, through the whole sandbox."""
    programs, expected = [], []
    for value, other in pairs:
        for literal in (value, other):
            if is_literal(literal):
                programs.append(Program(f"def f():\n    return {value!r}", (f"assert f() == {literal!r}",)))
                expected.append(int(value == literal))
    verdicts = sandbox.run(programs)
    assert [verdict.mask[0] for verdict in verdicts] == expected
    assert not any(verdict.notes for verdict in verdicts)
