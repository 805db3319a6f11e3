"""``Config``: the settings of a training run by section, checked whenever one is set.

The same settings are the parameters of notebooks 01 and 02, whose names are flat; ``_parameter`` translates. Loads
neither torch nor transformers.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

from ppo_codet5.helpers import settings
from ppo_codet5.helpers.runs import RunError, check_writable, user_path, write_atomically
from ppo_codet5.notebooks import FORMS, cell_of, check_names, chosen, load_profile, profile_path, resource


class ConfigError(RunError):
    """A setting that does not exist or cannot have the value given; the message says what is allowed."""


def _option(default: Any, text: str, parameter: str = "") -> Any:
    """A setting with its meaning, and the notebooks' name for it where that is another."""
    return field(default=default, metadata={"help": text, "parameter": parameter})


def _parameter(setting: Field) -> str:
    return setting.metadata.get("parameter") or setting.name


class Section:
    """Refuses a name that is no setting and a value that the setting may not have, at the assignment."""

    def __setattr__(self, name: str, value: Any) -> None:
        known = {setting.name: setting for setting in fields(self)}  # type: ignore[arg-type]
        section = type(self).__name__.removesuffix("Config").lower()
        label = f"{section}.{name}" if section else name
        if name not in known:
            raise ConfigError(f"unknown setting {label}{_hint(label)}; known: {', '.join(known)}")
        kind = get_type_hints(type(self))[name]
        if isinstance(kind, type) and issubclass(kind, Section):
            if not isinstance(value, kind):
                raise ConfigError(f"{label} = {value!r} is a {type(value).__name__}, expected {kind.__name__}")
        else:
            try:
                settings.check_type(value, kind, label)
                settings.check_range(_parameter(known[name]), value, label)
            except RunError as error:
                raise ConfigError(str(error).partition("; YAML")[0]) from None
            if kind is float:
                value = float(value)
        super().__setattr__(name, value)


@dataclass
class ModelConfig(Section):
    """The models, and how they are sampled."""

    codet5_model: str = _option(
        "Salesforce/codet5p-770m-py",
        "writes the programs in completion form: alias, folder or hub name",
        "code_model",
    )
    codellama_model: str = _option(
        "codellama/CodeLlama-7b-Instruct-hf",
        "writes the programs in the chat forms: alias, folder or hub name",
        "code_model",
    )
    prompt_form: str = _option(
        "completion", '"completion" asks codet5_model; "chat", "chat-fenced" and "chat-free" ask codellama_model'
    )
    rewriter_model: str = _option(
        "meta-llama/Llama-3.2-3B-Instruct", "instruct model that rewrites prompts and reflects"
    )
    embedder_model: str = _option(
        "sentence-transformers/all-MiniLM-L6-v2",
        'sentence embeddings for observations: "minilm", hub name or local folder',
        "embedder",
    )
    word_vectors: str = _option(
        "fasttext-wiki-news-subwords-300", 'vectors that rank synonyms: "glove" or a gensim-downloader name'
    )
    temperature: float = _option(0.7, "of the code model, 0 is greedy")
    top_p: float = _option(0.9, "nucleus of both models")
    max_length: int = _option(256, "limit of a program, in tokens", "max_new_tokens")
    rewrite_temperature: float = _option(0.7, "of the rewriter")
    rewrite_style: str = _option(
        "specification", 'one "sentence" in place of the task, or a "specification", "elaboration" or "plan"'
    )
    rewrite_tokens: int = _option(96, "limit of a rewrite, in tokens")
    reflection_tokens: int = _option(96, "limit of a reflection, in tokens")
    torch_dtype: str = _option(
        "auto",
        '"float32" repeats exactly, "auto" is "bfloat16" where that is faster; CPUs: "int8", "int7"',
        "dtype",
    )
    device: str = _option("auto", '"auto", "cpu" or "cuda"')


@dataclass
class TrainingConfig(Section):
    """PPO, and the sizes of a run."""

    max_episodes: int = _option(1000, "training episodes")
    max_steps_per_episode: int = _option(10, "generations per episode, the budget", "max_steps")
    episodes_per_update: int = _option(50, "episodes of one PPO update")
    updates_ahead: int = _option(0, "later updates whose episodes may start early to fill the batch, 0 for none")
    learning_rate: float = _option(3e-4, "Adam, annealed linearly to 0")
    gamma: float = _option(0.99, "discount")
    gae_lambda: float = _option(0.95, "GAE")
    clip_epsilon: float = _option(0.2, "clip range of the probability ratio")
    update_epochs: int = _option(8, "passes over an update's transitions")
    minibatch_size: int = _option(64, "transitions of a minibatch, or more")
    value_coef: float = _option(0.5, "weight of the value loss")
    entropy_coef: float = _option(0.01, "weight of the entropy bonus")
    max_grad_norm: float = _option(0.5, "gradient clip")
    hidden_size: int = _option(64, "width of the two hidden layers of actor and critic")
    batch_size: int = _option(128, "prompts generated at once, halved when memory runs out")
    num_envs: int = _option(64, "problems stepped at once")
    eval_frequency: int = _option(0, "PPO updates between two looks at validation problems while training, 0 for none")
    eval_episodes: int = _option(20, "validation problems of each look")
    save_frequency: int = _option(1, "PPO updates between two checkpoints")
    tensorboard: bool = _option(False, "write the training metrics as TensorBoard events too, to the run directory")


