"""Export of an assimilator: an ONNX graph with its metadata, checked against torch in single analyses and in cycles.

Weights are rounded (`rounding`), and the effect is measured and recorded. The spread is calibrated on the validation
year (`_calibrate`). The file becomes a packaged method only through `dacycle gate`.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dacycle.assimilators.exceptions import ExportError
from dacycle.assimilators.export.graphs import step_to_onnx, to_onnx
from dacycle.assimilators.export.parity import check_parity
from dacycle.assimilators.export.rounding import round_weights, store_rounded
from dacycle.assimilators.judging.evaluation import OneShot, evaluate
from dacycle.assimilators.networks import METHODS
from dacycle.assimilators.sampling.backgrounds import held_out
from dacycle.assimilators.sampling.cycles import cycled_errors, run_chain
from dacycle.assimilators.sampling.observing import Observing, Subset, observing_of
from dacycle.assimilators.trained.network import INPUTS, OUTPUTS, TrainedAssimilator, assimilator_metadata
from dacycle.assimilators.trained.recent import HOURS
from dacycle.assimilators.training.assimilation import TorchAssimilator, cycled_model, takes_recent
from dacycle.assimilators.training.assimilator_run import accepted_round, read_assimilator_run
from dacycle.assimilators.training.recipe import AssimilatorRecipe
from dacycle.common.files import whole
from dacycle.forecast_adapter.channels import NAMES
from dacycle.forecast_adapter.models.frames import write_frames
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.models.onnxfile import write_metadata
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.world import World, load_world
from dacycle.obs_ingest.errors.model import FORMER_KIND

__all__ = ["Extent", "example_inputs", "export_assimilator", "file_metadata", "write_graph"]

logger = logging.getLogger(__name__)

WORSE = 1.1
"""Largest error of the file's chain over that of torch's chain, which differ because chains diverge."""


@dataclass(frozen=True)
class Extent:
    """Say how much an export checks.

    Attributes:
        samples: real inputs that file and torch are compared with.
        cycles: of each of the two chains that are compared.
        starts: forecasts, each with three backgrounds, of the single analyses.
    """

    samples: int = 24
    cycles: int = 40
    starts: int = 16


FULL = Extent()


def export_assimilator(run: Path, out: Path, data: str | None = None, extent: Extent = FULL) -> Path:
    """Export the accepted network of a run to `out` (NAME.onnx).

    Args:
        run: folder of a training run.
        out: the file to write.
        data: folder with the years, where it is not the recipe's; the validation year is needed.
        extent: of the checks.

    Raises:
        ExportError: the graph differs from the network by more than 1e-4 standard deviations, or its chain of cycles is
            worse.
    """
    recipe, record, trained = read_assimilator_run(run)
    world = load_world(recipe.world)
    year = recipe.validation_years[0]
    reference, planes = Reference(Path(data or recipe.data) / str(year)), tuple(trained.planes)
    observing = observing_of(world, reference, recipe.observations, planes, recipe.optional)
    network = copy.deepcopy(trained)
    round_weights(network)
    rounded, exact = (TorchAssimilator(each, world.grid, world.name) for each in (network, trained))
    logger.info("single analyses of %d, with rounded weights and with exact ones", year)
    single, single_exact = (_single_analyses(method, observing, recipe, extent.starts) for method in (rounded, exact))
    logger.info("cycles of %d, to calibrate the spread", year)
    calibration = _calibrate(rounded, single, observing, recipe)
    with whole(out) as temporary:
        write_graph(network, temporary)
        store_rounded(temporary)
        about = file_metadata(recipe, record, world, network, accepted_round(run)) | {"calibration": calibration}
        about["rounding"] = {
            f"overall_mse_{name}": float(f"{(scores.analysis.mean(0) / world.statistics.std**2).mean():.6g}")
            for name, scores in (("rounded", single), ("exact", single_exact))
        }
        write_metadata(temporary, about)
        exported = TrainedAssimilator(temporary)
        logger.info("%d real inputs, and artificial ones, in ONNX Runtime and in torch", extent.samples)
        parity = _parity(exported, rounded, observing, recipe, extent.samples)
        logger.info("%d cycles with each", extent.cycles)
        parity["cycled"] = _cycled_parity(exported, rounded, observing, recipe, extent.cycles)
        for name, value in {"rounding": about["rounding"], **parity}.items():
            logger.info("%s: %s", name, value)
        write_metadata(temporary, {**about, "parity": parity})
    return out


def example_inputs(network: Any) -> list[torch.Tensor]:
    """Return inputs of a graph: the mean state as the background, no observations, and tensors of a first step."""
    channels = len(NAMES)
    inputs = [torch.zeros(1, size, *network.static.shape[1:]) for size in (channels, *2 * (network.inputs,))]
    inputs[0] += network.mean
    if (stepping := network.stepping) is not None:
        inputs += [torch.zeros(1, dtype=torch.int64), *map(torch.from_numpy, stepping.start(inputs[0][0].numpy()))]
    return inputs


def write_graph(network: Any, path: Path) -> None:
    """Write a method's graph, or that of its step, with the tensors of the contract but without metadata."""
    inputs, stepping = example_inputs(network), network.stepping
    with torch.no_grad():
        outputs = len(network(*inputs)) - (len(stepping.carried) if stepping else 0)  # a method may have no spread
    write = to_onnx if stepping is None else step_to_onnx
    sizes = (tensor.shape[1] for tensor in inputs)
    write(network, path, dict(zip(INPUTS, sizes, strict=False)), list(OUTPUTS[:outputs]))


def _single_analyses(method: TorchAssimilator, observing: Observing, recipe: AssimilatorRecipe, starts: int) -> OneShot:
    backgrounds = held_out(load_model(recipe.model), observing.world.reference, observing.world, starts)
    return evaluate(method, observing, backgrounds, recipe.seed)


