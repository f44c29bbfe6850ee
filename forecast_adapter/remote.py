"""Fetch files from the internet and keep them in a folder: from web servers by HTTP, from buckets with fsspec.

A file appears under its name only when it is whole. Servers get few requests: one file at a time, only if it differs
from the local one, and no file again within `FRESH` seconds of one process. A transfer has `LIMIT` seconds in all, with
its tries and pauses, and less inside `within`: a server that sends a byte now and then does not hold up a cycle.
"""

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import fsspec

from dacycle.common.errors import DacycleError
from dacycle.common.files import whole, write_whole
from dacycle.common.foreign import reading
from dacycle.common.limits import in_time
from dacycle.common.settings import read_settings

__all__ = ["FetchError", "is_url", "local_copies", "within"]

LIMIT = 1800.0  # seconds of a transfer as a whole
TIMEOUT = 20.0  # seconds without an answer
OBJECT = 600.0  # seconds of an object of a remote store, or of a question about one
TRIES = 4
PAUSE = 2.0  # seconds before the second try; twice as long before each further one
LONGEST_PAUSE = 60.0  # seconds; a server that asks for a longer one is not asked again
FRESH = 600.0  # seconds
_BLOCK = 1 << 20
_PASSING = (408, 429, 500, 502, 503, 504)
_AGENT = "dacycle (cycling data assimilation)"

_until: ContextVar[float] = ContextVar("until", default=float("inf"))
_asked: dict[str, tuple[float, list[Path]]] = {}


class FetchError(DacycleError, ValueError):
    """A remote file cannot be fetched; names the URL."""


