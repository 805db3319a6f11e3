"""Which form of prompt suits a code model: greedy first attempts on MBPP's validation problems, none of them scored later.

    python benchmarks/prompt_forms.py --problems mbpp.jsonl --output results/published/prompt_forms.json

For each model, protocol (one assert visible, or all) and form: how many of the 90 are solved (all asserts, the challenge's
too) and how many replies were cut. MBPP comes from the hub (``--problems mbpp``) or from a file. Cases that the output
file has are kept.
"""

import argparse
from pathlib import Path

import _common

FORMS = ("completion", "chat", "chat-fenced", "chat-free")


def case(model, form, visible, problems, sandbox, limit):
    """One record: solved and cut."""
    from ppo_codet5.helpers.results.scoring import wilson

    from ppo_codet5.core import clean_task, code_request

    config = _common.settings(
        "laptop", prompt_form=form, visible_tests=visible, temperature=0.0, max_new_tokens=limit, device="cpu"
    )
    replies = model.generate([code_request(problem, clean_task(problem.text), config, 0) for problem in problems])
    solved = _common.solved(problems, [reply.text for reply in replies], sandbox)
    return {
        "n": len(problems),
        "solved": len(solved),
        "interval": wilson(len(solved), len(problems)),
        "cut": sum(reply.finish_reason == "length" for reply in replies),
        "tokens": sum(reply.completion_tokens for reply in replies),
        "solved_ids": solved,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", default="mbpp", help="mbpp (hub) or a file in the MBPP schema")
    parser.add_argument("--models", nargs="+", default=["qwen2.5-coder-0.5b"])
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS)
    parser.add_argument("--visible", nargs="+", default=["1", "all"], choices=["1", "all"])
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or int8, as the parameter")
    parser.add_argument("--max-tokens", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=45)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    from ppo_codet5.helpers.models import CachedGenerator, load_model
    from ppo_codet5.helpers.problems import load_problems
    from ppo_codet5.helpers.sandbox import Sandbox

    kept = _common.json_of(arguments.output)["cases"] if arguments.output.exists() else {}
    problems = load_problems(arguments.problems, split="validation")
    with Sandbox() as sandbox:
        for name in arguments.models:
            model = CachedGenerator(
                load_model(name, arguments.dtype, "cpu", arguments.batch_size),
                str(_common.ROOT / "cache" / "generations"),
            )
            for visible in arguments.visible:
                for form in arguments.forms:
                    key = f"{name} {visible} {form}"
                    if key not in kept:
                        shown = "all" if visible == "all" else 1
                        kept[key] = case(model, form, shown, problems, sandbox, arguments.max_tokens)
                        kept[key] |= {"dtype": model.inner.dtype, "cpu_model": _common.machine()["cpu_model"]}
                        arguments.output.parent.mkdir(parents=True, exist_ok=True)
                        _common.write(arguments.output, {"machine": _common.machine(), "cases": kept})
                    record = kept[key]
                    cut, tokens = record["cut"], record["tokens"] / record["n"]
                    print(
                        f"{key:40s} {record['solved']:3d} of {record['n']}, {cut} cut, {tokens:.0f} tokens", flush=True
                    )


if __name__ == "__main__":
    main()
