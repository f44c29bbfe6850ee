"""A server on loopback that serves a folder as public archives do: whole files by HTTP, counted; some answers break."""

import threading
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Archive(ThreadingHTTPServer):
    """Serve the files of a folder.

    Attributes:
        sent: how often each path was sent whole.
        breaking: every so many answers a connection breaks in the middle; 0: never.
    """

    daemon_threads = True

    def __init__(self, folder: Path, breaking: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.breaking = folder, breaking
        self.sent: Counter[str] = Counter()
        self.broken: Counter[str] = Counter()
        self.answers = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """Return the address of the folder."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Be silent on clients that were killed."""


@dataclass(frozen=True)
class Public:
    """All archives: a server of stores, which come into its folder; folder and address of those of observations."""

    archive: Archive
    folder: Path
    observations: str


class _Handler(BaseHTTPRequestHandler):
    server: Archive
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        name = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).strip("/")
        path = self.server.folder / name
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/octet-stream")
        self.end_headers()
        if not with_body:
            return
        with self.server.lock:
            self.server.answers += 1
            breaks = self.server.breaking and self.server.answers % self.server.breaking == 0
            (self.server.broken if breaks else self.server.sent)[name] += 1
        if breaks:
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@contextmanager
def serving(folder: Path, breaking: int = 0) -> Iterator[Archive]:
    """Yield an archive that serves a folder until the block ends."""
    with Archive(folder, breaking) as archive:
        thread = threading.Thread(target=archive.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield archive
        finally:
            archive.shutdown()
            thread.join()
