"""The application that serves the operator's page: pages for people, JSON for programs, metrics for Prometheus."""

import hashlib
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import uvicorn
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from dacycle import __version__
from dacycle.common.errors import DacycleError
from dacycle.cycler.archive.exceptions import ArchiveError, NotInArchiveError
from dacycle.cycler.experiment import parse_cycle_time
from dacycle.cycler.operations.metrics import health_of, registry_of
from dacycle.cycler.web import api
from dacycle.cycler.web.pages import Page, Pages
from dacycle.cycler.web.runs import Runs

__all__ = ["create_app", "serve"]

logger = logging.getLogger(__name__)

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

Days = Annotated[int, Query(ge=1, le=400, description="Newest days.")]
Experiment = Annotated[str, Query(description="Its name; without one, the version is that of the list.")]


def serve(archive: Path, host: str, port: int) -> None:
    """Serve the pages of an archive until SIGTERM or SIGINT.

    Raises:
        OSError: the port is taken, or the host is none of this machine.
    """
    family, shown = (socket.AF_INET6, f"[{host}]") if ":" in host else (socket.AF_INET, host)
    with socket.create_server((host, port), family=family) as listening:
        logger.warning("showing %s at http://%s:%d/", archive, shown, listening.getsockname()[1])
        config = uvicorn.Config(
            create_app(archive, host), log_level="warning", access_log=False, timeout_graceful_shutdown=5
        )
        uvicorn.Server(config).run(sockets=[listening])


def create_app(archive: Path, host: str = "127.0.0.1") -> FastAPI:
    """Return the application for an archive, which may not be there yet.

    Args:
        archive: its folder.
        host: where it is served; on a loopback address, requests for another name are refused, so that no page from
            elsewhere can read it through a name that it makes point here.
    """
    runs = Runs(archive)
    pages = Pages(runs)
    # The usual pages of documentation load scripts from elsewhere; /openapi.json has what they would show.
    app = FastAPI(title="dacycle web", version=__version__, docs_url=None, redoc_url=None)
    if _is_loopback(host):
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]", host])
    _add_pages(app, pages, runs)
    _add_json(app, pages, runs)
    _add_answers_to_errors(app, pages)
    registry = registry_of(archive)

    @app.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/health", summary="How many cycles each live run is behind; 503 if one is, or cannot be read")
    def health() -> JSONResponse:
        well, content = health_of(archive)
        return JSONResponse(content, 200 if well else 503)

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    return app


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _add_pages(app: FastAPI, pages: Pages, runs: Runs) -> None:
    script = (files("dacycle.cycler.web") / "web.js").read_text()

    def answer(request: Request, page: Page) -> Response:
        tag = f'W/"{hashlib.sha256((str(request.url) + page.version + __version__).encode()).hexdigest()[:24]}"'
        if page.version and request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        return HTMLResponse(page.html, page.status, headers={"ETag": tag} if page.version else None)

    @app.get("/web.js", include_in_schema=False)
    def web_js() -> Response:
        return Response(script, media_type="text/javascript")

    @app.get("/", include_in_schema=False)
    def overview(request: Request) -> Response:
        return answer(request, pages.overview())

    @app.get("/run/{name}", include_in_schema=False)
    def run(request: Request, name: str, month: str | None = None) -> Response:
        return answer(request, pages.run(name, month))

    @app.get("/run/{name}/cycles/{cycle}", include_in_schema=False)
    def cycle(request: Request, name: str, cycle: str, files: str = "") -> Response:
        return answer(request, pages.cycle(name, _time(cycle), files == "read"))

    @app.get("/run/{name}/stations", include_in_schema=False)
    def stations(request: Request, name: str, search: str = "") -> Response:
        return answer(request, pages.stations(name, search.strip()[:100]))

    @app.get("/run/{name}/station", include_in_schema=False)
    def station(request: Request, name: str, station: str, days: Days = 30) -> Response:
        return answer(request, pages.station(name, station, days))

    @app.get("/run/{name}/report", include_in_schema=False)
    def report(name: str) -> Response:
        path = runs.run(name).branch.folder / "report" / "index.html"
        if not path.is_file():
            raise HTTPException(404, f"{name} has no report; `dacycle report {name}` writes it")
        return HTMLResponse(path.read_bytes())


