"""The same work on many numbers in a few threads at once, for work that releases the GIL; returns when all of it is done."""

from __future__ import annotations

import threading
from collections.abc import Callable


def in_threads(count: int, work: Callable[[int], None], threads: int) -> None:
    """Call `work` with 0 to `count` - 1, each once, in the calling thread and so many more that `threads` are at it.

    Raises
    ------
    BaseException
        What `work` raised first; what has not begun then is not begun.
    """
    if threads < 2 or count < 2:
        for number in range(count):
            work(number)
        return
    numbers, lock = iter(range(count)), threading.Lock()
    problems: list[BaseException] = []

    def take() -> None:
        while not problems:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            try:
                work(number)
            except BaseException as problem:
                problems.append(problem)

    helpers = [threading.Thread(target=take, name="vfsd-planes") for _ in range(min(threads, count) - 1)]
    for helper in helpers:
        helper.start()
    take()
    for helper in helpers:
        helper.join()
    if problems:
        raise problems[0]
