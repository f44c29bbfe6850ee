"""Commands that make worlds: a nature run, a world's folder, simulated files of observations."""

from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from dacycle.cycler.cli.options import ExperimentFile
from dacycle.cycler.cli.texts import parse_hour, parse_years
from dacycle.cycler.experiment import ExperimentError, load_experiment
from dacycle.forecast_adapter.models.fengwu import ERA5, OPERATIONAL, published_statistics
from dacycle.forecast_adapter.state import STEP
from dacycle.forecast_adapter.statistics import Statistics
from dacycle.forecast_adapter.worlds.world import WorldError, build_world, load_world

__all__ = ["app"]

app = typer.Typer()


class Kind(StrEnum):
    """Name the kind of a world's reference: its own states, or ones for which models were made elsewhere."""

    own = "own"
    era5 = ERA5
    operational = OPERATIONAL


@app.command("nature-run")
def nature_run(
    folder: Annotated[Path, typer.Argument(help="The folder to write; existing months are kept.")],
    years: Annotated[str, typer.Option(help="Labels of the realisations, e.g. 2014-2024 or 2021,2023.")],
    seed: Annotated[int, typer.Option(help="Seed; together with the year it sets the realisation.")] = 1,
    workers: Annotated[int, typer.Option(help="Number of years run at the same time, about 4 GB of memory each.")] = 1,
    pairs: Annotated[
        int | None,
        typer.Option(min=1, help="Make so many pairs of 11 days from slightly different states of one year instead."),
    ] = None,
) -> None:
    """Run SPEEDY and write its states, precipitation and OLR. Needs the extra `nature`.

    Example: dacycle nature-run nature --years 2020-2024 --workers 2

    Example: dacycle nature-run twins --years 2022 --pairs 6
    """
    if find_spec("jcm") is None:
        raise WorldError('a nature run needs the package jcm: `make train`, or `pip install -e ".[nature]"`')
    from dacycle.forecast_adapter.worlds import nature

    labels = parse_years(years)
    if pairs is None:
        nature.run(folder, labels, seed, workers)
    elif len(labels) > 1:
        raise WorldError(f"--pairs: pairs are of one year, not of {len(labels)}")
    else:
        nature.run_twins(folder, labels[0], pairs, seed)


@app.command()
def world(
    data: Annotated[Path, typer.Argument(help="Folder of a nature run or of a dataset.")],
    folder: Annotated[Path, typer.Argument(help="The world's folder, e.g. deploy/worlds/demonstration.")],
    training: Annotated[str, typer.Option(help="Years whose statistics and climatology describe the world.")],
    since: Annotated[
        str | None,
        typer.Option(help="First time of a copied reference, e.g. 2024-01-01T00; without it DATA is the reference."),
    ] = None,
    days: Annotated[int, typer.Option(help="Length of the copied reference, days.")] = 28,
    statistics: Annotated[
        str | None,
        typer.Option(help="Other normalisation statistics: `fengwu` for those of FengWu, or a world's statistics.nc."),
    ] = None,
    reference: Annotated[
        Kind, typer.Option(help="Kind of DATA; models made for this kind, such as FengWu, are allowed.")
    ] = Kind.own,
) -> None:
    """Make a world from a nature run or a dataset: statistics and climatology of its training years, and a reference.

    With --since a part of the data is copied into the world, rounded to a size that can be distributed. Without it
    the world's reference is the folder DATA itself, with all data that are added to it later.

    Example: dacycle world nature deploy/worlds/demonstration --training 2020-2022 --since 2024-01-01T00

    Example: dacycle world era5 ~/.local/share/dacycle/worlds/era5 --training 2015-2020 --statistics fengwu
    --reference era5
    """
    times = None
    description = f"States of {data.name}, statistics and climatology of {training}"
    if since is not None:
        times = parse_hour(since, "--since") + STEP * np.arange(4 * days)
        description += f"; reference of {days} days from {since}"
    kind = "" if reference is Kind.own else reference.value
    build_world(data, folder, folder.name, parse_years(training), times, description, _given(statistics), kind)
    size = sum(path.stat().st_size for path in folder.rglob("*.nc")) / 1e6
    typer.echo(f"{folder}: {size:.1f} MB; an experiment's `world:` takes this path")


def _given(statistics: str | None) -> Statistics | None:
    if statistics is None:
        return None
    if statistics == "fengwu":
        return published_statistics()
    if not Path(statistics).is_file():
        raise WorldError(f"--statistics: {statistics} is neither `fengwu` nor a file")
    return Statistics.load(Path(statistics))


@app.command()
def simulate(
    experiment: ExperimentFile,
) -> None:
    """Draw an experiment's observations from its world, and write the files that it reads.

    For each source `synop_bufr`, `temp_bufr`, `olr_netcdf`, `marine_bufr`, `aircraft_bufr` and `amv_bufr` it makes the
    folder that is the path of the source, with the values that the source `stations`, `sondes`, `olr`, `marine`,
    `aircraft` or `motion_vectors` of the same name would draw. Existing folders are kept.

    Example: dacycle simulate deploy/experiments/demo.yaml
    """
    from dacycle.obs_ingest.simulation.files import SIMULATED, simulate  # loads ecCodes

    described = load_experiment(experiment)
    specs = [source.model_dump(mode="json") for source in described.observations if source.source in SIMULATED]
    if not specs:
        raise ExperimentError(f"{experiment}: none of its sources ({', '.join(SIMULATED)}) reads files to simulate")
    opened = load_world(described.world)
    times = described.times().values.astype("datetime64[h]")
    for spec in specs:
        count = simulate(spec, opened, described.seed, times)
        typer.echo(f"{spec['path']}: {f'{count} files' if count else 'is there'}")