class _TryAgain(Exception):  # noqa: N818 - not an error yet
    """A failure that may be temporary; `wait` is the time (s) that the server asks for."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


class _Unchanged(Exception):  # noqa: N818 - not an error
    """The fetched content is that of the local file."""


def is_url(location: str) -> bool:
    """Return whether a location is a URL."""
    return "://" in location


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Give the transfers in the block so much time together; those that have not ended by then fail."""
    token = _until.set(min(_until.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _until.reset(token)


def local_copies(url: str, folder: Path | None = None, patterns: Sequence[str] = ()) -> list[Path]:
    """Return local copies of the files that a URL names, and fetch those that are new or have changed.

    Args:
        url: a file on a web server (`https://`), or a file, a folder or a pattern in a bucket (`s3://`, `gs://` and
            every other scheme that fsspec has a package for; credentials are fsspec's own settings).
        folder: the folder to keep them in; None: the cache (`DACYCLE_CACHE`), below their server's name and path.
        patterns: patterns of the files of a folder.

    Raises:
        FetchError: a file cannot be fetched, or not in time; names the URL.
    """
    checked, paths = _asked.get(key := f"{url} {folder}", (-FRESH, []))
    if time.monotonic() - checked >= FRESH or not all(path.exists() for path in paths):
        web = url.startswith(("http://", "https://"))
        deadline = min(time.monotonic() + LIMIT, _until.get())
        if web:
            paths = _in_time(url, deadline, lambda: [_from_web(url, folder, deadline)])
        else:
            paths = _in_time(url, deadline, lambda: _from_bucket(url, folder, patterns, deadline))
        _asked[key] = time.monotonic(), paths
    return paths


def _in_time(url: str, deadline: float, fetch: Callable[[], list[Path]]) -> list[Path]:

    def read() -> list[Path]:
        with reading(url, FetchError):
            return fetch()

    try:
        return in_time(deadline - time.monotonic(), read)
    except TimeoutError as error:
        raise FetchError(f"{url}: cannot be fetched: {error}") from None


def _target(url: str, folder: Path | None) -> Path:
    """Return the path of the local copy of a URL."""
    parts = urllib.parse.urlsplit(url)
    steps = [step for step in parts.path.split("/") if step]
    if not steps or ".." in steps or url.endswith("/"):
        raise FetchError(f"{url}: does not name a file")
    if folder is not None:
        return folder / steps[-1]
    return read_settings().cache.joinpath(parts.netloc or parts.scheme, *steps)


def _from_web(url: str, folder: Path | None, deadline: float) -> Path:
    target = _target(url, folder)
    headers = {"User-Agent": _AGENT}
    origin = _origin(target)
    if origin.get("url") == url:
        conditions = {"If-None-Match": origin.get("etag"), "If-Modified-Since": origin.get("modified")}
        headers |= {name: value for name, value in conditions.items() if value}
    for attempt in range(TRIES):
        try:
            return _get(urllib.request.Request(url, headers=headers), target, deadline)
        except _TryAgain as failure:
            pause = max(PAUSE * 2**attempt, failure.wait)
            if attempt == TRIES - 1 or pause > LONGEST_PAUSE or time.monotonic() + pause > deadline:
                asks = f"; the server asks to wait {failure.wait:.0f} s" if failure.wait > LONGEST_PAUSE else ""
                raise FetchError(f"{url}: cannot be fetched: {failure}, {attempt + 1} times{asks}") from None
            time.sleep(pause)
    raise AssertionError


def _get(request: urllib.request.Request, target: Path, deadline: float) -> Path:
    url = request.full_url
    try:
        with urllib.request.urlopen(request, timeout=min(TIMEOUT, max(deadline - time.monotonic(), 0.001))) as answer:
            if answer.headers.get_content_type() == "text/html":
                raise FetchError(f"{url}: the server answers with a page, not a file")
            length = answer.headers.get("Content-Length")
            _keep(target, answer.read1, None if length is None else int(length), deadline)
            marks = {"etag": answer.headers.get("ETag"), "modified": answer.headers.get("Last-Modified")}
    except urllib.error.HTTPError as error:
        if error.code == 304:
            return target
        if error.code in _PASSING:
            wait = error.headers.get("Retry-After", "")
            raise _TryAgain(f"{error.code} {error.reason}", float(wait) if wait.isdigit() else 0.0) from None
        raise FetchError(f"{url}: cannot be fetched: {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise _TryAgain(str(error) or type(error).__name__) from None
    _note_origin(target, {"url": url, **marks})
    return target


def _from_bucket(url: str, folder: Path | None, patterns: Sequence[str], deadline: float) -> list[Path]:
    try:
        system, path = fsspec.core.url_to_fs(url)
        if system.isdir(path):
            names = {name for pattern in patterns for name in system.glob(f"{path}/{pattern}")}
        else:
            names = set(system.glob(path))
        return [_from_system(system, system.unstrip_protocol(name), name, folder, deadline) for name in sorted(names)]
    except (ImportError, ValueError) as error:
        raise FetchError(f"{url}: cannot be read: {error}") from None
    except (OSError, _TryAgain) as error:
        raise FetchError(f"{url}: cannot be fetched: {error}") from None


def _from_system(system: Any, url: str, name: str, folder: Path | None, deadline: float) -> Path:
    target, key = _target(url, folder), system.ukey(name)
    if _origin(target) != {"url": url, "key": key}:
        with system.open(name, "rb") as file:
            _keep(target, file.read, system.size(name), deadline)
        _note_origin(target, {"url": url, "key": key})
    return target


def _keep(target: Path, read: Callable[[int], bytes], length: int | None, deadline: float) -> None:
    """Write the blocks that `read` returns to the target; a file that has this content stays as it is.

    Raises:
        TimeoutError: the deadline is over.
    """
    with suppress(_Unchanged), whole(target) as temporary:
        with temporary.open("wb") as file:
            while block := read(_BLOCK):
                file.write(block)
                if time.monotonic() > deadline:
                    raise TimeoutError("not whole when its time was over")
            size = file.tell()
        if length is not None and size != length:
            raise _TryAgain(f"{size} of {length} bytes came")
        if target.exists() and _same(temporary, target):
            raise _Unchanged


def _same(one: Path, other: Path) -> bool:
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as a, other.open("rb") as b:
        while block := a.read(_BLOCK):
            if block != b.read(_BLOCK):
                return False
    return True


def _origin_file(target: Path) -> Path:
    return target.with_name(f".{target.name}.origin")


def _origin(target: Path) -> dict[str, Any]:
    """Return the URL of a file and its version there; empty if there is no such file."""
    try:
        return json.loads(_origin_file(target).read_text()) if target.exists() else {}
    except (OSError, ValueError):
        return {}


def _note_origin(target: Path, origin: dict[str, Any]) -> None:
    write_whole(_origin_file(target), json.dumps(origin).encode())
