"""Models that several processes share: the texts are those of a model of one's own, whoever else asks meanwhile."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ppo_codet5.helpers.models import Completion, ModelError, Request, load_generator, load_model, shared
from ppo_codet5.helpers.models.local import TransformersGenerator
from tiny import save_llama, save_t5

from ppo_codet5 import grid, running

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_llama(tmp_path_factory.mktemp("llama") / "tiny", context=400))


def asked(count: int, seed: int = 0) -> list[Request]:
    """Requests of prompts from short to longer than a batch has room for, and of different lengths to write."""
    draw = random.Random(seed)
    return [
        Request(
            "for x in text " * draw.choice([1, 3, 9, 40]), seed=1000 * seed + i, max_new_tokens=draw.choice([3, 20])
        )
        for i in range(count)
    ]


@settings(max_examples=12, deadline=None)
@given(arrivals=st.lists(st.integers(0, 4), min_size=1, max_size=30), batch=st.integers(1, 6), seed=st.integers(0, 99))
def test_what_joins_a_batch_gets_the_text_that_it_gets_alone(
    llama: str, arrivals: Sequence[int], batch: int, seed: int
) -> None:
    model = load_model(llama, device="cpu", batch_size=batch)
    requests, steps = asked(2 + sum(arrivals), seed), iter(arrivals)
    later = iter(requests[2:])

    def more() -> list[Request]:
        return [next(later) for _ in range(next(steps, 0))]

    first: dict[int, Completion] = {}
    got = model.generate(requests[:2], first.__setitem__, more)
    asked_for = requests[: len(got)]  # the model may have been through before the last of them came
    assert got == [model.generate([request])[0] for request in asked_for] == [first[i] for i in range(len(got))]
    assert len(got) >= 2 + arrivals[0]


def test_what_joins_is_decoded_with_the_others(llama: str) -> None:
    model = load_model(llama, device="cpu", batch_size=8)
    alone = TransformersGenerator(model.model, model.tokenizer, "alone", "1", batch_size=8)
    requests = [Request(f"Count the vowels {i}", seed=i, max_new_tokens=24) for i in range(6)]
    calls = iter([[], requests[3:]])
    before = model.stats.forward_calls
    model.generate(requests[:3], more=lambda: next(calls, []))
    together = model.stats.forward_calls - before
    for half in (requests[:3], requests[3:]):
        alone.generate(half)
    assert together < 0.75 * alone.stats.forward_calls


def test_an_encoder_decoder_takes_the_next_in_a_batch_of_its_own(tmp_path: Path) -> None:
    model = load_model(str(save_t5(tmp_path / "t5")), device="cpu", batch_size=4)
    requests = [Request(f"Count the vowels {i} of it", seed=i, max_new_tokens=8) for i in range(5)]
    calls = iter([requests[2:]])
    assert model.generate(requests[:2], more=lambda: next(calls, [])) == model.generate(requests)


def test_processes_and_threads_share_one_model_and_write_what_they_write_alone(llama: str, tmp_path: Path) -> None:
    requests = [asked(7, seed) for seed in range(4)]
    own = load_model(llama, device="cpu", batch_size=5)
    expected = [own.generate(some) for some in requests]
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from test_shared import asked\n"
        "from ppo_codet5.helpers.models import load_generator\n"
        "model = load_generator(sys.argv[1], device='cpu', batch_size=5)\n"
        "print(type(model).__name__, model.dtype, [c.text for c in model.generate(asked(7, 3))])"
    )
    with shared.serving(tmp_path / "models.log") as address:
        assert os.environ[shared.ADDRESS] == address
        line = [sys.executable, "-c", code, llama, str(Path(__file__).parent)]
        other = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
        clients = [shared.SharedGenerator(address, llama, "float32", "cpu", 5, None) for _ in range(3)]
        one: dict[int, Completion] = {}
        with ThreadPoolExecutor(3) as pool:
            got = list(pool.map(lambda client, some: client.generate(some, one.__setitem__), clients, requests))
        said, _ = other.communicate(timeout=120)
        assert said.strip() == f"SharedGenerator float32 {[c.text for c in expected[3]]}"
        assert got == expected[:3] and set(one) == set(range(7))
        assert load_generator(llama, device="cpu", batch_size=5) is load_generator(llama, device="cpu", batch_size=5)
        assert (tmp_path / "models.log").read_text() == ""
        about = [(g.name, g.revision, g.dtype, g.sampler) for g in (own, clients[0])]
        assert about[0] == about[1]  # the same keys in the cache of completions
        with pytest.raises(ModelError, match="nowhere"):
            load_generator("/nowhere/at all", device="cpu", batch_size=5)
    assert shared.ADDRESS not in os.environ and not os.path.exists(address)
    assert isinstance(load_generator(llama, device="cpu", batch_size=5), TransformersGenerator)


def test_a_request_that_no_model_can_take_is_told_and_the_next_is_served(llama: str, tmp_path: Path) -> None:
    with shared.serving(tmp_path / "models.log") as address:
        model = shared.SharedGenerator(address, llama, "float32", "cpu", 5, None)
        fine = Request("Count", seed=1, max_new_tokens=4)
        with pytest.raises(ModelError, match="can see 400: shorten it"):
            model.generate([fine, Request("for x in text " * 300, seed=1)])
        assert model.generate([fine]) == load_model(llama, device="cpu", batch_size=5).generate([fine])
        other, told = shared.SharedGenerator(address, llama, "float32", "cpu", 5, None), list[str]()

        def meanwhile(place: int, completion: Completion) -> None:
            if not told:
                with pytest.raises(ModelError, match=r"Request 0 has a prompt of .* shorten it") as caught:
                    other.generate([Request("for x in text " * 300, seed=1)])
                told.append(str(caught.value))

        requests = asked(12, 5)
        assert model.generate(requests, meanwhile) == load_model(llama, device="cpu", batch_size=5).generate(requests)
        assert len(told) == 1


def test_a_call_that_was_interrupted_leaves_nothing_to_the_next(llama: str, tmp_path: Path) -> None:
    with shared.serving(tmp_path / "models.log") as address:
        model = shared.SharedGenerator(address, llama, "float32", "cpu", 2, None)

        def stop(place: int, completion: Completion) -> None:
            raise KeyboardInterrupt

        def full(place: int, completion: Completion) -> None:
            raise OSError(28, "No space left on device")

        with pytest.raises(KeyboardInterrupt):
            model.generate(asked(6, 1), stop)
        with pytest.raises(OSError, match="No space left"):  # of the cache that writes it: the process has not ended
            model.generate(asked(6, 3), full)
        assert model.generate(asked(6, 2)) == load_model(llama, device="cpu", batch_size=2).generate(asked(6, 2))


def test_a_process_that_has_ended_is_told(llama: str, tmp_path: Path) -> None:
    with shared.serving(tmp_path / "models.log") as address:
        model = shared.SharedGenerator(address, llama, "float32", "cpu", 5, None)
    with pytest.raises(ModelError, match="has ended; its log says why"):
        model.generate(asked(1))
    with pytest.raises(ModelError, match="has ended"):
        shared.SharedGenerator(address, llama, "float32", "cpu", 5, None)


def test_it_ends_with_the_process_that_started_it(llama: str, tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from ppo_codet5.helpers.models import shared\n"
        "with shared.serving(Path(sys.argv[1])) as address:\n"
        "    print(address, flush=True)\n"
        "    os.kill(os.getpid(), 9)"
    )
    line = [sys.executable, "-c", code, str(tmp_path / "models.log")]
    address = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=False).stdout.strip()
    for _ in range(100):
        try:
            shared.SharedGenerator(address, llama, "float32", "cpu", 5, None)
        except ModelError:
            return
        threading.Event().wait(0.1)
    pytest.fail("it still answers after ten seconds")


def test_tasks_of_the_grid_share_models_only_where_memory_does_not_hold_one_for_each(
    llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = f"code_model: str = {llama!r}\nrewriter_model: str = {llama!r}\ndtype: str = 'int8'"
    parameters += "\ngeneration_cache: str = 'cache'"  # for the server below
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(f"import os; print('at', os.environ.get({shared.ADDRESS!r}))")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(notebook, tmp_path / "one.ipynb")
    monkeypatch.setattr(os, "environ", {**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    tasks = [grid.Task(n, str(tmp_path / "one.ipynb"), tmp_path / n / "out.ipynb", tmp_path / n, {}) for n in "ab"]
    files = sum(path.stat().st_size for path in Path(llama).glob("*.safetensors"))  # both roles have them
    one = 1e9 + 1.5 * files
    for room, jobs, own in [(2 * one, 8, True), (2 * one - 1, 2, False)]:
        monkeypatch.setattr(running, "memory", lambda room=room: room)
        assert [why for _, why in running.run_all(tasks, jobs)] == [""] * 2
        texts = [nbformat.read(task.output, as_version=4).cells[-1].outputs[0].text for task in tasks]
        assert [text.startswith("at None") for text in texts] == [own] * 2 and len(set(texts)) == 1
    server = {"dtype": "float32", "rewriter_model": "openai:large@http://127.0.0.1:1/v1"}
    assert running._memory_needed([{"code_model": llama, **server}]) == pytest.approx(1e9 + 2.2 * files)
    assert running._memory_needed([{"code_model": "owner/on-the-hub"}]) == float("inf")


def test_clients_that_come_at_once_have_one_runner(llama: str) -> None:
    model = load_model(llama, device="cpu", batch_size=3)
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(shared._runner, [model] * 64))) == 1
