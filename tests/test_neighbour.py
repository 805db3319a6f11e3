"""A second process on the same cores: each way in says how OpenMP's idle threads wait, before torch asks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"}
# Prints the environment at the moment at which torch is imported, and ends there.
WATCH = """
import json, os, sys
class Watch:
    def find_spec(self, name, *rest):
        if name == "torch":
            print(json.dumps(dict(os.environ)), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Watch())
"""
TWIN = next(
    cell.source
    for cell in nbformat.read(ROOT / "01_ppo_codet5.ipynb", as_version=4).cells
    if "twin:imports" in cell.metadata.get("tags", [])
)
ENTRIES = {
    "package": "import ppo_codet5, torch",
    "train": "from ppo_codet5.cli import main; main(['train', '--output-dir', 'run'])",
    "task": "import ppo_codet5.running, torch",
    "cells": TWIN,  # a kernel that Jupyter started
    "replica": "from ppo_codet5.helpers.models.replicas import _Replica; _Replica('smollm2-135m', 'float32', 'cpu', 1, 1)",
    "tests": f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); import conftest, torch",
}


def at_torch(code: str, folder: Path, **environment: str) -> dict[str, str]:
    """The variables when torch is imported, in a process of its own."""
    plain = {name: value for name, value in os.environ.items() if name not in OURS}
    env = {**plain, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run([sys.executable, "-c", WATCH + code], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    return {name: seen[name] for name in OURS & seen.keys()}


@pytest.mark.parametrize("entry", ENTRIES)
def test_each_entry_bounds_the_spinning_before_torch_is_imported(entry: str, tmp_path: Path) -> None:
    (bound,) = at_torch(ENTRIES[entry], tmp_path).items()
    assert bound[0] == "GOMP_SPINCOUNT" and int(bound[1]) < 300_000  # libgomp's own bound


@pytest.mark.parametrize(
    "name, value", [("GOMP_SPINCOUNT", "7"), ("OMP_WAIT_POLICY", "active"), ("KMP_BLOCKTIME", "5")]
)
def test_what_the_user_has_set_stays_as_it_is(name: str, value: str, tmp_path: Path) -> None:
    for entry in ("package", "cells"):
        assert at_torch(ENTRIES[entry], tmp_path, **{name: value}) == {name: value}


@pytest.mark.skipif(sys.platform != "linux", reason="libgomp is PyTorch's OpenMP on Linux")
def test_libgomp_itself_reports_the_bound(tmp_path: Path) -> None:
    plain = {name: value for name, value in os.environ.items() if name not in OURS}
    env = {**plain, "PYTHONPATH": str(ROOT), "OMP_DISPLAY_ENV": "VERBOSE"}
    line = [sys.executable, "-c", "import ppo_codet5, os, torch; print(os.environ['GOMP_SPINCOUNT'])"]
    done = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert f"GOMP_SPINCOUNT = '{done.stdout.strip()}'" in done.stderr


def test_kernels_of_the_runner_inherit_it(tmp_path: Path) -> None:
    cells = [nbformat.v4.new_code_cell("x: int = 1", metadata={"tags": ["parameters"]})]
    source = "import os, sys; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    cells.append(nbformat.v4.new_code_cell(source))
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "n.ipynb")
    code = "from pathlib import Path; from ppo_codet5.running import execute; execute(Path('n.ipynb'), Path('o.ipynb'), {})"
    plain = {name: value for name, value in os.environ.items() if name not in OURS}
    env = {**plain, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True, capture_output=True)
    (output,) = nbformat.read(tmp_path / "o.ipynb", as_version=4).cells[-1].outputs
    assert output.text.split()[0].isdecimal() and output.text.split()[1] == "False"


HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not HUGE_PAGES.exists() or "[madvise]" not in HUGE_PAGES.read_text(), reason="no huge pages on request"
)
def test_large_tensors_are_in_huge_pages_unless_the_user_says_no(tmp_path: Path) -> None:
    """Of 64 MB there are 16,384 pages of 4 kB; the kernel counts how many it had to map one by one."""
    count = "resource.getrusage(resource.RUSAGE_SELF).ru_minflt"
    code = f"import ppo_codet5, resource, torch; torch.ones(8); n = {count}; torch.ones(2**24); print({count} - n)"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    env.pop("THP_MEM_ALLOC_ENABLE", None)
    faults = [
        int(
            subprocess.run(
                [sys.executable, "-c", code], cwd=tmp_path, env=env | more, capture_output=True, check=True
            ).stdout
        )
        for more in ({}, {"THP_MEM_ALLOC_ENABLE": "0"})
    ]
    assert faults[0] < 8_000 and faults[1] > 16_000
