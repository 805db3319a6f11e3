"""The notebooks and profiles: where they are, and the parameters that they have and set.

Those in the working folder, as ``ppo-codet5 notebooks`` copies them, are used in place of those that ship with the package.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

import ppo_codet5
from ppo_codet5.helpers import settings
from ppo_codet5.helpers.runs import RunError

NOTEBOOKS = ("01_ppo_codet5.ipynb", "02_PPO_LlaMa.ipynb", "03_baselines.ipynb", "04_results.ipynb")
FORMS = {"01_ppo_codet5.ipynb": "completion", "02_PPO_LlaMa.ipynb": "chat"}  # 03 plays the baselines of each
# Profiles of one code model leave out the notebook of the other one.
LEFT_OUT = {
    "codet5_a100": ("02_PPO_LlaMa.ipynb",),
    **dict.fromkeys(("codellama_a100", "coder", "coder_published"), ("01_ppo_codet5.ipynb",)),
}
_FLOAT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")  # 3e-4, which YAML reads as text


def shipped(name: str) -> Path:
    """A file that ships with the package: beside it in a checkout, inside it in an installed wheel."""
    return next((Path(p) / name for p in ppo_codet5.__path__ if (Path(p) / name).exists()), Path(name))


def resource(name: str) -> Path:
    """The user's copy of a file that ships with the package, in the working folder, else that file."""
    return Path(name) if Path(name).exists() else shipped(name)


def say_copies(profile: str, notebooks: Sequence[str] = ()) -> None:
    """A line that says which of these are the user's copies; none in a folder without copies, and in a checkout."""
    names = [name for name in (f"profiles/{profile}.yaml", *notebooks) if shipped(name).exists()]
    mine = [name for name in names if Path(name).exists() and not Path(name).samefile(shipped(name))]
    if mine:
        others = [name for name in names if name not in mine]
        print(f"your copies are used: {', '.join(mine)}" + f"; the package's {', '.join(others)}" * bool(others))


def profile_path(name: str) -> Path:
    """The file of a profile: of a name in ``profiles/``, or the path of a YAML file as it is."""
    return Path(name) if name.endswith((".yaml", ".yml")) else resource(f"profiles/{name}.yaml")


def load_profile(name: str) -> dict[str, Any]:
    """What a profile's file says; see :func:`profile_path`. Names and types are not checked."""
    path = profile_path(name)
    if not path.exists():
        known = sorted(p.stem for p in {*shipped("profiles").glob("*.yaml"), *Path("profiles").glob("*.yaml")})
        hint = settings.did_you_mean(name, dict(zip(known, known, strict=True)))
        raise RunError(
            f"unknown profile {name!r}{hint}; known profiles: {', '.join(dict.fromkeys(known))}, or the path of a .yaml file"
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise RunError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise RunError(f"{path} must hold one parameter per line, as name: value")
    return values


def overrides(pairs: list[str]) -> dict[str, Any]:
    """``name=value`` arguments, the values read as YAML."""
    values = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise RunError(f"parameter {pair!r} must have the form name=value")
        try:
            values[name] = float(value) if _FLOAT.fullmatch(value) else yaml.safe_load(value)
        except yaml.YAMLError:
            raise RunError(f"parameter {pair!r}: the value is not valid YAML, put text in quotes") from None
    return values


def chosen(profile: str, numbers: Sequence[str] | None) -> list[str]:
    """The notebooks to run, in their order: those with the given numbers, else those that the profile is for."""
    if numbers is None:
        return [name for name in NOTEBOOKS if name not in LEFT_OUT.get(Path(profile).stem, ())]
    if unknown := [n for n in numbers if not any(name.startswith(f"{n}_") for name in NOTEBOOKS)]:
        raise RunError(f"no notebook {', '.join(unknown)}; known numbers: {', '.join(n[:2] for n in NOTEBOOKS)}")
    return [name for name in NOTEBOOKS if name[:2] in numbers]


def cell_of(notebook: Path) -> dict[str, Any]:
    """What the parameters cell of a notebook defines: its defaults and, in ``__annotations__``, their types."""
    namespace: dict[str, Any] = {}
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]  # nbformat takes seconds to import
        cell = next(cell for cell in cells if "parameters" in cell["metadata"].get("tags", []))
        # Flat literals; without this module's "annotations" future, which makes types texts.
        exec(compile("".join(cell["source"]), "parameters", "exec", dont_inherit=True), namespace)
        return {"__annotations__": {}, **namespace}
    except Exception as error:  # a copy may have been changed into anything
        raise RunError(
            f"{notebook} has no cell tagged parameters that can be read ({type(error).__name__}: {error}); mend it, or "
            "copy the original again with ppo-codet5 notebooks --force"
        ) from None


def parameters_of(notebook: Path, values: dict[str, Any]) -> dict[str, Any]:
    """All parameters of the notebook with ``values`` over its defaults; a wrong name, type or range is an error."""
    namespace = cell_of(notebook)
    settings.check_parameters(values, namespace["__annotations__"])
    return vars(settings.read_parameters({**namespace, **values}))


def check_names(values: dict[str, Any], others: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """The parameters of each notebook with their types; raises RunError for a name that no notebook has, or another type.

    ``others``: as :func:`~.settings.check_parameters` has it.
    """
    types = {name: cell_of(resource(name))["__annotations__"] for name in NOTEBOOKS}
    every = {parameter for annotations in types.values() for parameter in annotations}
    settings.check_parameters({k: v for k, v in values.items() if k not in every}, dict.fromkeys(every), others)
    for known in types.values():
        settings.check_parameters({name: value for name, value in values.items() if name in known}, known)
    return types
