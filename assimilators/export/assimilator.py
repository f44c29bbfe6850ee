"""From an assimilator's training run to its file: an ONNX graph with metadata, checked against torch once and cycled.

Weights are rounded (`rounding`), and what that changes is measured and stated. The spread is calibrated on the
validation year (`_calibrate`). The file is no method of the registry yet: `dacycle gate` judges it.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dacycle.assimilators.exceptions import ExportError
from dacycle.assimilators.export.forecast import PARITY_LIMIT
from dacycle.assimilators.export.graphs import step_to_onnx, to_onnx
from dacycle.assimilators.export.rounding import round_weights, store_rounded
from dacycle.assimilators.judging.evaluation import OneShot, evaluate
from dacycle.assimilators.networks import METHODS
from dacycle.assimilators.sampling.backgrounds import held_out
from dacycle.assimilators.sampling.cycles import cycle, cycled_errors
from dacycle.assimilators.sampling.observing import Network, Observing, observing_of, random_network
from dacycle.assimilators.trained.network import INPUTS, OUTPUTS, TrainedAssimilator, assimilator_metadata
from dacycle.assimilators.training.assimilation import TorchAssimilator
from dacycle.assimilators.training.assimilator_run import accepted_round, read_assimilator_run
from dacycle.assimilators.training.recipe import AssimilatorRecipe
from dacycle.forecast_adapter.channels import NAMES
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.models.onnxfile import write_metadata
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.world import World, load_world

__all__ = ["example_inputs", "export_assimilator", "write_graph"]

SAMPLES, CYCLES, STARTS = 24, 40, 16
WORSE = 1.1  # a chain of the file may be worse than torch's by so much, because chains part


def export_assimilator(run: Path, out: Path, data: str | None = None, say: Callable[[str], None] = print) -> Path:
    """Export the accepted network of a run to `out` (NAME.onnx).

    Args:
        run: folder of a training run.
        out: the file to write.
        data: folder with the years, where it is not the recipe's; the validation year is needed.

    Raises:
        ExportError: the graph differs from the network by more than 1e-4 standard deviations.
    """
    recipe, record, trained = read_assimilator_run(run)
    world = load_world(recipe.world)
    year = recipe.validation_years[0]
    observing = observing_of(world, Reference(Path(data or recipe.data) / str(year)), recipe.observations)
    network = copy.deepcopy(trained)
    round_weights(network)
    ours, exact = (TorchAssimilator(each, world.grid, world.name) for each in (network, trained))
    say(f"single analyses of {year}, with rounded weights and with exact ones")
    single, before = (_single_analyses(method, observing, recipe) for method in (ours, exact))
    say(f"cycles of {year}, to calibrate the spread")
    calibration = _calibrate(ours, single, observing, recipe)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as folder:
        part = Path(folder) / out.name
        write_graph(network, part)
        store_rounded(part)
        about = _metadata(recipe, record, world, network, accepted_round(run)) | {"calibration": calibration}
        about["rounding"] = {
            f"overall_mse_{name}": float(f"{(found.analysis.mean(0) / world.statistics.std**2).mean():.6g}")
            for name, found in (("rounded", single), ("exact", before))
        }
        write_metadata(part, about)
        exported = TrainedAssimilator(part)
        say(f"{SAMPLES} real inputs, and inputs that no atmosphere gives, in ONNX Runtime and in torch")
        parity = _parity(exported, ours, observing, recipe)
        say(f"{CYCLES} cycles with each")
        parity["cycled"] = _cycled_parity(exported, ours, observing, recipe)
        for name, value in {"rounding": about["rounding"], **parity}.items():
            say(f"{name}: {value}")
        write_metadata(part, {**about, "parity": parity})
        part.replace(out)
    return out


def example_inputs(network: Any) -> list[torch.Tensor]:
    """One background, the mean state, with nothing observed; of an iterative method also what its first step takes."""
    channels = len(NAMES)
    given = [torch.zeros(1, size, *network.static.shape[1:]) for size in (channels, *2 * (network.inputs,))]
    given[0] += network.mean
    if (stepping := network.stepping) is not None:
        given += [torch.zeros(1, dtype=torch.int64), *map(torch.from_numpy, stepping.start(given[0][0].numpy()))]
    return given


def write_graph(network: Any, path: Path) -> None:
    """Write a method's graph, or that of its step, with the tensors of the contract but without metadata."""
    given, stepping = example_inputs(network), network.stepping
    with torch.no_grad():
        found = len(network(*given)) - (len(stepping.carried) if stepping else 0)  # a method may have no spread
    write = to_onnx if stepping is None else step_to_onnx
    sizes = (tensor.shape[1] for tensor in given)
    write(network, path, dict(zip(INPUTS, sizes, strict=False)), list(OUTPUTS[:found]))


