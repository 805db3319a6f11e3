"""The benchmark scripts on a tiny random model: what must hold at any size. No times are asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import fmean

import _common
import decoders
import int8
import learning
import memory
import numpy as np
import published
import pytest
import rollout
import scaling
import wordings
from ppo_codet5.helpers.language import Lexicon
from ppo_codet5.helpers.models import Request, load_generator
from ppo_codet5.helpers.problems import load_problems
from ppo_codet5.helpers.sandbox import Sandbox
from scripted import STARTER, BagOfWords, Coder, Rewriter, right, small, wrong
from tiny import save_llama

import ppo_codet5.core as core

SIZES = {"many": 6, "few": 4, "own": 1, "published": 4, "updates": 1, "mutations": 10}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_llama(tmp_path_factory.mktemp("models") / "tiny-llama", context=1024))


@pytest.fixture
def in_process(lexicon: Lexicon, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Loops run here and not in children, with a light embedder: what takes the time of a child is its imports."""
    sandbox = Sandbox(workers=1)

    def load_parts(config, code=None, rewriter=None):
        def generator(name):
            return load_generator(name, config.dtype, config.device, config.batch_size)

        models = code or generator(config.code_model), rewriter or generator(config.rewriter_model)
        return core.Parts(*models, lexicon, BagOfWords(), sandbox)

    def run_child(loop, options):
        job = json.loads(json.dumps({"loop": asdict(loop), "options": options}))
        return {**asdict(loop), **json.loads(json.dumps(rollout.work(**job)))}

    monkeypatch.setattr(core, "load_parts", load_parts)
    rates = partial(_common.machine_rates, square=64, copied=4096)
    monkeypatch.setattr(_common, "machine_rates", rates)
    for script in (rollout, scaling):
        monkeypatch.setattr(script, "run_child", run_child)
    yield
    sandbox.close()


def settings(model: str, **changes: object) -> str:
    few = {"train_limit": 8, "max_new_tokens": 20, "rewrite_tokens": 8, "reflection_tokens": 5, "max_steps": 3}
    return json.dumps(
        {**few, "code_model": model, "rewriter_model": model, "episodes_per_update": 4, "num_envs": 4, **changes}
    )


