"""The house: which module of helpers/ and ppo_codet5/ imports which, read from the source, imports inside functions too."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {  # dotted name -> file; a room is a package, and its __init__ is its face
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("helpers", "ppo_codet5")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
ROOMS = {name for name, path in MODULES.items() if path.name == "__init__.py" and name.startswith("helpers.")}


def imports(name: str) -> set[str]:
    """The modules of ours that a module imports."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not ast.unparse(node).startswith("if __name__ ==")]  # run as a script
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, [base, (node.module or "").replace("ppo_codet5.helpers", "helpers")]))
            targets = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names]
        elif isinstance(node, ast.Import):
            targets = [alias.name.replace("ppo_codet5.helpers", "helpers") for alias in node.names]
        else:
            continue
        found |= {target for target in targets if target in MODULES}
    return found - {name}


def room(name: str) -> str:
    return next((r for r in ROOMS if name == r or name.startswith(r + ".")), "")


def shown(face: str) -> set[str]:
    """What a room says that it gives: the names in ``__all__``."""
    for node in ast.parse(MODULES[face].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def test_there_are_rooms_and_they_are_imported() -> None:
    assert {"helpers.models", "helpers.sandbox", "helpers.language", "helpers.results"} <= ROOMS
    assert "helpers.models" in imports("ppo_codet5.core") and "helpers.models.contract" in imports(
        "helpers.models.local"
    )


def test_no_import_goes_in_a_circle() -> None:
    graph = {name: imports(name) - {"ppo_codet5", "helpers"} for name in MODULES}
    assert list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


@pytest.mark.parametrize("name", MODULES)
def test_none_reaches_into_another_room(name: str) -> None:
    inner = {target for target in imports(name) if room(target) not in ("", room(name), target)}
    assert {target for target in inner if target.rpartition(".")[2] not in shown(room(target))} == set()


def test_the_contract_of_text_generation_imports_none_of_its_makers() -> None:
    assert not [target for target in imports("helpers.models.contract") if target.startswith("helpers.models")]