@dataclass
class EnvironmentConfig(Section):
    """Problems, rewards, prompt edits."""

    dataset_name: str = _option(
        "mbpp", '"starter", "mbpp", "humaneval" or the path of a .jsonl in the MBPP schema', "problems"
    )
    train_dataset_name: str | None = _option(
        None, "train and tune on these instead, null for the same", "train_problems"
    )
    dataset_split: str = _option(
        "test", 'split that is scored, "validation" while tuning; training uses train', "eval_split"
    )
    max_samples: int | None = _option(None, "train on this many problems of the split, null for all", "train_limit")
    eval_samples: int | None = _option(None, "score this many problems of the split, null for all", "eval_limit")
    show_feedback: bool = _option(True, "rewriter, repair and agent read what the visible asserts say of an attempt")
    visible_tests: int | str = _option(1, 'asserts shown to models and agent: 1 (leak-free) or "all" (published)')
    reward_scale: float = _option(1.0, "factor on the sum")
    penalty_scale: float = _option(-0.1, "added at each step")
    success_reward: float = _option(1.0, "added when all visible asserts pass")
    timeout_seconds: float = _option(2.0, "least CPU limit of a program, more where the reference needs more")
    preamble: str = _option("", 'code that runs before each program, e.g. "import math, re"')
    actions: str = _option("direct,mutation,rewriting", 'what the agent may do; "repair" and "stop" may be added')
    observation: str = _option("full", 'what the agent sees: "full", or "scalars" without the embeddings')
    edit_base: str = _option(
        "original", 'what an edit starts from: "original", or "best", the text with the best visible score'
    )
    mutation_rate: float = _option(0.25, "probability that a word that may change does")
    min_similarity: float = _option(0.8, "least cosine between a mutant and the original text")
    memory_size: int = _option(3, "reflections that enter a rewrite, 0 for none")
    memory_scope: str = _option(
        "problem",
        '"problem", or "run": reflections of like training problems too; a saved agent has none',
    )


@dataclass
class CacheConfig(Section):
    """Completions on disk. (Models and data are under ``$PPO_CODET5_CACHE``.)"""

    generations: str | None = _option(
        "cache/generations", "completions are kept here and reused, null for no cache", "generation_cache"
    )
    size_mb: int = _option(2048, "size limit of that folder, the oldest completions go first", "cache_mb")


