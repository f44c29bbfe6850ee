"""A web server on loopback that answers as those of the archives do, and as badly as wanted.

It lists folders in the form of Apache on NOAA's servers, and knows HEAD, ETag, Last-Modified, Range and If-Range. Its
`faults` break connections, wait, cut files short and damage them; `asked` and `sent` say what it was asked for.
"""

import html
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

BLOCK = 1 << 14


@dataclass
class Faults:
    """What goes wrong, by the path of a file (`/pub/x.csv`); each entry of a list is used once.

    Attributes:
        codes: answers with this status, such as 503.
        breaks: the connection breaks after so many bytes.
        damaged: a byte in the middle has another value.
        short: the file states a length, and holds one byte less, as if it were whole.
        late: seconds before the answer.
        no_ranges: the server knows no Range.
        no_marks: the server states no version.
        slow: seconds before each block of every file.
    """

    codes: dict[str, list[int]] = field(default_factory=dict)
    breaks: dict[str, list[int]] = field(default_factory=dict)
    damaged: dict[str, int] = field(default_factory=dict)
    short: dict[str, int] = field(default_factory=dict)
    late: dict[str, float] = field(default_factory=dict)
    no_ranges: bool = False
    no_marks: bool = False
    slow: float = 0.0


@dataclass
class Archives:
    """A running server.

    Attributes:
        url: its address.
        faults: may be changed at any time.
        asked: every request: method, path, first byte, status.
        sent: bytes of bodies, by path.
    """

    url: str
    root: Path
    faults: Faults = field(default_factory=Faults)
    asked: list[tuple[str, str, int, int]] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def forget(self) -> None:
        """Begin to count anew."""
        with self.lock:
            self.asked.clear()
            self.sent.clear()


def listing(folder: Path, path: str) -> str:
    """Return the page of a folder."""
    rows = [
        f'<tr><td><a href="{html.escape(path.rstrip("/").rpartition("/")[0])}/">Parent Directory</a></td>'
        '<td>&nbsp;</td><td align="right">  - </td><td>&nbsp;</td></tr>'
    ]
    for entry in sorted(folder.iterdir()):
        changed = datetime.fromtimestamp(entry.stat().st_mtime, UTC)
        name = html.escape(entry.name) + ("/" if entry.is_dir() else "")
        size = "  - " if entry.is_dir() else human(entry.stat().st_size)
        rows.append(
            f'<tr><td><a href="{name}">{name}</a></td><td align="right">{changed:%Y-%m-%d %H:%M}  </td>'
            f'<td align="right">{size}</td><td>&nbsp;</td></tr>'
        )
    title = f"Index of {path.rstrip('/')}"
    return "\n".join(
        [
            '<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 3.2 Final//EN">',
            f"<html>\n <head>\n  <title>{title}</title>\n </head>\n <body>\n<h1>{title}</h1>\n  <table>",
            '   <tr><th><a href="?C=N;O=D">Name</a></th><th><a href="?C=M;O=A">Last modified</a></th>'
            '<th><a href="?C=S;O=A">Size</a></th><th><a href="?C=D;O=A">Description</a></th></tr>',
            '   <tr><th colspan="4"><hr></th></tr>',
            *rows,
            '   <tr><th colspan="4"><hr></th></tr>\n</table>',
            '<script id="_fed_an_ua_tag" src="https://dap.digitalgov.gov/Universal-Federated-Analytics-Min.js"></script>',
            "</body></html>\n",
        ]
    )


def human(size: int) -> str:
    """Return a size as Apache writes it."""
    if size < 973:
        return f"{size} "
    scaled = float(size)
    for unit in "KMGT":
        scaled /= 1024
        if scaled < 9.95:
            return f"{scaled:.1f}{unit}"
        if scaled < 973:
            return f"{scaled:3.0f}{unit}"
    raise ValueError(size)


class Handler(BaseHTTPRequestHandler):
    """Answer one connection after the other of a client."""

    protocol_version = "HTTP/1.1"
    archives: Archives

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path, faults = unquote(self.path), self.archives.faults
        file = self.archives.root / path.strip("/")
        time.sleep(faults.late.get(path, 0.0))
        if body and faults.codes.get(path):
            self.page(path, faults.codes[path].pop(0), "no")
        elif ".." in path or not file.exists() or file.is_dir() != path.endswith("/"):
            self.page(path, 404, "<html>Not Found</html>")
        elif file.is_dir():
            self.page(path, 200, listing(file, path))
        else:
            self.file(path, file, body)

    def page(self, path: str, code: int, text: str) -> None:
        content = text.encode()
        self.note(path, 0, code)
        self.send_response(code)
        self.send_header("Content-Type", "text/html;charset=UTF-8")
        self.send_header("Content-Length", str(len(content)))
        if code in (429, 503):
            self.send_header("Retry-After", "0")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def file(self, path: str, file: Path, body: bool) -> None:
        content, faults = bytearray(file.read_bytes()), self.archives.faults
        mark, changed = f'"{file.stat().st_mtime_ns:x}-{len(content):x}"', formatdate(file.stat().st_mtime, usegmt=True)
        if body and faults.damaged.get(path, 0):
            faults.damaged[path] -= 1
            content[len(content) // 2] ^= 0xFF
        if body and faults.short.get(path, 0):
            faults.short[path] -= 1
            del content[-1:]
        if not faults.no_marks and mark == self.headers.get("If-None-Match"):
            self.note(path, 0, 304)
            self.send_response(304)
            self.end_headers()
            return
        start = self.start(mark, changed)
        if start >= len(content) > 0 and start > 0:
            self.note(path, start, 416)
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.note(path, start, 206 if start else 200)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if not faults.no_marks:
            self.send_header("ETag", mark)
            self.send_header("Last-Modified", changed)
        self.send_header("Content-Type", "text/csv" if file.suffix == ".csv" else "application/octet-stream")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if body:
            self.body(path, bytes(content[start:]))

    def start(self, mark: str, changed: str) -> int:
        """Return the first byte that is asked for, 0 where the whole is due."""
        wanted, condition = self.headers.get("Range", ""), self.headers.get("If-Range")
        if self.archives.faults.no_ranges or not wanted.startswith("bytes=") or condition not in (None, mark, changed):
            return 0
        return int(wanted.removeprefix("bytes=").removesuffix("-"))

    def body(self, path: str, content: bytes) -> None:
        faults = self.archives.faults
        limit = faults.breaks[path].pop(0) if faults.breaks.get(path) else len(content)
        for begin in range(0, min(limit, len(content)), BLOCK):
            time.sleep(faults.slow)
            block = content[begin : min(begin + BLOCK, limit)]
            try:
                self.wfile.write(block)
            except OSError:  # the client has gone
                self.close_connection = True
                return
            with self.archives.lock:
                self.archives.sent[path] += len(block)
        if limit < len(content):
            self.close_connection = True

    def note(self, path: str, start: int, status: int) -> None:
        with self.archives.lock:
            self.archives.asked.append((self.command, path, start, status))

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients break off."""


def start(root: Path, port: int = 0) -> tuple[Server, Archives]:
    """Make a server of a folder, which does not answer yet."""
    handler = type("Handler", (Handler,), {})
    server = Server(("127.0.0.1", port), handler)
    archives = Archives(f"http://127.0.0.1:{server.server_port}", root)
    handler.archives = archives
    return server, archives


@contextmanager
def serving(root: Path) -> Iterator[Archives]:
    """Serve a folder while the block runs."""
    server, archives = start(root)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield archives
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    endless, running = start(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    print(running.url, flush=True)
    endless.serve_forever()
