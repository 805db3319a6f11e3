"""Config, the parameters of the notebooks and the profiles: three faces of the same settings."""

from __future__ import annotations

import codecs
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ppo_codet5.helpers.runs import RunError

from ppo_codet5.config import Config, ConfigError, ModelConfig, TrainingConfig, as_parameters
from ppo_codet5.notebooks import cell_of, load_profile

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ("01_ppo_codet5.ipynb", "02_PPO_LlaMa.ipynb")
ONLY_NOTEBOOKS = {"run_dir", "synthetic_updates"}  # train has --output-dir, and no synthetic task
PUBLISHED = {  # what the published README and its code name
    "model": [
        "codet5_model",
        "codellama_model",
        "rewriter_model",
        "embedder_model",
        "temperature",
        "top_p",
        "max_length",
        "torch_dtype",
        "device",
    ],
    "training": [
        "learning_rate",
        "gamma",
        "clip_epsilon",
        "update_epochs",
        "value_coef",
        "entropy_coef",
        "max_episodes",
        "max_steps_per_episode",
        "batch_size",
        "eval_episodes",
        "eval_frequency",
        "save_frequency",
    ],
    "environment": [
        "dataset_name",
        "dataset_split",
        "max_samples",
        "reward_scale",
        "penalty_scale",
        "success_reward",
        "timeout_seconds",
    ],
}


def all_settings(config: Config) -> dict[str, tuple[Any, Any]]:
    """(section, field) by full name."""
    found = {}
    for section in fields(config):
        if section.metadata:
            found[section.name] = (config, section)
        else:
            inner = getattr(config, section.name)
            found |= {f"{section.name}.{setting.name}": (inner, setting) for setting in fields(inner)}
    return found


SETTINGS = all_settings(Config())


def cell_lines(notebook: str) -> dict[str, str]:
    """The comment of each parameter in a notebook's cell."""
    cells = nbformat.read(ROOT / notebook, as_version=4).cells
    (cell,) = (cell for cell in cells if "parameters" in cell.metadata.get("tags", []))
    lines = cell.source.splitlines()
    return {line.split(":")[0]: line.split("  # ", 1)[1] for line in lines if not line.startswith("#")}


def test_the_published_names_and_values_are_there() -> None:
    config = Config()
    for section, names in PUBLISHED.items():
        assert set(names) <= {setting.name for setting in fields(getattr(config, section))}
    assert (config.model.codet5_model, config.environment.dataset_name) == ("Salesforce/codet5p-770m-py", "mbpp")
    training = config.training
    assert (training.learning_rate, training.gamma, training.clip_epsilon) == (3e-4, 0.99, 0.2)
    assert (training.max_episodes, training.max_steps_per_episode) == (1000, 10)
    rewards = config.environment
    assert (rewards.reward_scale, rewards.penalty_scale, rewards.success_reward) == (1.0, -0.1, 1.0)
    assert rewards.max_samples is None and rewards.visible_tests == 1


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_every_setting_is_a_parameter_of_the_same_type_and_meaning(notebook: str) -> None:
    types, words = cell_of(ROOT / notebook)["__annotations__"], cell_lines(notebook)
    parameters = set()
    for name, (_section, setting) in SETTINGS.items():
        parameter = setting.metadata["parameter"] or setting.name
        parameters.add(parameter)
        if parameter == "prompt_form" and parameter not in types:  # 01 knows one form only
            continue
        kind = types[parameter]
        said = kind if isinstance(kind, str) else kind.__name__
        ours = re.sub(r"(\w+) \| None", r"Optional[\1]", setting.type)
        assert re.sub(r"(\w+) \| (\w+)", r"Union[\1, \2]", ours) == said, name
        if parameter not in ("code_model", "prompt_form"):  # what chooses between the models is said in other words
            text = setting.metadata["help"].replace("null", "None").removesuffix(", in tokens")
            assert text.removesuffix("; training uses train") == words[parameter], name
    assert types.keys() - parameters == ONLY_NOTEBOOKS