@dataclass
class Config(Section):
    """All settings; the defaults are the published ones, with the leak-free protocol (``visible_tests`` 1).

    >>> config = Config()
    >>> config.training.learning_rate
    0.0003
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    seed: int = _option(0, "every random stream of the run derives from it")
    log_level: str = _option("INFO", 'least level of messages: "DEBUG", "INFO" (progress), "WARNING" or "ERROR"')

    def put(self, name: str, value: Any) -> None:
        """Set one setting by any of its names: ``training.max_steps_per_episode``, without the section, ``max_steps``."""
        if name == "code_model":
            name = "codet5_model" if self.model.prompt_form == "completion" else "codellama_model"
        if name not in (names := _names()):
            raise ConfigError(f"unknown setting {name}{_hint(name)}; ppo-codet5 config writes a file with all of them")
        section, _, setting = names[name][0].rpartition(".")
        setattr(getattr(self, section) if section else self, setting, value)

    def save(self, path: str | Path) -> Path:
        """Write the settings as JSON, by section."""
        target = user_path(path)
        if target.is_dir():
            raise ConfigError(f"{path} is a folder: give the name of the file to write, e.g. {target / 'config.json'}")
        check_writable(target.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, (json.dumps(asdict(self), indent=2) + "\n").encode())
        return target

    @classmethod
    def load(cls, path: str | Path) -> Config:
        """Read what ``save`` wrote; settings that the file leaves out have their defaults."""
        try:
            values = json.loads(user_path(path).read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            raise ConfigError(f"no config at {path}: ppo-codet5 config --output {path} writes one") from None
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be read ({error.strerror}): give a file as ppo-codet5 config writes it"
            ) from None
        except ValueError as error:
            raise ConfigError(f"{path} is not valid JSON: {error}") from None
        if isinstance(values, dict) and "identity" in values:
            raise ConfigError(f"{path} is the record of a run, not a config; ppo-codet5 config writes one")
        try:
            return _fill(cls(), values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    @classmethod
    def from_profile(cls, name: str) -> Config:
        """The defaults with a profile over them: its name, or the path of a .yaml file with notebook parameters."""
        values, config = profile_parameters(name), cls()
        served = [notebook for notebook in chosen(name, None) if notebook in FORMS]
        for notebook in reversed(served):  # 01 last: it decides the form where a profile serves both
            config = cls.from_parameters({**cell_of(resource(notebook)), **values}, config.model)
        return config

    @classmethod
    def from_parameters(cls, values: Mapping[str, Any], model: ModelConfig | None = None) -> Config:
        """The defaults with notebook parameters over them; names that are no settings of ours are passed over.

        ``code_model`` is the model that ``prompt_form`` asks ("completion" if there is none); the other one is that
        of ``model``.
        """
        values, config = {"prompt_form": "completion", **values}, cls()
        other = "codellama_model" if values["prompt_form"] == "completion" else "codet5_model"
        for section in (config.model, config.training, config.environment, config.cache, config):
            for setting in fields(section):
                if setting.name == other:
                    setattr(section, other, getattr(model or ModelConfig(), other))
                elif _parameter(setting) in values:
                    setattr(section, setting.name, values[_parameter(setting)])
        return config

    @classmethod
    def from_run(cls, folder: str | Path) -> Config:
        """The settings that a run directory was made with."""
        path = user_path(folder) / "config.json"
        try:
            identity = json.loads(path.read_text(encoding="utf-8-sig"))["identity"]
        except (OSError, ValueError, LookupError, TypeError):
            raise ConfigError(f"{path} is not the record of a run") from None
        return cls.from_parameters(identity)

    def to_parameters(self) -> SimpleNamespace:
        """The parameters of the notebooks, flat; ``code_model`` is the one that ``prompt_form`` asks."""
        flat = {
            _parameter(setting): getattr(section, setting.name)
            for section in (self.model, self.training, self.environment, self.cache, self)
            for setting in fields(section)
            if setting.metadata
        }
        completion = self.model.prompt_form == "completion"
        flat["code_model"] = self.model.codet5_model if completion else self.model.codellama_model
        return settings.validate(SimpleNamespace(**flat))

    def table(self) -> str:
        """All settings with defaults and meaning, as a Markdown table."""
        lines = ["| setting | default | meaning | notebook parameter |", "|---|---|---|---|"]
        for name, section in (*((f.name, getattr(self, f.name)) for f in fields(self)), ("", self)):
            if isinstance(section, Section):
                lines += [
                    f"| `{name}{'.' if name else ''}{s.name}` | `{json.dumps(getattr(section, s.name))}` "
                    f"| {s.metadata['help']} | `{_parameter(s)}` |"
                    for s in fields(section)  # type: ignore[arg-type]
                    if s.metadata
                ]
        return "\n".join(lines)


@functools.cache
def _names() -> dict[str, tuple[str, str]]:
    """The full name of each setting, such as ``cache.size_mb``, and its parameter, by all that it may be called."""
    found: dict[str, tuple[str, str]] = {}
    for top in fields(Config):
        inner = get_type_hints(Config)[top.name]
        for setting in fields(inner) if not top.metadata else (top,):
            full = top.name if setting is top else f"{top.name}.{setting.name}"
            for name in (full, setting.name, _parameter(setting)):
                found.setdefault(name, (full, _parameter(setting)))
    return found


def _hint(label: str) -> str:
    names = {name: full for name, (full, _) in _names().items()}
    return settings.did_you_mean(label.rpartition(".")[2], names)


def parameter_names() -> dict[str, str]:
    """The parameter of each setting, by all that it may be called."""
    return {name: parameter for name, (_, parameter) in _names().items()}


def as_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values under the notebooks' names, where they have names of a config; other names stay as they are."""
    names = parameter_names()
    return {names.get(name, name): value for name, value in values.items()}


def profile_parameters(name: str) -> dict[str, Any]:
    """A profile's values under the notebooks' names; an error in one names the profile's file."""
    values = as_parameters(load_profile(name))
    try:
        check_names(values, parameter_names())
    except RunError as error:
        raise RunError(f"{profile_path(name)}: {error}") from None
    return values


def _fill(section: Any, values: Any, label: str = "the file") -> Any:
    """Set what ``values`` has; a section may be given in part."""
    if not isinstance(values, dict):
        raise ConfigError(f"{label} must be an object in braces, not {type(values).__name__}")
    for name, value in values.items():
        inner = getattr(section, name, None)
        if isinstance(inner, Section):
            _fill(inner, value, name)
        else:
            setattr(section, name, value)
    return section
