"""Commands for networks: train them, export them, look at the packaged ones."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from dacycle.assimilators.background_error import estimate_from_recipe
from dacycle.assimilators.training.recipe import load_recipe, recipe_kind
from dacycle.forecast_adapter.models import ModelFileError, OnnxForecastModel, model_files
from dacycle.forecast_adapter.onnxfile import digest

__all__ = ["app"]

app = typer.Typer()


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="the recipe, e.g. deploy/recipes/mini.yaml")],
    out: Annotated[Path | None, typer.Option(help="folder of the run (default: runs/ and the recipe's name)")] = None,
    data: Annotated[str | None, typer.Option(help="folder with the years, instead of the recipe's")] = None,
) -> None:
    """Train a network, or estimate the ensemble of a recipe of `kind: oi`.

    A network needs the extra `train`; an interrupted training goes on when the same command is run again.

    Example: dacycle train deploy/recipes/mini-cpu.yaml --data nature
    """
    folder = out or Path("runs") / recipe.stem
    if recipe_kind(recipe) == "oi":
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{recipe.stem}.nc"
        estimate_from_recipe(recipe, path, data)
        typer.echo(f"estimated: {path}; an experiment's `assimilator:` takes this path")
        return
    _need_torch()
    from dacycle.assimilators.training.run import train as run

    run(load_recipe(recipe, data), folder, say=typer.echo)
    typer.echo(f"trained: {folder}; next: dacycle export {folder}")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="folder of a training run")],
    out: Annotated[Path | None, typer.Option(help="the file to write (default: NAME.onnx in the run)")] = None,
    data: Annotated[str | None, typer.Option(help="folder with the validation year, instead of the recipe's")] = None,
) -> None:
    """Write a run's network as ONNX with its metadata, check it against torch, score it and write its card.

    Example: dacycle export runs/mini-cpu --out mini.onnx
    """
    _need_torch()
    from dacycle.assimilators.export import export as write
    from dacycle.assimilators.training.run import read_run

    recipe, _, _ = read_run(run)
    path = write(run, out or run / f"{recipe.name}.onnx", data, say=typer.echo)
    typer.echo(f"{path}, and its card {path.with_suffix('.md').name}; an experiment's `model:` takes this path")


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(help="a packaged model or a file: show its card")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="check every packaged file against its card")] = False,
) -> None:
    """List the forecast models, show one's card, or check the files.

    Example: dacycle models mini
    """
    packaged = model_files()
    if name is not None:
        path = packaged.get(name, Path(name))
        OnnxForecastModel(path)
        card = path.with_suffix(".md")
        if not card.exists():
            raise ModelFileError(f"{path}: the model is sound, but its card {card.name} is missing")
        Console().print(Markdown(card.read_text()))
        return
    table = Table("name", "version", "grid", "world", "sha256", "card" if verify else "size")
    wrong = []
    for path in packaged.values():
        model = OnnxForecastModel(path)  # reads the whole file and its checksum
        found = f"{path.stat().st_size / 1e6:.1f} MB"
        if verify:
            card = path.with_suffix(".md")
            agrees = card.exists() and digest(path) in card.read_text()
            found = "agrees" if agrees else "another file's"
            wrong += [] if agrees else [path.name]
        about = (model.name, str(model.metadata["version"]), model.grid.name, model.world, model.digest[:12])
        table.add_row(*about, found)
    Console().print(table)
    if wrong:
        raise ModelFileError(f"{', '.join(wrong)}: not the file that its card describes; get both anew")


def _need_torch() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("torch", "lightning", "onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ModelFileError(f'{", ".join(missing)} not installed: pip install "dacycle[train]"')
