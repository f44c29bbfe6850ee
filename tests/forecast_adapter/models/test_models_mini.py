"""The network of mini: symmetries of the sphere, and the same numbers from ONNX Runtime as from torch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed: torch is missing")
pytest.importorskip("onnxscript", reason="the extra `train` is not installed: onnxscript is missing")

import torch

from dacycle.assimilators.export.forecast import forecast_parity
from dacycle.assimilators.export.graphs import to_onnx
from dacycle.assimilators.export.rounding import round_to_halves, store_rounded
from dacycle.assimilators.networks.weights import stored_tensors
from dacycle.forecast_adapter.channels import CHANNELS, GROUPS
from dacycle.forecast_adapter.models.mini import (
    CARRIED,
    FILTER_SPARE,
    MiniConstants,
    MiniNetwork,
    MiniSize,
    pad_sphere,
    polar_filter,
    static_planes,
)
from dacycle.forecast_adapter.models.model import OnnxForecastModel, forecast_metadata
from dacycle.forecast_adapter.models.onnxfile import write_metadata
from dacycle.forecast_adapter.physics import EARTH_RADIUS_KM
from tests.worlds import GRID, profile

SIZE = MiniSize(fine=8, coarse=16, depth=2)
JOINED = MiniSize(fine=8, coarse=16, depth=2, joined=8, squared=1, advection=1)


def network(
    orography: float = 500.0,
    seed: int = 0,
    relaxation: Any = 0.0125,
    size: MiniSize = SIZE,
    ceiling: Any = None,
) -> MiniNetwork:
    """Return a small network with random weights; with `orography` 0 all longitudes are equivalent."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    mean, std = profile()
    land = rng.random(GRID.shape) if orography else np.zeros(GRID.shape)
    static = static_planes(GRID.latitude, orography * rng.random(GRID.shape), land)
    floor = np.where([c.variable == "q" for c in CHANNELS], 0, -np.inf).astype(np.float32)
    # A climate that is the same everywhere, and a season that lengthens with the temperature of the top levels.
    climate = np.zeros((5, 69, *GRID.shape), np.float32)
    climate[1:] = 0.1
    season = np.zeros((2, 13 * GRID.shape[0] + 1), np.float32)
    season[0, :40], season[1, 40:80] = 1, 1
    constants = MiniConstants(mean, std, 0.2 * std, floor, static, climate, season, relaxation, ceiling=ceiling)
    return MiniNetwork(constants, size).eval()


def states(batch: int, seed: int = 1) -> torch.Tensor:
    """Return plausible and rough input (B, 138, H, W)."""
    mean, std = profile()
    noise = np.random.default_rng(seed).standard_normal((batch, 138, *GRID.shape))
    column = (np.tile(mean, 2)[:, None, None], np.tile(std, 2)[:, None, None])
    return torch.from_numpy((column[0] + column[1] * noise).astype(np.float32))


def test_the_field_goes_on_around_the_globe_and_across_the_pole() -> None:
    field = torch.arange(8 * 16.0).reshape(1, 1, 8, 16)
    padded = pad_sphere(field, 3)[0, 0]
    assert padded.shape == (14, 22)
    torch.testing.assert_close(padded[3:11, :3], field[0, 0, :, -3:])
    torch.testing.assert_close(padded[3:11, -3:], field[0, 0, :, :3])
    # One row beyond the pole is the first row on the opposite meridian.
    torch.testing.assert_close(padded[2, 3:19], field[0, 0, 0].roll(8))
    torch.testing.assert_close(padded[11, 3:19], field[0, 0, -1].roll(8))
    torch.testing.assert_close(padded[0, 3:19], field[0, 0, 2].roll(8))


@pytest.mark.parametrize("size", [SIZE, JOINED])
def test_a_globe_without_land_may_be_turned(size: MiniSize) -> None:
    """Forecasting and turning by an even number of columns commute (the coarse grid has half as many)."""
    net, x = network(orography=0.0, size=size), states(1)
    with torch.no_grad():
        turned = net(x.roll(10, dims=-1))[:, :69]
        expected = net(x)[:, :69].roll(10, dims=-1)
    scale = net.step_std
    torch.testing.assert_close(turned / scale, expected / scale, atol=2e-3, rtol=0)