@pytest.mark.parametrize("profile", sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml")))
def test_a_profile_means_the_same_in_a_config_and_in_its_notebook(profile: str) -> None:
    config, values = Config.from_profile(profile), load_profile(profile)
    notebook = NOTEBOOKS[values.get("prompt_form", "completion") != "completion"]
    cell = cell_of(ROOT / notebook)
    expected = {**{name: cell[name] for name in cell["__annotations__"]}, **values}
    flat = vars(config.to_parameters())
    assert flat.pop("prompt_form") == expected.pop("prompt_form", "completion")
    assert flat == {name: value for name, value in expected.items() if name in flat}
    of_03 = {"selection_limit", "schedule_beam", "mixture_parts", "resampling_steps", "bank_limit", "bank_draws"}
    of_03 |= {"reflexion_tests"}
    assert expected.keys() - flat.keys() - of_03 == ONLY_NOTEBOOKS


def test_the_defaults_are_the_a100_profile_with_one_assert_shown() -> None:
    config = Config.from_profile("codet5_a100")
    assert config.environment.visible_tests == "all"
    config.environment.visible_tests = 1
    config.environment.preamble, config.model.device, config.model.torch_dtype = "", "auto", "auto"
    config.model.codellama_model = ModelConfig().codellama_model
    assert config == Config()


def test_the_set_to_train_on_has_a_published_style_name_and_is_kept(tmp_path: Path) -> None:
    assert Config().environment.train_dataset_name is None and Config().to_parameters().train_problems is None
    config = Config.from_parameters({"problems": "humaneval", "train_problems": "mbpp"})
    assert (config.environment.dataset_name, config.environment.train_dataset_name) == ("humaneval", "mbpp")
    assert Config.load(config.save(tmp_path / "c.json")).to_parameters().train_problems == "mbpp"
    with pytest.raises(ConfigError, match=r"environment\.train_dataset_name = 3 is a int, expected str or None"):
        config.environment.train_dataset_name = 3


def test_the_coder_s_profiles_differ_in_the_protocol_only() -> None:
    leak_free, published = load_profile("coder"), load_profile("coder_published")
    assert leak_free.keys() == published.keys()
    differ = {name: (value, published[name]) for name, value in leak_free.items() if value != published[name]}
    assert differ == {"visible_tests": (1, "all"), "run_dir": ("runs/coder", "runs/coder_published")}
    flat = Config.from_profile("coder").to_parameters()
    assert (flat.code_model, flat.rewriter_model) == ("qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b")


def test_the_form_of_prompt_chooses_the_model() -> None:
    config = Config()
    assert config.to_parameters().code_model == "Salesforce/codet5p-770m-py"
    config.model.prompt_form = "chat"
    assert config.to_parameters().code_model == "codellama/CodeLlama-7b-Instruct-hf"
    assert Config.from_profile("codellama_a100").to_parameters().prompt_form == "chat-free"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("training.learning_rate", 0, "training.learning_rate = 0 must be more than 0"),
        ("training.learning_rate", "3e-4", "training.learning_rate = '3e-4' is a str, expected float"),
        ("training.max_episodes", 10.5, "training.max_episodes = 10.5 is a float, expected int"),
        ("training.gamma", 1.5, "training.gamma = 1.5 must be between 0 and 1"),
        (
            "model.torch_dtype",
            "float16",
            "model.torch_dtype = 'float16' must be one of auto, float32, bfloat16, int8, int7",
        ),
        ("model.max_length", 0, "model.max_length = 0 must be more than 0"),
        ("environment.max_samples", 0, "environment.max_samples = 0 must be more than 0, or None"),
        (
            "environment.dataset_split",
            "dev",
            "environment.dataset_split = 'dev' must be one of train, validation, test",
        ),
        ("environment.penalty_scale", 0.1, "environment.penalty_scale = 0.1 must be 0 or less"),
        ("cache.size_mb", 0, "cache.size_mb = 0 must be more than 0"),
        ("log_level", "LOUD", "log_level = 'LOUD' must be one of DEBUG, INFO, WARNING, ERROR"),
        ("training.lr", 0.1, "unknown setting training.lr; known: max_episodes, .*learning_rate"),
        ("sede", 1, "unknown setting sede .did you mean seed.*; known: model, training, environment, cache, seed"),
        (
            "training.max_steps",
            3,
            r"unknown setting training.max_steps \(did you mean training.max_steps_per_episode\?\); known",
        ),
        ("max_episodes", 3, r"unknown setting max_episodes \(did you mean training.max_episodes\?\); known"),
        ("model", {"temperature": 1.0}, "model = .* is a dict, expected ModelConfig"),
    ],
)
def test_a_wrong_value_names_the_field_the_value_and_what_is_allowed(name: str, value: Any, message: str) -> None:
    section, _, setting = name.rpartition(".")
    config = Config()
    target = getattr(config, section) if section else config
    with pytest.raises(ConfigError, match=f"^{message}$" if "known" not in message else message):
        setattr(target, setting, value)
    assert config == Config()


