"""Time limits for calls of libraries that have none of their own, or only for each answer and not for the whole."""

import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["in_time"]

T = TypeVar("T")


def in_time(seconds: float, call: Callable[[], T]) -> T:
    """Return what a call returns, or raise what it raises; one that takes too long is left to itself in its thread.

    No call of a library ends a read from a server that sends a byte now and then.

    Raises:
        TimeoutError: the time is over.
    """
    outcome: list[tuple[T | None, BaseException | None]] = []

    def run() -> None:
        try:
            outcome.append((call(), None))
        except BaseException as error:  # noqa: BLE001 - it is raised below, in the thread that asked
            outcome.append((None, error))

    if seconds > 0:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"not whole after {seconds:.0f} s" if seconds > 0 else "no time is left")
    result, problem = outcome[0]
    if problem is not None:
        raise problem
    return result  # type: ignore[return-value]
