"""The sandbox's interface: verdicts, messages, cache, threads, processes, levels and the end of everything."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path

import pytest
from ppo_codet5.helpers.sandbox import OUTCOMES, Limits, Program, Sandbox, SandboxError, Verdict
from ppo_codet5.helpers.sandbox.verdicts import MAX_DEATHS, Attempt

ROOT = Path(__file__).resolve().parent.parent
LINUX = sys.platform == "linux"


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=2) as sandbox:
        yield sandbox


def outcomes(sandbox: Sandbox, code: str, *tests: str, setup: str = "") -> tuple[str, ...]:
    return sandbox.run([Program(code, tests, setup)])[0].outcomes


def run_script(script: str, *command: str, **environment: str) -> str:
    """Standard output of a fresh Python process (under ``command``) that runs the script."""
    command = (*command, sys.executable, "-c", textwrap.dedent(script))
    result = subprocess.run(
        command, env=os.environ | environment, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60
    )
    return result.stdout


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


# ---------------------------------------------------------------------------------------------------------- verdicts


def test_verdict_fields(sandbox: Sandbox) -> None:
    code = "def f(x):\n    return [x, {'a': (1.5,)}] if x < 2 else 1 / 0"
    (verdict,) = sandbox.run(
        [Program(code, ("assert f(1) == [1, {'a': (1.5,)}]", "assert f(0) == 5", "assert f(2) == 1"))]
    )
    assert verdict.mask == (1, 0, 0) and verdict.outcomes == ("pass", "wrong_value", "exception")
    assert verdict.messages == ("", "[0, {'a': (1.5,)}]", "ZeroDivisionError: division by zero")
    assert (verdict.error_type, verdict.error_message) == ("wrong_value", "[0, {'a': (1.5,)}]")
    assert 0 < verdict.cpu_seconds < 5 and 0 < verdict.wall_seconds < 60 and not verdict.notes and not verdict.passed
    assert set(verdict.outcomes) <= set(OUTCOMES)
    (verdict,) = sandbox.run([Program(code, ("assert f(2) == 1", "assert f(0) == 5"))])
    assert (verdict.error_type, verdict.error_message) == ("ZeroDivisionError", "ZeroDivisionError: division by zero")
    (verdict,) = sandbox.run([Program(code, ("assert f(1)[0] == 1",))])
    assert verdict.passed and verdict.error_type == verdict.error_message == ""


def test_programs_without_asserts_or_code(sandbox: Sandbox) -> None:
    nothing, no_code = sandbox.run([Program("x = 1", ()), Program("", ("assert f(1) == 1",))])
    assert nothing.mask == () and not nothing.passed
    assert no_code.error_type == "NameError"
    assert sandbox.run([]) == []


def test_setup_runs_between_code_and_asserts_in_one_namespace(sandbox: Sandbox) -> None:
    code = "class Node:\n    def __init__(self, v): self.v = v\ndef value(n):\n    return n.v + calls.pop()\ncalls = [10, 20]"
    setup = "root = Node(1)\nroot.v += 1"
    assert outcomes(sandbox, code, "assert value(root) == 22", "assert value(root) == 12", setup=setup) == (
        "pass",
        "pass",
    )
    assert outcomes(sandbox, "x = 1", "assert x == 1", setup="x = y") == ("exception",)


def test_preamble() -> None:
    program = Program("def f(x):\n    return math.floor(x)", ("assert f(1.5) == 1",))
    future = replace(program, code="from __future__ import annotations\n" + program.code)
    with Sandbox(workers=1, preamble="import math, re") as sandbox:
        assert all(verdict.passed for verdict in sandbox.run([program, future]))
    with Sandbox(workers=1) as sandbox:
        assert sandbox.run([program])[0].error_type == "NameError"


ASSERTS = {
    # the assert, with f the identity: what a plain assert does, and whether the value is compared outside the child
    "f(1) == 1": "pass",
    "f(1) == 1.0": "pass",
    "f(True) == 1": "pass",
    "f(1) == '1'": "wrong_value",
    "1 == f(1)": "pass",
    "f((1, 2)) == [1, 2]": "wrong_value",
    "f([1, [2, (3,)]]) == [1, [2, (3,)]]": "pass",
    "f({1, 2}) == {2, 1}": "pass",
    "f(frozenset([1])) == {1}": "pass",
    "f({'a': {1: [None]}}) == {'a': {1: [None]}}": "pass",
    "f({'a': 1, 'b': 2}) == {'a': 1}": "wrong_value",
    "f({1: 'x'}) == {True: 'x'}": "pass",
    "f({(1, (2, frozenset([3])))}) == {(1, (2, 4))}": "wrong_value",
    "f({(1, (2,)): 3}) == {(1, (2,)): 3}": "pass",
    "f(2 ** 200) == 1606938044258990275541962092341162602522202993782792835301376": "pass",
    "f(-(2 ** 63)) == -9223372036854775808": "pass",
    "f(0.1 + 0.2) == 0.30000000000000004": "pass",
    "f(0.1 + 0.2) == 0.3": "wrong_value",
    "f(1e308 * 10) == 1e400": "pass",
    "f(1 - 2j) == 1 - 2j": "pass",
    "f(-0.0) == 0": "pass",
    "f('\\ud800é\\0') == '\\ud800é\\0'": "pass",
    "f(b'\\xff') == b'\\xff'": "pass",
    "f(bytearray(b'a')) == b'a'": "pass",
    "f(...) == ...": "pass",
    "f(None) == None": "pass",
    "f(None) is None": "pass",
    "f(1) is True": "wrong_value",
    "f(1 == 1) is True": "pass",
    "f(0) is not None": "pass",
    "f(1) != 2": "pass",
    "f(1) != 1": "wrong_value",
    "f([1])": "pass",
    "f([])": "wrong_value",
    "not f('')": "pass",
    "not f(range(3))": "wrong_value",
    "f(__import__('re').match('a', 'a'))": "pass",
    "f(__import__('collections').Counter('aab')) == {'a': 2, 'b': 1}": "pass",
    "f(__import__('collections').namedtuple('P', 'x y')(1, 2)) == (1, 2)": "pass",
    "f(__import__('collections').UserList([1])) == [1]": "pass",
    "f(__import__('collections').deque([1])) == [1]": "wrong_value",
    "f(__import__('decimal').Decimal('1.5')) == 1.5": "pass",
    "f(__import__('decimal').Decimal('0.1')) == 0.1": "wrong_value",
    "f(__import__('fractions').Fraction(1, 2)) == 0.5": "pass",
    "f({1: 2}.keys()) == {1}": "pass",
    "f({1: 2}.values()) == [2]": "wrong_value",
    "f(range(2)) == [0, 1]": "wrong_value",
    "f(iter([])) == []": "wrong_value",
    "f([3, 1])[0] == 3": "pass",
    "sorted(f([3, 1])) == [1, 3]": "pass",
    "len(f('abc')) == 3": "pass",
    "f(2) < 3": "pass",
    "f(3) in (1, 2)": "wrong_value",
    "abs(f(0.1) + 0.2 - 0.3) < 1e-9": "pass",
    "f(1) + f(2) == f(3)": "pass",
    "round(f(2.345), 1) == 2.3": "pass",
    "math.isclose(f(0.3), 0.1 + 0.2)": "pass",
    "all(f(x) == x for x in range(3))": "pass",
    "f(1) == 2 or f(2) == 2": "pass",
    "1 < f(2) < 3": "pass",
    "[f(1), f(2)] == [1, 2]": "pass",
    "{f('a'): f(1)} == {'a': 1}": "pass",
    "f(y=1) == 1": "exception",
    "f(1) ==": "compile_error",
    "isinstance(f(1), int)": "pass",
    "f(f)(1) == 1": "pass",
    "(\n  f(1)  # one\n) == (\n  1\n)": "pass",
    "f('é') == 'é' and True": "pass",
    "(lambda y: f(y))(1) == 1": "pass",
}


@pytest.mark.parametrize("test", ASSERTS)
def test_kinds_of_asserts(sandbox: Sandbox, test: str) -> None:
    code = "import math\ndef f(x):\n    return x"
    split, plain = sandbox.run([Program(code, (f"assert {test}",)), Program(code, (f"if True:\n    assert {test}\n",))])
    assert split.outcomes == (ASSERTS[test],), split
    if "\n" not in test:
        assert plain.mask == split.mask, plain  # what a plain assert does
        assert plain.notes == ("assert 1: ran as it stands, so the program could read or forge its result",)


def test_what_is_compared_where(sandbox: Sandbox) -> None:
    code = "import math\ndef f(x):\n    return x"
    notes = {
        test: sandbox.run([Program(code, (f"assert {test}",))])[0].notes
        for test in ("f(1) == 1", "sorted(f([1])) == [1]", "f(1) < 2", "math.isclose(f(1), 1)", "f(1) == 1 or f(2)")
    }
    assert [len(note) for note in notes.values()] == [0, 0, 1, 1, 1]
    assert "clean process" in notes["f(1) < 2"][0] and "clean process" in notes["math.isclose(f(1), 1)"][0]
    assert "as it stands" in notes["f(1) == 1 or f(2)"][0]


def test_messages_are_bounded_and_the_same_in_every_run(tmp_path: Path) -> None:
    script = """
        import json
        from ppo_codet5.helpers.sandbox import Limits, Program, Sandbox
        codes = [
            "def f(x): return {'b', 'a', str(x), (1, 'z')}",
            "def f(x): return object()",
            "def f(x): raise ValueError(object(), f)",
            "def f(x): return repr(lambda: 0)",
            "import random\\ndef f(x): return [random.random(), random.randint(1, 9), random.choice('abc')]",
            "def f(x): return hash('abc'), list({'x', 'y', 'z', 'w'})",
            "def f(x): return 'x' * 1000",
            "def f(x): return [[{1: 'a'}] * 50] * 50",
            "def f(x): return {i: str(i) for i in range(5000)}",
            "def f(x): return set(range(5000))",
            "def f(x): return 10 ** 4000",
            "def f(x): return '\\\\ud800'",
            "def f(x): open('missing.txt')",
            "import os\\ndef f(x): return open(os.path.abspath('missing.txt'))",
            "import tempfile\\ndef f(x): raise KeyError('a\\\\nb')",
            "def f(x): while",
            "def f(x):\\n  while True: pass",
            "import os\\ndef f(x): os._exit(3)",
        ]
        with Sandbox(workers=2, layers=LAYERS) as sandbox:
            for v in sandbox.run([Program(c, ("assert f(1) == 1", "assert f(2) == (2,)"), "", Limits(0.2)) for c in codes]):
                print(json.dumps([v.mask, v.outcomes, v.messages, v.error_type, v.error_message, v.notes]))
    """
    first = run_script(script.replace("LAYERS", "'auto'"), PYTHONHASHSEED="1")
    assert first == run_script(script.replace("LAYERS", "'auto'"), PYTHONHASHSEED="2", TMPDIR=str(tmp_path))
    rows = [json.loads(line) for line in first.splitlines()]
    messages = [message for row in rows for message in row[2]]
    assert max(map(len, messages)) == 200 and not any("ppo-sandbox-" in message for message in messages)
    assert rows[0][2][0] == "{(1, 'z'), '1', 'a', 'b'}"
    assert rows[1][2][0] == "<object object>" and " at 0x>" in rows[3][2][0]
    assert "'missing.txt'" in rows[12][2][0] and "/tmp/missing.txt" in rows[13][2][0]
    fallback = [json.loads(line) for line in run_script(script.replace("LAYERS", "'none'")).splitlines()]
    assert fallback == rows  # no level shows in a verdict


def test_python_optimize_changes_nothing() -> None:
    script = """
        from ppo_codet5.helpers.sandbox import Program, Sandbox
        tests = ("assert f(1) == 1", "assert f(1) == 2", "assert f(1) > 1", "if True: assert f(1) == 2")
        code = "def f(x):\\n  assert x < 2\\n  return x"
        with Sandbox(workers=1) as sandbox:
            print([v.outcomes for v in sandbox.run([Program(code, tests), Program(code, ("assert f(5) == 5",))])])
    """
    plain = run_script(script)
    assert plain == "[('pass', 'wrong_value', 'wrong_value', 'wrong_value'), ('exception',)]\n"
    assert run_script(script, PYTHONOPTIMIZE="1") == run_script(script, PYTHONOPTIMIZE="2") == plain


# ------------------------------------------------------------------------------------------------- limits, calibration


def test_later_asserts_are_tried_after_one_that_ends_the_process(sandbox: Sandbox) -> None:
    code = "import os\ndef f(x):\n    while x == 2: pass\n    if x == 3: os._exit(1)\n    return x"
    tests = tuple(f"assert f({i}) == {i}" for i in (1, 2, 3, 4))
    (verdict,) = sandbox.run([Program(code, tests, limits=Limits(0.3, 10))])
    assert verdict.outcomes == ("pass", "timeout", "early_exit", "pass") and len(verdict.notes) == 2
    tests = tuple(f"assert f({i}) == 0" for i in (2, 2, 2, 2, 2, 4))
    (verdict,) = sandbox.run([Program(code, tests, limits=Limits(0.3, 10))])
    assert verdict.outcomes == ("timeout",) * 4 + ("not_run",) * 2
    assert verdict.cpu_seconds < 0.9  # the limit holds for all processes together: four would use 1.2


def test_calibrate() -> None:
    quick = Program("def f(x):\n    return x", ("assert f(1) == 1",))
    busy = "import time\ndef f(x):\n    end = time.process_time() + 0.15\n    while time.process_time() < end: pass\n    return x"
    with Sandbox(workers=1, limits=Limits(memory_mb=512, wall_factor=4.0)) as sandbox:
        limits = sandbox.calibrate([quick, Program(busy, ("assert f(1) == 1", "assert f(2) == 2"))])
    assert limits == [Limits(0.5, 4.0, 512), Limits(4.0, 4.0, 512)]


def test_a_reference_that_hangs_gives_no_longer_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def patiently(self: Sandbox, programs: list[Program]) -> list[Program]:  # a second instead of a minute
        return [replace(program, limits=Limits(1.0)) for program in programs]

    monkeypatch.setattr(Sandbox, "_patient", patiently)
    with Sandbox(workers=1, limits=Limits(3.0)) as sandbox:
        assert sandbox.calibrate([Program("def f(x):\n    while True: pass", ("assert f(1) == 1",))]) == [Limits(4.0)]


def test_a_failure_of_the_sandbox_s_own_is_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program("def f():\n    return 1", ("assert f() == 1",))
    with Sandbox(workers=1, cache_size=0) as sandbox:
        assert sandbox.run([program])[0].scored() == (1,)

        def none_left(*_: object) -> None:
            raise SandboxError("no process can be started.")

        monkeypatch.setattr(Attempt, "take", none_left)
        (verdict,) = sandbox.run([program])
        assert (verdict.outcomes, verdict.mask) == (("sandbox_error",), (0,))
        with pytest.raises(SandboxError, match=r"not scored: no process can be started\. Free processes or memory"):
            verdict.scored()


def test_memory_limit_is_the_programs(sandbox: Sandbox) -> None:
    code = "def f(x):\n    return len(bytearray(x << 20))"
    program = Program(code, (f"assert f(300) == {300 << 20}",))
    small, large = sandbox.run([replace(program, limits=Limits(memory_mb=200)), program])
    assert small.outcomes == ("oom",) and large.passed


# --------------------------------------------------------------------------------------------- queue, cache and threads


def test_order_duplicates_and_cache() -> None:
    programs = [Program(f"def f():\n    return {i % 300}", (f"assert f() == {i % 300}",)) for i in range(3000)]
    with Sandbox(workers=2, cache_size=200) as sandbox:
        verdicts = sandbox.run(programs)
        assert all(verdict.passed for verdict in verdicts)
        assert verdicts[0] is verdicts[300] is verdicts[2700]  # ran once
        assert sandbox.run(programs[290:300])[0] is verdicts[290]
        assert sandbox.run(programs[:1])[0] is not verdicts[0]  # dropped: the cache is bounded
        other = [replace(programs[299], limits=Limits(cpu_seconds=1.5)), replace(programs[299], setup="pass")]
        assert not any(verdict is verdicts[299] for verdict in sandbox.run(other))
    with Sandbox(workers=1, cache_size=0) as sandbox:
        (first,), (second,) = sandbox.run(programs[:1]), sandbox.run(programs[:1])
        assert first is not second and first.mask == second.mask


def test_run_async_overlaps_and_can_be_cancelled(sandbox: Sandbox) -> None:
    slow = Program("import time\ndef f(x):\n    time.sleep(0.3)\n    return x", ("assert f(1) == 1",), "# async")
    future = sandbox.run_async([slow])
    assert not future.done()
    assert outcomes(sandbox, "def f(): return 3", "assert f() == 3") == ("pass",)  # on the other worker
    assert future.result(timeout=20)[0].passed
    sleepers = [replace(slow, setup=f"# {i}") for i in range(200)]
    future = sandbox.run_async(sleepers)
    assert future.cancel()
    began = time.monotonic()
    assert outcomes(sandbox, "def f(): return 4", "assert f() == 4") == ("pass",)
    assert time.monotonic() - began < 20  # not behind a minute of cancelled programs


def test_threads_share_a_sandbox(sandbox: Sandbox) -> None:
    results: dict[int, list[Verdict]] = {}

    def work(n: int) -> None:
        tests = (f"assert f() == {n}",)
        results[n] = sandbox.run([Program(f"def f():\n    return {n} + 0 * {i}", tests) for i in range(20)])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(6)) and all(v.passed for verdicts in results.values() for v in verdicts)


def test_closing(tmp_path: Path) -> None:
    sandbox = Sandbox(workers=1).start()
    (worker,) = sandbox._pool.workers
    future = sandbox.run_async([Program("import time\ntime.sleep(5)", ("assert f(1) == 1",))] * 3)
    sandbox.close()
    sandbox.close()
    assert worker.process.poll() is not None
    with pytest.raises(CancelledError):
        future.result(timeout=5)
    with pytest.raises(SandboxError, match="closed"):
        sandbox.run([Program("", ())])
    forgotten = Sandbox(workers=1).start()
    (worker,) = forgotten._pool.workers
    del forgotten
    assert wait_until(lambda: worker.process.poll() is not None)


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Sandbox(workers=0)
    with pytest.raises(ValueError, match="Unknown sandbox layers \\['chroot'\\]"):
        Sandbox(layers="chroot")


# ----------------------------------------------------------------------------------------------------------- processes


@pytest.mark.skipif(not LINUX, reason="the check reads /proc")
def test_workers_restart_after_a_crash() -> None:
    with Sandbox(workers=1, cache_size=0) as sandbox:
        programs = [Program(f"def f():\n    return {i}", (f"assert f() == {i}",)) for i in range(300)]
        future = sandbox.run_async(programs)
        keepers: set[int] = set()
        for _ in range(MAX_DEATHS - 1):  # they may all hit the same program, which is innocent still
            assert wait_until(lambda: {worker.process.pid for worker in sandbox._pool.workers} - keepers)
            (keeper,) = {worker.process.pid for worker in sandbox._pool.workers}
            keepers.add(keeper)
            for pid in Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
        assert {verdict.outcomes for verdict in future.result(timeout=60)} == {("pass",)}
        assert len(keepers) == MAX_DEATHS - 1


def _in_a_fork(sandbox: Sandbox, queue: multiprocessing.Queue) -> None:
    queue.put(sandbox.run([Program("def f(): return 5", ("assert f() == 5",))])[0].passed)
    sandbox.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_several_processes() -> None:
    """A process forked from the client gets workers of its own and leaves ours alone; so does a spawned one."""
    with Sandbox(workers=1, cache_size=0) as sandbox:
        program = Program("def f(): return 5", ("assert f() == 5",))
        assert sandbox.run([program])[0].passed
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        children = [context.Process(target=_in_a_fork, args=(sandbox, queue)) for _ in range(3)]
        for child in children:
            child.start()
        assert [queue.get(timeout=30) for _ in children] == [True] * 3
        for child in children:
            child.join(30)
            assert child.exitcode == 0
        assert sandbox.run([program])[0].passed


@pytest.mark.skipif(not LINUX, reason="only Linux tells a process that its parent was killed")
@pytest.mark.parametrize("layers", ["auto", "none"])
def test_everything_ends_with_a_killed_client(layers: str, tmp_path: Path) -> None:
    script = f"""
        import sys
        from ppo_codet5.helpers.sandbox import Limits, Program, Sandbox
        sandbox = Sandbox(workers=2, layers={layers!r}).start()
        future = sandbox.run_async([Program("while True: pass", ("assert f() == %d" % i,), "", Limits(60)) for i in (1, 2)])
        import time
        time.sleep(0.3)
        print(*[worker.process.pid for worker in sandbox._pool.workers], flush=True)
        time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    client = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(tmp_path)}
    )
    assert client.stdout is not None
    with client.stdout:
        todo = [int(word) for word in client.stdout.readline().split()]
        pids = []
        while todo:
            pids.append(todo.pop())
            todo += map(int, Path(f"/proc/{pids[-1]}/task/{pids[-1]}/children").read_text().split())
        assert len(pids) == 6  # keepers, servers and programs
        assert len(list(tmp_path.iterdir())) == (2 if layers == "none" else 0) or layers == "auto"
        client.kill()
        client.wait()
    assert wait_until(lambda: not any(map(alive, pids)))
    assert wait_until(lambda: not list(tmp_path.iterdir()))


