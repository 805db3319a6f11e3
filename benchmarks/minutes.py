"""How long the README's commands take in a fresh clone, for the table of minutes in docs/running.md.

    python benchmarks/minutes.py "make demo" "make demo-quick" --output results/speed/minutes.json

Clones the committed state of this checkout, makes the environment there and fetches the assets (``INSTALL``), then runs each
command with no text generated before. Figures of commands that are not given stay in the file. Use an idle machine.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _common

INSTALL = "make assets .venv/bin/.requirements-dev"


def seconds(command, folder):
    """Wall-clock seconds of a shell command, whose output goes to the terminal; ends this script if it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PPO_CODET5_CACHE"}
    began = time.monotonic()
    code = subprocess.run(command, shell=True, cwd=folder, env=environment, stdin=subprocess.DEVNULL).returncode
    if code:
        sys.exit(f"{command} failed in {folder} with exit code {code}; nothing was written for it")
    return round(time.monotonic() - began, 1)


def machine():
    """Cores, processor and memory of this machine; no name of it."""
    about, memory = _common.machine(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{about['cores']} CPU cores ({about['cpu_model']}), {memory:.0f} GB, no GPU used"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="+", help='shell commands, run in the clone: "make demo"')
    parser.add_argument("--output", type=Path, required=True, help="JSON file to add the figures to")
    parser.add_argument("--clone", type=Path, help="folder for the clone; kept, and gone on with if it is there")
    arguments = parser.parse_args()
    folder = arguments.clone or Path(tempfile.mkdtemp(prefix="ppo-codet5-"))
    try:
        if not (folder / "Makefile").exists():
            subprocess.run(["git", "clone", "--quiet", str(_common.ROOT), str(folder)], check=True)
        for command in (INSTALL, *arguments.commands):
            shutil.rmtree(folder / "cache" / "generations", ignore_errors=True)
            shutil.rmtree(folder / "runs", ignore_errors=True)
            taken = seconds(command, folder)
            record = _common.json_of(arguments.output) if arguments.output.exists() else {}
            record = {"machine": machine(), "commands": record.get("commands", {})}
            record["commands"][command] = {"seconds": taken}
            _common.write(arguments.output, record)
            print(f"{command}: {taken / 60:.1f} minutes", flush=True)
    finally:
        if arguments.clone is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
