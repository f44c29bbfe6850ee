"""Alerts: told once when they begin and once when they are over, by log, webhook and mail."""

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from dacycle.common.settings import Settings, SettingsError, read_settings
from dacycle.cycler.archive.branches import ArchiveError
from dacycle.cycler.cli import app
from dacycle.cycler.operations import telling
from dacycle.cycler.operations.alerts import Alert, alerts_of, watch
from dacycle.cycler.operations.telling import ways_of_telling
from tests.cycler.runs import make_run

NOW = pd.Timestamp("2024-02-01T00")
UNREADABLE, FALLBACK = 3, 6
"""Numbers of cycles after which the newest cannot read a message, and after which it is a fallback."""


@pytest.fixture
def run(tiny, tmp_path: Path) -> Any:
    return lambda cycles: make_run(tmp_path / "archive", tiny, cycles)


def looks(branch: Any, world: Any, told: list[tuple[str, str]], now: pd.Timestamp = NOW) -> list[str]:
    ways = {"list": lambda alert: told.append((alert.key, alert.state))}
    return [alert.key for alert in watch(branch, world, now, ways)]


def test_an_alert_is_told_once_and_once_more_when_it_is_over(tiny, run: Any) -> None:
    told: list[tuple[str, str]] = []
    for _ in range(3):
        assert looks(run(UNREADABLE), tiny, told) == ["source sondes unreadable"]
    assert told == [("source sondes unreadable", "open")]
    for _ in range(3):
        assert looks(run(UNREADABLE + 1), tiny, told) == []
    assert told[1:] == [("source sondes unreadable", "over")]
    (alert,) = alerts_of(run(UNREADABLE + 1))
    assert (alert.cycle, alert.began, alert.ended) == ("20240102T12", NOW.isoformat(), NOW.isoformat())


def test_what_could_not_be_told_is_told_at_the_next_look(tiny, run: Any, caplog: pytest.LogCaptureFixture) -> None:
    def fails(_: Alert) -> None:
        raise OSError("nobody answers")

    branch = run(FALLBACK)
    heard: list[str] = []
    ways = {"mail": fails, "log": lambda alert: heard.append(alert.state)}
    for _ in range(2):
        assert [dict(alert.told) for alert in watch(branch, tiny, NOW, ways)] == [{"log": "open"}]
    assert "could not be told by mail: nobody answers" in caplog.text
    assert heard == ["open"], "a way that has told it does not tell it twice because another one fails"
    told: list[str] = []
    watch(branch, tiny, NOW, ways | {"mail": lambda alert: told.append(alert.state)})
    assert (heard, told) == (["open"], ["open"])


def test_a_look_without_a_way_of_telling_tells_nothing(tiny, run: Any) -> None:
    branch = run(FALLBACK)
    assert [alert.key for alert in watch(branch, tiny, NOW)] == ["fallback"]
    told: list[tuple[str, str]] = []
    looks(branch, tiny, told)
    assert told == [("fallback", "open")]


def test_an_alert_that_is_over_before_anybody_was_told_is_kept_and_not_told(tiny, run: Any) -> None:
    watch(run(UNREADABLE), tiny, NOW)
    told: list[tuple[str, str]] = []
    looks(run(UNREADABLE + 1), tiny, told)
    assert told == []
    assert [alert.state for alert in alerts_of(run(UNREADABLE + 1))] == ["over"]


def test_alerts_are_forgotten_a_year_later(tiny, run: Any) -> None:
    watch(run(UNREADABLE), tiny, NOW)
    branch = run(UNREADABLE + 1)
    watch(branch, tiny, NOW)
    watch(branch, tiny, NOW + pd.Timedelta(days=500))
    assert alerts_of(branch) == []


def test_a_damaged_file_of_alerts_is_named_with_the_way_out(tiny, run: Any) -> None:
    branch = run(FALLBACK)
    path = branch.folder / "alerts.json"
    for content in (b"[{", b'[{"key": 1}]', b"7"):
        path.write_bytes(content)
        with pytest.raises(ArchiveError, match=r"alerts\.json.*delete it"):
            watch(branch, tiny, NOW)
    path.unlink()
    assert watch(branch, tiny, NOW)


