"""Text generators that answer by a rule, in place of language models: real prompts in, known programs out.

``Coder`` and ``Rewriter`` implement the contract of helpers/models/ and keep every batch that they were asked for.
``scripted_t5`` and ``scripted_llama`` go further: they give a tiny real model weights with which the whole decode
loop, batching, key-value caches and all, spells each problem's reference solution.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ppo_codet5.helpers.models import Completion, Request, load_generator
from ppo_codet5.helpers.models.local import TransformersGenerator
from ppo_codet5.helpers.problems import Problem, load_problems
from ppo_codet5.helpers.runs import stable_hash
from tiny import save_llama, save_t5
from torch import nn
from transformers import LlamaForCausalLM, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from ppo_codet5.core import Parameters

STARTER = {split: load_problems("starter", split) for split in ("train", "validation", "test")}
REFLECT, REWRITE = "The program is wrong because", "Here is the rewritten prompt:"
CUT = "<cut>"  # at the end of an answer: the limit of tokens ended it
# A problem whose words stay the same while the starter set is edited; a constant passes one of its asserts.
MIDPOINT = Problem(
    task_id=1,
    text="Write a Python function to find the number that lies exactly halfway between two numbers.",
    entry_point="midpoint",
    tests=("assert midpoint(2, 6) == 4.0", "assert midpoint(0, 5) == 2.5", "assert midpoint(10, 20) == 15.0"),
    challenge_tests=("assert midpoint(-4, 4) == 0.0", "assert midpoint(3, 3) == 3.0"),
    reference="def midpoint(a, b):\n    return (a + b) / 2",
)


def small(**changes: object) -> Parameters:
    """Parameters of a run of seconds: four problems, two updates of four episodes."""
    few = {
        "train_limit": 4,
        "eval_limit": 4,
        "max_episodes": 8,
        "episodes_per_update": 4,
        "num_envs": 4,
        "max_steps": 3,
    }
    return Parameters(**{**few, "dtype": "float32", "device": "cpu", "generation_cache": None, **changes})


def right(problem: Problem) -> str:
    return problem.reference


def wrong(problem: Problem) -> str:
    return f"def {problem.entry_point}(*values):\n    return 'no such value'"


def partly(problem: Problem) -> str:
    """Passes the first assert and few others: returns what the first one expects."""
    comparison = ast.parse(problem.tests[0]).body[0].test
    return f"def {problem.entry_point}(*values):\n    return {ast.unparse(comparison.comparators[0])}"


def sometimes(problem: Problem, request: Request) -> str:
    """Right for about a third of the seeds: without state, so an interrupted run sees the same."""
    return right(problem) if request.seed % 3 == 0 else wrong(problem)


class Scripted:
    """A text generator that answers each request on its own."""

    def __init__(self, name: str) -> None:
        self.name, self.revision, self.batches = name, "1", list[list[Request]]()

    @property
    def requests(self) -> list[Request]:
        return [request for batch in self.batches for request in batch]

    def answer(self, request: Request) -> str:
        raise NotImplementedError

    def generate(
        self, requests: Sequence[Request], each: Callable[[int, Completion], object] = lambda place, completion: None
    ) -> list[Completion]:
        self.batches.append(list(requests))
        replies = [(request, self.answer(request)) for request in requests]
        reasons = ["length" if text.endswith(CUT) else "stop" for _, text in replies]
        completions = [
            Completion(text.removesuffix(CUT), len(str(request.prompt).split()), len(text.split()), reason)
            for (request, text), reason in zip(replies, reasons, strict=True)
        ]
        for place in reversed(range(len(completions))):  # in an order that nothing may rely on
            each(place, completions[place])
        return completions


class Coder(Scripted):
    """Finds the problem by the function that the request's forced start defines; ``rule(problem, request)`` answers."""

    def __init__(self, problems: Iterable[Problem], rule: Callable[[Problem, Request], str] = sometimes) -> None:
        super().__init__("scripted-coder")
        self.problems, self.rule = {problem.entry_point: problem for problem in problems}, rule

    def answer(self, request: Request) -> str:
        (name,) = re.search(r"def (\w+)\($", request.prefix).groups()
        return self.rule(self.problems[name], request)


