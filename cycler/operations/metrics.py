"""Metrics of the experiments of an archive for Prometheus, read from the archive whenever they are asked for."""

import json
import logging
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import numpy as np
import pandas as pd
from prometheus_client import CollectorRegistry, make_wsgi_app, write_to_textfile
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from dacycle.common.clock import now, read_clock
from dacycle.common.errors import DacycleError
from dacycle.common.files import stamp
from dacycle.common.settings import read_settings
from dacycle.cycler.archive.branches import Archive, Branch
from dacycle.cycler.archive.commits import newest_commit
from dacycle.cycler.archive.exceptions import ArchiveError
from dacycle.cycler.archive.progress import read_holding
from dacycle.cycler.experiment import STEP
from dacycle.cycler.operations.alerts import alerts_of
from dacycle.cycler.verification.attention import schedule
from dacycle.cycler.verification.cycles import fit_table
from dacycle.cycler.verification.drift import newest_scores, unmade
from dacycle.forecast_adapter.channels import HEADLINE

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

__all__ = ["LEADS", "METRICS", "health_of", "registry_of", "served", "write_metrics"]

logger = logging.getLogger(__name__)

LEADS = (24, 72, 120)
"""Leads (hours) of the drift."""

METRICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "cycle_timestamp_seconds": ("Analysis time of the newest cycle, seconds since 1970.", ()),
    "next_cycle_due_timestamp_seconds": ("When the next cycle of a live run is due, seconds since 1970.", ()),
    "cycle_delay_seconds": ("From when the newest cycle of a live run was due to its commit.", ()),
    "cycles_behind": ("Live cycles whose cutoff has passed and that are not in the archive; 0 for replays.", ()),
    "queue": ("What could run now: `cycles` that are due, or until a replay's end; `forecasts` that wait.", ("kind",)),
    "cycles": ("Committed cycles by status.", ("status",)),
    "stage_seconds": ("Wall time of a stage of the newest cycle.", ("stage",)),
    "observations": ("Values of the newest cycle by source and use.", ("source", "use")),
    "source_reports": ("Reports that a source had for the newest cycle.", ("source",)),
    "source_latency_seconds": ("Median from a value's time to its receipt in the newest cycle.", ("source",)),
    "departure_mean": ("Mean O-B of values used in the newest cycle, in stated errors.", ("source", "variable")),
    "departure_rms": ("Root mean square O-B of values used in the newest cycle, in stated errors.",
                      ("source", "variable")),
    "forecast_rmse": ("Global error of the newest forecast that is verified at a lead, SI.", ("channel", "lead")),
    "background_spread": ("Spread of the members in the newest background, SI.", ("channel",)),
    "alerts_open": ("Open alerts by severity.", ("severity",)),
    "alert_began_timestamp_seconds": ("When an alert that is open began, seconds since 1970.", ("key", "severity")),
}  # fmt: skip
"""Metrics of an experiment: name without `dacycle_` -> meaning, labels beside `experiment`."""

Sample = tuple[str, tuple[str, ...], float]