def main(script: object, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    script.main()  # type: ignore[attr-defined]


def test_rollout(
    in_process: None, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "rollout.json"
    sizes = ["--sizes", json.dumps(SIZES), "--num-envs", "3", "--config", settings(model)]
    main(rollout, monkeypatch, *sizes, "--output", str(output))
    record, text = json.loads(output.read_text()), capsys.readouterr().out
    results = {result["name"]: result for result in record["loops"]}
    assert set(results) == {loop.name for loop in rollout.loops(SIZES)}
    for name, result in results.items():
        assert "error" not in result and name in text
        assert sum(result["shares"].values()) == pytest.approx(1)
        assert all(result["shares"][kind] > 0 for kind in ("generation", "sandbox"))
        assert result["shares"]["rewriting"] + result["shares"]["mutation"] > 0  # whichever the few actions were
        assert result["steps_per_second"] * result["seconds"] == pytest.approx(result["steps"])
        assert result["tokens"] > result["steps"] and result["peak_memory_mb"] > 50
        assert ("floor" in result) == ("forward_share" in result) == (result["kind"] in OWN)
        if "floor" in result:
            assert 0 < result["forward_share"] < 1
            assert result["floor"]["written_tokens"] == result["generator"]["completion_tokens"] == result["tokens"]
            assert result["floor"]["floor_seconds"] > 0
    assert results["batched float32"]["steps"] > results["batched float32, few"]["steps"] >= SIZES["few"]

    # In float32 all loops write the same programs, and those who play the same episodes the same lists of them
    pairs = {(pair["first"], pair["second"]): pair for pair in record["programs"]}
    for other in ("reference float32", "batched float32, few", "published float32"):
        pair = pairs["batched float32", other]
        assert pair["equal"] == pair["attempts_in_both"] == results[other]["steps"] and not pair["attempts_in_one_only"]
        assert pair["divergence"] == 0
    digests = {name: result.get("programs_sha256") for name, result in results.items()}
    assert digests["batched float32, few"] == digests["reference float32"] != digests["batched float32"]
    # Without the early stop, the same programs took more tokens
    assert results["published float32"]["tokens"] > results["reference float32"]["tokens"]

    trained = results["training bfloat16"]
    assert trained["cache"]["first"]["misses"] > 0 == trained["cache"]["second"]["misses"]
    assert trained["cache"]["second"]["hits"] > 0 and trained["cache"]["second"]["hit_rate"] == 1
    assert trained["shares"]["ppo"] > 0 and 4 <= trained["steps"] <= 12
    assert 0 < trained["mutation"]["changed_share"] <= 1 and trained["mutation"]["prompts"] == 10

    assert {item["name"].split(":")[0].strip() for item in record["checks"]} >= {"training", "same programs, float32"}
    assert len(record["checks"]) == 13
    assert {"torch", "transformers", "python"} <= set(record["machine"]["versions"])
    assert record["machine"]["cores"] >= 1 and record["machine"]["cpu_model"]
    folders = json.dumps({**record, "options": {}})
    assert str(tmp_path) not in folders and str(Path.home()) not in folders and str(_common.ROOT) not in folders


OWN = ("batched", "own decoder", "training")


def test_scaling(in_process: None, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, figure = tmp_path / "scaling.json", tmp_path / "scaling.png"
    points = ["--envs", "1,2", "--per-env", "1", "--least", "2", "--queues", "2,3", "--num-envs", "2"]
    files = ["--output", str(output), "--figure", str(figure)]
    main(scaling, monkeypatch, *points, *files, "--dtype", "float32", "--config", settings(model))
    record = json.loads(output.read_text())
    rows = [(row["series"], row["environments"], row["episodes"]) for row in record["points"]]
    assert rows == [("environments", 1, 2), ("environments", 2, 2), ("queue", 2, 2), ("queue", 2, 3)]
    one, two, again, three = record["points"]
    assert one["programs_sha256"] == two["programs_sha256"] != three["programs_sha256"]
    assert {**again, "series": ""} == {**two, "series": ""}  # measured once
    assert all(row["ms_per_step"] * row["steps_per_second"] == pytest.approx(1000) for row in record["points"])
    assert set(record["flat_or_falling"]) == {"environments", "queue"} and record["machine"]["cpu_model"]
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_a_loop_that_fails_is_reported_and_the_others_are_kept(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a real child process."""
    failed = rollout.run_child(
        rollout.Loop("batched float32", "batched", "float32", 1),
        {"num_envs": 1, "config": {"code_model": "no-such-model"}, "seed": 0, "threads": 1},
    )
    assert "no-such-model" in failed["error"] and "exit status 1" in failed["error"]
    meter = rollout.Meter()
    meter.stop()
    meter.passed = {"seconds": 2.0, "busy": 3.0, "own": 2.0}
    good = {
        **asdict(rollout.Loop("reference float32", "reference", "float32", 1)),
        **{"programs": [[1, 0, 0, "task", "code"]], "solved_share": 0.5, "visible_solved_share": 1.0},
        **meter.result([{"completion_tokens": 3, "rewriter_completion_tokens": 4}], {"generation": 1.5}),
    }
    results = iter([failed, good])
    monkeypatch.setattr(rollout, "run_child", lambda loop, options: next(results))
    monkeypatch.setattr(rollout, "loops", lambda size: [rollout.Loop(r["name"], "", "", 1) for r in (failed, good)])
    with pytest.raises(SystemExit) as stopped:
        main(rollout, monkeypatch, "--output", str(tmp_path / "out.json"))
    assert stopped.value.code == 1
    first, second = json.loads((tmp_path / "out.json").read_text())["loops"]
    assert (
        first["error"] == failed["error"] and second["steps_per_second"] == 0.5 and second["tokens_per_second"] == 3.5
    )
    assert second["shares"] == {**dict.fromkeys(rollout.KINDS, 0.0), "generation": 0.75, "other": 0.25}
    assert second["others_share"] == 0.5 / _common.cores() and second["peak_memory_mb"] > 50
    assert "no-such-model" in capsys.readouterr().out


def test_programs_are_compared_by_attempt() -> None:
    ours = [[1, 0, 0, "p", "a"], [1, 0, 1, "p", "b"], [1, 0, 2, "p", "c"], [2, 0, 0, "p", "d"]]
    other = [[1, 0, 0, "p", "a"], [1, 0, 1, "q", "b"], [1, 0, 3, "p", "x"]]
    assert rollout.same_programs(ours, other) == {
        "attempts_in_both": 2,
        "attempts_in_one_only": 2,  # problem 2 is not of both loops, and does not count
        "equal": 1,
        "divergence": 0.0,  # of programs: the second differs in its prompt only
        "first_attempt_divergence": 0.0,
    }
    other[0][4] = "y"
    assert rollout.same_programs(ours, other)["divergence"] == 0.5
    assert rollout.same_programs(ours, other)["first_attempt_divergence"] == 1.0


def test_the_floor_counts_equal_starts_of_prompts_once(model: str) -> None:
    generator = load_generator(model, device="cpu", batch_size=4)
    recorder = rollout.Recorder(generator)
    prompts = ["Write a function", "Write a function that adds", "def is_prime(n):", "def is_prime(n):"]
    completions = generator.generate(
        [Request(text, i, max_new_tokens=3, stop="none") for i, text in enumerate(prompts)]
    )
    work = recorder.work(recorder.calls, forward_calls=5)
    ids = [generator.tokenizer(text).input_ids for text in prompts]
    assert ids[1][: len(ids[0])] == ids[0] and ids[0][1] != ids[2][1]  # all start with <s>
    assert work["new_prompt_tokens"] == len(ids[1]) + len(ids[2]) - 1
    written = [completion.completion_tokens for completion in completions]
    assert work["written_tokens"] == sum(written)

    config = generator.model.config
    head = config.vocab_size * config.hidden_size
    body = sum(w.numel() for n, w in generator.model.named_buffers() if n.endswith("weight")) - head  # packed layers
    read = sum(len(i) + t for i, n in zip(ids, written, strict=True) for t in range(1, n))
    assert work["bytes"] == 4 * (5 * (body + head) + 2 * 2 * 2 * 12 * read)  # layers, keys and values, heads, width
    seen = sum(range(1, len(ids[1]) + 1)) + sum(range(2, len(ids[2]) + 1)) + read
    fed = work["new_prompt_tokens"] + sum(written) - 4
    assert work["flops"] == 2 * body * fed + 2 * head * sum(written) + 4 * 2 * 4 * 12 * seen


def test_memory(in_process: None, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "memory.json"
    changes = ["--set", settings(model, dtype="float32", rewrite_style="sentence")]
    main(memory, monkeypatch, "--rows", "3", *changes, "--output", str(output))
    record = json.loads(output.read_text())
    assert (record["rows"], record["code_model"], record["dtype"]) == (3, model, "float32")
    assert list(record["stages"]) == ["loaded", "3 written and rewritten"]
    loaded, worked = record["stages"].values()
    assert 50 < loaded["resident_mb"] <= loaded["peak_mb"] <= worked["peak_mb"] < 20_000
    held = bytearray(200_000_000)  # what the kernel says of this process goes up by what it takes
    held[::4096] = b"x" * len(held[::4096])
    assert _common.resident_mb() > worked["resident_mb"] + 150
    del held


def test_flat_or_falling() -> None:
    assert scaling.flat_or_falling([100, 50, 54, 20])
    assert not scaling.flat_or_falling([100, 50, 56, 20])
    assert scaling.flat_or_falling([100]) and scaling.flat_or_falling([])


SCRIPTS = sorted(path for path in Path(_common.__file__).parent.glob("*.py") if path.name[0] != "_")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_each_script_says_how_it_is_called(script: Path) -> None:
    command = [sys.executable, str(script), "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert f"python benchmarks/{script.name}" in said and "usage:" in said


@pytest.mark.slow
def test_tasks_with_a_model_of_their_own_and_with_one_for_all(model: str, tmp_path: Path) -> None:
    output = tmp_path / "shared.json"
    script = Path(_common.__file__).with_name("shared.py")
    sizes = ["--rows", "1,3", "--tokens", "4", "--rounds", "2", "--tasks", "2"]
    subprocess.run([sys.executable, str(script), "--model", model, *sizes, "--output", str(output)], check=True)
    record = json.loads(output.read_text())
    assert [case["rows"] for case in record["cases"]] == [1, 3]
    for case in record["cases"]:
        rates = [case[kind]["tokens_per_second"] for kind in ("own", "shared")]
        assert [len(some) for some in rates] == [2, 2] and min(map(min, rates)) > 0
        assert case["ratio"] == pytest.approx(fmean(rates[1]) / fmean(rates[0]))
        assert case["shared"]["memory_mb"] > 100 and case["own"]["memory_mb"] > 100


def test_decoders(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_common, "in_child", lambda script, job: json.loads(json.dumps(decoders.work(**job))))
    output, picture = tmp_path / "decoders.json", tmp_path / "decoders.png"
    engines, sizes = ["--engines", "own,before,generate", "--before", "HEAD"], ["--rows", "2,5", "--new", "4"]
    where = ["--output", str(output), "--plot", str(picture)]
    main(decoders, monkeypatch, "--models", model, *engines, *sizes, "--dtypes", "float32,int8", *where)
    record, text = json.loads(output.read_text()), capsys.readouterr().out
    cases = {(case["engine"], case["dtype"]): case for case in record["cases"]}
    assert set(cases) == {("own", "float32"), ("own", "int8"), ("before", "float32"), ("generate", "float32")}
    for (engine, dtype), case in cases.items():
        assert [run["tokens"] for run in case["runs"]] == [8, 20] and f"{engine} {dtype}" in text
        for run in case["runs"]:
            assert run["tokens_per_second"] == run["tokens"] / run["seconds"]
            assert ("floor" in run) == (engine == "own")
            if engine == "own":  # the layers alone, fewer of them for prompts than in all
                floor = run["floor"]
                whole = 4 * floor["step_seconds"] + run["prompt_tokens"] * floor["prefill_token_seconds"]
                assert floor["seconds"] == pytest.approx(whole) and floor["step_seconds"] > 0
    assert picture.read_bytes()[:4] == b"\x89PNG"
    before = picture.stat().st_mtime_ns
    monkeypatch.setattr(_common, "in_child", lambda script, job: pytest.fail("run again"))
    main(decoders, monkeypatch, *where)
    assert picture.stat().st_mtime_ns > before


def test_int8_counts_who_solves_what_the_other_does_not() -> None:
    problems = load_problems("starter")[:4]
    right, wrong = [p.reference for p in problems], [f"def {p.entry_point}(*args):\n    return ..." for p in problems]
    texts = [[right[0], right[1], wrong[2], wrong[3]], [right[0], wrong[1], wrong[2], wrong[3] + " # 1"]]
    with Sandbox(workers=1) as sandbox:
        found = int8.compared(problems, texts, sandbox)
    assert found["solved"] == [2, 1] and found["only_float"] == [problems[1].task_id] and found["only_int8"] == []
    assert found["difference"][0] == -0.25 and found["p"] == 1  # one problem says nothing
    assert found["equal"] == 2 and 0.5 < found["alike"] < 1


def test_wordings_counts_what_the_next_attempt_solves_after_each_style(lexicon: Lexicon) -> None:
    """Of four problems one is solved at first; the plan alone says what a solution needs, and one needs none."""
    first, chance, *_ = problems = STARTER["train"][:4]

    def code(problem, request):
        planned = "sort the inputs" in str(request.prompt)
        lucky = problem is chance and request.seed != started.setdefault(problem.task_id, request.seed)
        return right(problem) if problem is first or planned or lucky else wrong(problem)

    def rewrite(request):
        asked = next(start for start in ("Plan:", "Description:", "Specification:") if start in str(request.prompt))
        words = (
            "sort the inputs and return what is in the middle" if asked == "Plan:" else "it returns one of its inputs"
        )
        return f"{request.prefix} It returns None.\n{asked} First {words}."

    started: dict[int, int] = {}
    with Sandbox(workers=1) as sandbox:
        parts = core.Parts(Coder(problems, code), Rewriter(rewrite), lexicon, BagOfWords(), sandbox)
        config = small(rewrite_style="specification", prompt_form="chat")
        found = wordings.record(wordings.notebook_function("solved-after")(config, parts, problems), len(problems))
    assert (found["n"], found["failed"]) == (4, 3)
    solved = {name: style["solved"] for name, style in found["styles"].items()}
    once = [1, 0, 0]
    assert solved == {"direct": once, "specification": once, "elaboration": once, "plan": [1, 1, 1]}
    assert found["styles"]["plan"]["gain"][0] == pytest.approx(2 / 3) and found["styles"]["direct"]["gain"][0] == 0


@pytest.mark.parametrize("start", [published.START, "Sure:\n```python\n"])
def test_the_block_as_it_stands_is_what_is_in_the_fences(start: str) -> None:
    code = "def f(x):\n    return x\n\nprint(f(1))"
    assert published.block(f"{start}{code}\n```\nThat is all:\n```\nnothing\n```", None) == code
    row = {"prompt": "def f(x):\n    '''It is x.'''\n", "entry_point": "f"}
    asked = published.request(row, 9, "")
    assert asked.prefix == "" and row["prompt"].strip() in asked.prompt[0][1] and asked.temperature == 0


def test_a_planted_world_knows_its_best_policy_and_plays_by_its_chances() -> None:
    """Against episodes that are played: what the exact share of a fixed action says, and that nothing beats the best."""
    config, problems = core.Parameters(max_steps=10), load_problems("starter", "train")
    for kind in learning.PLANTED:
        world = learning.planted(kind, config, problems, BagOfWords(), seed=1)
        envs = core.RLPromptVectorEnv(world, 1000, look="none")
        order, won, played = world.order(0), 0, 0
        _, infos = envs.reset(options={"episodes": [next(order) for _ in range(4000)]})
        while infos["active"].any():
            _, _, solved, spent, infos = envs.step(np.full(1000, 1))
            won, played = won + solved.sum(), played + (solved | spent).sum()
        assert played == 4000 and world.attempts / world.steps < 1000
        assert won / 4000 == pytest.approx(world.solved(lambda rows: np.full(len(rows), 1)), abs=0.03)
        room = world.best() - world.best_fixed()
        assert room == pytest.approx(0) if kind == "fixed" else room > 0.005


def test_learning_measures_every_seed_s_agent_against_the_best_fixed_action() -> None:
    row = learning.measure(
        "text", "48, 2 ahead, clip 0.2", load_problems("starter", "train"), BagOfWords(), seeds=2, episodes=48 * 3
    )
    assert len(row["gains"]) == 2 and row["gain"] == pytest.approx(np.mean(row["gains"]))
    assert 48 < row["at_once"] < 96
    assert row["gain"] <= row["room"] + 1e-6 and 0.9 < row["entropy"] <= np.log(3) + 1e-6
