"""Commands for networks: make samples, train, export, judge."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from dacycle.assimilators.base import (
    Assimilator,
    AssimilatorError,
    current_name,
    load_assimilator,
    packaged_assimilators,
)
from dacycle.assimilators.classical.ensemble_recipe import estimate_from_recipe
from dacycle.assimilators.exceptions import RecipeError
from dacycle.assimilators.judging.evaluation import evaluate as evaluate_assimilator
from dacycle.assimilators.judging.operator_scores import score_operator
from dacycle.assimilators.sampling.backgrounds import held_out
from dacycle.assimilators.sampling.model_bias import estimate_bias
from dacycle.assimilators.sampling.observing import observing_of
from dacycle.assimilators.training.recipe import (
    AssimilatorRecipe,
    NetworkRecipe,
    OperatorRecipe,
    load_recipe,
    recipe_kind,
)
from dacycle.assimilators.variational.recipe import estimate_from_recipe as estimate_covariance_from_recipe
from dacycle.cycler.cli.show import console
from dacycle.cycler.cli.texts import need_torch, parse_relaxation, parse_setting, parse_years
from dacycle.forecast_adapter.channels import HEADLINE, PLANES, readable
from dacycle.forecast_adapter.grid import get_grid
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.models.onnxfile import read_metadata
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.relaxation import RelaxationSettings
from dacycle.forecast_adapter.worlds.world import World, load_world
from dacycle.obs_ingest.operators.learned import KIND as OPERATOR
from dacycle.obs_ingest.operators.learned import LearnedOperator, operator_files

__all__ = ["app"]

app = typer.Typer()
GPUS = (1, 4, 8)
SUSTAINED = (1, 10, 50)
"""10^12 operations a second; networks like these sustain a fraction of a GPU's nominal speed."""
ESTIMATES: dict[str, tuple[Callable[[Path, Path, str | None], object], str]] = {
    "oi": (estimate_from_recipe, "an experiment's `assimilator:` takes this path"),
    "3dvar": (estimate_covariance_from_recipe, "an experiment's `variational: {covariance: FILE}` takes this path"),
    "bias": (estimate_bias, "copy it beside the model's file, as its name with `.bias.nc`"),
}
"""What is estimated without a network, by the kind of its recipe: how, and what is then done with the file."""
SOURCES = [{"source": "stations"}, {"source": "sondes"}, {"source": "olr"}]
"""The observing system where no recipe names one: that of the demonstration."""


