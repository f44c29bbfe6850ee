"""Fetching, against a web server in a process of its own and fsspec's bucket in memory.

Both are doubles: the server stands for that of an archive, the memory for a bucket. None of this has met a real one.
"""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import fsspec
import numpy as np
import pytest

from dacycle.forecast_adapter import remote
from dacycle.obs_ingest.sources import fetch
from dacycle.obs_ingest.sources.base import build_source
from dacycle.obs_ingest.table import ObservationError
from dacycle.obs_ingest.window import Window
from tests.obs_ingest.sources.test_isd import write_csv

SERVER = """
import http.server, json, os, sys
state = {"asked": [], "fail": [], "body": "a first content", "headers": {"ETag": "one"}}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        state.update(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204); self.end_headers()
    def do_GET(self):
        if self.path == "/state":
            return self.answer(200, json.dumps(state), {})
        state["asked"].append([self.path, dict(self.headers)])
        if state["fail"]:
            return self.answer(state["fail"].pop(0), "no", {"Retry-After": "0"})
        if self.path.endswith(".gone"):
            return self.answer(404, "no", {})
        if state["headers"].get("ETag") and self.headers.get("If-None-Match") == state["headers"]["ETag"]:
            return self.answer(304, "", {})
        self.answer(200, state["body"], state["headers"])
    def answer(self, code, body, headers):
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), "Content-Type": "text/csv", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


class Server:
    def __init__(self, url):
        self.url = url

    def set(self, **state):
        data = json.dumps(state).encode()
        urllib.request.urlopen(urllib.request.Request(self.url, data, method="POST")).close()

    @property
    def asked(self):
        with urllib.request.urlopen(f"{self.url}/state") as answer:
            return json.load(answer)["asked"]


@pytest.fixture
def server():
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    yield Server(f"http://127.0.0.1:{process.stdout.readline().strip()}")
    process.kill()
    process.communicate()


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """No waiting, always asking again, and a cache of the test's own."""
    monkeypatch.setattr(remote, "PAUSE", 0.0)
    monkeypatch.setattr(remote, "FRESH", 0.0)
    monkeypatch.setenv("DACYCLE_CACHE", str(tmp_path / "cache"))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".origin")}


def test_a_file_is_fetched_once_and_again_when_it_changes(server, tmp_path):
    url = f"{server.url}/2024/a.csv"
    (path,) = fetch.mirror(url, tmp_path)
    assert path == tmp_path / "a.csv"
    assert path.read_text() == "a first content"
    first = path.stat().st_mtime_ns
    assert fetch.mirror(url, tmp_path) == [path]
    assert server.asked[-1][1]["If-None-Match"] == "one"
    assert path.stat().st_mtime_ns == first
    server.set(body="another content", headers={"ETag": "two"})
    assert fetch.mirror(url, tmp_path)[0].read_text() == "another content"
    assert "dacycle" in server.asked[-1][1]["User-Agent"]


def test_the_same_content_does_not_become_another_file(server, tmp_path):
    """Some servers mark nothing: the content says whether anything changed."""
    server.set(headers={})
    (path,) = fetch.mirror(f"{server.url}/a.csv", tmp_path)
    os.utime(path, (1, 1))
    fetch.mirror(f"{server.url}/a.csv", tmp_path)
    assert path.stat().st_mtime == 1
    assert len(server.asked) == 2


def test_failures_that_pass_are_tried_again(server, tmp_path):
    server.set(fail=[503, 429, 500])
    assert fetch.mirror(f"{server.url}/a.csv", tmp_path)[0].read_text() == "a first content"
    assert len(server.asked) == 4
    server.set(fail=[503] * 9, asked=[])
    with pytest.raises(ObservationError, match=r"b\.csv: cannot be fetched: 503 .*, 4 times"):
        fetch.mirror(f"{server.url}/b.csv", tmp_path)
    assert len(server.asked) == 4
    assert names(tmp_path) == {"a.csv"}


def test_what_does_not_pass_is_said_at_once(server, tmp_path):
    with pytest.raises(ObservationError, match=r"a\.gone: cannot be fetched: 404"):
        fetch.mirror(f"{server.url}/a.gone", tmp_path)
    assert len(server.asked) == 1
    server.set(headers={"Content-Type": "text/html; charset=utf-8"}, body="<html>Sign in</html>")
    with pytest.raises(ObservationError, match=r"a\.csv: the server answers with a page"):
        fetch.mirror(f"{server.url}/a.csv", tmp_path)
    assert names(tmp_path) == set()


def test_a_short_answer_leaves_the_old_file(server, tmp_path):
    (path,) = fetch.mirror(f"{server.url}/a.csv", tmp_path)
    server.set(headers={"ETag": "two", "Content-Length": "999"}, body="cut off")
    with pytest.raises(ObservationError, match="cannot be fetched"):
        fetch.mirror(f"{server.url}/a.csv", tmp_path)
    assert path.read_text() == "a first content"
    assert names(tmp_path) == {"a.csv"}


def test_a_server_that_is_not_there(tmp_path):
    with pytest.raises(ObservationError, match=r"http://127\.0\.0\.1:9/a\.csv: cannot be fetched: .*4 times"):
        fetch.mirror("http://127.0.0.1:9/a.csv", tmp_path)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "http://127.0.0.1:9/a/../../b", "http://127.0.0.1:9/a/"])
def test_urls_that_name_no_file(url, tmp_path):
    with pytest.raises(ObservationError, match="does not name a file"):
        fetch.mirror(url, tmp_path)


def test_a_source_reads_a_url(server, tmp_path):
    server.set(body=write_csv(tmp_path / "a.csv", {}).read_text())
    source = build_source({"source": "isd", "path": f"{server.url}/2024/a.csv", "cutoff": "none"}, None, 0)
    table, inventory = source.read(Window(np.datetime64("2024-01-02T12")))
    assert len(table) == 6
    (file,) = inventory.files
    assert file.startswith(str(tmp_path / "cache/127.0.0.1:"))
    assert file.endswith("2024/a.csv")


def test_a_source_reads_a_bucket(tmp_path):
    bucket = fsspec.filesystem("memory")
    for hour in (11, 12):
        content = write_csv(tmp_path / "a.csv", {"DATE": f"2024-01-02T{hour}:00:00"}).read_bytes()
        bucket.pipe(f"/observations/{hour}.csv", content)
    bucket.pipe("/observations/readme.md", b"not asked for")
    window = Window(np.datetime64("2024-01-02T12"))
    for path, decoded in (
        ("memory://observations", 2),
        ("memory://observations/*.csv", 2),
        ("memory://observations/12.csv", 1),
    ):
        source = build_source({"source": "isd", "path": path, "cutoff": "none"}, None, 0)
        assert source.read(window)[1].decoded == decoded
    with pytest.raises(ObservationError, match="no file"):
        build_source({"source": "isd", "path": "memory://elsewhere/*.csv"}, None, 0).read(window)


def test_a_bucket_whose_package_is_not_there():
    source = build_source({"source": "isd", "path": "abfs://observations/a.csv"}, None, 0)
    with pytest.raises(ObservationError, match=r"abfs://observations/a\.csv: cannot be read: .*adlfs"):
        source.read(Window(np.datetime64("2024-01-02T12")))
