"""Transfers from web servers that continue where they were cut off, so that no byte is asked for twice.

A file FILE in transfer is `.FILE.part`, beside notes of its version at the server (`.FILE.part.origin`). Every byte is
on disk as it comes. After an interruption the rest is asked for, on condition that the version is the same (Range and
If-Range, RFC 9110); a server that cannot do so sends the whole again. The file gets its name when it is whole and its
content has been checked; its notes then become `.FILE.origin`, with which it is asked for changes only.
"""

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import httpx

from dacycle.common.files import flush, write_whole
from dacycle.obs_ingest.table import ObservationError

__all__ = ["AbsentError", "Connection", "DamagedError", "Outcome", "Stopped"]

DAY = 86400.0  # s; within a day a file is not asked for changes again
TIMEOUT = 30.0  # s without an answer
TRIES = 5
PAUSE = 2.0  # s before the second try; twice as long before each further one
LONGEST_PAUSE = 120.0  # s; a server that asks for a longer one is left alone
_GAIN = 1 << 16  # bytes; a try that brought as many does not count as failed
_SLOW = 60.0  # s in which a try must bring as many
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_AGENT = "dacycle (cycling data assimilation)"

Check = Callable[[Path], None]
"""Raises ObservationError where the content of a file cannot be what it should be."""


class AbsentError(ObservationError):
    """The server has no such file."""


class DamagedError(ObservationError):
    """The content of a file has come whole, twice, and cannot be what it should be."""


class Stopped(Exception):  # noqa: N818 - not an error
    """The user has interrupted the transfers."""


class _TryAgain(Exception):  # noqa: N818 - not an error yet
    """A failure that may be temporary; `wait` is the time (s) that the server asks for."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


@dataclass(frozen=True)
class Outcome:
    """What a transfer did.

    Attributes:
        path: the file.
        fetched: whether it is new or has changed.
        bytes: that came now.
    """

    path: Path
    fetched: bool
    bytes: int = 0


@dataclass(frozen=True)
class _Origin:
    """Where a file is from.

    Attributes:
        url: its address.
        etag, modified: its version, as the server states it.
        size: its bytes, where the server states them.
        listed: its version, as the archive's index states it.
        asked: when the server was asked last (s since 1970).
    """

    url: str = ""
    etag: str | None = None
    modified: str | None = None
    size: int | None = None
    listed: str = ""
    asked: float = 0.0

    @property
    def validator(self) -> str | None:
        """Return what proves that two answers are parts of one version: a strong ETag, or the time of its change."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified

    def conditions(self) -> dict[str, str]:
        """Return the headers that ask for another version only."""
        pairs = {"If-None-Match": self.etag, "If-Modified-Since": self.modified}
        return {name: value for name, value in pairs.items() if value}


class _Copy:
    """The local copy of a file: the file itself, what has come of a new version, and the notes of both."""

    def __init__(self, target: Path) -> None:
        self.target, self.came = target, 0
        self.part = target.with_name(f".{target.name}.part")
        self._notes = target.with_name(f".{target.name}.origin")
        self._part_notes = target.with_name(f".{target.name}.part.origin")
        if self._part_notes.exists() and not self.part.exists():  # killed when the file had just got its name
            self._part_notes.replace(self._notes)

    def origin(self) -> _Origin:
        """Return where the file is from."""
        return _read(self._notes) if self.target.exists() else _Origin()

    def coming(self) -> _Origin:
        """Return where the part is from."""
        return _read(self._part_notes) if self.part.exists() else _Origin()

    def length(self) -> int:
        """Return the bytes of the part."""
        return self.part.stat().st_size if self.part.exists() else 0

    def note(self, origin: _Origin) -> None:
        """Note where the file is from."""
        write_whole(self._notes, json.dumps(asdict(origin)).encode())

    def begin(self, origin: _Origin) -> None:
        """Begin a new part; it is there before its notes, which else would be those of the file."""
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.drop()
        self.part.touch()
        write_whole(self._part_notes, json.dumps(asdict(origin)).encode())

    def drop(self) -> None:
        """Remove the part, after its notes, which else would become those of the file."""
        self._part_notes.unlink(missing_ok=True)
        self.part.unlink(missing_ok=True)

    def finish(self) -> None:
        """Give the part the file's name."""
        flush(self.part)
        self.part.replace(self.target)
        self._part_notes.replace(self._notes)


