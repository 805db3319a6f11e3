"""Parameters of the notebooks: read from the tagged cell, checked for name, type and range."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import os
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Optional, Union

from .runs import RunError, logger

NOT_IN_IDENTITY = (  # whatever their values, a run's content is the same
    *("run_dir", "generation_cache", "cache_mb", "synthetic_updates", "log_level", "save_frequency", "tensorboard"),
)
# Added once there were runs: with this value a run is what it was without the parameter.
LATER = {"show_feedback": True}
_FOLDERS = {"run_dir", "figure_dir", "export_dir"}  # where the notebooks write
# Parameters that some of notebooks 01 to 03 have: a profile serves all, so the others pass over them.
OF_SOME_NOTEBOOKS = set(
    [
        "strategies",
        "selection_limit",
        "mixture_parts",
        "resampling_steps",
        "bank_draws",
        "bank_limit",
        "schedule_beam",
        "bandit_ridge",
        "bandit_scale",
        "epic_elitism",
        "epic_mutants",
        "epic_population",
        "epic_variant",
        "reflexion_memory",
        "reflexion_tests",
        "reflexion_variant",
        "clip_epsilon",
        "entropy_coef",
        "eval_episodes",
        "eval_frequency",
        "gae_lambda",
        "gamma",
        "hidden_size",
        "learning_rate",
        "max_grad_norm",
        "minibatch_size",
        "save_frequency",
        "synthetic_updates",
        "tensorboard",
        "update_epochs",
        "updates_ahead",
        "value_coef",
    ]
)
_MORE_THAN_0 = (
    "max_new_tokens rewrite_tokens reflection_tokens max_steps num_envs max_episodes episodes_per_update update_epochs "
    "minibatch_size batch_size hidden_size synthetic_updates cache_mb timeout_seconds learning_rate max_grad_norm "
    "clip_epsilon success_reward save_frequency eval_episodes epic_population epic_mutants reflexion_memory "
    "schedule_beam mixture_parts resampling_steps bank_draws bandit_ridge"
)
_NOT_LESS_THAN_0 = (
    "seed temperature rewrite_temperature memory_size value_coef entropy_coef updates_ahead eval_frequency "
    "reflexion_tests"
)
_FROM_0_TO_1 = "mutation_rate min_similarity gamma gae_lambda"
_LIMITS = "train_limit eval_limit selection_limit bank_limit"
_CHOICES = {
    "memory_scope": ("problem", "run"),
    "edit_base": ("original", "best"),
    "rewrite_style": ("sentence", "specification", "elaboration", "plan"),
    "observation": ("full", "scalars"),
    "dtype": ("auto", "float32", "bfloat16", "int8", "int7"),
    "device": ("auto", "cpu", "cuda"),
    "log_level": ("DEBUG", "INFO", "WARNING", "ERROR"),
    "eval_split": ("train", "validation", "test"),
    "prompt_form": ("completion", "chat", "chat-fenced", "chat-free"),
    "epic_variant": ("paper", "public"),
    "reflexion_variant": ("paper", "public"),
    "explore": ("auto", "page", "widget"),
}
Rule = tuple[Callable[[Any], bool], str]  # whether a value is allowed, and the values that are, in words
RULES: dict[str, Rule] = {
    **dict.fromkeys(_MORE_THAN_0.split(), (lambda v: v > 0, "more than 0")),
    **dict.fromkeys(_FROM_0_TO_1.split(), (lambda v: 0 <= v <= 1, "between 0 and 1")),
    **dict.fromkeys(_NOT_LESS_THAN_0.split(), (lambda v: v >= 0, "0 or more")),
    **dict.fromkeys(_LIMITS.split(), (lambda v: v is None or v > 0, "more than 0, or None")),
    **{name: (allowed.__contains__, "one of " + ", ".join(allowed)) for name, allowed in _CHOICES.items()},
    "visible_tests": (lambda v: v == "all" or (isinstance(v, int) and v > 0), '"all" or 1, 2, ...'),
    "top_p": (lambda v: 0 < v <= 1, "more than 0 and at most 1"),
    "penalty_scale": (lambda v: v <= 0, "0 or less"),
    "reward_scale": (lambda v: v > 0, "more than 0"),
}


def bare_name(model: str) -> str:
    """A model's name without where it runs: ``openai:NAME`` of ``openai:NAME@URL``, and NAME of ``ray:NAME@N``.

    A server samples in its own way, so it is part of the name; replicas write what one process writes.
    """
    name = model.rpartition("@")[0] if model.startswith(("openai:", "ray:")) else model
    return name.removeprefix("ray:")


def model_label(model: str) -> str:
    """The last part of a model's name, for tables and folders."""
    return Path(bare_name(model).removeprefix("openai:")).name


def decisive(config: Any) -> dict[str, Any]:
    """The parameters that decide what a run contains: its identity. A server may move, replicas may be added."""
    values = {
        name: value
        for name, value in vars(config).items()
        if name not in NOT_IN_IDENTITY and (name, value) not in LATER.items()
    }
    return {
        name: bare_name(value) if name in ("code_model", "rewriter_model") else value for name, value in values.items()
    }


