"""Scores that the runs of an archive share: made once, the same for all, and made again where anything has changed."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from dacycle.common.locks import locked
from dacycle.cycler.archive.branches import Archive, ArchiveError
from dacycle.cycler.verification import shared
from dacycle.cycler.verification.drift_scores import score, score_states
from dacycle.cycler.verification.shared import shared_scores, simple_states, try_shared_scores
from dacycle.forecast_adapter import scores
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.worlds.world import Climatology
from tests.cycler.runs import START

WHEN, LEADS = np.datetime64(START, "h"), [0, 12, 24]


class Counted:
    """A forecast model that counts its forecasts."""

    def __init__(self, model):
        self.digest, self.running, self._model, self.forecasts = model.digest, model.running, model, 0

    def forecast(self, previous, current, steps):
        self.forecasts += 1
        return self._model.forecast(previous, current, steps)


@pytest.fixture
def model(world):
    return Counted(load_model(world.model))


@pytest.fixture
def archive(tmp_path):
    return Archive(tmp_path / "archive", create=True)


def test_they_are_made_once_and_read_as_they_were_made(archive, tiny, model):
    made = shared_scores(archive, tiny, model, START, LEADS)
    again = shared_scores(archive, tiny, model, START, LEADS)
    assert model.forecasts == 1
    pd.testing.assert_frame_equal(again, made, check_exact=True)
    assert set(made["kind"]) == {"reference", "persistence", "climatology"}
    frames = (tiny.reference.array(WHEN - 6)[None], tiny.reference.array(WHEN)[None])
    state = [state[0] for state in model.forecast(*frames, 4)][-1]
    alone = score(tiny, WHEN, 24, "reference", state)
    rows = made[(made["kind"] == "reference") & (made["lead"] == 24)].reset_index(drop=True)
    pd.testing.assert_frame_equal(rows, alone, check_exact=True)


def test_they_are_made_again_for_other_leads_models_or_climatologies(archive, tiny, model):
    shared_scores(archive, tiny, model, START, LEADS)
    shared_scores(archive, tiny, model, START, LEADS[:2])
    warmer = replace(tiny, climatology=Climatology(tiny.climatology.coefficients + np.float32(1)))
    shared_scores(archive, warmer, model, START, LEADS)
    model.digest = "another"
    shared_scores(archive, tiny, model, START, LEADS)
    assert model.forecasts == 4


def test_damaged_ones_are_made_again(archive, tiny, model, caplog):
    made = shared_scores(archive, tiny, model, START, LEADS)
    (file,) = (archive.folder / "shared/drift").glob("*.parquet")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    pd.testing.assert_frame_equal(shared_scores(archive, tiny, model, START, LEADS), made, check_exact=True)
    assert "is damaged; its scores are made again" in caplog.text


def test_while_another_process_makes_them_a_run_can_do_something_else(archive, tiny, model, monkeypatch):
    monkeypatch.setattr(shared, "_LOCKS", 1)
    with locked(archive.folder / "shared/drift/lock0", "them", ArchiveError):
        assert try_shared_scores(archive, tiny, model, START, LEADS) is None
    assert try_shared_scores(archive, tiny, model, START, LEADS) is not None


def test_scores_of_several_states_at_once_are_those_of_each_alone(tiny):
    states = {"analysis": tiny.reference.array(WHEN), **simple_states(tiny, WHEN, 12)}
    table = score_states(tiny, WHEN, [(12, states)])
    truth, climatology = tiny.reference.array(WHEN + 12), tiny.climatology.at(WHEN + 12)
    for kind, state in states.items():
        rows = table[table["kind"] == kind]
        for name in ("mse", "mae", "bias"):
            expected = getattr(scores, name)(state, truth, tiny.grid).ravel().astype(np.float32)
            assert rows[name].to_numpy().tobytes() == expected.tobytes()
        expected = scores.anomaly_correlation(state, truth, climatology, tiny.grid).ravel().astype(np.float32)
        np.testing.assert_array_equal(rows["acc"].to_numpy(), expected)