@app.command()
def backgrounds(
    data: Annotated[Path, typer.Argument(help="Folder of a nature run or a dataset.")],
    folder: Annotated[Path, typer.Argument(help="The folder to write; existing months are kept.")],
    years: Annotated[str, typer.Option(help="Training years, e.g. 2020,2021.")],
    world: Annotated[str, typer.Option(help="World whose statistics are used.")] = "demonstration",
    model: Annotated[str, typer.Option(help="Forecast model that makes the backgrounds.")] = "mini",
    cycling: Annotated[
        str | None,
        typer.Option(help="Assimilator, by name or file: make backgrounds of its cycles instead of forecasts."),
    ] = None,
    both: Annotated[
        bool, typer.Option("--both", help="In the cycles both frames get the increment, as with `frames: both`.")
    ] = False,
    relaxation: Annotated[
        RelaxationSettings | None,
        typer.Option(
            parser=parse_relaxation,
            metavar="TEXT",
            help="Of the cycles' backgrounds, as an experiment has it, e.g. '{tropics: 8d, elsewhere: 17d}'.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(help="Number of months made at the same time.")] = 2,
) -> None:
    """Make the backgrounds that an assimilator is trained with: errors of 6- to 48-h forecasts, or of cycles.

    They hold no observations, which training draws anew for every sample. Run the command again to continue after an
    interruption.

    Example: dacycle backgrounds nature backgrounds --years 2020,2021

    Example: dacycle backgrounds nature cycles --years 2020,2021 --cycling fnp
    """
    from dacycle.assimilators.sampling.backgrounds import make_forecasts
    from dacycle.assimilators.sampling.cycled_backgrounds import make_cycles

    chosen = parse_years(years)
    if cycling is None and (both or relaxation):
        raise typer.BadParameter("--both and --relaxation say how cycles go on; give --cycling ASSIMILATOR as well")
    if cycling is None:
        make_forecasts(data, folder, chosen, world, model, workers=workers)
    else:
        frames = 1.0 if both else None
        make_cycles(data, folder, chosen, world, model, cycling, SOURCES, workers, frames, relaxation)
    size = sum(path.stat().st_size for path in folder.glob("*.nc")) / 1e9
    typer.echo(f"{folder}: {size:.1f} GB; a recipe's `backgrounds:` takes this path")


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="The recipe, e.g. deploy/recipes/fnp-cpu.yaml.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default: runs/ and the recipe's name.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Folder with the years, or with the backgrounds of `kind: bias`, instead of the recipe's."),
    ] = None,
    estimate: Annotated[
        str | None,
        typer.Option(metavar="GRID", help="Do not train; print the cost of training an assimilator on this grid."),
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of a network's recipe; may be repeated."),
    ] = None,
) -> None:
    """Train a network, or estimate statistics of errors (recipes of `kind: oi`, `3dvar`, `bias`).

    A network needs the extra `train`. Run the same command again to continue an interrupted training.

    With --set, the folder's default name also says what is changed.

    Example: dacycle train deploy/recipes/mini-cpu.yaml --data nature

    Example: dacycle train deploy/recipes/adas-cpu.yaml --set seed=2   # into runs/adas-cpu-seed-2

    Example: dacycle train deploy/recipes/era5/fnp.yaml --estimate 1.40625deg
    """
    name = "-".join([recipe.stem, *(re.sub(r"[^\w.]+", "-", text).strip("-") for text in change or [])])
    folder, kind = out or Path("runs") / name, recipe_kind(recipe)
    if kind in ESTIMATES:
        if change:
            raise RecipeError(f"--set {change[0]}: {recipe} is of kind {kind}; only networks' recipes can be changed")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{recipe.stem}.nc"
        make, then = ESTIMATES[kind]
        make(recipe, path, data)
        typer.echo(f"estimated: {path}; {then}")
        return
    need_torch()
    read = load_recipe(recipe, data, dict(parse_setting(text, "--set") for text in change or []))
    if estimate is not None:
        _say_what_it_takes(read, estimate)
        return
    if isinstance(read, AssimilatorRecipe):
        from dacycle.assimilators.training.assimilator_run import train_assimilator

        train_assimilator(read, folder)
    elif isinstance(read, OperatorRecipe):
        from dacycle.assimilators.training.operator import train_operator

        train_operator(read, folder)
    else:
        from dacycle.assimilators.training.forecast_run import train_forecast

        train_forecast(read, folder)
    typer.echo(f"trained: {folder}; next: dacycle export {folder}")


def _say_what_it_takes(recipe: NetworkRecipe, grid: str) -> None:
    from dacycle.assimilators.training.cost import estimate_cost, measure_cost

    if not isinstance(recipe, AssimilatorRecipe):
        raise RecipeError(f"{recipe.name}: what a recipe of kind {recipe.kind} takes cannot be estimated yet")
    cost = estimate_cost(recipe, get_grid(grid))
    memory = cost.memory_gb(recipe.batch)
    typer.echo(f"{cost.weights:,} weights; {memory:.2g} GB of memory in each process, {recipe.batch} samples at once")
    typer.echo(f"{cost.samples:,} samples, {cost.teraflops:.2g} x 10^12 operations each")
    typer.echo(f"on disk {cost.states_gb:.0f} GB of states and {cost.backgrounds_gb:.0f} GB of forecasts' errors")
    table = Table("hours, if each GPU sustains", *(f"{n} GPU{'s' if n > 1 else ''}" for n in GPUS))
    for sustained in SUSTAINED:
        hours = (f"{cost.hours(n, sustained):.2g}" for n in GPUS)
        table.add_row(f"{sustained} x 10^12 operations a second", *hours)
    console.print(table)
    measured = measure_cost(recipe, get_grid(grid))
    if measured is not None:
        took = ", ".join(f"{measured.hours(cost.samples, n):.2g} on {n}" for n in GPUS)
        typer.echo(
            f"measured on {measured.device}, uncompiled: {measured.memory_gb:.2g} GB, "
            f"{1000 * measured.seconds:.3g} ms a sample; hours: {took}"
        )
    typer.echo("not counted: drawing of observations by workers, and the model's forecasts in closed-loop rounds")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a training run.")],
    out: Annotated[Path | None, typer.Option(help="The file to write; default: NAME.onnx in the run.")] = None,
    data: Annotated[str | None, typer.Option(help="Folder with the validation year, instead of the recipe's.")] = None,
) -> None:
    """Write a run's network as ONNX with its metadata and check it against torch.

    A forecast model or an observation operator is scored, and gets its card; an assimilator gets its own from
    `dacycle gate`.

    Example: dacycle export runs/mini-cpu --out mini.onnx
    """
    need_torch()
    from dacycle.assimilators.training.folder import read_record

    recipe, _ = read_record(run)
    path = out or run / f"{recipe.name}.onnx"
    if isinstance(recipe, AssimilatorRecipe):
        from dacycle.assimilators.export.assimilator import export_assimilator

        export_assimilator(run, path, data)
        typer.echo(f"{path}; next: dacycle gate {path} --data {data or recipe.data}")
        return
    if isinstance(recipe, OperatorRecipe):
        from dacycle.assimilators.export.operator import export_operator

        export_operator(run, path, data)
    else:
        from dacycle.assimilators.export.forecast import export_forecast

        export_forecast(run, path, data)
    key = "operator" if isinstance(recipe, OperatorRecipe) else "model"
    typer.echo(f"{path}, and its card {path.with_suffix('.md').name}; an experiment's `{key}:` takes this path")