def _single_analyses(method: TorchAssimilator, observing: Observing, recipe: AssimilatorRecipe) -> OneShot:
    reference, world = observing.world.reference, observing.world
    backgrounds = held_out(load_model(recipe.model), reference, world, STARTS)
    return evaluate(method, observing, backgrounds, recipe.seed)


def _calibrate(
    method: TorchAssimilator, single: OneShot, observing: Observing, recipe: AssimilatorRecipe
) -> dict[str, float]:
    """Multiply each channel's spread so that it is as much too large in single analyses as too small in cycles.

    At the same departures a cycle's errors are larger than a forecast's where nothing is observed, and the network
    cannot tell the two apart by what it is given.

    Returns:
        Spread over error, before, over all channels: of single analyses, and of cycles.
    """
    if single.spread_ratio is None:
        return {}
    cycled = cycled_errors(method, load_model(recipe.model), observing, recipe.seed, recipe.validation_days)
    if cycled.spread_ratio is None:
        raise ExportError("no analysis of the validation year's cycles could be used")
    factor = 1 / np.sqrt(single.spread_ratio * cycled.spread_ratio)
    method.network.calibration.copy_(torch.from_numpy(factor.astype(np.float32))[:, None, None])
    ratios = {"single": single.spread_to_skill(), "cycled": cycled.spread_to_skill()}
    return {name: round(float(ratio), 3) for name, ratio in ratios.items() if ratio is not None}


def _metadata(
    recipe: AssimilatorRecipe, record: dict[str, Any], world: World, network: Any, number: int
) -> dict[str, Any]:
    return assimilator_metadata(
        recipe.name,
        recipe.version,
        world.grid.name,
        world.name,
        tuple(network.planes),
        recipe.method,
        network.size.reach_km,
        source=METHODS[recipe.method].source,
        **({} if network.stepping is None else {"stepping": network.stepping.as_dict()}),
        licence=recipe.licence,
        training={
            "recipe": recipe.digest(),
            "model": recipe.model,
            "observations": recipe.observations,
            "years": recipe.training_years,
            "samples": record["samples"],
            "data_sha256": record["data"],
            "statistics": record["statistics"],
            "weights": record["weights"],
            "rounds": record["rounds"],
            "accepted_round": number,
            "minutes": record["minutes"],
            "machine": record["machine"],
            "versions": record["versions"],
        },
    )


