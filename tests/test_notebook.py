"""The notebooks: what is committed keeps the rules, and they run headless from start to end."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import pytest
from tiny import save_llama, save_t5

from ppo_codet5.grid import plan
from ppo_codet5.notebooks import NOTEBOOKS, chosen, load_profile, parameters_of

ROOT = Path(__file__).resolve().parent.parent
COMMITTED = sorted(ROOT.glob("0*.ipynb"))
PROFILES = sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml"))
LOOPS = {"twin:train", "twin:evaluate", "own:train-bandit"}  # the loops, which may be as long as a class


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters_cell(notebook: Any) -> Any:
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    return cell


def check_outputs(notebook: Any, *folders: Path, noise: bool = False) -> None:
    """No errors, no warnings, no progress bars, no paths of one machine. ``noise``: a random model may write any sign."""
    unwanted = "Warning|Traceback" if noise else r"Warning|Traceback|\x1b|\r|\d%\|"
    for cell in code_cells(notebook):
        for output in cell.outputs:
            assert output.output_type in ("stream", "display_data", "execute_result"), output
            assert output.get("name") != "stderr", output["text"]
            data = output.get("data", {})
            text = output.get("text", "") + data.get("text/plain", "") + data.get("text/html", "")
            assert not re.search(unwanted, text), text
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
    elsewhere = {"log_level"}  # settings.read_parameters sets it
    unread = [name for name in names if not re.search(rf"\bconfig\.{name}\b|\"{name}\"", rest)]
    assert [name for name in unread if name not in elsewhere] == []


def test_what_is_read_of_the_parameters_is_there(notebook: Any) -> None:
    names = {node.target.id for node in ast.parse(parameters_cell(notebook).source).body}
    code = "\n".join(cell.source for cell in code_cells(notebook))
    read = re.findall(r"(?:(?<![\w.])|\b(?:self|world|agent|baselines)\.)config\.(\w+)", code)
    assert set(read) - {"json"} <= names


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_set_parameters_that_their_notebooks_have(profile: str) -> None:
    values = load_profile(profile)
    tasks = plan(profile, values, chosen(profile, None))
    assert {task.notebook for task in tasks} == set(chosen(profile, None)) and tasks[-1].notebook == "04_results.ipynb"
    ours = {"runs", "figure_dir", "export_dir", "link_from", "prompt_form"} - values.keys()
    given = set().union(*(task.parameters for task in tasks))
    assert given - ours == values.keys()  # what only a notebook left out knows is of no use
    assert tasks[-1].parameters["runs"] == values["run_dir"]
    for task in tasks:
        parameters_of(ROOT / task.notebook, task.parameters)
        assert task.parameters.get("run_dir") in (None, f"{values['run_dir']}/{Path(task.notebook).stem}")
    assert values["run_dir"].startswith("runs/")
    played = {"02": "chat", "01": "completion"} if "prompt_form" not in values else {"": values["prompt_form"]}
    forms = [task.parameters["prompt_form"] for task in tasks if task.notebook[:2] == "03"]
    assert sorted(forms) == sorted(f for n, f in played.items() if any(t.notebook.startswith(n) for t in tasks))


def test_seeds_have_folders_of_their_own_and_one_table() -> None:
    tasks = plan("laptop", load_profile("laptop"), NOTEBOOKS, seeds=(0, 7))
    assert len({task.output for task in tasks}) == len(tasks) == 2 * 4 + 1
    for task in tasks[:-1]:
        seed = task.parameters["seed"]
        assert task.output.parent == Path(f"runs/laptop/seed{seed}") == Path(task.parameters["run_dir"]).parent
    assert [task.parameters.get("runs") for task in tasks] == [None] * 8 + ["runs/laptop"]


def test_tags_are_unique_and_cells_short(notebook: Any) -> None:
    tags = Counter(tag for cell in notebook.cells for tag in cell.metadata.get("tags", []))
    assert not [tag for tag, count in tags.items() if count > 1]
    for cell in code_cells(notebook):
        lines, own = len(cell.source.splitlines()), set(cell.metadata.get("tags", []))
        long = own & (LOOPS | {"parameters"}) or re.search(r"^class ", cell.source, re.MULTILINE)
        assert lines <= (80 if long else 30), cell.source[:200]


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


def test_a_kernel_that_has_just_replied_is_stopped_without_a_complaint(tmp_path: Path) -> None:
    """Papermill stops a kernel at its last reply; here the kernel is slow to leave the handler of that reply."""
    slow = """
import time
handlers = get_ipython().kernel.shell_handlers
reply = handlers["kernel_info_request"]
async def reply_and_dawdle(*message):
    await reply(*message)
    time.sleep(0.2)
