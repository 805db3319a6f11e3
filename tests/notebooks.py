"""What a notebook defines, as a module: tests call the very cells that a reader sees."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent


def module_of(name: str, **changes: object) -> types.ModuleType:
    """A new module with the definitions of a notebook: its cells tagged ``twin:``, ``code-model`` and ``own:``.

    Its ``config`` holds the notebook's parameters with ``changes``, and no cell that loads, trains or prints has run.
    """
    module = types.ModuleType(f"notebook_{name[:2]}_{len(sys.modules)}")
    sys.modules[module.__name__] = module  # dataclasses look their module up
    for cell in nbformat.read(ROOT / name, as_version=4).cells:
        tags = cell.metadata.get("tags", [])
        if any(tag in ("parameters", "code-model") or tag.startswith(("twin:", "own:")) for tag in tags):
            exec(compile(cell.source, f"{name} {tags[0]}", "exec", dont_inherit=True), vars(module))
        if "parameters" in tags:
            defaults = {key: getattr(module, key) for key in module.__annotations__}
            assert changes.keys() <= defaults.keys(), changes.keys() - defaults.keys()
            module.config = types.SimpleNamespace(**{**defaults, **changes})
    return module
