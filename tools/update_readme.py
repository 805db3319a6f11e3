"""Write the tables of README.md from results/; ``--check`` exits 1 if they are out of date.

python -m ppo_codet5.reproduce --profile laptop --notebooks 01 03 --keep results/laptop
python benchmarks/rollout.py --output results/speed/rollout.json
python tools/update_readme.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "laptop" / "01_ppo_codet5"
MARKS = ("<!-- {}: written by tools/update_readme.py -->\n", "\n<!-- end of {} -->")
CONTROLS = ("resampling", "random", "fixed_action", "schedule", "bandit")
NAMES = {
    "direct": "direct generation, 1 attempt",
    "resampling": "i.i.d. resampling",
    "random": "random actions",
    "fixed_action": "best fixed action, chosen on validation",
    "schedule": "tuned schedule, chosen on validation",
    "bandit": "contextual bandit",
    "epic": "EPiC",
    "reflexion": "Reflexion",
    "ppo": "PPO agent, argmax",
    "ppo_sampled": "PPO agent, sampled",
}


def results() -> str:
    """Scores of one run of the laptop profile."""
    summaries = {
        name: json.loads((RESULTS / name / "summary.json").read_text()) for name in ("resampling", "random", "ppo")
    }
    scores = {"direct": summaries["resampling"]["curves"]["resampling"][0]}
    baselines = [json.loads(path.read_text()) for path in (RESULTS.parent / "03_baselines").glob("*/summary.json")]
    for summary in (*baselines, *summaries.values()):  # resampling and random are in both: those of notebook 01
        scores.update({name: score for name, score in summary["scores"].items() if name in NAMES and name != "direct"})
    ppo, metrics = summaries["ppo"], (RESULTS / "ppo" / "metrics.jsonl").read_text().splitlines()
    config = json.loads((RESULTS / "ppo" / "config.json").read_text())
    seconds = json.loads((RESULTS.parent / "run.json").read_text())["seconds"]
    lines = [
        f"One real run of the laptop profile: {ppo['code_model']} writes and rewrites, {scores['ppo']['n']} held-out starter",
        f"problems, {ppo['visible_tests']} assert visible, at most {ppo['max_steps']} generations a problem, {len(metrics)} PPO updates, seed {ppo['seed']}, "
        f"{config['hardware']['cpus']} CPU cores, {seconds / 60:.0f} minutes.",
        "",
        "| strategy | Pass@1 | 95 % interval | SoftPass@1 | any attempt right | generations | rewriter calls | tokens |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, words in NAMES.items():
        s = scores[name]
        low, high = s["pass_at_1_interval"]
        tokens = s["code_tokens"] + s["rewriter_tokens"]
        lines.append(
            f"| {words} | {s['pass_at_1']:.1%} | {low:.1%} to {high:.1%} | {s['soft_pass_at_1']:.1%} | {s['oracle']:.1%} "
            f"| {s['generations']} | {s['rewriter_calls']} | {tokens} |"
        )
    best = max(CONTROLS, key=lambda name: scores[name]["pass_at_1"])
    lines += ["", verdict(scores["ppo"], scores[best], NAMES[best])]
    return "\n".join(lines)


def verdict(agent: dict, control: dict, name: str) -> str:
    """One sentence that says whether the agent beat the best control of equal budget."""
    gap = 100 * (agent["pass_at_1"] - control["pass_at_1"])
    apart = agent["pass_at_1_interval"][0] > control["pass_at_1_interval"][1]
    start = (
        f"The agent is {abs(gap):.0f} points {'above' if gap > 0 else 'below'} the best control, {name}"
        if gap
        else f"The agent scores the same as the best control, {name}"
    )
    return start + (
        ", and the intervals do not overlap."
        if apart
        else "; the intervals overlap: **no gain over the controls is shown**."
    )


def speed() -> str:
    """Steps per second of the loops, and what they are compared for."""
    record = json.loads((ROOT / "results" / "speed" / "rollout.json").read_text(encoding="utf-8"))
    machine, versions = record["machine"], record["machine"]["versions"]
    lines = [
        f"{machine['cores']} cores ({machine['cpu_model']}), SmolLM2-135M, Python {versions['python']}, torch "
        f"{versions['torch']}, transformers {versions['transformers']}, generation cache off:",
        "",
        "| loop | environment steps/s | tokens/s | inside the model | memory |",
        "|---|---|---|---|---|",
    ]
    for loop in record["loops"]:
        inside = (
            f"{loop['forward_share']:.0%} | {loop['peak_memory_mb'] / 1000:.1f} GB |"
            if "forward_share" in loop
            else "| |"
        )
        rates = f"{loop['steps_per_second']:.2f} | {loop['tokens_per_second']:.0f}"
        lines.append(f"| {loop['name']} | {rates} | {inside}")
    lines += ["", "| what | measured | wanted | |", "|---|---|---|---|"]
    for check in record["checks"]:
        verdict = "" if check["pass"] is None else "yes" if check["pass"] else "**no**"
        lines.append(f"| {check['name']} | {check['value']:.4g} {check['unit']} | {check['bound'] or ''} | {verdict} |")
    return "\n".join(lines)


def main() -> int:
    readme = ROOT / "README.md"
    text = new = readme.read_text(encoding="utf-8")
    for name, block in (("results", results), ("speed", speed)):
        begin, end = (mark.format(name) for mark in MARKS)
        before, rest = new.split(begin)
        new = f"{before}{begin}{block()}{end}{rest.split(end)[1]}"
    if "--check" in sys.argv:
        if new != text:
            print("README.md: its tables are out of date; run python tools/update_readme.py")
        return int(new != text)
    readme.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
