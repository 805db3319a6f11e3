"""Greedy Pass@1 on HumanEval beside the published scores: whether reader, prompts, decoder and sandbox are right.

    python benchmarks/published.py --output results/published/humaneval.json
    python benchmarks/published.py --cases 0.5b-exact --output results/published/humaneval.json

Qwen2.5-Coder-Instruct 0.5B and 1.5B, whose report (arXiv 2409.12186v3, table 16) gives 61.6 and 70.7 %, measured with
EvalPlus. The prompt is that of EvalPlus's chat: the function's head and docstring in a block, and the start of the
reply, which opens a block. Programs are judged by HumanEval's own asserts. The published weights have 16 bits; these are
the 4-bit files of the same authors, and what that costs is not known beforehand, so the cases tell the causes apart:

    0.5b, 1.5b      as the package loads them: dequantised, rounded to bfloat16, computed in --dtype
    *-exact         dequantised in float32 by transformers' own loader, nothing rounded
    *-int8          computed in int8
    *-plain         asked without the start of the reply, which EvalPlus gives

Each case gives: solved of 164 with a Wilson interval; the same if the block runs as it stands, examples of use and all; what
400 tokens would have solved; the problems whose replies were cut at --max-tokens. Cases that the output file has are kept, and
completions are cached, so an interrupted run goes on.
"""

import argparse
import json
import time
from pathlib import Path

import _common

PUBLISHED = {"0.5b": 0.616, "1.5b": 0.707}
ASK = "Please provide a self-contained Python script that solves the following problem in a markdown code block:"
START = (
    "Below is a Python script with a self-contained function that solves the problem and passes corresponding tests:\n"
    "```python\n"
)
CASES = ("0.5b", "1.5b", "0.5b-exact", "0.5b-int8", "0.5b-plain", "1.5b-int8")


def rows():
    """HumanEval's rows as published."""
    from ppo_codet5.helpers.assets import humaneval

    return [json.loads(line) for line in humaneval().read_text(encoding="utf-8").splitlines()]


def request(row, limit, start=START):
    """The greedy request for one problem. The rule ends it where the block with the function ends."""
    from ppo_codet5.helpers.models import Request

    chat = (("user", f"{ASK}\n```\n{row['prompt'].strip()}\n```\n"),)
    greedy = {"seed": 0, "temperature": 0.0, "max_new_tokens": limit}
    return Request(chat, prefix=start, stop="function", entry_point=row["entry_point"], **greedy)


def exact(name, batch_size):
    """The weights as transformers reads them from the GGUF file, in float32."""
    import torch
    from ppo_codet5.helpers.assets import cache_dir, published_file
    from ppo_codet5.helpers.models import load_tokenizer
    from ppo_codet5.helpers.models.local import TransformersGenerator
    from ppo_codet5.helpers.packing import pack_linears
    from transformers import AutoModelForCausalLM

    file = published_file(name, cache_dir("hf") / "gguf")
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    tokenizer = load_tokenizer(name)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    pack_linears(model)
    return TransformersGenerator(model, tokenizer, name, "exact", batch_size)


def generator(case, dtype, batch_size):
    """The generator of a case."""
    from ppo_codet5.helpers.models import CachedGenerator, load_model

    name = f"qwen2.5-coder-{case.partition('-')[0]}"
    dtype = "int8" if case.endswith("-int8") else dtype
    model = exact(name, batch_size) if case.endswith("-exact") else load_model(name, dtype, "cpu", batch_size)
    return CachedGenerator(model, str(_common.ROOT / "cache" / "generations"))


def block(text, problem):
    """The block as it stands: from its opening to the first closing fence, examples of use and all."""
    begun = text.removeprefix(START)
    inside = begun if begun != text else text.partition("```")[2].partition("\n")[2]
    return inside.partition("\n```")[0]


def score(case, dtype, batch_size, limit, sandbox):
    """One case: a record of what was solved and of what was cut."""
    from ppo_codet5.helpers.problems import humaneval_problem
    from ppo_codet5.helpers.results.scoring import wilson

    published = rows()
    problems = [humaneval_problem(row) for row in published]
    model, began = generator(case, dtype, batch_size), time.monotonic()
    start = "" if case.endswith("-plain") else START
    replies = model.generate([request(row, limit, start) for row in published])
    seconds = time.monotonic() - began

    def shortened(text, tokens=400):
        ids = model.inner.tokenizer(text.removeprefix(start), add_special_tokens=False).input_ids
        return start + model.inner.tokenizer.decode(ids[:tokens])

    texts = [reply.text for reply in replies]
    ours = _common.solved(problems, texts, sandbox)
    return {
        "name": case,
        "dtype": model.inner.dtype,
        "n": len(problems),
        "solved": len(ours),
        "pass_at_1": len(ours) / len(problems),
        "interval": wilson(len(ours), len(problems)),
        "published": PUBLISHED[case.partition("-")[0]],
        "max_tokens": limit,
        "cut": [p.task_id for p, reply in zip(problems, replies, strict=True) if reply.finish_reason == "length"],
        "tokens": sum(reply.completion_tokens for reply in replies),
        "seconds": round(seconds, 1),
        "hits": model.stats.hits,
        "solved_ids": ours,
        "solved_as_it_stands": len(_common.solved(problems, texts, sandbox, block)),
        "solved_with_400_tokens": len(_common.solved(problems, map(shortened, texts), sandbox)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--dtype", default="auto", help="of the computing, as in load_generator")
    parser.add_argument("--batch-size", type=int, default=41)
    parser.add_argument("--max-tokens", type=int, default=768, help="EvalPlus's default")
    parser.add_argument("--output", type=Path, required=True, help="JSON file; cases that it has are kept")
    arguments = parser.parse_args()
    from ppo_codet5.helpers.sandbox import Sandbox

    kept = _common.json_of(arguments.output)["cases"] if arguments.output.exists() else {}
    with Sandbox() as sandbox:
        for case in arguments.cases:
            if case not in kept:
                kept[case] = score(case, arguments.dtype, arguments.batch_size, arguments.max_tokens, sandbox)
                kept[case]["cpu_model"] = _common.machine()["cpu_model"]
                arguments.output.parent.mkdir(parents=True, exist_ok=True)
                _common.write(arguments.output, {"machine": _common.machine(), "cases": kept})
            shown, (low, high) = kept[case], kept[case]["interval"]
            print(
                f"{case:16s} {shown['dtype']:9s} {shown['solved']:4d} of {shown['n']}  {shown['pass_at_1']:6.1%} "
                f"[{low:.1%}, {high:.1%}]  published {shown['published']:.1%}  {len(shown['cut'])} cut, "
                f"as it stands {shown['solved_as_it_stands']}, with 400 tokens {shown['solved_with_400_tokens']}",
                flush=True,
            )


if __name__ == "__main__":
    main()
