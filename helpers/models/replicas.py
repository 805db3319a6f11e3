"""One model on many GPUs: a pool of Ray actors behind the interface of a single model.

``ray:NAME@N`` is N replicas of NAME. The cluster is that of ``$RAY_ADDRESS``, or one started on this machine. Replicas
that die are started again by Ray and their requests are redone. A request's seed alone decides its text, so in float32
which replica answers, and how often one dies, does not change a program.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from .contract import Completion, ModelError, Request

PREFIX = "ray:"
STARTUP_SECONDS = 1800  # for a replica to load its model or to answer; longer means that it waits for room
ROOM_SECONDS = 20  # what replicas that were just closed may take to give their room back
RESTARTS = 50  # of one replica: one that crashes at each start must not go on for ever
# To the actors' processes. No token: Ray writes these to its logs, so gated models need `hf auth login` on the nodes.
PASSED_ON = ("PYTHONPATH", "PPO_CODET5_CACHE", "HF_HUB_CACHE", "HF_HOME", "HF_HUB_OFFLINE")


def parse(name: str) -> tuple[str, int]:
    """NAME and N of ``ray:NAME@N``; ModelError if it has another form."""
    model, _, count = name.removeprefix(PREFIX).rpartition("@")
    if not (name.startswith(PREFIX) and model and count.isdecimal() and int(count) > 0):
        raise ModelError(f"{name!r} must have the form ray:NAME@N, with N replicas from 1 on")
    return model, int(count)


def connect(address: str | None = None) -> Any:
    """The ray module, connected to the cluster at ``address`` or $RAY_ADDRESS, or to one started here."""
    try:
        import ray
    except ImportError:
        raise ModelError("Ray is not installed: pip install '.[distributed]' in the project's folder") from None
    if not ray.is_initialized():
        address = address or os.environ.get("RAY_ADDRESS") or "local"  # None would join any cluster of this machine
        passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        try:
            ray.init(
                address=address,
                log_to_driver=False,
                include_dashboard=False if address == "local" else None,
                runtime_env={"env_vars": passed},
                logging_level=logging.ERROR,
            )
        except ConnectionError as error:
            raise ModelError(f"no Ray cluster at {address}: start one with `ray start --head` ({error})") from None
    return ray


def nodes(ray: Any) -> list[dict[str, Any]]:
    """The nodes of the cluster that are alive."""
    return [node for node in ray.nodes() if node["Alive"]]


class _Replica:
    """The model in an actor of its own."""

    def __init__(self, name: str, dtype: str, device: str, batch_size: int, threads: int) -> None:
        import torch

        from .loading import load_model

        if not torch.cuda.is_available():
            torch.set_num_threads(threads)
        self.model = load_model(name, dtype, device, batch_size)

    def identity(self) -> tuple[str, str, str, int]:
        return self.model.name, self.model.revision, self.model.dtype, self.model.sampler

    def generate(self, requests: list[Request]) -> list[Completion]:
        return self.model.generate(requests)


class RayGenerator:
    """A TextGenerator over N replicas; each takes ``batch_size`` requests at a time.

    A replica has one GPU where the cluster has any, else an equal share of the CPUs. ``name``, ``revision`` and
    ``dtype`` are those of the model itself, so cached completions are shared with runs in one process.
    """

    def __init__(self, name: str, dtype: str = "float32", device: str = "auto", batch_size: int = 32) -> None:
        model, self.replicas = parse(name)
        model = os.path.abspath(model) if os.path.isdir(model) else model  # actors have another working folder
        self.batch_size, self._ray = batch_size, connect()
        kind = "GPU" if device != "cpu" and self._ray.cluster_resources().get("GPU", 0) else "CPU"
        until = time.monotonic() + ROOM_SECONDS
        while (free := int(self._ray.available_resources().get(kind, 0))) < self.replicas:
            if time.monotonic() > until or self._ray.cluster_resources().get(kind, 0) < self.replicas:
                raise ModelError(
                    f"{name} asks for {self.replicas} {kind}s, of which the Ray cluster has {free} free: ask for fewer, "
                    "or let code model and rewriter be the same."
                )
            time.sleep(0.2)
        threads = int(self._ray.cluster_resources().get("CPU", 1)) // self.replicas
        threads = max(1, min(threads, *(int(node["Resources"].get("CPU", 1)) for node in nodes(self._ray))))
        share: dict[str, Any] = {"num_gpus": 1, "num_cpus": 0} if kind == "GPU" else {"num_cpus": 1}
        actor = self._ray.remote(**share, max_restarts=RESTARTS, max_task_retries=-1)(_Replica)
        self._actors = [actor.remote(model, dtype, device, batch_size, threads) for _ in range(self.replicas)]
        try:
            identities = self._ray.get([a.identity.remote() for a in self._actors], timeout=STARTUP_SECONDS)
        except (self._ray.exceptions.RayActorError, self._ray.exceptions.GetTimeoutError) as error:
            self.close()
            raise ModelError(f"{name}: a replica cannot start: {' '.join(str(error).split())[-400:]}") from None
        except self._ray.exceptions.RayTaskError as error:
            self.close()
            raise error.as_instanceof_cause() from None
        if len(set(identities)) > 1:
            self.close()
            raise ModelError(f"{name}: the replicas do not hold the same model: {sorted(set(identities))}")
        self.name, self.revision, self.dtype, self.sampler = identities[0]

    def generate(
        self, requests: Sequence[Request], each: Callable[[int, Completion], object] | None = None
    ) -> list[Completion]:
        """Completions in the order of ``requests``; equal ones of neighbouring length go to one replica together."""
        if not self._actors:
            raise ModelError(self._silent("there is none left"))
        done: list[Completion | None] = [None] * len(requests)
        places = sorted(range(len(requests)), key=lambda place: len(str(requests[place].prompt)))
        size = max(1, min(self.batch_size, -(-len(places) // self.replicas)))
        chunks = deque(places[start : start + size] for start in range(0, len(places), size))
        under_way: dict[Any, tuple[Any, list[int]]] = {}
        try:
            for actor in self._actors:
                self._send(actor, chunks, requests, under_way)
            while under_way:
                ready, _ = self._ray.wait(list(under_way), num_returns=1, timeout=STARTUP_SECONDS)
                if not ready:
                    raise ModelError(self._silent(f"none of them has answered for {STARTUP_SECONDS / 60:.0f} minutes"))
                actor, chunk = under_way.pop(ready[0])
                try:
                    completions = self._ray.get(ready[0])
                except self._ray.exceptions.RayActorError as error:  # for good: another one takes its work
                    self._actors = [other for other in self._actors if other is not actor]
                    if not self._actors:
                        raise ModelError(self._silent(f"the last one died: {error}")) from None
                    chunks.appendleft(chunk)
                    actor, chunk, completions = self._actors[0], [], []
                self._send(actor, chunks, requests, under_way)
                for place, completion in zip(chunk, completions, strict=True):
                    done[place] = completion
                    if each:
                        each(place, completion)
        except self._ray.exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() from None
        finally:
            for reference in under_way:  # after an error or Ctrl-C
                self._ray.cancel(reference)
        return [completion for completion in done if completion is not None]

    def _send(self, actor: Any, chunks: deque[list[int]], requests: Sequence[Request], under_way: dict) -> None:
        if chunks:
            chunk = chunks.popleft()
            under_way[actor.generate.remote([requests[place] for place in chunk])] = (actor, chunk)

    def _silent(self, what: str) -> str:
        return (
            f"replicas of {self.name}: {' '.join(what.split())[:400]}. See `ray status` and the logs of Ray's session; the "
            "same command goes on where this one stopped."
        )

    @property
    def alive(self) -> bool:
        """Whether a replica is left; a pool without any is of no more use."""
        return bool(self._actors)

    def close(self) -> None:
        """End the replicas, and give their GPUs back."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []

    def __del__(self) -> None:
        if getattr(self, "_actors", None) and self._ray.is_initialized():
            self.close()
