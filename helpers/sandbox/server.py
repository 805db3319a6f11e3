"""One worker of the sandbox: a small clean process that forks one child per program.

Started as a plain script by ``pool.py`` (``python -s -S -B server.py CONFIG``), never imported by it.
Three processes: a *keeper* that only waits, removes the scratch folder and dies with the client; its child, the
*server*, which loads what programs usually import, gives up every right it can (``layers.py``) and then serves;
and one *child* per program. The child executes the parts of a program and evaluates the calls of its asserts; it is
given no expected value, and its report is a few lines of JSON in memory shared with the server. What the child
writes there is not trusted: the client bounds and checks it.

Frames on the socket are a 4-byte length and then JSON (hello, jobs) or ``REPLY`` and the report (replies).
"""

# ruff: noqa: E402, UP029, UP031  (imports follow a change of sys.path; JSON is full of braces)

from __future__ import annotations

import sys

_HERE = sys.path.pop(0)  # the folder of this file: programs must not import the project's helpers

# Programs may replace anything in ``builtins`` and in modules; what runs after them in the child uses these bindings.
import _sitebuiltins
import builtins
import contextlib
import gc
import json
import mmap
import os
import resource
import signal
import struct
import time
import types
from builtins import (
    AssertionError,
    BaseException,
    MemoryError,
    SystemExit,
    bool,
    bytes,
    compile,
    dict,
    eval,
    exec,
    float,
    getattr,
    int,
    isinstance,
    len,
    list,
    max,
    min,
    range,
    str,
    tuple,
    type,
)
from json.encoder import encode_basestring_ascii as quote

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing is slow to load, and what a child loads it is to find as it was
    from collections.abc import Callable
    from typing import Any

_register = os.register_at_fork
os.register_at_fork = lambda **_: None  # ``random`` would reseed itself in every child: the seed below is to hold there
import random

os.register_at_fork = _register

sys.path.append(_HERE)
from values import _NAME, _STR, PRISTINE, VALUE_CHARS, Found, TooLarge, decode_all, encode, encode_all

layers: types.ModuleType | None = __import__("layers") if sys.platform == "linux" else None
sys.path.remove(_HERE)
for _name in ("values", "layers"):  # nor find them
    sys.modules.pop(_name, None)

# Wait status, whether killed at a limit, whether the scratch folder is clean, phases ended, CPU and wall seconds; then the report.
REPLY = struct.Struct("<iBBIdd")
HEADER = struct.Struct("<IIdd")  # bytes of report, phases ended, CPU seconds and clock at the end of the last phase
REPORT_BYTES = 8 << 20
STACK_BYTES = 8 << 20
TEXT_CHARS = 4000  # of an exception's text; the client cuts further
FILE_BYTES = 1 << 20
OPEN_FILES = 64
SOCKET = 3  # the client's socket, whatever its number was there: a program's process closes those below OPEN_FILES
CAN_WAIT = hasattr(signal, "sigtimedwait")  # not on macOS
CHILD_SIGNAL = {signal.SIGCHLD}
PRELOAD = "bisect copy datetime enum functools heapq itertools math operator re string typing"


# ---------------------------------------------------------------------------------------------------------- the child


class Report:
    """Lines of JSON in the shared memory; a line counts once the header says so, so a kill loses at most one."""

    def __init__(self, memory: mmap.mmap) -> None:
        self.memory = memory
        self.end = HEADER.size
        self.phases = 0

    def line(self, text: str) -> None:
        data = text.encode("ascii") + b"\n"
        if self.end + len(data) > REPORT_BYTES:
            raise TooLarge
        self.memory[self.end : self.end + len(data)] = data
        self.end += len(data)
        _pack_u32(self.memory, 0, self.end - HEADER.size)

    def phase(self) -> None:
        self.phases += 1
        HEADER.pack_into(self.memory, 0, self.end - HEADER.size, self.phases, _process_time(), _monotonic())

    def error(self, index: int, letter: str, error: BaseException) -> None:
        """Two lines, because the text of an exception is the program's code: it may hang or raise."""
        name = quote(_NAME(type(error))[:60])
        self.line('[%d,"%s",%s]' % (index, letter, name))
        try:
            text = _STR(str(error))[:TEXT_CHARS]
        except BaseException:
            return
        self.line('[%d,"+",%s]' % (index, quote(text)))


