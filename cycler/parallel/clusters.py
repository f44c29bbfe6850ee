"""Independent pieces on a Dask cluster, as tasks of a Prefect flow run (prefect-dask).

A YAML file such as those in `deploy/dask` names the cluster: a class of distributed, dask-jobqueue or dask-kubernetes,
its number of workers and its options. Prefect shows the pieces; their results are read from the archive.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from dacycle.common import logs
from dacycle.common.configuration import Strict, read_checked
from dacycle.common.errors import DacycleError
from dacycle.common.pieces import Each, in_processes

__all__ = ["Cluster", "ClusterError", "load_cluster", "on_cluster", "spread"]

T = TypeVar("T")


class ClusterError(DacycleError, ValueError):
    """A cluster cannot be started; the message names its file, and what to install or change."""


class Cluster(Strict):
    """Describe a Dask cluster."""

    cluster: str
    """Its class, e.g. `distributed.LocalCluster`."""
    workers: int = Field(ge=1)
    """Number of workers; each runs one piece at a time for each of its threads."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the class."""

    def arguments(self, workers: int | None = None) -> dict[str, Any]:
        """Return the arguments of the class, with another number of workers where one is given."""
        return {**self.options, "n_workers": workers or self.workers}


LOCAL = Cluster(
    cluster="distributed.LocalCluster", workers=2, options={"threads_per_worker": 1, "dashboard_address": ":0"}
)
"""What `--dask local` means; its page is at a free port."""


def load_cluster(path: Path) -> Cluster:
    """Read the file of a cluster; raise ClusterError with one line per problem."""
    return LOCAL if str(path) == "local" else read_checked(path, Cluster, "a Dask cluster", ClusterError)


@contextmanager
def spread(workers: int | None, dask: Path | None, home: Path) -> Iterator[Each]:
    """Yield where pieces run: on a Dask cluster where one is named, else in processes of this machine.

    Args:
        workers: number of processes or of the cluster's workers; None: one process, or as many as the file says.
        dask: `local`, or the file of a cluster.
        home: folder for the records of a Prefect server, where none is configured.

    Raises:
        ClusterError: the cluster cannot be started.
    """
    place = in_processes(workers or 1) if dask is None else on_cluster(load_cluster(dask), workers, home, dask)
    with place as each:
        yield each


@contextmanager
def on_cluster(described: Cluster, workers: int | None, home: Path, file: Path) -> Iterator[Each]:
    """Yield an `Each` whose pieces are tasks on a cluster, which is started for the first one and stopped at the end.

    Args:
        described: the cluster.
        workers: number of workers; None: as described.
        home: folder for the records of a Prefect server, where none is configured.
        file: what describes the cluster, for messages.

    Raises:
        ClusterError: a package is missing; from the `Each`: the cluster does not start.
    """
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise ClusterError(f"Dask clusters need prefect-dask ({error}): pip install 'dacycle[dask]'") from error
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE
    from prefect.futures import as_completed

    from dacycle.cycler.operations.flows import embedded_server

    made, log = _class_of(described, file), logs.as_here()
    with ExitStack() as stack:

        @cache
        def address() -> str:
            stack.enter_context(embedded_server(home))
            return str(stack.enter_context(_started(made, described, workers, file)).scheduler_address)

        @task(name="piece", persist_result=False, cache_policy=NO_CACHE)
        def piece(call: Callable[[], T]) -> T:
            log()  # Prefect has configured the worker's logs otherwise
            return call()

        def each(function: Callable[..., T], pieces: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, T]]:
            if not pieces:
                return
            # by address: what a flow holds goes to the workers, and a cluster object cannot
            runner: Any = DaskTaskRunner(address=address())

            @flow(name=function.__name__.strip("_"), task_runner=runner, persist_result=False)
            def run() -> Iterator[tuple[int, T]]:
                calls = [partial(function, *map(_absolute, one)) for one in pieces]
                futures = {piece.submit(call): number for number, call in enumerate(calls)}
                for future in as_completed(list(futures)):
                    yield futures[future], future.result()

            yield from run()

        yield each


def _absolute(argument: Any) -> Any:
    """Return an argument of a piece as workers that run in another folder take it."""
    return argument.absolute() if isinstance(argument, Path) else argument


def _class_of(described: Cluster, file: Path) -> Callable[..., Any]:
    module, _, name = described.cluster.rpartition(".")
    try:
        made: Callable[..., Any] = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        package = module.partition(".")[0].replace("_", "-") or described.cluster
        sentence = f"{file}: cluster: there is no {described.cluster} ({error}): pip install {package}"
        raise ClusterError(sentence) from error
    return made


@contextmanager
def _started(made: Callable[..., Any], described: Cluster, workers: int | None, file: Path) -> Iterator[Any]:
    with ExitStack() as stack:
        try:
            cluster = stack.enter_context(made(**described.arguments(workers)))
            cluster.scale(workers or described.workers)  # where the class takes a number of workers otherwise
        except Exception as error:  # whatever the class, and what it asks for workers, run into
            raise ClusterError(
                f"{file}: {described.cluster} does not start ({type(error).__name__}: {error}); change its options in "
                "the file, or see to what it asks for workers"
            ) from error
        yield cluster
