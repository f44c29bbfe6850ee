"""The gate: what a trained file has to show before it becomes a method of the registry, and the card that says so.

Parity with torch, from its export. Nothing observed: nothing changed. One observation: nothing changed far away. Single
analyses of held-out backgrounds that are better than those, and know how good they are. Cycles that are better than a
forecast without observations, and in which no analysis is refused. How it compares with optimal interpolation is shown
beside it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dacycle.assimilators.base import WEIGHTS, Assimilator, AssimilatorError, FreeRun, load_assimilator
from dacycle.assimilators.judging.evaluation import OneShot, evaluate, increment_alone, single_observation
from dacycle.assimilators.sampling.backgrounds import held_out
from dacycle.assimilators.sampling.cycles import CycledErrors, cycled_errors
from dacycle.assimilators.sampling.observing import observing_of
from dacycle.assimilators.trained.network import OUTPUTS, TrainedAssimilator
from dacycle.forecast_adapter.channels import CHANNELS, HEADLINE, index
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.models.onnxfile import write_metadata
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.world import load_world

__all__ = ["Check", "Verdict", "judge", "register"]

PARITY = 1e-4
ALONE = 1e-6
BEYOND = 0.05
HONEST = (0.7, 1.3)
"""Bounds of spread over error."""
SEED = 20


@dataclass(frozen=True)
class Check:
    """One demand: what was found, what is allowed, and whether it is met."""

    name: str
    found: str
    allowed: str
    passed: bool


@dataclass(frozen=True)
class Verdict:
    """What the gate found out.

    Attributes:
        checks: the demands; the file passes if all are met.
        one_shot: by year: the file's scores and the baseline's.
        cycled: by method, in the first of the years: the file, the baseline, and without assimilation.
    """

    checks: list[Check]
    one_shot: dict[int, dict[str, OneShot]]
    cycled: dict[str, CycledErrors]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


def judge(
    path: Path,
    data: Path | str,
    years: Sequence[int],
    world: str,
    baseline: str = "oi",
    starts: int = 32,
    days: int = 12,
    say: Callable[[str], None] = print,
) -> Verdict:
    """Put a file to the tests, write its scores into its metadata and its card beside it.

    Args:
        path: the file; it is rewritten with the scores.
        data: folder with the years.
        years: held out from training; one-shot scores are of each of them, cycles of the first.
        world: that the file was made for.
        baseline: a method that fits the world, shown beside the file.
        starts: forecasts that backgrounds are taken of, three from each.
        days: length of the cycles' chains.

    Raises:
        AssimilatorError: the file is damaged, made for another world or not exported here, or a year is one it was
            trained on.
    """
    home = load_world(world)
    load_assimilator(path, home)  # refuses a file that does not fit
    mine = TrainedAssimilator(path)
    lacking = [key for key in ("training", "parity", "rounding") if key not in mine.metadata]
    if lacking:
        raise AssimilatorError(f"{path}: its metadata lack {', '.join(lacking)}; export it with `dacycle export`")
    trained_on = sorted(set(mine.metadata["training"]["years"]) & set(years))
    if trained_on:
        raise AssimilatorError(f"{path} was trained on {trained_on[0]}: it cannot be judged by that year")
    methods: dict[str, Assimilator] = {mine.name: mine, baseline: load_assimilator(baseline, home)}
    model = load_model(mine.metadata["training"]["model"])
    sources = mine.metadata["training"]["observations"]
    one_shot: dict[int, dict[str, OneShot]] = {}
    observing = {year: observing_of(home, Reference(Path(data) / str(year)), sources) for year in years}
    for year in years:
        backgrounds = held_out(model, observing[year].world.reference, home, starts)
        one_shot[year] = {}
        for name, method in methods.items():
            say(f"{name}: {len(backgrounds.times)} single analyses of {year}")
            one_shot[year][name] = evaluate(method, observing[year], backgrounds, SEED)
    cycled = {}
    for name, method in {**methods, "none": FreeRun(home.grid, home.name)}.items():
        say(f"{name}: cycles of {years[0]}")
        cycled[name] = cycled_errors(method, model, observing[years[0]], SEED, days)
    reference = observing[years[0]].world.reference
    state, std = reference.array(reference.times[len(reference.times) // 3]), home.statistics.std
    checks = [*_checks_of_file(mine, state, std), *_checks_of_scores(mine.name, one_shot, cycled)]
    verdict = Verdict(checks, one_shot, cycled)
    write_metadata(path, {**mine.metadata, "scores": _scores(mine.name, verdict)})
    path.with_suffix(".md").write_text(_card(TrainedAssimilator(path), verdict))
    return verdict


def register(path: Path, verdict: Verdict) -> Path:
    """Copy a file that has passed, and its card, to the packaged methods. AssimilatorError where it has not."""
    failed = [check for check in verdict.checks if not check.passed]
    if failed:
        what = "; ".join(f"{check.name} is {check.found}, allowed is {check.allowed}" for check in failed)
        raise AssimilatorError(f"{path} has not passed: {what}")
    target = WEIGHTS / f"{TrainedAssimilator(path).name}.onnx"
    shutil.copyfile(path, target)
    shutil.copyfile(path.with_suffix(".md"), target.with_suffix(".md"))
    return target


def _checks_of_file(mine: TrainedAssimilator, state: Any, std: Any) -> list[Check]:
    parity, reach = mine.metadata["parity"], mine.reach_km
    largest = max(parity[name]["largest"] for name in OUTPUTS if name in parity)
    alone = increment_alone(mine, state, std)
    single = single_observation(mine, state, std, reach)
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
        (found[name].rmse("analysis", channel) / found[name].rmse("background", channel), f"{channel} in {year}")
        for year, found in one_shot.items()
        for channel in HEADLINE
    )
    kept, free = cycled[name], cycled["none"]
    ratios = [*(found[name].spread_to_skill() for found in one_shot.values()), kept.spread_to_skill()]
    spreads = [ratio for ratio in ratios if ratio is not None]
    ratio, channel = max((kept.analysis[channel] / free.analysis[channel], channel) for channel in HEADLINE)
    return [
        Check("single analyses, error over the background's", f"{worst:.2f} ({worst_name})", "below 1", worst < 1),
        Check(
            f"spread over error, single analyses of {', '.join(map(str, one_shot))}, and cycles",
            ", ".join(f"{ratio:.2f}" for ratio in spreads) or "no spread",
            f"{HONEST[0]} to {HONEST[1]}",
            all(HONEST[0] <= ratio <= HONEST[1] for ratio in spreads),
        ),
        Check("cycles, error over that of no assimilation", f"{ratio:.2f} ({channel})", "below 1", ratio < 1),
        Check("analyses refused in cycles", str(kept.fallbacks), "0", kept.fallbacks == 0),
    ]


def _scores(name: str, verdict: Verdict) -> dict[str, Any]:
    """What the metadata say of it all."""
    return {
        "one_shot": {str(year): found[name].as_dict() for year, found in verdict.one_shot.items()},
        "cycled": {key: {c: float(f"{v:.4g}") for c, v in e.analysis.items()} for key, e in verdict.cycled.items()},
        "gate": {check.name: check.found for check in verdict.checks},
        "passed": verdict.passed,
    }


def _card(mine: TrainedAssimilator, verdict: Verdict) -> str:
    """The file's card, in Markdown."""
    about = mine.metadata
    training, parity = about["training"], about["parity"]
    units = {name: CHANNELS[index(name)].unit for name in HEADLINE}
    rounding, calibration = about["rounding"], about.get("calibration")
    lines = [
        f"# {mine.name} {about['version']}",
        "",
        f"Assimilator of the world `{mine.world}` on `{mine.grid.name}`: {about['method']}, {about['source']}.",
        f"Takes the 69 channels and the planes {', '.join(f'{p} ({u})' for p, u in about['planes'].items())}.",
        "",
        f"- sha256: `{mine.digest}`",
        f"- {training['weights']:,} weights, {mine.path.stat().st_size / 1e6:.1f} MB, licence {about['licence']}",
        f"- training: {training['samples']:,} samples of the years {', '.join(map(str, training['years']))}, "
        f"backgrounds of `{training['model']}`; {training['minutes']} minutes on {training['machine']}, "
        f"torch {training['versions']['torch']}",
        f"- sha256 of the backgrounds: `{training['data_sha256'][:16]}…`",
        f"- ONNX Runtime against torch, {parity['inputs']} inputs: at most "
        f"{parity['analysis']['largest']:.1e} standard deviations ({parity['analysis']['channel']}); two chains apart "
        f"by {parity['cycled']['rms_difference']:.1e} after {parity['cycled']['cycles']} cycles, at an error of "
        f"{parity['cycled']['rms_error']:.2f}",
        f"- weights in eight bits: overall mean squared error {rounding['overall_mse_rounded']:.5g}, with exact ones "
        f"{rounding['overall_mse_exact']:.5g}",
        *(
            [
                "- the spread of each channel is calibrated on the validation year; before, spread over error was "
                f"{calibration['single']:.2f} in single analyses and {calibration['cycled']:.2f} in cycles"
            ]
            if calibration
            else []
        ),
        "",
        "## Closed-loop rounds",
        "",
        "Error of analyses in cycles of the validation year, in units of the backgrounds' usual error, mean over the "
        "headline channels.",
        "",
        "| round | cycled error | accepted |",
        "|---|---|---|",
        *(f"| {row['round']} | {row['cycled_error']} | {row['accepted']} |" for row in training["rounds"]),
        "",
        f"## The gate: {'passed' if verdict.passed else '**not passed**'}",
        "",
        "| demand | found | allowed |",
        "|---|---|---|",
        *(f"| {check.name} | {check.found} | {check.allowed} |" for check in verdict.checks),
    ]
    for year, found in verdict.one_shot.items():
        lines += ["", f"## Single analyses of {year}", "", *_one_shot_table(mine.name, found, units)]
    lines += [
        "",
        "## Cycles",
        "",
        f"Root-mean-square error of analyses over the globe, {next(iter(verdict.cycled.values())).cycles} cycles in "
        "four chains, the first three days of each left out. `none`: a forecast without observations.",
        "",
        "| channel | " + " | ".join(verdict.cycled) + " |",
        "|---|" + "---|" * len(verdict.cycled),
        *(
            f"| {name} ({units[name]}) | "
            + " | ".join(f"{e.analysis[name]:.4g}" for e in verdict.cycled.values())
            + " |"
            for name in HEADLINE
        ),
    ]
    return "\n".join(lines) + "\n"


def _one_shot_table(name: str, found: dict[str, OneShot], units: dict[str, str]) -> list[str]:
    own = found[name]
    ratio = own.spread_to_skill()
    leads = ", ".join(map(str, sorted(set(own.leads.tolist()))))
    spread = "" if ratio is None else f" Spread over error, all channels: {ratio:.2f}."
    return [
        f"Root-mean-square error over the globe, {len(own.leads)} backgrounds of {leads} h, the same observations; "
        f"{1000 * own.seconds:.0f} ms an analysis." + spread,
        "",
        "| channel | background | " + " | ".join(found) + " | " + ("spread |" if ratio is not None else ""),
        "|---|" + "---|" * (len(found) + 1 + (ratio is not None)),
        *(
            f"| {channel} ({units[channel]}) | {own.rmse('background', channel):.4g} | "
            + " | ".join(f"{scores.rmse('analysis', channel):.4g}" for scores in found.values())
            + (f" | {own.rmse('spread', channel):.4g} |" if ratio is not None else " |")
            for channel in HEADLINE
        ),
    ]