@app.command()
def gradient(
    network: Annotated[
        str, typer.Argument(help="A packaged forecast model or learned observation operator, or the ONNX file of one.")
    ],
    out: Annotated[Path | None, typer.Option(help="The file to write; default: where it is looked for.")] = None,
) -> None:
    """Write the tangent linear and the adjoint of a forecast model or learned operator, checked.

    4dvar needs those of the model, and `variational: {olr: learned}` those of the operator. By default the file is in
    the folder `gradients` beside the network's, under the same name.

    Example: dacycle gradient runs/mini-cpu/mini.onnx

    Example: dacycle gradient runs/olr-tp-cpu/olr-tp.onnx
    """
    need_torch()
    from dacycle.assimilators.export.gradient import export_gradient

    path = operator_files().get(network, Path(network))
    is_operator = path.is_file() and read_metadata(path).get("kind") == OPERATOR
    typer.echo(export_gradient(LearnedOperator(path) if is_operator else load_model(network), out))


@app.command()
def gate(
    file: Annotated[Path, typer.Argument(help="An exported assimilator; its scores are written into it.")],
    data: Annotated[Path, typer.Option(help="Folder with the years.")],
    years: Annotated[str, typer.Option(help="Years held out from training; cycles run over the first.")] = "2023,2024",
    world: Annotated[str, typer.Option(help="World that the file was made for.")] = "demonstration",
    against: Annotated[str, typer.Option(help="Another method, for comparison.")] = "oi",
    enter: Annotated[bool, typer.Option("--register", help="Copy it to the packaged methods if it passes.")] = False,
) -> None:
    """Judge a trained assimilator and write its card: parity, single observations, single analyses, cycles.

    Exit status 2 if it does not pass. Needs the package `onnx`, of the extra `train`.

    Example: dacycle gate runs/fnp-cpu/fnp.onnx --data nature --register
    """
    from dacycle.assimilators.judging.gate import judge_assimilator, register_assimilator

    verdict = judge_assimilator(file, data, parse_years(years), world, against)
    table = Table("check", "found", "allowed", "")
    for check in verdict.checks:
        table.add_row(check.name, check.found, check.allowed, "met" if check.passed else "[red]not met")
    console.print(table)
    typer.echo(f"card: {file.with_suffix('.md')}")
    if enter:
        typer.echo(f"registered: {register_assimilator(file, verdict)}")
    elif not verdict.passed:
        raise AssimilatorError(f"{file} has not passed")


