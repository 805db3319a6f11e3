"""The completion cache: hits, duplicates, identity of the model, damage, eviction, several processes at once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

import pytest
from ppo_codet5.helpers.models import CachedGenerator, Completion, Request


class Echo:
    """A generator that repeats the prompt and remembers what it was asked."""

    def __init__(self, revision: str = "1", dtype: str = "float32") -> None:
        self.name, self.revision, self.dtype = "echo", revision, dtype
        self.asked: list[Request] = []

    def generate(
        self, requests: Sequence[Request], each: Callable[[int, Completion], object] = lambda place, made: None
    ) -> list[Completion]:
        self.asked += requests
        made = [Completion(f"{request.prompt} é\n", len(request.prompt), request.seed, "stop") for request in requests]
        for place, completion in reversed(list(enumerate(made))):
            each(place, completion)
        return made


def test_second_time_comes_from_disk(tmp_path: Path) -> None:
    requests = [Request("a", 1), Request("b", 2), Request((("user", "c"),), 3)]
    first = CachedGenerator(Echo(), tmp_path)
    made = first.generate(requests[:2])
    again = CachedGenerator(Echo(), tmp_path)
    got = again.generate([requests[2], requests[1], requests[0]])
    assert again.inner.asked == [requests[2]]
    assert got[1:] == made[::-1]
    assert [c.cached for c in made] == [False, False] and [c.cached for c in got] == [False, True, True]
    assert (first.stats.hits, first.stats.misses) == (0, 2)
    assert again.stats.hit_rate == 2 / 3


def test_duplicates_in_one_call_are_generated_once(tmp_path: Path) -> None:
    cached = CachedGenerator(Echo(), tmp_path)
    got = cached.generate([Request("a", 1), Request("b", 1), Request("a", 1)])
    assert len(cached.inner.asked) == 2
    assert got[0] == got[2] != got[1]
    assert [c.cached for c in got] == [False, False, True]
    assert cached.generate([]) == []


def test_each_completion_is_handed_on_once(tmp_path: Path) -> None:
    CachedGenerator(Echo(), tmp_path).generate([Request("b", 1)])
    requests = [Request(text, 1) for text in "abcab"]
    told: list[tuple[int, Completion]] = []
    got = CachedGenerator(Echo(), tmp_path).generate(requests, lambda place, made: told.append((place, made)))
    assert [place for place, _ in told[:2]] == [1, 4]  # what is on disk does not wait for what is not
    assert sorted(place for place, _ in told) == [0, 1, 2, 3, 4]
    assert all(got[place] == made and got[place].cached == made.cached for place, made in told)
    assert [c.cached for c in got] == [False, True, False, True, True]


def test_what_was_made_before_an_interrupt_is_kept(tmp_path: Path) -> None:
    class Cut(Echo):
        def generate(self, requests, each=lambda place, made: None):
            super().generate(requests[:2], each)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CachedGenerator(Cut(), tmp_path).generate([Request(text, 1) for text in "abc"])
    again = CachedGenerator(Echo(), tmp_path)
    again.generate([Request(text, 1) for text in "abc"])
    assert [request.prompt for request in again.inner.asked] == ["c"]


def test_everything_that_decides_the_text_is_in_the_key(tmp_path: Path) -> None:
    base = Request("a", 1)
    other = {
        "prompt": "b",
        "seed": 2,
        "prefix": "x",
        "max_new_tokens": 5,
        "temperature": 0.0,
        "top_p": 0.5,
        "stop": "line",
        "entry_point": "f",
    }
    assert set(other) == {f.name for f in fields(Request)}
    cached = CachedGenerator(Echo(), tmp_path)
    keys = {cached.key(base)} | {cached.key(replace(base, **{name: value})) for name, value in other.items()}
    keys |= {
        CachedGenerator(Echo(**change), tmp_path).key(base) for change in ({"revision": "2"}, {"dtype": "bfloat16"})
    }
    assert len(keys) == len(other) + 3
    assert cached.key(base) == CachedGenerator(Echo(), tmp_path / "elsewhere").key(Request("a", 1))


@pytest.mark.parametrize("damage", [b"", b'{"text": "cut sho', b"[]", b'{"other": 1}', b"\xff\xfe"])
def test_damaged_file_is_a_miss_and_is_replaced(tmp_path: Path, damage: bytes) -> None:
    cached = CachedGenerator(Echo(), tmp_path)
    (made,) = cached.generate([Request("a", 1)])
    (path,) = tmp_path.glob("*/*.json")
    path.write_bytes(damage)
    assert cached.generate([Request("a", 1)]) == [made]
    assert len(cached.inner.asked) == 2
    assert cached.generate([Request("a", 1)])[0].cached


def test_eviction_takes_the_oldest_and_stale_temporary_files(tmp_path: Path) -> None:
    cached = CachedGenerator(Echo(), tmp_path, max_mb=1)
    requests = [Request(f"{i:02}" + "x" * 50_000, i) for i in range(30)]
    now = time.time()
    for i, request in enumerate(requests):
        cached.generate([request])
        os.utime(cached._path(cached.key(request)), (now - 1000 + i, now - 1000 + i))
    stale, fresh = tmp_path / "00" / "old.tmp", tmp_path / "00" / "new.tmp"
    stale.parent.mkdir(exist_ok=True)
    stale.touch()
    fresh.touch()
    os.utime(stale, (now - 7200, now - 7200))
    gone = cached.evict()
    left = sorted(tmp_path.glob("*/*.json"))
    assert gone == 30 - len(left) > 0
    assert 0.8 * 2**20 < sum(path.stat().st_size for path in left) <= 0.9 * 2**20
    assert all(c.cached for c in cached.generate(requests[gone:]))
    assert cached.evict() == 0
    assert not stale.exists() and fresh.exists()


WORKER = """
import sys
from test_gencache import Echo
from ppo_codet5.helpers.models import CachedGenerator
from ppo_codet5.helpers.models import Request
cached = CachedGenerator(Echo(), sys.argv[1], max_mb=0.02)
for turn in range(30):
    requests = [Request(f"p{i}" * 50, i) for i in range(10)]
    assert cached.generate(requests) == Echo().generate(requests)
    cached.evict()
