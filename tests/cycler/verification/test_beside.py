"""Forecasts that another process makes while cycles run are those that one process makes alone."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dacycle.cycler.archive.branches import ArchiveError, Branch
from dacycle.cycler.verification import beside
from dacycle.cycler.verification.beside import ForecastingError, forecasting
from dacycle.cycler.verification.drift import due, forecasts, make_forecasts, read_scores
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.worlds.world import load_world
from tests.cycler.runs import make_run


@pytest.fixture
def model(world):
    return load_model(world.model)


@pytest.fixture
def asked(world, model):
    return {"cycles": 6, "error": 1.0, "model_digest": model.digest, "model": str(world.model)}


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(beside, "_FEWEST", 1)
    monkeypatch.setattr(beside.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)


def files(branch: Branch) -> dict[str, str]:
    """Return the digests of the scores, also of those that runs share."""
    paths = [*branch.folder.glob("drift/*.parquet"), *branch.archive.folder.glob("shared/drift/[!.]*.parquet")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_two_processes_make_what_one_makes(world, model, asked, two_cores, tmp_path):
    tiny = load_world(world.folder)
    alone = make_run(tmp_path / "alone", tiny, **asked)
    starts = list(make_forecasts(alone, tiny, model))
    run = make_run(tmp_path / "beside", tiny, **asked)
    with forecasting(run.archive, [run.name, "later"], len(starts), threads=1) as making:
        until = time.monotonic() + 120
        while due(run, tiny):  # made although nothing was asked of this process yet
            assert time.monotonic() < until
            time.sleep(0.1)
        assert list(making.rest()) == [(run.name, start) for start in starts]
    assert files(run) == files(alone)
    assert forecasts(run).equals(forecasts(alone))
    assert not due(run, tiny)


def test_few_forecasts_are_made_in_this_process(world, model, asked, tmp_path):
    tiny = load_world(world.folder)
    run = make_run(tmp_path / "archive", tiny, **asked)
    with forecasting(run.archive, [run.name], 3, threads=1) as making:
        assert making.due() == 3
        assert len(list(making.rest())) == 3
    assert len(set(read_scores(run)["start"])) == 3


def test_a_killed_process_is_told_of_and_the_next_run_goes_on(world, model, asked, two_cores, tmp_path, monkeypatch):
    tiny = load_world(world.folder)
    alone = make_run(tmp_path / "alone", tiny, **asked)
    list(make_forecasts(alone, tiny, model))
    run = make_run(tmp_path / "beside", tiny, **asked)
    with forecasting(run.archive, [run.name], 3, threads=1) as making:
        process = making._process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with pytest.raises(ForecastingError, match=r"ended with status -9.*the same command goes on"):
            list(making.rest())
    monkeypatch.setattr(beside, "_FEWEST", 100)
    with forecasting(run.archive, [run.name], 3, threads=1) as making:
        list(making.rest())
    assert files(run) == files(alone)


def test_the_process_ends_with_a_run_that_is_killed(world, asked, tmp_path):
    run = make_run(tmp_path / "archive", load_world(world.folder), **{**asked, "cycles": 1})
    code = (
        "import sys, time\n"
        "from dacycle.cycler.archive.branches import Archive\n"
        "from dacycle.cycler.verification import beside\n"
        "beside._FEWEST, beside.os.sched_getaffinity = 1, lambda _: {0, 1}\n"
        "with beside.forecasting(Archive(sys.argv[1]), [sys.argv[2]], 3, threads=1) as making:\n"
        "    print(making._process.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", code, str(run.archive.folder), run.name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        process = int(starter.stdout.readline())
        starter.kill()
    until = time.monotonic() + 120
    while Path(f"/proc/{process}").exists() and "State:\tZ" not in Path(f"/proc/{process}/status").read_text():
        assert time.monotonic() < until, "it goes on without the run"
        time.sleep(0.1)


def test_an_error_of_the_process_is_raised_here(world, asked, two_cores, tmp_path):
    tiny = load_world(world.folder)
    run = make_run(tmp_path / "archive", tiny, **{**asked, "model_digest": "0" * 64})
    with (
        forecasting(run.archive, [run.name], 3, threads=1) as making,
        pytest.raises(ArchiveError, match="put that one back"),
    ):
        list(making.rest())
