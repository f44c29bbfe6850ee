"""Ships, aircraft and motion vectors in cycles: withheld where they are, and not remembered."""

import pytest

from dacycle.cycler.archive.branches import Archive, open_experiment
from dacycle.cycler.cycle.replay import run_due_cycles
from tests.cycler import replays


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("moving")
    content = replays.content(world.folder, world.model, folder)
    content["observations"] += [{"source": name, "cutoff": "3h"} for name in ("marine", "aircraft", "motion_vectors")]
    content |= {"deny": ["aircraft:t"]}
    run_due_cycles(replays.experiment(content), Archive(folder / "archive", create=True), limit=2)
    return open_experiment(folder / "archive", "demo")


def test_all_kinds_are_assimilated_withheld_and_denied(run):
    table = run.departures([run.times[-1]])
    for source in ("marine", "aircraft", "motion_vectors"):
        rows = table[table["source"] == source]
        assert (rows["use"] == "assimilated").mean() > 0.4
        held = (rows["reason"] == "withheld_site").mean()
        assert 0.05 < held < 0.35
    denied = table[(table["source"] == "aircraft") & (table["variable"] == "t")]
    assert set(denied["reason"]) >= {"denied", "withheld_site"}
    assert not (denied["use"] == "assimilated").any()


def test_withheld_places_of_what_moves_are_not_remembered(run):
    """All sites of the stations are on their list, so that a record could remember nothing but places of what moves."""
    assert all(record.withheld_sites is None for record in run.records)
