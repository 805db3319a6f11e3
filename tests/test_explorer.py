"""The page that shows attempts problem by problem: what is on it, and, in a real browser, what a click does."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ppo_codet5.helpers import results
from ppo_codet5.helpers.results import explorer
from ppo_codet5.helpers.results.runs import Column
from ppo_codet5.helpers.runs import RunError

ROOT = Path(__file__).resolve().parent.parent
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def columns() -> list[Column]:
    """The committed laptop results, of which prompts and programs were kept."""
    return results.columns(results.collect(str(ROOT / "results" / "laptop"))[0])[0]


class Text(HTMLParser):
    """The text of a page outside ``skip``, and its tags."""

    def __init__(self, skip: Sequence[str] = ("style", "script")) -> None:
        super().__init__()
        self.skip, self.inside, self.words, self.tags = skip, list[str](), list[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        self.inside += [tag] * (tag in self.skip)

    def handle_endtag(self, tag: str) -> None:
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        if not self.inside:
            self.words.append(data)


def text(page: str, *skip: str) -> str:
    parser = Text(("style", "script", *skip))
    parser.feed(page)
    return " ".join(" ".join(parser.words).split())


words = st.lists(st.text("ab<>&\"' ", min_size=1, max_size=4), max_size=8).map(" ".join)


@given(words, words)
def test_changes_show_the_new_text_and_what_is_gone(old: str, new: str) -> None:
    marked = explorer.changes(old, new)
    assert text(marked, "del") == " ".join(new.split()) and text(marked, "ins") == " ".join(old.split())
    assert ("<ins>" in marked or "<del>" in marked) == (old.split() != new.split())


def test_every_attempt_whose_text_was_kept_is_on_the_page(columns: list[Column]) -> None:
    column = columns[0]
    shown = {item.key: item for item in explorer.items(column)}
    assert len(shown) == len(column.reference.identity["task_ids"])
    solved = [item.solved for item in explorer.items(column)]
    assert solved == sorted(solved) and solved[0] < solved[-1]
    for place, task in enumerate(column.reference.identity["task_ids"]):
        page = html.unescape(shown[f"1-{task}"].html)
        for entry in column.entries.values():
            rows = entry.attempts[entry.seeds[0]][task][: entry.budget]
            assert all(row["code"] in page for row in rows if "code" in row)
            assert (results.TITLES[entry.strategy] in page) == ("code" in rows[0])
        rates = [entry.solved()[:, place].mean() for entry in column.entries.values()]
        assert shown[f"1-{task}"].solved == pytest.approx(sum(rates) / len(rates))


def test_the_page_is_whole_and_nothing_in_a_text_becomes_a_tag(columns: list[Column]) -> None:
    column = columns[0]
    entry = next(entry for entry in column.entries.values() if "code" in entry.rows()[0])
    row = entry.attempts[entry.seeds[0]][entry.task_ids[0]][0]
    before = row["code"], row["prompt"]
    try:
        row["code"], row["prompt"] = "</pre><script>alert(1)</script>", "<img src=x onerror=alert(1)>"
        page = explorer.page(columns)
    finally:
        row["code"], row["prompt"] = before
    parser = Text()
    parser.feed(page)
    assert parser.tags.count("script") == 1 and "img" not in parser.tags
    assert not re.search(r'(?:src|href)="?http', page)  # nothing from elsewhere


def test_without_texts_there_is_no_page(columns: list[Column], tmp_path: Path) -> None:
    assert explorer.write([], tmp_path / "explorer.html") is None and not (tmp_path / "explorer.html").exists()
    assert explorer.write(columns, tmp_path / "new" / "explorer.html") == tmp_path / "new" / "explorer.html"


def visible_after(page: str, script: str, folder: Path) -> tuple[str, str]:
    """The heading that Chromium shows, and the marked entry of the list, after a script has run in the loaded page."""
    file = folder / "page.html"
    report = (
        'const open = [...document.querySelectorAll(".problem")].filter(p => p.offsetParent !== null);'
        'const now = [...document.querySelectorAll("button.now")];'
        'document.title = JSON.stringify([open.map(p => p.querySelector("h2").textContent).join(), '
        "now.map(b => b.dataset.task).join()]);"
    )
    file.write_text(page.replace("</body>", f"<script>{script};{report}</script></body>"), encoding="utf-8")
    line = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    dom = subprocess.run([*line, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    title = re.search("<title>(.*?)</title>", dom.stdout)
    assert title
    heading, task = json.loads(html.unescape(title[1]))
    return heading, task


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_in_a_browser_a_click_changes_what_is_shown(columns: list[Column], tmp_path: Path) -> None:
    page, items = explorer.page(columns[:1]), explorer.items(columns[0])
    heading = [re.search("<h2>(.*?)</h2>", item.html)[1] for item in items]  # type: ignore[index]
    assert visible_after(page, "", tmp_path) == (heading[0], items[0].key)
    click = "document.querySelectorAll('.list button')[{}].click()"
    assert visible_after(page, click.format(5), tmp_path) == (heading[5], items[5].key)
    assert visible_after(page, click.format(5) + ";" + click.format(2), tmp_path) == (heading[2], items[2].key)
    find = (
        "const f = document.querySelector('#find'); f.value = {!r}; f.dispatchEvent(new Event('input'));"
        "[...document.querySelectorAll('.list button')].filter(b => b.offsetParent !== null)[0].click()"
    )
    wanted = items[7].key.partition("-")[2]
    numbers = [int(item.key.partition("-")[2]) for item in items]
    order = (
        "const o = document.querySelector('#order'); o.value = 'id'; o.dispatchEvent(new Event('change'));"
        "document.querySelector('.list button').click()"
    )
    assert visible_after(page, order, tmp_path)[1] == f"1-{min(numbers)}"
    assert visible_after(page, find.format(f"{wanted} "), tmp_path)[1] == items[7].key


def test_the_widget_shows_the_problem_that_is_picked(columns: list[Column]) -> None:
    pytest.importorskip("ipywidgets")
    pick, view = explorer.widget(columns).children
    found = [item for number, column in enumerate(columns, 1) for item in explorer.items(column, number)]
    assert [label for label, _ in pick.options] == [item.label for item in found] and found[0].html in view.value
    pick.value = 5
    assert found[5].html in view.value and found[0].html not in view.value


def test_without_ipywidgets_the_page_is_enough(columns: list[Column], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert explorer.widget(columns) == "ipywidgets is not installed: the page has the same."
    with pytest.raises(RunError, match="pip install ipywidgets"):
        explorer.widget(columns, "widget")