def test_orography_tells_longitudes_apart() -> None:
    net, x = network(), states(1)
    with torch.no_grad():
        difference = (net(x.roll(10, dims=-1))[:, :69] - net(x)[:, :69].roll(10, dims=-1)) / net.step_std
    assert difference.abs().max() > 0.02


def test_humidity_is_never_negative_and_the_undefined_channels_are_nan() -> None:
    net, x = network(), states(2)
    humidity = [i for i, c in enumerate(CHANNELS) if c.variable == "q"]
    x[:, [69 + i for i in humidity]] = 0
    with torch.no_grad():
        output = net(x)
    # From dry air about half of the increments are negative.
    assert output[:, humidity].min() == 0
    assert output[:, humidity].max() > 0
    assert output[:, 69:].isnan().all()
    assert output[:, :69].isfinite().all()


def test_humidity_is_never_above_the_ceiling_and_other_channels_have_none() -> None:
    mean, std = profile()
    humid = np.array([c.variable == "q" for c in CHANNELS])
    ceiling = np.where(humid, mean + 0.5 * std, np.inf).astype(np.float32)
    free, bounded, x = network(), network(ceiling=ceiling), states(2)
    with torch.no_grad():
        expected, found = free(x)[:, :69].numpy(), bounded(x)[:, :69].numpy()
    np.testing.assert_array_equal(found, np.minimum(expected, ceiling[:, None, None]))
    assert (found < expected).any()


def test_a_grid_that_cannot_be_halved_is_refused() -> None:
    mean, std = profile()
    static, climate = np.zeros((4, 121, 240), np.float32), np.zeros((5, 69, 121, 240), np.float32)
    constants = MiniConstants(mean, std, std, 0 * std, static, climate, np.zeros((2, 13 * 121 + 1), np.float32), 0.0)
    with pytest.raises(ValueError, match="121x240"):
        MiniNetwork(constants, SIZE)


def test_the_wind_brings_what_lies_upstream() -> None:
    """A wave along a parallel or a meridian, in winds of 10 m/s; nothing is brought from outside the field's range."""
    net = network(size=JOINED)
    latitude, longitude = np.deg2rad(GRID.latitude)[:, None], np.deg2rad(GRID.longitude)
    t500, angle = GROUPS["t"][7], 10 * 21600 / (1000 * EARTH_RADIUS_KM)
    for wind, (field, expected) in {
        "u": (np.cos(2 * longitude), np.cos(2 * (longitude - angle / np.cos(latitude)))),
        "v": (np.sin(2 * latitude), np.sin(2 * (latitude - angle))),
    }.items():
        for speed in (10.0, 300.0):
            x = torch.zeros(1, 69, *GRID.shape)
            for w in "uv":
                x[:, GROUPS[w]] = ((speed if w == wind else 0.0) - net.mean[GROUPS[w]]) / net.std[GROUPS[w]]
            x[0, t500] = torch.from_numpy(field + 0 * latitude)
            change = net._brought(x)[0, t500 - CARRIED.start] * net.step_std[t500] / net.std[t500]
            brought = (x[0, t500] + change).numpy()
            assert np.abs(brought).max() < 1.0001
            if speed == 10:
                np.testing.assert_allclose(brought[4:-4], (expected + 0 * longitude)[4:-4], atol=0.01)


def test_wind_over_a_pole_keeps_its_direction() -> None:
    """A wind straight over the pole is northward on one side and southward on the other: it brings itself."""
    net, v500 = network(size=JOINED), GROUPS["v"][7]
    x = -net.mean / net.std + torch.zeros(1, 69, *GRID.shape)
    x[:, v500] += 10 / net.std[v500] * torch.from_numpy(np.cos(np.deg2rad(GRID.longitude))).float()
    for wind in (v500, GROUPS["u"][7]):  # there is no wind along the parallels, on either side
        assert net._brought(x)[0, wind - CARRIED.start, [0, -1]].abs().max() < 1e-3


