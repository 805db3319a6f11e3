"""Every kind of assert on honest programs, judged as CPython judges it; and what stays a failure, with its reason.

The judge executes code, setup and assert in a fresh namespace of a Python process that the sandbox has no part in.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ppo_codet5.helpers.sandbox import OUTCOMES, Limits, Program, Sandbox

HERE = "ran as it stands"
IMPORTS = (
    "import array, asyncio, collections, collections.abc, dataclasses, datetime, decimal, enum, fractions, functools, "
    "heapq, inspect, ipaddress, itertools, math, operator, pathlib, re, statistics, string, types, uuid\n"
    "from collections import OrderedDict, Counter, defaultdict, deque, namedtuple, ChainMap, UserDict, UserList\n"
    "from itertools import islice\n"
)
CODE = (
    IMPORTS
    + """
class Color(enum.Enum):
    RED = 1
    BLUE = 2
class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2
class Word(str, enum.Enum):
    A = "a"
class Bits(enum.Flag):
    R = 1
    W = 2
@dataclasses.dataclass(order=True)
class P:
    x: int
    y: int = 0
    def __add__(self, other):
        return P(self.x + other.x, self.y + other.y)
@dataclasses.dataclass(frozen=True)
class Frozen:
    x: int
class Bare: ...
class Sub(Bare): ...
class Bag:
    def __init__(self, *items): self.items = list(items)
    def __len__(self): return len(self.items)
    def __iter__(self): return iter(self.items)
    def __contains__(self, item): return item in self.items
class Odd:
    def __bool__(self): raise ValueError("neither")
    def __eq__(self, other): raise ValueError("no")
    __hash__ = None
class Ints(list): ...
class Quiet(list):
    def __bool__(self): return False
Point = namedtuple("Point", "x y")
nan = float("nan")
def f(x=None): return x
def copy(x): return type(x)(x)
def same(x): return [x]
def gen(n):
    yield from range(n)
def count():
    n = 0
    while True:
        yield n
        n += 1
def words(n):
    yield from ["a", "bb", "ccc"][:n]
def costly():
    yield 1
    yield 2
    while True: pass
def failing():
    yield 1
    raise KeyError("end")
async def wait(x):
    await asyncio.sleep(0)
    return x * x
async def fails():
    raise KeyError("x")
def double(x): return 2 * x
def push(x, item):
    x.append(item)
    return x
