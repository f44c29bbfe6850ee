"""Make the pages, each once for all viewers until what it shows has changed."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import pandas as pd

from dacycle.common.errors import DacycleError
from dacycle.cycler.report import style
from dacycle.cycler.report.rendering import environment
from dacycle.cycler.verification.cycles import fingerprint
from dacycle.cycler.web.cache import Cache
from dacycle.cycler.web.cycle_page import cycle_content
from dacycle.cycler.web.overview import overview
from dacycle.cycler.web.parts import attempt, is_troubled
from dacycle.cycler.web.run_page import run_content
from dacycle.cycler.web.runs import Run, Runs
from dacycle.cycler.web.stations import CYCLES, station_content, stations_content

__all__ = ["Page", "Pages"]

_PACKAGES = ("dacycle.cycler.web", "dacycle.cycler.report")


class Page:
    """A page: its HTML, and the version of what it shows; none where a part could not be read, which may be mended."""

    def __init__(self, html: str, version: str, status: int = 200) -> None:
        self.html, self.version, self.status = html, version, status


class Pages:
    """The pages of an archive.

    Args:
        runs: the experiments that they show.
    """

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._kept = Cache(64)
        self._environment = environment(_PACKAGES)
        self._colours = {name: style.slug(name) for name in style.STATUSES}

    def overview(self) -> Page:
        """Return the page of all experiments."""
        folder, version = str(self._runs.folder), self.version_of_all()

        def content() -> dict[str, Any]:
            return {"folder": folder, "rows": [], **attempt(lambda: {"rows": overview(self._runs)})}

        return self._page("overview.html", version, (), content, [("Experiments", "")], "/api/version")

    def version_of_all(self) -> str:
        """Return the version of the page of all experiments."""
        try:
            return " ".join(f"{name}:{self._version_of(name)}" for name in self._runs.names()) or "none"
        except (DacycleError, OSError) as error:
            return str(error)

    def _version_of(self, name: str) -> str:
        try:
            return self._runs.run(name).version
        except (DacycleError, OSError) as error:
            return str(error)

    def run(self, name: str, month: str | None) -> Page:
        """Return the page of an experiment. Errors as `Runs.run`, and where its newest commit is damaged."""
        run = self._runs.run(name)
        return self._page(
            "run.html",
            run.version,
            (name, month),
            lambda: run_content(run, month),
            [*_ROOT, (name, "")],
            f"/api/version?experiment={name}",
        )

    def cycle(self, name: str, time: pd.Timestamp, read_files: bool) -> Page:
        """Return the page of a cycle. Errors as `run`, and where there is no such cycle."""
        run = self._runs.run(name)
        return self._page(
            "cycle.html",
            self.version_of_cycle(run, time),
            (name, time, read_files),
            lambda: cycle_content(run, time, read_files) | {"nan": float("nan")},
            [*_ROOT, (name, f"/run/{name}"), (f"{time:%Y%m%dT%H}", "")],
            f"/api/version?experiment={name}&cycle={time:%Y%m%dT%H}",
            keep=not read_files,
        )

    def version_of_cycle(self, run: Run, time: pd.Timestamp) -> str:
        """Return the version of the page of a cycle, which changes once another one follows."""
        record = run.record(time)
        return f"{fingerprint([record])[:16]} {record is run.records[-1]}"

    def stations(self, name: str, search: str) -> Page:
        """Return the page of the stations that a text finds. Errors as `run`."""
        run = self._runs.run(name)

        def content() -> dict[str, Any]:
            empty = {"experiment": run.experiment, "rows": [], "found": 0, "all": 0}
            return {"search": search, "cycles": CYCLES, **empty, **attempt(lambda: stations_content(run, search))}

        path = [*_ROOT, (name, f"/run/{name}"), ("Stations", "")]
        return self._page("stations.html", run.version, (name, search), content, path)

    def station(self, name: str, station: str, days: int) -> Page:
        """Return the page of a station. Errors as `run`."""
        run = self._runs.run(name)

        def content() -> dict[str, Any]:
            empty = {"experiment": run.experiment, "station": station, "plain": ""}
            return {**empty, **attempt(lambda: station_content(run, station, days))}

        path = [*_ROOT, (name, f"/run/{name}"), ("Stations", f"/run/{name}/stations"), (station, "")]
        watch = f"/api/version?experiment={name}"
        return self._page("station.html", run.version, (name, station, days), content, path, watch)

    def message(self, heading: str, text: str, status: int) -> Page:
        """Return a page that says what is wrong."""
        content = {"heading": heading, "text": text, "path": [*_ROOT, (heading, "")], "watch": "", "version": ""}
        return Page(self._environment.get_template("message.html").render(**content), "", status)

    def _page(
        self,
        template: str,
        version: str,
        about: Hashable,
        content: Callable[[], Mapping[str, Any]],
        path: list[tuple[str, str]],
        watch: str = "",
        keep: bool = True,
    ) -> Page:
        """Return a page as it is kept, or make it: `path` leads to it, `watch` answers with its version."""

        def make() -> Page:
            frame = {"path": path, "watch": watch, "version": version, "statuses_css": self._colours}
            shown = content()
            html = self._environment.get_template(template).render(**frame, **shown)
            return Page(html, "" if is_troubled(shown) else version)

        if not keep:
            return make()
        page: Page = self._kept.get((template, about, version), make, lasts=lambda page: bool(page.version))
        return page


_ROOT = [("Experiments", "/")]
