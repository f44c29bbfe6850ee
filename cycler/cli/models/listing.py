"""Commands `dacycle models`: list networks, show their cards, check their files, add FengWu's."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from typer.core import TyperGroup

from dacycle.assimilators.base import VARIATIONAL_METHODS, current_name, packaged_assimilators
from dacycle.assimilators.judging.growth import BANDS, measure_growth
from dacycle.assimilators.judging.increments import run_increment_test
from dacycle.common.foreign import read_text
from dacycle.cycler.cli.show import AsJson, console, new_table, print_card, print_json
from dacycle.forecast_adapter.channels import GROUPS, HEADLINE
from dacycle.forecast_adapter.grid import Grid as StateGrid
from dacycle.forecast_adapter.models import registry
from dacycle.forecast_adapter.models.double import add_double
from dacycle.forecast_adapter.models.fengwu import LICENCE, RELEASES
from dacycle.forecast_adapter.models.half import add_half
from dacycle.forecast_adapter.models.model import ModelFileError, load_model, model_files
from dacycle.forecast_adapter.models.onnxfile import digest, read_metadata
from dacycle.forecast_adapter.models.registry import Registration, registered_models
from dacycle.forecast_adapter.state import STEP, StateError
from dacycle.forecast_adapter.states.products import open_states
from dacycle.obs_ingest.operators.learned import operator_files

__all__ = ["app"]


class _CardByDefault(TyperGroup):
    """Take `dacycle models NAME` for `dacycle models show NAME`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command to run, and its arguments."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["show", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer()
group = typer.Typer(cls=_CardByDefault)
app.add_typer(group, name="models")

For = Annotated[
    str | None,
    typer.Option(
        "--for", help="States that it was made for: era5, operational or a world; not needed for FengWu's releases."
    ),
]
Grid = Annotated[str | None, typer.Option(help="Grid of a file that runs on any grid, e.g. 0.25deg or 181x360.")]


