"""Metrics of the experiments of an archive for Prometheus, read from the archive whenever they are asked for."""

import json
import logging
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import numpy as np
import pandas as pd
from prometheus_client import CollectorRegistry, make_wsgi_app, write_to_textfile
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from dacycle.common.clock import now
from dacycle.common.settings import read_settings
from dacycle.cycler.archive.branches import Archive, Branch
from dacycle.cycler.archive.exceptions import ArchiveError
from dacycle.cycler.archive.progress import read_holding
from dacycle.cycler.experiment import STEP
from dacycle.cycler.operations.alerts import alerts_of
from dacycle.cycler.verification.attention import schedule
from dacycle.cycler.verification.cycles import fit_table
from dacycle.cycler.verification.drift import read_scores
from dacycle.forecast_adapter.channels import HEADLINE

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

__all__ = ["METRICS", "served", "write_metrics"]

logger = logging.getLogger(__name__)

LEADS = (24, 72, 120)
"""Leads (hours) of the drift."""

METRICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "cycle_timestamp_seconds": ("Analysis time of the newest cycle, seconds since 1970.", ()),
    "cycles_behind": ("Live cycles whose cutoff has passed and that are not in the archive; 0 for replays.", ()),
    "cycles": ("Committed cycles by status.", ("status",)),
    "stage_seconds": ("Wall time of a stage of the newest cycle.", ("stage",)),
    "observations": ("Values of the newest cycle by source and use.", ("source", "use")),
    "source_reports": ("Reports that a source had for the newest cycle.", ("source",)),
    "source_latency_seconds": ("Median from a value's time to its receipt in the newest cycle.", ("source",)),
    "departure_mean": ("Mean O-B of values used in the newest cycle, in stated errors.", ("source", "variable")),
    "departure_rms": ("Root mean square O-B of values used in the newest cycle, in stated errors.",
                      ("source", "variable")),
    "forecast_rmse": ("Global error of the newest verified forecast against the reference, SI.", ("channel", "lead")),
    "alerts_open": ("Open alerts by severity.", ("severity",)),
}  # fmt: skip
"""Metrics of an experiment: name without `dacycle_` -> meaning, labels beside `experiment`."""


class _OfArchive(Collector):
    """Read the metrics of some experiments, or of all."""

    def __init__(self, folder: Path, names: list[str] | None = None) -> None:
        self._folder, self._names = folder, names

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the metrics; an experiment that cannot be read is left out, and counted."""
        families = {
            name: GaugeMetricFamily(f"dacycle_{name}", text, labels=["experiment", *labels])
            for name, (text, labels) in METRICS.items()
        }
        unreadable = 0
        for name in self._branches():
            try:
                for metric, labels, value in _of_branch(Archive(self._folder).branch(name)):
                    families[metric].add_metric([name, *labels], value)
            except ArchiveError as error:
                logger.warning("metrics of %s: %s", name, error)
                unreadable += 1
        yield from families.values()
        yield GaugeMetricFamily("dacycle_unreadable_experiments", "Experiments that cannot be read.", unreadable)
        if self._folder.is_dir():
            free = shutil.disk_usage(self._folder).free
            yield GaugeMetricFamily("dacycle_disk_free_bytes", "Free bytes on the disk of the archive.", free)

    def _branches(self) -> list[str]:
        try:
            known = Archive(self._folder).branches()
        except ArchiveError:  # nothing is there yet
            return []
        return known if self._names is None else [name for name in self._names if name in known]


Sample = tuple[str, tuple[str, ...], float]


def _of_branch(branch: Branch) -> Iterator[Sample]:
    """Yield metric, labels and value of an experiment."""
    holding = read_holding(branch.archive.states.folder, branch.name)
    for status in ("ok", "degraded", "fallback"):
        yield "cycles", (status,), holding.statuses.get(status, 0)
    alerts = [alert for alert in alerts_of(branch) if alert.ended is None]
    for severity in ("critical", "warning"):
        yield "alerts_open", (severity,), sum(alert.severity == severity for alert in alerts)
    if branch.next_time is None:
        return
    newest = branch.next_time - STEP
    yield "cycle_timestamp_seconds", (), newest.timestamp()
    yield "cycles_behind", (), _behind(branch)
    yield from _of_cycle(branch)
    yield from _of_forecasts(branch)


def _behind(branch: Branch) -> int:
    return 0 if branch.next_time is None else schedule(branch.experiment, branch.next_time - STEP, now()).behind


def _of_cycle(branch: Branch) -> Iterator[Sample]:
    """Yield what the newest cycle brought."""
    (record,) = branch.recent_records(1)
    if record.status == "cold_start":
        return
    notes = next(branch.archive.states.commits(branch.name)).metadata
    for stage, seconds in dict(notes.get("seconds", {})).items():
        yield "stage_seconds", (str(stage),), float(seconds)
    for name, source in record.sources.items():
        yield "source_reports", (name,), source.decoded
        if source.latency is not None:
            yield "source_latency_seconds", (name,), 60 * source.latency
    for _, departures in branch.each_departures([record.time] if record.departures is not None else []):
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
    scores = read_scores(branch, newest=2 * max(LEADS) // 12)
    own = scores[(scores["kind"] == "analysis") & (scores["region"] == "globe") & scores["lead"].isin(LEADS)]
    last = own[own["channel"].isin(HEADLINE)].sort_values("start").groupby(["channel", "lead"]).last()
    for (channel, lead), row in last.iterrows():
        yield "forecast_rmse", (channel, str(lead)), float(np.sqrt(row["mse"]))


# --- giving them ------------------------------------------------------------------------------------------------------


def write_metrics(archive: Path, name: str) -> None:
    """Write `dacycle-NAME.prom` to the folder that `DACYCLE_METRICS` names, if it does, for node_exporter's collector.

    A file that cannot be written is logged: metrics never stop a run.
    """
    folder = read_settings().metrics
    if folder is None:
        return
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_OfArchive(archive, [name]))
    try:
        write_to_textfile(str(folder / f"dacycle-{name}.prom"), registry)
    except OSError as error:
        logger.warning("metrics of %s cannot be written to %s: %s", name, folder, error)


@contextmanager
def served(archive: Path, port: int, host: str = "127.0.0.1") -> Iterator[int]:
    """Serve `/metrics` and `/health` inside the block; yields the port, which is chosen where 0 is given.

    `/health` answers 200 with the experiments and the number of cycles each is behind, or 503 if one is behind or
    cannot be read.

    Raises:
        OSError: the port is taken.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_OfArchive(archive))
    metrics = make_wsgi_app(registry)

    def answer(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/health":
            well, content = _health(archive)
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


def _health(archive: Path) -> tuple[bool, dict[str, object]]:
    behind: dict[str, object] = {}
    try:
        opened = Archive(archive)
        for name in opened.branches():
            behind[name] = _behind(opened.branch(name))
    except ArchiveError as error:
        return False, {"error": str(error)}
    return not any(behind.values()), {"cycles_behind": behind}