class _OfArchive(Collector):
    """Read the metrics of some experiments, or of all; what a commit brought is kept until the next one."""

    def __init__(self, folder: Path, names: list[str] | None = None) -> None:
        self._folder, self._names = folder, names
        self._archive: Archive | None = None
        self._kept: dict[str, tuple[tuple[object, ...], list[Sample]]] = {}
        self._lock = threading.Lock()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the metrics; an experiment that cannot be read is left out, and counted."""
        families = {
            name: GaugeMetricFamily(f"dacycle_{name}", text, labels=["experiment", *labels])
            for name, (text, labels) in METRICS.items()
        }
        unreadable = 0
        with self._lock:
            for name in self._branches():
                try:
                    for metric, labels, value in self._of_branch(name):
                        families[metric].add_metric([name, *labels], value)
                except (DacycleError, OSError) as error:
                    logger.warning("metrics of %s: %s", name, error)
                    unreadable += 1
        yield from families.values()
        yield GaugeMetricFamily("dacycle_unreadable_experiments", "Experiments that cannot be read.", unreadable)
        if self._folder.is_dir():
            disk = shutil.disk_usage(self._folder)
            yield GaugeMetricFamily("dacycle_disk_free_bytes", "Free bytes on the disk of the archive.", disk.free)
            yield GaugeMetricFamily("dacycle_disk_size_bytes", "Size of the disk of the archive.", disk.total)

    def _branches(self) -> list[str]:
        try:
            self._archive = self._archive or Archive(self._folder)
            known = self._archive.branches()
        except ArchiveError:  # nothing is there yet
            return []
        return known if self._names is None else [name for name in self._names if name in known]

    def _of_branch(self, name: str) -> list[Sample]:
        assert self._archive is not None, "its branches are known"
        branch = self._archive.branch(name)
        store, folder = self._archive.forecasts.folder, branch.folder
        forecasts = newest_commit(store, name) if (store / f"refs/branch.{name}").is_dir() else ""
        files = [stamp(folder / part) for part in ("experiment.yaml", "alerts.json", "drift")]
        key = (newest_commit(self._archive.states.folder, name), forecasts, *files)
        if self._kept.get(name, ((), []))[0] != key:
            self._kept[name] = (key, list(_of_commit(branch)))
        return [*self._kept[name][1], *_of_clock(branch)]


def _of_clock(branch: Branch) -> Iterator[Sample]:
    """Yield what changes with time alone."""
    if branch.next_time is None:
        return
    last, time = branch.next_time - STEP, now()
    yield "cycles_behind", (), schedule(branch.experiment, last, time).behind
    end = branch.experiment.end
    could = (time - branch.experiment.wait if end is None else end) - last
    yield "queue", ("cycles",), max(0, could // STEP)


def _of_commit(branch: Branch) -> Iterator[Sample]:
    """Yield what the commits of a run and its alerts say."""
    holding = read_holding(branch.archive.states.folder, branch.name)
    for status in ("ok", "degraded", "fallback"):
        yield "cycles", (status,), holding.statuses.get(status, 0)
    alerts = [alert for alert in alerts_of(branch) if alert.ended is None]
    for severity in ("critical", "warning"):
        yield "alerts_open", (severity,), sum(alert.severity == severity for alert in alerts)
    for alert in alerts:
        yield "alert_began_timestamp_seconds", (alert.key, alert.severity), pd.Timestamp(alert.began).timestamp()
    if branch.next_time is None:
        return
    yield "cycle_timestamp_seconds", (), (branch.next_time - STEP).timestamp()
    if branch.experiment.end is None:
        due = read_clock().of_machine(branch.next_time + branch.experiment.wait)
        yield "next_cycle_due_timestamp_seconds", (), due.timestamp()
    yield "queue", ("forecasts",), len(unmade(branch)) if _makes_forecasts(branch) else 0
    yield from _of_cycle(branch)
    yield from _of_forecasts(branch)


def _makes_forecasts(branch: Branch) -> bool:
    """Whether forecasts of a run are waited for: a live one, or a replay of which some were made, unlike a stream."""
    return branch.experiment.end is None or branch.name in branch.archive.forecasts.branches()


def _behind(branch: Branch) -> int:
    return 0 if branch.next_time is None else schedule(branch.experiment, branch.next_time - STEP, now()).behind


def _of_cycle(branch: Branch) -> Iterator[Sample]:
    """Yield what the newest cycle brought."""
    (record,) = branch.recent_records(1)
    if record.status == "cold_start":
        return
    notes = next(branch.archive.states.notes(branch.name), {})
    for stage, seconds in dict(notes.get("seconds", {})).items():
        yield "stage_seconds", (str(stage),), float(seconds)
    if branch.experiment.end is None and "written" in notes:
        written, due = pd.Timestamp(notes["written"]), read_clock().of_machine(record.time + branch.experiment.wait)
        yield "cycle_delay_seconds", (), (written.tz_localize(None) - due).total_seconds()
    for channel in HEADLINE:
        if record.background_spread and channel in record.background_spread:
            yield "background_spread", (channel,), record.background_spread[channel]
    for name, source in record.sources.items():
        yield "source_reports", (name,), source.decoded
        if source.latency is not None:
            yield "source_latency_seconds", (name,), 60 * source.latency
    for _, departures in branch.departures_between(record.time, record.time):
        fits = fit_table(record.time, departures)
        for (source_name, use), count in fits.groupby(["source", "use"])["count"].sum().items():
            yield "observations", (source_name, use), count
        yield from _of_departures(fits[fits["use"] == "assimilated"])


def _of_departures(used: pd.DataFrame) -> Iterator[Sample]:
    columns = ["compared", "error_squared", "o_b", "o_b_in_errors_squared"]
    for key, sums in used.groupby(["source", "variable"])[columns].sum().iterrows():
        if sums["compared"]:
            yield "departure_mean", key, float(sums["o_b"] / np.sqrt(sums["error_squared"] * sums["compared"]))
            yield "departure_rms", key, float(np.sqrt(sums["o_b_in_errors_squared"] / sums["compared"]))


def _of_forecasts(branch: Branch) -> Iterator[Sample]:
    """Yield the error of the newest forecast that is verified at each lead."""
    scores = newest_scores(branch, LEADS)
    own = scores[(scores["kind"] == "analysis") & (scores["region"] == "globe") & scores["channel"].isin(HEADLINE)]
    for channel, lead, mse in own[["channel", "lead", "mse"]].itertuples(index=False):
        yield "forecast_rmse", (channel, str(lead)), float(np.sqrt(mse))


# --- giving them ------------------------------------------------------------------------------------------------------


def write_metrics(archive: Path, name: str) -> None:
    """Write `dacycle-NAME.prom` to the folder that `DACYCLE_METRICS` names, if it does, for node_exporter's collector.

    A file that cannot be written is logged: metrics never stop a run.
    """
    folder = read_settings().metrics
    if folder is None:
        return
    try:
        write_to_textfile(str(folder / f"dacycle-{name}.prom"), _registry_of_run(archive, name))
    except OSError as error:
        logger.warning("metrics of %s cannot be written to %s: %s", name, folder, error)


@lru_cache(maxsize=8)
def _registry_of_run(archive: Path, name: str) -> CollectorRegistry:
    """Return the metrics of one run, which a process keeps: what was read of a commit is not read for the next one."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_OfArchive(archive, [name]))
    return registry


