"""Every strategy's attempts on one problem side by side, as HTML: a page for a browser, or parts of it for a notebook."""

from __future__ import annotations

import difflib
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..problems import Problem, ProblemError, load_problems, problem_set_hash
from ..runs import RunError, write_atomically
from .runs import TITLES, Column, Entry, Row
from .scoring import share, submitted

_STYLE = """
.explorer { font: 14px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff; display: flex; gap: 20px;
  padding: 16px; align-items: flex-start; }
.explorer [hidden] { display: none !important; }
.explorer .list { flex: 0 0 290px; position: sticky; top: 16px; max-height: calc(100vh - 32px); overflow: auto; }
.explorer .list button { display: block; width: 100%; text-align: left; font: inherit; background: none; border: 0;
  padding: 3px 8px; border-radius: 4px; cursor: pointer; white-space: nowrap; overflow: hidden; text-overflow:
  ellipsis; }
.explorer .list button:hover { background: #eef2f7; }
.explorer .list button.now { background: #d6e4f5; }
.explorer .list .count { display: inline-block; width: 4.2em; color: #555; font-variant-numeric: tabular-nums; }
.explorer .problems { flex: 1; min-width: 0; }
.explorer .problem h2 { margin: 0 0 4px; font-size: 18px; }
.explorer .cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 12px; margin-top:
  12px; }
.explorer .card { border: 1px solid #ccd3db; border-radius: 6px; padding: 8px 10px; min-width: 0; }
.explorer .card h3 { margin: 0; font-size: 14px; }
.explorer .yes { color: #14712f; }
.explorer .no { color: #a4262c; }
.explorer .dim { color: #666; }
.explorer .attempt { border-top: 1px solid #e3e7ec; margin-top: 8px; padding-top: 6px; }
.explorer .attempt.in { border-left: 3px solid #2f6fb3; padding-left: 7px; }
.explorer pre { background: #f6f8fa; padding: 6px 8px; border-radius: 4px; overflow-x: auto; margin: 4px 0; font-size:
  12.5px; }
.explorer ins { background: #d9f2df; text-decoration: none; }
.explorer del { background: #fbdfdf; }
"""
_SCRIPT = """
function show(task) {
  document.querySelectorAll(".problem").forEach(p => { p.hidden = p.dataset.task !== task; });
  document.querySelectorAll(".list button").forEach(b => { b.classList.toggle("now", b.dataset.task === task); });
}
const list = document.querySelector(".list");
list.addEventListener("click", event => {
  const button = event.target.closest("button");
  if (button) { show(button.dataset.task); location.hash = button.dataset.task; }
});
document.querySelector("#find").addEventListener("input", event => {
  const words = event.target.value.toLowerCase();
  list.querySelectorAll("button").forEach(b => { b.hidden = !b.textContent.toLowerCase().includes(words); });
});
document.querySelector("#order").addEventListener("change", event => {
  const key = b => Number(b.dataset[event.target.value]);
  list.querySelectorAll("div").forEach(group => [...group.querySelectorAll("button")]
    .sort((a, b) => key(a) - key(b) || a.dataset.task.localeCompare(b.dataset.task)).forEach(b => group.append(b)));
});
const asked = decodeURIComponent(location.hash.slice(1));
const first = [...list.querySelectorAll("button")].find(b => b.dataset.task === asked) || list.querySelector("button");
if (first) show(first.dataset.task);
"""


@dataclass(frozen=True)
class Item:
    """A problem of a column in the list: ``key`` names it on the page; ``solved`` is the share of rows that solve it."""

    key: str
    label: str
    solved: float
    html: str


def items(column: Column, number: int = 1) -> list[Item]:
    """The problems of a column whose prompts and programs were kept, those that fewest rows solve first.

    Each row is shown with its first seed that the agent has too; ``solved`` counts all seeds.
    """
    if not any("prompt" in row for entry in column.entries.values() for row in entry.rows(1)):
        return []
    problems = {problem.task_id: problem for problem in _problems(column)}
    rates = {name: entry.solved().mean(0) for name, entry in column.entries.items()}
    found, visible = [], column.reference.identity["visible_tests"]
    for place, task in enumerate(column.reference.identity["task_ids"]):
        cards = [_card(entry, task, problems.get(task)) for entry in column.entries.values()]
        if any(cards):
            solved = float(np.mean([rate[place] for rate in rates.values()]))
            name = problems[task].entry_point if task in problems else ""
            label = f"{solved:4.0%}  {task} {name}".rstrip()
            found.append(Item(f"{number}-{task}", label, solved, _problem(task, problems.get(task), visible, cards)))
    return sorted(found, key=lambda item: item.solved)


def page(columns: Sequence[Column]) -> str:
    """A whole HTML page: a list of problems, and the one that was clicked; needs nothing from elsewhere."""
    groups, sections = [], []
    for number, column in enumerate(columns, 1):
        buttons = [f'<p class="dim">{html.escape(column.words)}</p>'] * (len(columns) > 1)
        for item in items(column, number):
            count, _, words = item.label.strip().partition("  ")
            buttons.append(
                f'<button data-task="{item.key}" data-solved="{item.solved:.4f}" data-id="{item.key.partition("-")[2]}">'
                f'<span class="count">{count}</span>{html.escape(words)}</button>'
            )
            sections.append(f'<section class="problem" data-task="{item.key}" hidden>{item.html}</section>')
        groups.append(f"<div>{''.join(buttons)}</div>")
    head = (
        '<p><label>find <input id="find" size="14"></label> <label>order <select id="order">'
        '<option value="solved">by who solved it</option><option value="id">by number</option></select></label></p>'
        '<p class="dim">share of rows that solve it, task</p>'
    )
    body = f'<nav class="list">{head}{"".join(groups)}</nav><main class="problems">{"".join(sections)}</main>'
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Attempts, problem by problem</title>'
        f'<style>body {{ margin: 0; }}{_STYLE}</style></head><body><div class="explorer">{body}</div><script>{_SCRIPT}</script></body></html>\n'
    )