def _read(notes: Path) -> _Origin:
    try:
        content = json.loads(notes.read_text())
        return _Origin(**{field.name: content[field.name] for field in fields(_Origin) if field.name in content})
    except (OSError, ValueError, TypeError):
        return _Origin()


class Connection:
    """Requests to archives, from several threads.

    Args:
        mirror: address in place of that of the archives' own servers; the paths stay.
        rate: the most requests a second, of all threads together; a pause that a server asks for holds for all.
    """

    def __init__(self, mirror: str | None = None, rate: float = 5.0) -> None:
        if mirror is not None and not re.match(r"https?://.", mirror):
            raise ObservationError(f"the mirror {mirror!r} is no address such as https://mirror.example.org/noaa")
        self._mirror, self._gap = mirror, 1 / rate
        self._client = httpx.Client(
            timeout=TIMEOUT, follow_redirects=True, headers={"User-Agent": _AGENT, "Accept-Encoding": "identity"}
        )
        self._turn, self._next = threading.Lock(), 0.0
        self._stopped = threading.Event()

    def close(self) -> None:
        """End all connections."""
        self._client.close()

    def stop(self) -> None:
        """Let the transfers of all threads end as they are; each continues when it is asked for again."""
        self._stopped.set()

    def address(self, url: str) -> str:
        """Return the address of a URL at the mirror, if there is one."""
        if self._mirror is None:
            return url
        return f"{self._mirror.rstrip('/')}/{url.split('://', 1)[1].partition('/')[2]}"

    def size(self, url: str) -> int | None:
        """Return the bytes of a file; None where the server does not say."""
        self._wait()
        try:
            answer = self._client.head(self.address(url))
        except httpx.HTTPError:
            return None
        return _whole_number(answer.headers.get("Content-Length")) if answer.status_code == 200 else None

    def is_current(self, url: str, target: Path, listed: str = "") -> bool:
        """Return whether the server need not be asked for a file; arguments as of `obtain`."""
        origin = _Copy(target).origin()
        within_a_day = time.time() - origin.asked < DAY
        return origin.url == self.address(url) and origin.listed == listed and (bool(listed) or within_a_day)

    def obtain(
        self, url: str, target: Path, check: Check, listed: str = "", page: bool = False, again: bool = False
    ) -> Outcome:
        """Bring a local copy up to date.

        The server is not asked where the archive's index states the version that is here, nor within a day of the last
        time. A file whose content is damaged is asked for once more.

        Args:
            url: its address at the archive's own server.
            target: the local copy.
            check: of its content.
            listed: its version, as the archive's index states it.
            page: whether it is a page of HTML; else such an answer is an error.
            again: ask the server whatever is known.

        Raises:
            AbsentError: there is no such file.
            DamagedError: it is damaged at the server; names the address.
            ObservationError: it cannot be fetched; names the address.
            Stopped: `stop` was called.
        """
        if not again and self.is_current(url, target, listed):
            return Outcome(target, fetched=False)
        url, copy = self.address(url), _Copy(target)
        origin = copy.origin()
        for last in (page, True):
            coming = copy.coming()
            whole = coming.url == url and coming.size is not None and coming.size == copy.length()
            if not whole and not self._transfer(url, copy, listed, page):
                copy.drop()
                copy.note(replace(origin, listed=listed, asked=time.time()))
                return Outcome(target, fetched=False)
            try:
                check(copy.part)
            except ObservationError as problem:
                copy.drop()
                if last:
                    raise DamagedError(str(problem).replace(str(copy.part), url)) from None
            else:
                copy.finish()
                break
        return Outcome(target, fetched=True, bytes=copy.came)

    def _transfer(self, url: str, copy: _Copy, listed: str, page: bool) -> bool:
        """Ask until the part is whole; return False where the file has not changed."""
        failed = 0
        while True:
            before = copy.came
            try:
                return self._get(url, copy, listed, page)
            except _TryAgain as failure:
                failed = 0 if copy.came - before >= _GAIN else failed + 1
                pause = max(PAUSE * 2 ** max(failed - 1, 0), failure.wait)
                if failed == TRIES or pause > LONGEST_PAUSE:
                    asks = f"; the server asks to wait {failure.wait:.0f} s" if failure.wait > LONGEST_PAUSE else ""
                    raise ObservationError(f"{url}: cannot be fetched: {failure}, {failed} times{asks}") from None
                self._pause(pause, everyone=failure.wait > 0)

    def _get(self, url: str, copy: _Copy, listed: str, page: bool) -> bool:
        """Ask once; return False where the file has not changed."""
        origin, coming, length = copy.origin(), copy.coming(), copy.length()
        headers = {}
        if length and coming.url == url and coming.validator:
            headers = {"Range": f"bytes={length}-", "If-Range": coming.validator}
        elif origin.url == url:
            headers = origin.conditions()
        self._wait()
        try:
            with self._client.stream("GET", url, headers=headers) as answer:
                if answer.status_code == 304:
                    return False
                if answer.status_code == 416 and answer.headers.get("Content-Range") == f"bytes */{length}":
                    return True  # nothing was left to ask for
                if answer.status_code == 416 or (answer.status_code == 206 and _begins(answer) != length):
                    copy.drop()
                    raise _TryAgain("another part came than was asked for")
                self._refuse(url, answer, page)
                if answer.status_code == 200:
                    copy.begin(_origin_of(url, answer, listed))
                self._keep(answer, copy)
        except httpx.TransportError as error:
            raise _TryAgain(str(error) or type(error).__name__) from None
        except httpx.HTTPError as error:
            raise ObservationError(f"{url}: cannot be fetched: {error}") from None
        return True

    def _refuse(self, url: str, answer: httpx.Response, page: bool) -> None:
        """Raise where an answer is not the file or a part of it."""
        code, reason = answer.status_code, answer.reason_phrase
        if code in (404, 410):
            raise AbsentError(f"{url}: is not there ({code})")
        if code in _PASSING:
            raise _TryAgain(f"{code} {reason}", float(_whole_number(answer.headers.get("Retry-After")) or 0))
        if code not in (200, 206):
            raise ObservationError(f"{url}: cannot be fetched: {code} {reason}")
        if not page and answer.headers.get("Content-Type", "").startswith("text/html"):
            raise ObservationError(f"{url}: the server answers with a page, not a file")

    def _keep(self, answer: httpx.Response, copy: _Copy) -> None:
        """Add what comes to the part."""
        began, before = time.monotonic(), copy.came
        with copy.part.open("ab", buffering=0) as file:
            for block in answer.iter_raw():
                file.write(block)
                copy.came += len(block)
                if self._stopped.is_set():
                    raise Stopped
                if time.monotonic() - began > _SLOW and copy.came - before < _GAIN:
                    raise _TryAgain(f"{copy.came - before} bytes in {_SLOW:.0f} s")
        size, length = copy.coming().size, copy.length()
        if size is not None and length != size:
            if length > size:
                copy.drop()
            raise _TryAgain(f"{length} of {size} bytes came")

    def _wait(self) -> None:
        """Wait for the next turn of the rate."""
        with self._turn:
            turn = max(time.monotonic(), self._next)
            self._next = turn + self._gap
        self._sleep(turn - time.monotonic())

    def _pause(self, seconds: float, everyone: bool) -> None:
        """Wait before the next try; where a server has asked for it, no thread asks in the meantime."""
        if everyone:
            with self._turn:
                self._next = max(self._next, time.monotonic() + seconds)
        else:
            self._sleep(seconds)

    def _sleep(self, seconds: float) -> None:
        if self._stopped.wait(max(seconds, 0)):
            raise Stopped


def _origin_of(url: str, answer: httpx.Response, listed: str) -> _Origin:
    headers = answer.headers
    size = _whole_number(headers.get("Content-Length"))
    return _Origin(url, headers.get("ETag"), headers.get("Last-Modified"), size, listed, time.time())


def _begins(answer: httpx.Response) -> int | None:
    """Return the first byte of a part; None where the server does not say."""
    match = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _whole_number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None