@contextmanager
def served(archive: Path, port: int, host: str = "127.0.0.1") -> Iterator[int]:
    """Serve `/metrics` and `/health` inside the block; yields the port, which is chosen where 0 is given.

    `/health` answers 200 with the experiments and the number of cycles each is behind, or 503 if one is behind or
    cannot be read.

    Raises:
        OSError: the port is taken.
    """
    metrics = make_wsgi_app(registry_of(archive))

    def answer(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/health":
            well, content = health_of(archive)
            start_response("200 OK" if well else "503 Service Unavailable", [("Content-Type", "application/json")])
            return [json.dumps(content).encode()]
        return metrics(environ, start_response)

    with make_server(host, port, answer, WSGIServer, _Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: Prometheus asks every few seconds."""


def registry_of(archive: Path) -> CollectorRegistry:
    """Return the metrics of all experiments of an archive, read whenever they are collected."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_OfArchive(archive))
    return registry


def health_of(archive: Path) -> tuple[bool, dict[str, object]]:
    """Return whether all experiments can be read and none is behind its schedule, and the cycles by which each is.

    `unreadable` says of those that cannot be read why not.
    """
    try:
        opened = Archive(archive)
        names = opened.branches()
    except (DacycleError, OSError) as error:
        return False, {"error": str(error)}
    behind: dict[str, int] = {}
    unreadable: dict[str, str] = {}
    for name in names:
        try:
            behind[name] = _behind(opened.branch(name))
        except (DacycleError, OSError) as error:
            unreadable[name] = str(error)
    content: dict[str, object] = {"cycles_behind": behind}
    return not unreadable and not any(behind.values()), content | ({"unreadable": unreadable} if unreadable else {})
