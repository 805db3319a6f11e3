"""What int8 changes in a code model's work: greedy first attempts on MBPP, the same requests in float and in int8.

    python benchmarks/int8.py --problems mbpp.jsonl --output results/published/int8.json    # half an hour on 2 cores

On the problems that are not scored elsewhere (validation and train), one assert visible, in profile coder's prompt form:
how many each type solves (all asserts), who solves what the other does not, with the exact McNemar p of the two, and how
many replies are equal, letter by letter. Kept completions are not asked again. What int8 is depends on the processor
(VNNI or not), so the file keeps the cases of others.
"""

import argparse
from pathlib import Path

import _common

SPLITS = ("validation", "train")


def replies(model, problems, config):
    """Greedy replies of a model to the problems."""
    from ppo_codet5.core import clean_task, code_request

    return model.generate([code_request(problem, clean_task(problem.text), config, 0) for problem in problems])


def compared(problems, texts, sandbox):
    """The record of one split; ``texts`` has the two lists of replies, float's first."""
    from ppo_codet5.helpers.results import scoring, statistics

    ids = [problem.task_id for problem in problems]
    first, second = (set(_common.solved(problems, some, sandbox)) for some in texts)
    alike = [len(_start(a, b)) / max(len(a), len(b), 1) for a, b in zip(*texts, strict=True)]
    return {
        "n": len(ids),
        "solved": [len(first), len(second)],
        "intervals": [scoring.wilson(len(solved), len(ids)) for solved in (first, second)],
        "difference": statistics.paired_bootstrap(*([[task in solved for task in ids]] for solved in (second, first))),
        "only_float": sorted(first - second),
        "only_int8": sorted(second - first),
        "p": statistics.mcnemar_exact(len(second - first), len(first - second)),
        "equal": sum(share == 1 for share in alike),
        "alike": sum(alike) / len(alike),  # of a reply, up to the first letter that differs
    }


def _start(a, b):
    """What two texts share from their first letter on."""
    return a[: next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", default="mbpp", help="mbpp (hub) or a file in the MBPP schema")
    parser.add_argument("--models", nargs="+", default=["qwen2.5-coder-0.5b"])
    parser.add_argument("--batch-size", type=int, default=96)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    from ppo_codet5.helpers.models import CachedGenerator, load_model
    from ppo_codet5.helpers.problems import load_problems
    from ppo_codet5.helpers.sandbox import Sandbox

    config = _common.settings("coder", temperature=0.0, device="cpu")
    problems = {split: load_problems(arguments.problems, split=split) for split in SPLITS}
    every = [problem for split in SPLITS for problem in problems[split]]
    for name in arguments.models:
        texts, dtypes = [], []
        for dtype in ("auto", "int8"):
            model = CachedGenerator(
                load_model(name, dtype, "cpu", arguments.batch_size), str(_common.ROOT / "cache" / "generations")
            )
            texts.append(
                dict(zip((p.task_id for p in every), (r.text for r in replies(model, every, config)), strict=True))
            )
            dtypes.append(model.inner.dtype)
        with Sandbox() as sandbox:
            case = {"model": name, "dtypes": dtypes, "machine": _common.machine()}
            for split, some in {**problems, "both": every}.items():
                case[split] = record = compared(some, [[t[p.task_id] for p in some] for t in texts], sandbox)
                print(name, split, {k: v for k, v in record.items() if not k.startswith("only")}, flush=True)
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        cases = _common.json_of(arguments.output)["cases"] if arguments.output.exists() else {}
        _common.write(arguments.output, {"cases": {**cases, f"{name}, {dtypes[1]}": case}})


if __name__ == "__main__":
    main()