def raising(): raise ValueError("no")
def make(cls, *args): return cls(*args)
"""
)
SETUP = IMPORTS + (
    "data = [2, 1]\nother = [2, 1]\npair = (1, 2)\nnans = [nan]\nqueue = [1, 2]\np = P(1)\nstream = gen(5)\n"
    "bag = Bag(1, 2)\nod = OrderedDict([(1, 1), (2, 2)])\nod.move_to_end(1)\nlimit = 3\n"
)
# Expressions over the program, and what they are compared with: each of a group with each other of it.
GROUPS = {
    "numbers": "f(1) f(1.0) f(True) 1 2 True f(Level.LOW) Level.LOW f(fractions.Fraction(1)) decimal.Decimal(1) f(1+0j) "
    "f(-0.0) 0.0 0 f(False) f(10**30) 10**30 f(-2**63) f(math.inf) math.inf f(nan) nan float('nan') None f() f(fractions.Fraction(1,2)) 0.5",
    "texts": "f('a') 'a' Word.A f(Word.A) b'a' f(b'a') f(bytearray(b'a')) bytearray(b'a') f(memoryview(b'a')) ''.join(f(['a'])) "
    "f('a').upper() 'A' ''.join(words(1)) string.ascii_letters[0] f('\\u00e9\\ud800') '\\u00e9\\ud800' str(f('a'))",
    "sequences": "f([0,1,2]) [0,1,2] (0,1,2) f((0,1,2)) f(range(3)) range(3) range(0,3,1) [*gen(3)] (*gen(3),) list(gen(3)) gen(3) "
    "list(islice(count(),3)) list(itertools.islice(count(),3)) list(itertools.islice(count(),1,4)) deque([0,1,2]) f(deque([0,1,2])) "
    "f(deque([0,1,2],3)) array.array('i',[0,1,2]) f(Ints([0,1,2])) UserList([0,1,2]) f(UserList([0,1,2])) iter([0,1,2]) "
    "f(iter([0,1,2])) list(map(f,[0,1,2])) list(range(3)) sorted(gen(3)) sorted(gen(3),reverse=True) [gen(1)] [f(0),f(1),f(2)] "
    "collections.deque([0,1,2]) tuple(gen(3)) sorted(gen(3),key=double) f(slice(0,1,2)) slice(0,1,2) list({0:1,1:1,2:1}.keys()) "
    "list(f({0:1,1:1,2:1})) [*f([0,1]),2]",
    "pairs": "f((1,2)) (1,2) Point(1,2) f(Point(1,2)) f([1,2]) pair f(pair) f(Point(x=1,y=2)) data other [2,1] f(data) divmod(f(9),7) (Level.LOW,2)",
    "nested": "f([range(3)]) [range(3)] [[range(3)]] same(range(3)) f([P(1)]) [P(1)] [P(2)] same(P(1)) {'a':P(1)} f({'a':P(1)}) "
    "f({'a':P(1),'b':5}) {'a':P(1),'b':5} (Color.RED,3) f((Color.RED,3)) f((Color.BLUE,3)) same(nan) nans f(nans) [nan] [float('nan')] "
    "[datetime.date(2020,1,2)] f([datetime.date(2020,1,2)]) [None] f([None]) [()] f([()]) f([frozenset([1])]) [{1}] same({1}) [p] same(p)",
    "dicts": "f({1:1,2:2}) {1:1,2:2} {2:2,1:1} f(OrderedDict([(1,1),(2,2)])) OrderedDict([(1,1),(2,2)]) OrderedDict([(2,2),(1,1)]) "
    "collections.OrderedDict([(2,2),(1,1)]) f(od) od Counter({1:1,2:2}) f(Counter([1,2,2])) Counter({1:1,2:2,3:0}) f(Counter({1:1,2:2,3:0})) "
    "defaultdict(int,{1:1,2:2}) f(defaultdict(list,{1:1,2:2})) UserDict({1:1,2:2}) f(UserDict({1:1,2:2})) ChainMap({1:1},{2:2}) "
    "f(types.MappingProxyType({1:1,2:2})) f(ChainMap({1:1},{2:2})) dict(zip(gen(0),'')) dict(zip([1,2],f([1,2]))) dict((k,k)for(k)in(f([1,2]))) "
    "{**f({1:1}),2:2} dict(f({1:1,2:2})) {1.0:1,True+1:2} collections.Counter([1,2,2])",
    "sets": "f({1,2}) {1,2} f(frozenset([1,2])) frozenset([1,2]) {2,1,1.0} f({1:1,2:2}).keys() {1:1,2:2}.keys() set(gen(3))-{0} "
    "f({1:1,2:2}.items()) {(1,1),(2,2)} {1:1,2:2}.items() f({1:[]}.items()) {1:[]}.items() [(1,[])] f({1:1}.values()) {1:1}.values() [1] "
    "set() f(set()) f({1,'a',None,(1,)}) {1,'a',None,(1,)} {*f([1,2])} f({frozenset([1])}) {frozenset([1])} {Color.RED} f({Color.RED}) "
    "f({Frozen(1)}) {Frozen(1)} f({p.x}) {nan} f({nan})",
    "dates": "f(datetime.date(2020,1,2)) datetime.date(2020,1,2) datetime.date(2020,1,3) f(datetime.datetime(2020,1,2)) datetime.datetime(2020,1,2) "
    "datetime.datetime(2020,1,2,tzinfo=datetime.timezone.utc) f(datetime.datetime(2020,1,2,tzinfo=datetime.timezone.utc)) "
    "f(datetime.timedelta(1)) datetime.timedelta(hours=24) f(datetime.time(1,2,3,4)) datetime.time(1,2,3,4) f(datetime.timezone.utc) "
    "datetime.timezone.utc f(datetime.date(2020,1,2)).isoformat() '2020-01-02' (f(datetime.date(2020,1,3))-datetime.date(2020,1,2)).days 1",
    "kinds": "f(Color.RED) Color.RED Color.BLUE Color(1) Color['RED'] f(Color.RED).name Bits.R Level.LOW f(Level.LOW) "
    "Level.HIGH Word.A 1 'RED' 'a' f(Bare) Bare f(int) int f(len) len f(math.floor) math.floor f(math) math f(ValueError) ValueError f(f) f "
    "datetime.date f(datetime.date) f(NotImplemented) NotImplemented f(...) ...",
    "objects": "f(P(3)) P(3) P(4) P(3,0) f(p) p make(P,3) f(Bare()) Bare() f(Frozen(1)) Frozen(1) f(bag) bag 3 "
    "uuid.UUID(int=5) f(uuid.UUID(int=5)) pathlib.PurePosixPath('a/b') f(pathlib.PurePosixPath('a/b')) f(pathlib.Path('a')) pathlib.Path('a') "
    "f(ipaddress.ip_address('1.2.3.4')) ipaddress.ip_address('1.2.3.4') f(re.compile('a')) re.compile('a') f(types.SimpleNamespace(a=1)) "
    "types.SimpleNamespace(a=1) ValueError('x') f(ValueError('x')) type(f(P(1))) P type(f(1)) int type(p) type(p)",
}  # fmt: skip
OPERATORS = ("==", "!=", "is", "is not")
ORDERS = ("<", ">=", "in", "not in")
CONDITIONS = """
isinstance(f(Bare()),Bare)|isinstance(f(Sub()),Bare)|isinstance(f(Bare()),Sub)|not isinstance(f(3),Bare)|isinstance(f(3),(Bare,int))
isinstance(f(Sub()),(int,Bare))|isinstance(f(1),int)|isinstance(f(True),int)|isinstance(f([]),(list,tuple))|isinstance(f(Ints()),list)
isinstance(f(Point(1,2)),tuple)|isinstance(f(Level.LOW),Level)|isinstance(gen(3),types.GeneratorType)|inspect.isgenerator(gen(3))
isinstance(gen(3),collections.abc.Iterator)|isinstance(f(od),OrderedDict)|isinstance(f({}),OrderedDict)|isinstance(f(1.5),(int,str))
isinstance(f(datetime.datetime(2020,1,1)),datetime.date)|issubclass(f(Sub),Bare)|type(f(Bare())) is Bare|type(f(Sub())) is Bare
type(f(1)) is int|type(f(True)) is int|type(f(Ints())) is list|type(f(Level.LOW)) == int|type(f(1)) is type(f(2))|type(f(od)) is dict
asyncio.run(wait(3)) == 9|asyncio.run(wait(3)) == 8|asyncio.run(wait(3)) < 10|asyncio.run(fails()) == 1|inspect.iscoroutine(wait(3))
asyncio.run(asyncio.wait_for(wait(3), 1)) == 9|f(data) is data|f(data) is not data|copy(data) is data|copy(data) is not data
f(data) is other|push(data, 3) == push(data, 4)|push(data, 3) is data|sorted(f(data)) is data|f(p) is p|f(P(1)) is p|f(pair) is pair
[f(data)] == [data]|f(data) == other|f(None) is None|f(0) is None|f(1) is True|f(True) is True|f(nan) == nan|f(nan) is nan|[f(nan)] == [nan]
math.isnan(f(nan))|f(nan) != f(nan)|same(nan) == same(nan)|same(nan) == [float('nan')]|f(-0.0) == 0.0|math.copysign(1, f(-0.0)) == -1
3 in gen(5)|5 in gen(5)|3 in count()|len(list(gen(3))) == 3|next(gen(3)) == 0|next(count()) < 1|next(gen(0), None) is None|next(gen(0)) == 0
[next(stream), next(stream)] == [0, 1]|next(stream) < next(stream)|list(stream) == [0,1,2,3,4]|list(stream) == list(stream)|next(stream) < next(count())
list(zip(gen(3), 'abc')) == [(0,'a'),(1,'b'),(2,'c')]|dict(zip('ab', gen(2))) == {'a':0,'b':1}|sum(gen(4), 10) == 16|sum(gen(4)) == 6
max(words(3), key=len) == 'ccc'|sorted(words(3), key=len, reverse=True)[0] == 'ccc'|''.join(words(2)) == 'abb'|', '.join(words(2)) == 'a, bb'
list(itertools.islice(costly(), 2)) == [1, 2]|next(costly()) < 2|next(failing()) == 1|list(failing()) == [1]|list(itertools.islice(failing(), 1)) == [1]
[*failing()] == [1]|gen(3) == gen(3)|gen(3) is not None|list(gen(3))[1] == 1|list(gen(3))[1:] == [1, 2]|tuple(reversed(list(gen(3)))) == (2,1,0)
list(map(double, [1, 2])) == [2, 4]|list(map(str, gen(2))) == ['0', '1']|list(filter(f, [0, 1])) == [1]|functools.reduce(operator.add, gen(4)) == 6
functools.partial(double, 2)() == 4|functools.reduce(lambda a, b: a + f(b), [1, 2]) == 3|sorted([3, 1], key=f) == [1, 3]|all(map(f, [1, 0]))
math.prod(gen(4)) == 0|statistics.mean(gen(5)) == 2|heapq.nsmallest(2, gen(5)) == [0, 1]|collections.Counter(words(2)) == Counter(['a', 'bb'])
collections.deque(gen(5), 2) == deque([3, 4])|list(itertools.chain(gen(2), gen(1))) == [0, 1, 0]|list(enumerate(words(2), 1)) == [(1,'a'),(2,'bb')]
abs(f(0.1) + 0.2 - 0.3) < 1e-9|round(f(2.345), 1) == 2.3|math.isclose(f(0.1), 0.1)|f(2) < 3|f(3) < limit|1 < f(2) < 3|f(1) < f(2)|f('a') + 'b' == 'ab'
f(1) == f(1.0)|f(1) + f(2) == f(3)|f(P(1)) + f(P(2)) == f(P(3))|f(P(1)) < P(2)|P(2) < f(P(1))|f(P(1)) in [P(1), P(2)]|f(P(3)) in [P(1), P(2)]|f(1) in bag
f(3) in bag|f(1) not in f(Bag(1))|f(2) in (1, 2)|f(3) in {1, 2}|f(Color.RED) in Color|f(Color.RED) in (Color.RED, Color.BLUE)|f(Color.RED).value == 1
f(bag)|not f(bag)|not f(Bag())|f(Bag())|f(Odd())|not f(Odd())|f(Quiet([1]))|not f(Quiet([1]))|f(Ints())|f(0)|f('')|f(range(0))|not f(range(0))|f(deque())
f(gen(0))|not f(gen(0))|f(datetime.timedelta(0))|f(od)|f(f)|f(Level.LOW)|f(decimal.Decimal(0))|f(UserDict())|f(Point(0, 0))|f(array.array('i'))
f(1) == 1, 'message'|f(1) == 2, 'message'|f(1) == 2, raising()|f(1) == 1, raising()|(f(1) == 2, 'x')|all(f(i) == i for i in range(3))|any(f(i) for i in [0])
[f(i) for i in range(3)] == [0, 1, 2]|{i: f(i) for i in range(2)} == {0: 0, 1: 1}|f'{f(1)}' == '1'|(y := f(3)) == 3|f(1) == 1 and f(2) == 3|f(1) == 2 or f(2)
(lambda v: f(v) + 1)(2) == 3|f(1) if f(0) else f(2)|f(Odd()) == Odd()|Odd() == f(1)|f(1) < 'a'|raising() == 1|raising()|f([1, [2]])[1][0] == 2
f('ab').startswith('a')|f('a b').split() == ['a', 'b']|'a' in f('cat')|f('%s') % 3 == '3'|len(f('abc')) > 2|str(f(1.0)) == '1.0'|repr(f('a')) == \"'a'\"
repr(f(range(3))) == 'range(0, 3)'|sorted(f({3, 1})) == [1, 3]|sorted(f('ba')) == ['a', 'b']|list(f({1: 2}).items()) == [(1, 2)]|hasattr(f(Bag()), 'items')
hasattr(f(1), 'real')|callable(f(f))|callable(f(1))|f(Point(1, 2)).x == 1|f(p).x == 1|f(p).x + 1 == 2|vars(f(p)) == {'x': 1, 'y': 0}|f(double)(2) == 4
f(Bag(1, 2)).items == [1, 2]|len(f(Bag(1, 2))) == 2|list(f(Bag(1, 2))) == [1, 2]|queue[0] == 1|queue.count(f(1)) == 1|queue.index(2) == f(1)
f(queue) is queue|max(f(1), f(2)) == 2|max(f([1, 2])) == 2|bool(f([])) == False|not f(1) == 2|not (f(1) < f(2))|-f(1) == -1|f(2) ** 2 == 4|f([1]) + [2] == [1, 2]
f([1]) * 2 == [1, 1]|[f(1), *f([2])] == [1, 2]|{**f({1: 2})} == {1: 2}|f([1, 2])[-1] in [1, 2]|f({1: P(1)}) == {1: P(1)}|f({1: P(1)})[1] == P(1)
f(P(1)) == P(1) == p|f(P(1)) != P(2)|f(P(1)) != P(1)|P(1) == f(P(1))|f(Frozen(1)) in {Frozen(1), Frozen(2)}|undefined(1) == 1|f(undefined) == 1|f(1) == undefined
id(f(data)) == id(data)|hash(f(1)) == hash(1)|f(Counter('aab')).most_common(1) == [('a', 2)]|f(Counter('aab')) == {'a': 2, 'b': 1}|Counter(f('aab')) == {'b': 1, 'a': 2}
"""  # fmt: skip


CONDITIONS_ALL = [f"assert {text}" for text in CONDITIONS.strip().replace("\n", "|").split("|")]


# Whether equal ones of these are one object depends on the compiler.
UNSURE = set(
    [
        "f(1.0)",
        "f(1+0j)",
        "f(-0.0)",
        "f(10**30)",
        "10**30",
        "f(-2**63)",
        "f(math.inf)",
        "(0,1,2)",
        "f((0,1,2))",
        "(1,2)",
        "f((1,2))",
        "'RED'",
    ]
)


def pairs() -> list[str]:
    found = []
    for name, group in GROUPS.items():
        sides = group.split(" ")
        operators = OPERATORS + ORDERS if name in ("numbers", "pairs", "sets", "dates") else OPERATORS
        if name == "texts":  # which of two equal strings are one object is no part of the language
            operators = OPERATORS[:2]
        for left, right, operator in itertools.product(sides, sides, operators):
            unsure = left in UNSURE or right in UNSURE or "re.compile" in left + right  # the library remembers these
            if not (unsure and "is" in operator):
                found.append(f"assert {left} {operator} {right}")
    return found


PAIRS = pairs()


JUDGE = """
import json, sys, warnings
warnings.simplefilter("ignore")
job = json.load(sys.stdin)
def holds(test, space):
    try:
        exec(test, space)
    except Exception:
        return 0
    return 1