_pack_u32 = struct.Struct("<I").pack_into
_process_time, _monotonic, _exit = time.process_time, time.monotonic, os._exit


def letter_of(error: BaseException) -> str:
    """X: the program asked to end; O: out of memory; E: any other exception."""
    return "X" if isinstance(error, SystemExit) else "O" if isinstance(error, MemoryError) else "E"


def execute(job: dict[str, Any], report: Report) -> None:
    """Run the parts of a program, then its tests from ``job["start"]`` on. Report lines are

    ``[-1, letter, type]`` for a part that failed (S: does not compile), after which nothing runs; else per test
    ``[i, "V", [values]]``, ``[i, "L", ""]`` (values too large), ``[i, "P", ""]`` (a statement that ran through),
    ``[i, "H", [0 or 1, [values]]]`` (judged here, see ``judged_here``) or ``[i, letter, type]`` (S again if it does
    not compile), each of the last followed by ``[i, "+", text]``.
    """
    module = types.ModuleType("solution")
    space = module.__dict__
    sys.modules["solution"] = module
    if "values" in job:
        space["_V"] = decode_all(job["values"])
    for name, source in job["parts"]:
        try:
            code = compile(source, name, "exec", 0, True, 0)
        except BaseException as error:
            return report.error(-1, "S", error)
        try:
            exec(code, space)
        except BaseException as error:
            return report.error(-1, letter_of(error), error)
    report.phase()
    tests = job["tests"]
    for i in range(job["start"], len(tests)):
        test = tests[i]
        try:
            if type(test) is str:
                codes = [compile(test, "<assert>", "exec", 0, True, 0)]
            else:
                sources = test if type(test) is list else test["ask"]
                codes = [compile(source, "<call>", "eval", 0, True, 0) for source in sources]
        except BaseException as error:
            report.error(i, "S", error)
            report.phase()
            continue
        try:
            if type(test) is str:
                exec(codes[0], space)
                report.line('[%d,"P",""]' % i)
            elif type(test) is list:
                out = ['[%d,"V",[' % i]
                encode(eval(codes[0], space), out, [VALUE_CHARS])
                out.append("]]")
                report.line("".join(out))
            else:
                values = [eval(code, space) for code in codes]
                text, whole = encode_all(values[: len(test["take"])], test["take"], Found(test["truth"]))
                if test["here"] and not any(whole[k] for k in test["own"]):
                    report.line('[%d,"H",[%d,%s]]' % (i, judged_here(test["here"], values), text))
                else:
                    report.line('[%d,"V",%s]' % (i, text))
        except TooLarge:
            report.line('[%d,"L",""]' % i)
        except AssertionError as error:
            report.error(i, "F" if type(test) is str else "E", error)
        except BaseException as error:
            report.error(i, letter_of(error), error)
        report.phase()


def judged_here(rest: str, values: list[Any]) -> bool:
    """Whether an assert holds for values that cannot be sent; nothing in it was unknown to the program."""
    try:
        exec(compile(rest, "<assert>", "exec", 0, True, 0), {"_V": values, "__builtins__": PRISTINE})
    except AssertionError:
        return False
    return True


