"""What Prefect is asked to wake, and when; tests with a server are in test_flows_server.py."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from prefect.settings import temporary_settings

from dacycle.cycler.experiment import load_experiment
from dacycle.cycler.operations.deployments import deploy, deployments, schedule_of
from dacycle.cycler.operations.flows import ServerError
from tests.cycler.tiny import write_experiment
from tests.worlds import register_doubles


def schedules(folder: Path, world, cutoff: str, **changes: object) -> dict[str, str]:
    sources = [{"source": "stations", "cutoff": cutoff}]
    described = load_experiment(write_experiment(folder, world, end=None, observations=sources, **changes))
    return {made.name: made.cron for _, made in deployments(described)}


@pytest.mark.parametrize(
    ("cutoff", "cycle", "forecasts", "report"),
    [
        ("3h", "5 3,9,15,21 * * *", "35 3,9,15,21 * * *", "5 4 * * *"),
        ("90min", "35 1,7,13,19 * * *", "5 2,8,14,20 * * *", "35 2 * * *"),
        ("330min", "35 5,11,17,23 * * *", "5 0,6,12,18 * * *", "35 6 * * *"),
        ("49h", "5 1,7,13,19 * * *", "35 1,7,13,19 * * *", "5 2 * * *"),
        ("none", "5 0,6,12,18 * * *", "35 0,6,12,18 * * *", "5 1 * * *"),
    ],
)
def test_schedules_come_from_the_cutoffs(
    world, tmp_path: Path, cutoff: str, cycle: str, forecasts: str, report: str
) -> None:
    made = schedules(tmp_path, world, cutoff)
    assert made.pop("verification/tiny").split()[2:] == ["*", "*", "*"]
    assert made == {"cycle/tiny": cycle, "forecasts/tiny": forecasts, "report/tiny": report}


def test_a_late_chain_has_a_schedule_of_its_own(world, tmp_path: Path) -> None:
    register_doubles()
    made = schedules(tmp_path, world, "3h", assimilator="nudge", late={"cutoff": "630min"})
    assert made["late/tiny"] == "35 4,10,16,22 * * *"
    assert made["cycle/tiny"] == "5 3,9,15,21 * * *"


def test_each_woken_cycle_has_passed_its_cutoff(world, tmp_path: Path) -> None:
    for minutes in range(0, 24 * 60, 47):
        minute, hours, *_ = schedules(tmp_path, world, f"{minutes}min")["cycle/tiny"].split()
        for hour in hours.split(","):
            woken = pd.Timestamp("2024-01-10") + pd.Timedelta(hours=int(hour), minutes=int(minute))
            since = (woken - pd.Timedelta(minutes=minutes)) - (woken - pd.Timedelta(minutes=minutes)).floor("6h")
            assert since == pd.Timedelta(minutes=5)


def test_an_experiment_with_an_end_is_replayed_by_hand(world, tmp_path: Path) -> None:
    described = load_experiment(write_experiment(tmp_path, world))
    assert [(made.name, made.cron) for _, made in deployments(described)] == [("hindcast/tiny", "")]


def test_in_a_rehearsal_the_schedule_goes_as_its_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DACYCLE_CLOCK", "2024-01-05T02 since 2026-11-29T05:00 x360")
    made = schedule_of("5 3,9,15,21 * * *")
    assert made.interval == timedelta(minutes=1)
    assert made.anchor_date == datetime(2026, 11, 29, 5, 0, 10, 833333, tzinfo=UTC), "65 minutes of its clock later"
    assert schedule_of("5 1 * * *").interval == timedelta(minutes=4), "once a day"
    monkeypatch.delenv("DACYCLE_CLOCK")
    assert schedule_of("5 1 * * *").cron == "5 1 * * *"


@pytest.mark.parametrize(
    ("url", "said"),
    [("", "prefect server start"), ("http://127.0.0.1:9/api", "no Prefect server answers there")],
)
def test_without_a_server_the_remedy_is_named(world, tmp_path: Path, url: str, said: str) -> None:
    path = write_experiment(tmp_path, world)
    with temporary_settings({"api.url": url}), pytest.raises(ServerError, match=said):
        deploy(path, tmp_path / "archive", "dacycle")