"""


def test_processes_may_share_a_folder_that_is_too_small(tmp_path: Path) -> None:
    """Four processes read, write and evict the same few keys; every answer is right and no half file is seen."""
    here = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])}
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)], env=env) for _ in range(4)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0, 0, 0]
    assert not list(tmp_path.glob("*/*.tmp"))


STREAM = """
import os, sys, time
from pathlib import Path
from test_gencache import Echo
from ppo_codet5.helpers.models import CachedGenerator
from ppo_codet5.helpers.models import Completion, Request
folder, draw, log = Path(sys.argv[1]), int(sys.argv[2]), open(sys.argv[3], "a", buffering=1)
class Server(Echo):
    def generate(self, requests, each):
        for place, request in enumerate(requests):
            time.sleep(0.01)
            log.write(f"{request.seed}\\n")
            each(place, Completion(f"{request.seed} by {draw}", 1, 1, "stop"))
cached = CachedGenerator(Server(dtype="server"), folder)
Path(f"{sys.argv[3]}.{draw}").touch()
while len(list(folder.parent.glob("asked.*"))) < 3: time.sleep(0.01)
if draw == 2:
    cached.inner.generate = lambda requests, each: os._exit(3)  # dies with all that it asked for under way
seeds = [(7 * draw + n) % 24 for n in range(15)]
for completion in cached.generate([Request("x", seed) for seed in seeds]): print(completion.text)
"""


def test_processes_ask_a_server_for_nothing_that_another_one_has_under_way(tmp_path: Path) -> None:
    """Its second answer would be another text; what a process that dies had under way is asked for by the next one."""
    here = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])}
    line = [sys.executable, "-c", STREAM, str(tmp_path / "cache")]
    workers = [
        subprocess.Popen([*line, str(draw), str(tmp_path / "asked")], env=env, stdout=subprocess.PIPE, text=True)
        for draw in range(3)
    ]
    texts = [worker.communicate(timeout=120)[0].splitlines() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 3] and [len(lines) for lines in texts] == [15, 15, 0]
    asked = (tmp_path / "asked").read_text().split()
    assert len(asked) == len(set(asked)) and set(asked) == {line.split()[0] for lines in texts for line in lines}
    assert len({line for lines in texts for line in lines}) == len(asked)  # one text each, whoever asked for it


def test_half_a_character_is_kept_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    cached = CachedGenerator(Echo(), "~/kept")
    (made,) = cached.generate([Request("a \ud800", 1)])
    assert cached.generate([Request("a \ud800", 1), Request("a \ufffd", 1)]) == [made, made]
    assert cached.stats.misses == 1 and any((tmp_path / "kept").rglob("*.json"))
