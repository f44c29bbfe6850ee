"""The operator's page: what it shows of a real archive, and what it says where something is missing or damaged."""

import json
import re
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pandas as pd
import pytest

from dacycle.cycler.archive.branches import Archive, Branch
from dacycle.cycler.keeping.tidy import tidy
from dacycle.cycler.operations.alerts import watch
from dacycle.cycler.operations.audit import Audit, StartAudit, audit
from dacycle.cycler.verification.cycles import verify
from dacycle.cycler.verification.drift import make_forecasts
from dacycle.cycler.web import cycle_page
from dacycle.cycler.web.app import serve
from dacycle.cycler.web.run_page import drift_rows
from dacycle.cycler.web.runs import Runs
from dacycle.forecast_adapter.models.model import load_model
from tests.cycler import runs
from tests.cycler.pages import Page
from tests.cycler.runs import make_run
from tests.cycler.web.serving import shown

CYCLES = 7
ODD = '<b onclick="x">&/../é'
"""Name of a station that a page must not take for its own text."""


@pytest.fixture(scope="module")
def archive(world: Any, tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run that is watched, with forecasts and a station of an odd name, and its free run beside it."""
    folder: Path = tmp_path_factory.mktemp("web") / "archive"
    model = load_model(world.model)
    usual = runs.departures

    def with_odd_name(*arguments: Any) -> pd.DataFrame:
        table = usual(*arguments)
        return table.assign(station=table["station"].astype(str).replace("s3", ODD).astype("category"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "departures", with_odd_name)
        branch = make_run(
            folder, tiny, cycles=CYCLES, model=str(world.model), model_digest=model.digest,
            notes={"seconds": {"background": 0.5}},
        )  # fmt: skip
        list(make_forecasts(branch, tiny, model))
        watch(branch, tiny, pd.Timestamp("2024-02-01"))
        make_run(folder, tiny, cycles=3, name="run-free", assimilator="none", observations=[])
    return folder


@pytest.fixture(scope="module")
def client(archive: Path) -> Iterator[httpx.Client]:
    with shown(archive) as address, httpx.Client(base_url=address, timeout=60, trust_env=False) as made:
        yield made


@pytest.fixture
def own(archive: Path, tmp_path: Path) -> Path:
    """Return a copy of the archive, to change."""
    return Path(shutil.copytree(archive, tmp_path / "archive"))


def read(client: httpx.Client, path: str, status: int = 200) -> Page:
    answer = client.get(path)
    assert answer.status_code == status, answer.text[-600:]
    assert "Traceback" not in answer.text
    return Page(answer.text)


def branch_of(archive: Path, name: str = "run") -> Branch:
    return Archive(archive).branch(name)


# --- what the pages show ----------------------------------------------------------------------------------------------


def test_all_experiments_stand_on_the_first_page(client: httpx.Client, archive: Path) -> None:
    page = read(client, "/")
    assert {"/run/run", "/run/run-free", "/run/run/cycles/20240103T12"} <= set(page.references)
    assert "free run" in page.words
    assert "z500 forecast, day 3" in page.words
    record = branch_of(archive).records[-1]
    assert f"{record.id} ok" in page.words
    assert "left" in page.words, "the replay is not at its end"
    assert "not verified" in page.words, "nothing has verified the free run"


def test_an_experiment_shows_its_cycles_sources_alerts_errors_and_drift(client: httpx.Client, archive: Path) -> None:
    page = read(client, "/run/run")
    for record in branch_of(archive).records[2:]:
        assert f"/run/run/cycles/{record.id}" in page.references
        assert f"cycle-{record.id}" in page.ids
    assert "increment of t850 reaches 7.1" in page.words
    assert "40 reports" not in page.words
    for heading in ("What came in", "Alerts", "Errors against the reference", "Drift of the forecasts"):
        assert heading in page.words
    assert "This part cannot be read" not in page.words
    assert "Forecast error by start" in client.get("/run/run").text
    assert "None of the newest cycles is verified" not in page.words


def test_a_cycle_shows_what_made_it_and_what_it_changed(client: httpx.Client, archive: Path) -> None:
    branch = branch_of(archive)
    record = branch.records[4]
    page = read(client, f"/run/run/cycles/{record.id}")
    assert {"/run/run/cycles/20240102T06", "/run/run/cycles/20240102T18"} <= set(page.references)
    table = branch.departures([record.time])
    for use, count in table["use"].value_counts().items():
        assert f"{count} values {use}" in page.words
    assert record.digests["observations"] in page.words
    assert "temp.bufr, message 3: <truncated>" in page.words
    assert sum(reference.startswith("data:image/png") for reference in page.references) >= 10, "maps"
    assert "stations: msl" in page.words, "a map of departures"
    assert "0.50" in page.words, "seconds of a stage"


def test_a_cycle_says_what_it_starts_from_and_what_came_too_late(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cycle uses what came too late, so the audit of this one is given another start."""
    start = StartAudit(
        experiment="run-late", cycle=pd.Timestamp("2024-01-02T12"), digest="d" * 64, now="changed",
        due=pd.Timestamp("2024-01-03T01"), too_early=False, again=2, too_late=[],
    )  # fmt: skip
    made = {"20240103T00": start, "20240103T06": replace(start, too_early=True)}
    made |= {"20240103T12": replace(start, too_late=["sondes in 20240102T18"])}

    def audited(archive: Archive, name: str, time: pd.Timestamp, read_files: bool) -> Audit:
        return replace(audit(archive, name, time, read_files), start=made[f"{time:%Y%m%dT%H}"])

    monkeypatch.setattr(cycle_page, "audit", audited)
    with shown(own) as address, httpx.Client(base_url=address, timeout=60) as client:
        well, early, late = (read(client, f"/run/run/cycles/{cycle}").words for cycle in made)
    assert "run-late 20240102T12 03 01:00 changed 2 none" in well
    assert "No value was used that was received after its cutoff" in well
    for words, said in ((early, "starts from was due after the cutoff"), (late, "sondes in 20240102T18")):
        assert said in words
        assert "No value was used that was received after its cutoff" not in words


def test_the_first_and_the_newest_cycle_have_one_neighbour(client: httpx.Client, archive: Path) -> None:
    records = branch_of(archive).records[2:]
    first, last = (read(client, f"/run/run/cycles/{record.id}") for record in (records[0], records[-1]))
    assert f"/run/run/cycles/{records[1].id}" in first.references
    assert not any(f"/run/run/cycles/{branch_of(archive).records[1].id}" in r for r in first.references)
    assert "the newest cycle" in last.words


def test_a_station_shows_every_value(client: httpx.Client, archive: Path) -> None:
    table = branch_of(archive).departures()
    own_rows = table[table["station"].astype(str) == "s5"]
    listed = client.get("/api/experiments/run/station", params={"station": "s5"}).json()
    assert len(listed) == len(own_rows) == 6 * CYCLES
    msl = next(row for row in listed if row["variable"] == "msl")
    wanted = own_rows[(own_rows["variable"] == "msl") & (own_rows["cycle"] == own_rows["cycle"].max())].iloc[0]
    assert (msl["unit"], msl["lateness"]) == ("hPa", 0)
    assert msl["o_b"] == pytest.approx(wanted["o_b"] / 100, rel=1e-5)
    page = read(client, "/run/run/station?station=s5")
    assert "Departures over time" in page.words
    assert "Lateness over time" in page.words
    assert "assimilated" in page.words


def test_odd_names_are_shown_as_they_are_and_do_nothing(client: httpx.Client) -> None:
    text = client.get("/run/run/stations", params={"search": "onclick"}).text
    assert ODD not in text
    assert "&lt;b onclick=" in text
    address = next(r for r in Page(text).references if "station=" in r)
    assert quote(ODD) in address
    found = client.get(address)
    assert found.status_code == 200
    assert ODD not in found.text
    assert "values, the newest first" in found.text
    searched = client.get("/run/run/stations", params={"search": "<script>alert(1)</script>"}).text
    assert "<script>alert" not in searched


def test_a_station_is_read_in_any_cycles(archive: Path) -> None:
    run = Runs(archive).run("run")
    some = run.records[::2]
    assert list(run.station("s5", some)["cycle"].unique()) == [record.time for record in some]


def test_an_error_is_marked_where_it_is_unusual_for_the_run() -> None:
    def level(*newest: float) -> list[str]:
        starts = pd.date_range("2024-01-02", periods=30 + len(newest), freq="12h")
        past = 100 * np.exp(0.05 * np.sin(np.arange(30)))
        rmse = np.array([*past, *newest])
        table = pd.DataFrame({"start": starts, "kind": "analysis", "channel": "z500", "lead": 72, "mse": rmse**2})
        return [row["level"] for row in drift_rows(table)]

    assert level(125.0) == [""], "six of its past's standard deviations, of 30 values, are not beyond the limit"
    assert level(200.0) == ["bad"]
    assert level(50.0) == [""], "smaller errors are welcome"


def test_stations_are_found_by_a_part_of_their_name(client: httpx.Client) -> None:
    page = read(client, "/run/run/stations?search=S2")
    stations = [reference for reference in page.references if "/station?" in reference]
    assert len(set(stations)) == 11, "s2, s20 to s29"
    assert "opens by its whole name" in read(client, "/run/run/stations?search=nobody").words
    assert "no value in these days" in read(client, "/run/run/station?station=nobody").words


def test_a_month_can_be_asked_for(client: httpx.Client) -> None:
    days = [len(re.findall(r'<th scope="col">', client.get(f"/run/run{q}").text)) for q in ("", "?month=2024-01")]
    assert days == [31, 31]
    assert read(client, "/run/run?month=%3Cb%3E").words == read(client, "/run/run").words


def test_json_has_what_the_pages_show(client: httpx.Client, archive: Path) -> None:
    record = branch_of(archive).records[-1]
    found = client.get(f"/api/experiments/run/cycles/{record.id}").json()
    assert found["record"] == json.loads(record.to_json())
    assert [source["source"] for source in found["audit"]["sources"]] == ["sondes", "stations"]
    about = client.get("/api/experiments/run").json()
    assert about["newest"]["cycle"] == record.id
    assert {row["source"] for row in about["sources"]["rows"]} == {"stations", "sondes"}
    assert about["drift"]["rows"][0]["channel"] == "z500"
    assert [row["cycle"] for row in client.get("/api/experiments/run/cycles?last=2").json()][-1] == record.id
    assert [row["name"] for row in client.get("/api/experiments").json()] == ["run", "run-free"]
    assert len(client.get("/api/experiments/run/stations").json()) == 80, "40 of each source"
    described = client.get("/openapi.json").json()["paths"]
    assert all(path in described for path in ("/api/experiments", "/api/experiments/{name}/station", "/health"))


def test_metrics_and_health_are_there(client: httpx.Client) -> None:
    assert 'dacycle_cycles{experiment="run",status="ok"} 6.0' in client.get("/metrics").text
    assert client.get("/health").json() == {"cycles_behind": {"run": 0, "run-free": 0}}


# --- what is missing or damaged ---------------------------------------------------------------------------------------


def test_an_archive_that_is_not_there_yet_or_is_empty_says_so(tiny: Any, tmp_path: Path) -> None:
    with shown(tmp_path / "later") as address, httpx.Client(base_url=address) as client:
        assert "no archive at" in read(client, "/").words
        assert client.get("/api/experiments").status_code == 404
        Archive(tmp_path / "later", create=True)
        assert "has no experiment yet" in read(client, "/").words
        make_run(tmp_path / "later", tiny, cycles=0)
        assert "no cycle yet" in read(client, "/").words
        assert "has no cycle yet" in read(client, "/run/run").words
        assert "no cycle yet" in client.get("/api/version?experiment=run").json()["text"]
        assert "no observation of a named station" in read(client, "/run/run/stations").words
        make_run(tmp_path / "later", tiny, cycles=1)
        assert "cycle-20240102T00" in read(client, "/run/run").ids


@pytest.mark.parametrize(
    "path",
    [
        "/run/nobody", "/run/..%2F..%2Fetc", "/run/%2e%2e/%2e%2e/etc/passwd", "/run/run/cycles/20250101T00",
        "/run/run/cycles/20240102T03", "/run/run/cycles/..%2Fx", "/run/main", "/web.css", "/branches/run/alerts.json",
        "/api/experiments/nobody", "/api/version?experiment=..", "/run/run/report",
    ],
)  # fmt: skip
def test_what_is_not_there_is_said_not_to_be(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404, answer.text
    assert "Traceback" not in answer.text
    assert "root:" not in answer.text


def test_a_question_without_meaning_is_refused(client: httpx.Client) -> None:
    assert client.get("/run/run/station?station=s5&days=0").status_code == 422
    assert client.get("/run/run/station").status_code == 422
    assert client.post("/run/run").status_code == 405


def test_damaged_departures_are_named_and_the_rest_is_shown(own: Path) -> None:
    path = own / "branches/run/departures/20240103T12.parquet"
    path.write_bytes(path.read_bytes()[:-5] + b"12345")
    (own / "branches/run/alerts.json").write_text("[{")
    with shown(own) as address, httpx.Client(base_url=address, timeout=60) as client:
        page = read(client, "/run/run/cycles/20240103T12")
        assert "20240103T12.parquet is damaged" in page.words
        assert "Increments of the headline channels" in page.words
        assert "alerts.json" in read(client, "/").words
        page = read(client, "/run/run")
        assert "alerts.json" in page.words
        assert "Forecast error by start" in client.get("/run/run").text
        assert "is damaged" in read(client, "/run/run/stations").words
        about = client.get("/api/experiments/run").json()
        assert "alerts.json" in about["alerts"]["trouble"]
        assert about["critical"] is None, "it is not known"
        assert "run-free" in read(client, "/run/run-free").words


def test_a_part_that_is_mended_is_shown_again(own: Path) -> None:
    paths = ["/run/run/cycles/20240103T12", "/run/run/stations", "/run/run/station?station=s5"]
    path = own / "branches/run/departures/20240103T12.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5] + b"12345")
    with shown(own) as address, httpx.Client(base_url=address, timeout=60) as client:
        for page in paths:
            answer = client.get(page)
            assert "is damaged" in Page(answer.text).words
            assert "etag" not in answer.headers
        path.write_bytes(whole)
        for page in paths:
            answer = client.get(page)
            assert "is damaged" not in Page(answer.text).words
            assert "etag" in answer.headers


def test_a_damaged_table_of_errors_does_not_hide_how_a_run_stands(own: Path, tiny: Any) -> None:
    errors = own / "branches/run/verification/errors.parquet"
    errors.write_bytes(errors.read_bytes()[:-5] + b"12345")
    with shown(own) as address, httpx.Client(base_url=address, timeout=60) as client:
        page = read(client, "/")
        assert "20240103T12 ok" in page.words
        assert "errors.parquet is damaged; `dacycle verify run` makes it again" in page.words
        stands = client.get("/api/experiments").json()[0]
        assert (stands["name"], stands["cycles"], stands["critical"]) == ("run", CYCLES, 0)
        verify(branch_of(own), tiny)
        assert "cannot be read" not in read(client, "/").words


def test_only_what_is_not_there_is_said_not_to_be(own: Path, tmp_path: Path) -> None:
    there = own.rename(tmp_path / "no archive, no experiment, has no cycle")
    (there / "states.icechunk/refs/branch.run/ref.json").write_text("{")
    with shown(there) as address, httpx.Client(base_url=address, timeout=60) as client:
        assert client.get("/run/run").status_code == 500
        assert client.get("/run/nobody").status_code == 404


def test_a_damaged_state_is_named_and_the_rest_is_shown(own: Path) -> None:
    branch = branch_of(own)
    known = set((own / "states.icechunk/chunks").iterdir())
    make_more(own)
    for chunk in set((own / "states.icechunk/chunks").iterdir()) - known:
        chunk.write_bytes(b"")
    with shown(own) as address, httpx.Client(base_url=address, timeout=60) as client:
        newest = branch.next_time - pd.Timedelta(hours=6)
        text = client.get(f"/run/run/cycles/{newest:%Y%m%dT%H}").text
        assert "Traceback" not in text
        assert "damaged" in text


def test_a_commit_that_cannot_be_read_does_not_hide_the_other_runs(own: Path) -> None:
    (own / "states.icechunk/refs/branch.run/ref.json").write_text("{")
    with shown(own) as address, httpx.Client(base_url=address, timeout=60) as client:
        page = read(client, "/")
        assert "cannot be read:" in page.words
        assert "20240102T12 ok" in page.words, "the newest cycle of the free run"
        assert "ref.json" in read(client, "/run/run", 500).words


# --- while a run goes on ----------------------------------------------------------------------------------------------


def make_more(archive: Path, cycles: int = CYCLES + 1) -> None:
    """Run one more cycle."""
    from dacycle.cycler.archive.writer import write

    branch = branch_of(archive)
    record = branch.records[-1]
    with write(branch.archive, branch.experiment) as writer:
        state = branch.state("analysis", record.time).values
        later = type(record)(time=writer.next_time, status="ok", digests=record.digests, experiment="run")
        writer.commit_cycle(state, state, branch.departures([record.time]).drop(columns="cycle"), later, {})


def test_a_new_cycle_and_a_rewind_show_without_a_new_start(own: Path) -> None:
    with shown(own) as address, httpx.Client(base_url=address, timeout=60) as client:
        before = client.get("/api/version?experiment=run").json()
        assert "cycle-20240103T18" not in read(client, "/run/run").ids
        make_more(own)
        after = client.get("/api/version?experiment=run").json()
        assert (before["version"] != after["version"], after["text"]) == (True, "newest cycle 20240103T18, ok")
        assert "cycle-20240103T18" in read(client, "/run/run").ids
        assert "/run/run/cycles/20240103T18" in read(client, "/run/run/cycles/20240103T12").references
        Archive(own).rewind("run", pd.Timestamp("2024-01-03T00"))
        assert "cycle-20240103T06" not in read(client, "/run/run").ids
        assert client.get("/run/run/cycles/20240103T06").status_code == 404


def test_how_long_a_cycle_has_been_due_shows_as_time_goes_on(
    own: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = make_run(own, tiny, cycles=3, name="live", end=None, observations=[]).times[-1]
    with shown(own) as address, httpx.Client(base_url=address, timeout=60) as client:

        def at(hours: float) -> httpx.Response:
            """Ask when so much time has passed since the next cycle was due."""
            shows = newest + pd.Timedelta(hours=6 + hours)
            machine = pd.Timestamp.now("UTC")
            monkeypatch.setenv("DACYCLE_CLOCK", f"{shows:%Y-%m-%dT%H:%M:%S} since {machine:%Y-%m-%dT%H:%M:%S}")
            return client.get("/run/live", headers={"If-None-Match": tag})

        tag = ""
        first = at(3)
        assert "20240102T18 has been due for 3 h" in Page(first.text).words
        tag = first.headers["etag"]
        assert at(3).status_code == 304
        later = at(5)
        assert "20240102T18 has been due for 5 h" in Page(later.text).words
        assert "due for 3 h" not in Page(later.text).words


def test_a_new_report_is_linked_as_soon_as_it_is_there(own: Path) -> None:
    with shown(own) as address, httpx.Client(base_url=address, timeout=60) as client:
        assert "/run/run/report" not in read(client, "/run/run").references
        (own / "branches/run/report").mkdir()
        (own / "branches/run/report/index.html").write_text("<p>errors of the run</p>")
        assert "/run/run/report" in read(client, "/run/run").references
        assert "errors of the run" in client.get("/run/run/report").text


def test_several_viewers_see_the_same(archive: Path) -> None:
    paths = ["/", "/run/run", "/run/run-free", "/run/run/cycles/20240103T00", "/run/run/stations", "/metrics"]
    with shown(archive) as address, httpx.Client(base_url=address, timeout=60) as client:
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(client.get, paths * 4))
        assert {answer.status_code for answer in answers} == {200}
        for i in range(len(paths) - 1):
            assert len({answer.text for answer in answers[i :: len(paths)]}) == 1


def test_seconds_of_a_cycle_outlast_retention(tiny: Any, tmp_path: Path) -> None:
    make_run(tmp_path, tiny, cycles=14, keep={"cycles": "2d"}, notes={"seconds": {"background": 0.5}})
    assert tidy(Archive(tmp_path)).states["run"]
    with shown(tmp_path) as address, httpx.Client(base_url=address, timeout=60) as client:
        assert "background 0.50" in read(client, "/run/run/cycles/20240104T12").words


def test_nothing_is_written(own: Path) -> None:
    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in sorted(own.rglob("*"))}

    shutil.rmtree(own / "branches/run/verification")
    before = files()
    with shown(own) as address, httpx.Client(base_url=address, timeout=60) as client:
        for path in (
            "/",
            "/run/run",
            "/run/run/cycles/20240103T00?files=read",
            "/run/run/station?station=s5",
            "/metrics",
        ):
            read_text = client.get(path)
            assert read_text.status_code == 200
        assert "None of the newest cycles is verified" in read(client, "/run/run").words
        counts = client.get("/api/experiments/run").json()["sources"]["rows"]
        assert all(row["assimilated"] > 0 for row in counts), "they are counted from the departures"
    assert files() == before


def test_what_is_counted_is_what_verification_keeps(own: Path, tiny: Any) -> None:
    shutil.rmtree(own / "branches/run/verification")
    rows = []
    for _ in range(2):
        with shown(own) as address, httpx.Client(base_url=address, timeout=60) as client:
            rows.append(client.get("/api/experiments/run").json()["sources"]["rows"])
        verify(branch_of(own), tiny)
    for counted, kept in zip(*rows, strict=True):
        assert counted.keys() == kept.keys()
        assert all(a == b or np.isclose(a, b, rtol=1e-6) for a, b in zip(counted.values(), kept.values(), strict=True))


def test_pages_are_asked_for_again_only_if_they_have_changed(client: httpx.Client) -> None:
    answer = client.get("/run/run")
    again = client.get("/run/run", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/run/run?month=2024-01", headers={"If-None-Match": answer.headers["etag"]}).status_code == 200


def test_pages_load_nothing_from_elsewhere_and_answer_to_no_other_name(client: httpx.Client) -> None:
    answer = client.get("/run/run")
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert not re.findall(r"(?:src|href)=.https?://", answer.text)
    assert client.get("/", headers={"Host": "archive.example.org"}).status_code == 400
    assert client.get("/docs").status_code == 404


def test_a_port_that_is_taken_is_refused(archive: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        serve(archive, "127.0.0.1", taken.getsockname()[1])
