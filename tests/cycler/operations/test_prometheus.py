"""The files for Prometheus and Grafana: against the metrics that there are, and against a real Prometheus."""

import json
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest

from dacycle.common.configuration import write_yaml
from dacycle.cycler.archive.branches import Archive, Branch
from dacycle.cycler.cycle import replay
from dacycle.cycler.experiment import load_experiment
from dacycle.cycler.operations.alerts import watch
from dacycle.cycler.operations.metrics import METRICS, write_metrics
from dacycle.cycler.verification.drift import make_forecasts
from dacycle.forecast_adapter.models.model import load_model
from tests.cycler.replays import LAST, content, with_members
from tests.cycler.web.serving import shown

DEPLOY = Path(__file__).parents[3] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/dacycle.json").read_text())
GLOBAL = {"dacycle_unreadable_experiments", "dacycle_disk_free_bytes", "dacycle_disk_size_bytes"}


def queries() -> dict[str, list[str]]:
    """Return the queries of each panel, for all experiments and channels."""
    return {
        panel["title"]: [
            target["expr"].replace("$experiment", ".+").replace("$channel", ".+") for target in panel["targets"]
        ]
        for panel in DASHBOARD["panels"]
    }


def test_rules_and_dashboard_ask_for_metrics_that_there_are_and_leave_out_none() -> None:
    rules = (DEPLOY / "prometheus/alerts.yaml").read_text()
    shown_metrics = set(re.findall(r"dacycle_\w+", " ".join(text for texts in queries().values() for text in texts)))
    known = {f"dacycle_{name}" for name in METRICS} | GLOBAL
    assert shown_metrics == known
    assert set(re.findall(r"dacycle_[a-z_]+", rules)) <= known


def test_panels_do_not_lie_on_each_other() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        own = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not cells & own
        assert place["x"] + place["w"] <= 24
        cells |= own
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_grafanas_own_types_take_the_dashboard() -> None:
    models = pytest.importorskip("grafana_foundation_sdk.models.dashboard", reason="needs grafana-foundation-sdk")
    encoder = pytest.importorskip("grafana_foundation_sdk.cog.encoder")
    read = json.loads(json.dumps(models.Dashboard.from_json(DASHBOARD), cls=encoder.JSONEncoder))
    assert holds(read, DASHBOARD)


def holds(whole: Any, part: Any) -> bool:
    """Whether everything in a part is in the whole; Grafana itself adds `definition` to its variables."""
    if isinstance(part, dict):
        return all(key in whole and holds(whole[key], value) for key, value in part.items() if key != "definition")
    if isinstance(part, list):
        return len(whole) == len(part) and all(map(holds, whole, part))
    return bool(whole == part)


# --- with a real Prometheus -------------------------------------------------------------------------------------------


@contextmanager
def process(command: list[Any], log: Path) -> Iterator[None]:
    with log.open("w") as output:
        started = subprocess.Popen([str(part) for part in command], stdout=output, stderr=output)
    try:
        yield
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait(30)


def until(what: str, asked: Callable[[], Any]) -> Any:
    """Ask until there is an answer; the limit only keeps a broken trial from hanging."""
    begun = time.monotonic()
    while time.monotonic() - begun < 120:
        try:
            if answer := asked():
                return answer
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    return pytest.fail(f"{what} did not come")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def live(world: Any, tiny: Any, tmp_path: Path) -> Branch:
    """Run an ensemble live in a world that ends: it is late, and its forecasts are verified to five days."""
    minutes = int((pd.Timestamp.now("UTC").tz_localize(None) - LAST) / pd.Timedelta(minutes=1)) - 60
    usual = content(world.folder, world.model, tmp_path, **with_members(tmp_path, tiny))
    (source,) = usual["observations"]
    drift = {"starts": [0, 6, 12, 18], "lead": "120h", "free_run": False}
    usual |= {"observations": [{**source, "cutoff": f"{minutes}min"}], "drift": drift}
    usual["start"] = "2024-01-02T12"
    path = tmp_path / "live.yaml"
    path.write_text(write_yaml({key: value for key, value in usual.items() if key != "end"}))
    described = load_experiment(path)
    archive = Archive(tmp_path / "archive", create=True)
    replay.run_due_cycles(described, archive, until=LAST - pd.Timedelta(hours=6))
    branch = archive.branch(described.name)
    list(make_forecasts(branch, tiny, load_model(described.model)))
    watch(branch, tiny, pd.Timestamp.now("UTC").tz_localize(None))
    return branch