CODE, SETUP = compile(job["code"], "<solution>", "exec"), compile(job["setup"], "<setup>", "exec")
answers = []
for tests in job["batches"]:
    space = {"__name__": "solution"}
    exec(CODE, space)
    exec(SETUP, space)
    answers.append([holds(test, space) for test in tests])
print(json.dumps(answers))
"""


def cpython(code: str, setup: str, batches: list[tuple[str, ...]]) -> list[list[int]]:
    """Which asserts hold, those of each batch in one namespace."""
    job = json.dumps({"code": code, "setup": setup, "batches": batches})
    command = [sys.executable, "-W", "ignore", "-c", JUDGE]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    result = subprocess.run(command, input=job, capture_output=True, text=True, check=True, env=environment)
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=2, cache_size=0) as sandbox:
        yield sandbox


def compare(sandbox: Sandbox, tests: list[str]) -> None:
    """No disagreement. Asserts that change what others see stand alone, the others share a program."""
    alone = [(test,) for test in tests if any(word in test for word in ("stream", "push", "queue", "y :="))]
    rest = [test for test in tests if (test,) not in alone]
    batches = [*alone, *(tuple(rest[i : i + 40]) for i in range(0, len(rest), 40))]
    want = cpython(CODE, SETUP, batches)
    assert 0.1 < sum(map(sum, want)) / len(tests) < 0.8
    verdicts = sandbox.run([Program(CODE, batch, SETUP, Limits(10.0)) for batch in batches])
    wrong = []
    for batch, expected, verdict in zip(batches, want, verdicts, strict=True):
        rows = zip(batch, expected, verdict.mask, verdict.outcomes, verdict.messages, strict=True)
        wrong += [row for row in rows if row[1] != row[2]]
    assert not wrong, f"{len(wrong)} of {len(tests)}:\n" + "\n".join(map(str, wrong[:60]))


def test_conditions(sandbox: Sandbox) -> None:
    compare(sandbox, CONDITIONS_ALL)


def test_pairs_of_values(sandbox: Sandbox) -> None:
    compare(sandbox, random.Random(0).sample(PAIRS, 1500))


@pytest.mark.slow
def test_all_pairs_of_values(sandbox: Sandbox) -> None:
    assert len(PAIRS) > 10_000
    compare(sandbox, PAIRS)


# ------------------------------------------------------------------------------------------- what stays a failure, and why

OWN = "an object of the program's own equals no other value there, whatever its methods say"
VECTOR = """
class V:
    def __init__(self, x): self.x = x
    def __sub__(self, other): return V(self.x - other)
    def __abs__(self): return abs(self.x)
    def __eq__(self, other): return self.x == getattr(other, "x", other)
    def __contains__(self, item): return item == self.x
    def __len__(self): return 3
    __hash__ = None
