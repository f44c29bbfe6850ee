"""Export of a forecast model: an ONNX graph with its metadata, checked against torch, and its card."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from dacycle.assimilators.exceptions import ExportError
from dacycle.assimilators.export.graphs import to_onnx
from dacycle.assimilators.export.parity import check_parity, training_metadata
from dacycle.assimilators.export.rounding import round_to_halves, store_rounded
from dacycle.assimilators.judging.forecast_scores import (
    ForecastScores,
    FreeRunScores,
    run_freely,
    score_forecasts,
)
from dacycle.assimilators.judging.increments import IncrementTest, run_increment_test
from dacycle.assimilators.training.forecast_run import read_forecast_run
from dacycle.assimilators.training.recipe import ForecastRecipe
from dacycle.common.files import whole, write_whole
from dacycle.forecast_adapter.channels import CHANNELS, HEADLINE, NAMES, readable
from dacycle.forecast_adapter.models.mini import MiniNetwork
from dacycle.forecast_adapter.models.model import OnnxForecastModel, forecast_metadata
from dacycle.forecast_adapter.models.onnxfile import open_session, write_metadata
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.world import World, load_world

__all__ = ["export_forecast", "forecast_parity"]

logger = logging.getLogger(__name__)

STARTS = 48
"""Forecasts that the card's scores are of."""
LEAST_DAYS = 61
"""Days of the validation year without which the model cannot be judged."""


def export_forecast(run: Path, out: Path, data: str | None = None) -> Path:
    """Export a run's averaged weights, in half precision, to `out` (NAME.onnx) and write its card beside it (NAME.md).

    Args:
        run: folder of a training run.
        out: the file to write.
        data: folder with the years, where it is not the recipe's.

    Raises:
        ExportError: the graph differs from the network by more than 1e-4 standard deviations, or the validation year
            is too short.
    """
    recipe, record, network = read_forecast_run(run)
    round_to_halves(network)
    world = load_world(recipe.world)
    year = str(recipe.validation_years[0])
    reference = Reference(Path(data or recipe.data) / year)
    times = reference.times
    if len(times) < 4 * LEAST_DAYS:
        raise ExportError(f"{reference.folder}: {len(times)} times of {year}, too few to judge the model with")
    with whole(out) as temporary:
        network = cast(Any, network).to(memory_format=torch.contiguous_format)
        to_onnx(network, temporary, {"input": 2 * len(NAMES)}, ["output"])
        store_rounded(temporary)
        differences = forecast_parity(network, temporary, _samples(reference, times))
        worst = int(differences.argmax())
        largest, channel = float(differences[worst]), NAMES[worst]
        logger.info("largest difference from torch: %.1e standard deviations, in %s", largest, channel)
        check_parity(largest, channel)
        about = _metadata(recipe, record, largest, channel)
        write_metadata(temporary, about)
        model = OnnxForecastModel(temporary, threads=recipe.threads)
        logger.info("forecasts from %d times of %s", STARTS, year)
        scores = score_forecasts(model, reference, world.climatology, times, STARTS)
        logger.info("60 days without analyses")
        free = run_freely(model, reference, world.climatology, world.statistics, times)
        logger.info("increments in one frame and in both")
        test = run_increment_test(model, *_pairs(reference, times))
        write_metadata(temporary, {**about, "scores": scores.as_dict(), "increments": test.as_dict()})
    card = _card(recipe, record, OnnxForecastModel(out), scores, free, test, world, year)
    write_whole(out.with_suffix(".md"), card.encode())
    return out


