"""The Slurm scripts: clean, and run with the scheduler's commands replaced by ones that write down what they are asked."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((ROOT / "slurm").glob("*.sbatch"))


@pytest.fixture
def scheduler(tmp_path: Path) -> dict[str, str]:
    """An environment in which srun runs its command here, Ray is a name, and ppo-codet5 is this checkout's."""
    tools = {
        "srun": 'echo "srun $*" >> calls; while [[ "$1" == --* ]]; do shift; done; exec "$@"',
        "scontrol": 'echo "scontrol $*" >> calls; printf "node1\\nnode2\\nnode3\\n"',
        "hostname": "echo 10.0.0.1 fe80::1",
        "ray": 'echo "ray $*" >> calls; for n in 1 2 3; do echo " 1 node_$n"; done',
        "ppo-codet5": f'echo "ppo-codet5 $*" >> calls; exec {shlex.quote(sys.executable)} -m ppo_codet5.cli "$@" --dry-run',
    }
    for name, text in tools.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def run(script: str, folder: Path, env: dict[str, str], *arguments: str) -> tuple[str, list[str]]:
    line = ["bash", str(ROOT / "slurm" / script), *arguments]
    done = subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, (folder / "calls").read_text().splitlines()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_is_silent_and_what_a_requeue_needs_is_there(script: Path) -> None:
    tool = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([tool, "--shell=bash", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    text = script.read_text()
    assert "#SBATCH --requeue" in text and "#SBATCH --open-mode=append" in text
    assert text.index("#SBATCH") < text.index("set -euo pipefail") and not re.search(r"^[^#\n]+\n#SBATCH", text, re.M)


def test_each_task_of_the_array_is_one_cell(tmp_path: Path, scheduler: dict[str, str]) -> None:
    args = ("--profile", "laptop", "--seeds", "0", "1")
    listed, _ = run("grid.sbatch", tmp_path, scheduler, *args)
    cells = [line.split() for line in listed.splitlines() if " stage 0 " in line]
    assert [int(cell[0]) for cell in cells] == list(range(len(cells)))  # what the array's range counts
    outputs = set()
    for number in (0, 5, len(cells) - 1):
        env = {**scheduler, "SLURM_ARRAY_TASK_ID": str(number), "SLURM_CPUS_PER_TASK": "4"}
        out, calls = run("grid.sbatch", tmp_path, env, *args)
        assert calls[-2:] == [
            f"srun ppo-codet5 reproduce {' '.join(args)} --cell {number}",
            f"ppo-codet5 reproduce {' '.join(args)} --cell {number}",
        ]
        (line,) = [line for line in out.splitlines() if " stage " in line]
        assert line.split(" stage ")[1] == " ".join([*listed.splitlines()[number + 1].split(" stage ")[1:]])
        outputs.add(line)
    assert len(outputs) == 3


def test_ray_starts_on_every_node_and_the_grid_on_it(tmp_path: Path, scheduler: dict[str, str]) -> None:
    env = {**scheduler, "SLURM_JOB_NODELIST": "node[1-3]", "SLURM_CPUS_PER_TASK": "8", "SLURM_GPUS_ON_NODE": "4"}
    _, calls = run("ray.sbatch", tmp_path, env, "--profile", "laptop")
    started = [call for call in calls if call.startswith("ray start")]
    share = "--num-cpus 8 --block --num-gpus 4"
    assert f"ray start --head --node-ip-address=10.0.0.1 --port=6379 {share}" in started
    assert started.count(f"ray start --address 10.0.0.1:6379 {share}") == 2
    assert {re.search(r"--nodelist=(\S+) ray", c).group(1) for c in calls if "ray start" in c and "srun" in c} == {
        "node1",
        "node2",
        "node3",
    }
    assert "ppo-codet5 reproduce --profile laptop --ray 10.0.0.1:6379" in calls
    _, calls = run("ray.sbatch", tmp_path, env, "-p", "code_model=ray:smollm2-135m@2")
    assert "ppo-codet5 reproduce -p code_model=ray:smollm2-135m@2" in calls
