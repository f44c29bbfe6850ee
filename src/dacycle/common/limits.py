"""Time limits for calls of libraries that have none of their own, or only for each answer and not for the whole."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

__all__ = ["in_time"]

T = TypeVar("T")


def in_time(seconds: float, call: Callable[[], T]) -> T:
    """Return what a call returns, or raise what it raises; one that takes too long is left to itself in its thread.

    No call of a library ends a read from a server that sends a byte now and then.

    Raises:
        TimeoutError: the time is over.
    """
    if seconds <= 0:
        raise TimeoutError("no time is left")
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised below, in the thread that asked
            outcome.set_exception(error)

    # A thread of a pool would be waited for when the process ends.
    threading.Thread(target=run, daemon=True).start()
    if not wait([outcome], seconds).done:
        raise TimeoutError(f"not whole after {seconds:.0f} s")
    return outcome.result()
