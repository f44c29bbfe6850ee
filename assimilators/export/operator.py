"""Export of an observation operator: an ONNX graph with its metadata, checked against torch, and its card."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dacycle.assimilators.export.graphs import to_onnx
from dacycle.assimilators.export.parity import check_parity, training_metadata
from dacycle.assimilators.judging.operator_scores import OperatorScore, score_operator
from dacycle.assimilators.networks.observation_operator import OperatorNetwork
from dacycle.assimilators.training.operator import read_operator_run
from dacycle.assimilators.training.recipe import OperatorRecipe
from dacycle.common.files import whole, write_whole
from dacycle.forecast_adapter.channels import NAMES, PLANES
from dacycle.forecast_adapter.models.onnxfile import open_session, write_metadata
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.obs_ingest.operators.learned import INPUTS, LEARNED, OUTPUTS, LearnedOperator, operator_metadata

__all__ = ["export_operator", "operator_parity"]


logger = logging.getLogger(__name__)


def export_operator(run: Path, out: Path, data: str | None = None) -> Path:
    """Export a run's averaged weights to `out` (NAME.onnx), score it, and write its card beside it (NAME.md).

    Args:
        run: folder of a training run.
        out: the file to write.
        data: folder with the years, where it is not the recipe's; those of training and the validation year.

    Raises:
        ExportError: the graph differs from the network by more than 1e-4 standard deviations of a plane.
    """
    recipe, record, network = read_operator_run(run)
    years, year = Path(data or recipe.data), recipe.validation_years[0]
    with whole(out) as temporary:
        to_onnx(network, temporary, dict.fromkeys(INPUTS, len(NAMES)), list(OUTPUTS))
        difference = operator_parity(network, temporary, _samples(Reference(years / str(year))))
        logger.info("largest difference from torch: %.1e standard deviations", difference)
        check_parity(difference, "the graph")
        about = _metadata(recipe, record, network, difference)
        write_metadata(temporary, about)
        scores = score_operator(LearnedOperator(temporary), years, year)
        write_metadata(temporary, {**about, "scores": [asdict(score) for score in scores]})
    write_whole(out.with_suffix(".md"), _card(recipe, record, LearnedOperator(out), scores, year).encode())
    return out


def operator_parity(network: OperatorNetwork, path: Path, frames: NDArray[np.float32]) -> float:
    """Return the largest difference between ONNX Runtime and torch, in standard deviations of the planes.

    Args:
        network: in torch.
        path: its file.
        frames: (2, B, 69, H, W), SI.
    """
    outputs = open_session(path).run(list(OUTPUTS), dict(zip(INPUTS, frames, strict=True)))
    with torch.inference_mode():
        expected = network(*torch.from_numpy(frames))
    std = network.plane_std.numpy()
    return max(float((np.abs(a.astype(float) - b.numpy()) / std).max()) for a, b in zip(outputs, expected, strict=True))


def _samples(reference: Reference) -> NDArray[np.float32]:
    """Return (2, 6, 69, H, W): four real pairs of frames, and two of noise."""
    chosen = np.linspace(1, len(reference.times) - 1, 4).astype(int)
    real = np.stack([[reference.array(reference.times[k - lag]) for k in chosen] for lag in (1, 0)])
    noise = np.random.default_rng(0).standard_normal(real[:, :2].shape)
    odd = real.mean((1, 3, 4), keepdims=True) + real.std((1, 3, 4), keepdims=True) * noise
    return np.concatenate([real, odd.astype(np.float32)], axis=1)


def _metadata(
    recipe: OperatorRecipe, record: dict[str, Any], network: OperatorNetwork, difference: float
) -> dict[str, Any]:
    std = network.plane_std.flatten().tolist()
    return operator_metadata(
        recipe.name,
        recipe.version,
        record["grid"],
        record["world"],
        dict(zip(LEARNED, std, strict=True)),
        licence=recipe.licence,
        training=training_metadata(recipe, record),
        parity={"largest_difference_in_standard_deviations": float(f"{difference:.2g}")},
    )


def _card(
    recipe: OperatorRecipe, record: dict[str, Any], operator: LearnedOperator, scores: list[OperatorScore], year: int
) -> str:
    """Return the operator's card, in Markdown; every number in it is of this export."""
    parity = operator.metadata["parity"]["largest_difference_in_standard_deviations"]
    lines = [
        f"# {recipe.name} {recipe.version}",
        "",
        f"Observation operator of the world `{operator.world}` on `{operator.grid.name}`. `previous` and `current`",
        "(B, 69, H, W) are x(t-6h) and x(t) in SI units; `equivalents` (B, 2, H, W) are precipitation (kg m-2) and",
        "mean OLR (W m-2) of the six hours between them, `errors` the standard deviations of the operator's error.",
        "",
        f"- sha256: `{operator.digest}`",
        f"- {record['weights']:,} weights, licence {recipe.licence}",
        f"- training data: years {', '.join(map(str, recipe.training_years))} ({record['samples']} pairs of frames), "
        f"sha256 `{record['data'][:16]}…`",
        f"- training: {record['epochs_done']} epochs; {record['minutes']} minutes on {record['machine']}, "
        f"torch {record['versions']['torch']}",
        "- made by `dacycle train RECIPE` and `dacycle export RUN`",
        f"- largest difference between ONNX Runtime and torch: {parity:.1e} standard deviations",
        "",
        f"## Errors in the validation year {year}",
        "",
        "Over the globe, at every time, from the nature run's own frames. Correlations are of anomalies from the",
        "climatology of the training years. `stated / actual` is a method's stated error over its actual error.",
        "",
        "| plane | method | rmse | bias | correlation | stated / actual |",
        "|---|---|---|---|---|---|",
        *(
            f"| {score.plane} ({PLANES[score.plane]}) | {score.method} | {score.rmse:.3g} | {score.bias:+.2g} "
            f"| {_number(score.correlation)} | {_number(score.stated)} |"
            for score in scores
        ),
    ]
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else ""
