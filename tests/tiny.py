"""Tiny random models in the shapes of the real ones, saved to a folder, so that tests load and run the real code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

CODE = '''def count_vowels(text):
    """Count the vowels of a string."""
    return sum(1 for char in text if char in "aeiou")


def is_prime(n):
    if n < 2:
        return False
    for i in range(2, int(n**0.5) + 1):
        if n % i == 0:
            return False
    return True


Write a Python function named add that returns the sum of two numbers. Here is the rewritten prompt:
'''

# It prints the date unless told one, as Llama 3's template does.
CHAT_TEMPLATE = (
    "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "<s>{{ date_string }}\n"
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE with RoBERTa's special tokens (``t5``: as CodeT5, <s> ... </s>) or Llama's (``llama``: <s> ...)."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([CODE], trainer)
    template = "<s> $A </s>" if kind == "t5" else "<s> $A"
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 1), ("</s>", 2)])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    if kind == "llama":
        wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def save_t5(folder: Path, seed: int = 0) -> Path:
    """A CodeT5-shaped encoder-decoder, two layers each side."""
    words = tokenizer("t5")
    config = T5Config(
        vocab_size=len(words),
        d_model=48,
        d_kv=12,
        d_ff=96,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=4,
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=0,
    )
    return _save(T5ForConditionalGeneration, config, words, folder, seed, spread=30.0)


def save_llama(folder: Path, seed: int = 0, context: int = 512) -> Path:
    """A Llama-shaped decoder with grouped keys (4 heads, 2 of keys and values), rotary positions, a chat template."""
    words = tokenizer("llama")
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return _save(LlamaForCausalLM, config, words, folder, seed, spread=20.0)


def _save(kind: Any, config: Any, words: PreTrainedTokenizerFast, folder: Path, seed: int, spread: float) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(config)
        # Initial weights hardly look at the prompt. Not the embeddings: T5 would repeat its last token.
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "shared" not in name:
                weight.data.mul_(spread)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