def validate(config: Any) -> Any:
    """The parameters as one flat object, and messages set to their ``log_level``.

    ``config`` has the parameters as attributes, or is a ``ppo_codet5.Config``. Raises :class:`RunError` that names the
    parameter, its value and what is allowed.
    """
    if isinstance(config, type) or not hasattr(config, "__dict__"):
        raise RunError(
            f"{config!r} has no parameters: give a ppo_codet5.Config, such as Config() or Config.from_profile('laptop')"
        )
    if hasattr(config, "to_parameters"):
        config = config.to_parameters()
    kinds = [vars(kind).get("__annotations__", {}) for kind in reversed(type(config).__mro__)]
    if annotations := {name: kind for each in kinds for name, kind in each.items()}:  # a dataclass does not check types
        check_parameters(vars(config), annotations)
    for name in RULES.keys() & vars(config).keys():
        check_range(name, getattr(config, name), f"parameter {name}")
    if over := getattr(config, "max_episodes", 0) % (each := getattr(config, "episodes_per_update", 1)):
        near = [count for count in (config.max_episodes - over, config.max_episodes - over + each) if count]
        raise RunError(
            f"parameter max_episodes = {config.max_episodes} must be a multiple of "
            f"episodes_per_update = {each}, such as {' or '.join(map(str, near))}"
        )
    if getattr(config, "tensorboard", False) and importlib.util.find_spec("tensorboard") is None:
        raise RunError(
            "parameter tensorboard = True needs the package tensorboard: pip install '.[tensorboard]' in the project's folder"
        )
    for name in ("code_model", "rewriter_model"):
        if str(getattr(config, name, "")).startswith("openai:") and getattr(config, "generation_cache", None) is None:
            raise RunError(
                f"parameter generation_cache = None with {name} = {getattr(config, name)!r}: a server cannot repeat "
                "its replies, so they must be kept; name a folder"
            )
    if hasattr(config, "log_level"):
        logger.setLevel(config.log_level)
    return config


def check_range(name: str, value: Any, label: str) -> None:
    """Raise :class:`RunError` if the value is not one that the parameter may have; ``label`` names it to the user."""
    if name in RULES and not RULES[name][0](value):
        raise RunError(f"{label} = {value!r} must be {RULES[name][1]}")


def check_type(value: Any, kind: Any, label: str) -> None:
    """Raise :class:`RunError` if the value is not of the annotated type ``kind``; an int is a float too."""
    if isinstance(kind, str):
        kind = eval(kind, {"Optional": Optional, "Union": Union})
    allowed = typing.get_args(kind) if typing.get_origin(kind) in (Union, types.UnionType) else (kind,)
    if isinstance(value, int) and not isinstance(value, bool) and float in allowed and int not in allowed:
        return  # YAML and JSON write 1 where 1.0 is meant
    if not any(type(value) is option for option in allowed):
        names = " or ".join("None" if option is type(None) else option.__name__ for option in allowed)
        hint = "; YAML reads 3e-4 as text, write 3.0e-4" if float in allowed and "e" in str(value) else ""
        raise RunError(f"{label} = {value!r} is a {type(value).__name__}, expected {names}{hint}")


def did_you_mean(name: str, known: Mapping[str, str]) -> str:
    """A hint for an error's sentence, " (did you mean X?)", "" if no name is like it.

    ``known`` has what may have been meant, and what that is to be called here.
    """
    near = difflib.get_close_matches(name, known, 1)
    return f" (did you mean {known[near[0]]}?)" if near else ""


def check_parameters(
    values: Mapping[str, Any], annotations: Mapping[str, Any], others: Mapping[str, str] | None = None
) -> None:
    """Raise :class:`RunError` if a name is not in ``annotations`` or a value is not of the type given there.

    ``others``: the parameters by what else they may be called, for a hint at what was meant.
    """
    for name, value in values.items():
        if name not in annotations:
            hint = did_you_mean(name, {**(others or {}), **{known: known for known in annotations}})
            raise RunError(f"unknown parameter {name!r}{hint}; known parameters: {', '.join(sorted(annotations))}")
        check_type(value, annotations[name], f"parameter {name}")


def read_parameters(namespace: Mapping[str, Any]) -> types.SimpleNamespace:
    """The notebook's parameters as one object, checked.

    ``namespace`` is ``globals()`` right after the parameters cell: its annotated names are the parameters. Papermill
    only warns about a name that the cell does not have; here it is an error, found in the cell that papermill injects.
    """
    annotations = {name: kind for name, kind in namespace.get("__annotations__", {}).items() if name in namespace}
    for source in namespace.get("In", []):
        if source.startswith("# Parameters\n"):
            assigned = [
                target for node in ast.parse(source).body if isinstance(node, ast.Assign) for target in node.targets
            ]
            names = [t.id for t in assigned if isinstance(t, ast.Name)]
            ours = [name for name in names if name in annotations or name not in OF_SOME_NOTEBOOKS]
            check_parameters({name: namespace[name] for name in ours}, annotations)
    values = {name: namespace[name] for name in annotations}
    check_parameters(values, annotations)
    values |= {name: os.path.expanduser(values[name]) for name in _FOLDERS & values.keys()}
    numbers = {name: float(value) for name, value in values.items() if annotations[name] in (float, "float")}
    return validate(types.SimpleNamespace(**{**values, **numbers}))
