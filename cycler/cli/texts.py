"""Readers of the texts that arguments and options hold: times, years, settings; and the packages that commands need."""

from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
import typer

from dacycle.common.configuration import parse_checked, parse_value
from dacycle.common.times import parse_time
from dacycle.cycler.experiment import ExperimentError, parse_cycle_time
from dacycle.forecast_adapter.durations import parse_duration
from dacycle.forecast_adapter.models.model import ModelFileError
from dacycle.forecast_adapter.state import as_hour
from dacycle.forecast_adapter.worlds.relaxation import RelaxationSettings

__all__ = ["cycle_time", "duration", "need_torch", "parse_hour", "parse_relaxation", "parse_setting", "parse_years"]


def cycle_time(text: str | None) -> pd.Timestamp | None:
    """Return the time of a cycle that an option names; None where the option is not given.

    Raises:
        ExperimentError: the text is no time of a cycle.
    """
    if text is None:
        return None
    try:
        return parse_cycle_time(text)
    except ValueError as error:
        raise ExperimentError(str(error)) from None


def duration(text: str, option: str) -> pd.Timedelta:
    """Return the duration that an option gives; raise typer.BadParameter where it is none."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def parse_hour(text: str, option: str = "--time") -> np.datetime64:
    """Return the hour, UTC, that an option names; it need not be that of a cycle.

    Raises:
        typer.BadParameter: it is no time, or not on the hour.
    """
    try:
        return as_hour(parse_time(text))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def parse_years(text: str) -> list[int]:
    """Return the years of a text: [2014, 2015, 2016, 2020] for `2014-2016,2020`."""
    years: list[int] = []
    for stretch in text.split(","):
        first, _, last = stretch.partition("-")
        try:
            of_stretch = range(int(first), int(last or first) + 1)
        except ValueError:
            of_stretch = range(0)
        if not of_stretch:
            raise typer.BadParameter(f"{text!r} is not a list of years such as 2014-2022 or 2021,2023")
        years += of_stretch
    return years


def parse_setting(text: str, option: str) -> tuple[str, Any]:
    """Return key and value of KEY=VALUE, the value as an experiment's file would hold it.

    Raises:
        ExperimentError: the text has no such form, or its value is not valid YAML.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise ExperimentError(f"{option} {text}: write it as KEY=VALUE")
    return key, parse_value(value, f"{option} {text}", ExperimentError)


def parse_relaxation(text: str) -> RelaxationSettings:
    """Return the relaxation that `{tropics: 8d, elsewhere: 17d}` says. BadParameter where it says none."""
    try:
        return parse_checked(text, "line", RelaxationSettings, "a relaxation", ExperimentError)
    except ExperimentError as error:
        raise typer.BadParameter(str(error)) from None


def need_torch() -> None:
    """Raise ModelFileError where the packages that training needs are not installed."""
    missing = [name for name in ("torch", "lightning", "onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ModelFileError(
            f'{", ".join(missing)} not installed: `make train`, or `pip install -e ".[train]"` in the checkout'
        )
