"""Metrics for Prometheus: as text on a port, and as a file for each run."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dacycle.cycler.archive.branches import Archive, Branch
from dacycle.cycler.cycle import replay
from dacycle.cycler.experiment import STEP, load_experiment
from dacycle.cycler.operations import metrics
from dacycle.cycler.operations.alerts import watch
from dacycle.cycler.operations.metrics import METRICS, served, write_metrics
from dacycle.cycler.verification.drift import Due, Made, commit_forecasts, make_forecasts, read_scores
from dacycle.cycler.verification.drift_scores import join, score, write_scores
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.worlds.world import load_world
from tests.cycler.runs import make_run
from tests.cycler.tiny import cutoff_passed_until, write_experiment


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Return name, experiment and other labels -> value."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sorted(sample.labels, key=lambda name: name != "experiment")
            key = (sample.name.removeprefix("dacycle_"), *(sample.labels[name] for name in labels))
            found[key] = sample.value
    return found


def ask(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_metrics_are_those_of_the_newest_cycle(tiny, tmp_path: Path) -> None:
    branch = make_run(tmp_path, tiny, cycles=6)
    watch(branch, tiny, pd.Timestamp("2024-02-01"))
    with served(tmp_path, 0) as port:
        status, text = ask(port, "/metrics")
    assert status == 200
    found = samples(text)
    record = branch.records[-1]
    table = branch.departures([record.time])
    used = table[(table["use"] == "assimilated") & (table["variable"] == "u10")]
    ratio = used["o_b"] / used["error"]
    assert found["cycles", "run", "ok"] == 5
    assert found["cycles", "run", "fallback"] == 1
    assert found["alerts_open", "run", "critical"] == 1
    assert (
        found["alert_began_timestamp_seconds", "run", "fallback", "critical"] == pd.Timestamp("2024-02-01").timestamp()
    )
    assert found["cycle_timestamp_seconds", "run"] == record.time.timestamp()
    assert found["source_reports", "run", "sondes"] == 40
    assert found["source_latency_seconds", "run", "sondes"] == 3000
    counts = table.groupby(["source", "use"], observed=True).size()
    assert found["observations", "run", "stations", "withheld"] == counts["stations", "withheld"]
    assert found["departure_rms", "run", "stations", "u10"] == pytest.approx(np.sqrt((ratio**2).mean()), rel=1e-5)
    assert found["departure_mean", "run", "stations", "u10"] == pytest.approx(ratio.mean(), rel=1e-4)
    assert found["disk_free_bytes",] > 0
    assert found["unreadable_experiments",] == 0


def test_drift_is_that_of_the_newest_forecast_that_is_verified(world, tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive", create=True)
    path = write_experiment(tmp_path, world, drift={"starts": [0, 12], "lead": "24h", "free_run": False})
    described = load_experiment(path)
    replay.run_due_cycles(described, archive)
    branch = archive.branch(described.name)
    with served(archive.folder, 0) as port:
        waiting = [
            samples(ask(port, "/metrics")[1])["queue", described.name, "forecasts"]
            for _ in make_forecasts(branch, load_world(world.folder), load_model(described.model))
        ]
        found = samples(ask(port, "/metrics")[1])
    assert waiting == [2, 1, 0]
    scores = world_scores(branch)
    assert found["forecast_rmse", described.name, "z500", "24"] == pytest.approx(scores["z500"])
    assert found["stage_seconds", described.name, "background"] > 0


def test_the_newest_verified_forecast_is_found_however_many_are_not(
    tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "LEADS", (12, 24))
    drift = {"starts": [0, 6, 12, 18], "lead": "24h", "free_run": False}
    branch = make_run(tmp_path, tiny, cycles=7, end=None, drift=drift)
    state = tiny.reference.array(np.datetime64("2024-01-02T00"))

    def make(starts: Sequence[Due]) -> Iterator[Made]:
        for one, leads in zip(starts, [[12, 24], [12], *5 * [[]]], strict=True):
            rows = [score(tiny, np.datetime64(one.start, "h"), lead, "analysis", state) for lead in leads]
            write_scores(branch, tiny, one.start, join(rows), one.made_from)
            yield Made(one, np.zeros((3, 6, *state.shape[1:]), np.float32), "double")

    with served(tmp_path, 0) as port:
        assert samples(ask(port, "/metrics")[1])["queue", "run", "forecasts"] == 7
        first, second, *_ = commit_forecasts(branch, tiny, make)
        found = samples(ask(port, "/metrics")[1])
    assert found["queue", "run", "forecasts"] == 0
    scores = read_scores(branch).query("region == 'globe' and channel == 't850'").set_index(["start", "lead"])["mse"]
    assert found["forecast_rmse", "run", "t850", "24"] == pytest.approx(np.sqrt(scores[first, 24]))
    assert found["forecast_rmse", "run", "t850", "12"] == pytest.approx(np.sqrt(scores[second, 12]))


def world_scores(branch: Any) -> pd.Series:
    scores = read_scores(branch)
    own = scores[(scores["kind"] == "analysis") & (scores["region"] == "globe") & (scores["lead"] == 24)]
    last = own[own["start"] == own["start"].max()].set_index("channel")["mse"]
    return np.sqrt(last)


def test_health_says_how_far_a_live_run_is_behind(world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    since = pd.Timestamp("2024-01-03T12")
    sources = cutoff_passed_until(since)
    path = write_experiment(tmp_path, world, end=None, observations=sources)
    archive = Archive(tmp_path / "archive", create=True)
    described = load_experiment(path)
    replay.run_due_cycles(described, archive, until=since - STEP)
    with served(archive.folder, 0) as port:
        status, text = ask(port, "/health")
        assert (status, json.loads(text)) == (503, {"cycles_behind": {"tiny": 1}})
        found = samples(ask(port, "/metrics")[1])
        assert found["cycles_behind", "tiny"] == 1
        assert found["queue", "tiny", "cycles"] == 1
        assert found["next_cycle_due_timestamp_seconds", "tiny"] == (since + described.wait).timestamp()
        assert found["cycle_delay_seconds", "tiny"] > 0
        replay.run_due_cycles(described, archive, until=since)
        assert ask(port, "/health")[0] == 200
        # In a rehearsal 60 times as fast whose clock shows now that the next cycle is due:
        shows, now = since + described.wait + STEP, pd.Timestamp.now("UTC").tz_localize(None).floor("s")
        monkeypatch.setenv("DACYCLE_CLOCK", f"{shows:%Y-%m-%dT%H:%M:%S} since {now:%Y-%m-%dT%H:%M:%S} x60")
        (archive.folder / "branches/tiny/alerts.json").write_text("[]")
        found = samples(ask(port, "/metrics")[1])
    assert found["next_cycle_due_timestamp_seconds", "tiny"] == now.timestamp(), "by the clock of the machine"
    assert found["cycle_delay_seconds", "tiny"] == pytest.approx(360, abs=60), "6 h there are 6 min of the machine's"


def test_an_experiment_that_cannot_be_read_is_counted(tiny, tmp_path: Path) -> None:
    make_run(tmp_path, tiny, cycles=2)
    make_run(tmp_path, tiny, cycles=1, name="other")
    (tmp_path / "branches/other/experiment.yaml").write_text("{")
    with served(tmp_path, 0) as port:
        found = samples(ask(port, "/metrics")[1])
        status, text = ask(port, "/health")
    assert (found["unreadable_experiments",], found["cycles", "run", "ok"]) == (1, 2)
    content = json.loads(text)
    assert (status, content["cycles_behind"]) == (503, {"run": 0})
    assert "experiment.yaml" in content["unreadable"]["other"]


def test_an_archive_that_is_not_there_yet_has_no_metrics(tmp_path: Path) -> None:
    with served(tmp_path / "later", 0) as port:
        assert ask(port, "/metrics")[0] == 200
        assert ask(port, "/health")[0] == 503


def test_each_metric_has_a_meaning_and_no_other_is_given(tiny, tmp_path: Path) -> None:
    make_run(tmp_path, tiny, cycles=6)
    with served(tmp_path, 0) as port:
        families = list(text_string_to_metric_families(ask(port, "/metrics")[1]))
    own = {f"dacycle_{name}" for name in METRICS} | {
        "dacycle_unreadable_experiments", "dacycle_disk_free_bytes", "dacycle_disk_size_bytes"
    }  # fmt: skip
    assert {family.name for family in families} == own
    assert all(family.documentation for family in families)


def test_a_live_run_writes_its_metrics_after_each_commit(
    tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_run(tmp_path / "archive", tiny, cycles=2)
    write_metrics(tmp_path / "archive", "run")
    monkeypatch.setenv("DACYCLE_METRICS", str(tmp_path))
    for cycles in (2, 3):
        make_run(tmp_path / "archive", tiny, cycles=cycles)
        with monkeypatch.context() as patched:  # what is read does not grow with the run
            patched.setattr(Branch, "records", property(lambda _: pytest.fail("every record is read")))
            write_metrics(tmp_path / "archive", "run")
        assert samples((tmp_path / "dacycle-run.prom").read_text())["cycles", "run", "ok"] == cycles
    monkeypatch.setenv("DACYCLE_METRICS", str(tmp_path / "nowhere"))
    write_metrics(tmp_path / "archive", "run")
    assert "cannot be written" in caplog.text
