"""What stands in for models and data that are not at hand: models of the published shapes with random weights.

Speed and memory do not depend on the values. A random model's next token would be nearly uniform over the vocabulary, which no trained model's is and which sampling
from the nucleus would pay for: the last norm is scaled so that logits have a standard deviation of 10. No token ends a
text. The tokenizer knows the words of the starter problems and made-up ones.
"""

import functools
import re
import shutil
from pathlib import Path

import _common
import numpy as np

LLAMA = dict(model_type="llama", pad_token_id=0, bos_token_id=None, eos_token_id=None, rms_norm_eps=1e-5)
T5 = dict(model_type="t5", pad_token_id=0, eos_token_id=None, decoder_start_token_id=0, feed_forward_proj="relu")
LLAMA3_ROPE = dict(rope_type="llama3", rope_theta=5e5, factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0)
LLAMA3_ROPE |= dict(original_max_position_embeddings=8192)
SHAPES = {  # keyword arguments of ``AutoConfig.for_model``
    # HuggingFaceTB/SmolLM2-135M-Instruct, config.json, and equal to what the published GGUF file says.
    "smollm2-135m": dict(
        **LLAMA,
        **dict(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, head_dim=64),
        **dict(num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True, max_position_embeddings=8192),
        rope_parameters=dict(rope_type="default", rope_theta=1e5),
    ),
    # Qwen/Qwen2.5-Coder-0.5B-Instruct, config.json.
    "qwen2.5-coder-0.5b": dict(
        **dict(model_type="qwen2", pad_token_id=0, bos_token_id=None, eos_token_id=None, rms_norm_eps=1e-6),
        **dict(vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24),
        **dict(num_attention_heads=14, num_key_value_heads=2, tie_word_embeddings=True, max_position_embeddings=32768),
        rope_parameters=dict(rope_type="default", rope_theta=1e6),
    ),
    # Salesforce/codet5p-770m-py, config.json. CodeT5+ 770M follows the architecture of T5 large (arXiv 2305.07922,
    # section 4.1): 1024 wide, 4096 in the feed-forward layers, 16 heads of 64 (arXiv 1910.10683, section 3.7).
    "codet5p-770m": dict(
        **T5,
        **dict(vocab_size=32100, d_model=1024, d_ff=4096, d_kv=64, num_heads=16, num_layers=24, num_decoder_layers=24),
    ),
    # meta-llama/Llama-3.2-3B-Instruct, config.json.
    "llama-3.2-3b": dict(
        **LLAMA,
        **dict(vocab_size=128256, hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, head_dim=128),
        **dict(num_attention_heads=24, num_key_value_heads=8, tie_word_embeddings=True, max_position_embeddings=131072),
        rope_parameters=LLAMA3_ROPE,
    ),
    # codellama/CodeLlama-7b-Instruct-hf, config.json: Llama 2 7B with 16 more tokens and a rotary base of 10^6
    # (arXiv 2308.12950, section 2.4).
    "codellama-7b": dict(
        **LLAMA,
        **dict(vocab_size=32016, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, head_dim=128),
        **dict(
            num_attention_heads=32, num_key_value_heads=32, tie_word_embeddings=False, max_position_embeddings=16384
        ),
        rope_parameters=dict(rope_type="default", rope_theta=1e6),
    ),
    # sentence-transformers/all-MiniLM-L6-v2, config.json: the sentence embedder.
    "minilm": dict(
        **dict(model_type="bert", vocab_size=30522, hidden_size=384, num_hidden_layers=6),
        **dict(num_attention_heads=12, intermediate_size=1536),
    ),
    "tiny-llama": dict(
        **LLAMA,
        **dict(vocab_size=1500, hidden_size=32, intermediate_size=48, num_hidden_layers=2, head_dim=12),
        **dict(num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False, max_position_embeddings=1024),
    ),
    "tiny-t5": dict(
        **T5, **dict(vocab_size=1500, d_model=32, d_ff=48, d_kv=8, num_heads=3, num_layers=2, num_decoder_layers=2)
    ),
    "tiny-minilm": dict(
        **dict(model_type="bert", vocab_size=1500, hidden_size=12, num_hidden_layers=1),
        **dict(num_attention_heads=2, intermediate_size=12),
    ),
}
CHAT_TEMPLATE = (
    "{% for m in messages %}### {{ m['role'] }}\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant\n{% endif %}"
)


