"""The packaged Prefect automations: Prefect's own schema takes them, and a real server acts on an alert."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prefect import Flow
from prefect.events import AutomationCore

from dacycle.cycler.operations import flows

DEPLOY = Path(__file__).parents[3] / "deploy"
FILE = DEPLOY / "prefect/automations.yaml"
NO_BLOCK = "00000000-0000-0000-0000-000000000000"


def test_prefects_own_schema_takes_the_automations() -> None:
    automations = [AutomationCore.model_validate(each) for each in yaml.safe_load(FILE.read_text())["automations"]]
    alert, silent, failed = automations
    assert alert.trigger.expect == {"dacycle.alert.open", "dacycle.alert.over"}
    assert silent.trigger.posture == "Proactive"
    assert "prefect.flow-run.Failed" in failed.trigger.expect
    watched = failed.trigger.match_related.model_dump()["prefect.resource.name"]
    assert sorted(watched) == sorted(each.name for each in vars(flows).values() if isinstance(each, Flow))
    assert all(str(action.block_document_id) == NO_BLOCK for each in automations for action in each.actions)


EMIT = """
from dacycle.cycler.operations.alerts import Alert
from dacycle.cycler.operations.flows import _emit
_emit(Alert("live", "source sondes silent", "critical", "source sondes was silent", "20240102T12", "2024-01-02T15:00"))
from prefect.events.worker import EventsWorker
EventsWorker.instance().drain()
"""
BLOCK = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock
block = CustomWebhookNotificationBlock(
    name="here", url=sys.argv[1], json_data={"subject": "{{subject}}", "body": "{{body}}"}, allow_private_urls=True)
print("id", block.save("here", overwrite=True))
"""


@pytest.mark.trial
def test_a_server_tells_an_alert_as_the_automation_says(tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    env = {**os.environ, **own, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}

    def run(*command: str) -> str:
        ended = subprocess.run([sys.executable, *command], env=env, cwd=tmp_path, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    server = subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)], env=env, cwd=tmp_path,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as receiver:
            threading.Thread(target=receiver.serve_forever, daemon=True).start()
            _wait(lambda: httpx.get(f"{own['PREFECT_API_URL']}/health").status_code == 200)
            (block,) = run("-c", BLOCK, f"http://127.0.0.1:{receiver.server_address[1]}/").split()[-1:]
            automations = tmp_path / "automations.yaml"
            automations.write_text(FILE.read_text().replace(NO_BLOCK, block))
            run("-m", "prefect", "--no-prompt", "automation", "create", "--from-file", str(automations))
            time.sleep(3)  # the server's triggers read new automations every second or so
            run("-c", EMIT)
            _wait(lambda: heard)
            receiver.shutdown()
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
    assert heard == [{"subject": "dacycle: dacycle.alert.open", "body": "live, critical: source sondes was silent"}]


def _wait(done: Any) -> None:
    begun = time.monotonic()
    while time.monotonic() - begun < 180:
        try:
            if done():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    pytest.fail("it did not come")
