"""Memory of one process with both models of a profile: once all is loaded, and while each works on a full batch.

    python benchmarks/memory.py --output results/speed/memory.json    # 20 minutes on one core

After each stage: what is resident now, and the most that was so far, sandbox workers included. The batch is ``--rows``
first attempts at starter problems, each written and rewritten once, at the profile's lengths.
"""

import argparse
import json
from pathlib import Path

import _common


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="coder")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--set", type=json.loads, default={}, metavar="JSON", help="parameters to change")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    from ppo_codet5.helpers.problems import load_problems

    from ppo_codet5.core import load_parts, probe

    config = _common.settings(arguments.profile, **{"batch_size": arguments.rows, "device": "cpu", **arguments.set})
    stages = {}

    def stage(name):
        stages[name] = {"resident_mb": _common.resident_mb(), "peak_mb": _common.peak_memory_mb()}
        print(f"{name:32s} {stages[name]['resident_mb']:8.0f} MB, at most {stages[name]['peak_mb']:8.0f}", flush=True)

    parts = load_parts(config)
    _common.warm(parts)
    stage("loaded")
    probe(config, parts, load_problems("starter")[: arguments.rows])
    stage(f"{arguments.rows} written and rewritten")
    parts.sandbox.close()
    models = {name: getattr(config, name) for name in ("code_model", "rewriter_model", "dtype")}
    about = {"machine": _common.machine(), "profile": arguments.profile, "rows": arguments.rows, **models}
    _common.write(arguments.output, {**about, "stages": stages})


if __name__ == "__main__":
    main()
