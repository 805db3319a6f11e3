"""What a wording of the rewrite is worth: section 5 of notebook 01 on MBPP's validation problems, none of them scored later.

    python benchmarks/wordings.py --problems mbpp.jsonl --output results/published/wordings.json    # an hour on 2 cores

With profile coder: of the problems whose first direct attempt fails, which the next attempt solves, with the task as it
is and after a rewrite in each style. The function is the notebook's own. Kept completions are not asked again.
"""

import argparse
import json
from pathlib import Path

import _common


def notebook_function(name):
    """A function of a cell of notebook 01 that is not in the package, among the definitions of the package."""
    from ppo_codet5 import core
    from ppo_codet5.notebooks import resource

    cells = json.loads(resource("01_ppo_codet5.ipynb").read_text(encoding="utf-8"))["cells"]
    (source,) = ["".join(cell["source"]) for cell in cells if f"own:{name}" in cell["metadata"].get("tags", ())]
    space = dict(vars(core))
    exec(source, space)
    return space[name.replace("-", "_")]


def record(solved, n):
    """The record of one run; ``solved`` has by style which of the problems that failed were solved, 0 or 1."""
    from ppo_codet5.helpers.results import statistics

    styles = {name: {"solved": [int(x) for x in found]} for name, found in solved.items()}
    for style in styles.values():
        style["gain"] = statistics.paired_bootstrap([style["solved"]], [styles["direct"]["solved"]])
    return {"n": n, "failed": len(solved["direct"]), "styles": styles}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", default="mbpp", help="mbpp (hub) or a file in the MBPP schema")
    parser.add_argument("--split", default="validation", help="validation or train")
    parser.add_argument("--limit", type=int, default=None, help="the first so many of them")
    parser.add_argument("--profile", default="coder")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    from ppo_codet5.helpers.problems import load_problems

    from ppo_codet5.core import load_parts

    problems = load_problems(arguments.problems, split=arguments.split, limit=arguments.limit)
    config = _common.settings(arguments.profile, generation_cache=str(_common.ROOT / "cache" / "generations"))
    parts = load_parts(config)
    found = notebook_function("solved-after")(config, parts, problems)
    result = record(found, len(problems))
    about = {"profile": arguments.profile, "split": arguments.split, **parts.record()}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    _common.write(arguments.output, {"machine": _common.machine(), **about, **result})
    for name, style in result["styles"].items():
        print(f"{name:14s} {sum(style['solved'])} of {result['failed']}", *(f"{100 * x:+.1f}" for x in style["gain"]))


if __name__ == "__main__":
    main()