@group.callback(invoke_without_command=True)
def models(
    context: typer.Context,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file, and check it against its card or its registration.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the forecast models, assimilators and observation operators; `dacycle models NAME` shows a card.

    Example: dacycle models fnp

    Example: dacycle models --verify
    """
    if context.invoked_subcommand is not None:
        return
    entries = _entries()
    content = [
        {
            "name": entry.name,
            "kind": entry.kind,
            "grid": entry.grid,
            "world": entry.world,
            "sha256": entry.digest,
            "bytes": entry.size,
            "complaint": entry.complaint() if verify else None,
        }
        for entry in entries
    ]
    absent = [name for name in RELEASES if name not in registered_models()]
    if as_json:
        print_json({"models": content, "absent": absent})
    else:
        _print_models(content, absent)
    wrong = [
        f"{entry.file}: {about['complaint']}"
        for entry, about in zip(entries, content, strict=True)
        if about["complaint"]
    ]
    if wrong:
        raise ModelFileError(f"{'; '.join(wrong)}; get file and card anew")


def _print_models(models: list[dict[str, Any]], absent: list[str]) -> None:
    verified = any(about["complaint"] is not None for about in models)
    table = new_table("name", "kind", "grid", "world", "sha256", "card" if verified else "size")
    for column in table.columns[1:5]:
        column.no_wrap = True
    for about in models:
        size = f"{about['bytes'] / 1e6:.1f} MB"
        last = (about["complaint"] or "agrees") if verified else size
        table.add_row(*(about[key] for key in ("name", "kind", "grid", "world")), about["sha256"][:12], last)
    console.print(table, markup=False)
    if absent:
        console.print(
            f"not on this machine: {', '.join(absent)}; `dacycle models {absent[0]}` says how to get it", soft_wrap=True
        )


@group.command()
def show(
    name: Annotated[str, typer.Argument(help="A packaged or added model, assimilator or operator, or a file.")],
    increment_test: Annotated[
        str | None,
        typer.Option(
            metavar="STATE",
            help="Measure what a forecast model makes of an increment, from states in this file, folder or store.",
        ),
    ] = None,
    growth: Annotated[
        Path | None,
        typer.Option(
            metavar="PAIRS",
            help="Compare how small errors grow in a forecast model and in the nature run, from the pairs of "
            "`dacycle nature-run PAIRS --pairs N`.",
        ),
    ] = None,
) -> None:
    """Show a card, or how to get a missing model of FengWu.

    Example: dacycle models show fengwu-v1

    Example: dacycle models fengwu-v1 --increment-test era5.zarr

    Example: dacycle models mini --growth twins
    """
    if growth is not None:
        _print_growth(name, growth)
        return
    if increment_test is not None:
        _test_increments(name, increment_test)
        return
    packaged, added = _packaged(), registered_models()
    name = current_name(name)
    if name in added:
        complaint = added[name].complaint()
        print_card(read_text(added[name].card, ModelFileError))
        if complaint:
            raise ModelFileError(f"model {name}: {complaint}")
        return
    path = packaged.get(name, Path(name))
    if name in RELEASES and not path.is_file():
        registry.registered(name)
    if not path.is_file():
        names = ", ".join([*packaged, *added])
        raise ModelFileError(f"no model {name!r}: not a file, and the known ones are {names}")
    if path.suffix == ".onnx":
        read_metadata(path)  # and with it the whole file's checksum
    card = path.with_suffix(".md")
    if not card.exists():
        raise ModelFileError(f"{path}: the model is sound, but its card {card.name} is missing")
    print_card(read_text(card, ModelFileError))


def _test_increments(name: str, states: str) -> None:
    """Run the increment test from up to four pairs of states, print it, and keep what it found of an added model."""
    model = load_model(name)
    previous, current = _pairs_of_states(states, model.grid)
    found = run_increment_test(model, previous, current)
    table = new_table("in the frames", "after", numbers=tuple(GROUPS), title=f"{model.name}: size of an increment left")
    for setting, by_lead in found.sizes.items():
        for lead, sizes in by_lead.items():
            table.add_row(setting, f"{lead} h", *(f"{sizes[group]:.2f}" for group in GROUPS))
    console.print(table, markup=False)
    doubling = ", ".join(f"{band}: {days:.1f} days" for band, days in found.doubling_days.items())
    console.print(f"small perturbations double in, by zonal wave number: {doubling}", soft_wrap=True)
    console.print(f"experiments with {model.name} take `frames: {found.frames}`", soft_wrap=True)
    if name in registered_models():
        registry.registered(name).keep_increments(found.as_dict())


def _print_growth(name: str, pairs: Path) -> None:
    """Print doubling times and ten days' growth of small errors, of the nature run and of a model."""
    model = load_model(name)
    found = measure_growth(model, pairs)
    title = f"errors from {found.pairs} pairs, nature run / {model.name}"
    table = new_table("total wavenumbers", "", numbers=HEADLINE, title=title)
    days = [found.doubling_days(sizes) for sizes in (found.nature, found.model)]
    factors = [sizes[-1] / sizes[0] for sizes in (found.nature, found.model)]
    for what, (nature, own) in {"doubled in (days)": days, "times after 10 days": factors}.items():
        for k, band in enumerate(BANDS):
            table.add_row(band, what, *(f"{a:.1f} / {b:.1f}" for a, b in zip(nature[k], own[k], strict=True)))
    console.print(table, markup=False)


def _pairs_of_states(states: str, grid: StateGrid) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the two frames (n, 69, H, W) of up to four starts spread over a product."""
    source = open_states(states)
    starts = [time for time in source.times if time - STEP in source and time in source]
    if not starts:
        raise StateError(f"{states}: has no two whole states that are 6 h apart; `dacycle states {states}` lists them")
    chosen = [starts[k] for k in np.unique(np.linspace(0, len(starts) - 1, 4).astype(int))]
    previous, current = (np.stack([source.state(t - lag, grid).values for t in chosen]) for lag in (STEP, 0 * STEP))
    return previous, current


@group.command()
def add(
    name: Annotated[str, typer.Argument(help=f"{', '.join(RELEASES)}, or a name of your own.")],
    file: Annotated[Path, typer.Argument(help="The ONNX file; separate files of weights are in its folder.")],
    mean: Annotated[Path | None, typer.Option(help="data_mean.npy; without it, FengWu's published values.")] = None,
    std: Annotated[Path | None, typer.Option(help="data_std.npy; the two go together.")] = None,
    made_for: For = None,
    grid: Grid = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="Keep a copy; without it the file must stay in its place.")
    ] = False,
) -> None:
    """Check FengWu's weights, or a network with the same tensors, and register them under a name.

    Nothing is downloaded. The file is neither changed nor moved; its SHA-256 is kept and checked when it is used.

    Example: dacycle models add fengwu-v1 fengwu_v1.onnx --mean data_mean.npy --std data_std.npy
    """
    if name in _packaged():
        raise ModelFileError(f"{name} is the name of a packaged network; choose another one")
    if (mean is None) != (std is None):
        raise ModelFileError("give both --mean and --std, or neither")
    statistics = registry.read_npy_statistics(mean, std) if mean is not None and std is not None else None
    _say_added(registry.add(name, file, statistics, world=made_for, grid=grid, copy=copy))


@group.command()
def double(
    grid: Annotated[str, typer.Option(help="Grid of the double.")] = "0.25deg",
    made_for: Annotated[str, typer.Option("--for", help="States that the replaced model was made for.")] = "era5",
) -> None:
    """Make and add a double of FengWu: the same tensors and size but no skill, for tests and timing.

    Needs the package `onnx`, of the extra `train`.

    Example: dacycle models double --grid 0.25deg
    """
    _say_added(add_double(grid, made_for))


@group.command("half")
def half_precision(
    name: Annotated[str, typer.Argument(help="An added model.")],
    steps: Annotated[int, typer.Option(min=1, help="Number of 6-h steps to compare.")] = 20,
    state: Annotated[
        Path | None, typer.Option(help="A state to start from: GRIB, netCDF or Zarr; default: a generated one.")
    ] = None,
) -> None:
    """Add NAME-fp16, the same network in half precision, and measure how far its forecasts differ.

    States stay float32, and normalisation is outside the network, so that no geopotential is in half precision. Needs
    `onnx`.

    Example: dacycle models half fengwu-v1 --steps 40 --state era5.nc
    """
    registration, differences = add_half(name, steps, state)
    table = new_table(
        "step", numbers=("rms difference", "largest"), title=f"{registration.name} against {name}, in std"
    )
    table.add_column("of channel")
    for step, (rms, channel, worst) in differences.items():
        table.add_row(f"{step} ({6 * step} h)", f"{rms:.2g}", f"{worst:.2g}", channel)
    console.print(table)
    _say_added(registration)


def _say_added(registration: Registration) -> None:
    print_card(read_text(registration.card, ModelFileError))
    if registration.name in RELEASES:
        console.print(f"licence of the weights: {LICENCE}", soft_wrap=True)
    name = registration.name
    console.print(f"added: an experiment's `model: {name}` and `dacycle forecast --model {name}` take it")


@dataclass(frozen=True)
class _Entry:
    """Hold a row of the list."""

    name: str
    kind: str
    grid: str
    world: str
    digest: str
    size: int
    file: str
    complaint: Callable[[], str]


def _entries() -> list[_Entry]:
    entries = []
    for name, path in _packaged().items():
        kind, grid, home = _described(path)
        size = path.stat().st_size
        entries.append(_Entry(name, kind, grid, home, digest(path), size, path.name, partial(_complaint, path)))
    for name, model in registered_models().items():
        kind, check = "double" if model.double else "forecast", partial(model.complaint, read_all=True)
        entries.append(_Entry(name, kind, model.grid, model.world, model.digest, model.size, name, check))
    return entries


def _packaged() -> dict[str, Path]:
    return {**model_files(), **packaged_assimilators(), **operator_files()}


def _complaint(path: Path) -> str:
    """Return what is wrong with a packaged file or its card; empty if its card fits and it has passed the gate."""
    card = path.with_suffix(".md")
    if not card.exists():
        return "it has no card"
    if digest(path) not in read_text(card, ModelFileError):
        return "its card is another file's"
    if path.suffix != ".onnx":
        return ""  # estimated, not trained
    about = read_metadata(path)
    if about["kind"] == "assimilator" and not about.get("scores", {}).get("passed"):
        return "it has not passed the gate"
    return ""


def _described(path: Path) -> tuple[str, str, str]:
    """Return kind, grid and world of a packaged file, which is read whole."""
    if path.suffix == ".onnx":
        about = read_metadata(path)
        return about["kind"], about["grid"], about["world"]
    from dacycle.assimilators.classical.background_error import BackgroundError
    from dacycle.assimilators.variational.covariance import Covariance

    estimate = Covariance.load(path) if path.stem in VARIATIONAL_METHODS else BackgroundError.load(path)
    return "assimilator", estimate.grid.name, estimate.world