def _calibrate(
    method: TorchAssimilator, single: OneShot, observing: Observing, recipe: AssimilatorRecipe
) -> dict[str, float]:
    """Set each channel's calibration: spread over error of single analyses and of cycles then have a product of 1.

    At the same departures a cycle's errors are larger than a forecast's where nothing is observed, and the inputs of
    the network do not tell the two apart.

    Returns:
        Spread over error before the calibration, over all channels, of single analyses and of cycles; empty where the
        method has no spread.
    """
    if single.spread_ratio is None:
        return {}
    model = cycled_model(recipe, observing.world)
    cycled = cycled_errors(method, model, observing, recipe.seed, recipe.validation_days)
    if cycled.spread_ratio is None:
        raise ExportError("no analysis of the validation year's cycles could be used")
    factor = 1 / np.sqrt(single.spread_ratio * cycled.spread_ratio)
    method.network.calibration.copy_(torch.from_numpy(factor.astype(np.float32))[:, None, None])
    ratios = {"single": single.spread_to_skill(), "cycled": cycled.spread_to_skill()}
    return {name: round(float(ratio), 3) for name, ratio in ratios.items() if ratio is not None}


def file_metadata(
    recipe: AssimilatorRecipe, record: dict[str, Any], world: World, network: Any, number: int
) -> dict[str, Any]:
    """Return the metadata of the file of a run's round, without those of its checks."""
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
        removes_model_bias=bool(network.bias.any()),
        **({"recent_hours": HOURS} if takes_recent(network) else {}),
        training={
            "recipe": recipe.digest(),
            "model": recipe.backgrounds_of or recipe.model,
            **({"begun_with": recipe.weights} if recipe.weights else {}),
            **({} if recipe.frames is None else {"frames": write_frames(recipe.frames)}),
            **({} if recipe.relaxation is None else {"relaxation": recipe.relaxation.model_dump(mode="json")}),
            "observations": recipe.observations,
            **({"optional": recipe.optional} if recipe.optional else {}),
            "errors": record.get("errors", FORMER_KIND),
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
    exported: TrainedAssimilator, ours: TorchAssimilator, observing: Observing, recipe: AssimilatorRecipe, samples: int
) -> dict[str, Any]:
    """Return the largest differences of analysis and spread, in standard deviations. ExportError beyond the limit."""
    world = observing.world
    std = world.statistics.std[:, None, None]
    worst: dict[str, tuple[float, str]] = {}
    inputs = [*_real_inputs(observing, recipe, samples), *_artificial_inputs(world, len(ours.planes))]
    for background, values, errors in inputs:
        analyses = [method.analyse(background, values, errors) for method in (exported, ours)]
        for name, attribute in zip(OUTPUTS, ("state", "spread"), strict=True):
            output, expected = (getattr(analysis, attribute) for analysis in analyses)
            if expected is None:
                continue
            difference = (np.abs(output[0].astype(float) - expected[0]) / std).max(axis=(1, 2))
            k = int(difference.argmax())
            worst[name] = max(worst.get(name, (0.0, "")), (float(difference[k]), NAMES[k]))
    for name, (value, channel) in worst.items():
        check_parity(value, f"{name}: {channel}")
    return {
        "inputs": len(inputs),
        **{name: {"largest": float(f"{v:.2g}"), "channel": channel} for name, (v, channel) in worst.items()},
    }


def _real_inputs(observing: Observing, recipe: AssimilatorRecipe, samples: int) -> list[tuple[NDArray, ...]]:
    """Return held-out backgrounds with observations of random selections."""
    world = observing.world
    backgrounds = held_out(load_model(recipe.model), world.reference, world, samples // 3)
    inputs: list[tuple[NDArray, ...]] = []
    for sample, (time, error) in enumerate(zip(backgrounds.times, backgrounds.errors, strict=True)):
        generator = np.random.default_rng([recipe.seed, sample])
        subset = observing.random_subset(generator)
        background = world.reference.array(time) + error.astype(np.float32) * world.statistics.std[:, None, None]
        drawn = observing.draw(time, background, subset, generator)
        inputs.append((background[None], drawn.values[None], drawn.errors[None]))
    return inputs


def _artificial_inputs(world: World, planes: int) -> list[tuple[NDArray, ...]]:
    """Return a background of noise with nothing observed, with one value, and with all channels everywhere."""
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
    exported: TrainedAssimilator, ours: TorchAssimilator, observing: Observing, recipe: AssimilatorRecipe, cycles: int
) -> dict[str, Any]:
    """Return how much two chains that differ only in the runtime differ in the end, and the error of torch's.

    Raises:
        ExportError: the file's chain is worse than torch's.
    """
    world, model = observing.world, cycled_model(recipe, observing.world)
    first = world.reference.times[len(world.reference.times) // 2]
    chains = [run_chain(method, model, observing, first, cycles, recipe.seed, Subset()) for method in (exported, ours)]
    ends = [next(islice(chain, cycles - 1, None)) for chain in chains]
    std, area = world.statistics.std[:, None, None], world.grid.weights
    difference = np.sqrt((((ends[0].analysis - ends[1].analysis) / std).astype(np.float64) ** 2 * area).mean())
    error, expected = (
        np.sqrt((((end.analysis - end.truth) / std).astype(np.float64) ** 2 * area).mean()) for end in ends
    )
    if not error <= WORSE * expected:
        raise ExportError(
            f"after {cycles} cycles the file's error is {error:.2g} standard deviations, torch's is {expected:.2g}"
        )
    return {"cycles": cycles, "rms_difference": float(f"{difference:.2g}"), "rms_error": float(f"{expected:.2g}")}
