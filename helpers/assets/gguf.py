"""A folder for ``from_pretrained`` from a GGUF file: weights dequantised once, the tokenizer as it was published."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tqdm import tqdm

from .download import AssetError, no_progress_bars

_QWEN2 = {  # llama.cpp's names of Qwen2's tensors; blk.N. goes before those of a block
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_SHARD = 1 << 30  # bytes held in memory before they are written


def convert_qwen2(gguf: Path, target: Path, name: str) -> None:
    """Qwen2.5-Coder in bfloat16, tensor by tensor, so that a model of 3.6 GB is converted in about 3 GB of memory.

    transformers' loader would hold all of it in float32. Half of the bytes go and with them the last bits: the scales of
    a GGUF file are float16, so most of its weights have no exact bfloat16 value. The files keep a head of their own
    (``output``) beside the embeddings, though the published weights share one: it is quantised more finely, and kept.
    """
    import numpy as np
    import torch
    from gguf import GGUFReader, dequantize
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    with no_progress_bars():
        config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
        tokenizer = _qwen2_tokenizer(gguf)
    del config._name_or_path
    config.architectures, config.dtype, config.name_or_path = ["Qwen2ForCausalLM"], torch.bfloat16, name
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in AutoModelForCausalLM.from_config(config).state_dict().items()}

    shards: list[list[str]] = []
    waiting: dict[str, torch.Tensor] = {}
    tensors = GGUFReader(gguf).tensors

    def write() -> None:
        save_file(waiting, target / f"model-{len(shards) + 1:05d}.safetensors", metadata={"format": "pt"})
        shards.append(list(waiting))
        waiting.clear()

    for tensor in tqdm(tensors, desc=f"converting {name}", unit=" tensors", mininterval=1):
        key = _qwen2_name(tensor.name)
        waiting[key] = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type))).to(torch.bfloat16)
        if key not in shapes or waiting[key].shape != shapes[key]:
            raise AssetError(
                f"{gguf.name} has a tensor {tensor.name} {tuple(waiting[key].shape)}: not the expected model"
            )
        if sum(value.nbytes for value in waiting.values()) >= _SHARD:
            write()
    if waiting:
        write()
    if absent := shapes.keys() - {key for keys in shards for key in keys}:
        raise AssetError(f"{gguf.name} lacks {', '.join(sorted(absent)[:3])}: not the expected model")
    names = {key: f"model-{number:05d}.safetensors" for number, keys in enumerate(shards, 1) for key in keys}
    (target / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}, indent=1))
    for file in target.glob("*.safetensors"):
        file.chmod(0o644)  # safetensors makes it readable by its owner only
    config.save_pretrained(target)
    # The published generation_config.json ends a reply at either. Its sampling settings are not taken: requests have theirs.
    ends = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id).save_pretrained(target)
    tokenizer.save_pretrained(target)
    # Marks of tools and of fill-in-the-middle are not special in the published tokenizer: they stay when a text is decoded.
    saved = json.loads((file := target / "tokenizer.json").read_text(encoding="utf-8"))
    for mark in saved["added_tokens"]:
        mark["special"] = mark["id"] <= tokenizer.convert_tokens_to_ids("<|video_pad|>")
    file.write_text(json.dumps(saved, ensure_ascii=False, indent=2), encoding="utf-8")


def _qwen2_name(name: str) -> str:
    block, stem, kind = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name).groups()  # type: ignore[union-attr]
    return f"model.layers.{block}.{_QWEN2[stem]}.{kind}" if block else f"{_QWEN2[stem]}.{kind}"


def _qwen2_tokenizer(gguf: Path):  # type: ignore[no-untyped-def]
    """The published tokenizer, but for the marks that it does not skip when it decodes; the loader leaves out NFC."""
    from tokenizers import normalizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    tokenizer.model_max_length = 32768
    tokenizer.bos_token = None
    tokenizer.padding_side = "left"
    tokenizer.init_kwargs["padding_side"] = "left"  # what save_pretrained writes
    return tokenizer


def convert_smollm2(gguf: Path, target: Path) -> None:
    """SmolLM2 in float32: 79 % of its dequantised weights have no exact bfloat16 value, and it is small."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with no_progress_bars():
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        # The loaded object counts as quantised and refuses to be saved; a plain model takes its float32 weights.
        settings = loaded.config.to_dict()
        del settings["quantization_config"], settings["_name_or_path"]
        model = AutoModelForCausalLM.from_config(type(loaded.config).from_dict(settings), dtype=torch.float32)
        model.load_state_dict(loaded.state_dict())
        model.generation_config = loaded.generation_config
        model.save_pretrained(target)
    (target / "model.safetensors").chmod(0o644)  # safetensors makes it readable by its owner only
    # The GGUF names its pre-tokenizer ("smollm": single digits first), the loader builds GPT-2's, which cuts
    # numbers after spaces differently from the model's training data.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.model_max_length = loaded.config.max_position_embeddings
    tokenizer.padding_side = "left"
    tokenizer.init_kwargs["padding_side"] = "left"  # what save_pretrained writes
    tokenizer.save_pretrained(target)