def child(job: dict[str, Any], memory: mmap.mmap, lock_child: Callable[[], None], alone: bool) -> None:
    """Body of the forked process; never returns."""
    try:
        os.closerange(3, OPEN_FILES)
        if layers is not None:  # macOS refuses this limit
            space = job["memory"] << 20
            resource.setrlimit(resource.RLIMIT_AS, (space, space))
        if not alone:  # so that what escapes is found by its group, or at least does not run for ever
            os.setpgid(0, 0)
            cpu = int(job["cpu"]) + 2
            resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
        lock_child()
        gc.enable()
        execute(job, Report(memory))
    finally:
        _exit(0)


# --------------------------------------------------------------------------------------------------------- the server


def cpu_clock(pid: int) -> float:
    """CPU seconds used so far by a process and its threads; 0 where the system has no such clock."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except (OSError, OverflowError):
        return 0.0


def wait_exit(pid: int, seconds: float) -> tuple[int, resource.struct_rusage] | None:
    """Wait status and resources of the process if it ends within ``seconds``, else None."""
    end = 0.0
    while True:
        if CAN_WAIT:
            signal.sigtimedwait(CHILD_SIGNAL, seconds)
        else:
            time.sleep(min(seconds, 0.0005))
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            return status, usage
        now = time.monotonic()
        end = end or now + seconds
        seconds = end - now
        if seconds <= 0:
            return None


def watch(pid: int, job: dict[str, Any], memory: mmap.mmap, started: float) -> tuple[bool, int, resource.struct_rusage]:
    """Wait for the child, kill it at a limit: whether that happened, wait status, resources.

    Every phase of the program may use half of the time that is left, the last one all of it.
    """
    phases = len(job["tests"]) - job["start"] + 1
    done, cpu_mark, wall_mark = -1, 0.0, started  # phases ended, and the clocks at that moment
    while True:
        used, now = cpu_clock(pid), time.monotonic()
        _, ended, cpu_then, wall_then = HEADER.unpack_from(memory)
        if ended != done:
            if ended:  # the child's own figures, as far as they are possible
                cpu_mark, wall_mark = max(cpu_mark, min(cpu_then, used)), max(wall_mark, min(wall_then, now))
            done = ended
            share = 0.5 if done < phases - 1 else 1.0
            cpu_end = cpu_mark + (job["cpu"] - cpu_mark) * share
            wall_end = wall_mark + (started + job["wall"] - wall_mark) * share
        if used >= cpu_end or now >= wall_end:
            os.kill(pid, signal.SIGKILL)
            return True, *os.wait4(pid, 0)[1:]
        outcome = wait_exit(pid, max(0.001, min(cpu_end - used, wall_end - now)))
        if outcome is not None:
            return False, *outcome


def children_of_self(descriptor: int) -> list[int]:
    """Process ids of the direct children, from an open /proc/self/task/*/children."""
    return [int(word) for word in os.pread(descriptor, 1 << 16, 0).split()] if descriptor >= 0 else []


def kill_rest(group: int, alone: bool, descriptor: int) -> None:
    """End and reap whatever a program left running."""
    while True:
        try:
            if alone:  # process 1 of its own namespace: -1 is everyone but us
                os.kill(-1, signal.SIGKILL)
            elif group:
                os.killpg(group, signal.SIGKILL)
        except OSError:
            pass
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for pid in children_of_self(descriptor):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.0005)


def empty(folder: str) -> bool:
    """Remove what is in a folder, however deep and whatever its modes; False if something stayed."""
    moved = os.path.join(folder, os.urandom(8).hex())
    number = 0
    try:
        while names := os.listdir(folder):
            for name in names:
                path = os.path.join(folder, name)
                if os.path.islink(path) or not os.path.isdir(path):
                    os.unlink(path)
                    continue
                try:
                    os.rmdir(path)
                except OSError:  # not empty: move its entries up, so that no path ever gets long
                    for inner in os.listdir(path):
                        number += 1
                        os.rename(os.path.join(path, inner), "%s.%d" % (moved, number))
    except OSError:
        return False
    return True


def run(
    job: dict[str, Any],
    memory: mmap.mmap,
    lock_child: Callable[[], None],
    alone: bool,
    descriptor: int,
    scratch: str,
) -> bytes:
    """One program in one child; the bytes of the reply."""
    HEADER.pack_into(memory, 0, 0, 0, 0.0, 0.0)
    grace = min(job["cpu"], job["wall"], 1.0) / 2
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        child(job, memory, lock_child, alone)
    outcome = wait_exit(pid, grace)  # at once: what this process writes to while the child lives has to be copied
    killed, status, usage = watch(pid, job, memory, started) if outcome is None else (False, *outcome)
    wall = time.monotonic() - started
    kill_rest(pid, alone, descriptor)
    clean = not os.listdir(scratch) or empty(scratch)
    length, phases, _, _ = HEADER.unpack_from(memory)
    length = min(length, REPORT_BYTES - HEADER.size)
    reply = REPLY.pack(status, killed, clean, phases, usage.ru_utime + usage.ru_stime, wall)
    reply += memory[HEADER.size : HEADER.size + length]
    memory[HEADER.size : HEADER.size + length] = bytes(length)  # not for the next program to read
    return reply


def read_exactly(size: int) -> bytes:
    """Bytes from the socket; empty at its end."""
    data = b""
    while len(data) < size:
        piece = os.read(SOCKET, size - len(data))
        if not piece:
            return b""
        data += piece
    return data


def send(data: bytes) -> None:
    data = struct.pack("<I", len(data)) + data
    while data:
        data = data[os.write(SOCKET, data) :]


def fill_holes() -> list[bytes]:
    """Occupy the free slots that imports left all over Python's memory, so that a child's objects lie together.

    Every page of ours that a child writes to is copied, at 1 to 3 microseconds a page; this halves the pages that
    new objects touch. For each size class, objects are made until they follow each other in a fresh pool.
    """
    kept, room = [], 4 << 20
    for size in range(48, 513, 16):
        in_order = last = 0
        while in_order < 16384 // size - 2 and room > 0:
            filler = bytes(size - b"".__sizeof__())
            in_order = in_order + 1 if id(filler) - last == size else 0
            last = id(filler)
            kept.append(filler)
            room -= size
    return kept


WARM_UP = """
import re
from collections import Counter, defaultdict
class A:
    def __init__(self, x): self.x = x
def f(a, b=2):
    squares = {k: v * v for k, v in zip("abc", range(a))}
    try:
        return str(a), sorted(set(squares), key=lambda t: -ord(t)), 1.5 * b, A(a).x, sum(range(a)), "%d" % a, f"{b}"
    except ValueError as error:
        raise
"""


def lock_in(config: dict[str, Any], hello: dict[str, Any]) -> Callable[[], None]:
    """Apply the layers that work; the function that locks each child further. Fills in ``hello``."""
    wanted, scratch, missing = config["layers"], config["scratch"], hello["missing"]
    active = ["namespaces"] if config["alone"] else []
    lock_child: Callable[[], None] = lambda: None  # noqa: E731
    if layers is not None:
        layers.drop_privileges()
        if "landlock" in wanted:
            missing["landlock"] = layers.landlock(scratch)
        if "seccomp" in wanted:
            missing["seccomp"] = layers.seccomp(changes=missing.get("landlock", "not wanted") is not None)
            if missing["seccomp"] is None:
                lock_child = layers.child_filter()
    for name in ("landlock", "seccomp"):
        if name in wanted and missing.setdefault(name, "only on Linux") is None:
            active.append(name)
            del missing[name]
    hello["level"] = "+".join(active) or "limits"
    return lock_child


def serve(config: dict[str, Any], hello: dict[str, Any]) -> None:
    """Prepare, say hello, and answer jobs until the client closes the socket."""
    alone, scratch = config["alone"], config["scratch"]
    for name in PRELOAD.split():
        __import__(name)
    children = -1
    if not alone:
        with contextlib.suppress(OSError):
            children = os.open("/proc/thread-self/children", os.O_RDONLY)
    os.chdir(scratch)
    os.environ.clear()
    sys.argv[:] = [""]
    builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D")
    builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D")
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)
    for name, value in (("CORE", 0), ("FSIZE", FILE_BYTES), ("NOFILE", OPEN_FILES), ("STACK", STACK_BYTES)):
        kind = getattr(resource, "RLIMIT_" + name)
        highest = resource.getrlimit(kind)[1]
        most = value if highest == resource.RLIM_INFINITY else min(value, highest)
        resource.setrlimit(kind, (most, most))
    signal.pthread_sigmask(signal.SIG_BLOCK, CHILD_SIGNAL)
    memory = mmap.mmap(-1, REPORT_BYTES)
    lock_child = lock_in(config, hello)
    gc.disable()
    for _ in range(3):
        tests = [["f(3)"], ["f([1, 2][0], b=3)"]]
        execute({"parts": [["<solution>", WARM_UP]], "tests": tests, "start": 0}, Report(memory))
    memory[:4096] = bytes(4096)
    del sys.modules["solution"]
    random.seed(0)
    gc.collect()
    config["filling"] = fill_holes()
    gc.freeze()
    send(json.dumps(hello).encode())
    while head := read_exactly(4):
        job = json.loads(read_exactly(struct.unpack("<I", head)[0]))
        reply = run(job, memory, lock_child, alone, children, scratch)
        send(reply)
        if not reply[5]:
            return  # the scratch folder could not be emptied: the client starts a new server


def keep(server: int, scratch: str, client: int) -> None:
    """Body of the keeper: wait for the server, end what it left, remove its folder."""

    def end(*_: object) -> None:
        with contextlib.suppress(OSError):
            os.kill(server, signal.SIGKILL)

    signal.signal(signal.SIGTERM, end)
    if layers is not None:
        layers.adopt_orphans()
        layers.die_with_parent(signal.SIGTERM)
        if os.getppid() != client:  # it ended before the line above
            end()
    while True:
        try:
            os.waitpid(server, 0)
            break
        except InterruptedError:
            continue
    children = -1
    with contextlib.suppress(OSError):
        children = os.open("/proc/thread-self/children", os.O_RDONLY)
    kill_rest(0, False, children)
    if scratch:
        empty(scratch)
        with contextlib.suppress(OSError):
            os.rmdir(scratch)


def main() -> None:
    config = json.loads(sys.argv[1])
    wanted = config["layers"]
    if config["fd"] != SOCKET:
        os.dup2(config["fd"], SOCKET, inheritable=False)
        os.close(config["fd"])
    hello: dict[str, Any] = {"python": sys.version, "missing": {}}
    config["alone"], config["scratch"], made = False, "", ""
    try:
        if "namespaces" in wanted:
            if layers is None or (reason := layers.namespaces()) is not None:
                hello["missing"]["namespaces"] = reason if layers is not None else "only on Linux"
            else:
                config["alone"] = True
                config["scratch"], reason = layers.private_folder()
                if reason is not None:
                    hello["missing"]["private folder"] = reason
    except OSError as error:
        send(json.dumps({"broken": "namespaces", "missing": {"namespaces": str(error)}}).encode())
        return
    if not config["scratch"]:
        folder = os.path.realpath(config["temporary"])
        config["scratch"] = made = os.path.join(folder, "ppo-sandbox-" + os.urandom(8).hex())
        os.mkdir(made, 0o700)
    hello["scratch"] = config["scratch"]
    keeper = os.getpid()
    server = os.fork()
    if server:
        os.close(SOCKET)
        return keep(server, made, config["client"])
    if layers is not None:
        layers.die_with_parent(signal.SIGKILL)
        layers.adopt_orphans()
        if not config["alone"] and os.getppid() != keeper:
            return
    serve(config, hello)


if __name__ == "__main__":
    try:
        main()
    finally:
        os._exit(0)