def test_interrupts_of_the_terminal_stay_with_the_client() -> None:
    with Sandbox(workers=1) as sandbox:
        (keeper,) = [worker.process.pid for worker in sandbox.start()._pool.workers]
        assert os.getpgid(keeper) != os.getpgid(0)


# -------------------------------------------------------------------------------------------------------------- levels


def test_levels() -> None:
    with Sandbox(workers=1, layers="none") as sandbox:
        assert sandbox.level == "limits" and sandbox.missing == {}
    with Sandbox(workers=1) as sandbox:
        active = [] if sandbox.level == "limits" else sandbox.level.split("+")
        assert set(active) | set(sandbox.missing) >= {"namespaces", "landlock", "seccomp"}
    for layer in active:
        with Sandbox(workers=1, layers=[layer]) as sandbox:
            assert sandbox.level == layer
            assert outcomes(sandbox, "def f(): return 1", "assert f() == 1") == ("pass",)


NO_NAMESPACES = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'


@pytest.mark.skipif(not LINUX or not shutil.which("unshare"), reason="needs unshare to forbid namespaces")
def test_where_namespaces_are_forbidden() -> None:
    """As in most containers: the other layers work, and asking for this one is an error that says so."""
    forbid = ("unshare", "--user", "--map-root-user", "sh", "-c", NO_NAMESPACES, "sh")
    if subprocess.run([*forbid, "true"], capture_output=True).returncode:
        pytest.skip("this machine cannot forbid user namespaces to a process")
    script = """
        from ppo_codet5.helpers.sandbox import *
        from ppo_codet5.helpers.sandbox import SandboxError
        with Sandbox(workers=1) as sandbox:
            print(sandbox.level, *sandbox.missing)
            print(sandbox.run([Program("def f(): return 1", ("assert f() == 1", "assert f() == 2"))])[0].mask)
        try:
            Sandbox(workers=1, layers="namespaces").run([Program("def f(): return 1", ("assert f() == 1",))])
        except SandboxError as error:
            print(error)
    """
    level, mask, error = run_script(script, *forbid).splitlines()
    assert "namespaces" not in level.split()[0] and "namespaces" in level.split()[1:]
    assert mask == "(1, 0)"
    assert "namespaces: unshare" in error and "layers='auto'" in error


@pytest.mark.skipif(not LINUX or not shutil.which("unshare"), reason="needs unshare to be another user")
def test_as_an_unprivileged_user() -> None:
    user = ("unshare", "--user", "--map-user=1234", "--map-group=1234")
    if subprocess.run([*user, "true"], capture_output=True).returncode:
        pytest.skip("this machine has no user namespaces")
    script = """
        import os
        from ppo_codet5.helpers.sandbox import Program, Sandbox
        with Sandbox(workers=1) as sandbox:
            print(os.getuid(), sandbox.level, sandbox.run([Program("def f(): return 1", ("assert f() == 1",))])[0].passed)
    """
    with Sandbox(workers=1) as sandbox:
        expected = sandbox.level
    assert run_script(script, *user).split() == ["1234", expected, "True"]
