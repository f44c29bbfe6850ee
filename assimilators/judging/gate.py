"""The gate: the checks that a trained file has to pass before it becomes a packaged method, and its card.

1. Its export agrees with torch.
2. Without observations there is no increment; a single observation has no increment far away.
3. Single analyses of held-out backgrounds are better than the backgrounds, and their spread matches their error.
4. Cycles are better than a forecast without observations, and no analysis is refused.

The card shows the scores of optimal interpolation for comparison.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dacycle.assimilators.base import WEIGHTS, Assimilator, AssimilatorError, FreeRun, load_assimilator
from dacycle.assimilators.judging.evaluation import OneShot, evaluate, increment_alone, single_observation_reach
from dacycle.assimilators.judging.origins import origin_section
from dacycle.assimilators.sampling.backgrounds import held_out
from dacycle.assimilators.sampling.cycles import CycledErrors, CycledModel, cycled_errors
from dacycle.assimilators.sampling.observing import observing_of
from dacycle.assimilators.trained.network import OUTPUTS, TrainedAssimilator
from dacycle.common.files import write_whole
from dacycle.forecast_adapter.channels import HEADLINE, readable
from dacycle.forecast_adapter.models.frames import read_frames
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.models.onnxfile import write_metadata
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.relaxation import Relaxation, RelaxationSettings, relaxation_text
from dacycle.forecast_adapter.worlds.world import load_world
from dacycle.obs_ingest.errors.model import FORMER_KIND

__all__ = ["Check", "Verdict", "judge_assimilator", "register_assimilator"]

logger = logging.getLogger(__name__)

PARITY = 1e-4
"""Largest difference from torch, in standard deviations."""
ALONE = 1e-6
"""Largest increment without observations, in standard deviations."""
BEYOND = 0.05
"""Largest increment beyond the reach of a single observation, as a share of its peak."""
SPREAD_BOUNDS = (0.7, 1.3)
"""Least and largest spread over error."""
SEED = 20
"""Of the observations."""


@dataclass(frozen=True)
class Check:
    """Hold the outcome of one check: what was found, what is allowed, and whether it is passed."""

    name: str
    found: str
    allowed: str
    passed: bool


@dataclass(frozen=True)
class Verdict:
    """Hold all that the gate found.

    Attributes:
        checks: the file passes if all of them do.
        one_shot: by year and method: scores of single analyses of the file and of the baseline.
        cycled: by method: errors in cycles of the first year, of the file, the baseline and `none`.
    """

    checks: list[Check]
    one_shot: dict[int, dict[str, OneShot]]
    cycled: dict[str, CycledErrors]

    @property
    def passed(self) -> bool:
        """Whether all checks are passed."""
        return all(check.passed for check in self.checks)


def judge_assimilator(
    path: Path,
    data: Path | str,
    years: Sequence[int],
    world: str,
    baseline: str = "oi",
    starts: int = 32,
    days: int = 12,
) -> Verdict:
    """Check a file, write its scores into its metadata, and write its card beside it.

    Args:
        path: the file; it is rewritten with the scores.
        data: folder with the years.
        years: held out from training; single analyses are of each of them, cycles of the first.
        world: the one that the file was made for.
        baseline: a method that fits the world, shown for comparison.
        starts: number of forecasts; each gives three backgrounds.
        days: length of the cycles' chains.

    Raises:
        AssimilatorError: the file is damaged, made for another world or not exported here, or a year is one it was
            trained on.
    """
    home = load_world(world)
    load_assimilator(path, home)  # raises AssimilatorError where the file does not fit
    judged = TrainedAssimilator(path)
    missing = [key for key in ("training", "parity", "rounding") if key not in judged.metadata]
    if missing:
        raise AssimilatorError(f"{path}: its metadata lack {', '.join(missing)}; export it with `dacycle export`")
    training = judged.metadata["training"]
    training_years = sorted(set(training["years"]) & set(years))
    if training_years:
        raise AssimilatorError(f"{path} was trained on {training_years[0]}: it cannot be judged by that year")
    methods: dict[str, Assimilator] = {judged.name: judged, baseline: load_assimilator(baseline, home)}
    model, sources, optional = load_model(training["model"]), training["observations"], training.get("optional", [])
    written = training.get("relaxation")
    relaxation = Relaxation.of(home, None if written is None else RelaxationSettings(**written))
    cycling = CycledModel(model, read_frames(training.get("frames")), relaxation)
    one_shot: dict[int, dict[str, OneShot]] = {}
    observing = {
        year: observing_of(home, Reference(Path(data) / str(year)), sources, optional=optional) for year in years
    }
    for year in years:
        backgrounds = held_out(model, observing[year].world.reference, home, starts)
        one_shot[year] = {}
        for name, method in methods.items():
            logger.info("%s: %d single analyses of %d", name, len(backgrounds.times), year)
            one_shot[year][name] = evaluate(method, observing[year], backgrounds, SEED)
    cycled = {}
    for name, method in {**methods, "none": FreeRun(home.grid, home.name)}.items():
        logger.info("%s: cycles of %d", name, years[0])
        cycled[name] = cycled_errors(method, cycling, observing[years[0]], SEED, days)
    reference = observing[years[0]].world.reference
    state, std = reference.array(reference.times[len(reference.times) // 3]), home.statistics.std
    checks = [*_checks_of_file(judged, state, std), *_checks_of_scores(judged.name, one_shot, cycled)]
    verdict = Verdict(checks, one_shot, cycled)
    write_metadata(path, {**judged.metadata, "scores": _scores(judged.name, verdict)})
    write_whole(path.with_suffix(".md"), _card(TrainedAssimilator(path), verdict).encode())
    return verdict


def register_assimilator(path: Path, verdict: Verdict, folder: Path = WEIGHTS) -> Path:
    """Copy a file that has passed the gate, and its card, into the folder of the packaged methods.

    Raises:
        AssimilatorError: the file has not passed.
    """
    failed = [check for check in verdict.checks if not check.passed]
    if failed:
        faults = "; ".join(f"{check.name} is {check.found}, allowed is {check.allowed}" for check in failed)
        raise AssimilatorError(f"{path} has not passed: {faults}")
    target = folder / f"{TrainedAssimilator(path).name}.onnx"
    for suffix in (".onnx", ".md"):
        write_whole(target.with_suffix(suffix), path.with_suffix(suffix).read_bytes())
    return target


def _checks_of_file(judged: TrainedAssimilator, state: Any, std: Any) -> list[Check]:
    parity, reach = judged.metadata["parity"], judged.reach_km
    largest = max(parity[name]["largest"] for name in OUTPUTS if name in parity)
    alone = increment_alone(judged, state, std)
    single = single_observation_reach(judged, state, std, reach)
    return [
        Check("largest difference from torch", f"{largest:.1e} sd", f"{PARITY:.0e} sd", largest <= PARITY),
        Check("increment without observations", f"{alone:.1e} sd", f"{ALONE:.0e} sd", alone <= ALONE),
        Check(
            f"increment beyond {reach:g} km from a single observation",
            f"{100 * single.beyond:.1f} % of its peak of {single.peak:.2f} sd",
            f"{100 * BEYOND:g} %",
            single.beyond < BEYOND and single.peak > 0,
        ),
    ]


def _checks_of_scores(
    name: str, one_shot: dict[int, dict[str, OneShot]], cycled: dict[str, CycledErrors]
) -> list[Check]:
    worst, worst_name = max(
        (scores[name].rmse("analysis", channel) / scores[name].rmse("background", channel), f"{channel} in {year}")
        for year, scores in one_shot.items()
        for channel in HEADLINE
    )
    with_file, free = cycled[name], cycled["none"]
    ratios = [*(scores[name].spread_to_skill() for scores in one_shot.values()), with_file.spread_to_skill()]
    spreads = [ratio for ratio in ratios if ratio is not None]
    ratio, channel = max((with_file.analysis[channel] / free.analysis[channel], channel) for channel in HEADLINE)
    return [
        Check("single analyses, error over the background's", f"{worst:.2f} ({worst_name})", "below 1", worst < 1),
        Check(
            f"spread over error, single analyses of {', '.join(map(str, one_shot))}, and cycles",
            ", ".join(f"{ratio:.2f}" for ratio in spreads) or "no spread",
            f"{SPREAD_BOUNDS[0]} to {SPREAD_BOUNDS[1]}",
            all(SPREAD_BOUNDS[0] <= ratio <= SPREAD_BOUNDS[1] for ratio in spreads),
        ),
        Check("cycles, error over that of no assimilation", f"{ratio:.2f} ({channel})", "below 1", ratio < 1),
        Check("analyses refused in cycles", str(with_file.fallbacks), "0", with_file.fallbacks == 0),
    ]


def _scores(name: str, verdict: Verdict) -> dict[str, Any]:
    """Return the scores as the metadata hold them."""
    return {
        "one_shot": {str(year): scores[name].as_dict() for year, scores in verdict.one_shot.items()},
        "cycled": {key: {c: float(f"{v:.4g}") for c, v in e.analysis.items()} for key, e in verdict.cycled.items()},
        "gate": {check.name: check.found for check in verdict.checks},
        "passed": verdict.passed,
    }


def _card(judged: TrainedAssimilator, verdict: Verdict) -> str:
    """Return the card of a file, in Markdown."""
    about = judged.metadata
    training, parity = about["training"], about["parity"]
    rounding, calibration = about["rounding"], about.get("calibration")
    lines = [
        f"# {judged.name} {about['version']}",
        "",
        f"Assimilator of the world `{judged.world}` on `{judged.grid.name}`: {about['method']}, {about['source']}.",
        f"Takes the 69 channels and the planes {', '.join(f'{p} ({u})' for p, u in about['planes'].items())}.",
        "",
        f"- sha256: `{judged.digest}`",
        f"- {training['weights']:,} weights, {judged.path.stat().st_size / 1e6:.1f} MB, licence {about['licence']}",
        f"- training: {training['samples']:,} samples of the years {', '.join(map(str, training['years']))}, "
        f"backgrounds of `{training['model']}`; {training['minutes']} minutes on {training['machine']}, "
        f"torch {training['versions']['torch']}",
        *([f"- begun with the weights of `{training['begun_with']}`"] if "begun_with" in training else []),
        *(
            [f"- cycles, here too, with `relaxation: {relaxation_text(training['relaxation'])}`"]
            if "relaxation" in training
            else []
        ),
        f"- sha256 of the backgrounds: `{training['data_sha256'][:16]}…`",
        f"- observation errors in training: {training.get('errors', FORMER_KIND)}",
        *(
            [f"- half of the samples and of the cycles, here too, are without {', '.join(training['optional'])}"]
            if training.get("optional")
            else []
        ),
        f"- ONNX Runtime against torch, {parity['inputs']} inputs: at most "
        f"{parity['analysis']['largest']:.1e} standard deviations ({parity['analysis']['channel']}); after "
        f"{parity['cycled']['cycles']} cycles the two differ by {parity['cycled']['rms_difference']:.1e} (root mean "
        f"square), at an error of {parity['cycled']['rms_error']:.2f}",
        f"- mean squared error of single analyses, all channels, with weights in eight bits "
        f"{rounding['overall_mse_rounded']:.5g}, with exact weights {rounding['overall_mse_exact']:.5g}",
        *(
            [
                "- the spread of each channel is calibrated on the validation year; before calibration, spread over "
                f"error was {calibration['single']:.2f} in single analyses and {calibration['cycled']:.2f} in cycles"
            ]
            if calibration
            else []
        ),
        *origin_section(about["method"]),
        "",
        "## Closed-loop rounds",
        "",
        "Error of analyses in cycles of the validation year, in units of the backgrounds' usual error, averaged over "
        "the headline channels.",
        "",
        "| round | cycled error | accepted |",
        "|---|---|---|",
        *(f"| {row['round']} | {row['cycled_error']} | {row['accepted']} |" for row in training["rounds"]),
        "",
        f"## The gate: {'passed' if verdict.passed else '**not passed**'}",
        "",
        "| check | found | allowed |",
        "|---|---|---|",
        *(f"| {check.name} | {check.found} | {check.allowed} |" for check in verdict.checks),
    ]
    for year, scores in verdict.one_shot.items():
        lines += ["", f"## Single analyses of {year}", "", *_one_shot_table(judged.name, scores)]
    lines += [
        "",
        "## Cycles",
        "",
        f"Global root-mean-square error of analyses, {next(iter(verdict.cycled.values())).cycles} cycles in four "
        "chains, without the first three days of each. `none` is a forecast without observations.",
        "",
        "| channel | " + " | ".join(verdict.cycled) + " |",
        "|---|" + "---|" * len(verdict.cycled),
        *(_row(name, [errors.analysis[name] for errors in verdict.cycled.values()]) for name in HEADLINE),
    ]
    return "\n".join(lines) + "\n"


def _row(channel: str, values: Iterable[float]) -> str:
    """Return a line of a table: a channel and values of it, which are given in SI."""
    factor, unit = readable(channel)
    return f"| {channel} ({unit}) | " + " | ".join(f"{factor * value:.4g}" for value in values) + " |"


def _one_shot_table(name: str, scores: dict[str, OneShot]) -> list[str]:
    judged = scores[name]
    ratio = judged.spread_to_skill()
    leads = ", ".join(map(str, sorted(set(judged.leads.tolist()))))
    spread = "" if ratio is None else f" Spread over error, all channels: {ratio:.2f}."
    return [
        f"Global root-mean-square error for {len(judged.leads)} backgrounds of {leads} h; every method has the same "
        f"observations. An analysis takes {1000 * judged.seconds:.0f} ms." + spread,
        "",
        "| channel | background | " + " | ".join(scores) + " | " + ("spread |" if ratio is not None else ""),
        "|---|" + "---|" * (len(scores) + 1 + (ratio is not None)),
        *(
            _row(
                channel,
                (
                    judged.rmse("background", channel),
                    *(method.rmse("analysis", channel) for method in scores.values()),
                    *([judged.rmse("spread", channel)] if ratio is not None else []),
                ),
            )
            for channel in HEADLINE
        ),
    ]
