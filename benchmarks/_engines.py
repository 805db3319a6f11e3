"""Ways to generate for many prompts at once: this project's decoder, transformers' two loops, vLLM, OpenVINO GenAI.

Each takes a model's folder, dtype and device, and returns a function of texts and a number of new tokens, which generates
for all texts at once and returns how many tokens each got, and how many rows were in flight.
"""

import importlib.util
import subprocess
import sys
import types

import _common


def load(folder, dtype, device, rows):
    from ppo_codet5.helpers.models import load_generator

    return load_generator(folder, dtype=dtype, device=device, batch_size=rows)


def sampled(text, seed, new):
    """A request as the profiles make them, without a stop rule."""
    from ppo_codet5.helpers.models import Request

    return Request(text, seed=seed, max_new_tokens=new, temperature=0.7, top_p=0.9, stop="none")


def own(folder, dtype, device):
    """This project's decoder."""
    generators = {1: load(folder, dtype, device, 1)}  # by rows, with the same weights; a batch that was halved stays so

    def run(texts, new):
        if len(texts) not in generators:
            generators[len(texts)] = load(folder, dtype, device, len(texts))
        generator = generators[len(texts)]
        done = generator.generate([sampled(text, seed, new) for seed, text in enumerate(texts)])
        return [completion.completion_tokens for completion in done], min(len(texts), generator.batch_size)

    return run


def before(folder, dtype, device, commit):
    """This project's decoder as it was at a commit, with the weights as they are loaded now."""
    command = ["git", "-C", str(_common.ROOT), "show", f"{commit}:helpers/models/local.py"]
    source = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    module = types.ModuleType("ppo_codet5.helpers.models.local_before")
    module.__package__ = "ppo_codet5.helpers.models"
    sys.modules[module.__name__] = module
    loaded = load(folder, dtype, device, 1)
    exec(compile(source, module.__name__, "exec"), module.__dict__)

    def run(texts, new):
        generator = module.TransformersGenerator(loaded.model, loaded.tokenizer, loaded.name, "", len(texts))
        done = generator.generate([sampled(text, seed, new) for seed, text in enumerate(texts)])
        return [completion.completion_tokens for completion in done], len(texts)

    return run


def generate(folder, dtype, device):
    """transformers' ``generate``, with its key-value cache as it comes."""
    generator = load(folder, dtype, device, 1)
    model, tokenizer = generator.model, generator.tokenizer
    model.set_attn_implementation("sdpa")  # transformers' own, not the parts that this decoder computes on a CPU
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    shape = {"padding": True, "padding_side": "right" if model.config.is_encoder_decoder else "left"}

    def run(texts, new):
        inputs = tokenizer(texts, return_tensors="pt", return_token_type_ids=False, **shape).to(device)
        sampling = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 0, "min_new_tokens": new}
        output = model.generate(**inputs, **sampling, max_new_tokens=new)
        start = 1 if model.config.is_encoder_decoder else inputs.input_ids.shape[1]
        return [output.shape[1] - start] * len(output), len(output)

    return run


def generate_batch(folder, dtype, device):
    """transformers' continuous batching; decoder-only models."""
    from transformers import GenerationConfig
    from transformers.generation import ContinuousBatchingConfig

    generator = load(folder, dtype, device, 1)
    generator.model.set_attn_implementation("sdpa")  # continuous batching refuses this decoder's parts
    flash = importlib.util.find_spec("flash_attn") is not None  # without the package it would ask the hub for kernels
    sizes = {"num_blocks": 64, "max_batch_tokens": 64} if device == "cpu" else {}

    def run(texts, new):
        batching = ContinuousBatchingConfig(max_requests_per_batch=len(texts), auto_switch_to_flash=flash, **sizes)
        sampling = GenerationConfig(
            do_sample=True, temperature=0.7, top_p=0.9, top_k=0, eos_token_id=-1, pad_token_id=0
        )
        inputs = [generator.tokenizer(text).input_ids for text in texts]
        done = generator.model.generate_batch(inputs, sampling, batching, max_new_tokens=new)
        return [len(output.generated_tokens) for output in done.values()], len(texts)

    return run


def vllm(folder, dtype, device):
    """vLLM; decoder-only models."""
    from vllm import LLM, SamplingParams

    llm = LLM(folder, dtype=dtype, enable_prefix_caching=False, max_model_len=512, max_num_seqs=1024)

    def run(texts, new):
        sampling = SamplingParams(temperature=0.7, top_p=0.9, max_tokens=new, ignore_eos=True)
        done = llm.generate(texts, sampling, use_tqdm=False)
        return [len(request.outputs[0].token_ids) for request in done], len(texts)

    return run


def openvino(folder, dtype, device):
    """OpenVINO GenAI's continuous batching, with a model that was exported to ``folder``."""
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size, scheduler.max_num_seqs, scheduler.enable_prefix_caching = 2, 256, True
    pipeline = openvino_genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU")

    def run(texts, new):
        sampling = openvino_genai.GenerationConfig()
        sampling.max_new_tokens, sampling.ignore_eos, sampling.apply_chat_template = new, True, False
        sampling.do_sample, sampling.temperature, sampling.top_p, sampling.top_k = True, 0.7, 0.9, 2**31
        pipeline.generate(texts, [sampling] * len(texts))
        return [new] * len(texts), len(texts)

    return run


ENGINES = {engine.__name__: engine for engine in (own, before, generate, generate_batch, openvino, vllm)}
