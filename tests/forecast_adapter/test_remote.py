"""Transfers have an end: servers that stall, send a byte now and then, or ask for long patience."""

import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from dacycle.forecast_adapter import remote
from dacycle.forecast_adapter.state import StateError
from dacycle.forecast_adapter.states.netcdf_zarr import ZarrStates
from dacycle.forecast_adapter.states.products import is_zarr

ANSWERS = {
    "/stall": b"",
    "/drip": b"HTTP/1.1 200 OK\r\nContent-Type: text/csv\r\nContent-Length: 100000\r\n\r\n",
    "/drip-headers": b"HTTP/1.1 200 OK\r\nX-Slow: ",
    "/busy": b"HTTP/1.1 503 Busy\r\nRetry-After: 86400\r\nContent-Length: 0\r\n\r\n",
    "/whole": b"HTTP/1.1 200 OK\r\nContent-Type: text/csv\r\nContent-Length: 2\r\n\r\nok",
}


class Handler(socketserver.StreamRequestHandler):
    """Answer, and go on with a byte now and then where the path says so, until the test is over."""

    def handle(self) -> None:
        path = self.rfile.readline().split()[1].decode()
        while self.rfile.readline().strip():
            pass
        path = "/" + path.split("/")[1]
        self.wfile.write(ANSWERS[path])
        while path not in ("/busy", "/whole") and not self.server.over.wait(0.05):
            if path != "/stall":
                try:
                    self.wfile.write(b"x")
                except OSError:
                    return


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[str]:
    monkeypatch.setenv("DACYCLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "PAUSE", 0.05)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as serving:
        serving.daemon_threads, serving.over = True, threading.Event()
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_address[1]}"
        serving.over.set()
        serving.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["/drip", "/drip-headers", "/stall"])
def test_a_transfer_ends_with_its_time_however_the_server_behaves(server, tmp_path, monkeypatch, path):
    monkeypatch.setattr(remote, "LIMIT", 1.0)
    begun = time.monotonic()
    with pytest.raises(remote.FetchError, match=f"{path}: cannot be fetched: .*(not whole|timed out)"):
        remote.local_copies(f"{server}{path}", tmp_path / "kept")
    assert time.monotonic() - begun < 20
    for _ in range(200):  # the transfer that was given up clears up after itself
        if not (tmp_path / "kept").exists() or path == "/drip-headers" or not list((tmp_path / "kept").iterdir()):
            break
        time.sleep(0.1)
    else:
        pytest.fail(str(list((tmp_path / "kept").iterdir())))


def test_a_server_that_never_answers_is_given_up_after_its_tries(server, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "TIMEOUT", 0.2)
    with pytest.raises(remote.FetchError, match=r"cannot be fetched: .*timed out.*, 4 times"):
        remote.local_copies(f"{server}/stall", tmp_path)


def test_a_server_that_asks_for_long_patience_is_not_asked_again(server, tmp_path):
    with pytest.raises(remote.FetchError, match="503 Busy, 1 times; the server asks to wait 86400 s"):
        remote.local_copies(f"{server}/busy", tmp_path)


def test_several_transfers_have_their_time_together(server, tmp_path):
    with remote.within(1.0):
        with pytest.raises(remote.FetchError, match=r"cannot be fetched: .*not whole"):
            remote.local_copies(f"{server}/drip", tmp_path)
        with pytest.raises(remote.FetchError, match="no time is left"):
            remote.local_copies(f"{server}/whole", tmp_path)
    (path,) = remote.local_copies(f"{server}/whole", tmp_path)
    assert path.read_text() == "ok"


@pytest.mark.parametrize(
    ("ask", "path"),
    [  # whether a store is there, its headers tell
        (is_zarr, "/drip-headers"),
        (is_zarr, "/stall"),
        (ZarrStates, "/drip"),
        (ZarrStates, "/drip-headers"),
        (ZarrStates, "/stall"),
    ],
)
def test_a_store_is_asked_in_a_bounded_time_however_the_server_behaves(server, monkeypatch, ask, path):
    monkeypatch.setattr(remote, "OBJECT", 0.3)
    begun = time.monotonic()
    with pytest.raises(StateError, match=f"{path}.*no(t whole| answer).* 0 s"):
        ask(f"{server}{path}/store.zarr")
    assert time.monotonic() - begun < 20
