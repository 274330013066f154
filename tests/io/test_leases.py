"""A lease keeps one process out while another one lives, and its holder stops when it may have been taken over."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stpipe.errors import OutputError, RunError
from stpipe.io import leases

PLACE = Path("bucket/out/work/lock")
WORK = "filling into bucket/out"
PATIENCE = 0.6
LONG = 2.0
"""Where one must not be lost: a busy machine lets threads wait, too."""


class Store:
    """One object, as a store of S3 keeps it; what it heeds and whether it answers can be set."""

    def __init__(self) -> None:
        self.content: bytes | None = None
        self.tag = 0
        self.away = False
        self.reads_away = False
        self.loses_answers = False
        self.writes = 0
        self.heeds_match = self.heeds_none_match = True
        self.lock = threading.Lock()

    def _write(self, content: bytes) -> bool:
        self.content, self.tag = content, self.tag + 1
        return True

    def _answer(self) -> None:
        if self.away:
            raise ConnectionError("no route")

    def create(self, _: Path, content: bytes) -> bool:
        with self.lock:
            self._answer()
            return (self.content is None or not self.heeds_none_match) and self._write(content)

    def read_tagged(self, _: Path) -> tuple[bytes, str] | None:
        with self.lock:
            self._answer()
            if self.reads_away:
                raise ConnectionError("too busy to read")
            return None if self.content is None else (self.content, str(self.tag))

    def replace_tagged(self, _: Path, content: bytes, tag: str) -> str | None:
        with self.lock:
            self._answer()
            if self.content is None or (tag != str(self.tag) and self.heeds_match):
                return None
            self._write(content)
            self.writes += 1
            if self.loses_answers and self.writes % 2:
                raise ConnectionError("no answer")
            return str(self.tag)

    def drop(self, _: Path) -> None:
        with self.lock:
            self._answer()
            self.content = None


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store()
    for name in ("create", "read_tagged", "replace_tagged", "drop"):
        monkeypatch.setattr(leases, name, getattr(made, name))
    return made


def until(sees: Callable[[], Any]) -> None:
    for _ in range(1000):
        if sees():
            return
        time.sleep(0.02)
    raise AssertionError("it never came")


def test_it_is_written_again_and_again_and_taken_away_at_the_end(store: Store) -> None:
    with leases.leased(PLACE, work=WORK, patience=PATIENCE):
        first = store.tag
        until(lambda: store.tag > first + 2)
        leases.check_held(PLACE)
    assert store.content is None
    leases.check_held(PLACE)  # it holds nothing, and nobody asks that of it


def test_one_that_lives_keeps_others_out(store: Store) -> None:
    with (
        leases.leased(PLACE, work=WORK, patience=PATIENCE),
        pytest.raises(OutputError, match="another process is filling"),
        leases.leased(PLACE, work=WORK, patience=PATIENCE),
    ):
        pytest.fail("two at a time")


def test_one_that_is_dead_is_taken_over(store: Store) -> None:
    store.content = b"somebody 7"
    told: list[str] = []
    with leases.leased(PLACE, work=WORK, patience=PATIENCE, announce=told.append):
        assert store.content is not None
        assert not store.content.startswith(b"somebody")
    assert len(told) == 1


def test_a_write_that_went_through_is_a_sign_of_life_even_if_it_cannot_be_read_back(store: Store) -> None:
    with leases.leased(PLACE, work=WORK, patience=LONG):
        store.reads_away = True
        time.sleep(1.5 * LONG)
        leases.check_held(PLACE)
        store.reads_away = False
    assert store.content is None


def test_a_write_whose_answer_was_lost_does_not_end_it(store: Store) -> None:
    seen = []
    with leases.leased(PLACE, work=WORK, patience=LONG):
        store.loses_answers = True
        for _ in range(60):
            time.sleep(LONG / 30)
            seen.append(store.content)
        leases.check_held(PLACE)
    assert len(set(seen)) > leases.BEATS // 2  # others see that somebody lives by what has changed
    assert store.content is None


def test_a_lease_of_its_own_that_it_cannot_write_is_no_sign_of_life(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases.signal, "pthread_kill", lambda *_: None)
    with (  # noqa: PT012
        pytest.raises(RunError, match="has taken over"),
        leases.leased(PLACE, work=WORK, patience=PATIENCE),
    ):
        monkeypatch.setattr(leases, "replace_tagged", lambda *_: None)  # as if the tag were never the right one
        until(lambda: _refused(PLACE))


@pytest.mark.parametrize("ignored", [False, True], ids=["as it is", "Ctrl-C ignored"])
def test_a_holder_without_its_store_stops_by_itself(store: Store, ignored: bool) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = [signal.signal(signal.SIGTERM, stop), signal.getsignal(signal.SIGINT)]
    if ignored:  # as for a job that a shell has put into the background
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with (  # noqa: PT012
            pytest.raises(RunError, match=r"has taken over filling .*, or may have.*; what is done is kept"),
            leases.leased(PLACE, work=WORK, patience=PATIENCE),
        ):
            store.away = True
            time.sleep(30)
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])


def test_one_that_wakes_in_other_hands_does_nothing_more(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # It slept in the middle of something, and nothing has interrupted it yet.
    monkeypatch.setattr(leases.signal, "pthread_kill", lambda *_: None)
    with (  # noqa: PT012
        pytest.raises(RunError, match="has taken over"),
        leases.leased(PLACE, work=WORK, patience=PATIENCE),
    ):
        store.content = b"somebody 1"
        store.tag += 1
        until(lambda: _refused(PLACE))
    assert store.content == b"somebody 1"


def _refused(place: Path) -> bool:
    try:
        leases.check_held(place)
    except RunError:
        return True
    return False


@pytest.mark.parametrize(("heeds", "header"), [("heeds_match", "If-Match"), ("heeds_none_match", "If-None-Match")])
def test_a_store_that_keeps_nobody_out_is_refused(store: Store, heeds: str, header: str) -> None:
    setattr(store, heeds, False)
    with (
        pytest.raises(OutputError, match=f"not heeding {header}, .* choose another place with -o"),
        leases.leased(PLACE, work=WORK, patience=PATIENCE),
    ):
        pytest.fail("it was taken")
