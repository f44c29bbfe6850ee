"""Independent pieces on a Dask cluster, as tasks of a Prefect flow run (prefect-dask).

A YAML file such as those in `deploy/dask` names the cluster: a class of distributed, dask-jobqueue or dask-kubernetes,
its number of workers and its options. Prefect shows the pieces; their results are read from the archive.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from dacycle.common.configuration import Strict, read_checked
from dacycle.common.errors import DacycleError
from dacycle.common.pieces import Each, in_processes

__all__ = ["Cluster", "ClusterError", "load_cluster", "on_cluster", "spread"]

T = TypeVar("T")


class ClusterError(DacycleError, ValueError):
    """A cluster cannot be started; the message names its file, the key, and what to install or change."""


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
    place = in_processes(workers or 1) if dask is None else on_cluster(load_cluster(dask), workers, home)
    with place as each:
        yield each


@contextmanager
def on_cluster(described: Cluster, workers: int | None, home: Path) -> Iterator[Each]:
    """Start a cluster, and yield an `Each` whose pieces are tasks on it; stop it at the end.

    Args:
        described: the cluster.
        workers: number of workers; None: as described.
        home: folder for the records of a Prefect server, where none is configured.

    Raises:
        ClusterError: a package is missing, or the class does not take these options.
    """
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise ClusterError(f"Dask clusters need prefect-dask ({error}): pip install 'dacycle[dask]'") from error
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE
    from prefect.futures import as_completed

    from dacycle.cycler.operations.flows import embedded_server

    made = _class_of(described)
    with embedded_server(home), _started(made, described, workers) as cluster:

        @task(name="piece", persist_result=False, cache_policy=NO_CACHE)
        def piece(call: Callable[[], T]) -> T:
            return call()

        def each(function: Callable[..., T], pieces: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, T]]:
            # by address: what a flow holds goes to the workers, and a cluster object cannot
            runner: Any = DaskTaskRunner(address=cluster.scheduler_address)

            @flow(name=function.__name__.strip("_"), task_runner=runner, persist_result=False)
            def run() -> Iterator[tuple[int, T]]:
                futures = {piece.submit(partial(function, *one)): number for number, one in enumerate(pieces)}
                for future in as_completed(list(futures)):
                    yield futures[future], future.result()

            yield from run()

        yield each


def _class_of(described: Cluster) -> Callable[..., Any]:
    module, _, name = described.cluster.rpartition(".")
    try:
        made: Callable[..., Any] = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        package = module.partition(".")[0].replace("_", "-") or described.cluster
        raise ClusterError(f"cluster: there is no {described.cluster} ({error}): pip install {package}") from error
    return made


@contextmanager
def _started(made: Callable[..., Any], described: Cluster, workers: int | None) -> Iterator[Any]:
    try:
        cluster = made(**described.arguments(workers))
    except TypeError as error:  # an option that the class does not have
        raise ClusterError(f"options of {described.cluster}: {error}") from error
    with cluster:
        cluster.scale(workers or described.workers)  # where the class takes a number of workers otherwise
        yield cluster