class Rewriter(Scripted):
    """Reflects and rewrites in a few words that differ from seed to seed; ``rule(request)`` may answer instead."""

    def __init__(self, rule: Callable[[Request], str | None] = lambda request: None) -> None:
        super().__init__("scripted-rewriter")
        self.rule = rule

    def answer(self, request: Request) -> str:
        if (text := self.rule(request)) is not None:
            return text
        if request.prefix == REFLECT:
            return f"{REFLECT} the value of case {request.seed % 9973} is off."
        assert request.prefix.startswith(REWRITE), request
        return f"{request.prefix} returns the value that the task describes, version {request.seed % 9973}."


class BagOfWords:
    """Sentence vectors from word counts, for tests in which the embedder's time would be most of the time."""

    dim, name = 64, "bag of words"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        counts = np.zeros((len(texts), self.dim))
        for row, text in zip(counts, texts, strict=True):
            for word in re.findall(r"\w+|\W", text):
                row[stable_hash(word) % self.dim] += 1
        return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


# Real decode loops with scripted weights


class _ScriptedEncoder(nn.Module):
    """Writes the number of the row's problem, one-hot, into every position of the hidden state."""

    def __init__(self, words: Any, problems: Sequence[Problem], width: int) -> None:
        super().__init__()
        self.words, self.width = words, width
        self.index = {problem.entry_point: i for i, problem in enumerate(problems)}

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> BaseModelOutput:
        texts = [self.words.decode(ids[mask.bool()]) for ids, mask in zip(input_ids, attention_mask, strict=True)]
        rows = torch.tensor([self.index[re.search(r"\bassert (\w+)\(", text)[1]] for text in texts])
        inside = attention_mask.float()[..., None]
        hidden = nn.functional.one_hot(rows, self.width).float()[:, None] * inside
        return BaseModelOutput(last_hidden_state=hidden + (1 - inside) * 1e3)  # poison where no one may look


class _ScriptedEmbedding(nn.Module):
    """One-hot, the problem's number at the last token of a prompt; a mark at each generated token; zero elsewhere.

    ``end``: what a prompt ends with, the function's name its only group.
    """

    def __init__(self, words: Any, problems: Sequence[Problem], width: int, end: str) -> None:
        super().__init__()
        self.words, self.width, self.mark, self.end = words, width, len(problems), end
        self.index = {problem.entry_point: i for i, problem in enumerate(problems)}

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        hidden = torch.zeros(*input_ids.shape, self.width)
        if input_ids.shape[1] == 1:
            hidden[:, 0, self.mark] = 1
        else:
            for row, ids in enumerate(input_ids):  # a prompt may be computed in pieces: only the last one has its end
                if end := re.search(self.end, self.words.decode(ids), re.DOTALL):
                    hidden[row, -1, self.index[end[1]]] = 1
        return hidden


class _ScriptedHead(nn.Module):
    """Logits that force token number ``step`` of program number ``index``, both read from the hidden state."""

    def __init__(
        self,
        words: Any,
        problems: Sequence[Problem],
        read: Callable[[torch.Tensor], list[tuple[int, int]]],
        start: str = "def {}(",
    ) -> None:
        super().__init__()
        starts = [start.format(problem.entry_point) for problem in problems]
        assert all(p.reference.startswith(start) for p, start in zip(problems, starts, strict=True))
        rest = [p.reference.removeprefix(start) for p, start in zip(problems, starts, strict=True)]
        self.programs = [[*words.encode(text, add_special_tokens=False), words.eos_token_id] for text in rest]
        self.read, self.size = read, len(words)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(hidden), 1, self.size)
        for row, (index, step) in enumerate(self.read(hidden[:, -1])):
            # Elsewhere, as in a piece of a prompt whose logits no one reads: the token 0.
            logits[row, 0, self.programs[index][step] if 0 <= step < len(self.programs[index]) else 0] = 50.0
        return logits