@app.command()
def evaluate(
    name: Annotated[
        str, typer.Argument(help="A packaged assimilator or observation operator, a file, or a run's folder.")
    ],
    data: Annotated[Path, typer.Option(help="Folder with the years.")],
    year: Annotated[int, typer.Option(help="Year held out from its training.")],
    against: Annotated[str, typer.Option(help="Another method, for comparison.")] = "oi",
    starts: Annotated[int, typer.Option(help="Number of forecasts, each a background at 6, 24 and 48 h.")] = 32,
    world: Annotated[str, typer.Option(help="World whose statistics are used.")] = "demonstration",
    model: Annotated[str, typer.Option(help="Forecast model of the backgrounds.")] = "mini",
    seed: Annotated[int, typer.Option(help="Seed of the observations.")] = 1,
    sizes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Change an entry of a run's network on which no weight depends; may be repeated.",
        ),
    ] = None,
) -> None:
    """Score single analyses of held-out backgrounds: errors over the globe, against the background and another method.

    An observation operator is scored against the OLR and precipitation of the year, beside climatology and the
    regression of optimal interpolation; only `--data` and `--year` apply to it.

    A run's folder scores its network before it is exported.

    Example: dacycle evaluate fnp --data nature --year 2024

    Example: dacycle evaluate runs/diffusion-cpu --data nature --year 2023 --starts 8 --set steps=20
    """
    path = {**operator_files(), **packaged_assimilators()}.get(current_name(name), Path(name))
    if path.suffix == ".onnx" and path.is_file() and read_metadata(path).get("kind") == OPERATOR:
        _refuse_sizes(name, sizes or [])
        _evaluate_operator(path, data, year)
        return
    home, forecaster = load_world(world), load_model(model)
    reference = Reference(data / str(year))
    observing = observing_of(home, reference, SOURCES)
    backgrounds = held_out(forecaster, reference, home, starts)
    methods = {name: _method(name, home, sizes or []), against: load_assimilator(against, home)}
    scores = {n: evaluate_assimilator(method, observing, backgrounds, seed) for n, method in methods.items()}
    table = Table(
        "channel", "lead", "background", *scores, *(f"spread of {n}" for n in scores if scores[n].spread is not None)
    )
    first = scores[name]
    for channel in HEADLINE:
        factor, unit = readable(channel)
        for lead in (*np.unique(first.leads).tolist(), None):
            errors = [f"{factor * s.rmse('analysis', channel, lead):.4g}" for s in scores.values()]
            with_spread = [s for s in scores.values() if s.spread is not None]
            spreads = [f"{factor * s.rmse('spread', channel, lead):.4g}" for s in with_spread]
            label = f"{channel} ({unit})" if lead == first.leads[0] else ""
            table.add_row(
                label,
                "all" if lead is None else f"{lead} h",
                f"{factor * first.rmse('background', channel, lead):.4g}",
                *errors,
                *spreads,
            )
    console.print(table)
    for method, result in scores.items():
        ratio = result.spread_to_skill()
        spread = "" if ratio is None else f"; spread over error {ratio:.2f}"
        left = np.mean([result.rmse("analysis", c) / result.rmse("background", c) for c in HEADLINE])
        typer.echo(
            f"{method}: {left:.3f} of the background's error, mean of {len(HEADLINE)} channels; "
            f"{1000 * result.seconds:.0f} ms an analysis{spread}"
        )


def _method(name: str, world: World, sizes: list[str]) -> Assimilator:
    """Return the assimilator; for a run's folder its network, with some sizes changed."""
    if not (Path(name) / "run.json").is_file():
        _refuse_sizes(name, sizes)
        return load_assimilator(name, world)
    need_torch()
    from dacycle.assimilators.training.assimilator_run import run_assimilator

    return run_assimilator(Path(name), world, dict(map(_size, sizes)))


def _refuse_sizes(name: str, sizes: list[str]) -> None:
    if sizes:
        raise RecipeError(f"--set {sizes[0]}: {name} is no run's folder, so its sizes cannot be changed")


def _size(item: str) -> tuple[str, int | str]:
    name, _, value = item.partition("=")
    if not value:
        raise RecipeError(f"--set {item}: write it as NAME=VALUE, such as steps=20 or guidance=published")
    return name, int(value) if value.isdecimal() else value


def _evaluate_operator(path: Path, data: Path, year: int) -> None:
    table = Table("plane", "method", "rmse", "bias", "correlation", "stated / actual error")
    for score in score_operator(LearnedOperator(path), data, year):
        ratios = (f"{x:.3f}" if np.isfinite(x) else "" for x in (score.correlation, score.stated))
        label = f"{score.plane} ({PLANES[score.plane]})"
        table.add_row(label, score.method, f"{score.rmse:.3g}", f"{score.bias:+.2g}", *ratios)
    console.print(table)
    typer.echo("correlation of anomalies from the climatology of the training years")