handlers["kernel_info_request"] = reply_and_dawdle
"""
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(slow)]), tmp_path / "n.ipynb")
    code = "from pathlib import Path; from ppo_codet5.running import execute; execute(Path('n.ipynb'), Path('o.ipynb'), {})"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


FORMS_OF_03 = {"_completion": "completion", "_chat": "chat"}  # by the end of the executed notebook's name
AGENT = ("ppo", "resampling", "random")
CONTROLS = ("resampling", "fixed_action", "schedule", "bandit")
STRATEGIES = {  # by notebook, and the figures
    "01_ppo_codet5": (AGENT, ("synthetic", "budget", "training", "actions")),
    "02_PPO_LlaMa": (AGENT, ("synthetic", "budget", "training", "actions")),
    "03_baselines": (
        [
            "direct",
            "mutation",
            "rewriting",
            "resampling",
            "random",
            "fixed_action",
            "mixture",
            "schedule",
            "bandit",
            "epic",
            "reflexion",
        ],
        ("baselines_budget",),
    ),
    "04_results": ([], tuple(f"results_{name}_1" for name in ("budget", "learning", "actions", "failures", "gaps"))),
}


def check_run(
    folder: Path,
    done: subprocess.CompletedProcess,
    *numbers: str,
    noise: bool = False,
    forms: Mapping[str, str] = FORMS_OF_03,
) -> None:
    """Every output clean, every strategy scored, every figure drawn; 03 once for each form of prompt."""
    stems = {stem: stem for stem in STRATEGIES if stem[:2] in numbers and stem[:2] != "03"}
    stems |= {f"03_baselines{end}": "03_baselines" for end in forms if "03" in numbers}
    assert {path.stem for path in (folder / "runs/smoke").glob("*.ipynb")} == stems.keys()
    for output, stem in stems.items():
        form = f"_{forms[output.removeprefix(stem)]}" if stem == "03_baselines" else ""
        notebook = nbformat.read(folder / "runs" / "smoke" / f"{output}.ipynb", as_version=4)
        cells = code_cells(notebook)
        assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
        check_outputs(notebook, folder, noise=noise)
        assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)
        strategies, figures = STRATEGIES[stem]
        for strategy in strategies:
            (path,) = (folder / "runs/smoke" / stem).glob(
                f"{strategy}_*{form}_seed0/summary.json" if form else f"{strategy}/summary.json"
            )
            assert json.loads(path.read_text())["scores"][strategy]["n"] == 4
            assert f"{strategy} " in done.stdout
        if stem == "03_baselines":
            (path,) = (folder / "runs/smoke" / stem).glob(f"bank_*{form}_seed0/summary.json")
            assert json.loads(path.read_text())["bank"]["problems"] == 4
        drawn = {p.name for p in (folder / "runs/smoke" / stem / "figures").iterdir() if p.stat().st_size > 5000}
        assert {f"{name}{form}.{kind}" for name in figures for kind in ("png", "svg")} <= drawn
    assert "done in" in done.stdout


def tiny_models(folder: Path, code: str = "t5") -> list[str]:
    """Arguments that name a code model of this shape and a rewriter, a few thousand random weights each."""
    rewriter = save_llama(folder / "rewriter", seed=1, context=4096)  # random text is many tokens, and prompts hold it
    coder = save_t5(folder / code) if code == "t5" else save_llama(folder / code, context=4096)
    models = {"code_model": coder, "rewriter_model": rewriter}
    return [part for name, path in models.items() for part in ("-p", f"{name}={path.relative_to(folder)}")]


@pytest.mark.slow
def test_they_run_headless_with_an_encoder_decoder(tmp_path: Path) -> None:
    form = ("-p", "prompt_form=completion")
    done = run(tmp_path, "--notebooks", "01", "03", "04", *form, *tiny_models(tmp_path))
    check_run(tmp_path, done, "01", "03", "04", noise=True, forms={"": "completion"})
    table = (tmp_path / "runs/smoke/04_results/results_table.md").read_text()
    assert "PPO" in table and "57.58" in table


def test_it_runs_headless_with_a_chat_model_that_writes_more_of_its_reply(tmp_path: Path) -> None:
    given = ("-p", "prompt_form=chat-fenced", "-p", "visible_tests=all")
    done = run(tmp_path, "--notebooks", "02", *given, *tiny_models(tmp_path, "llama"))
    check_run(tmp_path, done, "02", noise=True)
    assert "ppo-codet5 reproduce --profile coder" in done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_the_real_small_model_runs_01_03_and_04_and_what_is_complete_is_read(tmp_path: Path) -> None:
    numbers = ("01", "03", "04")
    done = run(tmp_path, "--notebooks", *numbers)
    check_run(tmp_path, done, *numbers)
    plan = {line.split()[0]: line.split()[1:] for line in done.stdout.split("LLM calls")[1].splitlines()[1:7]}
    assert plan.keys() == {"training", "ppo", "ppo_sampled", "resampling", "random", "sum"}
    assert plan["ppo"] == plan["random"] and int(plan["ppo"][0]) > 0
    assert plan["resampling"][2] == "0" and float(plan["sum"][1]) < float(plan["sum"][0])
    attempts = (tmp_path / "runs/smoke/01_ppo_codet5/ppo/attempts.jsonl").read_text().splitlines()
    assert len(attempts) <= sum(int(plan[name][0]) for name in ("training", "ppo", "ppo_sampled"))
    logs = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*.jsonl")}
    again = run(tmp_path, "--notebooks", "01", "03", "-p", "prompt_form=completion")
    assert again.stdout.count("is complete: read, not run again") == 3
    assert again.stdout.count(": complete, read from") == 12
    assert {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*.jsonl")} == logs