def forecast_parity(network: MiniNetwork, path: Path, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return (69,) the largest differences between ONNX Runtime and torch, both float32, in standard deviations.

    Args:
        network: in torch.
        path: its file.
        inputs: (B, 138, H, W), physical.
    """
    session = open_session(path)
    (output,) = session.run(["output"], {"input": inputs})
    with torch.inference_mode():
        expected = network(torch.from_numpy(inputs)).numpy()
    size = len(NAMES)
    difference = np.abs(output[:, :size].astype(np.float64) - expected[:, :size]).max((0, 2, 3))
    return difference / network.std.numpy()[:, 0, 0]


def _samples(reference: Reference, times: NDArray[np.datetime64]) -> NDArray[np.float32]:
    """Return (7, 138, H, W): four real pairs of frames, two of noise, and zeros."""
    chosen = np.linspace(1, len(times) - 1, 4).astype(int)
    real = np.stack([np.concatenate([reference.array(times[k - 1]), reference.array(times[k])]) for k in chosen])
    noise = np.random.default_rng(0).standard_normal(real.shape).astype(np.float32)
    odd = real.mean((0, 2, 3), keepdims=True) + real.std((0, 2, 3), keepdims=True) * noise[:2]
    return np.concatenate([real, odd.astype(np.float32), np.zeros_like(real[:1])])


def _pairs(reference: Reference, times: NDArray[np.datetime64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the two frames (12, 69, H, W) of starts spread over the year."""
    chosen = np.linspace(1, len(times) - 1, 12).astype(int)
    previous, current = (np.stack([reference.array(times[k - lag]) for k in chosen]) for lag in (1, 0))
    return previous, current


def _metadata(recipe: ForecastRecipe, record: dict[str, Any], difference: float, channel: str) -> dict[str, Any]:
    return forecast_metadata(
        recipe.name,
        recipe.version,
        record["grid"],
        record["world"],
        units={channel.name: channel.unit for channel in CHANNELS},
        unused_channels=f"{len(NAMES)} to {2 * len(NAMES) - 1} are undefined, NaN here",
        licence=recipe.licence,
        training=training_metadata(recipe, record),
        parity={"largest_difference_in_standard_deviations": float(f"{difference:.2g}"), "channel": channel},
    )


def _card(
    recipe: ForecastRecipe,
    record: dict[str, Any],
    model: OnnxForecastModel,
    scores: ForecastScores,
    free: FreeRunScores,
    test: IncrementTest,
    world: World,
    year: str,
) -> str:
    """Return the model's card, in Markdown; every number in it is of this export."""
    parity = model.metadata["parity"]
    stages = ", then ".join(
        f"{s.epochs} epoch{'s' * (s.epochs > 1)} of {s.steps} step{'s' * (s.steps > 1)}" for s in recipe.stages
    )
    sponge = f", above 200 hPa within {recipe.top_relaxation_days:g}" if recipe.top_relaxation_days else ""
    unfinished = "" if record["epochs_done"] == recipe.epochs else f", stopped after {record['epochs_done']} of them"
    lines = [
        f"# {recipe.name} {recipe.version}",
        "",
        f"Forecast model of the world `{world.name}` on `{world.grid.name}`. `input` (B, 138, H, W) is x(t-6h), x(t)",
        "in SI units; the first 69 channels of `output` are x(t+6h). The others are NaN: they are never to be used.",
        "",
        f"- sha256: `{model.digest}`",
        f"- {record['weights']:,} weights, licence {recipe.licence}",
        f"- training data: years {', '.join(map(str, recipe.training_years))} ({record['samples']} states), "
        f"sha256 of the normalised states `{record['data'][:16]}…`",
        f"- training: {stages}{unfinished}; {record['minutes']} minutes on {record['machine']}, "
        f"torch {record['versions']['torch']}",
        *([f"- begun with the weights of `{Path(recipe.weights).name}`"] if recipe.weights else []),
        f"- relaxation towards the climate of the season within {recipe.relaxation_days:g} days{sponge}",
        "- made by `dacycle train RECIPE` and `dacycle export RUN`",
        f"- largest difference between ONNX Runtime and torch: "
        f"{parity['largest_difference_in_standard_deviations']:.1e} standard deviations ({parity['channel']})",
        "",
        f"## Errors in the validation year {year}",
        "",
        f"Root-mean-square error over the globe, {scores.starts} forecasts from the reference itself: "
        f"{recipe.name} / persistence / climatology (anomaly correlation).",
        "",
        "| channel | " + " | ".join(f"{lead} h" for lead in scores.leads) + " |",
        "|---|" + "---|" * len(scores.leads),
    ]
    for k, name in enumerate(HEADLINE):
        factor, unit = readable(name)
        cells = (
            " / ".join(f"{factor * rmse[i, k]:.3g}" for rmse in (scores.model, scores.persistence, scores.climatology))
            + f" ({scores.correlation[i, k]:.2f})"
            for i in range(len(scores.leads))
        )
        lines.append(f"| {name} ({unit}) | " + " | ".join(cells) + " |")
    lines += [
        "",
        "## After an analysis",
        "",
        test.sentence,
        "A small perturbation of both frames doubles in these times, by zonal wave number: "
        + ", ".join(f"{band}: {days:.1f} days" for band, days in test.doubling_days.items())
        + ".",
        "",
        f"## {free.days} days without analyses",
        "",
        f"{free.starts} runs. Over the last ten days: strength of the anomalies from climatology as a share of the",
        "reference's (1 is right), and drift of the global mean in standard deviations of the channel. The largest",
        f"departure of any value from its channel's mean, at any time, was {free.largest:.1f} standard deviations.",
        "",
        "| channel | anomalies | drift |",
        "|---|---|---|",
        *(f"| {name} | {free.spread[name]:.2f} | {free.drift[name]:+.3f} |" for name in HEADLINE),
    ]
    return "\n".join(lines) + "\n"
