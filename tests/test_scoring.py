"""Scores against independent counts and against SciPy; ``results.csv`` in the published format."""

from __future__ import annotations

import csv
import io
import itertools
import json
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ppo_codet5.helpers.results.scoring import (
    budget_curve,
    by_problem,
    pass_at_k,
    results_csv,
    score,
    share,
    solved_by_edit,
    submitted,
    table,
    wilson,
)
from scipy.stats import binomtest, hypergeom

TOKENS = (
    "prompt_tokens",
    "completion_tokens",
    "rewriter_calls",
    "rewriter_prompt_tokens",
    "rewriter_completion_tokens",
)


def attempt(task: int, number: int, visible: list[int], scored: list[int] | None = None, **more: object) -> dict:
    scored = visible if scored is None else scored
    row = {"task_id": task, "attempt": number, "visible_mask": visible, "scored_mask": scored, "test_mask": scored[:3]}
    return row | dict.fromkeys(TOKENS, 0) | {"code": "", "action": 0, "prompt": ""} | more


@given(st.integers(1, 2000), st.floats(0, 1), st.sampled_from([0.9, 0.95, 0.99]))
@example(50, 0.0, 0.95)
@example(50, 1.0, 0.95)
@example(1, 1.0, 0.99)
def test_wilson_against_scipy(n, fraction, confidence):
    successes = round(fraction * n)
    expected = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert wilson(successes, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_holds_the_share_itself_to_the_last_bit():
    """Error bars are drawn from the share to the interval's ends, and may not be negative by a rounding error."""
    for n in range(1, 400):
        assert wilson(0, n)[0] == 0 and wilson(n, n)[1] == 1
        assert all(0 <= wilson(k, n)[0] <= k / n <= wilson(k, n)[1] <= 1 for k in range(n + 1))


def test_wilson_of_the_published_row_and_of_nothing():
    assert wilson(202, 482) == pytest.approx((0.3758, 0.4636), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_share_is_of_the_asserts():
    assert [share(mask) for mask in ([], [0], [1, 0, 0], [1, 1])] == [0.0, 0.0, pytest.approx(1 / 3), 1.0]


def test_submitted_is_the_best_visible_and_the_earliest_on_ties_whatever_the_order_of_rows():
    rows = [attempt(1, 2, [1], [1, 1]), attempt(1, 0, [0], [1, 1]), attempt(1, 1, [1], [1, 0]), attempt(1, 3, [0])]
    assert submitted(rows)["attempt"] == 1  # not 2, though its scored asserts pass: they are not looked at
    assert submitted(by_problem(rows, 1)[1])["attempt"] == 0
    assert submitted([attempt(1, i, [0]) for i in (3, 1, 2)])["attempt"] == 1


def test_what_an_edit_solved_passes_every_assert_after_a_failure_with_another_text():
    def episode(task: int, last: list[int], prompt: str) -> list[dict]:
        return [attempt(task, 0, [0], [0, 0], prompt="Add."), attempt(task, 1, [1], last, prompt=prompt)]

    played = [
        episode(1, [1, 1], "Sum."),
        episode(2, [1, 0], "Sum."),  # looks solved
        episode(3, [1, 1], "Add."),  # a mutation that changed nothing
        [attempt(4, 0, [1], [1, 1], prompt="Sum.")],  # at once
    ]
    assert solved_by_edit(played, dict.fromkeys((1, 2, 3, 4), "Add.")) == played[:1]


def test_a_missing_an_extra_and_a_repeated_problem_are_errors():
    rows = [attempt(1, 0, [1]), attempt(2, 0, [1])]
    with pytest.raises(ValueError, match=r"missing \[3\], extra \[\]"):
        score(rows, [1, 2, 3])
    with pytest.raises(ValueError, match=r"missing \[\], extra \[2\]"):
        score(rows, [1])
    with pytest.raises(ValueError, match="missing"):
        score(rows, [1, 2, 2])
    with pytest.raises(ValueError):
        budget_curve(rows, [1], 3)


bits = st.integers(0, 1)


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[dict], list[int]]:
    """Attempts of some problems, in any order: 1 to 3 visible asserts, which the scored ones begin with."""
    tasks = draw(st.lists(st.integers(1, 40), min_size=1, max_size=8, unique=True))
    rows = []
    for task in tasks:
        visible, hidden = draw(st.integers(1, 3)), draw(st.integers(0, 3))
        for number in range(draw(st.integers(1, 5))):
            mask = draw(st.lists(bits, min_size=visible + hidden, max_size=visible + hidden))
            costs = {name: draw(st.integers(0, 9)) for name in TOKENS}
            rows.append(attempt(task, number, mask[:visible], mask, **costs))
    return draw(st.permutations(rows)), tasks


@given(runs(), st.integers(1, 6))
def test_scores_against_an_independent_count(case, budget):
    rows, tasks = case
    curve = budget_curve(rows, tasks, budget)
    assert [point["budget"] for point in curve] == list(range(1, budget + 1))
    for point in curve:
        solved, soft, visible, used = 0, Fraction(0), 0, []
        for task in tasks:
            tried = {r["attempt"]: r for r in rows if r["task_id"] == task and r["attempt"] < point["budget"]}
            best = None
            for number in sorted(tried):
                passed = Fraction(sum(tried[number]["visible_mask"]), len(tried[number]["visible_mask"]))
                if best is None or passed > best[0]:
                    best = (passed, tried[number])
            mask = best[1]["scored_mask"]
            solved += 0 not in mask
            soft += Fraction(sum(mask), len(mask))
            visible += best[0] == 1
            used += tried.values()
        n = len(tasks)
        assert (point["n"], point["solved"], point["generations"]) == (n, solved, len(used))
        shares = (point["pass_at_1"], point["soft_pass_at_1"], point["visible_pass"])
        assert shares == pytest.approx((solved / n, float(soft / n), visible / n)) and "oracle" not in point
        assert point["pass_at_1_interval"] == wilson(solved, n)
        assert point["code_tokens"] == sum(r["prompt_tokens"] + r["completion_tokens"] for r in used)
        assert point["rewriter_calls"] == sum(r["rewriter_calls"] for r in used)
        assert point["rewriter_tokens"] == sum(
            r["rewriter_prompt_tokens"] + r["rewriter_completion_tokens"] for r in used
        )
        assert point["pass_at_1"] <= point["soft_pass_at_1"] + 1e-12


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_pass_at_k_is_the_mean_over_all_sets_of_k_draws(right, data):
    k = data.draw(st.integers(1, len(right)))
    sets = [any(some) for some in itertools.combinations(right, k)]
    assert pass_at_k(len(right), sum(right), k) == pytest.approx(sum(sets) / len(sets))


@given(st.integers(1, 200), st.data())
def test_pass_at_k_against_scipy_and_its_ends(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    value = pass_at_k(n, c, k)
    assert value == pytest.approx(1 - hypergeom(n, c, k).pmf(0), abs=1e-9) and 0 <= value <= 1
    assert pass_at_k(n, c, 1) == pytest.approx(c / n) and pass_at_k(n, c, n) == (c > 0)
    assert k == n or pass_at_k(n, c, k + 1) >= value


@pytest.mark.parametrize("counts", [(3, 4, 1), (3, -1, 1), (3, 1, 0), (3, 1, 4)])
def test_pass_at_k_of_draws_that_there_are_not(counts):
    with pytest.raises(ValueError, match="cannot be estimated"):
        pass_at_k(*counts)


@given(runs())
def test_without_a_budget_all_attempts_count(case):
    rows, tasks = case
    longest = max(row["attempt"] for row in rows) + 1
    assert score(rows, tasks) == score(rows, tasks, longest)
    json.dumps(score(rows, tasks))


def test_the_table_prints_what_the_scores_say_in_aligned_columns():
    rows = [attempt(i, 0, [int(i < 10)], [int(i < 7), 1], prompt_tokens=1000, rewriter_calls=2) for i in range(50)]
    head, line = table({"resampling": score(rows, range(50))}).splitlines()
    assert len(head) == len(line) and head.split()[:3] == ["strategy", "budget", "Pass@1"]
    assert line.split() == ["resampling", "1", "14.0%", "[7.0%,", "26.2%]", "57.0%", "50", "100", "50000"]


def test_results_csv_has_the_published_columns_in_the_published_format():
    code = "def remove_Occ(string, char):\n    first_index = string.find(char)"
    rows = [
        attempt(12, 0, [0], [0, 0, 0], code="x = '\\n'"),
        attempt(11, 1, [1], [1, 0, 0, 1], code=code, action=2, prompt="Remove, twice."),
        attempt(11, 0, [0], [0, 0, 0, 0]),
    ]
    header, first, second = results_csv(rows).splitlines()
    assert header.startswith("prompt_id,passed_testcases,pass_at_1,pass_at_1_mean,generated_code,")
    published = '11,"[1, 0, 0]",0,1/3,"def remove_Occ(string, char):\\n    first_index = string.find(char)"'
    assert first == published + ',"[1, 0, 0, 1]",0,0.5000,2,2,"Remove, twice."'
    assert second.startswith("12,\"[0, 0, 0]\",0,0/3,x = '\\\\n',")


def unescaped(text: str) -> str:
    """Backslash escapes read one after the other, as Python reads them."""
    plain, characters = "", iter(text)
    for character in characters:
        plain += {"n": "\n", "r": "\r", "\\": "\\"}[next(characters)] if character == "\\" else character
    return plain


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=60), st.lists(bits, min_size=3, max_size=6)
        ),
        max_size=5,
    )
)
@example([("def f():\r    return '\\r\\n,\"'\r\n", [1, 1, 1])])
def test_results_csv_round_trip(programs):
    rows = [attempt(i, 0, mask[:1], mask, code=code, prompt="a, b") for i, (code, mask) in enumerate(programs)]
    text = results_csv(rows)
    lines = [line for line in text.split("\n") if line]
    assert len(lines) == 1 + len(programs) and "\r" not in text  # one line a problem, in every reader
    read = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [unescaped(row["generated_code"]) for row in read] == [code for code, _ in programs]
    for row, (_, mask) in zip(read, programs, strict=True):
        tests = json.loads(row["passed_testcases"])
        assert tests == mask[:3] and Fraction(row["pass_at_1_mean"]) == Fraction(sum(tests), 3)
        assert int(row["pass_at_1"]) == (sum(tests) == 3) and json.loads(row["scored_testcases"]) == mask
        assert (int(row["solved"]), float(row["soft"])) == (0 not in mask, pytest.approx(share(mask), abs=1e-4))


def test_a_method_may_say_itself_what_it_hands_in() -> None:
    rows = [attempt(1, 0, [0, 1]), attempt(1, 1, [1, 1], hands_in=0), attempt(1, 2, [1, 0], hands_in=2)]
    assert [submitted(rows[:n])["attempt"] for n in (1, 2, 3)] == [0, 0, 2]
    assert submitted(rows[::-1])["attempt"] == 2


def test_half_a_character_in_a_program_is_written_as_a_mark():
    text = results_csv([attempt(1, 0, [1], code="print(f'\ud800')", prompt="a \udc80")])
    assert "print(f'\ufffd')" in text and text.encode().decode() == text