def test_the_polar_filter_keeps_the_long_waves_of_a_row() -> None:
    cosine, longitude = np.cos(np.deg2rad(GRID.latitude)), np.deg2rad(GRID.longitude)
    matrices = polar_filter(torch.from_numpy(cosine.astype(np.float32)), 64).numpy()
    for wave in (0, 1, 8, 20, 32):
        field = np.cos(wave * longitude)
        kept = (field @ matrices)[:, 0]
        np.testing.assert_allclose(kept, wave <= 32 * cosine + FILTER_SPARE, atol=1e-4, err_msg=str(wave))


def test_a_step_is_drawn_towards_the_climate_of_the_season_that_the_state_shows() -> None:
    """Each step removes its fraction of the departure, by channel, whatever else the network does."""
    x, share = states(1), torch.linspace(0, 0.25, 69)[:, None, None]
    with torch.no_grad():
        free, drawn = (network(relaxation=r).step(x[:, :69], x[:, 69:]) for r in (0.0, share.flatten().numpy()))
    net = network()
    zonal = ((x[:, 69:] - net.mean) / net.std)[0, -13:].mean(-1).flatten().numpy()
    angle = np.arctan2(zonal[40:80].sum(), zonal[:40].sum())
    usual = 0.1 * (np.cos(angle) + np.sin(angle) + np.cos(2 * angle) + np.sin(2 * angle))
    dry = [c.variable != "q" for c in CHANNELS]
    expected = free + share * (net.mean + float(usual) * net.std - free)
    torch.testing.assert_close((drawn / net.std)[:, dry], (expected / net.std)[:, dry], atol=1e-3, rtol=0)


def test_onnx_runtime_gives_what_torch_gives(tmp_path: Path) -> None:
    """The comparison covers one step for batches of 1 and 3, and a rollout of twelve steps."""
    net, path = network(size=JOINED), tmp_path / "small.onnx"
    to_onnx(net, path, {"input": 138}, ["output"])
    for batch in (1, 3):
        # One unit in the last place of z50 is 6e-5 standard deviations of this world.
        assert forecast_parity(net, path, states(batch).numpy()).max() < 1e-4
    write_metadata(path, forecast_metadata("small", "1", GRID.name, "tiny"))
    x = states(1)
    previous, current = x[:, :69], x[:, 69:]
    rolled = list(OnnxForecastModel(path).forecast(previous.numpy(), current.numpy(), 12))
    with torch.no_grad():
        for state in rolled:
            previous, current = current, net.step(previous, current)
            difference = (torch.from_numpy(state) - current).abs().amax((0, 2, 3)) / net.std[:, 0, 0]
            assert difference.max() < 1e-3


def test_a_file_in_half_precision_gives_what_torch_gives(tmp_path: Path) -> None:
    net = network(size=MiniSize(fine=16, coarse=64, depth=2, joined=16, squared=1, advection=1))
    with torch.no_grad():
        for weights in net.parameters():  # of fresh weights, tensors that are equal are stored once
            weights.add_(0.01 * torch.randn_like(weights))
    round_to_halves(net)
    plain, path = tmp_path / "plain.onnx", tmp_path / "small.onnx"
    for file in (plain, path):
        to_onnx(net, file, {"input": 138}, ["output"])
    store_rounded(path)
    assert path.stat().st_size < 0.65 * plain.stat().st_size
    assert forecast_parity(net, path, states(3).numpy()).max() < 1e-4
    stored = stored_tensors(path)  # what a further training begins with
    for name, weights in net.named_parameters():
        np.testing.assert_array_equal(stored[name], weights.detach().numpy(), err_msg=name)


@pytest.mark.parametrize("wrong", [{"joined": 0}, {"joined": 3}, {"squared": 2}, {"advection": -1}])
def test_a_size_that_is_none_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MiniSize(fine=8, coarse=16, depth=2, **wrong)