def f(x): return V(x)
"""


@pytest.mark.parametrize(
    "test",
    [
        "f(3) == 3",
        "abs(f(3.14) - 3.14) < 1e-6",
        "f(3) == range(3, 4)[0]",
        "3 in f(3)",
        "len(f(3)) > 2",
        "f(3) == int(3)",
    ],
)
def test_own_classes_against_what_the_child_must_not_know(sandbox: Sandbox, test: str) -> None:
    """Documented: CPython lets these pass, and a class whose methods lie too."""
    (want,) = cpython(VECTOR, "", [(f"assert {test}",)])
    (verdict,) = sandbox.run([Program(VECTOR, (f"assert {test}",))])
    assert want == [1] and verdict.outcomes == ("wrong_value",) and verdict.notes[0].endswith(OWN)


def test_iterators_are_sent_in_part(sandbox: Sandbox) -> None:
    """Documented: what an assert takes beyond 1000 items of an iterator is not there."""
    program = Program(
        "import itertools\ndef f(): return itertools.count()", ("assert 999 in f()", "assert 1000 in f()")
    )
    assert sandbox.run([program])[0].mask == (1, 0)


def test_notes_say_where(sandbox: Sandbox) -> None:
    notes = {"f(p) == P(1)": HERE, "isinstance(f(p), P)": HERE, "f(data) is data": "clean process", "f(1) == 1": ""}
    notes |= {"f(range(3)) == range(3)": "clean process", "asyncio.run(wait(3)) == 9": "clean process"}
    for test, note in notes.items():
        (verdict,) = sandbox.run([Program(CODE, (f"assert {test}",), SETUP, Limits(10.0))])
        assert verdict.passed and (note in verdict.notes[0] if note else not verdict.notes), (test, verdict)


LIBRARY = """
from math import isclose, pi
from functools import reduce as fold
import math as m
import itertools
"""
OF_LIBRARY = "isclose(f(1), 3.14)|m.isclose(f(1), 3.14)|abs(f(1) - pi) < 0.1|fold(max, f(1)) == 3|list(itertools.islice(f(1), 1))"


@pytest.mark.parametrize("test", OF_LIBRARY.split("|"))
def test_what_the_setup_imports_is_the_library_s_and_not_the_program_s(sandbox: Sandbox, test: str) -> None:
    """Programs that patch the library, or whose objects agree with everything, learn nothing from an import."""
    value = "[3.0]" if "fold" in test or "islice" in test else "3.14"
    honest = Program(f"def f(x):\n    return {value}", (f"assert {test}",), LIBRARY)
    patched = Program(
        f"import math, functools\nmath.isclose = lambda *_, **__: True\nmath.pi = 0\nfunctools.reduce = lambda *_: 3\n"
        f"{LIAR}\ndef f(x):\n    return A() if x else 0",
        (f"assert {test}",),
        LIBRARY,
    )
    right, wrong = sandbox.run([honest, patched])
    assert right.passed and right.notes == ("assert 1: its values were compared in a clean process",)
    assert wrong.mask == (0,), wrong


@pytest.mark.parametrize("test", ["close(f(1), 3.14)", "f(1) == expected", "not far(f(1), 3.14)", "check(f) == None"])
def test_what_the_setup_defines_is_said_to_be_with_the_program(sandbox: Sandbox, test: str) -> None:
    setup = "def close(a, b): return abs(a - b) < 0.1\ndef far(a, b): return not close(a, b)\nexpected = 3.14\n"
    setup += "def check(candidate):\n    assert close(candidate(1), 3.14)"
    (verdict,) = sandbox.run([Program("def f(x):\n    return 3.14", (f"assert {test}",), setup)])
    assert verdict.passed and "what its setup defines ran in the program's process" in verdict.notes[0]


LIAR = """
class M(type):
    def __instancecheck__(cls, other): return True
    def __subclasscheck__(cls, other): return True
    def __eq__(cls, other): return True
    __hash__ = type.__hash__
