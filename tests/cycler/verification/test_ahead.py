"""Scores that runs share, made in a process beside the run that forecasts."""

import time

from dacycle.cycler.verification import ahead, shared
from dacycle.cycler.verification.ahead import sharing_ahead
from dacycle.cycler.verification.drift import due, make_forecasts, read_scores
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.worlds.world import load_world
from tests.cycler.runs import make_run


def test_a_process_beside_makes_the_shared_scores(world, tmp_path, monkeypatch):
    tiny = load_world(world.folder)
    model = load_model(world.model)
    asked = {"cycles": 6, "error": 1.0, "model_digest": model.digest, "model": str(world.model)}
    alone, beside = (make_run(tmp_path / name, tiny, **asked) for name in ("alone", "beside"))
    list(make_forecasts(alone, tiny, model))
    monkeypatch.setattr(ahead, "_FEWEST", 1)
    monkeypatch.setattr(ahead.os, "cpu_count", lambda: 2)
    with monkeypatch.context() as patch:  # this process may only read them
        patch.setattr(shared, "_make", None)
        patch.setattr("dacycle.cycler.verification.drift.try_shared_scores", lambda *_: None)
        with sharing_ahead(beside, due(beside, tiny), threads=1):
            folder = beside.archive.folder / "shared/drift"
            until = time.monotonic() + 60
            while len(list(folder.glob("[!.]*.parquet"))) < len(due(beside, tiny)):
                assert time.monotonic() < until
                time.sleep(0.1)
            assert list(make_forecasts(beside, tiny, model))
    assert read_scores(beside).equals(read_scores(alone))
