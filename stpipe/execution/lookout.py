"""What becomes of a cluster's workers while it works: who came, who went, what they had in hand, what they take."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from distributed import Client

POLL = 5.0
"""Seconds between two looks at the workers' memory; each brings home some kilobytes a worker."""

TOPIC = "all"
"""Where a scheduler tells of workers."""

HELD = "processing-tasks"
"""What a scheduler says of a worker that goes: the tasks that it had in hand, which are handed out again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """A worker that came or went, or the scheduler that went or is back."""

    worker: str
    """Its address."""

    came: bool
    """Whether it came, or else went."""

    workers: int
    """How many there are now."""

    retries: int = 0
    """Tasks of this client that it had in hand when it went."""

    scheduler: bool = False
    """Whether it is the scheduler."""


class Lookout:
    """Watches the workers of a cluster.

    That workers come and go is told by the scheduler's own events, for which nothing has to be installed in it, as a
    plugin would: a scheduler of somebody else's need not have stpipe. They also name the tasks that are handed out
    again, which no later look at the scheduler would show. Memory has to be asked for, now and then, in a thread of its
    own: a scheduler that doesn't answer holds nobody up.

    Parameters
    ----------
    client : distributed.Client
        A client of the cluster.
    every : float
        Seconds between two looks at the workers' memory.
    """

    def __init__(self, client: Client, *, every: float = POLL) -> None:
        self.came = 0
        """Workers that have been there, those that are gone included."""
        self.retries = 0
        """Tasks of this client that were handed out again because their worker was gone."""
        self.memory = 0
        """Memory of the worker that takes most, in bytes, at the last look."""
        self.limit = 0
        """What the one with the least may take; 0 if none has a limit."""
        self.looks = 0
        """How often it has looked."""
        self.news: deque[News] = deque(maxlen=10_000)
        """What nobody has taken yet."""
        self._client = client
        self._every = every
        self._there: set[str] = set()
        self._gone: set[str] = set()
        self._lacking: set[str] = set()
        self._connected = True
        self._scheduler = ""
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="stpipe-lookout", daemon=True)

    @property
    def workers(self) -> int:
        """Workers that are there."""
        return len(self._there)

    def __enter__(self) -> Self:
        self._scheduler = str(self._client.scheduler.address) if self._client.scheduler else ""
        self._client.subscribe_topic(TOPIC, self.hear)
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with suppress(Exception):  # the cluster may be gone, which is told elsewhere
            self._client.unsubscribe_topic(TOPIC)
        self._thread.join(timeout=1)

    def check_scheduler(self) -> None:
        """Look whether the client has its scheduler; it asks nobody, and takes no time."""
        with self._lock:
            connected = self._client.status == "running"
            if connected != self._connected and not self._over.is_set():
                self._connected = connected
                self.news.append(News(worker=self._scheduler, came=connected, workers=len(self._there), scheduler=True))

    def hear(self, event: tuple[float, Any]) -> None:
        """Take in what the scheduler says; called in the client's own thread."""
        _, message = event
        if self._over.is_set() or not isinstance(message, dict):
            return
        if message.get("action") == "add-worker":
            self._come(str(message["worker"]))
        elif message.get("action") == "remove-worker":
            self._go(str(message["worker"]), self._ours(message.get(HELD) or ()))

    def _ours(self, keys: Iterable[Any]) -> int:
        """Return how many of some tasks are this client's; a cluster may work for others too.

        What a client waits for may be done under another name, with what comes before it: ``b`` as ``a-b``.
        """
        names = tuple({_name(key) for key in tuple(self._client.futures)})
        return sum(_name(key).endswith(names) for key in keys)

    def see(self, workers: dict[str, Any]) -> None:
        """Take in what the scheduler knows of its workers.

        That may be older than the last event that was heard, so that it has no say on workers that went, and on those
        that it lacks only if it does so twice; it is there for events that were missed.
        """
        for address in workers.keys() - self._there - self._gone:
            self._come(address)
        lacking = self._there - workers.keys()
        for address in lacking & self._lacking:
            self._go(address, 0)
        self._lacking = lacking
        self.memory = max((_memory(about) for about in workers.values()), default=0)
        self.limit = min((limit for about in workers.values() if (limit := about["memory_limit"])), default=0)
        self.looks += 1

    def _come(self, address: str) -> None:
        with self._lock:
            if address not in self._there:
                self._there = self._there | {address}
                self.came += 1
                self.news.append(News(worker=address, came=True, workers=len(self._there)))

    def _go(self, address: str, retries: int) -> None:
        with self._lock:
            self.retries += retries
            if address in self._there:
                self._there = self._there - {address}
                self._gone.add(address)
                self.news.append(News(worker=address, came=False, workers=len(self._there), retries=retries))

    def _poll(self) -> None:
        while not self._over.wait(self._every):
            with suppress(Exception):  # a cluster that is gone is told elsewhere
                self._look()

    def _look(self) -> None:
        found = self._client.scheduler_info(n_workers=-1)["workers"]
        if not self._over.is_set():
            self.see(found)


def _name(key: Any) -> str:
    """Return the name that a task's key begins with."""
    return str(key[0]) if isinstance(key, tuple) else str(key)


def _memory(about: dict[str, Any]) -> int:
    """Return what a worker takes, as far as it has said so."""
    metrics: dict[str, Any] = about.get("metrics") or {}
    return int(metrics.get("memory") or 0)