def _add_json(app: FastAPI, pages: Pages, runs: Runs) -> None:
    @app.get("/api/version", summary="A text that changes with what the page shows, and a sentence on how it stands")
    def version(experiment: Experiment = "", cycle: str = "") -> dict[str, str]:
        if not experiment:
            return {"version": pages.version_of_all(), "text": f"{_count(runs)} experiments"}
        run = runs.run(experiment)
        if cycle:
            return {"version": pages.version_of_cycle(run, _time(cycle)), "text": cycle}
        newest = run.newest
        text = "no cycle yet" if newest is None else f"newest cycle {newest.id}, {newest.status}"
        return {"version": run.version, "text": text}

    @app.get("/api/experiments", summary="All experiments: status, newest cycle against its schedule, open alerts")
    def experiments() -> list[dict[str, Any]]:
        return api.experiments(runs)

    @app.get("/api/experiments/{name}", summary="One experiment: how it stands, its sources, alerts and drift")
    def experiment(name: str) -> dict[str, Any]:
        return api.experiment(runs.run(name))

    @app.get("/api/experiments/{name}/cycles", summary="Status, reason and counts of cycles, the newest last")
    def cycles(name: str, last: Annotated[int, Query(ge=1, le=10000)] = 124) -> list[dict[str, Any]]:
        return api.cycles(runs.run(name), last)

    @app.get("/api/experiments/{name}/cycles/{cycle}", summary="The record of a cycle, and what made it")
    def cycle_(name: str, cycle: str) -> dict[str, Any]:
        return api.cycle(runs.run(name), _time(cycle))

    @app.get("/api/experiments/{name}/stations", summary="Stations of the newest cycles whose name holds a text")
    def stations_(name: str, search: str = "") -> list[dict[str, Any]]:
        return api.stations(runs.run(name), search)

    @app.get("/api/experiments/{name}/station", summary="Every value of a station in the newest days")
    def station_(name: str, station: str, days: Days = 30) -> list[dict[str, Any]]:
        return api.station(runs.run(name), station, days)


def _count(runs: Runs) -> int:
    try:
        return len(runs.names())
    except ArchiveError:
        return 0


def _time(cycle: str) -> pd.Timestamp:
    try:
        return parse_cycle_time(cycle)
    except ValueError as error:
        raise HTTPException(404, str(error)) from None


def _add_answers_to_errors(app: FastAPI, pages: Pages) -> None:
    """Say what is wrong in a page or as JSON, as was asked for; a traceback goes to the log alone."""

    def answer(request: Request, heading: str, text: str, status: int) -> Response:
        if request.url.path.startswith("/api/"):
            return JSONResponse({"error": text}, status)
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse(text, status)
        return HTMLResponse(pages.message(heading, text, status).html, status)

    @app.exception_handler(DacycleError)
    def mendable(request: Request, error: DacycleError) -> Response:
        absent = isinstance(error, NotInArchiveError)
        return answer(request, "Not here" if absent else "This cannot be read", str(error), 404 if absent else 500)

    @app.exception_handler(AnyHTTPException)
    def refused(request: Request, error: AnyHTTPException) -> Response:
        return answer(request, "Not here", str(error.detail), error.status_code)

    @app.exception_handler(RequestValidationError)
    def unclear(request: Request, error: RequestValidationError) -> Response:
        problems = "; ".join(f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors())
        return answer(request, "Not here", problems, 422)

    @app.exception_handler(OSError)
    def unreadable(request: Request, error: OSError) -> Response:
        return answer(request, "This cannot be read", str(error), 500)

    @app.exception_handler(Exception)
    def unforeseen(request: Request, error: Exception) -> Response:
        logger.error("%s", request.url.path, exc_info=error)
        return answer(request, "Something went wrong", "dacycle web made a mistake; its log says which.", 500)
