"""Tokens per second of ways to generate for many prompts at once on this CPU, and the floor that the linear layers set.

    python benchmarks/decoders.py --output results/speed/decoders.json    # half an hour on 2 cores
    python benchmarks/decoders.py --models smollm2-135m --engines own,before --rows 48

Each engine runs in a process of its own, alone, with the same weights, prompts and numbers of tokens: chats about the
starter problems, no two alike beyond the chat's own start, ``--new`` tokens for each. ``before`` is this project's decoder
as it was at a commit (``--before``), read from git; ``openvino`` needs the packages openvino-genai and openvino-tokenizers
and a folder with a model that was exported for it (``--openvino MODEL=FOLDER``).

The floor is the time of the linear layers alone, called one after the other as often and with as many rows as one run
does, measured in the process of ``own``. ``--plot`` draws tokens per second against rows from an output file.
"""

import argparse
import importlib.util
import sys
import time
from pathlib import Path

import _common
import _engines

ENGINES = ("own", "before", "generate", "generate_batch", "openvino")
MODELS = ("smollm2-135m", "qwen2.5-coder-0.5b")
BEFORE = "b4932ac"  # before sampling in one pass, kept starts of prompts and int8


def texts(name, count, mark):
    """Chats as texts, with the model's own marks. ``mark`` makes them differ from those of other runs."""
    from ppo_codet5.helpers.models import load_tokenizer, render_chat
    from ppo_codet5.helpers.problems import load_problems

    problems = load_problems("starter")
    tasks = [
        f"{mark}, number {i}. {problems[i % len(problems)].text}\n{problems[i % len(problems)].tests[0]}"
        for i in range(count)
    ]
    tokenizer = load_tokenizer(name)
    return [render_chat(tokenizer, (("user", task),), name) for task in tasks]


def linear_floor(model, rows, prompt_tokens, new):
    """Seconds of the linear layers alone: prefill of so many tokens at the best of three widths, then ``new`` steps."""
    import torch

    head = model.get_output_embeddings()
    layers = _common.linear_layers(model)
    sizes = {id(layer): layer.in_features for layer in layers}

    def seconds(count, chosen):
        inputs = {n: torch.randn(count, n, dtype=model.dtype) for n in set(sizes.values())}
        return _common.best_seconds(lambda: [layer(inputs[sizes[id(layer)]]) for layer in chosen], 3)

    with torch.inference_mode():
        step = seconds(rows, layers)
        body = [layer for layer in layers if layer is not head]
        prefill = min(seconds(width, body) / width for width in (256, 512, 1024))
    return {"step_seconds": step, "prefill_token_seconds": prefill, "seconds": new * step + prompt_tokens * prefill}


def work(engine, name, dtype, rows, new, options):
    """What a child does: one engine, for all numbers of rows."""
    began = time.perf_counter()
    run = _engines.ENGINES[engine](options.get("folder", name), dtype, "cpu", **options.get("more", {}))
    loaded, found = time.perf_counter() - began, []
    run(texts(name, 2, "Warm-up"), 4)
    for count in rows:
        prompts = texts(name, count, f"Run {count}")
        began = time.perf_counter()
        got, _ = run(prompts, new)
        seconds = time.perf_counter() - began
        found.append({"rows": count, "tokens": sum(got), "seconds": seconds, "tokens_per_second": sum(got) / seconds})
        print(f"# {name} {dtype} {engine} {count} rows: {found[-1]['tokens_per_second']:.1f} tokens/s", file=sys.stderr)
    record = {"load_seconds": loaded, "runs": found, "peak_memory_mb": _common.peak_memory_mb()}
    if engine == "own":
        generator = _engines.load(name, dtype, "cpu", 1)
        for run in found:
            count = sum(len(generator.tokenizer(text).input_ids) for text in texts(name, run["rows"], "Run"))
            run["prompt_tokens"] = count
            run["floor"] = linear_floor(generator.model, run["rows"], count, new)
    return record


def instruction_sets():
    """What this processor has for matrices."""
    import torch

    return sorted(name for name, value in torch.cpu.get_capabilities().items() if value is True)