def test_values_that_do_not_go_together_are_refused() -> None:
    config = Config(training=TrainingConfig(max_episodes=70))
    with pytest.raises(RunError, match="max_episodes = 70 must be a multiple of episodes_per_update = 50"):
        config.to_parameters()


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("training.max_steps_per_episode", "training.max_steps_per_episode"),
        ("max_steps_per_episode", "training.max_steps_per_episode"),
        ("max_steps", "training.max_steps_per_episode"),
        ("cache_mb", "cache.size_mb"),
        ("seed", "seed"),
    ],
)
def test_a_setting_has_any_of_its_names(name: str, full: str) -> None:
    config, same = Config(), Config()
    config.put(name, 7)
    section, _, setting = full.rpartition(".")
    setattr(getattr(same, section) if section else same, setting, 7)
    assert config == same != Config()
    (parameter,) = as_parameters({name: 7})
    assert getattr(config.to_parameters(), parameter) == 7


def test_a_name_of_a_config_is_never_that_of_another_parameter() -> None:
    types = {name for notebook in NOTEBOOKS for name in cell_of(ROOT / notebook)["__annotations__"]}
    for name, (_, setting) in SETTINGS.items():
        parameter = setting.metadata["parameter"] or setting.name
        assert setting.name == parameter or setting.name not in types
        assert as_parameters({name: 1, "strategies": "all"}) == {parameter: 1, "strategies": "all"}


def test_the_code_model_is_the_one_that_the_form_asks() -> None:
    config = Config()
    config.put("code_model", "mine")
    config.put("prompt_form", "chat")
    config.put("code_model", "other")
    assert (config.model.codet5_model, config.model.codellama_model) == ("mine", "other")


def test_a_folder_is_no_file_to_write(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a folder: give the name of the file to write, e\.g\. .*config\.json"):
        Config().save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_save_and_load(tmp_path: Path) -> None:
    config = Config.from_profile("laptop")
    config.environment.max_samples, config.seed, config.training.learning_rate = 7, 3, 1
    path = config.save(tmp_path / "new" / "config.json")
    assert Config.load(path) == config and Config.load(path).training.learning_rate == 1.0
    path.write_text('{"training": {"gamma": 0.5}}')
    assert Config.load(path).training.gamma == 0.5 and Config.load(path).model == ModelConfig()


def test_a_byte_order_mark_is_no_part_of_a_config_and_home_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = Config.from_profile("laptop")
    assert config.save("~/new/config.json") == tmp_path / "new" / "config.json"
    marked = codecs.BOM_UTF8 + (tmp_path / "new" / "config.json").read_bytes()
    (tmp_path / "new" / "config.json").write_bytes(marked)
    assert Config.load("~/new/config.json") == config
    identity = json.dumps({"identity": {"seed": 7}}).encode()
    (tmp_path / "config.json").write_bytes(codecs.BOM_UTF8 + identity)
    assert Config.from_run("~").seed == 7
    profile = tmp_path / "mine.yaml"
    profile.write_bytes(codecs.BOM_UTF8 + b"seed: 9\ngamma: 0.5\n")
    assert Config.from_profile(str(profile)).seed == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "must be an object in braces, not list"),
        ('{"training": 3}', "training must be an object in braces, not int"),
        ('{"training": {"gama": 1}}', "unknown setting training.gama .did you mean training.gamma.*; known: "),
        ('{"optimizer": {}}', "unknown setting optimizer; known: model, training"),
        ('{"seed": -1}', "seed = -1 must be 0 or more"),
        ('{"hash": "1", "identity": {}}', "is the record of a run, not a config"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as refused:
        Config.load(path)
    assert str(path) in str(refused.value)
    with pytest.raises(ConfigError, match=r"no config at .*absent.json: ppo-codet5 config --output"):
        Config.load(tmp_path / "absent.json")


@given(st.sampled_from(sorted(SETTINGS)), st.one_of(st.none(), st.integers(), st.floats(), st.text(), st.booleans()))
def test_no_value_gets_in_that_the_notebooks_would_refuse(name: str, value: Any) -> None:
    """Whatever is tried: it is refused by name, or the parameters as a whole are as the notebooks check them."""
    config = Config()
    section, _, setting = name.rpartition(".")
    try:
        setattr(getattr(config, section) if section else config, setting, value)
    except ConfigError as error:
        assert name in str(error)
        return
    with_others = "max_episodes", "episodes_per_update"
    if setting not in with_others:
        config.to_parameters()


def test_the_table_in_the_docs_is_that_of_the_config() -> None:
    assert Config().table() in (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    for name, (section, setting) in SETTINGS.items():
        assert f"| `{name}` | `{json.dumps(getattr(section, setting.name))}` |" in Config().table()
