"""The command that writes states of an archive to files for other tools."""

from pathlib import Path
from typing import Annotated

import typer

from dacycle.cycler.archive.branches import Archive, ArchiveError
from dacycle.cycler.cli.options import ArchiveFolder
from dacycle.cycler.cli.show import console, shown
from dacycle.cycler.cli.texts import cycle_time
from dacycle.cycler.experiment import cycle_id, parse_donor
from dacycle.cycler.operations.output import Kind, times_of, write_output
from dacycle.forecast_adapter.states.files import FORMATS, file_format
from dacycle.forecast_adapter.states.grib_writer import BITS, MISSING

__all__ = ["app"]

app = typer.Typer()


@app.command()
def write(
    experiment: Annotated[
        str, typer.Argument(metavar="EXPERIMENT[@TIME]", help="An experiment in the archive, or one cycle of it.")
    ],
    out: Annotated[Path, typer.Option(help=f"The file to write; its suffix sets the format: {', '.join(FORMATS)}.")],
    archive: ArchiveFolder,
    what: Annotated[
        Kind, typer.Option(help="States to write; of forecasts, only the headline fields.")
    ] = Kind.analysis,
    since: Annotated[str | None, typer.Option(help="First time, e.g. 20240108T06; default: the first.")] = None,
    until: Annotated[str | None, typer.Option(help="Last time; default: the last.")] = None,
    bits: Annotated[int, typer.Option(min=8, max=24, help="Bits of a value in GRIB.")] = BITS,
    centre: Annotated[int, typer.Option(min=0, max=65535, help="Originating centre in GRIB, e.g. 98.")] = MISSING,
) -> None:
    """Write committed analyses, backgrounds or forecasts to one file, for other tools.

    netCDF and Zarr, in WeatherBench2's schema, hold the archive's values. GRIB2 packs them (CCSDS).

    Example: dacycle write demo@20240110T00 --out analysis.grib2

    Example: dacycle write demo --what background --since 20240108T00 --out backgrounds.zarr
    """
    name, first, last = experiment, cycle_time(since), cycle_time(until)
    if "@" in experiment:
        try:
            name, first = parse_donor(experiment)
        except ValueError as error:
            raise ArchiveError(str(error)) from None
        if since is not None or until is not None:
            raise typer.BadParameter("EXPERIMENT@TIME is one time; leave --since and --until out")
        last = first
    branch, form = Archive(archive).branch(name), file_format(out)
    all_times = times_of(branch, what)
    times = all_times.to_series()[first:last].index
    if not len(times):
        span = f"{cycle_id(all_times[0])} to {cycle_id(all_times[-1])}" if len(all_times) else "none yet"
        raise ArchiveError(f"{archive}: {name} has no {what} of this time; it has {span}")
    write_output(branch, what, shown(times, f"{name} {what}", len(times)), out, bits, centre)
    stretch = cycle_id(times[0]) + (f" to {cycle_id(times[-1])}, {len(times)} times" if len(times) > 1 else "")
    console.print(f"{out}: {form}, {what} of {name}, {stretch}", soft_wrap=True)