def show(record):
    """Tokens/s of each engine against rows, and how far above the floor ours is."""
    for name in dict.fromkeys(case["model"] for case in record["cases"]):
        cases = [case for case in record["cases"] if case["model"] == name and "error" not in case]
        rows = sorted({run["rows"] for case in cases for run in case["runs"]})
        print(f"\n{name:32}" + "".join(f"{count:>10}" for count in rows) + "   rows, tokens/s" + f"{'MB':>10}")
        for case in cases:
            rates = {run["rows"]: run for run in case["runs"]}
            cells = "".join(
                f"{rates[count]['tokens_per_second']:10.1f}" if count in rates else " " * 10 for count in rows
            )
            print(f"{case['engine'] + ' ' + case['dtype']:32}{cells}{'':17}{case['peak_memory_mb']:10.0f}")
            if case["engine"] == "own":
                floors = [rates[count]["tokens"] / rates[count]["floor"]["seconds"] for count in rates]
                print(f"{'  linear layers alone':32}" + "".join(f"{floor:10.1f}" for floor in floors))


def plot(record, path):
    """Tokens per second against rows, one panel for each model."""
    names = list(dict.fromkeys(case["model"] for case in record["cases"]))
    figure, axes = _common.panels([f"rows at once ({name})" for name in names])
    for axis, name in zip(axes, names, strict=True):
        cases = [case for case in record["cases"] if case["model"] == name and "error" not in case]
        for case, marker in zip(cases, "osv^D<>ph*X", strict=False):
            rows = [run["rows"] for run in case["runs"]]
            label = f"{case['engine']}, {case['dtype']}"
            axis.plot(rows, [run["tokens_per_second"] for run in case["runs"]], marker=marker, label=label)
        _common.ticks(axis, sorted({run["rows"] for case in cases for run in case["runs"]}))
        axis.set_ylim(0)
        axis.set_ylabel("tokens per second")
        axis.legend(frameon=False, fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    _common.save_figure(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--dtypes", default="float32,int8", help="of own; the others have the first one")
    parser.add_argument("--rows", default="8,24,48,96")
    parser.add_argument("--new", type=int, default=48, help="tokens for each prompt")
    parser.add_argument("--before", default=BEFORE, help="commit of the decoder that ours is compared with")
    parser.add_argument("--openvino", action="append", default=[], metavar="MODEL=FOLDER")
    parser.add_argument("--output", type=Path, help="JSON file; written after every engine")
    parser.add_argument("--plot", type=Path, help="PNG file; with an --output that exists, nothing is run")
    arguments = parser.parse_args()
    if arguments.plot and arguments.output and arguments.output.exists():
        plot(_common.json_of(arguments.output), arguments.plot)
        return
    exported = dict(item.split("=", 1) for item in arguments.openvino)
    rows, dtypes = [int(count) for count in arguments.rows.split(",")], arguments.dtypes.split(",")
    record = {"machine": _common.machine(), "instruction_sets": instruction_sets(), "new": arguments.new, "cases": []}
    for name in arguments.models.split(","):
        for engine in arguments.engines.split(","):
            for dtype in dtypes if engine == "own" else ["int8"] if engine == "openvino" else dtypes[:1]:
                options = {"more": {"commit": arguments.before}} if engine == "before" else {}
                if engine == "openvino":
                    if name not in exported or importlib.util.find_spec("openvino_genai") is None:
                        print(f"# {name} openvino: not installed, or no folder given: left out", file=sys.stderr)
                        continue
                    options = {"folder": exported[name]}
                job = {"engine": engine, "name": name, "dtype": dtype, "rows": rows, "new": arguments.new}
                done = _common.in_child(__file__, {**job, "options": options})
                record["cases"].append({"model": name, "engine": engine, "dtype": dtype, **done})
                if arguments.output:
                    _common.write(arguments.output, record)
    print(f"# {_common.describe(record['machine'])}; {', '.join(record['instruction_sets'])}")
    show(record)
    if arguments.plot:
        plot(record, arguments.plot)
    if any("error" in case for case in record["cases"]):
        sys.exit(1)


if __name__ == "__main__":
    _common.start(main, work)
