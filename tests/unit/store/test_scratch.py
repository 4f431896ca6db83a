"""Borrowed memory is its thread's own, and there until it is borrowed again."""

from __future__ import annotations

import threading

from vfsd.store.scratch import KEPT, borrow


def test_the_same_memory_comes_again_and_grows() -> None:
    first = borrow("file", 1000)
    first[:4] = b"mine"
    assert bytes(borrow("file", 500)[:4]) == b"mine"
    assert len(borrow("file", 5000)) == 5000
    assert bytes(first[:4]) == b"mine"  # what was borrowed before stays valid memory


def test_each_use_and_each_thread_has_its_own() -> None:
    mine = borrow("chunk", 100)
    mine[:] = b"a" * 100
    borrow("rebuilt", 100)[:] = b"b" * 100

    def other() -> None:
        borrow("chunk", 100)[:] = b"c" * 100

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert bytes(mine) == b"a" * 100


def test_what_is_very_large_is_not_kept() -> None:
    large = borrow("file", KEPT + 1)
    assert len(large) == KEPT + 1
    large[0] = 7
    assert len(borrow("file", 10)) == 10
