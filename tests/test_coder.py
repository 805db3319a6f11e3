"""Qwen2.5-Coder from its published files: weights, tokenizer, and texts held against transformers' own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from ppo_codet5.helpers import assets
from ppo_codet5.helpers.models import Request, load_model, load_tokenizer, render_chat
from ppo_codet5.helpers.models.local import TransformersGenerator
from ppo_codet5.helpers.problems import load_problems

pytestmark = pytest.mark.slow  # 1.6 GB to fetch, the first time

NAMES = ("qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b")


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest) -> Iterator[TransformersGenerator]:
    yield load_model(request.param, dtype="float32", device="cpu", batch_size=20)


def chats(count: int, limit: int, temperature: float = 0.0) -> list[Request]:
    problems = load_problems("starter")[:count]
    prompts = [(("user", f"{p.text}\nYour code must pass:\n{p.tests[0]}"),) for p in problems]
    return [Request(chat, seed=i, max_new_tokens=limit, temperature=temperature) for i, chat in enumerate(prompts)]


# Ids of the published tokenizer, from the integration test of transformers (tests/models/qwen2) and from the table of
# special tokens in the published tokenizer_config.json.
IDS = {
    # ruff: noqa: RUF001 - the commas are those of Chinese
    '```python\ntokenizer = AutoTokenizer.from_pretrained("Qwen/Qwen-tokenizer")\ntokenizer("世界，你好！")```': [
        *(73594, 12669, 198, 85593, 284, 8979, 37434, 6387, 10442, 35722, 445, 48, 16948, 45274, 16948, 34841, 3135),
        *(1138, 85593, 445, 99489, 3837, 108386, 6313, 899, 73594),
    ],
    "使用预训练模型可以减少计算消耗和碳排放，并且节省从头训练所需要的时间和资源。": [
        *(37029, 98841, 104034, 104949, 73670, 101940, 100768, 104997, 33108, 100912, 105054, 90395, 100136, 106831),
        *(45181, 64355, 104034, 113521, 101975, 33108, 85329, 1773),
    ],
    " with over 32+ pretrained models in 100+ languages": [
        *(448, 916, 220, 18, 17, 10, 80669, 4119, 304, 220, 16, 15, 15, 10, 15459),
    ],
    "<|endoftext|><|im_start|><|im_end|><|video_pad|>": [151643, 151644, 151645, 151656],
    "<tool_call></tool_call><|fim_prefix|><|fim_middle|><|fim_suffix|><|file_sep|>": [
        *(151657, 151658, 151659, 151660, 151661, 151664),
    ],
}


@pytest.mark.parametrize("name", NAMES)
def test_token_ids_are_those_of_the_published_tokenizer(name: str) -> None:
    tokenizer = load_tokenizer(name)
    for text, ids in IDS.items():
        assert tokenizer(text).input_ids == ids, text
    assert tokenizer("\u03d2\u0301").input_ids == tokenizer("\u03d3").input_ids  # NFC, as the published one
    # The published table calls the first special and the other not: it stays in a decoded text.
    kept = tokenizer.decode(tokenizer("<|im_start|>x<|fim_middle|>y").input_ids, skip_special_tokens=True)
    assert kept == "x<|fim_middle|>y"
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (None, "<|im_end|>", "<|endoftext|>")
    assert render_chat(tokenizer, (("user", "Hi"),), name) == (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("name", NAMES)
def test_code_goes_through_the_tokenizer_unchanged(name: str) -> None:
    tokenizer = load_tokenizer(name)
    for problem in load_problems("starter"):
        text = f"{problem.reference}\n\t{problem.tests[0]}  # é中\r\n"
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_weights_are_those_that_transformers_reads_rounded_to_bfloat16(tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    file = assets.published_file(NAMES[0], tmp_path)
    folder = assets.model(str(file))  # by its hash, what the alias gives
    assert folder == assets.model(NAMES[0])
    kept = {key: value for shard in folder.glob("*.safetensors") for key, value in load_file(shard).items()}
    exact = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32).state_dict()
    assert kept.keys() == exact.keys()
    for key, value in exact.items():
        assert torch.equal(kept[key], value.to(torch.bfloat16)), key


def test_a_reply_ends_at_im_end(model: TransformersGenerator) -> None:
    (reply,) = model.generate([Request((("user", "Answer with one word: yes or no?"),), 0, temperature=0.0)])
    assert reply.finish_reason == "stop" and "<|" not in reply.text and reply.completion_tokens < 10


def test_greedy_texts_are_those_of_transformers(model: TransformersGenerator) -> None:
    """One prompt at a time; of the 0.5B by a model that transformers loads by itself, nothing packed (both in memory)."""
    from transformers import AutoModelForCausalLM

    requests = chats(20, 16 if model.name == NAMES[0] else 8)
    texts = [reply.text for reply in model.generate(requests)]
    plain = model.model
    if model.name == NAMES[0]:
        plain = AutoModelForCausalLM.from_pretrained(assets.model(model.name), dtype=torch.float32).eval()
    for request, text in zip(requests, texts, strict=True):
        prompt = render_chat(model.tokenizer, request.prompt, model.name)  # type: ignore[arg-type]
        ids = model.tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
        out = plain.generate(ids, do_sample=False, max_new_tokens=request.max_new_tokens)[0, ids.shape[1] :]
        assert text == model.tokenizer.decode(out, skip_special_tokens=True)


def test_a_text_depends_on_its_request_alone() -> None:
    model = load_model(NAMES[0], dtype="float32", device="cpu", batch_size=8)
    requests = chats(8, 24, temperature=0.7)
    together = model.generate(requests)
    assert [model.generate([request])[0] for request in requests] == together
    order = [5, 2, 7, 0, 3, 6, 1, 4]
    assert model.generate([requests[i] for i in order]) == [together[i] for i in order]
