"""Half precision: convert a network to float16, and compare its forecasts with those in float32.

Only networks of normalised frames can be converted: a geopotential of 200 000 m2/s2 exceeds float16's range. Tensors
stay float32, and so do normalisation and everything outside the network.
"""

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dacycle.common.foreign import reading
from dacycle.forecast_adapter.channels import CHANNEL_COUNT, CHANNELS, NAMES
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.models.model import OnnxForecastModel, model_files
from dacycle.forecast_adapter.models.onnxfile import ModelFileError
from dacycle.forecast_adapter.models.registry import Registration, add, registered
from dacycle.forecast_adapter.states.files import read_state
from dacycle.forecast_adapter.statistics import Statistics

__all__ = ["add_half", "artificial_state"]

Differences = dict[int, tuple[float, str, float]]


def add_half(name: str, steps: int, state: Path | None = None) -> tuple[Registration, Differences]:
    """Convert an added network to half precision, add it as NAME-fp16, and compare their forecasts.

    Args:
        name: name of an added network.
        steps: length of the forecast in steps.
        state: a file with a state, from which both frames are taken; None: a smooth artificial state.

    Returns:
        The new network; and by step the rms difference over all channels, the channel that differs most, and the rms
        difference of that channel, in standard deviations, weighted by area.

    Raises:
        ModelFileError: no such network was added, it cannot be converted, or the package `onnx` is not installed.
    """
    if name in model_files():
        raise ModelFileError(f"{name} takes states in SI, and half precision ends at 65 504: no geopotential fits in")
    full = registered(name)
    try:
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError as error:
        raise ModelFileError(
            'half precision needs the package onnx: `make train`, or `pip install -e ".[train]"`'
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        with reading(f"{full.network}, to be converted to half precision", ModelFileError):
            converted = convert_float_to_float16(onnx.load(str(full.network)), keep_io_types=True)
            onnx.save(converted, str(path), save_as_external_data=full.size > 1 << 31, location="network.onnx.data")
        half = add(f"{name}-fp16", path, full.statistics, world=full.world, grid=full.grid, copy=True)
    return half, _compare(full, half, steps, state)


def _compare(full: Registration, half: Registration, steps: int, state: Path | None) -> Differences:
    """Return the differences of two networks' forecasts, see `add_half`."""
    models = [OnnxForecastModel(full), OnnxForecastModel(half)]
    grid = models[0].grid
    start = artificial_state(grid, full.statistics) if state is None else read_state(state, grid).values
    forecasts = (model.forecast(start[None], start[None], steps) for model in models)
    differences: Differences = {}
    for step, (one, other) in enumerate(zip(*forecasts, strict=True), 1):
        if step not in (1, steps) and step % 4:
            continue
        difference = (np.sqrt((((a - b) ** 2) * grid.weights).mean()) for a, b in zip(one[0], other[0], strict=True))
        by_channel = np.fromiter(difference, float) / full.statistics.std
        worst = int(by_channel.argmax())
        differences[step] = (float(np.sqrt((by_channel**2).mean())), NAMES[worst], float(by_channel[worst]))
    return differences


def artificial_state(grid: Grid, statistics: Statistics) -> NDArray[np.float32]:
    """Return a smooth state (69, H, W): planetary waves, others for each channel, of one standard deviation."""
    latitude, longitude = np.deg2rad(grid.latitude)[:, None], np.deg2rad(grid.longitude)[None, :]
    state = np.empty((CHANNEL_COUNT, *grid.shape), np.float32)
    for k, channel in enumerate(CHANNELS):
        wave = np.cos(latitude) * np.sin((1 + k % 7) * longitude + k) + 0.3 * np.sin(3 * latitude + k)
        state[k] = np.clip(statistics.mean[k] + statistics.std[k] * wave, channel.low, channel.high)
    return state