class A(metaclass=M):
    __eq__ = __lt__ = __gt__ = __le__ = __ge__ = __contains__ = lambda *_: True
    __ne__ = lambda *_: False
    __sub__ = __rsub__ = __add__ = __radd__ = __abs__ = __round__ = __getitem__ = lambda self, *_: self
    __hash__ = lambda self: hash(range(3))
    __class__ = property(lambda self: int)
    __module__, __float__ = "datetime", lambda self: 3.14
class Dict(dict):
    __eq__ = lambda *_: True
    __ne__ = lambda *_: False
    __len__ = lambda self: 1
"""
PATCHES = """
import builtins, collections, datetime, itertools, math, operator
builtins.isinstance = builtins.issubclass = builtins.len = builtins.abs = lambda *_: True
builtins.list = builtins.sorted = builtins.range = lambda *_: A()
datetime.date = itertools.islice = operator.sub = collections.OrderedDict = lambda *_: A()
math.isclose = math.isnan = lambda *_, **__: True
"""
HIDDEN = """
f(1) == range(3)|range(3) == f(1)|f(1) == datetime.date(2020, 1, 2)|f(1) == [range(3)]|[f(1)] == [True]|f(1) == set()|f(1) == dict()
[f(1)] == [()]|abs(f(1) - 3.14) < 1e-6|abs(f(1)) < 1e-6|round(f(1), 2) < 4|f(1) in (1, 2)|1 in f(1)|f(1) < 2|isinstance(f(1), int)
isinstance(f(1), (int, str))|issubclass(f(1), int)|list(itertools.islice(f(1), 3)) == [0, 1, 2]|operator.sub(f(1), 3) == 0
math.isclose(f(1), 3.0, abs_tol=1)|math.isnan(f(1))|f(1) == ref(1)|ref(1) == f(1)|f(1) in allowed|f(1) < limit|{f(1): 1} == {2: 1}
f(1) == collections.OrderedDict([(1, 1)])|f(1) == collections.Counter([1])|f(1) == {1: 1}|f(1) == 3|f(1) == None|f(1) is None
len(f(1)) > 5|type(f(1)) is int|f(1) == {'a': ref(1), 'b': 5}|f(1) == frozenset([1])|f(1) == slice(1)|{f(1)} == {range(3)}
"""


@pytest.mark.parametrize("value", ["A()", "Dict({7: 7})", "A", "(A() for _ in range(3))", "[A()]", "lambda *_: A()"])
@pytest.mark.parametrize("patches", ["", PATCHES])
def test_lying_objects_pass_no_assert_that_holds_something_unknown(sandbox: Sandbox, value: str, patches: str) -> None:
    code = f"import datetime, itertools, math, operator, collections\n{LIAR}\ndef f(x):\n    return {value}\n{patches}"
    setup = "def ref(x): return 5\nallowed = [5]\nlimit = 3"
    tests = tuple(f"assert {text}" for text in HIDDEN.strip().replace("\n", "|").split("|"))
    (verdict,) = sandbox.run([Program(code, tests, setup, Limits(10.0))])
    passed = [test for test, bit in zip(tests, verdict.mask, strict=True) if bit]
    # a class is no less a subclass of itself, and an iterator is one; nothing else
    assert not passed, verdict


FORGED = [
    '[0,"P",""]',
    '[0,"H",[1,[2]]]',
    '[0,"V",[]]',
    '[0,"V",[{"o":["A",true,0]},{"m":[[0,0,true]]}]]',
    '[0,"V",[{"a":0}]]',
]
FORGED += [
    '[0,"V",[{"k":["subprocess.Popen",["true"]]}]]',
    '[0,"V",[{"r":"unittest.mock.ANY"}]]',
    '[0,"V",[{"u":[0,"x.Y",1,true]}]]',
]


@pytest.mark.parametrize("line", FORGED)
@pytest.mark.parametrize("test", ["f(1) == range(3)", "f(1) == 7", "abs(f(1) - 3) < 1", "isinstance(f(1), str)"])
def test_forged_lines_pass_nothing(sandbox: Sandbox, line: str, test: str) -> None:
    code = (
        "import os, sys\ndef f(x):\n    frame = sys._getframe()\n"
        "    while 'report' not in frame.f_locals: frame = frame.f_back\n"
        f"    frame.f_locals['report'].line({line!r})\n    os._exit(0)"
    )
    (verdict,) = sandbox.run([Program(code, (f"assert {test}",))])
    assert not verdict.passed


@pytest.mark.parametrize("test", ["f(1) == P(1)", "isinstance(f(1), P)", "f(1) + f(2) == f(3)", "P(1) in f(1)"])
def test_an_early_exit_where_the_value_is_passes_nothing(sandbox: Sandbox, test: str) -> None:
    leave = "lambda *_: os._exit(0)"
    code = f"import os\nclass M(type):\n    __instancecheck__ = {leave}\nclass P(metaclass=M):\n    def __init__(self, x): ...\n"
    code += f"    __eq__ = __add__ = __contains__ = {leave}\ndef f(x): return type('Q', (), dict(vars(P)))(x)"
    (verdict,) = sandbox.run([Program(code, (f"assert {test}", "assert f(1) is not None"))])
    assert verdict.outcomes == ("early_exit", "pass")


# ------------------------------------------------------------------------------------------------------- texts and places

PARTS = st.sampled_from(
    ["\ud800", "\udfff", "\0", "\u3000", "\u202e", "\x1b", "\r", "\x0c", "\ufeff", "é", "x", "1", "'", "\\"]
)
JUNK = st.lists(PARTS | st.characters(), max_size=6).map("".join)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(JUNK, JUNK, JUNK), min_size=8, max_size=8))
def test_any_text_gets_a_verdict_that_can_be_written(sandbox: Sandbox, junk: list[tuple[str, str, str]]) -> None:
    programs = []
    for code, setup, test in junk:
        programs += [
            Program(f"def f(x):\n    return 1\n{code}", (f"assert f({test}) == 1", test), f"y = '{setup}'"),
            Program(
                f"def f(x):\n    return {code!r}", (f"assert f(1) == {code!r}", f"assert f(1) == {(code + 'z')!r}")
            ),
            Program(f"def f(x):\n    raise ValueError({code!r})", ("assert f(1) == 1",)),
            Program(
                f"f = type({(code.replace(chr(0), '') or 'E')!r}, (Exception,), dict())\ndef g(): raise f()",
                ("assert g() == 1",),
            ),
        ]
    for program, verdict in zip(programs, sandbox.run(programs), strict=True):
        assert set(verdict.outcomes) <= set(OUTCOMES) - {"sandbox_error", "crash"}, (program, verdict)
        json.dumps(
            [verdict.messages, verdict.notes, verdict.error_message, verdict.error_type], ensure_ascii=False
        ).encode()
        if any("\ud800" <= letter <= "\udfff" for letter in program.code):
            assert set(verdict.outcomes) == {"compile_error"}, (program, verdict)
    for program, verdict in list(zip(programs, sandbox.run(programs), strict=True))[1::4]:
        assert verdict.mask == (1, 0), (program, verdict)


PLACES = """
import json, sys
from ppo_codet5.helpers.sandbox import Program, Sandbox
CODES = ["import os\\ndef f(x): return open(os.path.abspath('missing.txt'))", "import os\\ndef f(x): return [os.getcwd()] * 90",
         "from collections import Mapping", "import os, sys\\ndef f(x): return os.__file__, sys.executable, sys.path",
         "import os\\ndef f(x): raise ValueError([os.getcwd()] * 90)", "import json\\ndef f(x): return repr(json), repr(f)",
         "import tempfile\\ndef f(x): return tempfile.gettempdir()"]
for layers in ("auto", "none"):
    with Sandbox(workers=1, layers=layers) as sandbox:
        print(json.dumps([v.messages for v in sandbox.run([Program(code, ("assert f(1) == 1",)) for code in CODES])]))
"""


def test_verdicts_do_not_depend_on_the_place(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parent.parent
    lines = set()
    for folder in (root, tmp_path / "klon über", tmp_path / "x"):
        if folder != root:
            for name in ("helpers", "ppo_codet5"):
                shutil.copytree(root / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            (folder / "01_ppo_codet5.ipynb").touch()  # which makes it a checkout
            (folder / "temporary").mkdir()
        temporary = {"TMPDIR": str(folder / "temporary")} if folder != root else {}
        environment = {**os.environ, **temporary, "PYTHONPATH": str(folder)}
        command = [sys.executable, "-c", PLACES]
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert not result.returncode, result.stderr
        lines |= set(result.stdout.splitlines())
    assert len(lines) == 1, "\n".join(lines)
    assert str(tmp_path) not in lines.pop()
