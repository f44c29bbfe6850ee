"""Graphs of one step and the loop around them, in torch and from a file. The double descends a gradient, with noise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="the extra `train` is not installed: torch is missing")

import torch
from torch import Tensor, nn

from dacycle.assimilators.base import AssimilatorError
from dacycle.assimilators.export.assimilator import write_graph
from dacycle.assimilators.trained.network import TrainedAssimilator, assimilator_metadata
from dacycle.assimilators.trained.stepping import Carried, Stepping
from dacycle.assimilators.training.assimilation import TorchAssimilator
from dacycle.forecast_adapter.grid import get_grid
from dacycle.forecast_adapter.models.onnxfile import write_metadata

GRID = get_grid("5.625deg")
STEPS = 6


class Descent(nn.Module):
    """A variational analysis in a latent space of 8 channels on half the grid: steepest descent from some noise.

    Its step sizes are part of the graph; a strided convolution is part of the gradient.
    """

    mean: Tensor
    static: Tensor
    rates: Tensor
    stepping = Stepping(
        STEPS, (Carried("control", (1, 8, 16, 32), "normal"), Carried("momentum", (1, 8, 16, 32), "zeros"))
    )
    planes = ("olr",)
    inputs = 70

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("mean", torch.zeros(69, 1, 1))
        self.register_buffer("static", torch.zeros(4, *GRID.shape))
        self.register_buffer("rates", 0.2 / (1 + torch.arange(STEPS)))
        self.decoder = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 4 * 69, 3, padding=1))
        self.again = nn.Conv2d(69, 69, 3, stride=2, padding=1)

    def decode(self, control: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(self.decoder(control), 2)

    def cost(self, control: Tensor, departure: Tensor, weight: Tensor) -> Tensor:
        increment = self.decode(control)
        misfit = (weight * (departure - increment).square()).sum()
        return 0.5 * control.square().sum() + misfit + self.again(increment).square().mean()

    def forward(
        self, background: Tensor, values: Tensor, errors: Tensor, step: Tensor, control: Tensor, momentum: Tensor
    ) -> tuple[Tensor, ...]:
        seen = errors[:, :69] > 0
        departure = torch.where(seen, values[:, :69] - background, 0.0)
        down = torch.func.grad(self.cost)(control, departure, seen.float())
        momentum = 0.5 * momentum - self.rates.index_select(0, step) * down
        control = control + 0.01 * momentum
        increment = self.decode(control)
        return background + increment, increment.abs() + 1, control, momentum


@pytest.fixture(scope="module")
def network() -> Any:
    return Descent().requires_grad_(False).eval()


@pytest.fixture(scope="module")
def file(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stepping") / "descent.onnx"
    write_graph(network, path)
    write_metadata(path, metadata())
    return path


def metadata(**more: Any) -> dict[str, Any]:
    more = {"stepping": Descent.stepping.as_dict(), **more}
    return assimilator_metadata("descent", "1", GRID.name, "tiny", ("olr",), "descent", 500, **more)


def inputs(chains: int) -> tuple[NDArray, NDArray, NDArray]:
    generator = np.random.default_rng(0)
    background = generator.standard_normal((chains, 69, *GRID.shape)).astype(np.float32)
    errors = (generator.random((chains, 70, *GRID.shape)) < 0.1).astype(np.float32)
    return background, errors * generator.standard_normal(errors.shape).astype(np.float32), errors


def test_a_file_steps_as_torch_does(network: Any, file: Path) -> None:
    analysis = TrainedAssimilator(file).analyse(*inputs(1))
    expected = TorchAssimilator(network, GRID, "tiny").analyse(*inputs(1))
    assert expected.spread is not None
    np.testing.assert_allclose(analysis.state, expected.state, atol=1e-5)
    np.testing.assert_allclose(analysis.spread, expected.spread, atol=1e-5)
    assert np.abs(analysis.state - inputs(1)[0]).max() > 1e-2


def test_every_step_goes_on_from_the_one_before(network: Any) -> None:
    """The loop is compared with one that is written out, with autograd in place of traced gradients."""
    background, values, errors = (torch.from_numpy(part) for part in inputs(1))
    control, momentum = (torch.from_numpy(part) for part in Descent.stepping.start(background[0].numpy()))
    seen = errors[:, :69] > 0
    for step in range(STEPS):
        control = control.detach().requires_grad_()
        network.cost(control, torch.where(seen, values[:, :69] - background, 0.0), seen.float()).backward()
        momentum = 0.5 * momentum - 0.2 / (1 + step) * control.grad
        control = control.detach() + 0.01 * momentum
    state = TorchAssimilator(network, GRID, "tiny").analyse(*inputs(1)).state
    np.testing.assert_allclose(state, background + network.decode(control), atol=1e-5)


def test_an_analysis_is_the_same_whenever_and_beside_whatever_it_is_made(file: Path) -> None:
    method, (background, values, errors) = TrainedAssimilator(file), inputs(3)
    together, again = (method.analyse(background, values, errors).state for _ in range(2))
    alone = method.analyse(background[1:2], values[1:2], errors[1:2]).state
    assert (together == again).all()
    assert (together[1] == alone[0]).all()


def test_noise_is_the_backgrounds_own(file: Path) -> None:
    background = inputs(1)[0][0]
    noise, zeros = Descent.stepping.start(background)
    assert (noise == Descent.stepping.start(background.copy())[0]).all()
    assert abs(noise.mean()) < 0.05
    assert noise.std() == pytest.approx(1, abs=0.05)
    assert not zeros.any()
    background[5, 3, 3] += 1e-3
    assert np.corrcoef(noise.ravel(), Descent.stepping.start(background)[0].ravel())[0, 1] < 0.1


@pytest.mark.parametrize(
    ("stepping", "message"),
    [
        ({"carried": []}, r"do not say how it steps \('steps'\)"),
        ({"steps": 2, "carried": [{"name": "control", "shape": [1], "initial": "ones"}]}, "initial is 'ones'"),
        ({"steps": 2, "carried": []}, "it has an input 'control'"),
        (
            {"steps": 2, "carried": [{"name": name, "shape": [1, 8, 16, 16]} for name in ("control", "momentum")]},
            r"`control` is .* but must be \[1, 8, 16, 16\]",
        ),
    ],
)
def test_a_file_whose_steps_do_not_fit_its_graph_is_refused(
    file: Path, tmp_path: Path, stepping: dict[str, Any], message: str
) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(file.read_bytes())
    write_metadata(path, metadata(stepping=stepping))
    with pytest.raises(AssimilatorError, match=rf"other\.onnx.*{message}"):
        TrainedAssimilator(path)


def test_a_graph_of_a_step_without_its_metadata_is_refused(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(file.read_bytes())
    about = metadata()
    del about["stepping"]
    write_metadata(path, about)
    with pytest.raises(AssimilatorError, match="it has an input 'step'"):
        TrainedAssimilator(path)
