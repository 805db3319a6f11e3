"""The notebooks: what is committed keeps the rules, and they run headless from start to end."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import nbformat
import pytest
from ppo_codet5.helpers.runs import RunError
from tiny import save_llama, save_t5

from ppo_codet5.reproduce import NOTEBOOKS, load_profile, parameters_of

ROOT = Path(__file__).resolve().parent.parent
COMMITTED = sorted(ROOT.glob("0*.ipynb"))
PROFILES = sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml"))
LOOPS = {"twin:train", "twin:evaluate"}  # the loops, which may be as long as a class


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters_cell(notebook: Any) -> Any:
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    return cell


def check_outputs(notebook: Any, *folders: Path) -> None:
    """No errors, no warnings, no progress bars, no paths of one machine."""
    for cell in code_cells(notebook):
        for output in cell.outputs:
            assert output.output_type in ("stream", "display_data", "execute_result"), output
            assert output.get("name") != "stderr", output["text"]
            data = output.get("data", {})
            text = output.get("text", "") + data.get("text/plain", "") + data.get("text/html", "")
            assert not re.search(r"Warning|Traceback|\x1b|\r|\d%\|", text), text
            places = ["/home/", "/root/", "/tmp/", "/Users/", str(ROOT), sys.prefix, *map(str, folders)]
            assert not any(place in text for place in places), text


@pytest.fixture(params=COMMITTED, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> Any:
    return nbformat.read(request.param, as_version=4)


# As they are committed


def test_there_is_a_notebook_for_each_that_is_reproduced() -> None:
    assert set(NOTEBOOKS) <= {path.name for path in COMMITTED}


def test_it_is_valid_and_asks_for_the_usual_kernel(notebook: Any) -> None:
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")


def test_parameters_are_flat_literals_with_help(notebook: Any) -> None:
    pattern = re.compile(r'\w+: (?:int|float|str|bool|"(?:Optional|Union)\[[\w, ]+\]") = (?P<value>.+?)  # [^=]+')
    for line in parameters_cell(notebook).source.splitlines():
        if not line.startswith("# "):
            match = pattern.fullmatch(line)
            assert match, line
            ast.literal_eval(match["value"])


def test_papermill_lists_every_parameter_with_its_help(notebook: Any, tmp_path: Path) -> None:
    import papermill

    nbformat.write(notebook, tmp_path / "notebook.ipynb")
    listed = papermill.inspect_notebook(str(tmp_path / "notebook.ipynb"))
    tree = ast.parse(parameters_cell(notebook).source)
    assert list(listed) == [node.target.id for node in tree.body]
    assert [name for name, entry in listed.items() if not entry["help"] or entry["inferred_type_name"] == "None"] == []


def test_every_parameter_is_read_somewhere(notebook: Any) -> None:
    names = [node.target.id for node in ast.parse(parameters_cell(notebook).source).body]
    rest = "\n".join(cell.source for cell in code_cells(notebook) if cell != parameters_cell(notebook))
    assert [name for name in names if not re.search(rf"\bconfig\.{name}\b|\"{name}\"", rest)] == []


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_set_parameters_that_a_notebook_has(profile: str) -> None:
    refusals = []
    for path in COMMITTED:
        if any("parameters" in cell.metadata.get("tags", []) for cell in nbformat.read(path, as_version=4).cells):
            try:
                values = parameters_of(path, load_profile(profile))
            except RunError as error:
                refusals.append(f"{path.name}: {error}")
            else:
                assert values["run_dir"].startswith("runs/")
                return
    pytest.fail("\n".join(refusals))


def test_tags_are_unique_and_cells_short(notebook: Any) -> None:
    tags = Counter(tag for cell in notebook.cells for tag in cell.metadata.get("tags", []))
    assert not [tag for tag, count in tags.items() if count > 1]
    for cell in code_cells(notebook):
        lines, own = len(cell.source.splitlines()), set(cell.metadata.get("tags", []))
        long = own & (LOOPS | {"parameters"}) or re.search(r"^class ", cell.source, re.MULTILINE)
        assert lines <= (82 if long else 30), cell.source[:200]


def test_no_shell_no_questions_no_tokens_no_absolute_paths(notebook: Any) -> None:
    for cell in notebook.cells:
        assert not re.search(r"^\s*[!%]|\binput\(|\bhf_[A-Za-z0-9]{8}", cell.source, re.MULTILINE), cell.source[:200]
        assert not re.search(r"['\" (](?:/home|/root|/tmp|/Users|C:)[/\\]", cell.source), cell.source[:200]
        assert not re.search(r"[\U0001F000-\U0001FAFF\u2600-\u27BF]", cell.source), cell.source[:200]


def test_committed_outputs_are_clean_and_in_order(notebook: Any) -> None:
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts in ([None] * len(counts), list(range(1, len(counts) + 1)))
    check_outputs(notebook)


# As they run


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    env.pop("PYTEST_CURRENT_TEST", None)
    command = [sys.executable, "-m", "ppo_codet5.reproduce", "--profile", "smoke", *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert done.stderr == ""
    return done


def check_run(folder: Path, done: subprocess.CompletedProcess) -> None:
    for name in NOTEBOOKS:
        notebook = nbformat.read(folder / "runs" / "smoke" / name, as_version=4)
        cells = code_cells(notebook)
        assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
        check_outputs(notebook, folder)
        assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)
    for strategy in ("ppo", "resampling", "random"):
        summary = json.loads((folder / "runs/smoke" / strategy / "summary.json").read_text())
        assert summary["scores"][strategy]["n"] == 4
        assert f"{strategy} " in done.stdout
    figures = {path.name for path in (folder / "runs" / "smoke" / "figures").iterdir() if path.stat().st_size > 5000}
    assert {f"{name}.{kind}" for name in ("synthetic", "budget", "training", "actions") for kind in ("png", "svg")} <= (
        figures
    )
    assert "done in" in done.stdout


def test_it_runs_headless_with_the_real_small_model(tmp_path: Path) -> None:
    check_run(tmp_path, run(tmp_path))


def tiny_models(folder: Path) -> list[str]:
    """Arguments that name an encoder-decoder and a rewriter, a few thousand random weights each."""
    models = {"code_model": save_t5(folder / "t5"), "rewriter_model": save_llama(folder / "llama")}
    return [part for name, path in models.items() for part in ("-p", f"{name}={path.relative_to(folder)}")]


def test_it_runs_headless_with_an_encoder_decoder(tmp_path: Path) -> None:
    check_run(tmp_path, run(tmp_path, *tiny_models(tmp_path)))


@pytest.mark.slow
def test_what_is_complete_is_read_and_not_run_again(tmp_path: Path) -> None:
    names = tiny_models(tmp_path)
    run(tmp_path, *names)
    logs = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*.jsonl")}
    again = run(tmp_path, *names)
    check_run(tmp_path, again)
    assert again.stdout.count("is complete: read, not run again") == 3
    assert {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*.jsonl")} == logs
