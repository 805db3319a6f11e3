"""Models that several processes of one machine share: loaded once, and all their requests decoded together.

``serving`` starts a process that loads models as they are asked for. While it runs, ``load_generator`` gives a
:class:`SharedGenerator` here and in every process that is started from here, in the place of a model of its own: for a
machine whose memory does not hold one for each, which would write more (``benchmarks/shared.py``). The socket is for this
user only.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, ClassVar

from .contract import Completion, ModelError, Request

if TYPE_CHECKING:
    from .local import TransformersGenerator

ADDRESS = "PPO_CODET5_MODELS"  # environment variable: the socket of the process that serves models
Asked = tuple[str, str, str, int, str | None]  # the arguments of load_model
Job = tuple[Callable[[int, Completion | ModelError], None], int, Request]  # whom to answer, which place, what is asked


class SharedGenerator:
    """A TextGenerator whose model is in the process at ``address``; raises ModelError where that cannot load or has ended."""

    def __init__(self, address: str, *asked: *Asked) -> None:
        self._lock, self._calls, self.batch_size = threading.Lock(), 0, asked[3]
        with _told_if_gone(address):
            self._connection = Client(address, "AF_UNIX")
            self._connection.send(asked)
            about = self._connection.recv()
        if isinstance(about, ModelError):
            raise about
        self.address, (self.name, self.revision, self.dtype, self.sampler) = address, about

    def generate(
        self, requests: Sequence[Request], each: Callable[[int, Completion], object] | None = None
    ) -> list[Completion]:
        """Completions in the order of ``requests``; ``each`` as in :class:`TextGenerator`."""
        done: dict[int, Completion] = {}
        with self._lock:
            self._calls += 1
            with _told_if_gone(self.address):
                self._connection.send((self._calls, list(requests)))
            while len(done) < len(requests):
                with _told_if_gone(self.address):
                    call, place, answer = self._connection.recv()
                if call != self._calls:  # of a call that was interrupted
                    continue
                if isinstance(answer, ModelError):
                    raise answer
                done[place] = answer
                if each:  # whose errors, such as a full disk, are not the connection's
                    each(place, answer)
        return [done[place] for place in range(len(requests))]


@contextlib.contextmanager
def _told_if_gone(address: str) -> Iterator[None]:
    """Around each use of a connection: ModelError where there is nobody at its other end."""
    try:
        yield
    except (OSError, EOFError) as error:
        raise ModelError(
            f"the process that serves the models at {address} has ended; its log says why. Start again."
        ) from error


@functools.cache
def connect(address: str, *asked: *Asked) -> SharedGenerator:
    """The shared model of these arguments of ``load_model``; one object, so that a model in two roles is one."""
    return SharedGenerator(address, *asked)


@contextlib.contextmanager
def serving(log: Path) -> Iterator[str]:
    """Start the process that serves models, for this process and those that it starts; yields its address."""
    log.parent.mkdir(parents=True, exist_ok=True)
    # An address has room for some hundred characters, and folders of results may have more.
    with tempfile.TemporaryDirectory(prefix="ppo-codet5-") as folder, open(log, "wb") as file:
        address = f"{folder}/models"
        line = [sys.executable, "-c", f"from {__name__} import main; main()", address, str(os.getpid())]
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
        try:
            while not os.path.exists(address):
                if process.poll() is not None:
                    raise ModelError(f"the process that serves the models did not start: see {log}")
                time.sleep(0.02)
            os.environ[ADDRESS] = address
            yield address
        finally:
            os.environ.pop(ADDRESS, None)
            process.kill()
            process.wait()


# In the process that serves


class _Runner(threading.Thread):
    """Decodes all requests to one model; what comes while others are under way joins them."""

    working: ClassVar[set[str]] = set()  # names of those that have something to do: they share the cores

    def __init__(self, generator: TransformersGenerator) -> None:
        super().__init__(daemon=True)
        self.generator, self.queue, self.jobs = generator, SimpleQueue[Job](), list[Job | None]()
        self.start()

    def more(self) -> list[Request]:
        """The requests that have come since; also sets how many threads the next step takes."""
        import torch

        threads = max(1, _cores() // max(1, len(_Runner.working)))
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        new: list[Job] = []
        with contextlib.suppress(Empty):
            while True:
                new.append(self.queue.get_nowait())
        self.jobs += new
        return [request for *_, request in new]

    def answer(self, place: int, completion: Completion) -> None:
        job, self.jobs[place] = self.jobs[place], None
        if job:
            job[0](job[1], completion)

    def run(self) -> None:
        while True:
            self.jobs = [self.queue.get()]
            _Runner.working.add(self.name)
            try:
                first = [job[2] for job in self.jobs if job]
                self.generator.generate([*first, *self.more()], self.answer, self.more)
            except Exception as error:  # whatever it is: those who wait must hear of it
                for job in filter(None, self.jobs):
                    job[0](job[1], _as_model_error(error))
            finally:
                _Runner.working.discard(self.name)


def _as_model_error(error: Exception) -> ModelError:
    return error if isinstance(error, ModelError) else ModelError(f"{type(error).__name__}: {error}")


@functools.cache
def _cores() -> int:
    """Threads that torch takes as it is set up; asked for before any runner sets fewer."""
    import torch

    return torch.get_num_threads()


_runners: dict[TransformersGenerator, _Runner] = {}
_starting = threading.Lock()


def _runner(generator: TransformersGenerator) -> _Runner:
    """The one that decodes for all who ask this model."""
    with _starting:
        _cores()
        if generator not in _runners:
            _runners[generator] = _Runner(generator)
        return _runners[generator]


def _attend(connection: Connection) -> None:
    """Load what a client asks for, and hand its requests on until it goes."""
    from .loading import load_model

    sending = threading.Lock()

    def answering(call: int) -> Callable[[int, Completion | ModelError], None]:
        def send(place: int, answer: Completion | ModelError) -> None:
            with sending, contextlib.suppress(OSError):  # the client may have gone
                connection.send((call, place, answer))

        return send

    with contextlib.suppress(OSError, EOFError):
        asked = connection.recv()
        try:
            generator = load_model(*asked)
        except Exception as error:  # one of the files that cannot be fetched, for one
            connection.send(_as_model_error(error))
            return
        runner = _runner(generator)
        connection.send((generator.name, generator.revision, generator.dtype, generator.sampler))
        while True:
            call, requests = connection.recv()
            send = answering(call)
            for place, request in enumerate(requests):
                try:
                    generator.check(place, request)
                except ModelError as error:  # of this request alone: the others', which are decoded with it, go on
                    send(place, error)
                else:
                    runner.queue.put((send, place, request))


def _accept(listener: Listener) -> None:
    while True:
        threading.Thread(target=_attend, args=(listener.accept(),), daemon=True).start()


def main() -> None:
    """Serve at the address that is given until the process that is given has ended."""
    address, parent = sys.argv[1], int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one, which ends it
    os.environ.pop(ADDRESS, None)
    listener = Listener(address, "AF_UNIX", backlog=64)
    threading.Thread(target=_accept, args=(listener,), daemon=True).start()
    while os.getppid() == parent:
        time.sleep(0.5)
