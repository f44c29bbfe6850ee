"""Fetching of whole years of an archive: what it would cost, and the transfers, several at a time."""

import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from dacycle.obs_ingest.archives.catalogue import ARCHIVES, Archive, Index, Wanted
from dacycle.obs_ingest.archives.choice import Choice
from dacycle.obs_ingest.archives.transfer import AbsentError, Connection, DamagedError, Stopped
from dacycle.obs_ingest.table import ObservationError

__all__ = ["LINE", "Plan", "Summary", "fetch", "make_plan"]

LINE = 5e6
"""Bytes a second of the connection that times are stated for."""

_SAMPLE = 20
"""Files whose sizes are asked for where the index has none."""


@dataclass(frozen=True)
class Plan:
    """What there is to fetch.

    Attributes:
        archive: where from.
        folder: where to.
        wanted: all files of the years.
        due: those that are not here, or not in the version of the index.
        lacking: sentences about what the archive has not.
        bytes: of the files that are due, about; None where the server does not say.
        free: bytes free on the disk of the folder.
    """

    archive: Archive
    folder: Path
    wanted: list[Wanted]
    due: list[Wanted]
    lacking: list[str]
    bytes: int | None
    free: int

    def seconds(self, rate: float) -> float | None:
        """Return how long it takes with so many requests a second on a line of `LINE`."""
        return None if self.bytes is None else max(self.bytes / LINE, len(self.due) / rate)


@dataclass
class Summary:
    """What was fetched.

    Attributes:
        fetched: files that are new or have changed.
        bytes: that came.
        unchanged: files that were here.
        lacking: sentences about what the archive has not.
        damaged: sentences about files that are damaged in the archive, and are left out.
        failures: sentences about what could not be fetched.
    """

    fetched: int = 0
    bytes: int = 0
    unchanged: int = 0
    lacking: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def make_plan(source: str, years: Sequence[int], choice: Choice | None, folder: Path, connection: Connection) -> Plan:
    """Find the files of years in the archive of a source; only its indexes are fetched.

    Raises:
        ObservationError: no archive is known, an index cannot be fetched, or its form has changed.
    """
    if source not in ARCHIVES:
        raise ObservationError(f"no archive is known for source {source}; there is one for {', '.join(ARCHIVES)}")
    archive = ARCHIVES[source]
    if choice is None:
        choice = Choice() if archive.by_station else Choice(everything=True)
    elif not archive.by_station:
        raise ObservationError(f"files of {source} hold the whole globe: there are no stations to choose")
    found = archive.find(Index(connection, folder), years, choice)
    if not found.wanted or (found.lacking and not archive.by_station):  # may have come since the lists were fetched
        found = archive.find(Index(connection, folder, again=True), years, choice)
    due = [file for file in found.wanted if not connection.is_current(file.url, folder / file.name, file.listed)]
    return Plan(
        archive, folder, found.wanted, due, found.lacking, _bytes(due, connection), shutil.disk_usage(folder).free
    )


def _bytes(due: Sequence[Wanted], connection: Connection) -> int | None:
    """Return the sum of sizes; where the index has none, from a sample of files, of which the server is asked."""
    if all(file.size is not None for file in due):
        return sum(file.size or 0 for file in due)
    sample = due[:: max(len(due) // _SAMPLE, 1)][:_SAMPLE]
    sizes = [size for file in sample if (size := connection.size(file.url)) is not None]
    return round(sum(sizes) / len(sizes) * len(due)) if sizes else None


def fetch(
    plan: Plan, connection: Connection, connections: int, report: Callable[[str], None] = lambda name: None
) -> Summary:
    """Fetch the files that are due; the same call continues after an interruption.

    Args:
        plan: see `make_plan`.
        connection: to the server.
        connections: the most transfers at a time.
        report: called with the name of each file when it is done, for a progress bar.

    Raises:
        ObservationError: the disk has not enough room.
    """
    if plan.bytes is not None and plan.bytes > plan.free:
        raise ObservationError(
            f"{plan.folder}: {plan.bytes / 1e9:.1f} GB are to be fetched, and {plan.free / 1e9:.1f} GB are free; name "
            "a folder on another disk, or fewer stations or years"
        )
    summary = Summary(unchanged=len(plan.wanted) - len(plan.due), lacking=list(plan.lacking))
    one_at_a_time = threading.Lock()

    def run(file: Wanted) -> None:
        try:
            outcome = connection.obtain(file.url, plan.folder / file.name, plan.archive.check, file.listed)
        except Stopped:
            return
        except AbsentError as error:
            summary.lacking.append(str(error))
        except DamagedError as error:
            summary.damaged.append(str(error))
        except ObservationError as error:
            summary.failures.append(str(error))
        else:
            with one_at_a_time:
                summary.fetched += outcome.fetched
                summary.unchanged += not outcome.fetched
                summary.bytes += outcome.bytes
        report(file.name)

    with ThreadPoolExecutor(connections) as pool:
        futures = [pool.submit(run, file) for file in plan.due]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            connection.stop()
            pool.shutdown(cancel_futures=True)
            raise
    return summary
