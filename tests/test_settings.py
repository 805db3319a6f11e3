"""Parameters: a wrong name, type or range stops with one sentence, also in the cell that papermill injects."""

from __future__ import annotations

import inspect
import sys
import types
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml
from papermill.exceptions import PapermillExecutionError
from papermill.translators import PythonTranslator
from ppo_codet5.helpers.runs import RunError
from ppo_codet5.helpers.settings import OF_SOME_NOTEBOOKS, RULES, check_parameters, read_parameters, validate

from ppo_codet5.core import Parameters
from ppo_codet5.notebooks import chosen

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = [path for path in sorted(ROOT.glob("0[123]_*.ipynb"))]


def parameters_cell(notebook: Path) -> str:
    cells = nbformat.read(notebook, as_version=4).cells
    return next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))


CELL = parameters_cell(NOTEBOOKS[0])


def namespace(injected: dict | None = None, comment: str = "Parameters", cell: str = CELL) -> dict:
    """``globals()`` of a kernel after the parameters cell and the cell that papermill writes after it."""
    space: dict = {"In": ["", "import this_notebook", cell]}
    exec(compile(cell, "parameters", "exec", dont_inherit=True), space)
    if injected is not None:
        space["In"].append(PythonTranslator.codify(injected, comment))
        exec(space["In"][-1], space)
    return space


def test_defaults_are_valid_and_equal_the_package_s():
    config = read_parameters(namespace())
    assert {**vars(config), "prompt_form": "completion"} == vars(Parameters())
    assert validate(Parameters()) == Parameters()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_s_defaults_are_valid_and_every_parameter_has_a_help(notebook):
    cell = parameters_cell(notebook)
    config = read_parameters(namespace(cell=cell))
    inspected = {p.name: p for p in PythonTranslator.inspect({"source": cell})}
    assert inspected.keys() == vars(config).keys()  # papermill --help-notebook shows them all
    assert [name for name, p in inspected.items() if not p.help] == []


@pytest.mark.parametrize("profile", sorted((ROOT / "profiles").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_profile_is_valid_for_all_its_notebooks(profile):
    values = yaml.safe_load(profile.read_text(encoding="utf-8"))
    names = [name for name in chosen(profile.stem, None) if name[:2] != "04"]
    assert len(names) >= 2
    for name in names:
        assert read_parameters(namespace(values, cell=parameters_cell(ROOT / name))).problems == values["problems"]


def test_injected_values_count_and_numbers_become_floats_where_floats_are_meant():
    given = {
        "seed": 3,
        "temperature": 1,
        "eval_limit": 5,
        "visible_tests": "all",
        "generation_cache": None,
        "gamma": 1.0,
    }
    config = read_parameters(namespace(given))
    assert {name: getattr(config, name) for name in given} == given
    assert type(config.temperature) is float and type(config.seed) is int


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"learning_rte": 0.1},
            r"unknown parameter 'learning_rte' \(did you mean learning_rate\?\); known parameters: .*visible_tests",
        ),
        ({"seed": "1"}, r"parameter seed = '1' is a str, expected int"),
        ({"seed": 1.0}, r"parameter seed = 1.0 is a float, expected int"),
        ({"seed": True}, r"parameter seed = True is a bool, expected int"),
        ({"temperature": True}, r"parameter temperature = True is a bool, expected float"),
        ({"learning_rate": "3e-4"}, r"parameter learning_rate = '3e-4' is a str, expected float; .*write 3.0e-4"),
        ({"eval_limit": "all"}, r"parameter eval_limit = 'all' is a str, expected int or None"),
        ({"run_dir": None}, r"parameter run_dir = None is a NoneType, expected str"),
        ({"visible_tests": 1.5}, r"parameter visible_tests = 1.5 is a float, expected int or str"),
        ({"problems": ["mbpp"]}, r"parameter problems = \['mbpp'\] is a list, expected str"),
        ({"seed": -1}, r"parameter seed = -1 must be 0 or more"),
        ({"eval_limit": 0}, r"parameter eval_limit = 0 must be more than 0, or None"),
        ({"visible_tests": "some"}, r"parameter visible_tests = 'some' must be \"all\" or 1, 2, \.\.\."),
        ({"visible_tests": 0}, r"parameter visible_tests = 0 must be \"all\""),
        ({"dtype": "float16"}, r"parameter dtype = 'float16' must be one of auto, float32, bfloat16"),
        ({"eval_split": "tets"}, r"parameter eval_split = 'tets' must be one of train, validation, test"),
        ({"top_p": 0}, r"parameter top_p = 0.0 must be more than 0 and at most 1"),
        ({"gamma": 1.01}, r"parameter gamma = 1.01 must be between 0 and 1"),
        ({"gamma": float("nan")}, r"parameter gamma = nan must be between 0 and 1"),
        ({"penalty_scale": 0.1}, r"parameter penalty_scale = 0.1 must be 0 or less"),
        (
            {"max_episodes": 100, "episodes_per_update": 16},
            r"parameter max_episodes = 100 must be a multiple of episodes_per_update = 16, such as 96 or 112",
        ),
        ({"num_envs": 0}, r"parameter num_envs = 0 must be more than 0"),
    ],
    ids=lambda value: repr(value) if isinstance(value, dict) else "",
)
def test_one_sentence_says_what_is_wrong(values, sentence):
    with pytest.raises(RunError, match=f"^{sentence}") as error:
        read_parameters(namespace(values))
    assert "\n" not in str(error.value)