def build(name, device="meta"):
    """The model in bfloat16, its weights as transformers initialises them; on "meta" it has none."""
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(**SHAPES[name])
    kinds = {"t5": transformers.AutoModelForSeq2SeqLM, "bert": transformers.AutoModel}
    torch.manual_seed(0)
    with torch.device(device):
        return kinds.get(config.model_type, transformers.AutoModelForCausalLM).from_config(config, dtype=torch.bfloat16)


def saved(name, root, device="cpu"):
    """The folder under ``root`` with the model's weights and tokenizer, for ``load_generator``; made on ``device``."""
    import torch
    from ppo_codet5.helpers.assets import no_progress_bars

    folder, draft = Path(root) / name, Path(root) / f"{name}.part"
    if not folder.exists():
        shutil.rmtree(draft, ignore_errors=True)  # left by a kill
        model = build(name, device).eval()
        if model.get_output_embeddings() is not None:
            sharpen(model)
        with no_progress_bars():
            model.save_pretrained(draft)
        tokenizer(SHAPES[name]["vocab_size"]).save_pretrained(draft)
        draft.rename(folder)
        del model
        if device == "cuda":
            torch.cuda.empty_cache()  # for engines that allocate by themselves
    return str(folder)


def sharpen(model):
    """Make a random model's next-token distribution as peaked as a trained one's: see the top of this file."""
    import torch

    ids = torch.randint(1, model.config.vocab_size, (4, 16), device=model.device)
    encoder_decoder, decoder = model.config.is_encoder_decoder, model.get_decoder()
    inputs = {"input_ids": ids, "decoder_input_ids": ids} if encoder_decoder else {"input_ids": ids}
    norm = decoder.final_layer_norm if encoder_decoder else decoder.norm
    with torch.no_grad():
        norm.weight.mul_(10 / model(**inputs).logits.float().std().item())


@functools.cache
def words():
    """The words and marks of the starter problems as they follow each other."""
    from ppo_codet5.helpers.problems import load_problems

    problems = load_problems("starter", "train")
    return re.findall(r"\w+|[^\w\s]+", " ".join(f"{p.text} {p.reference} {' '.join(p.tests)}" for p in problems))


def tokenizer(size):
    """A tokenizer of exactly ``size`` tokens, each a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made_up = (f"word{i}" for i in range(size))
    vocabulary = list(dict.fromkeys(["<pad>", "<unk>", *words(), *made_up]))[:size]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", model_max_length=256)
    made.chat_template = CHAT_TEMPLATE
    return made


def prompts(count, length):
    """So many different texts of exactly so many tokens of ``tokenizer``, with no start in common."""
    known = words()
    starts = np.random.default_rng(0).permutation(len(known))[:count]
    return [" ".join(known[(start + i) % len(known)] for i in range(length)) for start in starts]


class NoSynonyms:
    """Stands in for the lexicon, whose data a machine without network lacks: no word may change."""

    tagger_name = "none"

    @staticmethod
    def tokenize(text):
        from ppo_codet5.helpers.language import tokenize

        return tokenize(text)

    def tag(self, words):
        return ["NN"] * len(words)

    def is_stop_word(self, word):
        return True


@functools.cache
def step_values(name):
    """What a decode step must read at least, in values: those of the weights, and those of a token in the cache.

    Of the weights every parameter of the decoder and the output layer once; not the input embedding where it is another
    tensor (one row a token), nor the matrices that made the cross-attention's keys and values. The tokens of an
    encoder have as many values in the cache as the decoder's.
    """
    model = build(name)
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    read = {id(head): head}
    for label, weight in model.get_decoder().named_parameters():
        if weight is not table and ".EncDecAttention.k." not in label and ".EncDecAttention.v." not in label:
            read[id(weight)] = weight
    return sum(weight.numel() for weight in read.values()), _common.cached_values(model.config)
