"""From an observation operator's training run to its file: an ONNX graph with metadata, checked against torch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dacycle.assimilators.exceptions import ExportError
from dacycle.assimilators.export.forecast import PARITY_LIMIT
from dacycle.assimilators.export.graphs import to_onnx
from dacycle.assimilators.judging.operator_scores import OperatorScore, score_operator
from dacycle.assimilators.networks.observation_operator import OperatorNetwork
from dacycle.assimilators.training.operator import read_operator_run
from dacycle.assimilators.training.recipe import OperatorRecipe
from dacycle.forecast_adapter.channels import NAMES, PLANES
from dacycle.forecast_adapter.models.onnxfile import open_session, write_metadata
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.obs_ingest.operators.learned import INPUTS, LEARNED, OUTPUTS, LearnedOperator, operator_metadata

__all__ = ["export_operator", "operator_parity"]


def export_operator(run: Path, out: Path, data: str | None = None, say: Callable[[str], None] = print) -> Path:
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
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as folder:
        part = Path(folder) / out.name
        to_onnx(network, part, dict.fromkeys(INPUTS, len(NAMES)), list(OUTPUTS))
        difference = operator_parity(network, part, _samples(Reference(years / str(year))))
        say(f"largest difference from torch: {difference:.1e} standard deviations")
        if not difference <= PARITY_LIMIT:
            raise ExportError(f"the graph differs from torch by {difference:.1e} standard deviations")
        about = _metadata(recipe, record, network, difference)
        write_metadata(part, about)
        scores = score_operator(LearnedOperator(part), years, year, say=say)
        write_metadata(part, {**about, "scores": [asdict(score) for score in scores]})
        part.replace(out)
    out.with_suffix(".md").write_text(_card(recipe, record, LearnedOperator(out), scores, year))
    return out


def operator_parity(network: OperatorNetwork, path: Path, frames: NDArray[np.float32]) -> float:
    """Largest difference between ONNX Runtime and torch, in standard deviations of the planes.

    frames: (2, B, 69, H, W), SI.
    """
    found = open_session(path).run(list(OUTPUTS), dict(zip(INPUTS, frames, strict=True)))
    with torch.inference_mode():
        expected = network(*torch.from_numpy(frames))
    std = network.plane_std.numpy()
    return max(float((np.abs(a.astype(float) - b.numpy()) / std).max()) for a, b in zip(found, expected, strict=True))


def _samples(reference: Reference) -> NDArray[np.float32]:
    """(2, 6, 69, H, W): real pairs of frames, and ones that no atmosphere gives."""
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
        training={
            "recipe": recipe.digest(),
            "years": recipe.training_years,
            "samples": record["samples"],
            "data_sha256": record["data"],
            "statistics": record["statistics"],
            "epochs": f"{record['epochs_done']} of {recipe.epochs}",
            "weights": record["weights"],
            "versions": record["versions"],
        },
        parity={"largest_difference_in_standard_deviations": float(f"{difference:.2g}")},
    )


def _card(
    recipe: OperatorRecipe, record: dict[str, Any], operator: LearnedOperator, scores: list[OperatorScore], year: int
) -> str:
    """The operator's card, in Markdown; every number in it is of this export."""
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
        "Over the globe, at every time, from the nature run's own frames; correlation of anomalies from the",
        "climatology of the training years. `stated / actual` is the error that a method states over the one it has.",
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