def scripted_t5(folder: Path, problems: Sequence[Problem], batch_size: int) -> TransformersGenerator:
    """A tiny T5 that spells the references of ``problems`` (distinct names, fewer than ``d_model``).

    Cross-attention copies the one-hot problem from its cached values into the stream. Self-attention, uniform over the
    cached columns, averages a mark that only the start token has: 1 / length, so the step. Nothing else has weight.
    """
    model = T5ForConditionalGeneration.from_pretrained(save_t5(folder))
    width = model.config.d_model
    assert len(problems) < width == model.config.num_heads * model.config.d_kv
    for name, weight in model.named_parameters():
        weight.data.fill_(1.0 if "layer_norm" in name else 0.0)
    model.get_input_embeddings().weight.data[model.config.decoder_start_token_id, -1] = 1.0
    first = model.decoder.block[0].layer
    for attention, dims in ((first[0].SelfAttention, [width - 1]), (first[1].EncDecAttention, range(len(problems)))):
        for matrix in (attention.v, attention.o):
            matrix.weight.data[dims, dims] = 1.0
    model.save_pretrained(folder)

    generator = load_generator(str(folder), device="cpu", batch_size=batch_size)
    words = generator.tokenizer
    forced = [len(words.encode(f"def {p.entry_point}(", add_special_tokens=False)) for p in problems]

    def read(hidden: torch.Tensor) -> list[tuple[int, int]]:
        codes, index = hidden[:, : len(problems)].max(-1)
        # The start token's norm makes its mark sqrt(width); the code is 1; the last norm scales both alike.
        lengths = (width**0.5 * codes / hidden[:, -1]).round().int().tolist()
        return [(i, max(1, length) - 1 - forced[i]) for i, length in zip(index.tolist(), lengths, strict=True)]

    generator.model.encoder = _ScriptedEncoder(words, problems, width)
    generator.model.lm_head = _ScriptedHead(words, problems, read)
    return generator


def scripted_llama(
    folder: Path, problems: Sequence[Problem], batch_size: int, fenced: bool = False
) -> TransformersGenerator:
    """A tiny Llama that spells the references of ``problems`` (distinct names, fewer than its values are wide).

    It goes on after the function's forced name or, ``fenced``, after an open code fence.

    Self-attention, uniform over the cached columns, averages the one-hot problem, which the last prompt token has, and
    the mark of generated tokens, into free dimensions of the stream; their quotient is the step.
    """
    model = LlamaForCausalLM.from_pretrained(save_llama(folder))
    config, size = model.config, len(problems) + 1
    head = config.hidden_size // config.num_attention_heads
    assert size <= config.num_key_value_heads * head and 2 * size <= config.hidden_size
    for name, weight in model.named_parameters():
        weight.data.fill_(1.0 if "norm" in name else 0.0)
    attention = model.model.layers[0].self_attn
    share = config.num_attention_heads // config.num_key_value_heads  # query heads that read the same values
    for dim in range(size):
        attention.v_proj.weight.data[dim, dim] = 1.0
        attention.o_proj.weight.data[size + dim, dim // head * share * head + dim % head] = 1.0
    model.save_pretrained(folder)

    def read(hidden: torch.Tensor) -> list[tuple[int, int]]:
        codes, index = hidden[:, size : 2 * size - 1].max(-1)
        steps = (hidden[:, 2 * size - 1] / codes).nan_to_num(-1).round().int()
        return list(zip(index.tolist(), steps.tolist(), strict=True))

    generator = load_generator(str(folder), device="cpu", batch_size=batch_size)
    end = r"\bassert (\w+)\(.*```python\n$" if fenced else r"\bdef (\w+)\($"
    generator.model.model.embed_tokens = _ScriptedEmbedding(generator.tokenizer, problems, config.hidden_size, end)
    generator.model.lm_head = _ScriptedHead(generator.tokenizer, problems, read, "" if fenced else "def {}(")
    return generator
