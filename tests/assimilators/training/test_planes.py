"""Trainings on data that lack some of precipitation, OLR, dewpoint and station pressure, to a file and a cycle."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

pytest.importorskip("torch", reason="the extra `train` is not installed: torch is missing")
pytest.importorskip("lightning", reason="the extra `train` is not installed: lightning is missing")

from dacycle.assimilators.exceptions import DataError
from dacycle.assimilators.export.assimilator import Extent, export_assimilator
from dacycle.assimilators.judging.gate import judge_assimilator
from dacycle.assimilators.sampling.backgrounds import Backgrounds, held_out
from dacycle.assimilators.sampling.observing import Observing, Subset, observing_of
from dacycle.assimilators.sampling.planes import planes_in
from dacycle.assimilators.trained.network import TrainedAssimilator
from dacycle.assimilators.training.assimilator_run import fit_assimilator
from dacycle.assimilators.training.recipe import AssimilatorRecipe
from dacycle.assimilators.training.samples import Samples
from dacycle.forecast_adapter.channels import NAMES, PLANES
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.worlds.reference import EXTRA_FIELDS, write_times
from dacycle.forecast_adapter.worlds.world import World, load_world
from tests.conftest import TinyWorld

pytestmark = pytest.mark.slow

SOURCES = [{"source": "stations"}, {"source": "sondes"}, {"source": "olr"}]
PLANE_OF = {"tp6h": "tp6h", "olr": "olr", "td2m": "q2m"}
LACKING = [("olr",), ("olr", "td2m"), ("tp6h", "ps"), ("ps",), tuple(EXTRA_FIELDS)]
SIZE = {"joint": 16, "group": 8, "fine": 8, "layers": 1, "merged": 1, "modes": 4, "block": 8}


def without(world: TinyWorld, folder: Path, fields: tuple[str, ...], first: int = 0) -> World:
    """Return the tiny world as a copy whose reference lacks fields from its `first` time on."""
    shutil.copytree(world.folder, folder)
    names = [EXTRA_FIELDS[field][0] for field in fields]
    for file in sorted((folder / "reference").glob("*.nc")):
        with xr.open_dataset(file) as opened:
            states = opened.load()
        file.unlink()
        if first:
            write_times(states.isel(time=slice(first)), folder / "reference/2024-01-01.nc")
        write_times(states.drop_vars(names).isel(time=slice(first, None)), folder / "reference/2024-01-02.nc")
    return load_world(folder)


def entries(world: World, model: Path, data: Path, **changes: Any) -> AssimilatorRecipe:
    usual: dict[str, Any] = {
        "kind": "assimilator", "method": "fnp", "name": "small", "version": "1", "world": str(world.folder),
        "model": str(model), "data": str(data), "backgrounds": "nowhere", "training_years": [2023],
        "validation_years": [2024], "observations": SOURCES, "epochs": 1, "epoch_samples": 4, "rounds": 0,
        "round_epochs": 1, "validation_days": 4, "batch": 2, "warm_up": 1, "average": 0.5, "threads": 1, "seed": 3,
        "network": SIZE,
    }  # fmt: skip
    return AssimilatorRecipe(**(usual | changes))


def prepared(world: TinyWorld, opened: World) -> tuple[Backgrounds, Observing, Samples]:
    planes = planes_in(opened.reference, opened.reference.times)
    backgrounds = held_out(load_model(world.model), opened.reference, opened, 6, leads=(6, 24))
    observing = observing_of(opened, opened.reference, SOURCES, planes)
    exact = np.full(len(NAMES), 0.05, np.float32)
    return backgrounds, observing, Samples(backgrounds, observing, np.arange(4), 1, exact, whole=True)


@pytest.mark.parametrize("lacking", LACKING, ids="-".join)
def test_a_method_is_trained_exported_and_judged_without_some_fields(
    world: TinyWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture, lacking: tuple[str, ...]
) -> None:
    opened = without(world, tmp_path / "tiny", lacking)
    backgrounds, observing, validation = prepared(world, opened)
    planes = tuple(plane for field, plane in PLANE_OF.items() if field not in lacking)
    assert observing.planes == planes
    said = [record.getMessage() for record in caplog.records if "trained without" in record.getMessage()]
    assert len(said) == (len(planes) < len(PLANES))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/2024").symlink_to(tmp_path / "tiny/reference")
    recipe = entries(opened, world.model, tmp_path / "data")
    run = tmp_path / "run"
    fit_assimilator(recipe, run, observing, backgrounds, validation, 20)
    assert json.loads((run / "run.json").read_text())["planes"] == list(planes)
    export_assimilator(run, tmp_path / "small.onnx", extent=Extent(samples=3, cycles=2, starts=1))
    assert TrainedAssimilator(tmp_path / "small.onnx").planes == planes
    if lacking == LACKING[1]:
        file, years = tmp_path / "small.onnx", tmp_path / "data"
        judge_assimilator(file, years, [2024], str(opened.folder), "none", starts=2, days=4)
        assert (tmp_path / "small.md").exists()
    drawn = observing.draw(
        opened.reference.times[8], opened.reference.array(opened.reference.times[8]), Subset(), np.random.default_rng(0)
    )
    assert drawn.errors.shape[0] == len(NAMES) + len(planes)
    assert (drawn.errors[len(NAMES) :] > 0).any(axis=(1, 2)).all()


def test_fields_in_some_years_only_are_refused(world: TinyWorld, tmp_path: Path) -> None:
    opened = without(world, tmp_path / "tiny", ("olr",), first=20)
    message = r"outgoing_longwave_radiation is missing in 2024 \(first at 2024-01-06T00\).*`dacycle dataset --beside`"
    with pytest.raises(DataError, match=message):
        planes_in(opened.reference, opened.reference.times)