def widget(columns: Sequence[Column], choice: str = "auto") -> Any:
    """The same list as an ipywidgets box, whose second child shows the problem that the first one picks.

    Where ipywidgets is not installed: a line that says so for ``choice`` "auto", RunError for "widget".
    """
    try:
        import ipywidgets
    except ImportError:
        if choice == "widget":
            raise RunError('explore = "widget" needs ipywidgets: pip install ipywidgets, or explore = "page"') from None
        return "ipywidgets is not installed: the page has the same."
    found = [item for number, column in enumerate(columns, 1) for item in items(column, number)]
    labels = [(item.label, place) for place, item in enumerate(found)]
    pick = ipywidgets.Dropdown(options=labels, description="problem", layout={"width": "max-content"})
    view = ipywidgets.HTML(_part(found[0]))
    pick.observe(lambda change: setattr(view, "value", _part(found[change["new"]])), "value")
    return ipywidgets.VBox([pick, view])


def _part(item: Item) -> str:
    """One problem as HTML with the page's style."""
    return f'<style>{_STYLE}</style><div class="explorer"><div class="problem">{item.html}</div></div>'


def write(columns: Sequence[Column], path: Path) -> Path | None:
    """The page in a file, None if no attempt of any column has its texts: ``results/`` keeps those of our own problems."""
    if not any(items(column) for column in columns):
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page(columns).encode())
    return path


def _problems(column: Column) -> list[Problem]:
    """The problems of a column, none if they are elsewhere or were changed: attempts are then shown without asserts."""
    identity = column.reference.identity
    try:
        by_id = {problem.task_id: problem for problem in load_problems(identity["problems"], identity["eval_split"])}
        scored = [by_id[task] for task in identity["task_ids"]]
    except (ProblemError, KeyError):
        return []
    return scored if problem_set_hash(scored) == identity["scored"] else []


def _problem(task: int, problem: Problem | None, visible: int | str, cards: Sequence[str]) -> str:
    text = f"<p>{html.escape(problem.text)}</p>" if problem else ""
    lines = ""
    if problem:
        shown = problem.tests if visible == "all" else problem.tests[: int(visible)]
        hidden = problem.tests[len(shown) :] + problem.challenge_tests
        marked = [f"{html.escape(line)}  # visible" for line in shown] + [html.escape(line) for line in hidden]
        lines = f"<pre>{chr(10).join(marked)}</pre>"
    return f'<h2>Task {task}</h2>{text}{lines}<div class="cards">{"".join(cards)}</div>'


def _card(entry: Entry, task: int, problem: Problem | None) -> str:
    """One row's attempts on a problem, "" if their texts were not kept."""
    rows = entry.attempts[entry.seeds[0]][task][: entry.budget]
    if "prompt" not in rows[0]:
        return ""
    final = submitted(rows)
    verdict = (
        ("yes", "solved") if all(final["scored_mask"]) else ("no", f"{share(final['scored_mask']):.0%} of asserts")
    )
    tokens = sum(value for row in rows for name, value in row.items() if name.endswith("_tokens"))
    original = _line(problem.text) if problem else rows[0]["prompt"]
    labels = list(entry.runs[entry.seeds[0]].labels.values())
    shown = "".join(_attempt(row, labels[row["action"]], original, problem, row is final) for row in rows)
    return (
        f'<article class="card"><h3>{html.escape(TITLES[entry.strategy])} '
        f'<span class="{verdict[0]}">{verdict[1]}</span></h3><span class="dim">seed {entry.seeds[0]}, '
        f"{len(rows)} generation{'s' * (len(rows) > 1)}, {tokens} tokens</span>{shown}</article>"
    )


def _attempt(row: Row, action: str, original: str, problem: Problem | None, handed_in: bool) -> str:
    asserts = (problem.tests + problem.challenge_tests) if problem else ()
    failed = [
        f"{html.escape(asserts[i] if i < len(asserts) else f'assert {i + 1}')}: {outcome.replace('_', ' ')}"
        for i, outcome in enumerate(row["outcomes"])
        if outcome != "pass"
    ]
    said = "<br>".join(failed) or "all asserts pass"
    title = f"{row['attempt'] + 1}. {action}" + ", handed in" * handed_in
    return (
        f'<div class="attempt{" in" * handed_in}"><b>{title}</b><div>{changes(original, row["prompt"])}</div>'
        f'<pre>{html.escape(row["code"])}</pre><div class="{"no" if failed else "yes"}">{said}</div></div>'
    )


def changes(old: str, new: str) -> str:
    """``new`` as HTML, with words that ``old`` has not in ``<ins>``, and those of ``old`` that are gone in ``<del>``."""
    a, b = old.split(), new.split()
    found = []
    for kind, i, j, k, m in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        gone, come = html.escape(" ".join(a[i:j])), html.escape(" ".join(b[k:m]))
        if kind == "equal":
            found.append(come)
            continue
        found += [f"<del>{gone}</del>"] * bool(gone) + [f"<ins>{come}</ins>"] * bool(come)
    return " ".join(found)


def _line(text: str) -> str:
    return " ".join(text.split())