def test_the_command_shows_open_alerts_and_has_a_status(tiny, tmp_path: Path, run: Any) -> None:
    def invoke(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["alerts", "--archive", str(tmp_path / "archive"), *arguments])

    run(UNREADABLE)
    result = invoke()
    assert result.exit_code == 0, "a warning"
    assert "could not be read whole" in " ".join(result.output.split())
    run(FALLBACK)
    result = invoke("--json")
    assert result.exit_code == 1
    (alert,) = json.loads(result.output)["alerts"]
    assert (alert["experiment"], alert["severity"], alert["ended"]) == ("run", "critical", None)
    assert len(json.loads(invoke("--json", "--past", "run").output)["alerts"]) == 2
    run(FALLBACK + 1)
    result = invoke()
    assert result.exit_code == 0
    assert "run: no alert" in result.output


# --- telling ----------------------------------------------------------------------------------------------------------

ALERT = Alert("live", "source sondes silent", "critical", "source sondes was silent", "20240102T12", "2024-01-02T15:00")


@contextmanager
def webhook(status: int) -> Iterator[tuple[str, list[Any]]]:
    received: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/alert", received
        server.shutdown()


def test_a_webhook_gets_json(caplog: pytest.LogCaptureFixture) -> None:
    with webhook(204) as (url, received):
        for way in ways_of_telling(Settings(alert_webhook=url)).values():
            way(ALERT)
    (content,) = received
    assert content["text"] == "live: source sondes was silent"
    assert (content["state"], content["severity"], content["began"]) == ("open", "critical", "2024-01-02T15:00")
    assert ("ERROR", "live: source sondes was silent") in [(r.levelname, r.getMessage()) for r in caplog.records]


def test_a_webhook_that_refuses_or_is_not_there_is_named() -> None:
    with webhook(500) as (url, _), pytest.raises(OSError, match=r"webhook http://127.*500"):
        ways_of_telling(Settings(alert_webhook=url))["webhook"](ALERT)
    with pytest.raises(OSError, match=f"webhook {url}"):
        ways_of_telling(Settings(alert_webhook=url))["webhook"](ALERT)


@pytest.mark.parametrize("way", ["webhook", "mail"])
def test_a_server_that_answers_a_byte_now_and_then_is_left_in_time(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "_LIMIT", 1.0)
    over = threading.Event()

    class Dripping(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while not over.wait(0.1):
                self.request.sendall(b"2")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Dripping) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_address[1]}"
        settings = Settings(alert_webhook=f"http://{address}", alert_mail="night@shift", mail_server=address)
        with pytest.raises(OSError, match="not whole after 1 s"):
            ways_of_telling(settings)[way](ALERT)
        over.set()
        server.shutdown()


def test_a_mail_says_what_since_when() -> None:
    lines: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            """Answer as RFC 5321 asks, for one message."""
            self.wfile.write(b"220 test\r\n")
            content = False
            for raw in self.rfile:
                line = raw.decode().rstrip("\r\n")
                lines.append(line)
                command = "" if content else line.upper()
                content = command == "DATA" or (content and line != ".")
                if command or not content:
                    self.wfile.write({"DATA": b"354", "QUIT": b"221"}.get(command, b"250") + b" test\r\n")

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_address[1]}"
        ways_of_telling(Settings(alert_mail="night@example.org", mail_server=host))["mail"](ALERT)
        server.shutdown()
    assert "Subject: dacycle live: source sondes silent critical" in lines
    assert "To: night@example.org" in lines
    assert "since 2024-01-02T15:00 UTC, cycle 20240102T12" in lines


@pytest.mark.parametrize(
    ("name", "value"), [("ALERT_WEBHOOK", "example.org"), ("ALERT_MAIL", "night"), ("MAIL_SERVER", "a:b")]
)
def test_a_setting_without_meaning_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"DACYCLE_{name}", value)
    with pytest.raises(SettingsError, match=f"DACYCLE_{name}"):
        read_settings()