def test_only_papermill_s_cell_and_annotated_names_are_parameters():
    space = namespace({"not_a_parameter": 1}, comment="My cell")  # any other cell may define what it likes
    assert not hasattr(read_parameters(space), "not_a_parameter")
    with pytest.raises(RunError, match="unknown parameter 'not_a_parameter'"):
        read_parameters(namespace({"not_a_parameter": 1}))


def test_a_config_object_is_checked_in_the_same_way():
    with pytest.raises(RunError, match="clip_epsilon"):
        validate(Parameters(clip_epsilon=0))
    with pytest.raises(RunError, match="learning_rate = '3e-4' is a str, expected float"):
        validate(Parameters(learning_rate="3e-4"))
    part = types.SimpleNamespace(seed=1, max_steps=4)  # a notebook without PPO has fewer parameters
    assert validate(part) is part
    check_parameters({"a": 1, "b": None}, {"a": int, "b": "Optional[int]"})


def test_a_profile_for_all_notebooks_may_be_given_to_each():
    cells = [set(ast_names(parameters_cell(path))) for path in NOTEBOOKS if path.name[:2] in ("01", "02", "03")]
    assert set.union(*cells) - set.intersection(*cells) - {"prompt_form"} == OF_SOME_NOTEBOOKS
    space = namespace({"selection_limit": 8, "max_steps": 2})
    assert read_parameters(space).max_steps == 2 and not hasattr(read_parameters(space), "selection_limit")
    with pytest.raises(RunError, match="unknown parameter 'prompt_form'"):  # it would be another experiment
        read_parameters(namespace({"prompt_form": "chat"}))


def ast_names(cell: str) -> list[str]:
    return [line.split(":")[0] for line in cell.splitlines() if not line.startswith("#")]


def test_every_rule_is_about_a_parameter_that_exists():
    every = [*NOTEBOOKS, ROOT / "04_results.ipynb"]
    known = set().union(*(vars(read_parameters(namespace(cell=parameters_cell(path)))) for path in every))
    assert RULES.keys() <= known


def test_in_a_real_kernel_papermill_s_warning_becomes_an_error(tmp_path):
    source = "from ppo_codet5.helpers import settings\nconfig = settings.read_parameters(globals())\nprint(config.seed)"
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(CELL, metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{source}"),
        ],
        metadata={"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}},
    )
    path = str(tmp_path / "in.ipynb")
    nbformat.write(notebook, path)
    options = {"progress_bar": False, "cwd": str(tmp_path)}
    done = papermill.execute_notebook(path, str(tmp_path / "out.ipynb"), {"seed": 7}, **options)
    assert done.cells[-1].outputs[0].text == "7\n"
    with pytest.raises(PapermillExecutionError) as error:
        papermill.execute_notebook(path, str(tmp_path / "bad.ipynb"), {"sed": 7}, **options)
    assert error.value.ename == "RunError" and error.value.evalue.startswith(
        "unknown parameter 'sed' (did you mean seed?); known parameters:"
    )


def test_tensorboard_without_its_package_is_told_at_once(monkeypatch):
    assert validate(Parameters(tensorboard=True)).tensorboard
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(
        RunError, match=r"tensorboard = True needs the package tensorboard: pip install '.*tensorboard]'"
    ):
        validate(Parameters(tensorboard=True))


@pytest.mark.parametrize("config", [{}, None, "laptop", {"max_steps": 3}, Parameters])
def test_what_is_no_config_is_refused_in_a_sentence(config):
    with pytest.raises(
        RunError, match=r"has no parameters: give a ppo_codet5\.Config, such as Config\(\) or Config\.from"
    ):
        validate(config)


def test_parameters_take_keywords_only_and_document_their_defaults():
    assert all(p.kind is p.KEYWORD_ONLY for p in inspect.signature(Parameters).parameters.values())
    with pytest.raises(TypeError):
        Parameters(learning_rte=0.1)


def test_the_folders_that_notebooks_write_to_may_be_under_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/of-mine")
    config = read_parameters(namespace({"run_dir": "~/runs"}))
    assert config.run_dir == "/home/of-mine/runs"
