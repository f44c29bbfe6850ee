"""Half precision: the same network computing in float16, and how far its forecasts go apart from float32's.

Only networks of normalised frames can be converted: a geopotential of 200 000 m2/s2 is no half. Tensors stay float32,
and so do normalisation and everything outside the network.
"""

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import CHANNEL_COUNT, CHANNELS, NAMES
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.models.model import OnnxForecastModel, model_files
from dacycle.forecast_adapter.models.onnxfile import ModelFileError
from dacycle.forecast_adapter.models.registry import Registration, add, registered
from dacycle.forecast_adapter.states.files import read_state
from dacycle.forecast_adapter.statistics import Statistics

__all__ = ["add_half", "made_up"]

Apart = dict[int, tuple[float, str, float]]


def add_half(name: str, steps: int, state: Path | None = None) -> tuple[Registration, Apart]:
    """Convert an added network to half precision, add it as NAME-fp16, and compare their forecasts.

    Args:
        name: of an added network.
        steps: length of the forecast.
        state: a file with a state to start from, both frames alike; None: a smooth one is made up.

    Returns:
        The new network, and by step the rms difference over all channels, the channel that differs most, and its rms
        difference; in standard deviations, weighted by area.

    Raises:
        ModelFileError: no such network was added, it cannot be converted, or the package `onnx` is not there.
    """
    if name in model_files():
        raise ModelFileError(f"{name} takes states in SI, and half precision ends at 65 504: no geopotential fits in")
    whole = registered(name)
    try:
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError as error:
        raise ModelFileError('half precision needs the package onnx: pip install "dacycle[train]"') from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        try:
            converted = convert_float_to_float16(onnx.load(str(whole.network)), keep_io_types=True)
            onnx.save(converted, str(path), save_as_external_data=whole.size > 1 << 31, location="network.onnx.data")
        except (ValueError, RuntimeError, KeyError) as error:
            raise ModelFileError(f"{whole.network}: cannot be converted to half precision: {error}") from error
        made = add(f"{name}-fp16", path, whole.statistics, world=whole.world, grid=whole.grid, copy=True)
    return made, _compare(whole, made, steps, state)


def _compare(whole: Registration, made: Registration, steps: int, state: Path | None) -> Apart:
    models = [OnnxForecastModel(whole), OnnxForecastModel(made)]
    grid = models[0].grid
    start = made_up(grid, whole.statistics) if state is None else read_state(state, grid).values
    forecasts = (model.forecast(start[None], start[None], steps) for model in models)
    apart: Apart = {}
    for step, (one, other) in enumerate(zip(*forecasts, strict=True), 1):
        if step not in (1, steps) and step % 4:
            continue
        difference = (np.sqrt((((a - b) ** 2) * grid.weights).mean()) for a, b in zip(one[0], other[0], strict=True))
        by_channel = np.fromiter(difference, float) / whole.statistics.std
        worst = int(by_channel.argmax())
        apart[step] = (float(np.sqrt((by_channel**2).mean())), NAMES[worst], float(by_channel[worst]))
    return apart


def made_up(grid: Grid, statistics: Statistics) -> NDArray[np.float32]:
    """A smooth state (69, H, W): planetary waves of each channel's own, one standard deviation high."""
    latitude, longitude = np.deg2rad(grid.latitude)[:, None], np.deg2rad(grid.longitude)[None, :]
    state = np.empty((CHANNEL_COUNT, *grid.shape), np.float32)
    for k, channel in enumerate(CHANNELS):
        wave = np.cos(latitude) * np.sin((1 + k % 7) * longitude + k) + 0.3 * np.sin(3 * latitude + k)
        state[k] = np.clip(statistics.mean[k] + statistics.std[k] * wave, channel.low, channel.high)
    return state
