"""Independent pieces of work: one after the other, or side by side in processes of this machine.

Whoever has pieces that need nothing of each other takes an `Each`, and its caller decides where they run.
`cycler.parallel.clusters` has one for Dask clusters. What a piece makes it writes itself, where no other piece writes;
it returns small values only.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Protocol, TypeVar

from dacycle.common import logs
from dacycle.common.errors import DacycleError

__all__ = ["Each", "PieceError", "in_processes", "in_turn", "processes"]

T = TypeVar("T")


class Each(Protocol):
    """Call a function for each piece, and yield the number of the piece with what the call returned, as they end."""

    def __call__(self, function: Callable[..., T], pieces: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, T]]:
        """Yield (number, function(*pieces[number])), in any order; raise the first error of a piece."""
        ...


class PieceError(DacycleError, RuntimeError):
    """A process ended before its piece did; what it has written is kept."""

    label = "stopped"
    exit_status = 1


def in_turn(function: Callable[..., T], pieces: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, T]]:
    """Call the function in this process, one piece after the other; an `Each`."""
    for number, piece in enumerate(pieces):
        yield number, function(*piece)


@contextmanager
def in_processes(count: int) -> Iterator[Each]:
    """Yield an `Each` with so many processes, as `processes` makes them; one is this process itself.

    Raises:
        PieceError: from the `Each`, where one of its processes was killed.
    """
    if count == 1:
        yield in_turn
        return
    with processes(count) as pool:

        def each(function: Callable[..., T], pieces: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, T]]:
            futures = {pool.submit(function, *piece): number for number, piece in enumerate(pieces)}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            except BrokenProcessPool as error:
                raise PieceError(
                    "a process ended before its work did, as a killed one does; what it has written is kept, and the "
                    "same command goes on"
                ) from error

        yield each


@contextmanager
def processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """Yield an executor whose processes end with this one, however it ends, and at once where the block raises.

    They leave an interrupt to this process, and write log records as it does.
    """
    # Spawned: the threads of networks, stores and network file systems do not survive a fork.
    context = get_context("spawn")
    watched, held = context.Pipe(duplex=False)
    with watched, held:
        begin = partial(_begin, watched, logs.as_here())
        pool = ProcessPoolExecutor(count, mp_context=context, initializer=begin)
        try:
            yield pool
        except BaseException:
            held.close()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _begin(watched: Connection, log: Callable[[], None]) -> None:
    """Prepare a process of `processes`; it ends when the other end of what it watches is closed, even by a kill."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log()

    def wait() -> None:
        watched.poll(None)
        os._exit(1)

    threading.Thread(target=wait, name="end with parent", daemon=True).start()
