"""A replay through files of simulated observations."""

import numpy as np
import pytest

from dacycle.cycler.archive.branches import open_experiment
from tests.cycler import tiny
from tests.cycler.commands import dacycle

SOURCES = [
    {"source": "synop_bufr", "name": "stations", "path": "observations/stations", "cutoff": "3h"},
    # The levels of the tiny world are not in hydrostatic balance.
    {"source": "temp_bufr", "name": "sondes", "path": "observations/sondes", "cutoff": "3h", "tolerance": 1000},
    {"source": "olr_netcdf", "name": "olr", "path": "observations/olr", "cutoff": "none"},
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    return tmp_path


def test_a_replay_reads_what_simulate_wrote_and_says_how_to_get_it(place, world):
    end = f"{tiny.START + np.timedelta64(6, 'h'):%Y-%m-%dT%H}"
    tiny.write_experiment(place, world, "files", observations=SOURCES, end=end)
    tiny.write_experiment(
        place, world, "drawn", observations=[{"source": s["name"], "cutoff": s["cutoff"]} for s in SOURCES], end=end
    )
    complaint = dacycle("hindcast", "files.yaml", status=2)
    for name in ("stations", "sondes", "olr"):
        assert f"source {name}: there is no {place / 'observations' / name}; if it is to hold simulated" in complaint
    assert "`dacycle simulate EXPERIMENT.yaml` makes them" in complaint
    assert not (place / "archive/branches/files/experiment.yaml").exists()
    assert "`dacycle simulate EXPERIMENT.yaml`" in dacycle("plan", "files.yaml", status=2)

    assert "observations/stations: 2 files" in dacycle("simulate", "files.yaml")
    assert "observations/sondes: is there" in dacycle("simulate", "files.yaml")
    for name in ("files", "drawn"):
        assert f"{name}: 2 ok" in dacycle("hindcast", f"{name}.yaml")
    files, drawn = (open_experiment("archive", name) for name in ("files", "drawn"))
    for read, had in zip(files.records[-2:], drawn.records[-2:], strict=True):
        assert read.uses["late"] == had.uses["late"] > 0
        assert read.uses["withheld"] == pytest.approx(had.uses["withheld"], rel=0.01)
        assert sum(read.uses.values()) == pytest.approx(sum(had.uses.values()), rel=0.001)
        assert read.sources["stations"].files != []
    assert set(files.departures()["source"]) == {"stations", "sondes", "olr"}


def test_what_reads_no_such_files_is_refused(place, world):
    tiny.write_experiment(place, world, "drawn")
    assert "none of its sources (synop_bufr, temp_bufr, olr_netcdf, marine_bufr, aircraft_bufr, amv_bufr)" in dacycle(
        "simulate", "drawn.yaml", status=2
    )
    tiny.write_experiment(place, world, "live", observations=SOURCES, end=None)
    assert "it has no end" in dacycle("simulate", "live.yaml", status=2)