@pytest.mark.trial
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs Prometheus on PATH: apt-get install prometheus")
def test_every_query_and_rule_has_an_answer_in_a_real_prometheus(
    live: Branch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, port, node = live.archive.folder, free_port(), free_port()
    config = (DEPLOY / "prometheus/prometheus.yaml").read_text()
    shutil.copy(DEPLOY / "prometheus/alerts.yaml", tmp_path)
    subprocess.run(["promtool", "check", "config", DEPLOY / "prometheus/prometheus.yaml"], check=True)
    exporter = shutil.which("prometheus-node-exporter") or shutil.which("node_exporter")
    with shown(archive) as address:
        config = config.replace("30s", "1s").replace("127.0.0.1:8710", address.removeprefix("http://"))
        if exporter:
            config = config.replace("  # - job", "  - job").replace("  #   s", "    s").replace("  #     -", "      -")
            config = config.replace("9100", str(node))
            (tmp_path / "textfiles").mkdir()
            monkeypatch.setenv("DACYCLE_METRICS", str(tmp_path / "textfiles"))
            write_metrics(archive, live.name)
        (tmp_path / "prometheus.yaml").write_text(config)
        store = ["--storage.tsdb.path", tmp_path / "store", "--web.listen-address", f"127.0.0.1:{port}"]
        started = ["prometheus", "--config.file", tmp_path / "prometheus.yaml", *store]
        textfiles = ["--collector.textfile.directory", tmp_path / "textfiles", f"--web.listen-address=127.0.0.1:{node}"]
        with process(started, tmp_path / "prometheus.log"), httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:

            def ask(query: str) -> list[Any]:
                answer = client.get("/api/v1/query", params={"query": query}).json()
                assert answer["status"] == "success", answer
                return list(answer["data"]["result"])

            until("the metrics", lambda: ask("dacycle_cycles"))
            for title, own in queries().items():
                for query in own:
                    until(f"{title}: {query}", lambda query=query: ask(query))
            if exporter:
                with process([exporter, *textfiles], tmp_path / "exporter.log"):
                    until("metrics from the file", lambda: ask('dacycle_cycles{job="node"}'))
                    (count,) = ask('max by (experiment) (dacycle_cycles{status="ok"})')
                    assert float(count["value"][1]) == float(ask('dacycle_cycles{status="ok"}')[0]["value"][1])

            def rules() -> dict[str, Any]:
                (group,) = client.get("/api/v1/rules").json()["data"]["groups"]
                return {rule["name"]: rule for rule in group["rules"]}

            def evaluated() -> bool:
                return all(rule["health"] == "ok" for rule in rules().values()) and bool(
                    rules()["DacycleAlert"]["alerts"]
                )

            until("all rules", evaluated)
            found = until("the alert", lambda: (r := rules())["DacycleAlert"]["state"] == "firing" and r)
            (alert,) = [a for a in found["DacycleAlert"]["alerts"] if a["labels"]["key"] == "cycle late"]
            assert alert["labels"]["severity"] == "critical"
            assert alert["annotations"]["summary"] == "demo: cycle late"
            assert found["DacycleCycleLate"]["state"] == "pending", "it fires after five minutes"
            assert found["DacycleUnreadable"]["state"] == found["DacycleGone"]["state"] == "inactive"
            (live.folder / "alerts.json").write_text("{")
            until("that it cannot be read", lambda: rules()["DacycleUnreadable"]["state"] == "pending")
    assert re.search("level=error", (tmp_path / "prometheus.log").read_text()) is None