def _parity(
    exported: TrainedAssimilator, ours: TorchAssimilator, observing: Observing, recipe: AssimilatorRecipe
) -> dict[str, Any]:
    """Largest differences of analysis and spread, in standard deviations. ExportError beyond the limit."""
    world = observing.world
    std = world.statistics.std[:, None, None]
    worst: dict[str, tuple[float, str]] = {}
    inputs = [*_real_inputs(observing, recipe), *_odd_inputs(world, len(ours.planes))]
    for background, values, errors in inputs:
        both = [method.analyse(background, values, errors) for method in (exported, ours)]
        for name, attribute in zip(OUTPUTS, ("state", "spread"), strict=True):
            found, expected = (getattr(analysis, attribute) for analysis in both)
            if expected is None:
                continue
            difference = (np.abs(found[0].astype(float) - expected[0]) / std).max(axis=(1, 2))
            k = int(difference.argmax())
            worst[name] = max(worst.get(name, (0.0, "")), (float(difference[k]), NAMES[k]))
    for name, (value, channel) in worst.items():
        if not value <= PARITY_LIMIT:
            raise ExportError(f"{name}: {channel} differs from torch by {value:.1e} standard deviations")
    return {
        "inputs": len(inputs),
        **{name: {"largest": float(f"{v:.2g}"), "channel": channel} for name, (v, channel) in worst.items()},
    }


def _real_inputs(observing: Observing, recipe: AssimilatorRecipe) -> list[tuple[NDArray, ...]]:
    """Held-out backgrounds with networks of all kinds."""
    world = observing.world
    backgrounds = held_out(load_model(recipe.model), world.reference, world, SAMPLES // 3)
    inputs: list[tuple[NDArray, ...]] = []
    for sample, (time, error) in enumerate(zip(backgrounds.times, backgrounds.errors, strict=True)):
        generator = np.random.default_rng([recipe.seed, sample])
        network = random_network(generator, observing.names)
        background = world.reference.array(time) + error.astype(np.float32) * world.statistics.std[:, None, None]
        drawn = observing.draw(time, background, network, generator)
        inputs.append((background[None], drawn.values[None], drawn.errors[None]))
    return inputs


def _odd_inputs(world: World, planes: int) -> list[tuple[NDArray, ...]]:
    """Nothing observed, one value, everything, and noise in place of an atmosphere."""
    generator = np.random.default_rng(0)
    mean, std = world.statistics.mean[:, None, None], world.statistics.std[:, None, None]
    state = mean + std * generator.standard_normal((len(NAMES), *world.grid.shape)).astype(np.float32)
    nothing = np.zeros((len(NAMES) + planes, *world.grid.shape), np.float32)
    one, all_values = nothing.copy(), nothing.copy()
    one[0, 0, 0], all_values[: len(NAMES)] = 10.0, state
    one_error = np.where(one > 0, 1.0, 0.0).astype(np.float32)
    all_errors = np.concatenate([np.broadcast_to(std, state.shape), nothing[len(NAMES) :]])
    cases = [(nothing, nothing), (one, one_error), (all_values, all_errors)]
    return [(state[None], values[None], errors.astype(np.float32)[None]) for values, errors in cases]


def _cycled_parity(
    exported: TrainedAssimilator, ours: TorchAssimilator, observing: Observing, recipe: AssimilatorRecipe
) -> dict[str, Any]:
    """How far apart two chains are in the end that differ in nothing but the runtime, and how wrong torch's is.

    ExportError where the file's chain is the worse one.
    """
    world, model = observing.world, load_model(recipe.model)
    first = world.reference.times[len(world.reference.times) // 2]
    chains = [cycle(method, model, observing, first, CYCLES, recipe.seed, Network()) for method in (exported, ours)]
    ends = [next(islice(chain, CYCLES - 1, None)) for chain in chains]
    std, area = world.statistics.std[:, None, None], world.grid.weights
    apart = np.sqrt((((ends[0].analysis - ends[1].analysis) / std).astype(np.float64) ** 2 * area).mean())
    found, expected = (
        np.sqrt((((end.analysis - end.truth) / std).astype(np.float64) ** 2 * area).mean()) for end in ends
    )
    if not found <= WORSE * expected:
        raise ExportError(
            f"after {CYCLES} cycles the file's error is {found:.2g} standard deviations, torch's is {expected:.2g}"
        )
    return {"cycles": CYCLES, "rms_difference": float(f"{apart:.2g}"), "rms_error": float(f"{expected:.2g}")}
