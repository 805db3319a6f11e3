"""Write the results table of README.md from results/laptop; ``--check`` exits 1 if it is out of date.

python -m ppo_codet5.reproduce --profile laptop --keep results/laptop
python tools/update_readme.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "laptop"
BEGIN, END = "<!-- results: written by tools/update_readme.py -->", "<!-- end of results -->"
NAMES = {
    "direct": "direct generation, 1 attempt",
    "resampling": "i.i.d. resampling",
    "random": "random actions",
    "ppo": "PPO agent, argmax",
    "ppo_sampled": "PPO agent, sampled",
}


def block() -> str:
    """The text between the markers."""
    summaries = {
        name: json.loads((RESULTS / name / "summary.json").read_text()) for name in ("resampling", "random", "ppo")
    }
    scores = {"direct": summaries["resampling"]["curves"]["resampling"][0]}
    for summary in summaries.values():
        scores.update(summary["scores"])
    ppo, metrics = summaries["ppo"], (RESULTS / "ppo" / "metrics.jsonl").read_text().splitlines()
    config = json.loads((RESULTS / "ppo" / "config.json").read_text())
    seconds = json.loads((RESULTS / "run.json").read_text())["seconds"]
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
    best = max(("resampling", "random"), key=lambda name: scores[name]["pass_at_1"])
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


def main() -> int:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    new = f"{before}{BEGIN}\n{block()}\n{END}{rest.split(END)[1]}"
    if "--check" in sys.argv:
        if new != text:
            print("README.md: the results table is out of date; run python tools/update_readme.py")
        return int(new != text)
    readme.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
